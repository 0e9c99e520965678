//! What is kept free on the disk of a SQLite database, for the outcomes of operations that are under way.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pilothouse_core::{Cause, Error, Result, audit::CapacityFor};
use rustix::fs::statvfs;

use crate::{db::Database, error::RETRY_AFTER};

/// How much is kept free, and where. A clone is the same reserve.
#[derive(Clone, Default)]
pub(crate) struct DiskReserve {
    kept: Option<(PathBuf, u64)>,
    /// Whether it was touched for members and for strangers when it was looked at last: the log says so once.
    touched: Arc<[AtomicBool; 2]>,
}

impl DiskReserve {
    pub(crate) fn of(database: &Database, bytes: u64) -> Self {
        let kept = match database {
            Database::Sqlite(path) if bytes > 0 => Some((folder_of(path), bytes)),
            Database::Sqlite(_) | Database::Postgres(_) => None,
        };
        Self { kept, touched: Arc::default() }
    }

    /// Whether all of it is free; for strangers twice of it, so that changes go on when they have filled what they may. A
    /// disk that cannot be asked is one that can be tried.
    ///
    /// # Errors
    /// `AuditUnavailable` when it is not.
    pub(crate) fn check(&self, whose: CapacityFor) -> Result<()> {
        let Some((folder, kept)) = &self.kept else { return Ok(()) };
        let [members, strangers] = &*self.touched;
        let (kept, what, touched) = match whose {
            CapacityFor::Authenticated => (*kept, "changes", members),
            CapacityFor::Anonymous => (kept.saturating_mul(2), "logins", strangers),
        };
        let free = statvfs(folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let short = free < kept;
        if touched.swap(short, Ordering::Relaxed) != short {
            let (free_mib, kept_mib) = (free >> 20, kept >> 20);
            if short {
                tracing::error!(free_mib, kept_mib, "too little free disk space: {what} are refused");
            } else {
                tracing::info!(free_mib, kept_mib, "enough free disk space again: {what} are accepted");
            }
        }
        if short { Err(Error::new(Cause::AuditUnavailable).retry_after(RETRY_AFTER)) } else { Ok(()) }
    }
}

/// The folder of a file; of a bare name the current one.
fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
