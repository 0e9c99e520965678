//! Faults between Pilothouse and a cluster, all at the same time, while another cluster is used.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use pilothouse_testbed::{ControlPlane, Fault, FaultProxy, ServingCertificate, workloads};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{MAX_MEMORY_GROWTH_BYTES, RESPONSE_TIMEOUT, without_list_cache};
use crate::support::{ApiResponse, Client, Install, RECOVERY_TIMEOUT, apply, control_plane, within};

/// A fault and the responses that clients get during it.
struct FaultCase {
    name: &'static str,
    fault: Fault,
    /// Allowed error codes of a list; empty for success.
    reads: &'static [&'static str],
    /// Allowed error codes of a change.
    changes: &'static [&'static str],
    trail_statuses: &'static [&'static str],
}

const SLOW: Fault = Fault::Slow { delay: Duration::from_millis(800), spread: Duration::from_millis(200) };

const FAULT_CASES: [FaultCase; 6] = [
    FaultCase {
        name: "blackholed",
        fault: Fault::Blackhole,
        reads: &["TIMEOUT_ERROR", "CONNECTION_ERROR"],
        changes: &["TIMEOUT_ERROR", "CONNECTION_ERROR"],
        trail_statuses: &["failed", "unknown"],
    },
    FaultCase {
        name: "reset",
        fault: Fault::Reset,
        reads: &["CONNECTION_ERROR"],
        changes: &["CONNECTION_ERROR"],
        trail_statuses: &["failed", "unknown"],
    },
    FaultCase { name: "slow", fault: SLOW, reads: &[""], changes: &[""], trail_statuses: &["success"] },
    FaultCase {
        name: "throttled",
        fault: Fault::Throttle(20_000),
        reads: &[""],
        changes: &[""],
        trail_statuses: &["success"],
    },
    FaultCase {
        name: "limiting",
        fault: Fault::Answer(429),
        reads: &["RATE_LIMITED"],
        changes: &["RATE_LIMITED"],
        trail_statuses: &["failed"],
    },
    FaultCase {
        name: "failing",
        fault: Fault::Answer(500),
        reads: &["CONNECTION_ERROR"],
        changes: &["CONNECTION_ERROR"],
        trail_statuses: &["unknown", "failed"],
    },
];

fn code(response: &ApiResponse) -> String {
    response.body["error_code"].as_str().unwrap_or_default().to_owned()
}

async fn register(admin: &Client, name: &str, kubeconfig: String) -> i64 {
    let body = json!({"name": name, "auth_type": "kubeconfig", "kubeconfig": kubeconfig});
    admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap()
}

async fn list(admin: &Client, id: i64) -> ApiResponse {
    let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
    timeout(RESPONSE_TIMEOUT, admin.get(&path)).await.expect("response before the timeout")
}

async fn scale(admin: &Client, id: i64, name: &str, replicas: u32) -> ApiResponse {
    let body = json!({
        "cluster_id": id, "namespace": "default", "type": "deployment", "name": name, "replicas": replicas,
    });
    timeout(RESPONSE_TIMEOUT, admin.post("/api/k8s/workloads/scale", body))
        .await
        .expect("response before the timeout")
}

/// Runs one case: before, during and after its fault.
async fn run_case(case: &FaultCase, plane: &ControlPlane, admin: &Client) {
    let FaultCase { name, fault, reads, changes, trail_statuses } = case;
    let proxy = FaultProxy::before(plane).await.unwrap();
    let id = register(admin, name, proxy.kubeconfig()).await;
    list(admin, id).await.data();
    proxy.set(*fault);
    for n in 0..3 {
        let response = list(admin, id).await;
        assert!(reads.contains(&&*code(&response)), "{name}, list {n}: {response}");
        if response.status != 200 {
            assert_eq!(response.body["context"]["source"], "cluster", "{response}");
        }
    }
    let response = scale(admin, id, name, 3).await;
    assert!(changes.contains(&&*code(&response)), "{name}, scale: {response}");
    let trail = admin.operations(format!("cluster_id={id}&operation_type=scale")).await;
    let status = trail[0]["status"].as_str().unwrap();
    assert!(trail_statuses.contains(&status), "{name}: {status}");
    // many more requests, none of which takes long
    let more_responses = join_all((0..40).map(|_| list(admin, id))).await;
    for response in &more_responses {
        // the number of requests may exceed the concurrency limit of the cluster, or the circuit may be open
        let allowed = [*reads, &["SERVICE_UNAVAILABLE", "TIMEOUT_ERROR", "CONNECTION_ERROR"]].concat();
        assert!(allowed.contains(&&*code(response)), "{name}: {response}");
    }

    proxy.set(Fault::None);
    within(RECOVERY_TIMEOUT, &format!("{name} responds again"), async || {
        (list(admin, id).await.status == 200).then_some(())
    })
    .await;
    let scaled = scale(admin, id, name, 4).await.data();
    assert_eq!(scaled["workload"]["replicas"], 4, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_faults_are_reported_and_recovered_from_in_time() {
    let (faulty, healthy) = tokio::join!(control_plane(), control_plane());
    for case in &FAULT_CASES {
        apply(&faulty.client(), &[workloads::deployment("default", case.name, 1)]).await;
    }
    apply(&healthy.client(), &[workloads::deployment("default", "web", 1)]).await;
    let deadlines =
        Install::new().set("READ_DEADLINE", "8s").set("WRITE_DEADLINE", "8s").set("TEST_DEADLINE", "8s");
    let server = without_list_cache(deadlines).start().await;
    let admin = server.admin().await;
    let healthy_id = register(&admin, "healthy", healthy.kubeconfig()).await;
    list(&admin, healthy_id).await.data();
    let before = server.memory();

    let finished = AtomicBool::new(false);
    let healthy_load = async {
        let (mut responses, mut replicas) = (0, 1);
        while !finished.load(Ordering::Acquire) {
            list(&admin, healthy_id).await.data();
            replicas = replicas % 5 + 1;
            scale(&admin, healthy_id, "web", replicas).await.data();
            responses += 1;
        }
        responses
    };
    let cases = async {
        join_all(FAULT_CASES.iter().map(|case| run_case(case, &faulty, &admin))).await;
        finished.store(true, Ordering::Release);
    };
    let (responses, ()) = tokio::join!(healthy_load, cases);
    assert!(responses > 5, "the healthy cluster responded {responses} times");
    let grown = server.memory().saturating_sub(before);
    assert!(grown < MAX_MEMORY_GROWTH_BYTES, "memory grew by {grown} bytes");
    assert!(admin.operations("status=pending").await.is_empty());
    assert_eq!(admin.get("/readyz").await.status, 200);
}

/// Reports whether a list is marked stale. Panics if the list request fails.
async fn is_stale(admin: &Client, id: i64) -> bool {
    list(admin, id).await.data()["stale"].as_bool().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_list_is_served_during_faults_and_marked_stale() {
    let plane = control_plane().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let server = Install::new().start().await;
    let admin = server.admin().await;
    let faults = [
        ("reset", Fault::Reset, true),
        ("failing", Fault::Answer(500), true),
        ("limiting", Fault::Answer(429), true),
        ("blackholed", Fault::Blackhole, true),
        ("slow", SLOW, false),
    ];
    let (plane, admin) = (&plane, &admin);
    let cases = faults.iter().map(|(name, fault, becomes_stale)| async move {
        let proxy = FaultProxy::before(plane).await.unwrap();
        let id = register(admin, name, proxy.kubeconfig()).await;
        within(RECOVERY_TIMEOUT, &format!("{name}: a cached list"), async || {
            (!is_stale(admin, id).await).then_some(())
        })
        .await;
        proxy.set(*fault);
        if *becomes_stale {
            // silence is detected after 25 s
            within(RESPONSE_TIMEOUT, &format!("{name}: the list is stale"), async || {
                is_stale(admin, id).await.then_some(())
            })
            .await;
        } else {
            list(admin, id).await.data();
        }
        proxy.set(Fault::None);
        within(RECOVERY_TIMEOUT, &format!("{name}: the list is current"), async || {
            (!is_stale(admin, id).await).then_some(())
        })
        .await;
    });
    join_all(cases).await;
}

fn cause(response: &ApiResponse) -> &str {
    response.body["context"]["cause"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn certificate_and_token_changes_are_reported_and_recovered_from() {
    let plane = control_plane().await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let cluster = plane.client();
    let token = cluster.service_account_token("default", "robot", everything.clone()).await.unwrap();
    let server = without_list_cache(Install::new()).start().await;
    let admin = server.admin().await;
    let connection = |token: &str| -> Value {
        json!({"auth_type": "token", "api_server": plane.server(), "token": token, "ca_certificate": plane.ca_pem()})
    };
    let mut body = connection(&token);
    body["name"] = json!("changing");
    let id = admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap();
    let wait_for = async |what: &str, expected: &str| {
        within(RECOVERY_TIMEOUT, what, async || {
            let response = list(&admin, id).await;
            let found = if response.status == 200 { "success" } else { cause(&response) };
            (found == expected).then_some(())
        })
        .await;
    };
    wait_for("a first response", "success").await;

    plane.serve_with(ServingCertificate::Valid).await.unwrap();
    wait_for("a response with a renewed certificate", "success").await;
    plane.serve_with(ServingCertificate::OtherAuthority).await.unwrap();
    wait_for("another authority's certificate is refused", "tls_untrusted").await;
    list(&admin, id).await.refused("CONNECTION_ERROR");
    plane.serve_with(ServingCertificate::Valid).await.unwrap();
    wait_for("a response with the trusted certificate", "success").await;

    let account = "/api/v1/namespaces/default/serviceaccounts/robot";
    plane.client().delete(account).await.unwrap();
    // the API server caches a successful token authentication for ten seconds
    within(RESPONSE_TIMEOUT, "the token is refused", async || {
        (cause(&list(&admin, id).await) == "credential_rejected").then_some(())
    })
    .await;
    list(&admin, id).await.refused("CONNECTION_ERROR");
    let token = plane.client().service_account_token("default", "robot-2", everything).await.unwrap();
    let mut body = connection(&token);
    body["id"] = json!(id);
    admin.post("/api/k8s/clusters/update", body).await.data();
    wait_for("a response with a new token", "success").await;
}
