//! What went wrong in other products with what they keep and tell, tried here. docs/advisories.md has the whole list; each test
//! bears the name of the first advisory it is about.

use pilothouse_core::kind::Kind;
use pilothouse_http::document;
use serde_json::{Value, json};

use crate::{
    advisories::{OPEN, inputs},
    test_app::{Credentials, PASSWORD, TestApp},
};

/// KubePi: the list of users had their password hashes.
#[actix_web::test]
async fn cve_2023_37916_no_answer_has_a_password_or_its_hash() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    for (method, path, input) in inputs(&house).await {
        // the document has a password of its own, as an example
        if method == "GET" && path != "/api/openapi.json" {
            // the hash of these tests is the password itself
            let reply = house.get(&who, path, &input).await;
            assert!(!reply.text.contains(PASSWORD), "{path}");
        }
    }
    let document = document().to_string();
    for word in ["password_hash", "\"hash\":{\"type\":\"string\",\"format\":\"password\"}", "phc"] {
        assert!(!document.contains(word), "{word}");
    }
}

/// Rancher, twice: a list of what to leave out of the audit trail forgot a field. Ours is of what goes in.
#[actix_web::test]
async fn cve_2023_22649_no_field_of_a_body_is_recorded_that_is_not_named() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    let canary = "canary-body-value";
    for (method, path, input) in inputs(&house).await {
        if method != "POST" || path == "/api/auth/logout" || path == "/api/auth/refresh" {
            continue;
        }
        // every text of the body, one at a time; names and ids are recorded on purpose
        let body: Value = serde_json::from_str(&input).unwrap_or_default();
        let texts = [
            "data",
            "password",
            "new_password",
            "old_password",
            "token",
            "kubeconfig",
            "labels",
            "description",
        ];
        for key in texts.into_iter().filter(|key| body.get(key).is_some()) {
            let mut body = body.clone();
            body[key] = match &body[key] {
                Value::Object(map) => map
                    .keys()
                    .map(|key| (key.clone(), json!(canary)))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
                _ => json!(canary),
            };
            house.post(&who, path, body).await;
        }
    }
    let trail = format!("{:?} {:?}", house.fake.store.entries(), house.fake.store.all_operations());
    assert!(!trail.contains(canary), "{trail}");
}

/// Rancher: anybody could send somebody's credential to an address of their choice, by its id.
#[actix_web::test]
async fn cve_2021_25320_no_input_names_a_stored_credential() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let named = document["components"]["schemas"].as_object().unwrap().iter().flat_map(|(schema, of)| {
        of["properties"].as_object().into_iter().flatten().map(move |(name, _)| format!("{schema}.{name}"))
    });
    let suspicious: Vec<_> = named
        .filter(|name| name.contains("credential_id") || name.contains("token_id") || name.ends_with("_ref"))
        .collect();
    assert_eq!(suspicious, Vec::<String>::new());
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    let elsewhere = json!({"id": house.cluster, "api_server": "https://evil.example.com"});
    assert_eq!(house.post(&ops, "/api/k8s/clusters/test", elsewhere).await.status.as_u16(), 400);
    assert!(house.fake.clusters.calls().is_empty());
}

/// Rancher: the proxy sent its own credential to whatever host it was pointed at.
#[actix_web::test]
async fn cve_2025_54468_a_new_address_takes_its_credential_anew() {
    let house = TestApp::new().await;
    let ops = house.login("ops").await;
    for more in [
        json!({}),
        json!({"skip_test": true}),
        json!({"auth_type": "token"}),
        json!({"auth_type": "kubeconfig"}),
    ] {
        let mut body = json!({"id": house.cluster, "api_server": "https://evil.example.com"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = house.post(&ops, "/api/k8s/clusters/update", body).await;
        assert_eq!(reply.refusal().1, "VALIDATION_ERROR", "{more}");
    }
    assert!(house.fake.clusters.calls().is_empty());
    let rows = house.get(&ops, "/api/k8s/clusters", "").await.data();
    assert_eq!(rows["clusters"][0]["api_server"], "https://k8s.example.com:6443");
}

/// Rancher, Vault: a body too large or too deep took the server down, before anybody had signed in.
#[actix_web::test]
async fn cve_2025_23388_a_body_too_large_or_too_deep_is_refused() {
    let house = TestApp::new().await;
    let login = async |body: String| {
        let reply = house.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        (reply.status.as_u16(), reply.json()["error_code"].as_str().unwrap().to_owned())
    };
    assert_eq!(login("[".repeat(4_000)).await, (400, "VALIDATION_ERROR".into()));
    assert_eq!(login(format!("{{\"username\":{}", "{\"a\":".repeat(600))).await.0, 400);
    assert_eq!(login("[".repeat(1 << 20)).await, (413, "PAYLOAD_TOO_LARGE".into()));
    let who = house.login("super").await;
    let deep = format!("{{\"cluster_id\":1,\"data\":{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let reply = house.call(&who.credentials, "POST", "/api/k8s/configmaps", &deep).await;
    assert_eq!(reply.status.as_u16(), 400);
    let large = format!("{{\"cluster_id\":1,\"name\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(
        house.call(&who.credentials, "POST", "/api/k8s/configmaps", &large).await.status.as_u16(),
        413
    );
}

/// Argo CD, four times: a Secret's value came out by an annotation, a patch's error, a difference.
#[actix_web::test]
async fn cve_2023_40029_what_kubectl_wrote_beside_a_secret_is_not_shown() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    let applied = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "Y2FuYXJ5LWFwcGxpZWQ="},
        "stringData": {"password": "canary-applied"}});
    let metadata = json!({"name": "applied", "namespace": "shop", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": applied.to_string(), "kept": "yes"},
        "managedFields": [{"manager": "canary-applied"}]});
    let object = json!({"metadata": metadata, "data": {"password": "Y2FuYXJ5LWFwcGxpZWQ="}});
    house.fake.clusters.put(pilothouse_core::cluster::ClusterId(house.cluster), Kind::Secret, object);
    let query = format!("cluster_id={}&namespace=shop", house.cluster);
    let detail = house.get(&who, "/api/k8s/secrets/detail", &format!("{query}&name=applied")).await;
    assert_eq!(detail.json()["data"]["annotations"], json!({"kept": "*** (3 bytes)"}));
    let list = house.get(&who, "/api/k8s/secrets", &query).await;
    let update = json!({"cluster_id": house.cluster, "namespace": "shop", "name": "applied",
        "data": {"password": "canary-applied"}, "resource_version": "stale"});
    let refused = house.post(&who, "/api/k8s/secrets/update", update).await;
    assert_eq!(refused.refusal().1, "CONFLICT_ERROR");
    for reply in [detail, list, refused] {
        assert!(
            !reply.text.contains("canary-applied") && !reply.text.contains("Y2FuYXJ5LWFwcGxpZWQ"),
            "{}",
            reply.text
        );
    }
}

/// Argo CD: a token for reading projects could read the credentials of repositories.
#[actix_web::test]
async fn cve_2025_55190_no_read_gives_a_stored_credential_to_anybody() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    for (method, path, input) in inputs(&house).await {
        if method == "GET" {
            let reply = house.get(&who, path, &input).await;
            assert!(!reply.text.contains("canary-token"), "{path}");
        }
    }
    for path in ["clusters/test", "clusters/update"] {
        let body = json!({"id": house.cluster, "name": "renamed"});
        let body = if path == "clusters/test" { json!({"id": house.cluster}) } else { body };
        let reply = house.post(&who, &format!("/api/k8s/{path}"), body).await;
        assert!(!reply.data().to_string().contains("canary-token"), "{path}");
    }
}

/// Portainer: a token in the address went into logs and the Referer header.
#[actix_web::test]
async fn cve_2026_44883_a_token_in_the_address_is_no_token() {
    let house = TestApp::new().await;
    let Credentials { bearer, cookie } = house.login("super").await.credentials;
    let cookie = Credentials { bearer: None, cookie };
    let mut names = ["token", "access_token", "authorization", "jwt"].into_iter().cycle();
    for (method, path, _) in inputs(&house).await.into_iter().filter(|(_, path, _)| !OPEN.contains(path)) {
        let target = format!("{path}?{}={}", names.next().unwrap(), bearer.as_ref().unwrap());
        assert_eq!(house.call(&cookie, &method, &target, "").await.status.as_u16(), 401, "{method} {target}");
    }
}

/// KubeView: an endpoint for debugging gave out admin certificates.
#[actix_web::test]
async fn cve_2022_45933_what_is_open_to_all_tells_nothing_of_a_cluster() {
    let house = TestApp::new().await;
    let who = house.login("super").await;
    house.get(&who, "/api/k8s/pods", &format!("cluster_id={}&namespace=*", house.cluster)).await.data();
    for path in ["/livez", "/readyz", "/api/openapi.json", "/api/docs", "/api/docs/"] {
        let reply = house.call(&Credentials::default(), "GET", path, "").await;
        for word in ["k8s.example.com:6443", "canary", "web-0", "super\""] {
            assert!(!reply.text.contains(word), "{path}: {word}");
        }
    }
    for path in
        ["/metrics", "/debug/pprof", "/api/debug", "/api/scrape", "/api/k8s/raw", "/.env", "/api/config"]
    {
        assert_eq!(house.call(&Credentials::default(), "GET", path, "").await.status.as_u16(), 404, "{path}");
    }
}
