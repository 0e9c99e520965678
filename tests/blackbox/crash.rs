//! Proof by killing: the server is killed at random moments under load, and what its trail says is held against what the
//! cluster's own audit log says.
//!
//! `PILOTHOUSE_TEST_KILLS` is how many kills (`just kills 1000`), `PILOTHOUSE_TEST_KILLS_SEED` from what all that is random
//! here is drawn: with the seed that a failed run printed, the same changes are sent and the kills come after the same
//! times, as far as a scheduler lets them.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use pilothouse_core::audit::{Entry, Operation, OperationId, Outcome, Status};
use pilothouse_testbed::{AuditEvent, ControlPlane, workloads};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Answer, Client, Install, Random, Server, apply, cluster, eventually, light, namespace, set,
};

/// Kills of one install, until the next one starts afresh: a trail is verified after each, from its beginning.
const PER_INSTALL: u64 = 50;
/// Callers at once.
const CALLERS: u64 = 12;
/// The longest load before a kill, in milliseconds.
const LOAD: u64 = 600;
/// Of so many kills one comes while the server starts, which takes about this long; in milliseconds, as the load.
const AT_START: u64 = 8;
const START: u64 = 400;
/// Within so long of the next start what a kill interrupted is closed.
const CLOSED: SignedDuration = SignedDuration::from_secs(30);

/// Where the load goes.
#[derive(Clone)]
struct Target {
    cluster: i64,
    namespace: String,
}

impl Target {
    /// A change of some sort.
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
            // our own tables; nobody is connected to
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

    /// Sends one change after another, until the connection breaks; every answer that came.
    async fn load(self, client: Client, mut random: Random) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let (path, body) = self.change(&mut random);
            match client.try_post(&format!("/api/k8s/{path}"), body).await {
                Some(answer) => answers.push(answer),
                None => return answers,
            }
        }
    }
}

/// What all trails say, and all that callers were answered.
#[derive(Default)]
pub(crate) struct Said {
    intents: HashMap<OperationId, Operation>,
    outcomes: HashMap<OperationId, Outcome>,
    /// The status of an answer, by its request's id.
    answers: HashMap<String, u16>,
    /// Operations of our own tables, and how each ended.
    complete: Vec<(Operation, Outcome)>,
}

#[derive(Deserialize)]
struct Line {
    entry: String,
}

impl Said {
    /// Reads an export of a trail.
    pub(crate) fn read(&mut self, export: &str) {
        for line in export.lines().filter(|line| line.starts_with("{\"sequence\":")) {
            let line: Line = serde_json::from_str(line).unwrap();
            match serde_json::from_str(&line.entry).unwrap() {
                Entry::Intent { operation } => drop(self.intents.insert(operation.id, operation)),
                Entry::Outcome { operation_id, outcome } => drop(self.outcomes.insert(operation_id, outcome)),
                Entry::Complete { operation, outcome } => self.complete.push((operation, outcome)),
            }
        }
    }

    pub(crate) fn hear(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            self.answers.insert(answer.header("x-request-id").to_owned(), answer.status);
        }
    }
}

/// The cluster's events of what we asked for: changes, and Secrets that were read.
pub(crate) fn asked(plane: &ControlPlane) -> HashMap<String, Vec<AuditEvent>> {
    let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
    for event in plane.audit_events().unwrap() {
        let resource =
            event.object_ref.as_ref().and_then(|object| object.resource.clone()).unwrap_or_default();
        let ours = event.user_agent.as_ref().is_some_and(|agent| agent.starts_with("pilothouse/"));
        // questions about ourselves, of the test at registration, are stored nowhere
        if ours && !resource.starts_with("selfsubject") {
            by_id.entry(event.audit_id.clone()).or_default().push(event);
        }
    }
    by_id
}

fn code(event: &AuditEvent) -> u16 {
    event.response_status.as_ref().and_then(|status| status.code).unwrap_or_default()
}

/// Holds all that was said against all that the cluster was asked for. How many operations were closed as `unknown`, and of
/// how many of these the cluster knows.
pub(crate) fn compare(said: &Said, asked: &HashMap<String, Vec<AuditEvent>>) -> (usize, usize) {
    for (id, events) in asked {
        let intent = id.parse().ok().and_then(|id| said.intents.get(&OperationId(id)));
        let intent =
            intent.unwrap_or_else(|| panic!("no intent of what the cluster was asked for: {events:#?}"));
        let [event] = &events[..] else { panic!("{} times sent: {events:#?}", events.len()) };
        let received: Timestamp = event.received.parse().unwrap();
        assert!(intent.created_at <= received, "asked for before it was recorded: {intent:#?} {event:#?}");
    }
    let (mut unknown, mut happened) = (0, 0);
    for (id, intent) in &said.intents {
        let outcome = said.outcomes.get(id).unwrap_or_else(|| panic!("without an outcome: {intent:#?}"));
        let event = asked.get(&id.to_string()).map(|events| &events[0]);
        let answered = event.map(code).unwrap_or_default();
        match outcome.status {
            Status::Success => assert_eq!(answered / 100, 2, "recorded as done: {intent:#?} {event:#?}"),
            Status::Failed => assert_ne!(answered / 100, 2, "recorded as refused: {intent:#?} {event:#?}"),
            Status::Unknown => {
                unknown += 1;
                happened += usize::from(answered / 100 == 2);
            }
            Status::Pending => panic!("pending is no outcome"),
        }
        // whoever was told that it is done, or refused, finds it so in the trail
        match intent.request_id.as_ref().and_then(|id| said.answers.get(id)) {
            Some(200) => assert_eq!(outcome.status, Status::Success, "answered as done: {intent:#?}"),
            Some(400..500) => assert_eq!(outcome.status, Status::Failed, "answered as refused: {intent:#?}"),
            _ => {}
        }
    }
    (unknown, happened)
}

/// That everything which a kill left open was closed soon after the next start.
fn closed_in_time(said: &Said, starts: &[Timestamp]) {
    for (id, outcome) in &said.outcomes {
        let began = said.intents[id].created_at;
        if let Some(next) = starts.iter().find(|start| **start > began)
            && outcome.finished_at > *next
        {
            let waited = outcome.finished_at.duration_since(*next);
            assert!(waited <= CLOSED, "{waited:?} after the next start: {:#?}", said.intents[id]);
        }
    }
}

pub(crate) fn whole(install: &Install) {
    let output = install.run(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// An install with a cluster registered that has what the load is about.
async fn install(plane: &ControlPlane, name: &str) -> (Install, Client, Target) {
    let cluster_says = plane.client();
    namespace(&cluster_says, name).await;
    let sealed = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sealed", "namespace": name},
        "stringData": {"k": "a value"},
    });
    let web = (0..3).map(|n| workloads::deployment(name, &format!("web-{n}"), 1));
    apply(&cluster_says, &[vec![sealed], web.collect()].concat()).await;
    let install = Install::new().set("ACCESS_TOKEN_LIFETIME", "8h").set("SESSION_IDLE", "8h");
    let server = install.set("LOG", "warn").start().await;
    let admin = server.admin().await;
    let target = Target { cluster: cluster(&admin, "killed", plane).await, namespace: name.to_owned() };
    (server.stop().await, admin, target)
}

/// The same session at the server that runs now.
fn at(server: &Server, admin: &Client) -> Client {
    let mut client = server.client();
    client.session.clone_from(&admin.session);
    client
}

/// Kills one install again and again, then hears what its trail says of it.
async fn torment(plane: &ControlPlane, name: &str, kills: u64, random: &mut Random, said: &mut Said) {
    let (mut install, admin, target) = install(plane, name).await;
    let mut starts = Vec::new();
    for _ in 0..kills {
        starts.push(now());
        install = if random.below(AT_START) == 0 {
            install.killed_at_start(random.pause(START)).await
        } else {
            let server = install.start().await;
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS {
                callers.spawn(target.clone().load(at(&server, &admin), Random(random.next())));
            }
            tokio::time::sleep(random.pause(LOAD)).await;
            let install = server.kill().await;
            while let Some(answers) = callers.join_next().await {
                said.hear(answers.unwrap());
            }
            install
        };
        whole(&install);
    }

    starts.push(now());
    let server = install.start().await;
    let admin = at(&server, &admin);
    eventually("nothing is pending", async || {
        admin.operations("status=pending").await.is_empty().then_some(())
    })
    .await;
    let registered = admin.get("/api/k8s/clusters?per_page=1").await.data()["pagination"]["total"].take();
    let install = server.stop().await;
    whole(&install);
    let export = install.run(&["audit", "export"]);
    assert_eq!(export.status.code(), Some(0), "{}", String::from_utf8_lossy(&export.stderr));
    let mut own = Said::default();
    own.read(str::from_utf8(&export.stdout).unwrap());

    // a change to our own tables and its entry are there together, or neither is
    let created = own.complete.iter().filter(|(operation, outcome)| {
        let what = (&*operation.operation_type, &*operation.resource_type);
        what == ("create", "cluster") && outcome.status == Status::Success
    });
    assert_eq!(registered, json!(created.count()));
    closed_in_time(&own, &starts);
    said.intents.extend(own.intents);
    said.outcomes.extend(own.outcomes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_happens_unrecorded_or_twice_whenever_the_server_is_killed() {
    // a process that others outlive is known to be gone only when its lease has run out: less is learnt in the same time
    let usual = if Install::is_on_postgres() { 10 } else { PER_INSTALL };
    let kills = set("PILOTHOUSE_TEST_KILLS").unwrap_or(usual);
    let seed = set("PILOTHOUSE_TEST_KILLS_SEED").unwrap_or_else(|| now().as_microsecond().cast_unsigned());
    eprintln!("{kills} kills; PILOTHOUSE_TEST_KILLS_SEED={seed}");
    let plane = light().await;
    let (mut random, mut said, mut done) = (Random(seed), Said::default(), 0);
    while done < kills {
        let next = (kills - done).min(PER_INSTALL);
        torment(&plane, &format!("killed-{done}"), next, &mut random, &mut said).await;
        done += next;
        let (unknown, happened) = compare(&said, &asked(&plane));
        eprintln!(
            "{done} kills, {} changes sent or about to be, {} of them answered; {unknown} closed as unknown, of which \
             {happened} had happened",
            said.intents.len(),
            said.answers.len(),
        );
    }
    assert!(!said.intents.is_empty() && !said.answers.is_empty(), "there was a load");
    let sorts = said.intents.values().map(|intent| &*intent.operation_type).collect::<BTreeSet<_>>();
    let expected = ["create", "delete", "restart", "reveal", "scale", "update"];
    assert!(kills < PER_INSTALL || sorts.into_iter().eq(expected), "the load was of every sort");
}

/// What the comparison is there to find, it finds.
#[test]
fn a_change_without_an_intent_or_sent_twice_or_told_wrongly_is_found() {
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
    let said = |status: Status, answer: Option<u16>| Said {
        intents: [(id, intent.clone())].into(),
        outcomes: [(id, Outcome { status, ..Outcome::success(intent.created_at) })].into(),
        answers: answer.map(|answer| ("request".to_owned(), answer)).into_iter().collect(),
        ..Said::default()
    };
    let asked = |events: Vec<AuditEvent>| -> HashMap<_, _> {
        if events.is_empty() { HashMap::new() } else { [(id.to_string(), events)].into() }
    };
    let found = |said: Said, events: Vec<AuditEvent>| {
        let panicked = std::panic::catch_unwind(|| compare(&said, &asked(events))).err();
        panicked.map(|why| why.downcast_ref::<String>().expect("a message").clone())
    };
    let (later, done) = ("2026-01-01T00:00:00.000001Z", 200);
    assert_eq!(compare(&said(Status::Success, Some(200)), &asked(vec![event(later, done)])), (0, 0));
    assert_eq!(compare(&said(Status::Unknown, None), &asked(vec![event(later, done)])), (1, 1));
    assert_eq!(compare(&said(Status::Unknown, None), &asked(vec![])), (1, 0));
    let is = |found: Option<String>, what: &str| {
        assert!(found.as_ref().is_some_and(|it| it.contains(what)), "{found:?}")
    };
    is(found(Said::default(), vec![event(later, done)]), "no intent");
    is(found(said(Status::Success, None), vec![event(later, done), event(later, done)]), "2 times sent");
    is(found(said(Status::Success, None), vec![event("2025-12-31T23:59:59Z", done)]), "asked for before");
    is(found(said(Status::Success, None), vec![]), "recorded as done");
    is(found(said(Status::Failed, None), vec![event(later, done)]), "recorded as refused");
    is(found(said(Status::Unknown, Some(200)), vec![event(later, done)]), "answered as done");
    is(found(said(Status::Success, Some(409)), vec![event(later, done)]), "answered as refused");
    is(found(Said { outcomes: HashMap::new(), ..said(Status::Success, None) }, vec![]), "without an outcome");

    let mut late = said(Status::Unknown, None);
    let start = intent.created_at + SignedDuration::from_secs(1);
    closed_in_time(&late, &[start]);
    late.outcomes.get_mut(&id).unwrap().finished_at = start + CLOSED + SignedDuration::from_secs(1);
    assert!(std::panic::catch_unwind(|| closed_in_time(&late, &[start])).is_err());
}
