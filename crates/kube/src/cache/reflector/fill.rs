//! Filling a cached list: lists all objects of a kind, replaces the rows, and checks that they fit into the cache.

use std::time::Duration;

use jiff::Timestamp;
use kube::core::params::ListParams;
use pilothouse_core::{Result, namespaces::NamespaceScope};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{PARSE_WAIT, Reflector, WatchPosition, parse_version};
use crate::{
    budget,
    cache::initial_events::InitialEvents,
    error::Failure,
    list::{self, Part},
};

/// Timeout of listing all objects of a kind in chunks.
const FILL_TIMEOUT: Duration = Duration::from_secs(120);

impl Reflector {
    /// Lists all objects in chunks.
    pub(super) async fn list(&self, position: &mut WatchPosition) -> Result<(), Failure> {
        let client = self.client(FILL_TIMEOUT)?.with_limits(budget::FILL_LIMITS);
        let everything = ListParams::default();
        let (kind, projection) = (self.kind, self.projection.clone());
        let project_row = move |object: &RawValue| projection.rows(kind, object);
        let mut initial = InitialEvents::default();
        let on_part = |part| {
            match part {
                Part::Next(rows) => initial.extend(rows),
                Part::Restarted => initial.clear(),
            }
            if initial.is_accounting_due() { self.check_capacity(initial.bytes, position) } else { Ok(()) }
        };
        // all chunks show the state at the time of the first chunk
        let since = (self.clock.now(), Instant::now());
        let (scope, printed) = (NamespaceScope::All, self.projection.printed());
        let version = list::chunks(&client, kind, &scope, &everything, printed, project_row, on_part).await?;
        self.fill(initial, &version, since, position).await
    }

    /// Replaces the rows by a complete list, which was current at `since`.
    pub(super) async fn fill(
        &self,
        initial: InitialEvents,
        version: &str,
        since: (Timestamp, Instant),
        position: &mut WatchPosition,
    ) -> Result<(), Failure> {
        let InitialEvents { rows, updates, bytes, .. } = initial;
        self.check_capacity(bytes, position)?;
        {
            // sorting is CPU work like parsing
            let _slot = self.store.transport.budget().parse_slot(Instant::now() + PARSE_WAIT).await?;
            self.store.replace_rows(self.source, rows).await?;
        }
        self.store.apply(self.source, updates).await;
        self.evict_if_needed(position)?;
        position.no_eviction = false;
        position.version = Some(version.to_owned());
        position.filled = Some(Instant::now());
        self.mark_synced(since, Some(version));
        self.store.update(self.source, |state| {
            state.filled = true;
            state.fills += 1;
            // after a restore from a snapshot the version may be lower than before
            state.version = parse_version(version).unwrap_or_default();
        });
        Ok(())
    }

    /// Accounts for `staged` bytes of rows read so far, and checks that the list fits into the cache.
    pub(super) fn check_capacity(&self, staged: usize, position: &WatchPosition) -> Result<()> {
        self.store.set_staged_bytes(staged);
        // if the cache was dropped there are no readers, and this task ends soon
        let size = staged.max(self.store.table().bytes());
        self.cache
            .upgrade()
            .map_or(Ok(()), |cache| cache.ensure_capacity(&self.store, size, position.no_eviction))
    }

    /// Evicts other lists if events have made this one larger.
    pub(super) fn evict_if_needed(&self, position: &WatchPosition) -> Result<()> {
        match self.cache.upgrade() {
            Some(cache) if cache.may_exceed_budget(&self.store) => {
                cache.ensure_capacity(&self.store, self.store.bytes(), position.no_eviction)
            }
            _ => Ok(()),
        }
    }
}
