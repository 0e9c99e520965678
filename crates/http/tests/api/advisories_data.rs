//! Security advisories of comparable products about stored and disclosed data, reproduced against the HTTP API.
//! docs/advisories.md has the complete list; each test is named after its first advisory.

use pilothouse_core::kind::Kind;
use pilothouse_http::document;
use serde_json::{Value, json};

use crate::{
    advisories::{PUBLIC_PATHS, inputs},
    test_app::{Credentials, PASSWORD, TestApp},
};

/// KubePi: the list of users contained password hashes.
#[actix_web::test]
async fn cve_2023_37916_no_response_has_a_password_or_its_hash() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    for (method, path, input) in inputs(&api).await {
        // the document contains an example password
        if method == "GET" && path != "/api/openapi.json" {
            // the fake hash is the password itself
            let reply = api.get(&signed_in, path, &input).await;
            assert!(!reply.text.contains(PASSWORD), "{path}");
        }
    }
    let document = document().to_string();
    for text in ["password_hash", "\"hash\":{\"type\":\"string\",\"format\":\"password\"}", "phc"] {
        assert!(!document.contains(text), "{text}");
    }
}

/// Rancher, twice: the deny list of the audit trail missed a field. Pilothouse's trail uses an allow list.
#[actix_web::test]
async fn cve_2023_22649_only_listed_body_fields_are_recorded() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let canary = "canary-body-value";
    for (method, path, input) in inputs(&api).await {
        if method != "POST" || path == "/api/auth/logout" || path == "/api/auth/refresh" {
            continue;
        }
        // each text field of the body in turn; names and ids are recorded intentionally
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
            api.post(&signed_in, path, body).await;
        }
    }
    let trail = format!("{:?} {:?}", api.fake.store.entries(), api.fake.store.all_operations());
    assert!(!trail.contains(canary), "{trail}");
}

/// Rancher: any user could send a stored credential to a host of their choice, by its id.
#[actix_web::test]
async fn cve_2021_25320_no_input_names_a_stored_credential() {
    let document: Value = serde_json::from_str(&document().to_string()).unwrap();
    let named = document["components"]["schemas"].as_object().unwrap().iter().flat_map(|(schema, of)| {
        of["properties"].as_object().into_iter().flatten().map(move |(name, _)| format!("{schema}.{name}"))
    });
    // the row of an operation names the token that was used; it is output
    let suspicious: Vec<_> = named
        .filter(|name| name != "OperationRow.token_id")
        .filter(|name| name.contains("credential_id") || name.contains("token_id") || name.ends_with("_ref"))
        .collect();
    assert_eq!(suspicious, Vec::<String>::new());
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let elsewhere = json!({"id": api.cluster, "api_server": "https://evil.example.com"});
    assert_eq!(api.post(&ops, "/api/k8s/clusters/test", elsewhere).await.status.as_u16(), 400);
    assert!(api.fake.clusters.calls().is_empty());
}

/// Rancher: the proxy sent its own credential to any host in the request.
#[actix_web::test]
async fn cve_2025_54468_new_server_requires_its_credential_again() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    for more in [
        json!({}),
        json!({"skip_test": true}),
        json!({"auth_type": "token"}),
        json!({"auth_type": "kubeconfig"}),
    ] {
        let mut body = json!({"id": api.cluster, "api_server": "https://evil.example.com"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = api.post(&ops, "/api/k8s/clusters/update", body).await;
        assert_eq!(reply.error().1, "VALIDATION_ERROR", "{more}");
    }
    assert!(api.fake.clusters.calls().is_empty());
    let rows = api.get(&ops, "/api/k8s/clusters", "").await.data();
    assert_eq!(rows["clusters"][0]["api_server"], "https://k8s.example.com:6443");
}

/// Rancher, Vault: an unauthenticated body that was too large or too deep made the server unavailable.
#[actix_web::test]
async fn cve_2025_23388_too_large_or_too_deep_body_is_refused() {
    let api = TestApp::new().await;
    let login = async |body: String| {
        let reply = api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await;
        (reply.status.as_u16(), reply.json()["error_code"].as_str().unwrap().to_owned())
    };
    assert_eq!(login("[".repeat(4_000)).await, (400, "VALIDATION_ERROR".into()));
    assert_eq!(login(format!("{{\"username\":{}", "{\"a\":".repeat(600))).await.0, 400);
    assert_eq!(login("[".repeat(1 << 20)).await, (413, "PAYLOAD_TOO_LARGE".into()));
    let signed_in = api.login("super").await;
    let deep = format!("{{\"cluster_id\":1,\"data\":{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let reply = api.call(&signed_in.credentials, "POST", "/api/k8s/configmaps", &deep).await;
    assert_eq!(reply.status.as_u16(), 400);
    let large = format!("{{\"cluster_id\":1,\"name\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(
        api.call(&signed_in.credentials, "POST", "/api/k8s/configmaps", &large).await.status.as_u16(),
        413
    );
}

/// Argo CD, four times: the value of a Secret was disclosed by an annotation, the error of a patch, or a diff.
#[actix_web::test]
async fn cve_2023_40029_last_applied_annotation_of_a_secret_is_hidden() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    let applied = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "Y2FuYXJ5LWFwcGxpZWQ="},
        "stringData": {"password": "canary-applied"}});
    let metadata = json!({"name": "applied", "namespace": "shop", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": applied.to_string(), "kept": "yes"},
        "managedFields": [{"manager": "canary-applied"}]});
    let object = json!({"metadata": metadata, "data": {"password": "Y2FuYXJ5LWFwcGxpZWQ="}});
    api.fake.clusters.put(pilothouse_core::ids::ClusterId(api.cluster), Kind::Secret, object);
    let query = format!("cluster_id={}&namespace=shop", api.cluster);
    let detail = api.get(&signed_in, "/api/k8s/secrets/detail", &format!("{query}&name=applied")).await;
    assert_eq!(detail.json()["data"]["annotations"], json!({"kept": "*** (3 bytes)"}));
    let list = api.get(&signed_in, "/api/k8s/secrets", &query).await;
    let update = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "applied",
        "data": {"password": "canary-applied"}, "resource_version": "stale"});
    let refused = api.post(&signed_in, "/api/k8s/secrets/update", update).await;
    assert_eq!(refused.error().1, "CONFLICT_ERROR");
    for reply in [detail, list, refused] {
        assert!(
            !reply.text.contains("canary-applied") && !reply.text.contains("Y2FuYXJ5LWFwcGxpZWQ"),
            "{}",
            reply.text
        );
    }
}

/// Argo CD: a token for reading projects could read repository credentials.
#[actix_web::test]
async fn cve_2025_55190_no_read_returns_a_stored_credential() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    for (method, path, input) in inputs(&api).await {
        if method == "GET" {
            let reply = api.get(&signed_in, path, &input).await;
            assert!(!reply.text.contains("canary-token"), "{path}");
        }
    }
    for path in ["clusters/test", "clusters/update"] {
        let body = json!({"id": api.cluster, "name": "renamed"});
        let body = if path == "clusters/test" { json!({"id": api.cluster}) } else { body };
        let reply = api.post(&signed_in, &format!("/api/k8s/{path}"), body).await;
        assert!(!reply.data().to_string().contains("canary-token"), "{path}");
    }
}

/// Portainer: a token in the URL was written to logs and the Referer header.
#[actix_web::test]
async fn cve_2026_44883_token_in_the_url_is_ignored() {
    let api = TestApp::new().await;
    let Credentials { bearer, cookie } = api.login("super").await.credentials;
    let cookie = Credentials { bearer: None, cookie };
    let mut names = ["token", "access_token", "authorization", "jwt"].into_iter().cycle();
    for (method, path, _) in
        inputs(&api).await.into_iter().filter(|(_, path, _)| !PUBLIC_PATHS.contains(path))
    {
        let target = format!("{path}?{}={}", names.next().unwrap(), bearer.as_ref().unwrap());
        assert_eq!(api.call(&cookie, &method, &target, "").await.status.as_u16(), 401, "{method} {target}");
    }
}

/// KubeView: a debugging endpoint returned admin certificates.
#[actix_web::test]
async fn cve_2022_45933_public_routes_disclose_nothing_of_a_cluster() {
    let api = TestApp::new().await;
    let signed_in = api.login("super").await;
    api.get(&signed_in, "/api/k8s/pods", &format!("cluster_id={}&namespace=*", api.cluster)).await.data();
    for path in ["/livez", "/readyz", "/api/version", "/api/openapi.json", "/api/docs", "/api/docs/"] {
        let reply = api.call(&Credentials::default(), "GET", path, "").await;
        for text in ["k8s.example.com:6443", "canary", "web-0", "super\""] {
            assert!(!reply.text.contains(text), "{path}: {text}");
        }
    }
    for path in
        ["/metrics", "/debug/pprof", "/api/debug", "/api/scrape", "/api/k8s/raw", "/.env", "/api/config"]
    {
        assert_eq!(api.call(&Credentials::default(), "GET", path, "").await.status.as_u16(), 404, "{path}");
    }
}
