//! Removing what is old of the audit trail: by a command, or every hour where a setting says how old. It is in a folder, or
//! with the webhook, before it goes.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Caller,
    audit::{Archive, Audit, Export, Kept, PublicKey},
    clock::Clock,
};
use pilothouse_store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{audit::of_export, durable::sync_folder_of, webhook::RECEIVER};

/// How often to look for what is old enough.
const PERIOD: Duration = Duration::from_secs(3600);

/// What is removed, and where it is kept before.
pub(crate) struct Retention {
    pub(crate) audit: Audit,
    pub(crate) store: Store,
    pub(crate) folder: Option<PathBuf>,
    /// Whether there is a webhook: then nothing goes that it has not taken.
    pub(crate) webhook: bool,
}

impl Retention {
    /// Removes all that may be; how many entries went.
    ///
    /// # Errors
    /// As [`Audit::prune`]; `Internal` where nothing is kept elsewhere.
    pub(crate) async fn prune(&self, caller: &Caller, before: Timestamp) -> Result<u64> {
        let key = self.audit.public_key();
        let folder = self.folder.clone().map(|path| Folder { path, key });
        let told = if self.webhook {
            let told = self.store.told(RECEIVER).await?;
            // the checkpoint that the rest will hang on must be there, too
            Some(told.checkpoint)
        } else {
            None
        };
        let kept = match (&folder, told) {
            (Some(folder), None) => Kept::In(folder),
            (None, Some(told)) => Kept::By(told),
            (Some(folder), Some(told)) => Kept::InAndBy(folder, told),
            (None, None) => return Err(Error::internal("nothing is kept elsewhere, so nothing is removed")),
        };
        self.audit.prune(caller, before, kept).await
    }

    /// Removes what is older than `age` every hour, until `stop`.
    pub(crate) async fn run(self, age: Duration, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            match self.prune(&Caller::system(), clock.now() - age).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "old entries of the audit trail were removed"),
                Err(error) => tracing::error!(%error, "old entries of the audit trail cannot be removed"),
            }
        }
    }
}

/// A folder of exports, each of a part of the trail, one after the other.
struct Folder {
    path: PathBuf,
    key: PublicKey,
}

#[async_trait]
impl Archive for Folder {
    async fn keep(&self, first: i64, last: i64, export: Export) -> Result<()> {
        let path = self.path.join(format!("audit-{first:012}-{last:012}.jsonl"));
        let unusable =
            |error: &dyn std::fmt::Display| Error::internal(format!("{}: {error}", path.display()));
        // one of this name is of a removal that did not come to its end, or another's
        if !path.exists() {
            write(&path, export).await?.map_err(|error| unusable(&error))?;
        }
        let (read, key) = (path.clone(), self.key);
        let verdict = tokio::task::spawn_blocking(move || of_export(&read, key)).await;
        let verdict = verdict.map_err(|error| unusable(&error))?.map_err(|error| unusable(&error))?;
        let whole =
            verdict.valid && verdict.head.sequence == last && verdict.entries == first.abs_diff(last) + 1;
        if whole { Ok(()) } else { Err(unusable(&"it is no whole export of these entries, so they stay")) }
    }
}

/// Writes a new file; durable, and under its name only once it is whole.
async fn write(path: &Path, mut export: Export) -> Result<io::Result<()>> {
    let beside = path.with_added_extension("part");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let mut file = match file {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    while let Some(lines) = export.next().await? {
        if let Err(error) = file.write_all(lines.as_bytes()) {
            return Ok(Err(error));
        }
    }
    let kept = file.sync_all().and_then(|()| fs::rename(&beside, path)).and_then(|()| sync_folder_of(path));
    Ok(kept)
}
