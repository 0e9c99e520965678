//! Limits of the stream, clusters that cannot be read, and the end of the stream.

use pilothouse_core::{
    access::Permit,
    inventory::{Inventory, Listing},
    rows::ListQuery,
    testing::fake::{Condition, FakeClusters},
    workload_log::{MAX_SOURCES, SourceState},
};

use super::*;

#[test]
fn at_most_fifty_containers_are_followed_and_the_rest_is_reported() {
    let fixture = Fixture::new();
    for n in 0..60 {
        fixture.put(&pod("web", &format!("web-{n}"), n));
    }
    let events = fixture.fake.clusters.next_watch();
    let logs: Vec<_> = (0..60).map(|_| fixture.fake.clusters.next_log()).collect();
    let mut followed = fixture.follow(fixture.query());
    followed.until("left_out: too_many_sources 10");
    followed.until("web-10 app following");
    assert_eq!(followed.reported.len(), MAX_SOURCES - 1, "the newest ones: {:?}", followed.reported);
    // a place becomes free
    change(&events, Change::Removed(row(&pod("web", "web-59", 59))));
    drop(logs);
    followed.until("left_out: too_many_sources 9");
    followed.until("web-9 app following");
}

#[test]
fn containers_that_had_no_place_are_followed_when_one_is_free() {
    let fixture = Fixture::new();
    let pods: Vec<_> = (0..20)
        .map(|n| {
            let mut pod = pod("web", &format!("web-{n}"), n);
            pod["spec"]["containers"] = json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]);
            pod
        })
        .collect();
    for pod in &pods {
        fixture.put(pod);
    }
    let events = fixture.fake.clusters.next_watch();
    let mut logs: Vec<_> = (0..60).map(|_| fixture.fake.clusters.next_log()).collect();
    let mut followed =
        fixture.follow(WorkloadLogQuery { containers: ContainerChoice::All, ..fixture.query() });
    followed.until("left_out: too_many_sources 4");
    followed.until("web-3 b following");
    // three places become free: one for the rest of the pod that was followed in part, two for the next one
    change(&events, Change::Removed(row(&pods[19])));
    drop(logs.drain(..3));
    followed.until("web-3 c following");
    followed.until("web-2 b following");
}

#[test]
fn ended_containers_give_their_places_to_newer_pods() {
    let fixture = Fixture::new();
    let pods: Vec<_> = (0..50).map(|n| pod("web", &format!("web-{n}"), n)).collect();
    for pod in &pods {
        fixture.put(pod);
    }
    let events = fixture.fake.clusters.next_watch();
    // each log has one line and ends
    let mut followed = fixture.follow(fixture.query());
    let count_ended =
        |followed: &Followed| followed.reported.iter().filter(|one| one.ends_with(" ended")).count();
    while count_ended(&followed) < MAX_SOURCES {
        followed.next();
    }
    let newer = pod("web", "web-50", 50);
    fixture.put(&newer);
    change(&events, Change::Added(row(&newer)));
    followed.until("web-50 app following");

    // the oldest one lost its place; it is followed again if it restarts while there is a place
    followed.reported.clear();
    let mut restarted = pods[0].clone();
    restarted["status"]["containerStatuses"] =
        json!([{"name": "app", "restartCount": 1, "state": {"running": {}}}]);
    change(&events, Change::Removed(row(&pods[1])));
    change(&events, Change::Changed(row(&pods[0]), row(&restarted)));
    followed.until("web-0 app following");
}

#[test]
fn connections_are_limited_and_what_cannot_be_followed_is_reported() {
    let limits = StreamLimits { log_connections: 1, ..StreamLimits::default() };
    let fixture = Fixture::with(limits, Arc::new(PatientSpawner));
    for pod in [pod("web", "web-b", 1), pod("web", "web-a", 2)] {
        fixture.put(&pod);
    }
    let _events = fixture.fake.clusters.next_watch();
    let [a, b] = [(); 2].map(|()| fixture.fake.clusters.next_log());
    let mut followed = fixture.follow(fixture.query());
    followed.until("web-a app following");
    followed.until("web-b app failed: overloaded");
    drop(a);
    // the other one takes the connection as soon as it is free
    followed.until("web-b app following");
    write(&b, 1, "at last");
    assert_eq!(followed.lines(1), ["web-b at last"]);
}

#[test]
fn cluster_that_cannot_be_read_is_reported_and_the_other_goes_on() {
    let fixture = Fixture::new();
    let [first, second] = fixture.clusters;
    fixture.fake.clusters.put(second, Kind::Pod, pod("web", "web-z", 1));
    fixture.fake.clusters.set(first, Condition::Failing(Cause::Unreachable));
    let _events = fixture.fake.clusters.next_watch();
    let log = fixture.fake.clusters.next_log();
    write(&log, 1, "one");
    let mut followed = fixture.follow(WorkloadLogQuery { clusters: vec![first, second], ..fixture.query() });
    assert_eq!(followed.lines(1), ["web-z one"]);
    assert!(followed.reported.contains(&"failed: unreachable".to_owned()), "{:?}", followed.reported);
}

/// Clusters whose lists cannot be watched.
struct Unwatched(Arc<FakeClusters>);

#[async_trait]
impl Inventory for Unwatched {
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        self.0.page(permit, list, query).await
    }
}

#[test]
fn pods_that_cannot_be_watched_are_read_at_intervals() {
    let fake = Fake::default();
    let mut ports = fake.ports();
    ports.objects.inventory = Arc::new(Unwatched(fake.clusters.clone()));
    ports.runtime.spawner = Arc::new(PatientSpawner);
    let fixture = Fixture::of(fake, ports, StreamLimits::default());
    fixture.put(&pod("web", "web-a", 1));
    let [a, b] = [(); 2].map(|()| fixture.fake.clusters.next_log());
    let mut followed = fixture.follow(fixture.query());
    followed.until("web-a app following");
    fixture.put(&pod("web", "web-b", 2));
    followed.until("web-b app following");
    write(&a, 1, "one");
    write(&b, 2, "two");
    assert_eq!(followed.lines(2), ["web-a one", "web-b two"]);
}

#[test]
fn workload_without_pods_is_reported_and_waited_for() {
    let fixture = Fixture::new();
    let events = fixture.fake.clusters.next_watch();
    let log = fixture.fake.clusters.next_log();
    let mut followed = fixture.follow(fixture.query());
    followed.until("waiting: no_pods");
    let pod = pod("web", "web-a", 1);
    fixture.put(&pod);
    write(&log, 1, "one");
    change(&events, Change::Added(row(&pod)));
    assert_eq!(followed.lines(1), ["web-a one"]);
}

#[test]
fn stream_ends_with_its_cluster_its_connection_and_the_server() {
    for (end, reason) in [(0, "not_found"), (1, "connection_changed"), (2, "server_stopping")] {
        let fixture = Fixture::new();
        fixture.put(&pod("web", "web-a", 1));
        let events = fixture.fake.clusters.next_watch();
        let log = fixture.fake.clusters.next_log();
        let mut followed = fixture.follow(fixture.query());
        followed.until("web-a app following");
        match end {
            0 => {
                block_on(fixture.app.clusters.delete(&Caller::system(), fixture.clusters[0])).unwrap();
            }
            1 => events.unbounded_send(ListEvent::ConnectionChanged).unwrap(),
            _ => fixture.app.streams.close(),
        }
        assert_eq!(followed.end().reason(), reason);
        eventually("the log is closed", || log.is_closed());
    }
}

/// Number of lines of a long log, each of 1 kB.
const LONG: u32 = 300;

/// This number of pods, each with a long log.
fn with_long_logs(pods: u32, spawner: Arc<dyn Spawner>) -> (Fixture, Vec<Log>) {
    let fixture = Fixture::with(StreamLimits::default(), spawner);
    for n in 0..pods {
        fixture.put(&pod("web", &format!("web-{n}"), n));
    }
    let logs: Vec<_> = (0..pods).map(|_| fixture.fake.clusters.next_log()).collect();
    for log in &logs {
        for n in 0..LONG {
            write(log, n, &"x".repeat(1000));
        }
    }
    (fixture, logs)
}

#[test]
fn logs_are_read_only_as_far_as_the_reader_reads() {
    let (fixture, logs) = with_long_logs(50, Arc::new(PatientSpawner));
    let _events = fixture.fake.clusters.next_watch();
    let mut followed = fixture.follow(fixture.query());
    followed.lines(1);
    let read = || logs.iter().map(|log| LONG as usize - log.len()).sum::<usize>();
    let mut before = 0;
    while std::mem::replace(&mut before, read()) != before {
        thread::sleep(Duration::from_millis(100));
    }
    // a line of each log waits, and about ten batches of 17 lines are buffered
    assert!((50..400).contains(&before), "{before} lines were read");
    assert!(logs.iter().all(|log| !log.is_closed()));
    // the rest is still there
    followed.lines(5000);
}

#[test]
fn stalled_reader_is_ended_with_few_lines_buffered() {
    let (fixture, logs) = with_long_logs(10, Arc::new(ThreadSpawner));
    let _events = fixture.fake.clusters.next_watch();
    let mut followed = fixture.follow(fixture.query());
    eventually("the logs are closed", || logs.iter().all(UnboundedSender::is_closed));
    let mut read = 0;
    let end = loop {
        match followed.next() {
            StreamEvent::Next(WorkloadLogEvent::Lines(lines)) => read += lines.len(),
            StreamEvent::Next(WorkloadLogEvent::Source(_)) => {}
            StreamEvent::End(end) => break end,
        }
    };
    assert_eq!(end, StreamEnd::TooSlow);
    assert!(read < 200, "{read}");
}

#[test]
fn states_have_the_names_of_the_contract() {
    let names = [
        (SourceState::Following, "following"),
        (SourceState::Waiting, "waiting"),
        (SourceState::Ended, "ended"),
        (SourceState::Failed, "failed"),
        (SourceState::LeftOut, "left_out"),
    ];
    for (state, name) in names {
        assert_eq!(serde_json::to_value(state).unwrap(), name);
    }
}
