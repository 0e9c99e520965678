//! Following the logs of a workload on the in-memory ports: the lines of its pods, what is reported of them, and the end of
//! the stream.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    future::pending,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_channel::mpsc::UnboundedSender;
use futures_executor::block_on;
use futures_util::{
    StreamExt,
    future::{BoxFuture, ready},
    stream,
};
use pilothouse_core::{
    Cause, Error, Result,
    access::Caller,
    app::{App, AppSettings, Ports},
    ids::ClusterId,
    inventory::{List, ListEvent},
    kind::Kind,
    name::{ContainerName, Namespace, ObjectName},
    pod::{FollowStart, MockPodApi, PodContainers},
    rows::{Change, Row},
    spawn::{Computation, Spawner},
    streams::{StreamEnd, StreamEvent, StreamLimits},
    testing::{
        fake::{Fake, ThreadSpawner},
        new_cluster,
    },
    workload::{WorkloadRef, WorkloadType},
    workload_log::{
        ContainerChoice, LineFilter, WorkloadLogEvent, WorkloadLogQuery, WorkloadLogStart, WorkloadLogStream,
    },
};
use serde_json::{Value, json, value::to_raw_value};

mod limits;

type Log = UnboundedSender<Result<Vec<u8>>>;

struct Fixture {
    fake: Fake,
    app: App,
    clusters: [ClusterId; 2],
}

impl Fixture {
    fn new() -> Self {
        Self::with(StreamLimits::default(), Arc::new(PatientSpawner))
    }

    fn with(streams: StreamLimits, spawner: Arc<dyn Spawner>) -> Self {
        let fake = Fake::default();
        let mut ports = fake.ports();
        ports.runtime.spawner = spawner;
        Self::of(fake, ports, streams)
    }

    fn of(fake: Fake, ports: Ports, streams: StreamLimits) -> Self {
        let app = App::new(ports, AppSettings { streams, ..AppSettings::default() });
        let clusters = ["demo", "second"].map(|name| {
            block_on(app.clusters.create(&Caller::system(), new_cluster(name))).unwrap().value.id
        });
        fake.clusters.calls();
        Self { fake, app, clusters }
    }

    /// Adds a pod of the deployment `web`. The logs of a pod are opened before those of an older one.
    fn put(&self, pod: &Value) {
        self.fake.clusters.put(self.clusters[0], Kind::Pod, pod.clone());
    }

    fn query(&self) -> WorkloadLogQuery {
        WorkloadLogQuery {
            clusters: vec![self.clusters[0]],
            workload: WorkloadRef {
                namespace: Namespace::new("shop").unwrap(),
                kind: WorkloadType::Deployment,
                name: ObjectName::new("web").unwrap(),
            },
            containers: ContainerChoice::Default,
            start: WorkloadLogStart::Newest { lines: 100, since_seconds: None },
            previous: false,
            filter: None,
        }
    }

    fn follow(&self, query: WorkloadLogQuery) -> Followed {
        let stream = block_on(self.app.workload_logs.follow(&Caller::system(), query)).unwrap();
        Followed { stream, reported: Vec::new() }
    }
}

/// Spawner whose tasks wait for a slow reader as long as it takes.
struct PatientSpawner;

#[async_trait]
impl Spawner for PatientSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        ThreadSpawner.spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        if duration == StreamLimits::default().stall_timeout {
            pending::<()>().await;
        }
        ThreadSpawner.sleep(duration).await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        ThreadSpawner.compute(work).await
    }
}

/// A pod of a deployment, created in this minute.
fn pod(deployment: &str, name: &str, minute: u32) -> Value {
    let owner = json!({"kind": "ReplicaSet", "name": format!("{deployment}-5d9f"), "controller": true});
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"pod-template-hash": "5d9f"},
            "ownerReferences": [owner], "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "app"}]},
        "status": {"phase": "Running"},
    })
}

fn row(pod: &Value) -> Row {
    let project = List::Pods.info().project.unwrap();
    project(Kind::Pod, &to_raw_value(pod).unwrap()).unwrap().remove(0)
}

fn change(events: &UnboundedSender<ListEvent>, change: Change) {
    events.unbounded_send(ListEvent::Changes(vec![change].into())).unwrap();
}

/// Writes a line in this second.
fn write(log: &Log, second: u32, text: &str) {
    let line = format!("2026-01-01T00:{:02}:{:02}Z {text}\n", second / 60, second % 60);
    log.unbounded_send(Ok(line.into_bytes())).unwrap();
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

/// The stream, and what it reported of its sources.
struct Followed {
    stream: WorkloadLogStream,
    reported: Vec<String>,
}

impl Followed {
    /// The next lines, each with its pod.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            match self.next() {
                StreamEvent::Next(WorkloadLogEvent::Lines(lines)) => {
                    found.extend(lines.iter().map(|line| format!("{} {}", line.source.pod, line.text)));
                }
                StreamEvent::Next(WorkloadLogEvent::Source(_)) => {}
                StreamEvent::End(end) => panic!("{}: {found:?}", end.reason()),
            }
        }
        found
    }

    /// Reads until this was reported of a source.
    fn until(&mut self, reported: &str) {
        while !self.reported.iter().any(|one| one == reported) {
            if let StreamEvent::End(end) = self.next() {
                panic!("{}: {:?}", end.reason(), self.reported);
            }
        }
        self.reported.retain(|one| one != reported);
    }

    fn end(&mut self) -> StreamEnd {
        loop {
            if let StreamEvent::End(end) = self.next() {
                return end;
            }
        }
    }

    fn next(&mut self) -> StreamEvent<WorkloadLogEvent> {
        let event = block_on(self.stream.next()).unwrap();
        if let StreamEvent::Next(WorkloadLogEvent::Source(source)) = &event {
            let state = serde_json::to_value(source.state).unwrap();
            let parts = [source.pod.as_deref(), source.container.as_deref(), state.as_str()];
            let mut text = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
            text.extend(source.reason.iter().map(|reason| format!(": {reason}")));
            text.extend(source.pods.map(|pods| format!(" {pods}")));
            self.reported.push(text);
        }
        event
    }
}

#[test]
fn lines_of_all_pods_are_merged_by_time() {
    let fixture = Fixture::new();
    for pod in [pod("web", "web-b", 1), pod("web", "web-a", 2), pod("api", "api-a", 3)] {
        fixture.put(&pod);
    }
    let _events = fixture.fake.clusters.next_watch();
    let [a, b] = [(); 2].map(|()| fixture.fake.clusters.next_log());
    write(&a, 2, "two");
    write(&a, 4, "four");
    write(&b, 1, "one");
    write(&b, 3, "three");
    let mut followed = fixture.follow(fixture.query());
    assert_eq!(followed.lines(4), ["web-b one", "web-a two", "web-b three", "web-a four"]);
    assert_eq!(followed.reported, ["web-a app following", "web-b app following"]);
    write(&b, 5, "five");
    assert_eq!(followed.lines(1), ["web-b five"]);
    drop(followed);
    eventually("the logs are closed", || a.is_closed() && b.is_closed());
}

#[test]
fn later_pod_is_followed_and_a_removed_one_is_over() {
    let fixture = Fixture::new();
    let first = pod("web", "web-a", 1);
    fixture.put(&first);
    let events = fixture.fake.clusters.next_watch();
    let a = fixture.fake.clusters.next_log();
    let mut followed = fixture.follow(fixture.query());
    followed.until("web-a app following");
    let later = pod("web", "web-b", 2);
    fixture.put(&later);
    let b = fixture.fake.clusters.next_log();
    change(&events, Change::Added(row(&pod("api", "api-a", 2))));
    change(&events, Change::Added(row(&later)));
    followed.until("web-b app following");
    write(&b, 1, "started");
    assert_eq!(followed.lines(1), ["web-b started"]);
    change(&events, Change::Removed(row(&first)));
    drop(a);
    followed.until("web-a app ended");
    write(&b, 2, "alone");
    assert_eq!(followed.lines(1), ["web-b alone"]);
}

#[test]
fn restarted_container_goes_on_after_its_last_line() {
    let fixture = Fixture::new();
    let mut pod = pod("web", "web-a", 1);
    fixture.put(&pod);
    let events = fixture.fake.clusters.next_watch();
    let log = fixture.fake.clusters.next_log();
    let mut followed = fixture.follow(fixture.query());
    write(&log, 1, "one");
    write(&log, 2, "two");
    assert_eq!(followed.lines(2), ["web-a one", "web-a two"]);
    drop(log);
    followed.until("web-a app ended");
    let next = fixture.fake.clusters.next_log();
    write(&next, 2, "two");
    write(&next, 3, "three");
    let before = row(&pod);
    pod["status"]["containerStatuses"] =
        json!([{"name": "app", "restartCount": 1, "state": {"running": {}}}]);
    change(&events, Change::Changed(before, row(&pod)));
    followed.until("web-a app following");
    assert_eq!(followed.lines(1), ["web-a three"], "a line comes once");
}

#[test]
fn container_that_starts_later_is_read_from_its_first_line() {
    let mut pods = MockPodApi::new();
    let app = || ContainerName::new("app").unwrap();
    pods.expect_containers().returning(move |_, _| Ok(PodContainers { default: app(), names: vec![app()] }));
    let not_started = || Error::new(Cause::ContainerNotStarted).message("PodInitializing");
    pods.expect_follow().once().returning(move |_, _, _| Err(not_started()));
    pods.expect_follow().returning(|_, _, follow| {
        assert_eq!(follow.start, FollowStart::Beginning);
        let line = Ok(b"2026-01-01T00:00:01Z started\n".to_vec());
        Ok(stream::once(ready(line)).chain(stream::pending()).boxed())
    });
    let fake = Fake::default();
    let mut ports = fake.ports();
    ports.objects.pods = Arc::new(pods);
    let fixture = Fixture::of(fake, ports, StreamLimits::default());
    let mut pod = pod("web", "web-a", 1);
    pod["status"]["phase"] = json!("Pending");
    fixture.put(&pod);
    let events = fixture.fake.clusters.next_watch();
    let mut followed = fixture.follow(fixture.query());
    followed.until("web-a app waiting: PodInitializing");
    let before = row(&pod);
    pod["status"]["phase"] = json!("Running");
    change(&events, Change::Changed(before, row(&pod)));
    assert_eq!(followed.lines(1), ["web-a started"]);
}

#[test]
fn container_that_never_started_ends_with_its_pod() {
    let mut pods = MockPodApi::new();
    let app = || ContainerName::new("app").unwrap();
    pods.expect_containers().returning(move |_, _| Ok(PodContainers { default: app(), names: vec![app()] }));
    pods.expect_follow().returning(|_, _, _| Err(Error::new(Cause::ContainerNotStarted)));
    let fake = Fake::default();
    let mut ports = fake.ports();
    ports.objects.pods = Arc::new(pods);
    let fixture = Fixture::of(fake, ports, StreamLimits::default());
    let pod = pod("web", "web-a", 1);
    fixture.put(&pod);
    let events = fixture.fake.clusters.next_watch();
    let mut followed = fixture.follow(fixture.query());
    followed.until("web-a app waiting");
    change(&events, Change::Removed(row(&pod)));
    followed.until("web-a app ended");
}

#[test]
fn broken_log_is_reported_and_tried_again() {
    let fixture = Fixture::new();
    fixture.put(&pod("web", "web-a", 1));
    let _events = fixture.fake.clusters.next_watch();
    let [log, next] = [(); 2].map(|()| fixture.fake.clusters.next_log());
    let mut followed = fixture.follow(fixture.query());
    write(&log, 1, "one");
    log.unbounded_send(Err(Error::new(Cause::ConnectionLost))).unwrap();
    write(&next, 1, "one");
    write(&next, 2, "two");
    assert_eq!(followed.lines(2), ["web-a one", "web-a two"]);
    assert_eq!(
        followed.reported,
        ["web-a app following", "web-a app failed: connection_lost", "web-a app following"]
    );
}

#[test]
fn line_has_no_id_while_a_log_is_behind() {
    let fixture = Fixture::new();
    for pod in [pod("web", "web-b", 1), pod("web", "web-a", 2)] {
        fixture.put(&pod);
    }
    let _events = fixture.fake.clusters.next_watch();
    let [a, b] = [(); 2].map(|()| fixture.fake.clusters.next_log());
    let mut followed = fixture.follow(fixture.query());
    let mut id = |log: &Log, second: u32| {
        write(log, second, "x");
        loop {
            if let StreamEvent::Next(WorkloadLogEvent::Lines(lines)) = followed.next() {
                break lines[0].id.map(|id| id.to_string());
            }
        }
    };
    assert_eq!(id(&a, 1), None, "the other log has sent nothing yet");
    assert_eq!(id(&b, 2).as_deref(), Some("2026-01-01T00:00:02Z"));
    assert_eq!(id(&a, 3).as_deref(), Some("2026-01-01T00:00:03Z"));
    // a log lags behind the other one
    assert_eq!(id(&a, 100).as_deref(), Some("2026-01-01T00:01:40Z"));
    assert_eq!(id(&b, 10).as_deref(), Some("2026-01-01T00:00:10Z"));
    assert_eq!(id(&a, 101), None, "lines of the other log may follow");
    assert_eq!(id(&b, 102).as_deref(), Some("2026-01-01T00:01:42Z"));
    assert_eq!(id(&a, 103).as_deref(), Some("2026-01-01T00:01:43Z"));
}

#[test]
fn filter_passes_matching_lines_only() {
    let fixture = Fixture::new();
    fixture.put(&pod("web", "web-a", 1));
    for filter in [LineFilter::text("ERROR"), LineFilter::regex("^error [0-9]+$")] {
        let _events = fixture.fake.clusters.next_watch();
        let log = fixture.fake.clusters.next_log();
        let mut followed =
            fixture.follow(WorkloadLogQuery { filter: Some(filter.unwrap()), ..fixture.query() });
        for n in 0..1000 {
            write(&log, n, if n % 500 == 0 { "error 1" } else { "fine" });
        }
        assert_eq!(followed.lines(2), ["web-a error 1", "web-a error 1"]);
    }
}

#[test]
fn containers_are_chosen_in_each_pod() {
    let fixture = Fixture::new();
    let mut one = pod("web", "web-a", 2);
    one["spec"]["containers"] = json!([{"name": "app"}, {"name": "proxy"}]);
    one["spec"]["initContainers"] = json!([{"name": "migrate"}]);
    fixture.put(&one);
    fixture.put(&pod("web", "web-b", 1));
    let reported = |containers: ContainerChoice, last: &str| {
        let _events = fixture.fake.clusters.next_watch();
        let _logs: Vec<_> = (0..4).map(|_| fixture.fake.clusters.next_log()).collect();
        let mut followed = fixture.follow(WorkloadLogQuery { containers, ..fixture.query() });
        while followed.reported.last().is_none_or(|reported| reported != last) {
            followed.next();
        }
        followed.reported
    };
    let named = ContainerChoice::Named("proxy".to_owned().try_into().unwrap());
    assert_eq!(
        reported(ContainerChoice::All, "web-b app following"),
        ["web-a migrate following", "web-a app following", "web-a proxy following", "web-b app following"]
    );
    assert!(
        reported(named, "web-a proxy following")
            .contains(&"web-b proxy failed: not_found_in_cluster".to_owned())
    );
}

#[test]
fn previous_logs_are_read_once() {
    let fixture = Fixture::new();
    for pod in [pod("web", "web-b", 1), pod("web", "web-a", 2)] {
        fixture.put(&pod);
    }
    let _events = fixture.fake.clusters.next_watch();
    let [a, b] = [(); 2].map(|()| fixture.fake.clusters.next_log());
    write(&a, 2, "crashed");
    write(&b, 1, "crashed first");
    drop((a, b));
    let mut followed = fixture.follow(WorkloadLogQuery { previous: true, ..fixture.query() });
    assert_eq!(followed.lines(2), ["web-b crashed first", "web-a crashed"]);
    assert_eq!(followed.end(), StreamEnd::Completed);
}

#[test]
fn stream_of_previous_logs_ends_also_if_a_pod_cannot_be_read() {
    let mut pods = MockPodApi::new();
    pods.expect_containers().returning(|_, _| Err(Error::new(Cause::ForbiddenByCluster)));
    let fake = Fake::default();
    let mut ports = fake.ports();
    ports.objects.pods = Arc::new(pods);
    let fixture = Fixture::of(fake, ports, StreamLimits::default());
    fixture.put(&pod("web", "web-a", 1));
    let _events = fixture.fake.clusters.next_watch();
    let mut followed = fixture.follow(WorkloadLogQuery { previous: true, ..fixture.query() });
    assert_eq!(followed.end(), StreamEnd::Completed);
    assert_eq!(followed.reported, ["web-a failed: forbidden_by_cluster"]);
}
