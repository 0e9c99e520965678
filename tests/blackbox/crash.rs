//! Crash loop: kills the server at random moments under load, and compares its audit trail with the cluster's own audit
//! log.
//!
//! `PILOTHOUSE_TEST_KILLS` sets the number of kills (`just kills 1000`), `PILOTHOUSE_TEST_KILLS_SEED` the seed. With
//! the seed that a failed run printed, the test sends the same changes and kills after the same delays, as far as the
//! scheduler permits.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use pilothouse_core::{
    ids::OperationId,
    operation::{Entry, Operation, Outcome, Status},
};
use pilothouse_testbed::{AuditEvent, ControlPlane, workloads};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    ApiResponse, Client, Install, Random, Server, apply, control_plane, create_namespace, env_number,
    eventually, register_cluster,
};

/// Kills per install. The next install starts with an empty trail, because each kill verifies the whole trail.
const KILLS_PER_INSTALL: u64 = 50;
/// Concurrent clients.
const CLIENTS: u64 = 12;
/// Maximal time under load before a kill, in milliseconds.
const MAX_LOAD_MILLIS: u64 = 600;
/// Ratio of all kills to kills during the start of the server.
const ONE_KILL_AT_START_IN: u64 = 8;
/// Maximal delay of a kill during the start, in milliseconds: about the duration of a start.
const MAX_START_MILLIS: u64 = 400;
/// Operations that a kill interrupted are closed within this time after the next start.
const ORPHANS_CLOSED_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// The cluster and namespace that the load changes.
#[derive(Clone)]
struct Target {
    cluster: i64,
    namespace: String,
}

impl Target {
    /// A random change.
    fn change(&self, random: &mut Random) -> (&'static str, Value) {
        let Self { cluster, namespace } = self;
        let of = |mut body: Value| {
            body["cluster_id"] = json!(cluster);
            body["namespace"] = json!(namespace);
            body
        };
        let map = format!("map-{}", random.below(6));
        let web = format!("web-{}", random.below(3));
        match random.below(16) {
            0..=3 => {
                let replicas = random.below(9);
                let body = json!({"type": "deployment", "name": web, "replicas": replicas});
                ("workloads/scale", of(body))
            }
            4..=5 => ("workloads/restart", of(json!({"type": "deployment", "name": web}))),
            6..=8 => ("configmaps", of(json!({"name": map, "data": {"k": random.next().to_string()}}))),
            9..=10 => {
                ("configmaps/update", of(json!({"name": map, "data": {"k": random.next().to_string()}})))
            }
            11..=12 => ("configmaps/delete", of(json!({"name": map}))),
            13..=14 => ("secrets/reveal", of(json!({"name": "sealed"}))),
            // changes Pilothouse's own tables; no connection is made
            _ => {
                let name = format!("cluster-{:x}", random.next());
                let body = json!({
                    "name": name, "auth_type": "token", "token": "of-nobody", "skip_test": true,
                    "api_server": "https://192.0.2.1:6443",
                });
                ("clusters", body)
            }
        }
    }

    /// Sends one change after another until the connection breaks; returns all responses.
    async fn load(self, client: Client, mut random: Random) -> Vec<ApiResponse> {
        let mut responses = Vec::new();
        loop {
            let (path, body) = self.change(&mut random);
            match client.try_post(&format!("/api/k8s/{path}"), body).await {
                Some(response) => responses.push(response),
                None => return responses,
            }
        }
    }
}

/// The entries of all trails, and all responses that clients received.
#[derive(Default)]
pub(crate) struct Observed {
    intents: HashMap<OperationId, Operation>,
    outcomes: HashMap<OperationId, Outcome>,
    /// The status of a response, by request id.
    responses: HashMap<String, u16>,
    /// Operations on Pilothouse's own tables, with their outcomes.
    complete: Vec<(Operation, Outcome)>,
}

#[derive(Deserialize)]
struct Line {
    entry: String,
}

impl Observed {
    /// Adds an export of a trail.
    pub(crate) fn add_export(&mut self, export: &str) {
        for line in export.lines().filter(|line| line.starts_with("{\"sequence\":")) {
            let line: Line = serde_json::from_str(line).unwrap();
            match serde_json::from_str(&line.entry).unwrap() {
                Entry::Intent { operation } => drop(self.intents.insert(operation.id, operation)),
                Entry::Outcome { operation_id, outcome } => drop(self.outcomes.insert(operation_id, outcome)),
                Entry::Complete { operation, outcome } => self.complete.push((operation, outcome)),
            }
        }
    }

    pub(crate) fn add_responses(&mut self, responses: Vec<ApiResponse>) {
        for response in responses {
            self.responses.insert(response.header("x-request-id").to_owned(), response.status);
        }
    }
}

/// The cluster's audit events of Pilothouse's requests by audit id: changes, and reads of Secrets.
pub(crate) fn cluster_requests(plane: &ControlPlane) -> HashMap<String, Vec<AuditEvent>> {
    let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
    for event in plane.audit_events().unwrap() {
        let resource =
            event.object_ref.as_ref().and_then(|object| object.resource.clone()).unwrap_or_default();
        let is_own = event.user_agent.as_ref().is_some_and(|agent| agent.starts_with("pilothouse/"));
        // self-reviews of the connection test at registration are not recorded as operations
        if is_own && !resource.starts_with("selfsubject") {
            by_id.entry(event.audit_id.clone()).or_default().push(event);
        }
    }
    by_id
}

fn code(event: &AuditEvent) -> u16 {
    event.response_status.as_ref().and_then(|status| status.code).unwrap_or_default()
}

/// Compares the trails and responses with the requests that the cluster received. Returns the number of operations
/// closed as `unknown`, and the number of those that the cluster applied.
pub(crate) fn check_trail(
    observed: &Observed,
    cluster_requests: &HashMap<String, Vec<AuditEvent>>,
) -> (usize, usize) {
    for (id, events) in cluster_requests {
        let intent = id.parse().ok().and_then(|id| observed.intents.get(&OperationId(id)));
        let intent = intent.unwrap_or_else(|| panic!("no intent for the cluster's request: {events:#?}"));
        let [event] = &events[..] else { panic!("{} times sent: {events:#?}", events.len()) };
        let received: Timestamp = event.received.parse().unwrap();
        assert!(intent.created_at <= received, "sent before it was recorded: {intent:#?} {event:#?}");
    }
    let (mut unknown, mut applied) = (0, 0);
    for (id, intent) in &observed.intents {
        let outcome = observed.outcomes.get(id).unwrap_or_else(|| panic!("without an outcome: {intent:#?}"));
        let event = cluster_requests.get(&id.to_string()).map(|events| &events[0]);
        let answered = event.map(code).unwrap_or_default();
        match outcome.status {
            Status::Success => assert_eq!(answered / 100, 2, "recorded as done: {intent:#?} {event:#?}"),
            Status::Failed => assert_ne!(answered / 100, 2, "recorded as refused: {intent:#?} {event:#?}"),
            Status::Unknown => {
                unknown += 1;
                applied += usize::from(answered / 100 == 2);
            }
            Status::Pending => panic!("pending is no outcome"),
        }
        // a client that received a final response finds the same outcome in the trail
        match intent.request_id.as_ref().and_then(|id| observed.responses.get(id)) {
            Some(200) => assert_eq!(outcome.status, Status::Success, "answered as done: {intent:#?}"),
            Some(400..500) => assert_eq!(outcome.status, Status::Failed, "answered as refused: {intent:#?}"),
            _ => {}
        }
    }
    (unknown, applied)
}

/// Checks that all operations that a kill left open were closed in time after the next start.
fn check_closed_in_time(observed: &Observed, starts: &[Timestamp]) {
    for (id, outcome) in &observed.outcomes {
        let began = observed.intents[id].created_at;
        if let Some(next) = starts.iter().find(|start| **start > began)
            && outcome.finished_at > *next
        {
            let waited = outcome.finished_at.duration_since(*next);
            assert!(
                waited <= ORPHANS_CLOSED_WITHIN,
                "{waited:?} after the next start: {:#?}",
                observed.intents[id]
            );
        }
    }
}

pub(crate) fn assert_trail_valid(install: &Install) {
    let output = install.run(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// An install with a registered cluster that contains the objects of the load.
async fn install(plane: &ControlPlane, name: &str) -> (Install, Client, Target) {
    let kube = plane.client();
    create_namespace(&kube, name).await;
    let sealed = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sealed", "namespace": name},
        "stringData": {"k": "a value"},
    });
    let web = (0..3).map(|n| workloads::deployment(name, &format!("web-{n}"), 1));
    apply(&kube, &[vec![sealed], web.collect()].concat()).await;
    let install = Install::new().set("ACCESS_TOKEN_LIFETIME", "8h").set("SESSION_IDLE", "8h");
    let server = install.set("LOG", "warn").start().await;
    let admin = server.admin().await;
    let target =
        Target { cluster: register_cluster(&admin, "killed", plane).await, namespace: name.to_owned() };
    (server.stop().await, admin, target)
}

/// A client of this server with the session of `admin`.
fn client_at(server: &Server, admin: &Client) -> Client {
    let mut client = server.client();
    client.session.clone_from(&admin.session);
    client
}

/// Kills one install repeatedly, then reads its trail.
async fn kill_repeatedly(
    plane: &ControlPlane,
    name: &str,
    kills: u64,
    random: &mut Random,
    observed: &mut Observed,
) {
    let (mut install, admin, target) = install(plane, name).await;
    let mut starts = Vec::new();
    for _ in 0..kills {
        starts.push(now());
        install = if random.below(ONE_KILL_AT_START_IN) == 0 {
            install.start_and_kill(random.pause(MAX_START_MILLIS)).await
        } else {
            let server = install.start().await;
            let mut clients = JoinSet::new();
            for _ in 0..CLIENTS {
                clients.spawn(target.clone().load(client_at(&server, &admin), Random(random.next())));
            }
            tokio::time::sleep(random.pause(MAX_LOAD_MILLIS)).await;
            let install = server.kill().await;
            while let Some(responses) = clients.join_next().await {
                observed.add_responses(responses.unwrap());
            }
            install
        };
        assert_trail_valid(&install);
    }

    starts.push(now());
    let server = install.start().await;
    let admin = client_at(&server, &admin);
    eventually("no operation is pending", async || {
        admin.operations("status=pending").await.is_empty().then_some(())
    })
    .await;
    let registered = admin.get("/api/k8s/clusters?per_page=1").await.data()["pagination"]["total"].take();
    let install = server.stop().await;
    assert_trail_valid(&install);
    let export = install.run(&["audit", "export"]);
    assert_eq!(export.status.code(), Some(0), "{}", String::from_utf8_lossy(&export.stderr));
    let mut own_trail = Observed::default();
    own_trail.add_export(str::from_utf8(&export.stdout).unwrap());

    // a change to Pilothouse's own tables and its entry are stored in one transaction
    let created = own_trail.complete.iter().filter(|(operation, outcome)| {
        let what = (&*operation.operation_type, &*operation.resource_type);
        what == ("create", "cluster") && outcome.status == Status::Success
    });
    assert_eq!(registered, json!(created.count()));
    check_closed_in_time(&own_trail, &starts);
    observed.intents.extend(own_trail.intents);
    observed.outcomes.extend(own_trail.outcomes);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_recorded_and_sent_once_despite_kills() {
    // on PostgreSQL, orphans are closed only after the lease of the killed process expires, so a kill costs more time
    let usual = if Install::is_on_postgres() { 10 } else { KILLS_PER_INSTALL };
    let kills = env_number("PILOTHOUSE_TEST_KILLS").unwrap_or(usual);
    let seed =
        env_number("PILOTHOUSE_TEST_KILLS_SEED").unwrap_or_else(|| now().as_microsecond().cast_unsigned());
    eprintln!("{kills} kills; PILOTHOUSE_TEST_KILLS_SEED={seed}");
    let plane = control_plane().await;
    let (mut random, mut observed, mut done) = (Random(seed), Observed::default(), 0);
    while done < kills {
        let next = (kills - done).min(KILLS_PER_INSTALL);
        kill_repeatedly(&plane, &format!("killed-{done}"), next, &mut random, &mut observed).await;
        done += next;
        let (unknown, applied) = check_trail(&observed, &cluster_requests(&plane));
        eprintln!(
            "{done} kills, {} changes recorded, {} answered; {unknown} closed as unknown, of which \
             {applied} were applied",
            observed.intents.len(),
            observed.responses.len(),
        );
    }
    assert!(!observed.intents.is_empty() && !observed.responses.is_empty(), "the load sent changes");
    let sorts = observed.intents.values().map(|intent| &*intent.operation_type).collect::<BTreeSet<_>>();
    let expected = ["create", "delete", "restart", "reveal", "scale", "update"];
    assert!(
        kills < KILLS_PER_INSTALL || sorts.into_iter().eq(expected),
        "the load contains each type of change"
    );
}

/// Checks that the comparison detects each kind of mismatch.
#[test]
fn unrecorded_repeated_and_misreported_changes_are_detected() {
    let id: OperationId = serde_json::from_value(json!("01a20528-4fd3-7b9e-8540-4b62b3bbc275")).unwrap();
    let intent: Operation = serde_json::from_value(json!({
        "id": id, "operation_type": "scale", "resource_type": "deployment", "username": "ann",
        "request_id": "request", "params": {}, "created_at": "2026-01-01T00:00:00Z",
        "cluster_id": null, "cluster_name": null, "namespace": null, "resource_name": null, "user_id": null,
        "role": null, "source_ip": null,
    }))
    .unwrap();
    let event = |received: &str, code: u16| -> AuditEvent {
        serde_json::from_value(json!({
            "auditID": id, "stage": "ResponseComplete", "verb": "patch", "requestURI": "/", "user": {},
            "requestReceivedTimestamp": received, "responseStatus": {"code": code},
        }))
        .unwrap()
    };
    let observed = |status: Status, response: Option<u16>| Observed {
        intents: [(id, intent.clone())].into(),
        outcomes: [(id, Outcome { status, ..Outcome::success(intent.created_at) })].into(),
        responses: response.map(|response| ("request".to_owned(), response)).into_iter().collect(),
        ..Observed::default()
    };
    let cluster_requests = |events: Vec<AuditEvent>| -> HashMap<_, _> {
        if events.is_empty() { HashMap::new() } else { [(id.to_string(), events)].into() }
    };
    let found = |observed: Observed, events: Vec<AuditEvent>| {
        let panicked = std::panic::catch_unwind(|| check_trail(&observed, &cluster_requests(events))).err();
        panicked.map(|why| why.downcast_ref::<String>().expect("a message").clone())
    };
    let (later, done) = ("2026-01-01T00:00:00.000001Z", 200);
    assert_eq!(
        check_trail(&observed(Status::Success, Some(200)), &cluster_requests(vec![event(later, done)])),
        (0, 0)
    );
    assert_eq!(
        check_trail(&observed(Status::Unknown, None), &cluster_requests(vec![event(later, done)])),
        (1, 1)
    );
    assert_eq!(check_trail(&observed(Status::Unknown, None), &cluster_requests(vec![])), (1, 0));
    let assert_reports = |found: Option<String>, what: &str| {
        assert!(found.as_ref().is_some_and(|it| it.contains(what)), "{found:?}");
    };
    assert_reports(found(Observed::default(), vec![event(later, done)]), "no intent");
    assert_reports(
        found(observed(Status::Success, None), vec![event(later, done), event(later, done)]),
        "2 times sent",
    );
    assert_reports(
        found(observed(Status::Success, None), vec![event("2025-12-31T23:59:59Z", done)]),
        "sent before",
    );
    assert_reports(found(observed(Status::Success, None), vec![]), "recorded as done");
    assert_reports(found(observed(Status::Failed, None), vec![event(later, done)]), "recorded as refused");
    assert_reports(found(observed(Status::Unknown, Some(200)), vec![event(later, done)]), "answered as done");
    assert_reports(
        found(observed(Status::Success, Some(409)), vec![event(later, done)]),
        "answered as refused",
    );
    assert_reports(
        found(Observed { outcomes: HashMap::new(), ..observed(Status::Success, None) }, vec![]),
        "without an outcome",
    );

    let mut late = observed(Status::Unknown, None);
    let start = intent.created_at + SignedDuration::from_secs(1);
    check_closed_in_time(&late, &[start]);
    late.outcomes.get_mut(&id).unwrap().finished_at =
        start + ORPHANS_CLOSED_WITHIN + SignedDuration::from_secs(1);
    assert!(std::panic::catch_unwind(|| check_closed_in_time(&late, &[start])).is_err());
}
