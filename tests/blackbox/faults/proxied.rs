//! Clusters whose way or API server misbehaves, each in its own manner and all at once, while another is used.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use pilothouse_testbed::{ControlPlane, Fault, FaultProxy, ServingCertificate, workloads};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{LATEST, MEMORY, reading_through};
use crate::support::{Answer, Client, Install, RECOVERY, apply, light, within};

/// What a fault looks like to callers.
struct Trouble {
    name: &'static str,
    fault: Fault,
    /// The codes of a list; empty for a success.
    reads: &'static [&'static str],
    /// The codes of a change, and what its trail says.
    changes: &'static [&'static str],
    statuses: &'static [&'static str],
}

const SLOW: Fault = Fault::Slow { delay: Duration::from_millis(800), spread: Duration::from_millis(200) };

const TROUBLES: [Trouble; 6] = [
    Trouble {
        name: "silent",
        fault: Fault::Swallow,
        reads: &["TIMEOUT_ERROR", "CONNECTION_ERROR"],
        changes: &["TIMEOUT_ERROR", "CONNECTION_ERROR"],
        statuses: &["failed", "unknown"],
    },
    Trouble {
        name: "cut",
        fault: Fault::Cut,
        reads: &["CONNECTION_ERROR"],
        changes: &["CONNECTION_ERROR"],
        statuses: &["failed", "unknown"],
    },
    Trouble { name: "slow", fault: SLOW, reads: &[""], changes: &[""], statuses: &["success"] },
    Trouble {
        name: "narrow",
        fault: Fault::Narrow(20_000),
        reads: &[""],
        changes: &[""],
        statuses: &["success"],
    },
    Trouble {
        name: "limiting",
        fault: Fault::Answer(429),
        reads: &["RATE_LIMITED"],
        changes: &["RATE_LIMITED"],
        statuses: &["failed"],
    },
    Trouble {
        name: "failing",
        fault: Fault::Answer(500),
        reads: &["CONNECTION_ERROR"],
        changes: &["CONNECTION_ERROR"],
        statuses: &["unknown", "failed"],
    },
];

fn code(answer: &Answer) -> String {
    answer.body["error_code"].as_str().unwrap_or_default().to_owned()
}

async fn register(admin: &Client, name: &str, kubeconfig: String) -> i64 {
    let body = json!({"name": name, "auth_type": "kubeconfig", "kubeconfig": kubeconfig});
    admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap()
}

async fn list(admin: &Client, id: i64) -> Answer {
    let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
    timeout(LATEST, admin.get(&path)).await.expect("an answer within the deadlines")
}

async fn scale(admin: &Client, id: i64, name: &str, replicas: u32) -> Answer {
    let body = json!({
        "cluster_id": id, "namespace": "default", "type": "deployment", "name": name, "replicas": replicas,
    });
    timeout(LATEST, admin.post("/api/k8s/workloads/scale", body))
        .await
        .expect("an answer within the deadlines")
}

/// One cluster's trouble, from its beginning to after its end.
async fn go_through(trouble: &Trouble, plane: &ControlPlane, admin: &Client) {
    let Trouble { name, fault, reads, changes, statuses } = trouble;
    let proxy = FaultProxy::before(plane).await.unwrap();
    let id = register(admin, name, proxy.kubeconfig()).await;
    list(admin, id).await.data();
    proxy.set(*fault);
    for n in 0..3 {
        let answer = list(admin, id).await;
        assert!(reads.contains(&&*code(&answer)), "{name}, list {n}: {answer}");
        if answer.status != 200 {
            assert_eq!(answer.body["context"]["source"], "cluster", "{answer}");
        }
    }
    let answer = scale(admin, id, name, 3).await;
    assert!(changes.contains(&&*code(&answer)), "{name}, scale: {answer}");
    let trail = admin.operations(format!("cluster_id={id}&operation_type=scale")).await;
    let told = trail[0]["status"].as_str().unwrap();
    assert!(statuses.contains(&told), "{name}: {told}");
    // many more, whoever they are, and none of them for long
    let more = join_all((0..40).map(|_| list(admin, id))).await;
    for answer in &more {
        // so many may find no place in time, or the circuit open
        let allowed = [*reads, &["SERVICE_UNAVAILABLE", "TIMEOUT_ERROR", "CONNECTION_ERROR"]].concat();
        assert!(allowed.contains(&&*code(answer)), "{name}: {answer}");
    }

    proxy.set(Fault::None);
    within(RECOVERY, &format!("{name} is used again"), async || {
        (list(admin, id).await.status == 200).then_some(())
    })
    .await;
    let scaled = scale(admin, id, name, 4).await.data();
    assert_eq!(scaled["workload"]["replicas"], 4, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_befalls_the_way_to_a_cluster_is_told_soon_and_over_soon() {
    let (troubled, well) = tokio::join!(light(), light());
    for trouble in &TROUBLES {
        apply(&troubled.client(), &[workloads::deployment("default", trouble.name, 1)]).await;
    }
    apply(&well.client(), &[workloads::deployment("default", "web", 1)]).await;
    let deadlines =
        Install::new().set("READ_DEADLINE", "8s").set("WRITE_DEADLINE", "8s").set("TEST_DEADLINE", "8s");
    let server = reading_through(deadlines).start().await;
    let admin = server.admin().await;
    let fine = register(&admin, "well", well.kubeconfig()).await;
    list(&admin, fine).await.data();
    let before = server.memory();

    let over = AtomicBool::new(false);
    let meanwhile = async {
        let (mut answers, mut replicas) = (0, 1);
        while !over.load(Ordering::Acquire) {
            list(&admin, fine).await.data();
            replicas = replicas % 5 + 1;
            scale(&admin, fine, "web", replicas).await.data();
            answers += 1;
        }
        answers
    };
    let troubles = async {
        join_all(TROUBLES.iter().map(|trouble| go_through(trouble, &troubled, &admin))).await;
        over.store(true, Ordering::Release);
    };
    let (answers, ()) = tokio::join!(meanwhile, troubles);
    assert!(answers > 5, "the one that is well answered {answers} times");
    let grown = server.memory().saturating_sub(before);
    assert!(grown < MEMORY, "it grew by {grown} bytes");
    assert!(admin.operations("status=pending").await.is_empty());
    assert_eq!(admin.get("/readyz").await.status, 200);
}

/// Whether a kept list is known to be current; it is there, whatever happens.
async fn is_stale(admin: &Client, id: i64) -> bool {
    list(admin, id).await.data()["stale"].as_bool().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_kept_is_read_on_through_all_of_it_and_says_that_it_is_stale() {
    let plane = light().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let server = Install::new().start().await;
    let admin = server.admin().await;
    let faults = [
        ("cut", Fault::Cut, true),
        ("failing", Fault::Answer(500), true),
        ("limiting", Fault::Answer(429), true),
        ("silent", Fault::Swallow, true),
        ("slow", SLOW, false),
    ];
    let (plane, admin) = (&plane, &admin);
    let cases = faults.iter().map(|(name, fault, becomes_stale)| async move {
        let proxy = FaultProxy::before(plane).await.unwrap();
        let id = register(admin, name, proxy.kubeconfig()).await;
        within(RECOVERY, &format!("{name}: a list that is kept"), async || {
            (!is_stale(admin, id).await).then_some(())
        })
        .await;
        proxy.set(*fault);
        if *becomes_stale {
            // silence is known as such after 25 s
            within(LATEST, &format!("{name}: a stale list"), async || {
                is_stale(admin, id).await.then_some(())
            })
            .await;
        } else {
            list(admin, id).await.data();
        }
        proxy.set(Fault::None);
        within(RECOVERY, &format!("{name}: a list that is current"), async || {
            (!is_stale(admin, id).await).then_some(())
        })
        .await;
    });
    join_all(cases).await;
}

fn cause(answer: &Answer) -> &str {
    answer.body["context"]["cause"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_renewed_certificate_another_authority_and_a_revoked_token_are_each_told_and_got_over() {
    let plane = light().await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let cluster = plane.client();
    let token = cluster.service_account_token("default", "robot", everything.clone()).await.unwrap();
    let server = reading_through(Install::new()).start().await;
    let admin = server.admin().await;
    let registered = |token: &str| -> Value {
        json!({"auth_type": "token", "api_server": plane.server(), "token": token, "ca_certificate": plane.ca_pem()})
    };
    let mut body = registered(&token);
    body["name"] = json!("changing");
    let id = admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap();
    let becomes = async |what: &str, expected: &str| {
        within(RECOVERY, what, async || {
            let answer = list(&admin, id).await;
            let found = if answer.status == 200 { "well" } else { cause(&answer) };
            (found == expected).then_some(())
        })
        .await;
    };
    becomes("a first answer", "well").await;

    plane.serve_with(ServingCertificate::Valid).await.unwrap();
    becomes("an answer under a renewed certificate", "well").await;
    plane.serve_with(ServingCertificate::OtherAuthority).await.unwrap();
    becomes("a refusal of another authority's certificate", "tls_untrusted").await;
    list(&admin, id).await.refused("CONNECTION_ERROR");
    plane.serve_with(ServingCertificate::Valid).await.unwrap();
    becomes("an answer under a certificate that is trusted", "well").await;

    let account = "/api/v1/namespaces/default/serviceaccounts/robot";
    plane.client().delete(account).await.unwrap();
    // the API server remembers for ten seconds that it was good
    within(LATEST, "a refusal of the token", async || {
        (cause(&list(&admin, id).await) == "credential_rejected").then_some(())
    })
    .await;
    list(&admin, id).await.refused("CONNECTION_ERROR");
    let token = plane.client().service_account_token("default", "robot-2", everything).await.unwrap();
    let mut body = registered(&token);
    body["id"] = json!(id);
    admin.post("/api/k8s/clusters/update", body).await.data();
    becomes("an answer to a new token", "well").await;
}
