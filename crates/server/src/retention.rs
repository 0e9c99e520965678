//! Retention of the audit trail: removes old entries by command, or every hour when `audit_retention` is set. Entries
//! are archived in a directory or delivered to the webhook before they are removed.

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
    audit::{Archive, Audit, Export, Part, Retained},
    coordinator::Coordinator,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{Fatal, durable::sync_directory_of, export_file::verify_export_file, webhook::RECEIVER};

/// Interval of pruning, unless the retention period is shorter.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Lower bound of the interval of pruning.
const MIN_PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// The retention task: the trail, and the archive or webhook that receives entries before they are removed.
pub(crate) struct Retention {
    pub(crate) audit: Audit,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) directory: Option<PathBuf>,
    /// Whether a webhook is configured. If so, only entries that it has accepted are removed.
    pub(crate) webhook: bool,
}

impl Retention {
    /// Removes all entries that may be removed. Returns their number.
    ///
    /// # Errors
    /// As [`Audit::prune`]; `Internal` when neither a directory nor a webhook is configured.
    pub(crate) async fn prune(&self, caller: &Caller, cutoff: Cutoff) -> Result<u64> {
        let directory = self.directory.clone().map(|path| ArchiveDir { path });
        let delivered = if self.webhook {
            let cursor = self.coordinator.cursor(RECEIVER).await?;
            // the checkpoint that the remaining trail starts after must be delivered too
            Some(cursor.checkpoint)
        } else {
            None
        };
        let retained = match (&directory, delivered) {
            (Some(directory), None) => Retained::Archived(directory),
            (None, Some(delivered)) => Retained::Delivered(delivered),
            (Some(directory), Some(delivered)) => Retained::ArchivedAndDelivered(directory, delivered),
            (None, None) => return Err(Error::internal("no archive is configured, so no entry is removed")),
        };
        match cutoff {
            Cutoff::Before(time) => self.audit.prune(caller, time, retained).await,
            Cutoff::OlderThan(age) => self.audit.prune_older(caller, age, retained).await,
        }
    }

    /// Removes entries older than `age` every hour, until `stop`. Logs an error again only when it differs from the
    /// last.
    pub(crate) async fn run(self, age: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(prune_interval(age));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_error = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            match self.prune(&Caller::system(), Cutoff::OlderThan(age)).await {
                Ok(removed) => {
                    last_error = None;
                    if removed > 0 {
                        tracing::info!(removed, "removed old entries of the audit trail");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if last_error.as_ref() != Some(&error) {
                        tracing::error!(error, "cannot remove old entries of the audit trail");
                    }
                    last_error = Some(error);
                }
            }
        }
    }
}

/// Interval of pruning for this retention period.
fn prune_interval(age: Duration) -> Duration {
    PRUNE_INTERVAL.min(age).max(MIN_PRUNE_INTERVAL)
}

/// Selection of the entries to remove.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cutoff {
    /// Entries signed before this time.
    Before(Timestamp),
    /// Entries older than this age.
    OlderThan(Duration),
}

/// Archive directory: one export file per removed part of the trail.
struct ArchiveDir {
    path: PathBuf,
}

/// Limit of file names tried for one part of the trail.
const MAX_NAMES_PER_PART: u32 = 100;

#[async_trait]
impl Archive for ArchiveDir {
    async fn store(&self, part: &Part, export: Export) -> Result<()> {
        let (first, last) = (part.first, part.checkpoint.sequence);
        for n in 1..=MAX_NAMES_PER_PART {
            let name = match n {
                1 => format!("audit-{first:012}-{last:012}.jsonl"),
                n => format!("audit-{first:012}-{last:012}-{n}.jsonl"),
            };
            let path = self.path.join(name);
            let unusable = |error: &dyn std::fmt::Display| {
                Error::internal(format!(
                    "cannot use the archive {} ({error}): check the path and its permissions",
                    path.display()
                ))
            };
            if !path.exists() {
                write(&path, export).await?.map_err(|error| unusable(&error))?;
                return match contains_part(path.clone(), part.clone()).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(unusable(
                        &"it is not a complete export of the entries, which are therefore not removed",
                    )),
                    Err(error) => Err(unusable(&error)),
                };
            }
            // a file of an interrupted removal is reused; a file of another trail or history is kept, under its name
            if contains_part(path.clone(), part.clone()).await.map_err(|error| unusable(&error))? {
                return Ok(());
            }
        }
        let path = self.path.display();
        Err(Error::internal(format!(
            "the archive {path} has too many files of entries {first} to {last}: move some away"
        )))
    }
}

/// Whether the file is an export of this part, signed by a key of the trail.
async fn contains_part(path: PathBuf, part: Part) -> Result<bool, Fatal> {
    let verify = move || {
        for key in &part.keys {
            if part.matches(&verify_export_file(&path, *key)?) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let result = tokio::task::spawn_blocking(verify).await;
    result.map_err(|error| Error::internal(error.to_string()))?
}

/// Writes a new file durably. The file gets its final name only when it is complete.
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
    let written =
        file.sync_all().and_then(|()| fs::rename(&beside, path)).and_then(|()| sync_directory_of(path));
    Ok(written)
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{
        Cause,
        access::{AccessRequest, Resource, Verb},
        app::{App, AppSettings},
        audit::{Checkpoint, Cursor, TrailReader},
        clock::Clock as _,
        operation::{AuditWriter as _, Outcome},
        testing::{
            fake::{Fake, MemoryCoordinator},
            permit,
        },
    };

    use super::*;

    struct Fixture {
        fake: Fake,
        app: App,
        coordinator: Arc<MemoryCoordinator>,
        /// Time of the first operation.
        begin: Timestamp,
    }

    impl Fixture {
        /// Twenty operations, one a minute, each with its checkpoint.
        async fn new() -> Self {
            let fake = Fake::default();
            let app = App::new(fake.ports(), AppSettings::default());
            let coordinator = Arc::new(MemoryCoordinator::of(fake.store.clone()));
            let begin = fake.runtime.clock.now();
            for _ in 0..20 {
                let access = AccessRequest::to(Verb::Login, Resource::Session);
                let mut operation = permit(&Caller::system(), access).operation().unwrap().clone();
                operation.created_at = fake.runtime.clock.now();
                let outcome = Outcome::success(operation.created_at);
                fake.store.record(&operation, &outcome).await.unwrap();
                fake.runtime.clock.advance(Checkpoint::AGE);
            }
            app.audit.update_checkpoints(Checkpoint::AGE).await.unwrap();
            Self { fake, app, coordinator, begin }
        }

        fn retention(&self, webhook: bool) -> Retention {
            let (audit, coordinator) = (self.app.audit.clone(), self.coordinator.clone());
            Retention { audit, coordinator, directory: None, webhook }
        }

        /// Prunes like `pilothouse audit prune --before` the time `minutes` after the first operation.
        async fn prune(&self, minutes: u32) -> Result<u64> {
            let cutoff = Cutoff::Before(self.begin + minutes * Checkpoint::AGE);
            self.retention(true).prune(&Caller::command_line("ann"), cutoff).await
        }

        async fn first_entry(&self) -> i64 {
            TrailReader::entries(&*self.fake.store, 0, 1).await.unwrap()[0].sequence
        }
    }

    #[tokio::test]
    async fn no_entry_is_removed_without_an_archive_or_a_webhook() {
        let fixture = Fixture::new().await;
        let cutoff = Cutoff::OlderThan(Duration::from_secs(1));
        let refused = fixture.retention(false).prune(&Caller::system(), cutoff).await;
        assert_eq!(refused.unwrap_err().cause, Cause::Internal);
        assert_eq!(fixture.first_entry().await, 1);
    }

    #[tokio::test]
    async fn only_old_entries_whose_checkpoint_was_delivered_are_removed() {
        let fixture = Fixture::new().await;
        assert_eq!(fixture.prune(100).await, Ok(0), "nothing was delivered");
        fixture.coordinator.claim_delivery(RECEIVER, fixture.fake.runtime.clock.now()).await.unwrap();
        // entries up to 9 were delivered, but the checkpoint of entry 5 is the last one
        let cursor = Cursor { sequence: 9, checkpoint: 5 };
        assert!(fixture.coordinator.save_cursor(RECEIVER, cursor).await.unwrap());
        assert_eq!(fixture.prune(3).await, Ok(3), "the other entries are not old");
        assert_eq!(fixture.first_entry().await, 4);
        assert_eq!(fixture.prune(100).await, Ok(2));
        assert_eq!(fixture.first_entry().await, 6);
    }

    #[test]
    fn interval_is_an_hour_or_the_retention_period_but_at_least_a_second() {
        for (age, interval) in [(0, 1), (1, 1), (60, 60), (3600, 3600), (86_400, 3600)] {
            assert_eq!(prune_interval(Duration::from_secs(age)), Duration::from_secs(interval), "{age} s");
        }
    }
}
