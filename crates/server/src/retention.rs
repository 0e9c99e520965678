//! Removing what is old of the audit trail: by a command, or every hour where a setting says how old. It is in a folder, or
//! with the webhook, before it goes.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Caller,
    audit::{Archive, Audit, Export, Part, Retained},
};
use pilothouse_store::Store;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{Fatal, audit::of_export, durable::sync_folder_of, webhook::RECEIVER};

/// How often to look for what is old enough, unless it is old enough sooner.
const PERIOD: Duration = Duration::from_secs(3600);
/// And never more often than this.
const SHORTEST: Duration = Duration::from_secs(1);

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
    pub(crate) async fn prune(&self, caller: &Caller, what: Old) -> Result<u64> {
        let folder = self.folder.clone().map(|path| ArchiveDir { path });
        let told = if self.webhook {
            let told = self.store.cursor(RECEIVER).await?;
            // the checkpoint that the rest will hang on must be there, too
            Some(told.checkpoint)
        } else {
            None
        };
        let kept = match (&folder, told) {
            (Some(folder), None) => Retained::Archived(folder),
            (None, Some(told)) => Retained::Delivered(told),
            (Some(folder), Some(told)) => Retained::ArchivedAndDelivered(folder, told),
            (None, None) => return Err(Error::internal("no archive is configured, so no entry is removed")),
        };
        match what {
            Old::Before(time) => self.audit.prune(caller, time, kept).await,
            Old::OlderThan(age) => self.audit.prune_older(caller, age, kept).await,
        }
    }

    /// Removes what is older than `age` every hour, until `stop`.
    pub(crate) async fn run(self, age: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD.min(age).max(SHORTEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            match self.prune(&Caller::system(), Old::OlderThan(age)).await {
                Ok(removed) => {
                    told = None;
                    if removed > 0 {
                        tracing::info!(removed, "removed old entries of the audit trail");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::error!(error, "cannot remove old entries of the audit trail");
                    }
                    told = Some(error);
                }
            }
        }
    }
}

/// What is removed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Old {
    /// What was signed before this time.
    Before(Timestamp),
    /// What is older than this.
    OlderThan(Duration),
}

/// A folder of exports, each of a part of the trail, one after the other.
struct ArchiveDir {
    path: PathBuf,
}

/// How many files of the name of one part are looked at.
const NAMES: u32 = 100;

#[async_trait]
impl Archive for ArchiveDir {
    async fn keep(&self, part: &Part, export: Export) -> Result<()> {
        let (first, last) = (part.first, part.checkpoint.sequence);
        for n in 1..=NAMES {
            let name = match n {
                1 => format!("audit-{first:012}-{last:012}.jsonl"),
                n => format!("audit-{first:012}-{last:012}-{n}.jsonl"),
            };
            let path = self.path.join(name);
            let unusable =
                |error: &dyn std::fmt::Display| Error::internal(format!("{}: {error}", path.display()));
            if !path.exists() {
                write(&path, export).await?.map_err(|error| unusable(&error))?;
                return match holds(path.clone(), part.clone()).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(unusable(
                        &"it is not a complete export of these entries, so they are not removed",
                    )),
                    Err(error) => Err(unusable(&error)),
                };
            }
            // one of this name is of a removal that did not come to its end, or of another trail or history
            if holds(path.clone(), part.clone()).await.map_err(|error| unusable(&error))? {
                return Ok(());
            }
        }
        Err(Error::internal(format!("{}: too many files of entries {first} to {last}", self.path.display())))
    }
}

/// Whether a file is an export of this part, signed by a key of the trail.
async fn holds(path: PathBuf, part: Part) -> Result<bool, Fatal> {
    let look = move || {
        for key in &part.keys {
            if part.is_held_by(&of_export(&path, *key)?) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Error::internal(error.to_string()))?
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
