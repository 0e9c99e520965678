//! Three servers with one PostgreSQL database, each request to a random one, while servers are killed or stopped and
//! started again.
//!
//! `PILOTHOUSE_TEST_REPLICA_ENDS` sets the number of kills and stops (`just replica-ends 100`),
//! `PILOTHOUSE_TEST_REPLICA_ENDS_SEED` the seed of all random choices.

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
    crash::{Observed, assert_trail_valid, check_trail, cluster_requests},
    support::{
        ApiResponse, Client, Install, PASSWORD, Random, Server, Session, apply, control_plane, env_number,
        eventually, postgres, register_cluster,
    },
};

const REPLICAS: u64 = 3;
const CLIENTS: u64 = 6;
/// Default number of kills and stops.
const DEFAULT_ENDS: u64 = 3;
/// Maximal pause between two kills or stops, in milliseconds.
const MAX_PAUSE_MILLIS: u64 = 800;

/// A client for each replica at its current address.
#[derive(Clone)]
struct Replicas(Arc<Mutex<Vec<Client>>>);

impl Replicas {
    fn any(&self, random: &mut Random) -> Client {
        let replicas = self.0.lock().unwrap();
        replicas[random.below(replicas.len() as u64) as usize].clone()
    }

    /// A random replica, with a session.
    fn of(&self, session: &Session, random: &mut Random) -> Client {
        self.any(random).with_session(session)
    }

    fn set_address(&self, replica: usize, server: &Server) {
        self.0.lock().unwrap()[replica] = server.client();
    }
}

/// The responses that a client received.
#[derive(Default)]
struct ClientResult {
    responses: Vec<ApiResponse>,
    /// ConfigMaps by name: whether a response confirmed the creation.
    created: BTreeMap<String, bool>,
    /// Number of times that tokens were refreshed at one replica and then used at another.
    refreshed: usize,
}

/// A signed-in client that sends each request to a random replica.
struct LoadClient {
    name: String,
    replicas: Replicas,
    cluster: i64,
    random: Random,
    finished: Arc<AtomicBool>,
    result: ClientResult,
}

impl LoadClient {
    async fn run(mut self) -> ClientResult {
        let mut session = self.sign_in().await;
        for number in 0.. {
            if self.finished.load(Ordering::SeqCst) {
                break;
            }
            match self.random.below(8) {
                0 => session = self.refresh(session).await,
                1..=4 => self.create(&session, number).await,
                _ => self.scale(&session).await,
            }
        }
        self.result
    }

    /// Signs in at a running replica.
    async fn sign_in(&mut self) -> Session {
        loop {
            let client = self.replicas.any(&mut self.random);
            let body = json!({"username": self.name, "password": PASSWORD});
            match client.try_post("/api/auth/login", body).await {
                Some(response) if response.status == 200 => return Session::from_data(&response.data()),
                Some(response) => assert_eq!(response.status, 503, "{response}"),
                None => {}
            }
        }
    }

    /// Refreshes at one replica; the new token must be valid at all others at once.
    async fn refresh(&mut self, session: Session) -> Session {
        let client = self.replicas.of(&session, &mut self.random);
        let body = json!({"refresh_token": session.refresh_token});
        // without a response it is unknown which token is current
        let Some(response) = client.try_post("/api/auth/refresh", body).await else {
            return self.sign_in().await;
        };
        if response.status == 503 {
            return self.sign_in().await;
        }
        let session = Session::from_data(&response.data());
        let all = self.replicas.0.lock().unwrap().clone();
        for client in all {
            if let Some(response) = client
                .with_session(&session)
                .try_get("/api/auth/me")
                .await
                .filter(|response| response.status != 503)
            {
                response.data();
                self.result.refreshed += 1;
            }
        }
        session
    }

    /// Creates a ConfigMap, and repeats the request at a random replica.
    async fn create(&mut self, session: &Session, number: u64) {
        let name = format!("{}-{number}", self.name);
        let body =
            json!({"cluster_id": self.cluster, "namespace": "default", "name": name, "data": {"k": "v"}});
        let mut texts = Vec::new();
        for _ in 0..2 {
            let client = self.replicas.of(session, &mut self.random).with_idempotency_key(&name);
            let Some(response) = client.try_post("/api/k8s/configmaps", body.clone()).await else { continue };
            // the outcome of a request to a replica that was killed meanwhile is unknown
            assert!(matches!(response.status, 200 | 409 | 503), "{response}");
            if response.status == 200 {
                texts.push(response.text.clone());
            }
            self.result.responses.push(response);
        }
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
        *self.result.created.entry(name).or_default() |= !texts.is_empty();
    }

    async fn scale(&mut self, session: &Session) {
        let replicas = self.random.below(9);
        let body = json!({
            "cluster_id": self.cluster, "namespace": "default", "type": "deployment", "name": "web", "replicas": replicas,
        });
        let client = self.replicas.of(session, &mut self.random);
        self.result.responses.extend(client.try_post("/api/k8s/workloads/scale", body).await);
    }
}

/// The number of create requests per ConfigMap that the cluster received.
fn creations(plane: &ControlPlane) -> HashMap<String, usize> {
    let mut creations = HashMap::new();
    for (_, events) in cluster_requests(plane) {
        let object = events[0].object_ref.as_ref().unwrap();
        let name = object.name.clone().filter(|_| events[0].verb == "create");
        if let (Some("configmaps"), Some(name)) = (object.resource.as_deref(), name) {
            *creations.entry(name).or_default() += 1;
        }
    }
    creations
}

/// Checks that no two checkpoints in the files of the replicas differ for the same entry. Returns the number of
/// checkpoints.
fn check_no_fork(installs: &[&Install]) -> usize {
    let mut signed = BTreeMap::new();
    for install in installs {
        for line in fs::read_to_string(install.file("audit-checkpoints.jsonl")).unwrap().lines() {
            let checkpoint: Value = serde_json::from_str(line).unwrap();
            let sequence = checkpoint["sequence"].as_i64().unwrap();
            let first_line = signed.entry(sequence).or_insert_with(|| line.to_owned());
            assert_eq!(first_line, line, "two checkpoints differ for one entry");
        }
    }
    signed.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_stay_consistent_while_each_is_killed_and_restarted() {
    let Some(postgres) = postgres() else { return };
    let ends = env_number("PILOTHOUSE_TEST_REPLICA_ENDS").unwrap_or(DEFAULT_ENDS);
    let seed = env_number("PILOTHOUSE_TEST_REPLICA_ENDS_SEED");
    let seed = seed.unwrap_or_else(|| Timestamp::now().as_microsecond().cast_unsigned());
    eprintln!("{ends} kills or stops of a replica; PILOTHOUSE_TEST_REPLICA_ENDS_SEED={seed}");
    let mut random = Random(seed);

    let plane = control_plane().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let install =
        Install::on_postgres(&postgres.database().unwrap()).set("SESSION_IDLE", "8h").set("LOG", "warn");
    let first = install.start().await;
    let admin = first.admin().await;
    let id = register_cluster(&admin, "shared", &plane).await;
    let client_names: Vec<_> = (0..CLIENTS).map(|client| format!("caller-{client}")).collect();
    for name in &client_names {
        admin.add_user(name, "ops_admin").await;
    }
    let others = [first.install.replica().start().await, first.install.replica().start().await];
    let mut servers: Vec<_> = [first].into_iter().chain(others).map(Some).collect();
    let replicas = Replicas(Arc::new(Mutex::new(servers.iter().flatten().map(Server::client).collect())));

    let (finished, mut calls) = (Arc::new(AtomicBool::default()), JoinSet::new());
    for name in client_names {
        let random = Random(random.next());
        let (replicas, finished) = (replicas.clone(), finished.clone());
        calls.spawn(
            LoadClient { name, replicas, cluster: id, random, finished, result: ClientResult::default() }
                .run(),
        );
    }
    for _ in 0..ends {
        sleep(random.pause(MAX_PAUSE_MILLIS)).await;
        let replica = random.below(REPLICAS) as usize;
        let server = servers[replica].take().unwrap();
        let install = if random.below(2) == 0 { server.kill().await } else { server.stop().await };
        sleep(random.pause(MAX_PAUSE_MILLIS / 4)).await;
        let server = install.start().await;
        replicas.set_address(replica, &server);
        servers[replica] = Some(server);
    }
    finished.store(true, Ordering::SeqCst);
    let (mut observed, mut created, mut refreshed) = (Observed::default(), BTreeMap::new(), 0);
    while let Some(result) = calls.join_next().await {
        let result = result.unwrap();
        observed.add_responses(result.responses);
        created.extend(result.created);
        refreshed += result.refreshed;
    }

    // operations that killed replicas left pending are closed by another one after their leases expire
    let admin = servers[0].as_ref().unwrap().admin().await;
    eventually("no operation is pending", async || {
        admin.operations("status=pending").await.is_empty().then_some(())
    })
    .await;
    let url = servers[0].as_ref().unwrap().install.database_url();
    // there may also be a lease of a replica that was killed less than a lease duration ago
    let leases = postgres.sql_in(&url, "SELECT count(*) FROM leases WHERE expires_at > now()").unwrap();
    assert!(leases.trim().parse::<u64>().unwrap() >= REPLICAS, "each running replica has a lease: {leases}");
    let mut installs = Vec::new();
    for server in servers.into_iter().flatten() {
        installs.push(server.stop().await);
    }
    let all: Vec<_> = installs.iter().collect();
    // each install verifies the trail with its own checkpoint file
    all.iter().for_each(|install| assert_trail_valid(install));
    let checkpoints = check_no_fork(&all);
    let export = installs[0].run(&["audit", "export"]);
    assert_eq!(export.status.code(), Some(0), "{}", String::from_utf8_lossy(&export.stderr));
    observed.add_export(str::from_utf8(&export.stdout).unwrap());
    let (unknown, applied) = check_trail(&observed, &cluster_requests(&plane));
    let creations = creations(&plane);
    for (name, answered) in &created {
        let times = creations.get(name).copied().unwrap_or_default();
        assert!(times <= 1 && (!answered || times == 1), "{name}: {times} times, answered: {answered}");
    }
    assert!(refreshed > 0 && created.values().any(|answered| *answered), "the load created and refreshed");
    eprintln!(
        "{} ConfigMaps created, {refreshed} refreshed tokens used, {checkpoints} checkpoints; {unknown} closed as unknown, of \
         which {applied} were applied",
        created.len()
    );
}
