//! Bad input, and the order in which its errors are reported.

use actix_web::{http::Method, test::TestRequest};
use serde_json::{Value, json};

use crate::test_app::{Credentials, Reply, SignedIn, TestApp};

const SCALE: &str = "/api/k8s/workloads/scale";

/// Sends a body of any media type.
async fn post(
    api: &TestApp,
    signed_in: Option<&SignedIn>,
    path: &str,
    media_type: &str,
    body: String,
) -> Reply {
    let mut request = TestRequest::post().uri(path).set_payload(body);
    if !media_type.is_empty() {
        request = request.insert_header(("content-type", media_type));
    }
    let headers = signed_in.map(|signed_in| signed_in.credentials.headers()).unwrap_or_default();
    api.send(headers.into_iter().fold(request, TestRequest::insert_header)).await
}

/// The faults of one request in the order of the contract, with the status and cause of each.
const FAULTS: [(u16, &str); 9] = [
    (404, "unknown_path"),
    (405, "method_not_allowed"),
    (401, "not_signed_in"),
    (415, "unsupported_media_type"),
    (413, "body_too_large"),
    (400, "invalid_input"),
    (403, "role_too_low"),
    (404, "not_found_in_cluster"),
    (409, "rollout_paused"),
];

/// Each combination of faults is reported as the first of them.
#[actix_web::test]
async fn errors_have_the_precedence_of_the_contract() {
    let api = TestApp::new().await;
    let (viewer, ops) = (api.login("viewer").await, api.login("ops").await);
    for faults in 0_u32..1 << FAULTS.len() {
        let has = |fault: usize| faults & (1 << fault) != 0;
        let name = if has(7) {
            "none"
        } else if has(8) {
            "still"
        } else {
            "web"
        };
        let mut body =
            json!({"cluster_id": api.cluster, "namespace": "shop", "type": "deployment", "name": name});
        if has(5) {
            body["nope"] = json!(1);
        }
        let mut body = body.to_string();
        if has(4) {
            body.push_str(&" ".repeat(1 << 20));
        }
        let path = if has(0) { "/api/k8s/workloads/restart/" } else { "/api/k8s/workloads/restart" };
        let method = if has(1) { Method::PUT } else { Method::POST };
        let media_type = if has(3) { "text/plain" } else { "application/json; charset=utf-8" };
        let request = TestRequest::with_uri(path).method(method).set_payload(body);
        let mut request = request.insert_header(("content-type", media_type));
        if !has(2) {
            let signed_in = if has(6) { &viewer } else { &ops };
            request = signed_in.credentials.headers().into_iter().fold(request, TestRequest::insert_header);
        }
        let reply = api.send(request).await;
        match (0..FAULTS.len()).find(|fault| has(*fault)) {
            None => assert_eq!(reply.status, 200, "{}", reply.text),
            Some(first) => {
                let (status, _, cause) = reply.error();
                assert_eq!((status, cause.as_str()), FAULTS[first], "{faults:b}");
            }
        }
    }
}

/// Order of checks: the shape of the body, the role, the contents of the kubeconfig.
#[actix_web::test]
async fn kubeconfig_is_parsed_after_the_role_check() {
    let api = TestApp::new().await;
    let (viewer, ops) = (api.login("viewer").await, api.login("ops").await);
    let body = |change: Value| {
        let mut body = json!({"auth_type": "kubeconfig", "kubeconfig": "a: *a"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let of = |path: &str| match path {
        "/api/k8s/clusters" => json!({"name": "new"}),
        "/api/k8s/clusters/update" => json!({"id": api.cluster}),
        _ => json!({}),
    };
    for path in ["/api/k8s/clusters", "/api/k8s/clusters/update", "/api/k8s/clusters/test"] {
        for signed_in in [&viewer, &ops] {
            let mut misshapen = body(of(path));
            misshapen["token"] = json!("t");
            assert_eq!(api.post(signed_in, path, misshapen).await.fields(), ["token=not_allowed"], "{path}");
        }
        assert_eq!(api.post(&viewer, path, body(of(path))).await.error().2, "role_too_low", "{path}");
        assert_eq!(api.post(&ops, path, body(of(path))).await.fields(), ["kubeconfig=malformed"], "{path}");
    }
}

#[actix_web::test]
async fn at_most_64_parameters_are_accepted_and_20_refused_fields_named() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let cluster = api.cluster;
    for (path, good) in [
        ("/api/k8s/pods", format!("cluster_id={cluster}&namespace=shop")),
        ("/api/k8s/search", "kind=pods&q=web".to_owned()),
        ("/api/k8s/overview", String::new()),
        ("/api/k8s/problems", String::new()),
        ("/api/k8s/audit/operations", String::new()),
        ("/api/k8s/clusters/status", format!("id={cluster}")),
        ("/api/auth/me", String::new()),
    ] {
        let with = |n: usize| format!("{good}{}", (0..n).map(|n| format!("&nope{n}=1")).collect::<String>());
        let many = api.get(&viewer, path, &with(5_000)).await;
        assert_eq!((many.status.as_u16(), many.fields()), (400, vec!["query=too_long".to_owned()]), "{path}");
        let some = api.get(&viewer, path, &with(60)).await;
        let named = some.fields().len();
        assert!((1..=20).contains(&named), "{path}: {named}");
    }
    let nope: serde_json::Map<_, _> = (0..50).map(|n| (format!("a b{n}"), json!("v"))).collect();
    let ops = api.login("ops").await;
    let body = json!({"cluster_id": cluster, "namespace": "shop", "name": "c", "data": nope});
    let reply = api.post(&ops, "/api/k8s/configmaps", body).await;
    assert_eq!((reply.status.as_u16(), reply.fields().len()), (400, 20));
    // the response does not repeat long input
    let long = "x".repeat(900_000);
    for body in [
        json!({ long.as_str(): 1 }),
        json!({"data": {long.as_str(): 1}}),
        json!({"labels": {long.as_str(): 1}}),
    ] {
        let reply = api.post(&ops, "/api/k8s/configmaps", body).await;
        assert_eq!(reply.status.as_u16(), 400);
        assert!(reply.text.len() < 4096, "{} bytes", reply.text.len());
    }
}

#[actix_web::test]
async fn unsupported_media_types_are_415() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    for media_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=gbk",
    ] {
        let reply = post(&api, Some(&ops), SCALE, media_type, "{}".to_owned()).await;
        assert_eq!(
            reply.error(),
            (415, "UNSUPPORTED_MEDIA_TYPE".into(), "unsupported_media_type".into()),
            "{media_type:?}"
        );
        let reply = post(&api, None, "/api/auth/login", media_type, "{}".to_owned()).await;
        assert_eq!(reply.status.as_u16(), 415, "{media_type:?}");
    }
    // an empty body is an empty object with any media type
    let reply = post(&api, Some(&ops), SCALE, "text/plain", String::new()).await;
    assert_eq!(reply.fields(), ["cluster_id=required"]);
}

#[actix_web::test]
async fn login_body_has_a_smaller_limit() {
    let api = TestApp::new().await;
    let login = |length: usize| format!(r#"{{"username":"viewer","password":"{}"}}"#, "x".repeat(length));
    let reply = post(&api, None, "/api/auth/login", "application/json", login(4096)).await;
    assert_eq!(reply.error(), (413, "PAYLOAD_TOO_LARGE".into(), "body_too_large".into()));
    let reply = post(&api, None, "/api/auth/login", "application/json", login(4000)).await;
    assert_eq!(reply.error(), (401, "AUTHENTICATION_ERROR".into(), "bad_credentials".into()));
}

#[actix_web::test]
async fn body_errors_name_the_refused_field() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let scale = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut body =
            json!({"cluster_id": 1, "namespace": "shop", "type": "deployment", "name": "web", "replicas": 1});
        change(&mut body);
        body.to_string()
    };
    let cases = [
        ("", "cluster_id=required"),
        ("{", "body=malformed"),
        ("[1]", "body=invalid_type"),
        ("{\"name\":\"\u{0}\"}", "body=malformed"),
        (&scale(&|body| body["nope"] = json!(1)), "nope=unknown"),
        (&scale(&|body| body["cluster_id"] = json!(0)), "cluster_id=out_of_range"),
        (&scale(&|body| body["cluster_id"] = json!("1")), "cluster_id=invalid_type"),
        (&scale(&|body| body["namespace"] = json!("*")), "namespace=invalid_name"),
        (&scale(&|body| body["namespace"] = json!("")), "namespace=required"),
        (&scale(&|body| body["name"] = json!("../x")), "name=invalid_name"),
        (&scale(&|body| body["name"] = json!("x".repeat(300))), "name=too_long"),
        (&scale(&|body| body["type"] = json!("pod")), "type=not_one_of"),
        (&scale(&|body| body["type"] = json!("job")), "type=not_one_of"),
        (&scale(&|body| body["replicas"] = json!(-1)), "replicas=out_of_range"),
        (&scale(&|body| body["replicas"] = json!(10_001)), "replicas=out_of_range"),
        (&scale(&|body| body["replicas"] = json!(1.5)), "replicas=invalid_type"),
        (&scale(&|body| body["replicas"] = json!(null)), "replicas=invalid_type"),
        (&scale(&|body| drop(body.as_object_mut().unwrap().remove("replicas"))), "replicas=required"),
    ];
    for (body, field) in cases {
        let reply = post(&api, Some(&ops), SCALE, "application/json", body.to_owned()).await;
        assert_eq!(reply.error(), (400, "VALIDATION_ERROR".into(), "invalid_input".into()), "{body}");
        assert_eq!(reply.fields(), [field], "{body}");
    }
    assert!(api.fake.clusters.calls().is_empty(), "bad input reached a cluster");
}

#[actix_web::test]
async fn change_refuses_a_query_and_read_refuses_unknown_parameters() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let body = json!({"cluster_id": api.cluster, "namespace": "shop", "type": "deployment", "name": "web", "replicas": 9});
    let reply = api.post(&ops, &format!("{SCALE}?dry_run=true"), body).await;
    assert_eq!(reply.fields(), ["dry_run=unknown"]);
    assert!(api.fake.clusters.calls().is_empty());
    let cluster = api.cluster;
    let cases = [
        ("/api/auth/me", "x=1".to_owned(), "x=unknown"),
        ("/api/k8s/clusters", "cluster_id=1".to_owned(), "cluster_id=unknown"),
        ("/api/k8s/clusters", "page=0".to_owned(), "page=out_of_range"),
        ("/api/k8s/clusters", "per_page=501".to_owned(), "per_page=out_of_range"),
        ("/api/k8s/clusters", "page=1&page=1".to_owned(), "page=duplicate"),
        ("/api/k8s/clusters/status", String::new(), "id=required"),
        ("/api/k8s/clusters/status", "id=1&id=1".to_owned(), "id=duplicate"),
        ("/api/k8s/namespaces", format!("cluster_id={cluster}&namespace=shop"), "namespace=unknown"),
        ("/api/k8s/pods", format!("cluster_id={cluster}"), "namespace=required"),
        ("/api/k8s/pods", format!("cluster_id={cluster}&namespace=shop&sort=nope"), "sort=not_one_of"),
        ("/api/k8s/pods", format!("cluster_id={cluster}&namespace=%ff"), "namespace=malformed"),
        (
            "/api/k8s/pods/logs",
            format!("cluster_id={cluster}&namespace=shop&pod_name=a&tail_lines=0"),
            "tail_lines=out_of_range",
        ),
        (
            "/api/k8s/pods/logs",
            format!("cluster_id={cluster}&namespace=shop&pod_name=a&tail_lines=10001"),
            "tail_lines=out_of_range",
        ),
        (
            "/api/k8s/pods/logs",
            format!("cluster_id={cluster}&namespace=shop&pod_name=a&since_seconds=0"),
            "since_seconds=out_of_range",
        ),
        (
            "/api/k8s/pods/logs",
            format!("cluster_id={cluster}&namespace=*&pod_name=a"),
            "namespace=invalid_name",
        ),
        ("/api/k8s/audit/operations", "before=x".to_owned(), "before=invalid_type"),
        ("/api/k8s/audit/operations", "status=done".to_owned(), "status=not_one_of"),
    ];
    for (path, query, field) in cases {
        let reply = api.get(&ops, path, &query).await;
        assert_eq!((reply.status.as_u16(), reply.fields()), (400, vec![field.to_owned()]), "{path}?{query}");
    }
}

#[actix_web::test]
async fn tokens_in_the_url_are_ignored() {
    let api = TestApp::new().await;
    let Credentials { bearer, cookie } = api.login("super").await.credentials;
    let (bearer, cookie) = (bearer.unwrap(), cookie.unwrap());
    for query in ["access_token", "token", "bearer", "authorization"] {
        let query = format!("{query}={bearer}&session_id={cookie}");
        assert_eq!(
            api.call(&Credentials::default(), "GET", "/api/auth/me", &query).await.status.as_u16(),
            401
        );
        let only_cookie = Credentials { bearer: None, cookie: Some(cookie.clone()) };
        assert_eq!(api.call(&only_cookie, "GET", "/api/auth/me", &query).await.status.as_u16(), 401);
    }
}

#[actix_web::test]
async fn connection_test_takes_an_id_or_a_configuration() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let both = json!({"id": api.cluster, "api_server": "https://b.example.com"});
    assert_eq!(api.post(&ops, "/api/k8s/clusters/test", both).await.fields(), ["id=not_allowed"]);
    assert_eq!(api.post(&ops, "/api/k8s/clusters/test", json!({})).await.status.as_u16(), 400);
}
