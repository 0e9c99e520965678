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
    Kept,
    event::Lines,
    fill::{All, Ended, Reader, Told},
    store::{Store, Unkept},
};
use crate::{
    budget, direct,
    error::Failure,
    list::{self, Part},
    observe::Observer,
    request::Call,
    stack::Broken,
    visit::Visit,
};

/// How long a watch is asked to last while rows are not known to be current: its bookmark comes 2 s before its end.
const SHORT_WATCH: Duration = Duration::from_secs(3);
/// A piece of a watch of at most so many bytes is read where it arrives.
const INLINE: usize = 32 << 10;
/// Bytes of a line that has not ended are counted among the reads of the cluster when there are so many.
const COUNTED: usize = 64 << 10;
/// How long a turn to parse is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the whole of a kind may take to be read, when it is read in chunks.
const FILL: Duration = Duration::from_secs(120);
/// How long a server may pause while it tells what there is, before it is taken for one that does not say when it has.
const TOLD: Duration = Duration::from_secs(3);
/// The first pause after a failure, and the longest: a cluster that is back is soon seen to be.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// The pause before a kind is asked for again that is not served, or may not be watched.
const RARELY: Duration = Duration::from_secs(30);
/// All is not read more often than this.
const BETWEEN_FILLS: Duration = Duration::from_secs(5);

/// The task of one kind of a list.
pub(super) struct Feed {
    pub(super) store: Arc<Store>,
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) project: Project,
    pub(super) permit: Permit,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    /// How long a watch is asked to last.
    pub(super) lasts: Duration,
    pub(super) kept: Weak<Kept>,
    /// How long an answer may take to begin.
    pub(super) deadline: Duration,
}

/// Where a feed stands.
struct Place {
    /// The version up to which the rows tell everything; none when all has to be read.
    version: Option<String>,
    /// Whether the server tells all there is at the beginning of a watch.
    tells_all: bool,
    /// When all was last read.
    filled: Option<Instant>,
    /// There was no room for it the last time: none is made for it now.
    crowded: bool,
}

/// How a watch ended that did not fail.
enum End {
    /// As it should.
    Ended {
        /// Whether something was said.
        spoken: bool,
        /// Whether it lasted as long as it was asked to.
        in_time: bool,
    },
    /// The version is forgotten, or another server speaks.
    Stranger,
    /// The server does not tell all there is.
    TellsNothing,
}

impl Feed {
    /// Goes on until it is dropped.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.follow() => {}
            () = self.store.tell_when_stale(self.source) => {}
        }
    }

    async fn follow(&self) {
        let mut place = Place { version: None, tells_all: true, filled: None, crowded: false };
        let mut pause = PAUSE;
        let mut asked = self.store.asked.subscribe();
        loop {
            let began = Instant::now();
            asked.mark_unchanged();
            match self.watch(&mut place).await {
                Ok(End::Ended { spoken, in_time }) => {
                    pause = PAUSE;
                    match if spoken { Some(true) } else { self.still_knows(&place).await } {
                        Some(true) if in_time => self.heard(self.now(), None),
                        Some(false) => self.outdated(&mut place),
                        // what ends too soon, or cannot be asked about, proves nothing
                        Some(true) | None => {}
                    }
                }
                Ok(End::Stranger) => self.outdated(&mut place),
                Ok(End::TellsNothing) => {
                    self.store.account_for(0);
                    place = Place { version: None, tells_all: false, ..place };
                    continue;
                }
                Err(failure) => {
                    let wait = self.failed(&failure, &mut place).await.unwrap_or(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    pause_unless(&mut asked, wait).await;
                    continue;
                }
            }
            // a server that ends every watch at once is not asked without end
            if began.elapsed() < PAUSE {
                sleep(PAUSE).await;
            }
        }
    }

    /// All has to be read anew; until then what is shown may be anything.
    fn outdated(&self, place: &mut Place) {
        place.version = None;
        self.store.account_for(0);
        self.store.stands(self.source, |of| of.outdated = true);
    }

    /// Notes a failure; how long to wait if not as usual.
    async fn failed(&self, failure: &Failure, place: &mut Place) -> Option<Duration> {
        let error = failure.error.clone().of_read();
        tracing::debug!(kind = %self.kind, %error, "a kept list cannot be brought up to date");
        // what was read of it is gone, and its memory is others'
        self.store.account_for(0);
        // a kind that was served before is not taken for absent: a proxy in front of the API server may answer 404, too
        if direct::is_not_served(failure, self.kind) && !self.store.is_filled(self.source) {
            let now = self.clock.now();
            place.version = None;
            self.store.stands(self.source, |of| {
                (of.absent, of.failure, of.as_of) = (true, None, now);
                (of.proof, of.outdated) = (Some(Instant::now()), false);
            });
            return Some(self.lasts);
        }
        let unkept = match error.cause {
            Cause::ForbiddenByCluster => Some(Unkept::Forbidden(error.clone())),
            Cause::NotKept | Cause::TooLarge => Some(Unkept::TooLarge),
            _ => None,
        };
        if unkept.is_some() || matches!(error.cause, Cause::Unreachable | Cause::CircuitOpen) {
            place.version = None;
        }
        place.crowded = error.cause == Cause::NotKept;
        let rarely = unkept.is_some().then_some(RARELY);
        self.store.stands(self.source, |of| {
            of.failures += 1;
            of.failure = Some(error);
            of.filled &= unkept.is_none();
            of.unkept = unkept;
        });
        // rows that cannot be kept are not shown any more
        let has_rows = rarely.is_some() && !self.store.table().is_empty();
        if has_rows && let Err(error) = self.store.empty(self.source).await {
            tracing::error!(kind = %self.kind, %error, "the rows of a list cannot be removed");
        }
        rarely.or(failure.retry_after.map(|after| after.min(LONGEST_PAUSE)))
    }

    fn now(&self) -> (Timestamp, Instant) {
        (self.clock.now(), Instant::now())
    }

    /// Notes that the server has proven what is shown as it was at a moment, and up to which version the rows tell
    /// everything.
    fn heard(&self, (at, proof): (Timestamp, Instant), version: Option<&str>) {
        let version = version.and_then(number);
        self.store.stands(self.source, |of| {
            (of.as_of, of.proof) = (at, Some(proof));
            (of.failure, of.unkept, of.absent, of.outdated) = (None, None, false, false);
            of.version = version.unwrap_or(of.version);
        });
    }

    fn visit(&self, at_most: Duration) -> Result<Visit<'_>> {
        Visit::new(self.store.stack.clone(), &self.permit, at_most, &self.observer)
    }

    /// Whether the server still counts versions from where it did; none when that cannot be asked or compared. A watch
    /// from a version that it has not reached yet is silent for ever.
    async fn still_knows(&self, place: &Place) -> Option<bool> {
        let newest = async {
            let one = ListParams::default().limit(1);
            list::version(&self.visit(self.deadline)?, self.kind, &one).await
        };
        let (newest, ours) = (newest.await.ok()?, place.version.as_deref()?);
        Some(number(&newest)? >= number(ours)?)
    }

    /// One watch, with all there is before it if need be.
    async fn watch(&self, place: &mut Place) -> Result<End, Failure> {
        let mut all = match &place.version {
            Some(_) => None,
            None => {
                if let Some(filled) = place.filled {
                    sleep(BETWEEN_FILLS.saturating_sub(filled.elapsed())).await;
                }
                Some(All::default())
            }
        };
        if all.is_some() && !place.tells_all {
            self.list(place).await?;
            all = None;
        }
        // of rows that are not known to be current one soon wants to know
        let soon = all.is_none() && self.store.is_stale(self.source);
        let lasts = if soon { SHORT_WATCH.min(self.lasts) } else { self.lasts };
        let call = Call::watch(self.kind, place.version.as_deref(), lasts)?;
        let visit = self.visit(self.deadline)?;
        let sent = Instant::now();
        let mut body = match visit.open_counted(call).await {
            Ok(body) => body,
            Err(gone) if gone.is(StatusCode::GONE) => return Ok(End::Stranger),
            Err(unknown) if all.is_some() && unknown.error.cause == Cause::RejectedByCluster => {
                return Ok(End::TellsNothing);
            }
            Err(failure) => return Err(failure),
        };
        let mut held = visit.meter().hold();
        let mut reader = Reader { kind: self.kind, project: self.project, lines: Lines::default(), all };
        let mut spoken = false;
        // how long the server has let us wait: since its last whole event, and in all
        let (mut quiet, mut listened) = (Duration::ZERO, Duration::ZERO);
        loop {
            let patience = match &reader.all {
                None => (lasts + self.lasts / 4).saturating_sub(quiet),
                Some(all) if all.begun => {
                    TOLD.saturating_sub(quiet).min((self.lasts + self.lasts / 4).saturating_sub(listened))
                }
                Some(_) => self.deadline.saturating_sub(quiet),
            };
            let since = Instant::now();
            let piece = timeout(patience, piece(&mut body)).await;
            quiet += since.elapsed();
            listened += since.elapsed();
            let piece = match piece {
                Ok(piece) => piece?,
                Err(_) if reader.all.is_some_and(|all| all.begun) => return Ok(End::TellsNothing),
                Err(_) => return Err(Broken::Lost(Cause::DeadlineExceeded).into()),
            };
            let Some(piece) = piece else {
                return Ok(match reader.all {
                    Some(_) => End::TellsNothing,
                    None => End::Ended { spoken, in_time: sent.elapsed() >= lasts },
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
                    Some(Ended::TellsNothing) => return Ok(End::TellsNothing),
                    Some(Ended::Status(410)) => return Ok(End::Stranger),
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
                            return Ok(End::Stranger);
                        }
                        self.heard(self.now(), Some(&newest));
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
    async fn read(&self, mut reader: Reader, bytes: usize) -> Result<(Reader, Result<Told>)> {
        let read = move || {
            let told = reader.read();
            (reader, told)
        };
        self.store.stack.budget().work(bytes, INLINE, Instant::now() + PATIENCE, read).await
    }

    /// Reads all there is as a list.
    async fn list(&self, place: &mut Place) -> Result<(), Failure> {
        let visit = self.visit(FILL)?.limited(budget::FILL);
        let everything = ListParams::default();
        let (kind, project) = (self.kind, self.project);
        let keep = move |object: &RawValue| project(kind, object);
        let mut all = All::default();
        let take = |part| {
            match part {
                Part::Next(rows) => all.extend(rows),
                Part::Again => all.clear(),
            }
            if all.is_due() { self.afford(all.bytes, place) } else { Ok(()) }
        };
        // all chunks are of the moment of the first one
        let since = (self.clock.now(), Instant::now());
        let version = list::chunks(&visit, kind, &NamespaceScope::All, &everything, keep, take).await?;
        self.fill(all, &version, since, place).await
    }

    /// All has been read, as it was at `since`: it becomes what is shown.
    async fn fill(
        &self,
        all: All,
        version: &str,
        since: (Timestamp, Instant),
        place: &mut Place,
    ) -> Result<(), Failure> {
        let All { rows, late, bytes, .. } = all;
        self.afford(bytes, place)?;
        {
            // sorting takes time, too
            let _turn = self.store.stack.budget().turn(Instant::now() + PATIENCE).await?;
            self.store.refill(self.source, rows).await?;
        }
        self.store.apply(self.source, late).await;
        self.stay_within(place)?;
        place.crowded = false;
        place.version = Some(version.to_owned());
        place.filled = Some(Instant::now());
        self.heard(since, Some(version));
        self.store.stands(self.source, |of| {
            of.filled = true;
            of.fills += 1;
            // what was put back from a snapshot counts from further back
            of.version = number(version).unwrap_or_default();
        });
        Ok(())
    }

    /// Takes memory for what was read so far.
    fn afford(&self, staged: usize, place: &Place) -> Result<()> {
        self.store.account_for(staged);
        // without the registry nobody reads any more, and this task is about to end
        let size = staged.max(self.store.table().bytes());
        self.kept.upgrade().map_or(Ok(()), |kept| kept.make_room(&self.store, size, place.crowded))
    }

    /// Makes room for rows that came one by one.
    fn stay_within(&self, place: &Place) -> Result<()> {
        match self.kept.upgrade() {
            Some(kept) if kept.is_tight(&self.store) => {
                kept.make_room(&self.store, self.store.bytes(), place.crowded)
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
    sleep(wait.min(PAUSE)).await;
    if let Some(rest) = wait.checked_sub(PAUSE) {
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
            Some(Err(error)) => return Err(Broken::of(&error).into()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
