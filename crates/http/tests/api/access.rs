//! `access.txt` against reality.

use std::{collections::BTreeSet, time::Duration};

use pilothouse_http::{document, endpoints};
use serde_json::json;

use crate::house::{Credentials, House, SignedIn};

const CALLERS: [&str; 8] = ["nobody", "bearer", "cookie", "expired", "mixed", "viewer", "ops", "super"];

struct Line {
    method: &'static str,
    path: &'static str,
    statuses: Vec<u16>,
    input: String,
}

fn lines() -> Vec<Line> {
    let text = include_str!("access.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    text.map(|line| {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let statuses: Vec<u16> =
            words.by_ref().take(CALLERS.len()).map(|word| word.parse().unwrap()).collect();
        Line { method, path, statuses, input: words.collect::<Vec<_>>().join(" ") }
    })
    .collect()
}

/// The credentials of a caller, and a refresh token of the session whose cookie is among them.
async fn credentials(house: &House, caller: &str) -> (Credentials, String) {
    let super_admin = house.login("super").await;
    let Credentials { bearer, cookie } = super_admin.credentials.clone();
    let SignedIn { credentials, refresh, .. } = match caller {
        "nobody" => return (Credentials::default(), super_admin.refresh),
        "bearer" => return (Credentials { bearer, cookie: None }, super_admin.refresh),
        "cookie" => return (Credentials { bearer: None, cookie }, super_admin.refresh),
        "expired" => {
            house.advance(Duration::from_secs(11 * 60));
            super_admin
        }
        "mixed" => {
            let other = house.login("super").await.credentials;
            return (Credentials { bearer: other.bearer, cookie }, super_admin.refresh);
        }
        role => house.login(role).await,
    };
    (credentials, refresh)
}

#[test]
fn every_route_has_a_line_and_every_line_a_route() {
    let lines = lines();
    let written: BTreeSet<_> = lines.iter().map(|line| (line.method.to_owned(), line.path)).collect();
    let real: BTreeSet<_> = endpoints().into_iter().collect();
    assert_eq!(written, real);
}

/// The document's column of roles is the route table's; what it says must be what the gate does.
#[test]
fn the_document_names_the_lowest_role_that_is_let_in() {
    let document = document();
    for (method, path) in endpoints() {
        let of_route: Vec<_> = lines().into_iter().filter(|l| l.method == method && l.path == path).collect();
        let let_in = |caller: &str| {
            let column = CALLERS.iter().position(|name| *name == caller).unwrap();
            of_route.iter().any(|line| !matches!(line.statuses[column], 401 | 403))
        };
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
    for Line { method, path, statuses, input } in lines() {
        assert_eq!(statuses.len(), CALLERS.len(), "{method} {path}");
        for (caller, expected) in CALLERS.into_iter().zip(statuses) {
            let house = House::new().await;
            house.login("target").await;
            let (credentials, refresh) = credentials(&house, caller).await;
            let input = input
                .replace("{cluster}", &house.cluster.to_string())
                .replace("{user}", &house.user("target").await.to_string())
                .replace("{session}", &house.session("target").await.to_string())
                .replace("{refresh}", &refresh)
                .replace("{absent}", "999999");
            let before = house.fake.store.all_operations().len();
            let reply = house.call(&credentials, method, path, &input).await;
            assert_eq!(reply.status.as_u16(), expected, "{caller}: {method} {path} {input}: {}", reply.text);

            let calls = house.fake.clusters.calls();
            let operations = house.fake.store.all_operations().split_off(before);
            if matches!(expected, 401 | 403) {
                assert!(calls.is_empty(), "{caller}: {method} {path} was refused, but called {calls:?}");
                assert_eq!(reply.json()["success"], false);
            }
            if expected == 401 && path.starts_with("/api/k8s") {
                assert!(operations.is_empty(), "{caller}: {method} {path} has no session, yet is recorded");
            }
            if expected == 403 {
                let failed: Vec<_> =
                    operations.iter().map(|row| (row.status.as_str(), row.error_code.as_deref())).collect();
                assert_eq!(failed, [("failed", Some("PERMISSION_DENIED"))], "{caller}: {method} {path}");
                assert_eq!(operations[0].request_id.as_deref(), reply.header("x-request-id"));
                assert_eq!(operations[0].source_ip.as_deref(), Some("192.0.2.7"));
            }
            let revealed = path == "/api/k8s/secrets/reveal" && expected == 200;
            assert_eq!(reply.text.contains("canary-data"), revealed, "{caller}: {method} {path}");
            for canary in ["canary-token", "Y2FuYXJ5LWRhdGE="] {
                assert!(!reply.text.contains(canary), "{caller}: {method} {path} shows {canary}");
            }
            let trail = format!("{operations:?} {:?}", house.fake.store.entries());
            assert!(!trail.contains("canary-data"), "{caller}: {method} {path} is recorded with a value");
        }
    }
}

#[actix_web::test]
async fn a_role_that_is_too_low_names_the_one_required() {
    let house = House::new().await;
    let viewer = house.login("viewer").await;
    let delete = json!({"id": house.cluster});
    let reply = house.post(&viewer, "/api/k8s/clusters/delete", delete).await;
    assert_eq!(reply.json()["context"]["required_role"], "ops_admin");
    let reply = house.get(&viewer, "/api/auth/users", "").await;
    assert_eq!(reply.json()["context"]["required_role"], "super_admin");
}

#[actix_web::test]
async fn other_methods_are_405_before_anything_else() {
    let house = House::new().await;
    let paths: BTreeSet<_> = endpoints().into_iter().map(|(_, path)| path).collect();
    for path in paths {
        let known: Vec<_> =
            endpoints().into_iter().filter(|(_, of)| *of == path).map(|(method, _)| method).collect();
        for method in ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"] {
            if known.iter().any(|known| known == method) {
                continue;
            }
            let reply = house.call(&Credentials::default(), method, path, "").await;
            assert_eq!(
                reply.refusal(),
                (405, "METHOD_NOT_ALLOWED".into(), "method_not_allowed".into()),
                "{method} {path}"
            );
            let mut allow: Vec<_> = reply.header("allow").unwrap().split(", ").map(str::to_owned).collect();
            allow.sort();
            let mut known = known.clone();
            known.sort();
            assert_eq!(allow, known, "{method} {path}");
        }
    }
}
