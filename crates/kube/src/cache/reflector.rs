//! What fills a kept list and keeps it true: one task a kind, which reads all objects once and then what happens to them.
//!
//! Where the server can, both are one answer (a watch that begins with all there is, `sendInitialEvents`); of one that
//! cannot, a list in chunks and a watch from its version. A watch is short, so that the server's own end of it, and the
//! bookmark before, say in its time that both sides still know of each other; a longer silence is a fault. Only whole events,
//! bookmarks and an end in time count, never mere bytes. All is read anew when the server has forgotten the version (410),
//! when versions go backwards, and after the server could not be reached at all: only then can it have become another one
//! (an etcd put back from a snapshot) without a word.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Result,
    access::Permit,
    clock::Clock,
    inventory::{Project, Source},
    kind::Kind,
    name::NamespaceScope,
};
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    ListCache,
    store::{Store, Uncacheable},
    watch_event::Lines,
    watch_reader::{Ended, InitialEvents, ParsedEvents, WatchReader},
};
use crate::{
    budget,
    client::ClusterClient,
    error::Failure,
    list::{self, Part},
    observe::Observer,
    request::Call,
    transport::ExchangeError,
    uncached,
};

/// How long a watch is asked to last while rows are not known to be current: its bookmark comes 2 s before its end.
const SHORT_WATCH: Duration = Duration::from_secs(3);
/// A piece of a watch of at most so many bytes is read where it arrives.
const INLINE: usize = 32 << 10;
/// Bytes of a line that has not ended are counted among the reads of the cluster when there are so many.
const COUNTED: usize = 64 << 10;
/// How long a turn to parse is waited for.
const PARSE_WAIT: Duration = Duration::from_secs(60);
/// How long the whole of a kind may take to be read, when it is read in chunks.
const FILL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may pause while it tells what there is, before it is taken for one that does not say when it has.
const INITIAL_EVENTS_TIMEOUT: Duration = Duration::from_secs(3);
/// The first pause after a failure, and the longest: a cluster that is back is soon seen to be.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(4);
/// The pause before a kind is asked for again that is not served, or may not be watched.
const UNAVAILABLE_INTERVAL: Duration = Duration::from_secs(30);
/// All is not read more often than this.
const MIN_FILL_INTERVAL: Duration = Duration::from_secs(5);

/// The task of one kind of a list.
pub(super) struct Reflector {
    pub(super) store: Arc<Store>,
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) project: Project,
    pub(super) permit: Permit,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    /// How long a watch is asked to last.
    pub(super) lasts: Duration,
    pub(super) cache: Weak<ListCache>,
    /// How long an answer may take to begin.
    pub(super) deadline: Duration,
}

/// Where a feed stands.
struct WatchPosition {
    /// The version up to which the rows tell everything; none when all has to be read.
    version: Option<String>,
    /// Whether the server tells all there is at the beginning of a watch.
    supports_initial_events: bool,
    /// When all was last read.
    filled: Option<Instant>,
    /// There was no room for it the last time: none is made for it now.
    crowded: bool,
}

/// How a watch ended that did not fail.
enum WatchEnd {
    /// As it should.
    Ended {
        /// Whether something was said.
        spoken: bool,
        /// Whether it lasted as long as it was asked to.
        in_time: bool,
    },
    /// The version is forgotten, or another server speaks.
    Expired,
    /// The server does not tell all there is.
    NoInitialEvents,
}

impl Reflector {
    /// Goes on until it is dropped.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.follow() => {}
            () = self.store.tell_when_stale(self.source) => {}
        }
    }

    async fn follow(&self) {
        let mut place =
            WatchPosition { version: None, supports_initial_events: true, filled: None, crowded: false };
        let mut pause = INITIAL_BACKOFF;
        let mut asked = self.store.asked.subscribe();
        loop {
            let began = Instant::now();
            asked.mark_unchanged();
            match self.watch(&mut place).await {
                Ok(WatchEnd::Ended { spoken, in_time }) => {
                    pause = INITIAL_BACKOFF;
                    match if spoken { Some(true) } else { self.still_knows(&place).await } {
                        Some(true) if in_time => self.mark_synced(self.now(), None),
                        Some(false) => self.outdated(&mut place),
                        // what ends too soon, or cannot be asked about, proves nothing
                        Some(true) | None => {}
                    }
                }
                Ok(WatchEnd::Expired) => self.outdated(&mut place),
                Ok(WatchEnd::NoInitialEvents) => {
                    self.store.account_for(0);
                    place = WatchPosition { version: None, supports_initial_events: false, ..place };
                    continue;
                }
                Err(failure) => {
                    let wait = self.failed(&failure, &mut place).await.unwrap_or(pause);
                    pause = (pause * 2).min(MAX_BACKOFF);
                    pause_unless(&mut asked, wait).await;
                    continue;
                }
            }
            // a server that ends every watch at once is not asked without end
            if began.elapsed() < INITIAL_BACKOFF {
                sleep(INITIAL_BACKOFF).await;
            }
        }
    }

    /// All has to be read anew; until then what is shown may be anything.
    fn outdated(&self, place: &mut WatchPosition) {
        place.version = None;
        self.store.account_for(0);
        self.store.update(self.source, |of| of.outdated = true);
    }

    /// Notes a failure; how long to wait if not as usual.
    async fn failed(&self, failure: &Failure, place: &mut WatchPosition) -> Option<Duration> {
        let error = failure.error.clone().read_only();
        tracing::debug!(kind = %self.kind, %error, "cannot synchronise a cached list");
        // what was read of it is gone, and its memory is others'
        self.store.account_for(0);
        // a kind that was served before is not taken for absent: a proxy in front of the API server may answer 404, too
        if uncached::is_not_served(failure, self.kind) && !self.store.is_filled(self.source) {
            let now = self.clock.now();
            place.version = None;
            self.store.update(self.source, |of| {
                (of.absent, of.failure, of.as_of) = (true, None, now);
                (of.proof, of.outdated) = (Some(Instant::now()), false);
            });
            return Some(self.lasts);
        }
        let unkept = match error.cause {
            Cause::ForbiddenByCluster => Some(Uncacheable::Forbidden(error.clone())),
            Cause::NotCached | Cause::TooLarge => Some(Uncacheable::TooLarge),
            _ => None,
        };
        if unkept.is_some() || matches!(error.cause, Cause::Unreachable | Cause::CircuitOpen) {
            place.version = None;
        }
        place.crowded = error.cause == Cause::NotCached;
        let rarely = unkept.is_some().then_some(UNAVAILABLE_INTERVAL);
        self.store.update(self.source, |of| {
            of.failures += 1;
            of.failure = Some(error);
            of.filled &= unkept.is_none();
            of.unkept = unkept;
        });
        // rows that cannot be kept are not shown any more
        let has_rows = rarely.is_some() && !self.store.table().is_empty();
        if has_rows && let Err(error) = self.store.empty(self.source).await {
            tracing::error!(kind = %self.kind, %error, "cannot remove the rows of a cached list");
        }
        rarely.or(failure.retry_after.map(|after| after.min(MAX_BACKOFF)))
    }

    fn now(&self) -> (Timestamp, Instant) {
        (self.clock.now(), Instant::now())
    }

    /// Notes that the server has proven what is shown as it was at a moment, and up to which version the rows tell
    /// everything.
    fn mark_synced(&self, (at, proof): (Timestamp, Instant), version: Option<&str>) {
        let version = version.and_then(number);
        self.store.update(self.source, |of| {
            (of.as_of, of.proof) = (at, Some(proof));
            (of.failure, of.unkept, of.absent, of.outdated) = (None, None, false, false);
            of.version = version.unwrap_or(of.version);
        });
    }

    fn client(&self, at_most: Duration) -> Result<ClusterClient<'_>> {
        ClusterClient::new(self.store.transport.clone(), &self.permit, at_most, &self.observer)
    }

    /// Whether the server still counts versions from where it did; none when that cannot be asked or compared. A watch
    /// from a version that it has not reached yet is silent for ever.
    async fn still_knows(&self, place: &WatchPosition) -> Option<bool> {
        let newest = async {
            let one = ListParams::default().limit(1);
            list::version(&self.client(self.deadline)?, self.kind, &one).await
        };
        let (newest, ours) = (newest.await.ok()?, place.version.as_deref()?);
        Some(number(&newest)? >= number(ours)?)
    }

    /// One watch, with all there is before it if need be.
    async fn watch(&self, place: &mut WatchPosition) -> Result<WatchEnd, Failure> {
        let mut all = match &place.version {
            Some(_) => None,
            None => {
                if let Some(filled) = place.filled {
                    sleep(MIN_FILL_INTERVAL.saturating_sub(filled.elapsed())).await;
                }
                Some(InitialEvents::default())
            }
        };
        if all.is_some() && !place.supports_initial_events {
            self.list(place).await?;
            all = None;
        }
        // of rows that are not known to be current one soon wants to know
        let soon = all.is_none() && self.store.is_stale(self.source);
        let lasts = if soon { SHORT_WATCH.min(self.lasts) } else { self.lasts };
        let call = Call::watch(self.kind, place.version.as_deref(), lasts)?;
        let client = self.client(self.deadline)?;
        let sent = Instant::now();
        let mut body = match client.stream_via_breaker(call).await {
            Ok(body) => body,
            Err(gone) if gone.is(StatusCode::GONE) => return Ok(WatchEnd::Expired),
            Err(unknown) if all.is_some() && unknown.error.cause == Cause::RejectedByCluster => {
                return Ok(WatchEnd::NoInitialEvents);
            }
            Err(failure) => return Err(failure),
        };
        let mut held = client.meter().hold();
        let mut reader = WatchReader { kind: self.kind, project: self.project, lines: Lines::default(), all };
        let mut spoken = false;
        // how long the server has let us wait: since its last whole event, and in all
        let (mut quiet, mut listened) = (Duration::ZERO, Duration::ZERO);
        loop {
            let patience = match &reader.all {
                None => (lasts + self.lasts / 4).saturating_sub(quiet),
                Some(all) if all.begun => INITIAL_EVENTS_TIMEOUT
                    .saturating_sub(quiet)
                    .min((self.lasts + self.lasts / 4).saturating_sub(listened)),
                Some(_) => self.deadline.saturating_sub(quiet),
            };
            let since = Instant::now();
            let piece = timeout(patience, piece(&mut body)).await;
            quiet += since.elapsed();
            listened += since.elapsed();
            let piece = match piece {
                Ok(piece) => piece?,
                Err(_) if reader.all.is_some_and(|all| all.begun) => return Ok(WatchEnd::NoInitialEvents),
                Err(_) => return Err(ExchangeError::Lost(Cause::DeadlineExceeded).into()),
            };
            let Some(piece) = piece else {
                return Ok(match reader.all {
                    Some(_) => WatchEnd::NoInitialEvents,
                    None => WatchEnd::Ended { spoken, in_time: sent.elapsed() >= lasts },
                });
            };
            let size = reader.lines.waiting() + piece.len();
            reader.lines.feed(&piece)?;
            drop(piece);
            if size > COUNTED {
                held.set(size)?;
            }
            loop {
                let (read, told) = self.read(reader, size).await?;
                reader = read;
                let told = told?;
                spoken |= told.spoken;
                if told.event {
                    quiet = Duration::ZERO;
                }
                match told.end {
                    Some(Ended::NoInitialEvents) => return Ok(WatchEnd::NoInitialEvents),
                    Some(Ended::Status(410)) => return Ok(WatchEnd::Expired),
                    Some(Ended::Status(code)) => {
                        place.version = None;
                        return Err(self.ended_with(code)?);
                    }
                    None => {}
                }
                if let Some((all, version)) = told.all {
                    self.fill(all, &version, self.now(), place).await?;
                    // more lines may follow
                    continue;
                }
                if let Some(all) = &mut reader.all {
                    if all.is_due() {
                        self.afford(all.bytes, place)?;
                    }
                } else {
                    let changed = !told.batch.is_empty();
                    self.store.apply(self.source, told.batch).await;
                    if changed {
                        self.stay_within(place)?;
                    }
                    if let Some(newest) = told.newest {
                        if number(&newest) < place.version.as_deref().and_then(number) {
                            return Ok(WatchEnd::Expired);
                        }
                        self.mark_synced(self.now(), Some(&newest));
                        place.version = Some(newest);
                    }
                }
                break;
            }
            let waiting = reader.lines.waiting();
            held.set(if waiting > COUNTED { waiting } else { 0 })?;
        }
    }

    /// Reads what has come of a watch; a large piece outside of the connections' runtime, in turn.
    async fn read(
        &self,
        mut reader: WatchReader,
        bytes: usize,
    ) -> Result<(WatchReader, Result<ParsedEvents>)> {
        let read = move || {
            let told = reader.read();
            (reader, told)
        };
        self.store.transport.budget().work(bytes, INLINE, Instant::now() + PARSE_WAIT, read).await
    }

    /// Reads all there is as a list.
    async fn list(&self, place: &mut WatchPosition) -> Result<(), Failure> {
        let client = self.client(FILL_TIMEOUT)?.limited(budget::FILL);
        let everything = ListParams::default();
        let (kind, project) = (self.kind, self.project);
        let keep = move |object: &RawValue| project(kind, object);
        let mut all = InitialEvents::default();
        let take = |part| {
            match part {
                Part::Next(rows) => all.extend(rows),
                Part::Again => all.clear(),
            }
            if all.is_due() { self.afford(all.bytes, place) } else { Ok(()) }
        };
        // all chunks are of the moment of the first one
        let since = (self.clock.now(), Instant::now());
        let version = list::chunks(&client, kind, &NamespaceScope::All, &everything, keep, take).await?;
        self.fill(all, &version, since, place).await
    }

    /// All has been read, as it was at `since`: it becomes what is shown.
    async fn fill(
        &self,
        all: InitialEvents,
        version: &str,
        since: (Timestamp, Instant),
        place: &mut WatchPosition,
    ) -> Result<(), Failure> {
        let InitialEvents { rows, late, bytes, .. } = all;
        self.afford(bytes, place)?;
        {
            // sorting takes time, too
            let _turn = self.store.transport.budget().parse_slot(Instant::now() + PARSE_WAIT).await?;
            self.store.refill(self.source, rows).await?;
        }
        self.store.apply(self.source, late).await;
        self.stay_within(place)?;
        place.crowded = false;
        place.version = Some(version.to_owned());
        place.filled = Some(Instant::now());
        self.mark_synced(since, Some(version));
        self.store.update(self.source, |of| {
            of.filled = true;
            of.fills += 1;
            // what was put back from a snapshot counts from further back
            of.version = number(version).unwrap_or_default();
        });
        Ok(())
    }

    /// Takes memory for what was read so far.
    fn afford(&self, staged: usize, place: &WatchPosition) -> Result<()> {
        self.store.account_for(staged);
        // without the registry nobody reads any more, and this task is about to end
        let size = staged.max(self.store.table().bytes());
        self.cache.upgrade().map_or(Ok(()), |cache| cache.make_room(&self.store, size, place.crowded))
    }

    /// Makes room for rows that came one by one.
    fn stay_within(&self, place: &WatchPosition) -> Result<()> {
        match self.cache.upgrade() {
            Some(cache) if cache.is_tight(&self.store) => {
                cache.make_room(&self.store, self.store.bytes(), place.crowded)
            }
            _ => Ok(()),
        }
    }

    /// The error by which a server ended a watch.
    fn ended_with(&self, code: u16) -> Result<Failure> {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let call = Call::watch(self.kind, None, self.lasts)?;
        Ok(Failure::refused(&call, code, &HeaderMap::new(), &[], |_| false))
    }
}

/// Waits, but only a moment once somebody has asked for the first rows since the last try began.
async fn pause_unless(asked: &mut watch::Receiver<()>, wait: Duration) {
    sleep(wait.min(INITIAL_BACKOFF)).await;
    if let Some(rest) = wait.checked_sub(INITIAL_BACKOFF) {
        tokio::select! {
            () = sleep(rest) => {}
            // its sender lives as long as the feed
            _ = asked.changed() => {}
        }
    }
}

fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

/// The next piece of a body; none at its end.
async fn piece(body: &mut Incoming) -> Result<Option<bytes::Bytes>, Failure> {
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
