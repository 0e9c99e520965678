//! Control planes: started, used, side by side, broken and mended.

use std::time::{Duration, Instant};

use pilothouse_testbed::{Component, ControlPlane, Error, ServingCertificate, Signal, shared, workloads};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

async fn light() -> ControlPlane {
    ControlPlane::builder()
        .controllers(false)
        .start()
        .await
        .expect("a control plane without controllers starts")
}

#[tokio::test]
async fn it_serves_and_its_audit_log_holds_the_id_that_was_sent() {
    let plane = light().await;
    let client = plane.client();
    assert_eq!(client.text("/readyz").await.unwrap(), "ok");
    assert_eq!(client.get("/version").await.unwrap()["major"], "1");
    client.apply(&workloads::namespace("audited")).await.unwrap();

    let id = "0f9d8c1e-5a37-4b52-9d36-1c2a6a1f4a11";
    let request = client.request(reqwest::Method::POST, "/api/v1/namespaces/audited/configmaps");
    let body = workloads::config_map("audited", "settings");
    let answer = request.header("Audit-ID", id).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 201);

    let event = plane.audit_events().unwrap().into_iter().find(|event| event.audit_id == id).unwrap();
    assert_eq!(event.verb, "create");
    assert_eq!(event.request_uri, "/api/v1/namespaces/audited/configmaps");
    assert_eq!(event.response_status.unwrap().code, Some(201));
    let object = event.object_ref.unwrap();
    assert_eq!((object.resource.as_deref(), object.name.as_deref()), (Some("configmaps"), Some("settings")));
}

#[tokio::test]
async fn its_controllers_act_on_what_is_stored() {
    let client = shared().await.unwrap().client();
    for object in workloads::samples("controlled") {
        client.apply(&object).await.unwrap();
    }
    let pods = "/api/v1/namespaces/controlled/pods?labelSelector=app%3Dweb";
    let two = |pods: &serde_json::Value| pods["items"].as_array().is_some_and(|pods| pods.len() == 2);
    client.wait_until(pods, two, SOON).await.unwrap();
    client.delete("/api/v1/namespaces/controlled").await.unwrap();
}

#[tokio::test]
async fn a_service_account_may_do_what_its_rules_say() {
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
async fn an_existing_cluster_is_used_but_not_broken() {
    let plane = light().await;
    let existing = ControlPlane::existing(&plane.dir().unwrap().join("admin.kubeconfig")).await.unwrap();
    assert_eq!(existing.server(), plane.server());
    assert_ne!(existing.admin_token(), plane.admin_token(), "a certificate has no token, so one was made");
    existing.client().apply(&workloads::config_map("default", "settings")).await.unwrap();
    assert!(matches!(existing.signal(Component::ApiServer, Signal::Kill), Err(Error::NotOwned(_))));
    assert!(matches!(existing.audit_events(), Err(Error::NotOwned(_))));
    assert!(matches!(existing.start_node(0).await, Err(Error::NotOwned(_))));
}

#[tokio::test]
async fn two_stand_side_by_side() {
    let (one, two) = tokio::join!(light(), light());
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
async fn killed_it_comes_back_on_the_same_port_with_the_same_data() {
    let plane = light().await;
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
async fn stopped_it_does_not_answer_and_continued_it_does() {
    let plane = light().await;
    plane.signal(Component::ApiServer, Signal::Stop).unwrap();
    let client = plane.client();
    // the signal reaches its threads a moment later on a busy machine
    let end = Instant::now() + Duration::from_secs(20);
    while let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), client.text("/readyz")).await {
        assert!(Instant::now() < end, "a stopped server accepts but does not answer: {answer:?}");
    }
    plane.signal(Component::ApiServer, Signal::Cont).unwrap();
    assert_eq!(client.text("/readyz").await.unwrap(), "ok");
}

#[tokio::test]
async fn a_wrong_certificate_is_refused_until_it_is_right_again() {
    let plane = light().await;
    for wrong in
        [ServingCertificate::Expired, ServingCertificate::OtherAuthority, ServingCertificate::OtherName]
    {
        plane.serve_with(wrong).await.unwrap();
        let answer = plane.client().text("/readyz").await;
        assert!(matches!(answer, Err(Error::NoAnswer { .. })), "{wrong:?}: {answer:?}");
    }
    plane.serve_with(ServingCertificate::Valid).await.unwrap();
    assert_eq!(plane.client().text("/readyz").await.unwrap(), "ok");
}

#[tokio::test]
async fn one_that_cannot_start_says_why_and_leaves_nothing() {
    let failed = ControlPlane::builder().controllers(false).apiserver_flag("--no-such-flag").start().await;
    let Err(Error::Ended { name, log }) = failed else { panic!("it cannot start") };
    assert_eq!(name, "kube-apiserver");
    assert!(log.contains("no-such-flag"), "{log}");
}
