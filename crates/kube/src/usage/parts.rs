//! The parts of a cluster's usage that are polled: all nodes, all pods, the pods of a namespace. Which ones, and when,
//! follows from the reads.

use std::{collections::HashMap, sync::Arc, time::Duration};

use pilothouse_core::{
    Result,
    access::Permit,
    gate::Warning,
    kind::Kind,
    name::Namespace,
    namespaces::NamespaceScope,
    usage::{KnownUsage, UsageTable},
};
use tokio::time::Instant;

/// Interval between two polls of a part.
pub(super) const INTERVAL: Duration = Duration::from_secs(30);
/// Time after the last read for which a part is polled.
const IDLE: Duration = Duration::from_secs(120);
/// Time after which usage that could not be read again is not shown any more.
const MAX_AGE: Duration = Duration::from_secs(90);
/// Maximum number of namespaces that are polled one by one. For more, all pods are polled.
const MAX_NAMESPACES: usize = 16;
/// The API group of usage, in warnings.
const API: &str = "metrics.k8s.io";

/// A part of a cluster's usage that one request reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Nodes,
    Pods,
    PodsOf(Namespace),
}

impl Part {
    /// Kind and namespace of the request.
    pub(super) fn target(&self) -> (Kind, Option<&Namespace>) {
        match self {
            Self::Nodes => (Kind::Node, None),
            Self::Pods => (Kind::Pod, None),
            Self::PodsOf(namespace) => (Kind::Pod, Some(namespace)),
        }
    }

    /// Whether the part has the objects of this namespace; `None`: nodes.
    pub(super) fn contains(&self, namespace: Option<&str>) -> bool {
        match (self, namespace) {
            (Self::Nodes, namespace) => namespace.is_none(),
            (Self::Pods, namespace) => namespace.is_some(),
            (Self::PodsOf(own), namespace) => namespace == Some(own.as_str()),
        }
    }
}

/// Result of a poll.
pub(super) enum Polled {
    Read(UsageTable),
    /// The cluster does not serve the API, or its server is not available.
    Absent,
    /// The credential may not read it.
    Forbidden,
    Failed,
}

/// State of a part.
struct State {
    /// Permit of the requests.
    permit: Permit,
    known: KnownUsage,
    read_at: Instant,
    /// Last read of workloads.
    workloads_read_at: Option<Instant>,
    /// Whether the last poll that began is of workloads, too.
    polls_workloads: bool,
    polled_at: Option<Instant>,
    /// Last poll that read something.
    known_at: Option<Instant>,
}

impl State {
    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.read_at) > IDLE
    }

    fn wants_workloads(&self, now: Instant) -> bool {
        self.workloads_read_at.is_some_and(|at| now.saturating_duration_since(at) <= IDLE)
    }

    fn due_at(&self) -> Option<Instant> {
        self.polled_at.map(|at| at + INTERVAL)
    }
}

/// A part that is to be polled.
pub(super) struct Due {
    pub(super) part: Part,
    pub(super) permit: Permit,
    /// Whether the usage of workloads is read, too.
    pub(super) with_workloads: bool,
}

/// The parts of a cluster that are read.
#[derive(Default)]
pub(super) struct Parts(HashMap<Part, State>);

impl Parts {
    /// Records a read under a permit. Returns the part that serves it, and whether what is read was not read before: the
    /// part, or the usage of workloads in it.
    ///
    /// # Errors
    /// As [`Permit::for_usage`].
    pub(super) fn record_read(&mut self, permit: &Permit, now: Instant) -> Result<(Part, bool)> {
        let own = permit.for_usage()?;
        let is_of_workloads = permit.kind()? != own.kind()?;
        let (part, keeps) = self.choose(own.kind()?, permit.namespaces(), now);
        let mut is_new = !self.0.contains_key(&part);
        let state = self.0.entry(part.clone()).or_insert_with(|| State {
            permit: own,
            known: KnownUsage::default(),
            read_at: now,
            workloads_read_at: None,
            polls_workloads: false,
            polled_at: None,
            known_at: None,
        });
        if keeps {
            state.read_at = now;
        }
        if is_of_workloads {
            if !state.wants_workloads(now) {
                state.polled_at = None;
                is_new = true;
            }
            state.workloads_read_at = Some(now);
        }
        Ok((part, is_new))
    }

    /// The part that serves a read of a kind in these namespaces, and whether the read keeps it polled: one of a
    /// namespace uses all pods while others read them, and does not keep them polled.
    fn choose(&self, kind: Kind, namespaces: &NamespaceScope, now: Instant) -> (Part, bool) {
        let own = match namespaces.one() {
            _ if kind == Kind::Node => return (Part::Nodes, true),
            None => return (Part::Pods, true),
            Some(namespace) => Part::PodsOf(namespace.clone()),
        };
        let count = self.0.keys().filter(|part| matches!(part, Part::PodsOf(_))).count();
        if count >= MAX_NAMESPACES && !self.0.contains_key(&own) {
            return (Part::Pods, true);
        }
        let whole = self.0.get(&Part::Pods).filter(|state| !state.is_idle(now));
        // a credential of a namespace is refused for all pods
        let serves = whole.is_some_and(|state| state.known.warning.is_none());
        if serves { (Part::Pods, false) } else { (own, true) }
    }

    /// Removes the parts that nobody reads any more, and returns those that are to be polled now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Due> {
        self.0.retain(|_, state| !state.is_idle(now));
        let due = self.0.iter_mut().filter(|(_, state)| state.due_at().is_none_or(|at| at <= now));
        let due = due.map(|(part, state)| {
            state.polls_workloads = state.wants_workloads(now);
            Due { part: part.clone(), permit: state.permit.clone(), with_workloads: state.polls_workloads }
        });
        due.collect()
    }

    /// Time of the next poll; `None` without parts.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|state| state.due_at().unwrap_or(now)).min()
    }

    /// Stores the result of a poll.
    pub(super) fn store(&mut self, part: &Part, polled: Polled, now: Instant) {
        let Some(state) = self.0.get_mut(part) else { return };
        // workloads that were first read meanwhile are polled next
        let is_whole = state.polls_workloads || !state.wants_workloads(now);
        state.polled_at = is_whole.then_some(now);
        let without = |warning| KnownUsage { table: Arc::default(), warning };
        match polled {
            Polled::Read(table) => {
                state.known = KnownUsage { table: Arc::new(table), warning: None };
                state.known_at = Some(now);
            }
            Polled::Absent => state.known = without(Some(Warning::NotServed(API))),
            Polled::Forbidden => state.known = without(Some(Warning::Unreadable(API))),
            Polled::Failed => {
                if state.known_at.is_none_or(|at| now.saturating_duration_since(at) > MAX_AGE) {
                    state.known = without(None);
                }
            }
        }
    }

    /// What is known of a part.
    pub(super) fn known(&self, part: &Part) -> KnownUsage {
        self.0.get(part).map(|state| state.known.clone()).unwrap_or_default()
    }

    /// Whether a part was polled at least once, or is not read any more.
    pub(super) fn is_polled(&self, part: &Part) -> bool {
        self.0.get(part).is_none_or(|state| state.polled_at.is_some())
    }

    /// Whether any part is read.
    pub(super) fn is_read(&self, now: Instant) -> bool {
        self.0.values().any(|state| !state.is_idle(now))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pilothouse_core::{
        access::{AccessRequest, Caller, Resource, Verb},
        ids::ClusterId,
        testing,
        usage::{Subject, Usage, UsageTableBuilder},
    };

    use super::*;

    fn permit(kind: Kind, namespace: Option<&str>) -> Permit {
        let access = AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(ClusterId(1));
        let access = match namespace {
            Some(namespace) => access.in_namespace(&Namespace::new(namespace).unwrap()),
            None if kind == Kind::Node => access,
            None => access.within(NamespaceScope::All),
        };
        testing::permit(&Caller::system(), access)
    }

    fn of(namespace: &str) -> Part {
        Part::PodsOf(Namespace::new(namespace).unwrap())
    }

    fn read(parts: &mut Parts, kind: Kind, namespace: Option<&str>, now: Instant) -> (Part, bool) {
        parts.record_read(&permit(kind, namespace), now).unwrap()
    }

    fn due(parts: &mut Parts, now: Instant) -> Vec<Part> {
        let mut due: Vec<_> = parts.due(now).into_iter().map(|due| due.part).collect();
        due.sort_by_key(|part| format!("{part:?}"));
        due
    }

    fn table() -> UsageTable {
        let mut builder = UsageTableBuilder::default();
        let usage = Usage { cpu_millis: 1, memory_bytes: 1024, at: Timestamp::UNIX_EPOCH };
        builder.add(Subject::Pod { namespace: "a", name: "x" }, usage);
        builder.finish()
    }

    #[test]
    fn parts_are_polled_while_they_are_read() {
        let (mut parts, start) = (Parts::default(), Instant::now());
        assert_eq!(read(&mut parts, Kind::Pod, Some("a"), start), (of("a"), true));
        assert_eq!(read(&mut parts, Kind::Node, None, start), (Part::Nodes, true));
        assert_eq!(read(&mut parts, Kind::Pod, Some("a"), start), (of("a"), false));
        assert_eq!(due(&mut parts, start), [Part::Nodes, of("a")]);
        assert!(!parts.is_polled(&Part::Nodes));
        for part in [Part::Nodes, of("a")] {
            parts.store(&part, Polled::Read(table()), start);
        }
        assert!(parts.is_polled(&Part::Nodes) && due(&mut parts, start + INTERVAL / 2).is_empty());
        assert_eq!(parts.next_due(start), Some(start + INTERVAL));
        read(&mut parts, Kind::Node, None, start + IDLE);
        assert_eq!(due(&mut parts, start + IDLE + INTERVAL), [Part::Nodes], "nobody reads the pods");
        let end = start + 3 * IDLE;
        assert!(!parts.is_read(end) && due(&mut parts, end).is_empty() && parts.next_due(end).is_none());
    }

    #[test]
    fn read_of_a_namespace_uses_all_pods_without_keeping_them_polled() {
        let (mut parts, start) = (Parts::default(), Instant::now());
        assert_eq!(read(&mut parts, Kind::Pod, None, start), (Part::Pods, true));
        let later = start + IDLE;
        assert_eq!(read(&mut parts, Kind::Pod, Some("a"), later), (Part::Pods, false));
        let end = later + Duration::from_secs(1);
        assert_eq!(read(&mut parts, Kind::Pod, Some("a"), end), (of("a"), true));
        assert_eq!(due(&mut parts, end), [of("a")]);
    }

    #[test]
    fn many_namespaces_are_polled_together() {
        let (mut parts, now) = (Parts::default(), Instant::now());
        read(&mut parts, Kind::Pod, None, now);
        parts.store(&Part::Pods, Polled::Forbidden, now);
        for n in 0..MAX_NAMESPACES {
            let namespace = format!("n{n}");
            assert_eq!(read(&mut parts, Kind::Pod, Some(&namespace), now), (of(&namespace), true));
        }
        assert_eq!(read(&mut parts, Kind::Pod, Some("more"), now), (Part::Pods, false));
        assert_eq!(read(&mut parts, Kind::Pod, Some("n0"), now), (of("n0"), false));
    }

    #[test]
    fn first_read_of_workloads_polls_at_once() {
        let (mut parts, now) = (Parts::default(), Instant::now());
        read(&mut parts, Kind::Pod, Some("a"), now);
        parts.store(&of("a"), Polled::Read(table()), now);
        assert!(parts.due(now).is_empty());
        assert_eq!(read(&mut parts, Kind::Deployment, Some("a"), now), (of("a"), true), "it is waited for");
        assert!(parts.due(now)[0].with_workloads);
        assert_eq!(read(&mut parts, Kind::Deployment, Some("a"), now), (of("a"), false));
    }

    #[test]
    fn workloads_that_are_read_during_a_poll_are_polled_next() {
        let (mut parts, now) = (Parts::default(), Instant::now());
        read(&mut parts, Kind::Pod, Some("a"), now);
        assert!(!parts.due(now)[0].with_workloads);
        read(&mut parts, Kind::Deployment, Some("a"), now);
        parts.store(&of("a"), Polled::Read(table()), now);
        assert!(!parts.is_polled(&of("a")) && parts.due(now)[0].with_workloads);
        parts.store(&of("a"), Polled::Read(table()), now);
        assert!(parts.is_polled(&of("a")) && parts.due(now).is_empty());
    }

    #[test]
    fn usage_of_an_absent_api_is_a_warning_and_of_a_failing_one_the_last_known() {
        let (mut parts, start) = (Parts::default(), Instant::now());
        read(&mut parts, Kind::Pod, Some("a"), start);
        let part = of("a");
        let known = |parts: &Parts| {
            let KnownUsage { table, warning } = parts.known(&of("a"));
            (table.is_empty(), warning)
        };
        parts.store(&part, Polled::Read(table()), start);
        parts.store(&part, Polled::Failed, start + MAX_AGE);
        assert_eq!(known(&parts), (false, None));
        parts.store(&part, Polled::Failed, start + MAX_AGE + INTERVAL);
        assert_eq!(known(&parts), (true, None));
        parts.store(&part, Polled::Absent, start);
        assert_eq!(known(&parts), (true, Some(Warning::NotServed("metrics.k8s.io"))));
        parts.store(&part, Polled::Forbidden, start);
        assert_eq!(known(&parts), (true, Some(Warning::Unreadable("metrics.k8s.io"))));
        assert_eq!(parts.known(&Part::Nodes).warning, None);
    }
}
