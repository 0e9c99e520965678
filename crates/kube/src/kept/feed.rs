//! What fills a kept list and keeps it true: one task a kind, which reads all objects once and then what happens to them.
//!
//! Where the server can, both are one answer (a watch that begins with all there is, `sendInitialEvents`); of one that
//! cannot, a list in chunks and a watch from its version. A watch is short, so that the server's own end of it, and the
//! bookmark before, say every [`WATCH`] that both sides still know of each other; a longer silence is a fault. All is read
//! anew when the server has forgotten the version (410), when versions go backwards, and after the server could not be
//! reached at all: only then can it have become another one (an etcd put back from a snapshot) without a word.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Result,
    access::Permit,
    clock::Clock,
    inventory::{Project, Row, Source},
    kind::Kind,
    name::NamespaceScope,
};
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Kept, Turn, Turns,
    event::{Event, Head, Lines},
    store::{Applied, Store, Unkept},
};
use crate::{
    direct,
    error::Failure,
    list::{self, Listed},
    observe::Observer,
    request::Call,
    stack::Broken,
    visit::Visit,
};

/// How long a watch is, unless the server ends it sooner.
const WATCH: Duration = Duration::from_secs(20);
/// How much longer nothing may be heard.
const GRACE: Duration = Duration::from_secs(5);
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
/// Rows of so much memory are read before it is accounted for.
const ACCOUNTED: usize = 4 << 20;

/// The task of one kind of a list.
pub(super) struct Feed {
    pub(super) store: Arc<Store>,
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) project: Project,
    pub(super) permit: Permit,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) turns: Turns,
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
}

/// How a watch ended that did not fail.
enum End {
    /// As it should, and something was heard.
    Heard,
    /// Without a word.
    Silent,
    /// The version is forgotten, or another server speaks.
    Stranger,
    /// The server does not tell all there is.
    TellsNothing,
}

impl Feed {
    /// Goes on until it is dropped.
    pub(super) async fn run(self) {
        let mut place = Place { version: None, tells_all: true, filled: None };
        let mut pause = PAUSE;
        let mut asked = self.store.asked.subscribe();
        loop {
            let began = Instant::now();
            asked.mark_unchanged();
            match self.watch(&mut place).await {
                Ok(End::Heard) => pause = PAUSE,
                Ok(End::Silent) => {
                    pause = PAUSE;
                    if !self.still_knows(&place).await {
                        place.version = None;
                    }
                }
                Ok(End::Stranger) => place.version = None,
                Ok(End::TellsNothing) => {
                    self.store.account_for(0);
                    place = Place { version: None, tells_all: false, ..place };
                    continue;
                }
                Err(failure) => {
                    let wait = self.failed(&failure, &mut place).unwrap_or(pause);
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

    /// Notes a failure; how long to wait if not as usual.
    fn failed(&self, failure: &Failure, place: &mut Place) -> Option<Duration> {
        let error = failure.error.clone().of_read();
        tracing::debug!(kind = %self.kind, %error, "a kept list cannot be brought up to date");
        // what was read of it is gone, and its memory is others'
        self.store.account_for(0);
        if direct::is_not_served(failure, self.kind) {
            let now = self.clock.now();
            place.version = None;
            self.store.stands(self.source, |of| {
                (of.absent, of.filled, of.failure, of.as_of) = (true, false, None, now);
            });
            return Some(RARELY);
        }
        let unkept = match error.cause {
            Cause::ForbiddenByCluster => Some(Unkept::Forbidden(error.clone())),
            Cause::NotKept => Some(Unkept::TooLarge),
            _ => None,
        };
        if unkept.is_some() || matches!(error.cause, Cause::Unreachable | Cause::CircuitOpen) {
            place.version = None;
        }
        let rarely = unkept.is_some().then_some(RARELY);
        self.store.stands(self.source, |of| {
            of.failures += 1;
            of.failure = Some(error);
            of.unkept = unkept;
        });
        rarely.or(failure.retry_after.map(|after| after.min(LONGEST_PAUSE)))
    }

    /// Notes that the server has just spoken, and up to which version the rows tell everything.
    fn heard(&self, version: Option<&str>) {
        let (now, version) = (self.clock.now(), version.and_then(number));
        self.store.stands(self.source, |of| {
            of.as_of = now;
            (of.failure, of.unkept, of.absent) = (None, None, false);
            of.version = version.unwrap_or(of.version);
        });
    }

    fn visit(&self, at_most: Duration) -> Result<Visit<'_>> {
        Visit::new(self.store.stack.clone(), &self.permit, at_most, &self.observer)
    }

    /// Whether the server still counts versions from where it did. A watch from a version that it has not reached yet is
    /// silent for ever.
    async fn still_knows(&self, place: &Place) -> bool {
        let newest = async {
            let one = ListParams::default().limit(1);
            list::version(&self.visit(self.deadline)?, self.kind, &one).await
        };
        match (newest.await.ok().as_deref().and_then(number), place.version.as_deref().and_then(number)) {
            (Some(newest), Some(ours)) => newest >= ours,
            // what cannot be compared, or asked, is left to the next watch
            _ => true,
        }
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
        let call = Call::watch(self.kind, place.version.as_deref(), WATCH)?;
        let mut body = match self.visit(self.deadline)?.open_counted(call).await {
            Ok(body) => body,
            Err(gone) if gone.is(StatusCode::GONE) => return Ok(End::Stranger),
            Err(unknown) if all.is_some() && unknown.error.cause == Cause::RejectedByCluster => {
                return Ok(End::TellsNothing);
            }
            Err(failure) => return Err(failure),
        };
        if all.is_none() {
            self.heard(None);
        }
        let mut turn = Turn::new(&self.turns);
        let mut lines = Lines::default();
        let mut spoken = false;
        loop {
            let patience = match &all {
                None => WATCH + GRACE,
                Some(all) if all.begun => TOLD,
                Some(_) => self.deadline,
            };
            let piece = match timeout(patience, piece(&mut body)).await {
                Ok(piece) => piece?,
                Err(_) if all.is_some_and(|all| all.begun) => return Ok(End::TellsNothing),
                Err(_) => return Err(Broken::Lost(Cause::DeadlineExceeded).into()),
            };
            let Some(piece) = piece else {
                return Ok(match all {
                    Some(_) => End::TellsNothing,
                    None if spoken => End::Heard,
                    None => End::Silent,
                });
            };
            if all.is_some() {
                turn.take().await;
            }
            lines.feed(&piece)?;
            let mut batch = Vec::new();
            let mut newest = None;
            while let Some(line) = lines.next() {
                let event = match (Event::read(line), &all) {
                    // whoever answers with a list does not know how to watch from the beginning
                    (Err(_), Some(all)) if !all.begun => return Ok(End::TellsNothing),
                    (event, _) => event?,
                };
                spoken = true;
                let (head, rows, new) = match event {
                    Event::Present { head, object, new } => (head, (self.project)(self.kind, object)?, new),
                    Event::Gone(head) => (head, Vec::new(), false),
                    Event::Bookmark { version, told } => {
                        if let Some(told) = all.take_if(|_| told) {
                            self.fill(told, &version, place).await?;
                            turn.give_back();
                        }
                        if all.is_none() {
                            newest = Some(version.into_owned());
                        }
                        continue;
                    }
                    Event::Error(410) => return Ok(End::Stranger),
                    Event::Error(code) => {
                        place.version = None;
                        return Err(self.ended_with(code)?);
                    }
                    Event::Unknown => continue,
                };
                match &mut all {
                    Some(all) => {
                        if all.add(&head, rows, new) {
                            self.afford(all.bytes)?;
                        }
                    }
                    None => {
                        newest = Some(head.version.clone().into_owned());
                        let Head { namespace, name, .. } = head;
                        let (namespace, name) = (namespace.map(Into::into), name.into_owned());
                        batch.push(Applied { namespace, name, rows });
                    }
                }
            }
            if all.is_none() {
                self.store.apply(self.source, batch).await;
                if let Some(newest) = newest {
                    if number(&newest) < place.version.as_deref().and_then(number) {
                        return Ok(End::Stranger);
                    }
                    self.heard(Some(&newest));
                    place.version = Some(newest);
                }
            }
        }
    }

    /// Reads all there is as a list.
    async fn list(&self, place: &mut Place) -> Result<(), Failure> {
        let mut turn = Turn::new(&self.turns);
        turn.take().await;
        let mut all = All::default();
        let visit = self.visit(FILL)?;
        let everything = ListParams::default();
        let keep = |object: &RawValue| {
            let rows = (self.project)(self.kind, object)?;
            if all.weigh(&rows) {
                self.afford(all.bytes)?;
            }
            Ok(rows)
        };
        let Listed { kept, version } =
            list::all(&visit, self.kind, &NamespaceScope::All, &everything, keep).await?;
        self.fill(All { rows: kept, ..all }, &version, place).await
    }

    /// All has been read: it becomes what is shown.
    async fn fill(&self, all: All, version: &str, place: &mut Place) -> Result<(), Failure> {
        let All { rows, late, .. } = all;
        self.store.refill(self.source, rows).await?;
        self.store.apply(self.source, late).await;
        place.version = Some(version.to_owned());
        place.filled = Some(Instant::now());
        self.heard(Some(version));
        self.store.stands(self.source, |of| {
            of.filled = true;
            of.fills += 1;
            // what was put back from a snapshot counts from further back
            of.version = number(version).unwrap_or_default();
        });
        Ok(())
    }

    /// Takes memory for what was read so far.
    fn afford(&self, staged: usize) -> Result<()> {
        self.store.account_for(staged);
        // without the registry nobody reads any more, and this task is about to end
        self.kept.upgrade().map_or(Ok(()), |kept| kept.make_room(&self.store))
    }

    /// The error by which a server ended a watch.
    fn ended_with(&self, code: u16) -> Result<Failure> {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let call = Call::watch(self.kind, None, WATCH)?;
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

/// All there is, as far as it has been told.
#[derive(Default)]
struct All {
    rows: Vec<Row>,
    /// What happened to objects while the others were being told.
    late: Vec<Applied>,
    bytes: usize,
    accounted: usize,
    begun: bool,
}

impl All {
    /// Adds an object of the watch. True when so much has come that its memory should be accounted for.
    fn add(&mut self, head: &Head<'_>, rows: Vec<Row>, new: bool) -> bool {
        self.begun = true;
        let due = self.weigh(&rows);
        if new && self.late.is_empty() {
            self.rows.extend(rows);
        } else {
            let (namespace, name) = (head.namespace.as_deref().map(str::to_owned), head.name.to_string());
            self.late.push(Applied { namespace, name, rows });
        }
        due
    }

    /// Adds to the memory taken. True when so much has come that it should be accounted for.
    fn weigh(&mut self, rows: &[Row]) -> bool {
        self.bytes += rows.iter().map(Row::size).sum::<usize>();
        let due = self.bytes - self.accounted >= ACCOUNTED;
        if due {
            self.accounted = self.bytes;
        }
        due
    }
}
