//! Access test: compares `access.txt` with the responses of every route, for every caller, with known and unknown ids.

use std::collections::BTreeSet;

use pilothouse_core::{audit::OperationRow, inventory::LISTS, operation::Status};
use pilothouse_http::{document, endpoints};
use serde_json::json;

use crate::{
    table::{CALLERS, Line, WITH_FACTOR, compare, credentials, lines, username_of},
    test_app::{Credentials, Reply, TestApp},
};

#[test]
fn every_route_has_a_line_and_every_line_a_route() {
    let lines = lines();
    let written: BTreeSet<_> = lines.iter().map(|line| (line.method.clone(), line.path.as_str())).collect();
    let real: BTreeSet<_> = endpoints().into_iter().collect();
    assert_eq!(written, real);
}

/// A route with an id has a line with an existing and one with an unknown id.
#[test]
fn every_id_has_a_line_with_a_known_and_an_unknown_value() {
    let (document, lines) = (document().to_string(), lines());
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    for (method, path) in endpoints() {
        let operation = &document["paths"][path][method.to_lowercase()];
        let body = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let body = body.as_str().and_then(|reference| document.pointer(&reference[1..]));
        let takes = |name: &str| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            parameters.into_iter().any(|parameter| parameter["name"] == name && parameter["required"] == true)
                || body.is_some_and(|body| body["properties"].get(name).is_some())
        };
        let covered = |placeholder: &str| {
            lines
                .iter()
                .any(|line| line.method == method && line.path == path && line.input.contains(placeholder))
        };
        if takes("cluster_id") {
            assert!(covered("{cluster}") && covered("{absent}"), "{method} {path}");
        } else if takes("id") {
            let existing = [
                "{cluster}",
                "{user}",
                "{session}",
                "{grant}",
                "{request}",
                "{own request}",
                "{token}",
                "{account}",
                "{enrolled}",
            ];
            let existing = existing.map(covered).contains(&true) || WITH_FACTOR.contains(&path);
            assert!(existing && covered("{absent}"), "{method} {path}");
        }
    }
}

/// The roles in the document come from the route table; they must be the roles that the gate enforces.
#[test]
fn document_names_the_lowest_permitted_role() {
    let document = document();
    for (method, path) in endpoints() {
        let route_lines: Vec<_> =
            lines().into_iter().filter(|l| l.method == method && l.path == path).collect();
        let is_permitted =
            |caller: &str| route_lines.iter().any(|line| !matches!(line.status(caller), 401 | 403));
        let operation = &document["paths"][path][method.to_lowercase()];
        let Some(caller) = CALLERS.into_iter().find(|caller| is_permitted(caller)) else {
            assert!(WITH_FACTOR.contains(&path), "{method} {path} permits nobody");
            continue;
        };
        // a token changes no account, credential or right
        let is_own = path.starts_with("/api/auth/") || path.starts_with("/api/access/");
        let signed_in = if method == "GET" || !is_own {
            json!([{"bearer": [], "session": []}, {"token": []}])
        } else {
            json!([{"bearer": [], "session": []}])
        };
        let (security, role) = match caller {
            "anonymous" => (json!([]), None),
            "cookie" => (json!([{"session": []}]), None),
            "viewer" => (signed_in, None),
            "ops" => (signed_in, Some("ops_admin")),
            "super" => (signed_in, Some("super_admin")),
            caller => panic!("{method} {path} permits {caller}"),
        };
        assert_eq!(operation["security"], security, "{method} {path}");
        assert_eq!(operation["x-required-role"].as_str(), role, "{method} {path}");
    }
}

/// A service is judged as `network`, a claim as `storage`, a node as `nodes`.
#[test]
fn document_names_no_right_where_it_depends_on_the_request() {
    let document = document();
    for path in ["/api/k8s/diagnose", "/api/k8s/metrics/series", "/api/k8s/objects", "/api/k8s/watch"] {
        let operation = &document["paths"][path]["get"];
        assert!(operation.is_object() && operation["x-required-right"].is_null(), "{path}");
    }
}

/// The rights in the document come from the route table; they must be those whose absence the gate and the use cases
/// name. A request that is refused for its content, such as a grant that gives too much, is sent by no viewer here.
#[actix_web::test]
async fn refusal_names_the_right_of_the_document() {
    let document = document();
    let mut refused = BTreeSet::new();
    for line in lines().into_iter().filter(|line| line.status("viewer") == 403) {
        let api = TestApp::new().await;
        api.login("target").await;
        let viewer = api.login("viewer").await;
        let input = line.input(&api, "viewer", &viewer.refresh).await;
        let reply = api.call(&viewer.credentials, &line.method, &line.path, &input).await;
        let missing = reply.json()["context"]["missing"].take();
        let operation = &document["paths"][line.path.as_str()][line.method.to_lowercase()];
        let right = &operation["x-required-right"];
        // the right to ask about others is not needed for questions about oneself, nor that for a new cluster to test
        // one; a second factor is missing, not a right
        if right.is_null() {
            refused.insert(line.path.clone());
            continue;
        }
        let named = json!({"verb": missing["verb"], "resource": missing["resource"]});
        assert_eq!(&named, right, "{} {} {input}", line.method, line.path);
    }
    let refused: Vec<_> = refused.iter().map(String::as_str).collect();
    let by_settings = ["/api/access/break-glass", "/api/auth/totp/disable", "/api/auth/totp/verify"];
    assert_eq!(
        refused,
        [by_settings[0], "/api/access/explain", by_settings[1], by_settings[2], "/api/k8s/clusters/test"]
    );
}

#[actix_web::test]
async fn every_caller_gets_the_status_of_the_table() {
    let mut real = Vec::new();
    for line in lines() {
        let mut statuses = Vec::new();
        let mut recorded = BTreeSet::new();
        for (i, caller) in CALLERS.into_iter().enumerate() {
            let language = ["zh", "en"][(i + real.len()) % 2];
            let api = TestApp::new().await;
            api.login("target").await;
            let (credentials, refresh) = credentials(&api, caller).await;
            let input = line.input(&api, username_of(caller), &refresh).await;
            let before = api.fake.store.all_operations().len();
            let reply = api.call_in(language, &credentials, &line.method, &line.path, &input).await;

            let operations = api.fake.store.all_operations().split_off(before);
            let label = format!("{caller}: {} {} {input}", line.method, line.path);
            check_effects(&api, &line, caller, &reply, &operations, &label);
            check_language(&line, &reply, language, &label);
            check_canaries(&api, &line, &reply, &operations, &label);
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

/// A request refused by Pilothouse is not sent to a cluster. A refusal by role writes one row, a request without a
/// valid session none.
fn check_effects(
    api: &TestApp,
    line: &Line,
    caller: &str,
    reply: &Reply,
    rows: &[OperationRow],
    label: &str,
) {
    let status = reply.status.as_u16();
    let calls = api.fake.clusters.calls();
    if matches!(status, 400 | 401 | 403) || line.input.contains("{absent}") {
        assert!(calls.is_empty(), "{label} was refused, but called {calls:?}");
    }
    let made: Vec<_> = rows.iter().map(|row| (row.status, row.error_code.as_deref())).collect();
    let expected = match status {
        401 if line.path == "/api/auth/login" => Some((Status::Failed, Some("AUTHENTICATION_ERROR"))),
        403 => Some((Status::Failed, Some("PERMISSION_DENIED"))),
        404 if line.method == "POST" => Some((Status::Failed, Some("RESOURCE_NOT_FOUND"))),
        409 if line.method == "POST" => Some((Status::Failed, Some("CONFLICT_ERROR"))),
        // an export is recorded although it only reads
        200 if line.method == "POST" || line.path == "/api/k8s/audit/export" => Some((Status::Success, None)),
        // no valid session, bad input, a plain read: no operation
        _ => None,
    };
    assert_eq!(made, Vec::from_iter(expected), "{label}");
    for row in rows {
        assert_eq!(row.request_id.as_deref(), reply.header("x-request-id"), "{label}");
        assert_eq!(row.source_ip.as_deref(), Some("192.0.2.7"), "{label}");
        if line.path != "/api/auth/login" {
            assert_eq!(row.username, username_of(caller), "{label}");
        }
        if line.input.contains("\"cluster_id\":{cluster}") && line.path.starts_with("/api/k8s/") {
            assert_eq!(row.cluster_name.as_deref(), Some("demo"), "{label}");
        }
    }
}

/// Texts are in the requested language, and the common headers are present, for every status.
fn check_language(line: &Line, reply: &Reply, language: &str, label: &str) {
    let header = |name: &str| reply.header(name).unwrap_or_default();
    let of_objects = line.path == "/api/k8s/objects";
    let is_list = of_objects || LISTS.iter().any(|info| info.path == line.path);
    let page = reply.status == 200 && line.method == "GET" && is_list;
    assert_eq!(
        (header("x-content-type-options"), header("cache-control")),
        ("nosniff", if page { "private, no-cache" } else { "no-store" }),
        "{label}"
    );
    assert_eq!(reply.header("etag").is_some(), page, "{label}");
    if header("content-type") != "application/json" {
        return;
    }
    let json = reply.json();
    let Some(message) = json["message"].as_str() else {
        assert!(json["openapi"].is_string(), "{label}: {json}");
        return;
    };
    let suggestions = json["suggestions"].as_array().into_iter().flatten().filter_map(|one| one.as_str());
    for text in [message].into_iter().chain(json["details"].as_str()).chain(suggestions) {
        let chinese = text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        assert_eq!(chinese, language == "zh", "{label}: {text}");
    }
    if json["success"] == false {
        assert!(json["details"].as_str().is_some_and(|details| !details.is_empty()), "{label}: {json}");
        assert!(json["suggestions"].as_array().is_some_and(|all| !all.is_empty()), "{label}: {json}");
        assert_eq!(json["request_id"].as_str(), reply.header("x-request-id"), "{label}");
    }
}

/// Values of Secrets are returned by a reveal only and never recorded; credentials are never returned.
fn check_canaries(api: &TestApp, line: &Line, reply: &Reply, rows: &[OperationRow], label: &str) {
    let revealed = line.path == "/api/k8s/secrets/reveal" && reply.status == 200;
    assert_eq!(reply.text.contains("canary-data"), revealed, "{label}");
    for canary in ["canary-token", "Y2FuYXJ5LWRhdGE="] {
        assert!(!reply.text.contains(canary), "{label} shows {canary}");
    }
    let trail = format!("{rows:?} {:?}", api.fake.store.entries());
    assert!(!trail.contains("canary-data"), "{label} is recorded with a value");
}

#[actix_web::test]
async fn permission_error_names_the_required_role() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let delete = json!({"id": api.cluster});
    let reply = api.post(&viewer, "/api/k8s/clusters/delete", delete).await;
    assert_eq!(reply.json()["context"]["required_role"], "ops_admin");
    let reply = api.get(&viewer, "/api/auth/users", "").await;
    assert_eq!(reply.json()["context"]["required_role"], "super_admin");
    let anonymous = api.call(&Credentials::default(), "GET", "/api/auth/users", "").await;
    assert!(anonymous.json()["context"].get("required_role").is_none());
}
