//! The stream of the logs of a workload: follows the pods of each cluster, opens the logs of their containers, and merges
//! the lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_channel::mpsc;
use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt, poll_fn, select_all},
};
use jiff::Timestamp;

use self::{
    lag::Lag,
    parts::{Cluster, Followed, Pod, PodStage, begin, modes},
};
use super::{
    ContainerChoice, LogSource, LogTime, MAX_SOURCES, SourceEvent, SourceState, WorkloadLogEvent,
    WorkloadLogLine, WorkloadLogQuery,
    merge::{Merged, Merger},
    pods::{PodChange, PodsEvent, RETRY_INTERVAL, SeenPod, WorkloadPods},
    source::{Access, Mode, Source},
};
use crate::{
    access::Permit,
    clock::Clock,
    error::{Cause, Result},
    ids::ClusterId,
    inventory::Inventory,
    name::{ContainerName, ObjectName},
    pod::{LogLine, PodContainers},
    streams::{StreamEnd, StreamEvent},
};

mod lag;
mod parts;

/// Time for which a log that was opened and has sent nothing counts as behind.
const OPENING: Duration = Duration::from_secs(30);
/// Time for which a log or a cluster that cannot be read counts as behind.
const MAX_BEHIND: Duration = Duration::from_secs(600);

/// Index of a cluster, and the name of a pod.
type PodKey = (usize, ObjectName);

/// A read of the containers of a pod.
type Resolving = BoxFuture<'static, (PodKey, Result<PodContainers>)>;

/// State of the stream.
pub(super) struct Follower {
    access: Access,
    clock: Arc<dyn Clock>,
    containers: ContainerChoice,
    /// What is read of the logs of pods that exist when the stream begins, and of later ones.
    first: Mode,
    later: Mode,
    clusters: Vec<Cluster>,
    pods_events: SelectAll<BoxStream<'static, (usize, PodsEvent)>>,
    pods: BTreeMap<PodKey, Pod>,
    resolving: FuturesUnordered<Resolving>,
    merger: Merger<Arc<LogSource>>,
    /// The logs that are behind, and until when they count as such.
    behind: HashMap<Arc<LogSource>, Duration>,
    /// The logs whose lines arrive late.
    lag: Lag,
    /// The logs that have ended.
    ended: HashSet<Arc<LogSource>>,
    /// Number of pods that are left out, as reported last.
    left_out: usize,
    /// Whether pods or places for sources were added.
    may_admit: bool,
    pending: VecDeque<WorkloadLogEvent>,
    end: Option<StreamEnd>,
}

impl Follower {
    /// The state at the start.
    ///
    /// # Errors
    /// As [`WorkloadPods::new`].
    pub(super) fn new(
        access: Access,
        inventory: Arc<dyn Inventory>,
        clock: Arc<dyn Clock>,
        permits: Vec<(ClusterId, Permit)>,
        query: WorkloadLogQuery,
    ) -> Result<Self> {
        let WorkloadLogQuery { workload, containers, start, previous, .. } = query;
        let mut events = Vec::with_capacity(permits.len());
        let mut clusters = Vec::with_capacity(permits.len());
        for (at, (id, permit)) in permits.into_iter().enumerate() {
            let (inventory, spawner) = (inventory.clone(), access.spawner.clone());
            let pods = WorkloadPods::new(inventory, spawner, permit.clone(), workload.clone())?.events();
            // the pods that there are have all the previous logs that there are
            let pods = if previous { pods.take(1).boxed() } else { pods };
            events.push(pods.map(move |event| (at, event)).boxed());
            let (behind_until, failure) = (None, None);
            clusters.push(Cluster {
                id,
                permit,
                has_answered: false,
                was_read: false,
                behind_until,
                failure,
            });
        }
        let (first, later) = modes(start, previous);
        Ok(Self {
            merger: Merger::new(access.spawner.clone()),
            lag: Lag::new(begin(start, clock.now())),
            access,
            clock,
            containers,
            first,
            later,
            clusters,
            pods_events: select_all(events),
            pods: BTreeMap::new(),
            resolving: FuturesUnordered::new(),
            behind: HashMap::new(),
            ended: HashSet::new(),
            left_out: 0,
            may_admit: false,
            pending: VecDeque::new(),
            end: None,
        })
    }

    /// The events of the stream, up to its end.
    pub(super) fn events(mut self) -> BoxStream<'static, StreamEvent<WorkloadLogEvent>> {
        poll_fn(move |cx| self.poll(cx).map(Some)).boxed()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<StreamEvent<WorkloadLogEvent>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(StreamEvent::Next(event));
            }
            if let Some(end) = &self.end {
                return Poll::Ready(StreamEvent::End(end.clone()));
            }
            while let Poll::Ready(Some((cluster, event))) = self.pods_events.poll_next_unpin(cx) {
                self.accept(cluster, event);
            }
            while let Poll::Ready(Some((pod, containers))) = self.resolving.poll_next_unpin(cx) {
                self.open(pod, containers);
            }
            let has_started = self.admit();
            if has_started || !self.pending.is_empty() || self.end.is_some() {
                continue;
            }
            let expects_more =
                !self.resolving.is_empty() || !self.clusters.iter().all(|one| one.has_answered);
            self.merger.expect_more(expects_more);
            match self.merger.poll_next(cx) {
                Poll::Ready(merged) => self.pass_on(merged),
                Poll::Pending if self.is_complete() => self.end = Some(StreamEnd::Completed),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether all that was to be read once has been read.
    fn is_complete(&self) -> bool {
        self.pods_events.is_empty() && self.resolving.is_empty() && self.merger.len() == 0
    }

    fn accept(&mut self, at: usize, event: PodsEvent) {
        let is_first = !self.clusters[at].was_read;
        match event {
            PodsEvent::All(seen) => {
                let cluster = &mut self.clusters[at];
                (cluster.has_answered, cluster.was_read) = (true, true);
                (cluster.behind_until, cluster.failure) = (None, None);
                if is_first && seen.is_empty() {
                    let id = cluster.id;
                    self.report(id, None, None, SourceState::Waiting, Some("no_pods".to_owned()));
                }
                let listed: BTreeSet<_> = seen.iter().map(|pod| &pod.name).collect();
                self.pods.retain(|(of, name), _| *of != at || listed.contains(name));
                for pod in seen {
                    self.see(at, pod, is_first);
                }
                self.may_admit = true;
            }
            PodsEvent::Changes(changes) => {
                for change in changes {
                    match change {
                        PodChange::Seen(pod) => self.see(at, pod, false),
                        PodChange::Gone(name) => drop(self.pods.remove(&(at, name))),
                    }
                }
                self.may_admit = true;
            }
            PodsEvent::Failed(cause) => {
                let until = self.clock.monotonic() + MAX_BEHIND;
                let cluster = &mut self.clusters[at];
                cluster.has_answered = true;
                cluster.behind_until.get_or_insert(until);
                if cluster.failure.replace(cause) != Some(cause) {
                    let id = cluster.id;
                    self.report(id, None, None, SourceState::Failed, Some(cause.as_str().to_owned()));
                }
            }
            PodsEvent::ConnectionChanged => self.end = Some(StreamEnd::ConnectionChanged),
        }
    }

    /// Accepts a pod as it is now.
    fn see(&mut self, at: usize, seen: SeenPod, is_first: bool) {
        let key = (at, seen.name.clone());
        match self.pods.get_mut(&key) {
            Some(pod) if pod.seen.created_at == seen.created_at => {
                if pod.seen.run != seen.run {
                    for followed in &mut pod.followed {
                        // a signal that waits already is enough
                        let _ = followed.signal.try_send(());
                    }
                }
                let has_restarted = pod.seen.run.0 < seen.run.0;
                if pod.stage == PodStage::Released && has_restarted {
                    // the log of the new run is read from its first line
                    (pod.stage, pod.is_first) = (PodStage::LeftOut, false);
                }
                pod.seen = seen;
            }
            // a pod of the same name is another one
            Some(_) | None => {
                let (stage, has_failed) = (PodStage::LeftOut, false);
                self.pods.insert(key, Pod { seen, is_first, stage, has_failed, followed: Vec::new() });
            }
        }
    }

    /// Reads the containers of the newest pods while there are places. Returns whether a read was started.
    fn admit(&mut self) -> bool {
        if !std::mem::take(&mut self.may_admit) {
            return false;
        }
        let mut places = MAX_SOURCES.saturating_sub(self.merger.len() + self.resolving.len());
        let left_out = self.pods.iter().filter(|(_, pod)| pod.stage == PodStage::LeftOut);
        let mut newest: Vec<_> = left_out.map(|(key, pod)| (pod.seen.created_at, key.clone())).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        self.release(newest.iter().skip(places).map(|(created_at, _)| *created_at));
        let mut has_started = false;
        for (_, key) in newest {
            if places == 0 {
                break;
            }
            places -= 1;
            has_started = true;
            if let Some(pod) = self.pods.get_mut(&key) {
                pod.stage = PodStage::Resolving;
            }
            self.resolve(key, Duration::ZERO);
        }
        self.report_left_out();
        has_started
    }

    /// Gives the places of pods whose containers have all ended to newer pods: to those created at these times, newest
    /// first. A Job of many pods would otherwise show its first ones only.
    fn release(&mut self, created_at: impl Iterator<Item = Option<Timestamp>>) {
        let has_ended = |pod: &Pod| {
            pod.stage == PodStage::Followed
                && !pod.followed.is_empty()
                && pod.followed.iter().all(|followed| self.ended.contains(&followed.source))
        };
        let mut oldest: Vec<_> = self.pods.values_mut().filter(|pod| has_ended(pod)).collect();
        oldest.sort_unstable_by_key(|pod| pod.seen.created_at);
        for (pod, newer) in oldest.into_iter().zip(created_at) {
            if pod.seen.created_at >= newer {
                break;
            }
            pod.stage = PodStage::Released;
            pod.followed.clear();
        }
    }

    /// Begins to read the containers of a pod after a pause.
    fn resolve(&self, key: PodKey, pause: Duration) {
        let Access { api, spawner, .. } = self.access.clone();
        let permit = self.clusters[key.0].permit.clone();
        let read = async move {
            if !pause.is_zero() {
                spawner.sleep(pause).await;
            }
            let containers = api.containers(&permit, &key.1).await;
            (key, containers)
        };
        self.resolving.push(read.boxed());
    }

    /// Opens the logs of a pod's containers.
    fn open(&mut self, key: PodKey, containers: Result<PodContainers>) {
        self.may_admit = true;
        let id = self.clusters[key.0].id;
        let Some(pod) = self.pods.get_mut(&key).filter(|pod| pod.stage == PodStage::Resolving) else {
            // the pod was removed meanwhile
            return;
        };
        let name = key.1.to_string();
        let PodContainers { default, names } = match containers {
            Ok(containers) => containers,
            Err(error) if error.cause == Cause::NotFoundInCluster => {
                pod.stage = PodStage::Followed;
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut pod.has_failed, true) {
                    let reason = error.cause.as_str().to_owned();
                    self.report(id, Some(name), None, SourceState::Failed, Some(reason));
                }
                if matches!(self.later, Mode::Follow(_)) {
                    self.resolve(key, RETRY_INTERVAL);
                } else if let Some(pod) = self.pods.get_mut(&key) {
                    // previous logs are read once
                    pod.stage = PodStage::Followed;
                }
                return;
            }
        };
        let mut chosen = match &self.containers {
            ContainerChoice::Default => vec![default],
            ContainerChoice::All => names,
            ContainerChoice::Named(wanted) => names.into_iter().filter(|one| one == wanted).collect(),
        };
        let is_absent = chosen.is_empty();
        chosen.retain(|container| !pod.follows(container));
        let places = MAX_SOURCES.saturating_sub(self.merger.len());
        pod.stage = if chosen.len() > places { PodStage::LeftOut } else { PodStage::Followed };
        if is_absent && let ContainerChoice::Named(wanted) = &self.containers {
            let (container, reason) = (wanted.to_string(), Cause::NotFoundInCluster.as_str().to_owned());
            self.report(id, Some(name), Some(container), SourceState::Failed, Some(reason));
            return;
        }
        for container in chosen.into_iter().take(places) {
            self.add(&key, container);
        }
    }

    /// Adds a source.
    fn add(&mut self, key: &PodKey, container: ContainerName) {
        let cluster = &self.clusters[key.0];
        let Some(pod) = self.pods.get_mut(key) else { return };
        let mode = if pod.is_first { self.first.clone() } else { self.later.clone() };
        let (signal, changed) = mpsc::channel(1);
        let source = Arc::new(LogSource {
            cluster_id: cluster.id,
            pod: key.1.to_string(),
            container: container.to_string(),
        });
        pod.followed.push(Followed { source: source.clone(), signal });
        self.behind.insert(source.clone(), self.clock.monotonic() + OPENING);
        let names = (key.1.clone(), container);
        let items = Source::new(self.access.clone(), cluster.permit.clone(), names, mode, changed).items();
        self.merger.add(source, items);
    }

    /// Passes on what was merged.
    fn pass_on(&mut self, merged: Merged<Arc<LogSource>>) {
        match merged {
            Merged::Lines(lines) => {
                if !self.behind.is_empty() {
                    for (source, _) in &lines {
                        self.behind.remove(source);
                    }
                }
                let (is_behind, now) = (self.is_behind(), self.clock.monotonic());
                let lag = &mut self.lag;
                let line = |(source, line): (Arc<LogSource>, LogLine)| {
                    let time = line.time();
                    let id = time.filter(|time| lag.accept(&source, *time, now) && !is_behind).map(LogTime);
                    WorkloadLogLine { source, time, id, text: line.text }
                };
                self.pending.push_back(WorkloadLogEvent::Lines(lines.into_iter().map(line).collect()));
            }
            Merged::State(source, state, reason) => {
                let now = self.clock.monotonic();
                let behind_for = match state {
                    SourceState::Following => Some(OPENING),
                    SourceState::Failed => Some(MAX_BEHIND),
                    SourceState::Waiting | SourceState::Ended | SourceState::LeftOut => None,
                };
                match behind_for {
                    Some(time) => self.behind.insert(source.clone(), now + time),
                    None => self.behind.remove(&source),
                };
                if state == SourceState::Ended {
                    self.lag.remove(&source);
                    self.ended.insert(source.clone());
                } else {
                    self.ended.remove(&source);
                }
                let LogSource { cluster_id, pod, container } = &*source;
                self.report(*cluster_id, Some(pod.clone()), Some(container.clone()), state, reason);
            }
            Merged::Over(source) => {
                self.behind.remove(&source);
                self.lag.remove(&source);
                self.ended.remove(&source);
                self.may_admit = true;
            }
        }
    }

    /// Whether a line may still come that is much older than those that were sent.
    fn is_behind(&mut self) -> bool {
        let now = self.clock.monotonic();
        self.behind.retain(|_, until| *until > now);
        let is_cluster_behind =
            |one: &Cluster| !one.has_answered || one.behind_until.is_some_and(|until| until > now);
        !self.behind.is_empty() || !self.resolving.is_empty() || self.clusters.iter().any(is_cluster_behind)
    }

    fn report(
        &mut self,
        cluster: ClusterId,
        pod: Option<String>,
        container: Option<String>,
        state: SourceState,
        reason: Option<String>,
    ) {
        let cluster_id = Some(cluster);
        let event = SourceEvent { cluster_id, pod, container, state, reason, pods: None };
        self.pending.push_back(WorkloadLogEvent::Source(event));
    }

    /// Reports how many pods are left out, if their number has changed.
    fn report_left_out(&mut self) {
        let left_out = self.pods.values().filter(|pod| pod.stage == PodStage::LeftOut).count();
        if std::mem::replace(&mut self.left_out, left_out) != left_out {
            self.pending.push_back(WorkloadLogEvent::Source(SourceEvent {
                cluster_id: None,
                pod: None,
                container: None,
                state: SourceState::LeftOut,
                reason: Some("too_many_sources".to_owned()),
                pods: Some(left_out),
            }));
        }
    }
}
