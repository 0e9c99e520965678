//! Bad input, and the order in which refusals come.

use actix_web::test::TestRequest;
use serde_json::json;

use crate::house::{Credentials, House, Reply, SignedIn};

const SCALE: &str = "/api/k8s/workloads/scale";

/// Sends a body of any type.
async fn post(house: &House, who: Option<&SignedIn>, path: &str, media_type: &str, body: String) -> Reply {
    let mut request = TestRequest::post().uri(path).set_payload(body);
    if !media_type.is_empty() {
        request = request.insert_header(("content-type", media_type));
    }
    if let Some(Credentials { bearer: Some(bearer), cookie: Some(cookie) }) = who.map(|who| &who.credentials)
    {
        request = request
            .insert_header(("authorization", format!("Bearer {bearer}")))
            .insert_header(("cookie", format!("session_id={cookie}")));
    }
    house.send(request).await
}

#[actix_web::test]
async fn refusals_come_in_the_order_of_the_contract() {
    let house = House::new().await;
    let (viewer, ops) = (house.login("viewer").await, house.login("ops").await);
    let huge = "x".repeat(2 << 20);
    let status = async |who, media_type, body: &str| {
        post(&house, who, SCALE, media_type, body.to_owned()).await.status.as_u16()
    };
    let scale = |name: &str, cluster: i64| {
        json!({"cluster_id": cluster, "namespace": "shop", "type": "deployment", "name": name, "replicas": 1})
            .to_string()
    };
    assert_eq!(status(None, "text/plain", &huge).await, 401);
    assert_eq!(status(Some(&viewer), "text/plain", &huge).await, 415);
    assert_eq!(status(Some(&viewer), "application/json", &huge).await, 413);
    assert_eq!(status(Some(&viewer), "application/json", "{}").await, 400);
    assert_eq!(status(Some(&viewer), "application/json", &scale("none", 99)).await, 403);
    assert_eq!(status(Some(&ops), "application/json", &scale("none", 99)).await, 404);
    assert_eq!(
        status(Some(&ops), "application/json; charset=utf-8", &scale("web", house.cluster)).await,
        200
    );
}

#[actix_web::test]
async fn media_types() {
    let house = House::new().await;
    let ops = house.login("ops").await;
    for media_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=gbk",
    ] {
        let reply = post(&house, Some(&ops), SCALE, media_type, "{}".to_owned()).await;
        assert_eq!(
            reply.refusal(),
            (415, "UNSUPPORTED_MEDIA_TYPE".into(), "unsupported_media_type".into()),
            "{media_type:?}"
        );
        let reply = post(&house, None, "/api/auth/login", media_type, "{}".to_owned()).await;
        assert_eq!(reply.status.as_u16(), 415, "{media_type:?}");
    }
    // no body is an empty object, whatever it is called
    let reply = post(&house, Some(&ops), SCALE, "text/plain", String::new()).await;
    assert_eq!(reply.fields(), ["cluster_id=required"]);
}

#[actix_web::test]
async fn a_login_is_smaller_than_other_bodies() {
    let house = House::new().await;
    let login = |length: usize| format!(r#"{{"username":"viewer","password":"{}"}}"#, "x".repeat(length));
    let reply = post(&house, None, "/api/auth/login", "application/json", login(4096)).await;
    assert_eq!(reply.refusal(), (413, "PAYLOAD_TOO_LARGE".into(), "body_too_large".into()));
    let reply = post(&house, None, "/api/auth/login", "application/json", login(4000)).await;
    assert_eq!(reply.refusal(), (401, "AUTHENTICATION_ERROR".into(), "bad_credentials".into()));
}

#[actix_web::test]
async fn bodies_name_the_field_refused() {
    let house = House::new().await;
    let ops = house.login("ops").await;
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
        let reply = post(&house, Some(&ops), SCALE, "application/json", body.to_owned()).await;
        assert_eq!(reply.refusal(), (400, "VALIDATION_ERROR".into(), "invalid_input".into()), "{body}");
        assert_eq!(reply.fields(), [field], "{body}");
    }
    assert!(house.fake.clusters.calls().is_empty(), "bad input reached a cluster");
}

#[actix_web::test]
async fn a_change_takes_no_query_and_a_read_no_unknown_parameter() {
    let house = House::new().await;
    let ops = house.login("ops").await;
    let body = json!({"cluster_id": house.cluster, "namespace": "shop", "type": "deployment", "name": "web", "replicas": 9});
    let reply = house.post(&ops, &format!("{SCALE}?dry_run=true"), body).await;
    assert_eq!(reply.fields(), ["dry_run=unknown"]);
    assert!(house.fake.clusters.calls().is_empty());
    let cluster = house.cluster;
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
        let reply = house.get(&ops, path, &query).await;
        assert_eq!((reply.status.as_u16(), reply.fields()), (400, vec![field.to_owned()]), "{path}?{query}");
    }
}

#[actix_web::test]
async fn method_overrides_have_no_effect() {
    let house = House::new().await;
    let ops = house.login("ops").await;
    let Credentials { bearer: Some(bearer), cookie: Some(cookie) } = &ops.credentials else { panic!() };
    for header in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let request = TestRequest::get()
            .uri(&format!("/api/k8s/clusters/delete?id={}", house.cluster))
            .insert_header((header, "POST"))
            .insert_header(("authorization", format!("Bearer {bearer}")))
            .insert_header(("cookie", format!("session_id={cookie}")));
        assert_eq!(house.send(request).await.status.as_u16(), 405, "{header}");
    }
    assert_eq!(house.get(&ops, "/api/k8s/clusters", "_method=POST").await.fields(), ["_method=unknown"]);
}

#[actix_web::test]
async fn tokens_in_a_url_are_never_read() {
    let house = House::new().await;
    let Credentials { bearer, cookie } = house.login("super").await.credentials;
    let (bearer, cookie) = (bearer.unwrap(), cookie.unwrap());
    for query in ["access_token", "token", "bearer", "authorization"] {
        let query = format!("{query}={bearer}&session_id={cookie}");
        assert_eq!(
            house.call(&Credentials::default(), "GET", "/api/auth/me", &query).await.status.as_u16(),
            401
        );
        let only_cookie = Credentials { bearer: None, cookie: Some(cookie.clone()) };
        assert_eq!(house.call(&only_cookie, "GET", "/api/auth/me", &query).await.status.as_u16(), 401);
    }
}

#[actix_web::test]
async fn a_test_takes_an_id_or_a_configuration() {
    let house = House::new().await;
    let ops = house.login("ops").await;
    let both = json!({"id": house.cluster, "api_server": "https://b.example.com"});
    assert_eq!(house.post(&ops, "/api/k8s/clusters/test", both).await.fields(), ["id=not_allowed"]);
    assert_eq!(house.post(&ops, "/api/k8s/clusters/test", json!({})).await.status.as_u16(), 400);
}
