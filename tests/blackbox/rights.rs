//! Roles and grants against a real cluster: the first endpoints with each kind of rights, by sessions and API tokens,
//! rights that change at another replica, and requests that are decided while the server is killed.
//!
//! `PILOTHOUSE_TEST_KILLS_SEED` sets the seed of the kills.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use pilothouse_testbed::workloads;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    crash::assert_trail_valid,
    support::{
        ApiResponse, Client, Install, PASSWORD, Random, Server, apply, create_namespace, env_number,
        eventually, postgres, register_cluster, shared_control_plane,
    },
};

/// Namespace of the grant, and one outside it.
const OWN: &str = "bb-rights-own";
const OTHER: &str = "bb-rights-other";

/// Time within which a change of rights holds at another replica.
const REPLICA_DELAY: Duration = Duration::from_secs(1);
/// Time within which a stream ends after its rights.
pub(crate) const STREAM_END_TIMEOUT: Duration = Duration::from_secs(5);

/// Kills during the decisions on requests.
const KILLS: u64 = 4;
/// Requests before each kill. All together are fewer than a user may have pending.
const REQUESTS: usize = 10;
/// Maximal time of the decisions before a kill, in milliseconds.
const MAX_DECISION_MILLIS: u64 = 150;

/// Grants a role to a user, and returns the id of the grant.
async fn grant(admin: &Client, user: i64, role: &str, clusters: Value, namespace: &str) -> Value {
    let subject = json!({"type": "user", "id": user});
    let body = json!({"subject": subject, "role": role, "clusters": clusters, "namespaces": [namespace]});
    admin.post("/api/access/grants", body).await.data()["grant"]["id"].take()
}

/// A client of another server with the same session.
fn client_at(server: &Server, client: &Client) -> Client {
    server.client().with_session(client.session.as_ref().expect("the client is signed in"))
}

/// One request to an endpoint.
struct Call {
    method: &'static str,
    endpoint: &'static str,
    /// The query of a GET, or the body.
    fields: Value,
    /// The statuses for a viewer, an ops_admin, a super_admin, and a user with a grant in one namespace.
    statuses: [u16; 4],
}

impl Call {
    fn new(method: &'static str, endpoint: &'static str, fields: Value, statuses: [u16; 4]) -> Self {
        Self { method, endpoint, fields, statuses }
    }

    /// The same request with another value of these fields, as far as it has them; `None` if it has none.
    fn with(&self, names: &[&str], value: Value) -> Option<Self> {
        let mut fields = self.fields.clone();
        let given: Vec<_> = names.iter().filter(|name| fields.get(**name).is_some()).collect();
        for name in &given {
            fields[**name] = value.clone();
        }
        (!given.is_empty()).then_some(Self { fields, ..*self })
    }

    async fn send(&self, client: &Client) -> ApiResponse {
        let path = format!("/api/k8s/{}", self.endpoint);
        if self.method == "POST" {
            return client.post(&path, self.fields.clone()).await;
        }
        let pairs = self.fields.as_object().unwrap().iter().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        });
        client.get(format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))).await
    }
}

/// Valid requests to the 27 endpoints that clients have used from the start, in an executable order. `caller` is part
/// of the names of the objects that they create, and `spare` is a cluster to change and delete.
fn first_endpoints(cluster: i64, spare: i64, caller: &str) -> Vec<Call> {
    const ALL: [u16; 4] = [200; 4];
    const NOT_VIEWER: [u16; 4] = [403, 200, 200, 200];
    const WHOLE_CLUSTER: [u16; 4] = [200, 200, 200, 403];
    const ADMINS: [u16; 4] = [403, 200, 200, 403];
    let made = format!("made-{caller}");
    let fresh = format!("bb-rights-{caller}");
    let within = |more: Value| {
        let mut fields = json!({"cluster_id": cluster, "namespace": OWN});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    let new_cluster = json!({
        "name": made, "auth_type": "token", "token": "of-nobody", "skip_test": true,
        "api_server": "https://192.0.2.1:6443",
    });
    let web = json!({"type": "deployment", "name": "web"});
    let scaled = json!({"type": "deployment", "name": "web", "replicas": 2});
    let named = json!({"name": made});
    let with_data = json!({"name": made, "data": {"k": "v"}});
    vec![
        Call::new("GET", "clusters", json!({"per_page": 500}), ALL),
        Call::new("POST", "clusters", new_cluster, ADMINS),
        Call::new("POST", "clusters/test", json!({"id": cluster}), ALL),
        Call::new("GET", "clusters/status", json!({"id": cluster}), ALL),
        Call::new("POST", "clusters/update", json!({"id": spare, "description": "spare"}), ADMINS),
        Call::new("POST", "clusters/delete", json!({"id": spare}), ADMINS),
        Call::new("GET", "namespaces", json!({"cluster_id": cluster}), ALL),
        Call::new("POST", "namespaces", json!({"cluster_id": cluster, "name": fresh}), ADMINS),
        Call::new("POST", "namespaces/delete", json!({"cluster_id": cluster, "namespace": fresh}), ADMINS),
        Call::new("GET", "workloads", within(json!({})), ALL),
        Call::new("GET", "workloads/detail", within(web.clone()), ALL),
        Call::new("POST", "workloads/scale", within(scaled), NOT_VIEWER),
        Call::new("POST", "workloads/restart", within(web), NOT_VIEWER),
        // there is no pod: whoever may read logs is told so
        Call::new("GET", "pods/logs", within(json!({"pod_name": "nobody"})), [404; 4]),
        Call::new("GET", "services", within(json!({})), ALL),
        Call::new("GET", "ingresses", within(json!({})), ALL),
        Call::new("GET", "services/endpoints", within(json!({"name": "web"})), ALL),
        Call::new("GET", "configmaps", within(json!({})), ALL),
        Call::new("GET", "secrets", within(json!({})), ALL),
        Call::new("POST", "configmaps", within(with_data.clone()), NOT_VIEWER),
        Call::new("POST", "secrets", within(with_data), NOT_VIEWER),
        Call::new("POST", "configmaps/delete", within(named.clone()), NOT_VIEWER),
        Call::new("POST", "secrets/delete", within(named), NOT_VIEWER),
        Call::new("GET", "persistent-volumes", json!({"cluster_id": cluster}), WHOLE_CLUSTER),
        Call::new("GET", "persistent-volume-claims", within(json!({})), ALL),
        Call::new("GET", "storage-classes", json!({"cluster_id": cluster}), WHOLE_CLUSTER),
        Call::new("GET", "audit/operations", json!({"per_page": 5}), ALL),
    ]
}

/// Checks a refusal of a request that the caller may not make, or of one about nothing that they see.
fn check_refusal(response: &ApiResponse, caller: &str) {
    let context = &response.body["context"];
    match response.status {
        403 => assert!(context["missing"]["verb"].is_string(), "{caller}: {response}"),
        404 => assert_eq!(context["cause"], "not_found_in_cluster", "{caller}: {response}"),
        _ => {}
    }
}

#[tokio::test]
async fn first_endpoints_answer_by_role_and_by_a_grant_in_one_namespace() {
    let plane = shared_control_plane().await;
    let kube = plane.client();
    for namespace in [OWN, OTHER] {
        create_namespace(&kube, namespace).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
        });
        apply(&kube, &[workloads::deployment(namespace, "web", 1), service]).await;
    }
    let deployment = format!("/apis/apps/v1/namespaces/{OTHER}/deployments/web");
    let before = kube.get(&deployment).await.unwrap()["spec"].take();
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let cluster = register_cluster(&admin, "shown", plane).await;
    let hidden = register_cluster(&admin, "hidden", plane).await;
    let ann_id = admin.add_user("ann", "none").await;
    grant(&admin, ann_id, "editor", json!({"ids": [cluster]}), OWN).await;
    let ann = server.client().sign_in("ann", PASSWORD).await;

    // each caller with a session and with an API token alone, and a service account with the grant of ann
    let mut callers = Vec::new();
    for (column, caller) in ["viewer", "ops_admin", "super_admin", "ann"].into_iter().enumerate() {
        let client = if caller == "ann" { ann.clone() } else { server.user(&admin, caller).await };
        let (_, token) = client.create_token("first endpoints", json!({})).await;
        // the names of objects have no underscores
        let caller = caller.replace('_', "-");
        callers.push((column, format!("{caller}-token"), server.client().with_token(&token)));
        callers.push((column, caller, client));
    }
    let robot = json!({"name": "robot", "description": "of the tests", "owner_user_id": ann_id});
    let robot = admin.post("/api/auth/service-accounts", robot).await.data()["service_account"]["id"].take();
    let granted = json!({
        "subject": {"type": "service_account", "id": robot}, "role": "editor", "clusters": {"ids": [cluster]},
        "namespaces": [OWN],
    });
    admin.post("/api/access/grants", granted).await.data();
    let (_, token) = admin.create_token("robot", json!({"service_account_id": robot})).await;
    callers.push((3, "robot".to_owned(), server.client().with_token(&token)));
    for (column, caller, client) in callers {
        let spare = match column {
            1 | 2 => {
                let spare = json!({
                    "name": format!("spare-{caller}"), "auth_type": "token", "token": "of-nobody", "skip_test": true,
                    "api_server": "https://192.0.2.1:6443",
                });
                admin.post("/api/k8s/clusters", spare).await.data()["cluster"]["id"].as_i64().unwrap()
            }
            _ => cluster,
        };
        let calls = first_endpoints(cluster, spare, &caller);
        assert_eq!(calls.len(), 27);
        for call in calls {
            // a change conflicts with one that the cluster's controllers make at the same time
            let response = eventually("a response without a conflict", async || {
                let response = call.send(&client).await;
                (response.status != 409).then_some(response)
            });
            let response = response.await;
            assert_eq!(response.status, call.statuses[column], "{caller}: {response}");
            check_refusal(&response, &caller);
        }
    }

    for call in first_endpoints(cluster, cluster, "ann") {
        if let Some(call) = call.with(&["namespace"], json!(OTHER)) {
            let response = call.send(&ann).await;
            assert_eq!(response.status, 403, "{response}");
            assert_eq!(response.body["context"]["missing"]["namespace"], OTHER, "{response}");
        }
        if let Some(call) = call.with(&["cluster_id", "id"], json!(hidden)) {
            let response = call.send(&ann).await;
            assert_eq!(response.status, 404, "{response}");
            assert_eq!(response.body["context"]["cause"], "not_found", "{response}");
        }
    }
    assert_eq!(kube.get(&deployment).await.unwrap()["spec"], before, "a refused change was made");

    // lists of all namespaces and of all clusters contain only what the grant reaches
    let all = ann.get(format!("/api/k8s/workloads?cluster_id={cluster}&namespace=*")).await.data();
    assert_eq!(all["scope"], json!({"complete": false, "namespaces": [OWN]}));
    assert_eq!((&all["pagination"]["total"], &all["workloads"][0]["namespace"]), (&json!(1), &json!(OWN)));
    let namespaces = ann.rows(format!("/api/k8s/namespaces?cluster_id={cluster}"), "namespaces").await;
    assert_eq!(namespaces.iter().map(|row| &row["name"]).collect::<Vec<_>>(), [OWN]);
    let clusters = ann.rows("/api/k8s/clusters", "clusters").await;
    assert_eq!(clusters.iter().map(|row| &row["name"]).collect::<Vec<_>>(), ["shown"]);
}

/// Repeats a GET while it has this status. Returns the next status, and the start of the last request with the old one.
pub(crate) async fn last_with(status: u16, client: &Client, path: &str) -> (u16, Instant) {
    let mut last = Instant::now();
    let next = eventually("another status", async || {
        let started_at = Instant::now();
        let next = client.get(path).await.status;
        if next == status {
            last = started_at;
        }
        (next != status).then_some(next)
    })
    .await;
    (next, last)
}

#[tokio::test]
async fn change_of_rights_holds_at_another_replica_within_a_second() {
    let Some(postgres) = postgres() else { return };
    let first = Install::on_postgres(&postgres.database().unwrap()).start().await;
    let second = first.install.replica().start().await;
    let plane = shared_control_plane().await;
    let admin = first.admin().await;
    let cluster = register_cluster(&admin, "replicated", plane).await;
    let rules = |resource: &str| json!([{"verbs": ["list"], "resources": [resource]}]);
    let role = json!({"name": "reader", "rules": rules("config")});
    admin.post("/api/access/roles", role).await.data();
    let ann = admin.add_user("ann", "none").await;
    let path = format!("/api/k8s/configmaps?cluster_id={cluster}&namespace=default");
    client_at(&second, &admin).get(&path).await.data();
    let ann_at_second = second.client().sign_in("ann", PASSWORD).await;
    let relabel = async |environment: &str| {
        let labels = json!({"id": cluster, "labels": {"environment": environment}});
        admin.post("/api/k8s/clusters/update", labels).await.data();
    };

    for (change, refused) in [("revoke", 404), ("labels", 404), ("role", 403)] {
        relabel("dev").await;
        ann_at_second.get(&path).await.refused("RESOURCE_NOT_FOUND");
        let id = grant(&admin, ann, "reader", json!({"labels": "environment=dev"}), "default").await;
        let changed_at = Instant::now();
        let (status, last) = last_with(404, &ann_at_second, &path).await;
        assert_eq!(status, 200, "{change}");
        let delay = last.saturating_duration_since(changed_at);
        assert!(delay <= REPLICA_DELAY, "the grant holds after {delay:?}");

        let watch = format!("/api/k8s/watch?kind=configmaps&cluster_id={cluster}&namespace=default");
        let mut events = ann_at_second.follow(&watch, None).await;
        let revoked = json!({"id": id});
        match change {
            "labels" => relabel("prod").await,
            "role" => {
                let role = json!({"name": "reader", "rules": rules("workloads")});
                admin.post("/api/access/roles/update", role).await.data();
            }
            _ => {
                admin.post("/api/access/grants/revoke", revoked.clone()).await.data();
            }
        }
        let changed_at = Instant::now();
        let (status, last) = last_with(200, &ann_at_second, &path).await;
        assert_eq!(status, refused, "{change}");
        let delay = last.saturating_duration_since(changed_at);
        assert!(delay <= REPLICA_DELAY, "{change}: the grant ends after {delay:?}");
        assert_eq!(events.end_reason().await, "rights_changed", "{change}");
        assert!(changed_at.elapsed() < STREAM_END_TIMEOUT, "{change}: {:?}", changed_at.elapsed());
        if change == "labels" {
            admin.post("/api/access/grants/revoke", revoked).await.data();
        }
    }
}

/// Decides requests in random ways until the connection breaks. Returns the decisions that were confirmed.
async fn decide(client: Client, ids: Vec<i64>, mut random: Random) -> BTreeMap<i64, &'static str> {
    let mut confirmed = BTreeMap::new();
    for id in ids {
        let (path, state) = if random.below(4) == 0 { ("deny", "denied") } else { ("approve", "approved") };
        let body = json!({"id": id});
        let Some(response) = client.try_post(&format!("/api/access/requests/{path}"), body).await else {
            break;
        };
        match response.status {
            200 => {
                confirmed.insert(id, state);
            }
            _ => {
                response.refused("CONFLICT_ERROR");
            }
        }
    }
    confirmed
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_request_has_exactly_one_grant_despite_kills() {
    let seed = env_number("PILOTHOUSE_TEST_KILLS_SEED")
        .unwrap_or_else(|| Timestamp::now().as_microsecond().cast_unsigned());
    eprintln!("{KILLS} kills; PILOTHOUSE_TEST_KILLS_SEED={seed}");
    let mut random = Random(seed);
    let server = Install::new().set("LOG", "warn").start().await;
    let admin = server.admin().await;
    let ann = admin.add_user("ann", "none").await;
    let ann_session = server.client().sign_in("ann", PASSWORD).await;
    admin.add_user("eve", "super_admin").await;
    let approvers = [admin.clone(), server.client().sign_in("eve", PASSWORD).await];
    let mut install = server.stop().await;
    let mut confirmed = BTreeMap::new();
    for _ in 0..KILLS {
        let server = install.start().await;
        let ann = client_at(&server, &ann_session);
        let mut ids = Vec::new();
        for _ in 0..REQUESTS {
            let new = json!({
                "role": "viewer", "clusters": {"all": true}, "namespaces": ["shop"], "duration_seconds": 3600,
                "reason": "a release",
            });
            let request = ann.post("/api/access/requests", new).await.data()["request"].take();
            ids.push(request["id"].as_i64().unwrap());
        }
        let mut decisions = JoinSet::new();
        for approver in &approvers {
            decisions.spawn(decide(client_at(&server, approver), ids.clone(), Random(random.next())));
        }
        sleep(random.pause(MAX_DECISION_MILLIS)).await;
        install = server.kill().await;
        while let Some(decided) = decisions.join_next().await {
            for (id, state) in decided.unwrap() {
                assert_eq!(confirmed.insert(id, state), None, "request {id} was decided twice");
            }
        }
        assert_trail_valid(&install);
    }

    let server = install.start().await;
    let admin = client_at(&server, &admin);
    let requests = admin.rows("/api/access/requests?per_page=500", "requests").await;
    assert_eq!(requests.len(), KILLS as usize * REQUESTS);
    let grants = admin.rows(format!("/api/access/grants?per_page=500&user_id={ann}"), "grants").await;
    let recorded = |verb: &str| format!("operation_type={verb}&resource_type=request&status=success");
    let mut counts = BTreeMap::<_, usize>::new();
    for request in &requests {
        let (id, state) = (request["id"].as_i64().unwrap(), request["state"].as_str().unwrap());
        *counts.entry(state).or_default() += 1;
        let source = json!(format!("request:{id}"));
        let given: Vec<_> = grants.iter().filter(|grant| grant["source"] == source).collect();
        match (state, &given[..]) {
            ("approved", [grant]) => {
                assert_eq!((&grant["id"], &grant["state"]), (&request["grant_id"], &json!("active")));
            }
            ("pending" | "denied", []) => assert_eq!(request["grant_id"], Value::Null),
            _ => panic!("{request} has the grants {given:?}"),
        }
        let confirmed = confirmed.get(&id);
        assert!(
            confirmed.is_none_or(|confirmed| *confirmed == state),
            "{confirmed:?} was answered: {request}"
        );
    }
    for (verb, state) in [("approve", "approved"), ("deny", "denied")] {
        let rows = admin.operations(recorded(verb)).await;
        assert_eq!(rows.len(), counts.get(state).copied().unwrap_or_default(), "{verb}: {counts:?}");
    }
    eprintln!("{counts:?}, {} of them answered", confirmed.len());
    // a request that the kills left pending can still be decided
    if let Some(pending) = requests.iter().find(|request| request["state"] == "pending") {
        let approved = admin.post("/api/access/requests/approve", json!({"id": pending["id"]})).await.data();
        assert_eq!(approved["request"]["state"], "approved");
    }
}
