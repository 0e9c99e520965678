//! Reflector: one task per kind lists all objects, then watches, and applies each event to the list cache.
//!
//! Where the server supports `sendInitialEvents`, list and watch are one request (a watch that begins with all
//! objects); otherwise a list in chunks is followed by a watch from its resource version. Watches are short: the server
//! ends each at its timeout and sends a bookmark shortly before, so a longer silence is a failure. Only complete
//! events, bookmarks and a regular end of the watch prove that rows are current; received bytes alone do not. All
//! objects are listed again when the server no longer has the resource version (410), when resource versions go
//! backwards, and after the server was unreachable: only then can etcd have been restored from a snapshot without an
//! error on a watch.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use kube::core::params::ListParams;
use pilothouse_core::{Cause, Result, access::Permit, clock::Clock, kind::Kind, rows::Source};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    ListCache,
    store::ListStore,
    sync_state::Uncacheable,
    watch_event::Lines,
    watch_reader::{ParsedEvents, WatchReader},
    watch_state::{Input, Waits, WatchEnd, WatchFailure, WatchState},
};
use crate::{
    client::ClusterClient, error::Failure, list, observe::Observer, projection::Projection, request::Call,
    transport::ExchangeError, uncached,
};

mod columns;
mod fill;

/// Watch timeout while rows are stale: the bookmark arrives 2 s before the end.
const SHORT_WATCH: Duration = Duration::from_secs(3);
/// Largest chunk of a watch, in bytes, that is parsed on the connections' runtime.
const INLINE_PARSE_BYTES: usize = 32 << 10;
/// Size of an incomplete line, in bytes, above which it counts against the cluster's read budget.
const MIN_COUNTED_LINE_BYTES: usize = 64 << 10;
/// Maximum wait of a reflector for a parse slot.
const PARSE_WAIT: Duration = Duration::from_secs(60);
/// First and longest pause after a failure. Short, so that a cluster that is reachable again is detected soon.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(4);
/// Pause before retrying a kind that is not served or may not be watched.
const UNAVAILABLE_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest interval between two complete lists.
const MIN_FILL_INTERVAL: Duration = Duration::from_secs(5);

/// Synchronises one kind of a cached list.
pub(super) struct Reflector {
    pub(super) store: Arc<ListStore>,
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) projection: Projection,
    pub(super) permit: Permit,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    /// Timeout requested for each watch.
    pub(super) watch_timeout: Duration,
    pub(super) cache: Weak<ListCache>,
    /// Timeout until a response begins.
    pub(super) deadline: Duration,
}

/// Position of a reflector between two watches.
struct WatchPosition {
    /// Resource version up to which the rows are complete; none when all objects have to be listed.
    version: Option<String>,
    /// Whether the server supports `sendInitialEvents`.
    supports_initial_events: bool,
    /// Time of the last complete list.
    filled: Option<Instant>,
    /// The last attempt ended with `NotCached`: the next one evicts no other list.
    no_eviction: bool,
}

impl Reflector {
    /// Runs until the future is dropped.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.follow() => {}
            () = self.store.notify_when_stale(self.source) => {}
        }
    }

    async fn follow(&self) {
        let mut position =
            WatchPosition { version: None, supports_initial_events: true, filled: None, no_eviction: false };
        let mut pause = INITIAL_BACKOFF;
        let mut demand = self.store.demand.subscribe();
        loop {
            let began = Instant::now();
            demand.mark_unchanged();
            match self.watch(&mut position).await {
                Ok(WatchEnd::Ended { any_line, full_duration }) => {
                    pause = INITIAL_BACKOFF;
                    if !full_duration {
                        self.declare_columns().await;
                        if self.forget_if_changed() {
                            return;
                        }
                    }
                    match if any_line { Some(true) } else { self.server_has_version(&position).await } {
                        Some(true) if full_duration => self.mark_synced(self.now(), None),
                        Some(false) => self.require_refill(&mut position),
                        // a watch that ends early, or a version that cannot be compared, proves nothing
                        Some(true) | None => {}
                    }
                }
                Ok(WatchEnd::Expired) => self.require_refill(&mut position),
                Ok(WatchEnd::NoInitialEvents) => {
                    self.store.set_staged_bytes(0);
                    position = WatchPosition { version: None, supports_initial_events: false, ..position };
                    continue;
                }
                Err(failure) => {
                    let wait = self.record_failure(&failure, &mut position).await.unwrap_or(pause);
                    pause = (pause * 2).min(MAX_BACKOFF);
                    pause_unless_demanded(&mut demand, wait).await;
                    continue;
                }
            }
            // avoids a busy loop with a server that ends every watch at once
            if began.elapsed() < INITIAL_BACKOFF {
                sleep(INITIAL_BACKOFF).await;
            }
        }
    }

    /// Requires all objects to be listed again; until then the rows are stale.
    fn require_refill(&self, position: &mut WatchPosition) {
        position.version = None;
        self.store.set_staged_bytes(0);
        self.store.update(self.source, |state| state.needs_refill = true);
    }

    /// Records a failure. Returns the pause where it differs from the backoff.
    async fn record_failure(&self, failure: &Failure, position: &mut WatchPosition) -> Option<Duration> {
        let error = failure.error.clone().read_only();
        tracing::debug!(kind = %self.kind, %error, "cannot synchronise a cached list");
        // the partly read rows were dropped
        self.store.set_staged_bytes(0);
        if self.forget_if_changed() {
            return Some(UNAVAILABLE_INTERVAL);
        }
        // a 404 for a kind that was served before does not mean that the kind is absent: a proxy may send it, too
        if uncached::is_not_served(failure, self.kind) && !self.store.is_filled(self.source) {
            let now = self.clock.now();
            position.version = None;
            self.store.update(self.source, |state| {
                (state.absent, state.failure, state.as_of) = (true, None, now);
                (state.synced_at, state.needs_refill) = (Some(Instant::now()), false);
            });
            self.remove_if_not_served(failure).await;
            return Some(self.watch_timeout);
        }
        let uncacheable = match error.cause {
            Cause::ForbiddenByCluster => Some(Uncacheable::Forbidden(error.clone())),
            Cause::NotCached | Cause::TooLarge => Some(Uncacheable::TooLarge),
            _ => None,
        };
        if uncacheable.is_some() || matches!(error.cause, Cause::Unreachable | Cause::CircuitOpen) {
            position.version = None;
        }
        position.no_eviction = error.cause == Cause::NotCached;
        let retry_interval = uncacheable.is_some().then_some(UNAVAILABLE_INTERVAL);
        self.store.update(self.source, |state| {
            state.failures += 1;
            state.failure = Some(error);
            state.filled &= uncacheable.is_none();
            state.uncacheable = uncacheable;
        });
        // removes the rows of a kind that cannot be cached any more
        let has_rows = retry_interval.is_some() && !self.store.table().is_empty();
        if has_rows && let Err(error) = self.store.clear_rows(self.source).await {
            tracing::error!(kind = %self.kind, %error, "cannot remove the rows of a cached list");
        }
        self.remove_if_not_served(failure).await;
        retry_interval.or(failure.retry_after.map(|after| after.min(MAX_BACKOFF)))
    }

    fn now(&self) -> (Timestamp, Instant) {
        (self.clock.now(), Instant::now())
    }

    /// Marks the rows as current at a moment and, with a `version`, as complete up to it.
    fn mark_synced(&self, (at, synced_at): (Timestamp, Instant), version: Option<&str>) {
        let version = version.and_then(parse_version);
        self.store.update(self.source, |state| {
            (state.as_of, state.synced_at) = (at, Some(synced_at));
            (state.failure, state.uncacheable, state.absent, state.needs_refill) = (None, None, false, false);
            state.version = version.unwrap_or(state.version);
        });
    }

    fn client(&self, timeout: Duration) -> Result<ClusterClient<'_>> {
        ClusterClient::new(self.store.transport.clone(), &self.permit, timeout, &self.observer)
    }

    /// Whether the server's newest resource version has reached the reflector's; none when it cannot be read or
    /// compared. A watch from a version that the server has not reached yet stays silent.
    async fn server_has_version(&self, position: &WatchPosition) -> Option<bool> {
        let newest = async {
            let one = ListParams::default().limit(1);
            list::version(&self.client(self.deadline)?, self.kind, &one).await
        };
        let (newest, known) = (newest.await.ok()?, position.version.as_deref()?);
        Some(parse_version(&newest)? >= parse_version(known)?)
    }

    /// Runs one watch, preceded by a complete list if there is no resource version.
    async fn watch(&self, position: &mut WatchPosition) -> Result<WatchEnd, Failure> {
        let mut state = WatchState::Watching;
        if position.version.is_none() {
            if let Some(filled) = position.filled {
                sleep(MIN_FILL_INTERVAL.saturating_sub(filled.elapsed())).await;
            }
            if position.supports_initial_events {
                state = WatchState::Init;
            } else {
                self.list(position).await?;
            }
        }
        let is_init = matches!(state, WatchState::Init);
        // stale rows should be confirmed soon
        let short = !is_init && self.store.is_stale(self.source);
        let watch_timeout = if short { SHORT_WATCH.min(self.watch_timeout) } else { self.watch_timeout };
        let call = Call::watch(self.kind, position.version.as_deref(), watch_timeout)?;
        let call = call.in_format(self.projection.format());
        let client = self.client(self.deadline)?;
        let sent = Instant::now();
        let mut body = match client.stream_via_breaker(call).await {
            Ok(body) => body,
            Err(expired) if expired.is(StatusCode::GONE) => return Ok(WatchEnd::Expired),
            Err(rejected) if is_init && rejected.error.cause == Cause::RejectedByCluster => {
                return Ok(WatchEnd::NoInitialEvents);
            }
            Err(failure) => return Err(failure),
        };
        let mut reserved = client.meter().reserve();
        let mut reader = WatchReader {
            kind: self.kind,
            projection: self.projection.clone(),
            lines: Lines::default(),
            state,
        };
        let mut waits = Waits {
            timeout: watch_timeout,
            full_timeout: self.watch_timeout,
            deadline: self.deadline,
            idle: Duration::ZERO,
            total: Duration::ZERO,
        };
        let mut any_line = false;
        loop {
            let since = Instant::now();
            let received = timeout(reader.state.remaining(waits), next_data(&mut body)).await;
            waits.idle += since.elapsed();
            waits.total += since.elapsed();
            let chunk = match received.ok().transpose()? {
                Some(Some(chunk)) => chunk,
                Some(None) => {
                    let full_duration = sent.elapsed() >= watch_timeout;
                    let input = Input::BodyEnd { any_line, full_duration };
                    return self.end(&reader.state, input, position);
                }
                None => return self.end(&reader.state, Input::Silence, position),
            };
            let size = reader.lines.buffered_bytes() + chunk.len();
            reader.lines.push(&chunk)?;
            drop(chunk);
            if size > MIN_COUNTED_LINE_BYTES {
                reserved.set(size)?;
            }
            loop {
                let (read, parsed) = self.read(reader, size).await?;
                reader = read;
                let parsed = parsed?;
                any_line |= parsed.any_line;
                if parsed.any_event {
                    waits.idle = Duration::ZERO;
                }
                if let Some(input) = parsed.end {
                    return self.end(&reader.state, input, position);
                }
                if let Some((initial, version)) = parsed.initial {
                    self.fill(initial, &version, self.now(), position).await?;
                    // more lines may follow in the same chunk
                    continue;
                }
                match &mut reader.state {
                    WatchState::Init => {}
                    WatchState::InitPage(initial) => {
                        if initial.is_accounting_due() {
                            self.check_capacity(initial.bytes, position)?;
                        }
                    }
                    WatchState::Watching => {
                        if let Some(end) = self.apply(parsed, position).await? {
                            return Ok(end);
                        }
                    }
                }
                break;
            }
            let buffered_bytes = reader.lines.buffered_bytes();
            reserved.set(if buffered_bytes > MIN_COUNTED_LINE_BYTES { buffered_bytes } else { 0 })?;
        }
    }

    /// Applies changes to the rows. Returns the end of the watch if resource versions went backwards.
    async fn apply(
        &self,
        parsed: ParsedEvents,
        position: &mut WatchPosition,
    ) -> Result<Option<WatchEnd>, Failure> {
        let changed = !parsed.batch.is_empty();
        self.store.apply(self.source, parsed.batch).await;
        if changed {
            self.evict_if_needed(position)?;
        }
        if let Some(newest) = parsed.newest {
            if parse_version(&newest) < position.version.as_deref().and_then(parse_version) {
                return Ok(Some(WatchEnd::Expired));
            }
            self.mark_synced(self.now(), Some(&newest));
            position.version = Some(newest);
        }
        Ok(None)
    }

    /// Result of a watch in `state` that ends with `input`.
    fn end(
        &self,
        state: &WatchState,
        input: Input,
        position: &mut WatchPosition,
    ) -> Result<WatchEnd, Failure> {
        match state.step(input) {
            Ok(end) => Ok(end),
            Err(WatchFailure::Silent) => Err(ExchangeError::Lost(Cause::DeadlineExceeded).into()),
            Err(WatchFailure::Status(code)) => {
                position.version = None;
                Err(self.end_failure(code)?)
            }
        }
    }

    /// Parses the received part of a watch; a large one on a blocking thread, with a parse slot.
    async fn read(
        &self,
        mut reader: WatchReader,
        bytes: usize,
    ) -> Result<(WatchReader, Result<ParsedEvents>)> {
        let read = move || {
            let parsed = reader.read();
            (reader, parsed)
        };
        self.store
            .transport
            .budget()
            .run_job(bytes, INLINE_PARSE_BYTES, Instant::now() + PARSE_WAIT, read)
            .await
    }

    /// The failure for the status with which a server ended a watch.
    fn end_failure(&self, code: u16) -> Result<Failure> {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let call = Call::watch(self.kind, None, self.watch_timeout)?;
        Ok(Failure::refused(&call, code, &HeaderMap::new(), &[], |_| false))
    }
}

/// Pauses for `wait` after a failure. After [`INITIAL_BACKOFF`], the pause ends early if a request has waited for the
/// first rows since the last attempt began.
async fn pause_unless_demanded(demand: &mut watch::Receiver<()>, wait: Duration) {
    sleep(wait.min(INITIAL_BACKOFF)).await;
    if let Some(rest) = wait.checked_sub(INITIAL_BACKOFF) {
        tokio::select! {
            () = sleep(rest) => {}
            // never an error: the store holds the sender
            _ = demand.changed() => {}
        }
    }
}

fn parse_version(version: &str) -> Option<u64> {
    version.parse().ok()
}

/// The next data frame of a body; none at its end.
async fn next_data(body: &mut Incoming) -> Result<Option<bytes::Bytes>, Failure> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(ExchangeError::of(&error).into()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
