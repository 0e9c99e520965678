//! Three servers on one PostgreSQL, each request at any of them, while one after the other is killed or stopped and started
//! again.
//!
//! `PILOTHOUSE_TEST_REPLICA_ENDS` is how often one ends (`just replica-ends 100`), `PILOTHOUSE_TEST_REPLICA_ENDS_SEED` from what
//! all that is random here is drawn.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use pilothouse_testbed::{ControlPlane, workloads};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    crash::{Said, asked, compare, whole},
    support::{
        Answer, Client, Install, PASSWORD, Random, Server, Session, apply, cluster, eventually, light,
        postgres, set,
    },
};

const REPLICAS: u64 = 3;
const CALLERS: u64 = 6;
/// As often one ends, where the environment does not say.
const USUAL: u64 = 3;
/// Between two ends, at most; in milliseconds.
const PAUSE: u64 = 800;

/// Where the replicas listen at the moment.
#[derive(Clone)]
struct Places(Arc<Mutex<Vec<Client>>>);

impl Places {
    fn any(&self, random: &mut Random) -> Client {
        let places = self.0.lock().unwrap();
        places[random.below(places.len() as u64) as usize].clone()
    }

    /// Any, of a session.
    fn of(&self, session: &Session, random: &mut Random) -> Client {
        self.any(random).in_session(session)
    }

    fn moved(&self, replica: usize, server: &Server) {
        self.0.lock().unwrap()[replica] = server.client();
    }
}

/// What a caller was answered.
#[derive(Default)]
struct Heard {
    answers: Vec<Answer>,
    /// ConfigMaps by name: whether one answer said that it was created.
    created: BTreeMap<String, bool>,
    /// How often tokens were refreshed at one replica and then used at another.
    refreshed: usize,
}

/// A person with a session, who asks any replica.
struct Caller {
    name: String,
    places: Places,
    cluster: i64,
    random: Random,
    over: Arc<AtomicBool>,
    heard: Heard,
}

impl Caller {
    async fn call(mut self) -> Heard {
        let mut session = self.sign_in().await;
        for number in 0.. {
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            match self.random.below(8) {
                0 => session = self.refresh(session).await,
                1..=4 => self.create(&session, number).await,
                _ => self.scale(&session).await,
            }
        }
        self.heard
    }

    /// At a replica that runs.
    async fn sign_in(&mut self) -> Session {
        loop {
            let client = self.places.any(&mut self.random);
            let body = json!({"username": self.name, "password": PASSWORD});
            match client.try_post("/api/auth/login", body).await {
                Some(answer) if answer.status == 200 => return Session::of(&answer.data()),
                Some(answer) => assert_eq!(answer.status, 503, "{answer}"),
                None => {}
            }
        }
    }

    /// At one replica; what is new holds at each other one at once.
    async fn refresh(&mut self, session: Session) -> Session {
        let client = self.places.of(&session, &mut self.random);
        let body = json!({"refresh_token": session.refresh_token});
        // without an answer nobody knows which token is the last
        let Some(answer) = client.try_post("/api/auth/refresh", body).await else {
            return self.sign_in().await;
        };
        if answer.status == 503 {
            return self.sign_in().await;
        }
        let session = Session::of(&answer.data());
        let all = self.places.0.lock().unwrap().clone();
        for client in all {
            if let Some(answer) = client
                .in_session(&session)
                .try_get("/api/auth/me")
                .await
                .filter(|answer| answer.status != 503)
            {
                answer.data();
                self.heard.refreshed += 1;
            }
        }
        session
    }

    /// Creates a ConfigMap, and sends the same once more to any replica.
    async fn create(&mut self, session: &Session, number: u64) {
        let name = format!("{}-{number}", self.name);
        let body =
            json!({"cluster_id": self.cluster, "namespace": "default", "name": name, "data": {"k": "v"}});
        let mut texts = Vec::new();
        for _ in 0..2 {
            let client = self.places.of(session, &mut self.random).under(&name);
            let Some(answer) = client.try_post("/api/k8s/configmaps", body.clone()).await else { continue };
            // of a replica that was killed in between nobody knows what it had done
            assert!(matches!(answer.status, 200 | 409 | 503), "{answer}");
            if answer.status == 200 {
                texts.push(answer.text.clone());
            }
            self.heard.answers.push(answer);
        }
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
        *self.heard.created.entry(name).or_default() |= !texts.is_empty();
    }

    async fn scale(&mut self, session: &Session) {
        let replicas = self.random.below(9);
        let body = json!({
            "cluster_id": self.cluster, "namespace": "default", "type": "deployment", "name": "web", "replicas": replicas,
        });
        let client = self.places.of(session, &mut self.random);
        self.heard.answers.extend(client.try_post("/api/k8s/workloads/scale", body).await);
    }
}

/// How often the cluster was asked to create each ConfigMap.
fn creations(plane: &ControlPlane) -> HashMap<String, usize> {
    let mut creations = HashMap::new();
    for (_, events) in asked(plane) {
        let object = events[0].object_ref.as_ref().unwrap();
        let name = object.name.clone().filter(|_| events[0].verb == "create");
        if let (Some("configmaps"), Some(name)) = (object.resource.as_deref(), name) {
            *creations.entry(name).or_default() += 1;
        }
    }
    creations
}

/// That no two checkpoints, in whichever replica's file, are of one entry and differ.
fn no_fork(installs: &[&Install]) -> usize {
    let mut signed = BTreeMap::new();
    for install in installs {
        for line in fs::read_to_string(install.file("audit-checkpoints.jsonl")).unwrap().lines() {
            let checkpoint: Value = serde_json::from_str(line).unwrap();
            let sequence = checkpoint["sequence"].as_i64().unwrap();
            let known = signed.entry(sequence).or_insert_with(|| line.to_owned());
            assert_eq!(known, line, "a fork");
        }
    }
    signed.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_act_as_one_while_one_after_the_other_ends_and_starts_again() {
    let Some(postgres) = postgres() else { return };
    let ends = set("PILOTHOUSE_TEST_REPLICA_ENDS").unwrap_or(USUAL);
    let seed = set("PILOTHOUSE_TEST_REPLICA_ENDS_SEED");
    let seed = seed.unwrap_or_else(|| Timestamp::now().as_microsecond().cast_unsigned());
    eprintln!("{ends} ends of a replica; PILOTHOUSE_TEST_REPLICA_ENDS_SEED={seed}");
    let mut random = Random(seed);

    let plane = light().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let install = Install::on(&postgres.database().unwrap()).set("SESSION_IDLE", "8h").set("LOG", "warn");
    let first = install.start().await;
    let admin = first.admin().await;
    let id = cluster(&admin, "shared", &plane).await;
    let callers: Vec<_> = (0..CALLERS).map(|caller| format!("caller-{caller}")).collect();
    for name in &callers {
        admin.add_user(name, "ops_admin").await;
    }
    let others = [first.install.replica().start().await, first.install.replica().start().await];
    let mut servers: Vec<_> = [first].into_iter().chain(others).map(Some).collect();
    let places = Places(Arc::new(Mutex::new(servers.iter().flatten().map(Server::client).collect())));

    let (over, mut calls) = (Arc::new(AtomicBool::default()), JoinSet::new());
    for name in callers {
        let random = Random(random.next());
        let (places, over) = (places.clone(), over.clone());
        calls.spawn(Caller { name, places, cluster: id, random, over, heard: Heard::default() }.call());
    }
    for _ in 0..ends {
        sleep(random.pause(PAUSE)).await;
        let replica = random.below(REPLICAS) as usize;
        let server = servers[replica].take().unwrap();
        let install = if random.below(2) == 0 { server.kill().await } else { server.stop().await };
        sleep(random.pause(PAUSE / 4)).await;
        let server = install.start().await;
        places.moved(replica, &server);
        servers[replica] = Some(server);
    }
    over.store(true, Ordering::SeqCst);
    let (mut said, mut created, mut refreshed) = (Said::default(), BTreeMap::new(), 0);
    while let Some(heard) = calls.join_next().await {
        let heard = heard.unwrap();
        said.hear(heard.answers);
        created.extend(heard.created);
        refreshed += heard.refreshed;
    }

    // what the killed left pending another one closes when their leases have run out
    let admin = servers[0].as_ref().unwrap().admin().await;
    eventually("nothing is pending", async || {
        admin.operations("status=pending").await.is_empty().then_some(())
    })
    .await;
    let url = servers[0].as_ref().unwrap().install.database_url();
    // besides, one of a replica that was killed less than a lease ago
    let leases = postgres.sql_in(&url, "SELECT count(*) FROM leases WHERE expires_at > now()").unwrap();
    assert!(leases.trim().parse::<u64>().unwrap() >= REPLICAS, "each of those that run has one: {leases}");
    let mut installs = Vec::new();
    for server in servers.into_iter().flatten() {
        installs.push(server.stop().await);
    }
    let all: Vec<_> = installs.iter().collect();
    // each has of its own file
    all.iter().for_each(|install| whole(install));
    let checkpoints = no_fork(&all);
    let export = installs[0].run(&["audit", "export"]);
    assert_eq!(export.status.code(), Some(0), "{}", String::from_utf8_lossy(&export.stderr));
    said.read(str::from_utf8(&export.stdout).unwrap());
    let (unknown, happened) = compare(&said, &asked(&plane));
    let creations = creations(&plane);
    for (name, answered) in &created {
        let times = creations.get(name).copied().unwrap_or_default();
        assert!(times <= 1 && (!answered || times == 1), "{name}: {times} times, answered: {answered}");
    }
    assert!(refreshed > 0 && created.values().any(|answered| *answered), "there was a load");
    eprintln!(
        "{} ConfigMaps created, {refreshed} new tokens used, {checkpoints} checkpoints; {unknown} closed as unknown, of \
         which {happened} had happened",
        created.len()
    );
}
