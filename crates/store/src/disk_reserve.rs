//! Disk reserve: free space on the disk of a SQLite database, reserved for the outcomes of running operations.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pilothouse_core::{Cause, Error, Result, operation::CapacityFor};
use rustix::fs::statvfs;

use crate::{db::Database, error::RETRY_AFTER};

/// The size of the reserve and the directory to check. A clone shares the state.
#[derive(Clone, Default)]
pub(crate) struct DiskReserve {
    reserve: Option<(PathBuf, u64)>,
    /// Result of the last check, for authenticated callers and for anonymous ones, so that only changes are logged.
    low: Arc<[AtomicBool; 2]>,
}

impl DiskReserve {
    pub(crate) fn of(database: &Database, bytes: u64) -> Self {
        let reserve = match database {
            Database::Sqlite(path) if bytes > 0 => Some((directory_of(path), bytes)),
            Database::Sqlite(_) | Database::Postgres(_) => None,
        };
        Self { reserve, low: Arc::default() }
    }

    /// Checks that the reserve is free. Anonymous callers need twice the reserve, so that authenticated changes
    /// continue after anonymous requests have filled their share. If the file system cannot be queried, the check
    /// passes.
    ///
    /// # Errors
    /// `AuditUnavailable` when the reserve is not free.
    pub(crate) fn check(&self, capacity: CapacityFor) -> Result<()> {
        let Some((directory, reserve)) = &self.reserve else { return Ok(()) };
        let [authenticated, anonymous] = &*self.low;
        let (required, what, low) = match capacity {
            CapacityFor::Authenticated => (*reserve, "changes", authenticated),
            CapacityFor::Anonymous => (reserve.saturating_mul(2), "logins", anonymous),
        };
        let free = statvfs(directory).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let is_low = free < required;
        if low.swap(is_low, Ordering::Relaxed) != is_low {
            let (free_mib, required_mib) = (free >> 20, required >> 20);
            if is_low {
                tracing::error!(free_mib, required_mib, "too little free disk space: {what} are refused");
            } else {
                tracing::info!(free_mib, required_mib, "enough free disk space again: {what} are accepted");
            }
        }
        if is_low { Err(Error::new(Cause::AuditUnavailable).retry_after(RETRY_AFTER)) } else { Ok(()) }
    }
}

/// The directory of a file; the current directory for a bare name.
fn directory_of(path: &Path) -> PathBuf {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
