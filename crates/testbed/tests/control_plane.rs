//! Tests of control planes: start, use, side by side, fault injection and recovery.

use std::time::{Duration, Instant};

use pilothouse_testbed::{
    Component, ControlPlane, DenyingWebhook, Error, ServingCertificate, Signal, shared, workloads,
};
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

async fn control_plane_without_controllers() -> ControlPlane {
    ControlPlane::builder().controllers(false).start().await.expect("control plane without controllers")
}

#[tokio::test]
async fn audit_log_contains_the_audit_id_of_a_request() {
    let plane = control_plane_without_controllers().await;
    let client = plane.client();
    assert_eq!(client.text("/readyz").await.unwrap(), "ok");
    assert_eq!(client.get("/version").await.unwrap()["major"], "1");
    client.apply(&workloads::namespace("audited")).await.unwrap();

    let id = "0f9d8c1e-5a37-4b52-9d36-1c2a6a1f4a11";
    let request = client.request(reqwest::Method::POST, "/api/v1/namespaces/audited/configmaps");
    let body = workloads::config_map("audited", "settings");
    let response = request.header("Audit-ID", id).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 201);

    let event = plane.audit_events().unwrap().into_iter().find(|event| event.audit_id == id).unwrap();
    assert_eq!(event.verb, "create");
    assert_eq!(event.request_uri, "/api/v1/namespaces/audited/configmaps");
    assert_eq!(event.response_status.unwrap().code, Some(201));
    let object = event.object_ref.unwrap();
    assert_eq!((object.resource.as_deref(), object.name.as_deref()), (Some("configmaps"), Some("settings")));
}

#[tokio::test]
async fn controllers_create_pods_of_a_deployment() {
    let client = shared().await.unwrap().client();
    for object in workloads::samples("controlled") {
        client.apply(&object).await.unwrap();
    }
    let pods = "/api/v1/namespaces/controlled/pods?labelSelector=app%3Dweb";
    let two = |pods: &serde_json::Value| pods["items"].as_array().is_some_and(|pods| pods.len() == 2);
    client.wait_until(pods, two, WAIT_TIMEOUT).await.unwrap();
    client.delete("/api/v1/namespaces/controlled").await.unwrap();
}

#[tokio::test]
async fn service_account_token_grants_only_the_given_rules() {
    let plane = shared().await.unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    let token = plane.client().service_account_token("accounts", "reader", rules).await.unwrap();

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), plane.kubeconfig_for(&token)).unwrap();
    let reader = ControlPlane::existing(file.path()).await.unwrap().client();
    assert_eq!(reader.get("/api/v1/pods").await.unwrap()["kind"], "PodList");
    assert!(matches!(reader.get("/api/v1/secrets").await, Err(Error::Status { code: 403, .. })));
}

#[tokio::test]
async fn existing_cluster_rejects_operations_on_processes() {
    let plane = control_plane_without_controllers().await;
    let existing = ControlPlane::existing(&plane.dir().unwrap().join("admin.kubeconfig")).await.unwrap();
    assert_eq!(existing.server(), plane.server());
    assert_ne!(
        existing.admin_token(),
        plane.admin_token(),
        "a token is created for a kubeconfig with a certificate"
    );
    existing.client().apply(&workloads::config_map("default", "settings")).await.unwrap();
    assert!(matches!(existing.signal(Component::ApiServer, Signal::Kill), Err(Error::NotOwned(_))));
    assert!(matches!(existing.audit_events(), Err(Error::NotOwned(_))));
    assert!(matches!(existing.start_node(0).await, Err(Error::NotOwned(_))));
}

#[tokio::test]
async fn control_planes_run_side_by_side() {
    let (one, two) = tokio::join!(control_plane_without_controllers(), control_plane_without_controllers());
    assert_ne!(one.server(), two.server());
    one.client().apply(&workloads::config_map("default", "only-in-one")).await.unwrap();
    let path = "/api/v1/namespaces/default/configmaps/only-in-one";
    assert!(one.client().try_get(path).await.unwrap().is_some());
    assert!(two.client().try_get(path).await.unwrap().is_none());

    let folder = one.dir().unwrap().to_owned();
    one.stop().await.unwrap();
    assert!(!folder.exists());
    assert_eq!(two.client().text("/readyz").await.unwrap(), "ok");
}

#[tokio::test]
async fn killed_api_server_restarts_with_same_port_and_data() {
    let plane = control_plane_without_controllers().await;
    let (server, pid) = (plane.server().to_owned(), plane.pid(Component::ApiServer).unwrap());
    plane.client().apply(&workloads::config_map("default", "kept")).await.unwrap();

    plane.signal(Component::ApiServer, Signal::Kill).unwrap();
    assert!(matches!(plane.client().text("/readyz").await, Err(Error::NoAnswer { .. })));
    assert!(matches!(plane.pid(Component::ApiServer), Err(Error::NotRunning(Component::ApiServer))));

    plane.restart(Component::ApiServer).await.unwrap();
    assert_eq!(plane.server(), server);
    assert_ne!(plane.pid(Component::ApiServer).unwrap(), pid);
    assert!(plane.client().try_get("/api/v1/namespaces/default/configmaps/kept").await.unwrap().is_some());
}

#[tokio::test]
async fn suspended_api_server_responds_again_after_sigcont() {
    let plane = control_plane_without_controllers().await;
    plane.signal(Component::ApiServer, Signal::Stop).unwrap();
    let client = plane.client();
    // on a busy machine the signal takes effect with a delay
    let end = Instant::now() + Duration::from_secs(20);
    while let Ok(response) = tokio::time::timeout(Duration::from_millis(500), client.text("/readyz")).await {
        assert!(Instant::now() < end, "response of a suspended server: {response:?}");
    }
    plane.signal(Component::ApiServer, Signal::Cont).unwrap();
    assert_eq!(client.text("/readyz").await.unwrap(), "ok");
}

#[tokio::test]
async fn invalid_serving_certificate_is_rejected_by_clients() {
    let plane = control_plane_without_controllers().await;
    for invalid in
        [ServingCertificate::Expired, ServingCertificate::OtherAuthority, ServingCertificate::OtherName]
    {
        plane.serve_with(invalid).await.unwrap();
        let response = plane.client().text("/readyz").await;
        assert!(matches!(response, Err(Error::NoAnswer { .. })), "{invalid:?}: {response:?}");
    }
    plane.serve_with(ServingCertificate::Valid).await.unwrap();
    assert_eq!(plane.client().text("/readyz").await.unwrap(), "ok");
}

#[tokio::test]
async fn failed_start_reports_component_and_log() {
    let failed = ControlPlane::builder().controllers(false).apiserver_flag("--no-such-flag").start().await;
    let Err(Error::Ended { name, log }) = failed else { panic!("start with an unknown flag") };
    assert_eq!(name, "kube-apiserver");
    assert!(log.contains("no-such-flag"), "{log}");
}

#[tokio::test]
async fn webhook_denies_new_pods_of_its_namespace_only() {
    let plane = control_plane_without_controllers().await;
    let client = plane.client();
    client.apply(&workloads::namespace("denied")).await.unwrap();
    let webhook = DenyingWebhook::start(&plane, "denied", "no pods on Fridays").await.unwrap();
    // the API server reads the registration of a webhook with a delay, and the webhook is called for new pods only
    let mut pods = 0;
    let mut message = async |text: &str| {
        let end = Instant::now() + WAIT_TIMEOUT;
        loop {
            pods += 1;
            match client.apply(&workloads::pod("denied", &format!("web-{pods}"))).await {
                Err(Error::Status { message, .. }) if message.contains(text) => return message,
                result => assert!(Instant::now() < end, "{result:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let denied = message("no pods on Fridays").await;
    assert!(denied.contains(r#"admission webhook "deny.testbed.example" denied the request"#), "{denied}");
    client.apply(&workloads::pod("default", "web")).await.unwrap();

    drop(webhook);
    let unavailable = message("failed calling webhook").await;
    assert!(unavailable.contains("deny.testbed.example"), "{unavailable}");
}
