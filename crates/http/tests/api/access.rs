//! `access.txt` against reality: the route table × everybody × known and unknown ids.

use std::collections::BTreeSet;

use pilothouse_core::{
    audit::{OperationRow, Status},
    inventory::LISTS,
};
use pilothouse_http::{document, endpoints};
use serde_json::json;

use crate::{
    table::{CALLERS, Line, compare, credentials, lines, own},
    test_app::{Credentials, Reply, TestApp},
};

#[test]
fn every_route_has_a_line_and_every_line_a_route() {
    let lines = lines();
    let written: BTreeSet<_> = lines.iter().map(|line| (line.method.clone(), line.path.as_str())).collect();
    let real: BTreeSet<_> = endpoints().into_iter().collect();
    assert_eq!(written, real);
}

/// Who asks by id is tried with one that is there and one that is not.
#[test]
fn every_id_is_tried_known_and_unknown() {
    let (document, lines) = (document().to_string(), lines());
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    for (method, path) in endpoints() {
        let operation = &document["paths"][path][method.to_lowercase()];
        let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let body = body.as_str().and_then(|reference| document.pointer(&reference[1..]));
        let asks = |name: &str| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            parameters.into_iter().any(|parameter| parameter["name"] == name && parameter["required"] == true)
                || body.is_some_and(|body| body["properties"].get(name).is_some())
        };
        let tried = |place: &str| {
            lines.iter().any(|line| line.method == method && line.path == path && line.input.contains(place))
        };
        if asks("cluster_id") {
            assert!(tried("{cluster}") && tried("{absent}"), "{method} {path}");
        } else if asks("id") {
            let known = tried("{cluster}") || tried("{user}") || tried("{session}");
            assert!(known && tried("{absent}"), "{method} {path}");
        }
    }
}

/// The document's column of roles is the route table's; what it says must be what the gate does.
#[test]
fn the_document_names_the_lowest_role_that_is_let_in() {
    let document = document();
    for (method, path) in endpoints() {
        let of_route: Vec<_> = lines().into_iter().filter(|l| l.method == method && l.path == path).collect();
        let let_in = |caller: &str| of_route.iter().any(|line| !matches!(line.status(caller), 401 | 403));
        let operation = &document["paths"][path][method.to_lowercase()];
        let (security, role) = match CALLERS.into_iter().find(|caller| let_in(caller)).unwrap() {
            "nobody" => (json!([]), None),
            "cookie" => (json!([{"session": []}]), None),
            "viewer" => (json!([{"bearer": [], "session": []}]), None),
            "ops" => (json!([{"bearer": [], "session": []}]), Some("ops_admin")),
            "super" => (json!([{"bearer": [], "session": []}]), Some("super_admin")),
            caller => panic!("{method} {path} lets in {caller}"),
        };
        assert_eq!(operation["security"], security, "{method} {path}");
        assert_eq!(operation["x-required-role"].as_str(), role, "{method} {path}");
    }
}

#[actix_web::test]
async fn everybody_gets_what_the_table_says() {
    let mut real = Vec::new();
    for line in lines() {
        let mut statuses = Vec::new();
        let mut recorded = BTreeSet::new();
        for (i, caller) in CALLERS.into_iter().enumerate() {
            let language = ["zh", "en"][(i + real.len()) % 2];
            let house = TestApp::new().await;
            house.login("target").await;
            let (credentials, refresh) = credentials(&house, caller).await;
            let input = line.input(&house, own(caller), &refresh).await;
            let before = house.fake.store.all_operations().len();
            let reply = house.call_in(language, &credentials, &line.method, &line.path, &input).await;

            let operations = house.fake.store.all_operations().split_off(before);
            let what = format!("{caller}: {} {} {input}", line.method, line.path);
            check_refusal(&house, &line, caller, &reply, &operations, &what);
            check_words(&line, &reply, language, &what);
            check_canaries(&house, &line, &reply, &operations, &what);
            statuses.push(reply.status.as_u16());
            let name = |row: OperationRow| format!("{}/{}", row.operation_type, row.resource_type);
            recorded.extend(operations.into_iter().map(name));
        }
        let recorded: Vec<_> = recorded.into_iter().collect();
        let recorded = if recorded.is_empty() { "-".to_owned() } else { recorded.join(",") };
        real.push(Line { statuses, recorded, ..line });
    }
    compare(&real);
}

/// What is refused by us goes nowhere; a role's refusal leaves one row, a call without a valid session none.
fn check_refusal(
    house: &TestApp,
    line: &Line,
    caller: &str,
    reply: &Reply,
    rows: &[OperationRow],
    what: &str,
) {
    let status = reply.status.as_u16();
    let calls = house.fake.clusters.calls();
    if matches!(status, 400 | 401 | 403) || line.input.contains("{absent}") {
        assert!(calls.is_empty(), "{what} was refused, but called {calls:?}");
    }
    let made: Vec<_> = rows.iter().map(|row| (row.status, row.error_code.as_deref())).collect();
    let expected = match status {
        401 if line.path == "/api/auth/login" => Some((Status::Failed, Some("AUTHENTICATION_ERROR"))),
        403 => Some((Status::Failed, Some("PERMISSION_DENIED"))),
        404 if line.method == "POST" => Some((Status::Failed, Some("RESOURCE_NOT_FOUND"))),
        409 if line.method == "POST" => Some((Status::Failed, Some("CONFLICT_ERROR"))),
        // an export is recorded though it only reads
        200 if line.method == "POST" || line.path == "/api/k8s/audit/export" => Some((Status::Success, None)),
        // no valid session, bad input, a plain read: no operation
        _ => None,
    };
    assert_eq!(made, Vec::from_iter(expected), "{what}");
    for row in rows {
        assert_eq!(row.request_id.as_deref(), reply.header("x-request-id"), "{what}");
        assert_eq!(row.source_ip.as_deref(), Some("192.0.2.7"), "{what}");
        if line.path != "/api/auth/login" {
            assert_eq!(row.username, own(caller), "{what}");
        }
        if line.input.contains("\"cluster_id\":{cluster}") {
            assert_eq!(row.cluster_name.as_deref(), Some("demo"), "{what}");
        }
    }
}

/// The words are of the language asked for, whatever the answer.
fn check_words(line: &Line, reply: &Reply, language: &str, what: &str) {
    let header = |name: &str| reply.header(name).unwrap_or_default();
    let page = reply.status == 200 && line.method == "GET" && LISTS.iter().any(|info| info.path == line.path);
    assert_eq!(
        (header("x-content-type-options"), header("cache-control")),
        ("nosniff", if page { "private, no-cache" } else { "no-store" }),
        "{what}"
    );
    assert_eq!(reply.header("etag").is_some(), page, "{what}");
    if header("content-type") != "application/json" {
        return;
    }
    let json = reply.json();
    let Some(message) = json["message"].as_str() else {
        assert!(json["openapi"].is_string(), "{what}: {json}");
        return;
    };
    let suggestions = json["suggestions"].as_array().into_iter().flatten().filter_map(|one| one.as_str());
    for text in [message].into_iter().chain(json["details"].as_str()).chain(suggestions) {
        let chinese = text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        assert_eq!(chinese, language == "zh", "{what}: {text}");
    }
    if json["success"] == false {
        assert!(json["details"].as_str().is_some_and(|details| !details.is_empty()), "{what}: {json}");
        assert!(json["suggestions"].as_array().is_some_and(|all| !all.is_empty()), "{what}: {json}");
        assert_eq!(json["request_id"].as_str(), reply.header("x-request-id"), "{what}");
    }
}

/// Values of Secrets and credentials are shown by a reveal only, and never recorded.
fn check_canaries(house: &TestApp, line: &Line, reply: &Reply, rows: &[OperationRow], what: &str) {
    let revealed = line.path == "/api/k8s/secrets/reveal" && reply.status == 200;
    assert_eq!(reply.text.contains("canary-data"), revealed, "{what}");
    for canary in ["canary-token", "Y2FuYXJ5LWRhdGE="] {
        assert!(!reply.text.contains(canary), "{what} shows {canary}");
    }
    let trail = format!("{rows:?} {:?}", house.fake.store.entries());
    assert!(!trail.contains("canary-data"), "{what} is recorded with a value");
}

#[actix_web::test]
async fn a_role_that_is_too_low_names_the_one_required() {
    let house = TestApp::new().await;
    let viewer = house.login("viewer").await;
    let delete = json!({"id": house.cluster});
    let reply = house.post(&viewer, "/api/k8s/clusters/delete", delete).await;
    assert_eq!(reply.json()["context"]["required_role"], "ops_admin");
    let reply = house.get(&viewer, "/api/auth/users", "").await;
    assert_eq!(reply.json()["context"]["required_role"], "super_admin");
    let nobody = house.call(&Credentials::default(), "GET", "/api/auth/users", "").await;
    assert!(nobody.json()["context"].get("required_role").is_none());
}
