//! Rights table: compares `rights.txt` with the responses to every line of `access.txt`, for every kind of rights. A
//! request that is refused for want of a right is sent to no cluster, but for the kinds that the cluster serves: they
//! decide which right an object of any kind takes, and take none themselves.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pilothouse_core::{
    access::Caller,
    app::AppSettings,
    clock::Clock as _,
    cluster::ClusterChange,
    grant::GrantRecord,
    ids::{ClusterId, GrantId, UserId},
    name::ProviderId,
    object::Labels,
    provider::{MockDirectory, PasswordCheck, Person, Provider, ProviderPort},
    rights::{RoleName, Subject},
    second_factor::{RequireSecondFactor, SecondFactorSettings},
    testing::{fake::Fake, new_cluster},
};
use pilothouse_http::{HttpSettings, NoopObserver, document, endpoints};
use serde_json::{Value, json};

use crate::{
    table::{Line, good_inputs, lines},
    test_app::{Credentials, Ready, SignedIn, TestApp, seed},
};

/// The kinds of rights, in the order of the columns. `viewer`, `ops` and `super` are users with a role and no grant;
/// the others are the user ann of the role `none` with one grant, or an API token, as the file says.
const KINDS: [&str; 24] = [
    "none", "viewer", "ops", "super", "view", "oper", "edit", "admin", "other", "prefix", "label", "whole",
    "far", "expired", "future", "revoked", "group", "token", "ceiling", "account", "dead", "network",
    "member", "covered",
];

/// The provider of the group of `group` and `member`.
const PROVIDER: &str = "keycloak";
/// The user of the kind `member`.
const MEMBER: &str = "keycloak:mei";

/// The users with a role, and their roles, the lowest first.
const PRESETS: [(&str, &str); 3] = [("viewer", "viewer"), ("ops", "ops_admin"), ("super", "super_admin")];

/// The namespace of the objects in the requests. It has a prefix, unlike `shop` in `access.txt`.
const NAMESPACE: &str = "shop-a";

/// The read of the kinds that a cluster serves.
const KINDS_READ: &str = "get cluster kinds";

const FILE: &str = include_str!("rights.txt");

/// Comment lines of the file.
fn head() -> impl Iterator<Item = &'static str> {
    FILE.lines().filter(|line| line.starts_with('#'))
}

/// A provider with the person `mei` of the group `shop`.
fn provider() -> Provider {
    let mut directory = MockDirectory::new();
    directory.expect_sign_in().returning(|_, _| {
        let person = Person::new("subject-1", "mei", None, ["shop".to_owned()]).unwrap();
        Ok(PasswordCheck::Right(person))
    });
    let id = ProviderId::new(PROVIDER).unwrap();
    let port = ProviderPort::Ldap(Arc::new(directory));
    Provider { id, label: "Provider".to_owned(), trusts_second_factor: false, port }
}

/// An application with the clusters `demo` (labelled, with objects in [`NAMESPACE`] too) and `far`. For the kind
/// `covered` its settings require a second factor.
async fn installation(kind: &str) -> (TestApp, ClusterId) {
    let provider = provider();
    let fake = Fake { providers: [(provider.id.clone(), provider)].into(), ..Fake::default() };
    let require = if kind == "covered" { RequireSecondFactor::All } else { RequireSecondFactor::None };
    let second_factor = SecondFactorSettings { require, ..SecondFactorSettings::default() };
    let settings = AppSettings { second_factor, ..AppSettings::default() };
    let observer = Arc::new(NoopObserver);
    let api = TestApp::with_app_settings(fake, settings, HttpSettings::default(), Ready::Yes, observer).await;
    let demo = ClusterId(api.cluster);
    let labels = Labels::from([("environment".to_owned(), "dev".to_owned())]);
    let change = ClusterChange { labels: Some(labels), ..ClusterChange::default() };
    api.app.clusters.update(&Caller::system(), demo, change).await.unwrap();
    let far = api.app.clusters.create(&Caller::system(), new_cluster("far")).await.unwrap().value.id;
    seed(&api.fake, demo, NAMESPACE);
    (api, far)
}

/// Signs in a user who has this kind of rights. Returns also their name.
async fn sign_in(api: &TestApp, far: ClusterId, kind: &'static str) -> (SignedIn, &'static str) {
    if ["viewer", "ops", "super"].contains(&kind) {
        return (api.login(kind).await, kind);
    }
    if kind == "covered" {
        return (api.login("super").await, "super");
    }
    let signed_in = api.ann().await;
    match kind {
        "token" | "ceiling" | "dead" | "network" => return (token(api, kind).await, "super"),
        "account" => return (account(api).await, "ann"),
        _ => {}
    }
    let demo = json!({"ids": [api.cluster]});
    let own = json!([NAMESPACE]);
    let (role, clusters, namespaces) = match kind {
        "none" => return (signed_in, "ann"),
        "view" => ("viewer", demo, own),
        "oper" => ("operator", demo, own),
        "edit" => ("editor", demo, own),
        "admin" => ("admin", demo, own),
        "other" => ("admin", demo, json!(["bank"])),
        "prefix" => ("admin", demo, json!(["shop-*"])),
        "label" => ("admin", json!({"labels": "environment in (dev,staging)"}), json!(["*"])),
        "whole" => ("admin", demo, Value::Null),
        "far" => ("admin", json!({"ids": [far]}), Value::Null),
        "expired" | "future" | "revoked" | "group" | "member" => ("admin", json!({"all": true}), Value::Null),
        kind => panic!("{kind} is not a kind of rights"),
    };
    let now = api.fake.runtime.clock.now();
    let minute = Duration::from_secs(60);
    let ann = Subject::User(UserId(api.user("ann").await));
    let of_group = ["group", "member"].contains(&kind);
    let record = GrantRecord {
        subject: if of_group { Subject::group(PROVIDER, "shop").unwrap() } else { ann },
        role: RoleName::new(role).unwrap(),
        clusters: serde_json::from_value(clusters).unwrap(),
        reach: serde_json::from_value(namespaces).unwrap(),
        from: (kind == "future").then(|| now + minute),
        until: (kind == "expired").then(|| now + minute),
        reason: None,
    };
    let grant: GrantId = api.app.grants.create(&Caller::system(), record).await.unwrap().value.id;
    match kind {
        "expired" => api.advance(minute),
        "revoked" => api.revoke(grant).await,
        "member" => return (api.login_at(PROVIDER, "mei").await, MEMBER),
        _ => {}
    }
    (signed_in, "ann")
}

/// A super admin's API token of this kind.
async fn token(api: &TestApp, kind: &str) -> SignedIn {
    let admin = api.login("super").await;
    let body = match kind {
        "ceiling" => {
            json!({"name": "ci", "role": "viewer", "clusters": {"ids": [api.cluster]}, "namespaces": [NAMESPACE]})
        }
        "network" => json!({"name": "ci", "networks": ["10.0.0.0/8"]}),
        _ => json!({"name": "ci"}),
    };
    let data = api.post(&admin, "/api/auth/tokens", body).await.data();
    if kind == "dead" {
        api.post(&admin, "/api/auth/tokens/revoke", json!({"id": data["token"]["id"]})).await.data();
    }
    with_token(admin, &data)
}

/// A token of a service account that has the role admin in [`NAMESPACE`].
async fn account(api: &TestApp) -> SignedIn {
    let admin = api.login("super").await;
    let body = json!({"name": "matrix", "owner_user_id": api.user("super").await});
    let account =
        api.post(&admin, "/api/auth/service-accounts", body).await.data()["service_account"]["id"].take();
    let grant = json!({"subject": {"type": "service_account", "id": account}, "role": "admin",
        "clusters": {"ids": [api.cluster]}, "namespaces": [NAMESPACE]});
    api.post(&admin, "/api/access/grants", grant).await.data();
    let body = json!({"name": "ci", "service_account_id": account});
    let data = api.post(&admin, "/api/auth/tokens", body).await.data();
    with_token(admin, &data)
}

/// The credentials of a new token instead of the session's.
fn with_token(signed_in: SignedIn, data: &Value) -> SignedIn {
    let credentials = Credentials { bearer: data["secret"].as_str().map(str::to_owned), cookie: None };
    SignedIn { credentials, ..signed_in }
}

/// A line with the namespace of this table.
fn in_namespace(line: Line) -> Line {
    let input = line.input.replace("=shop", &format!("={NAMESPACE}"));
    // in the query of a watch of a live stream
    let input = input.replace("%3Dshop", &format!("%3D{NAMESPACE}"));
    let input = input.replace("\"shop\"", &format!("\"{NAMESPACE}\""));
    Line { input, ..line }
}

/// The cluster and the namespace of a request, in which the right for it is missing: null for all clusters, and for no
/// or several namespaces.
fn place_of(line: &Line, input: &str) -> (Value, Value) {
    let path = line.path.as_str();
    if !path.starts_with("/api/k8s/") {
        return (Value::Null, Value::Null);
    }
    let number_or_text =
        |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
    let pairs = input.split('&').filter_map(|pair| pair.split_once('='));
    let fields: Value = match &*line.method {
        "POST" => serde_json::from_str(input).unwrap(),
        _ => pairs.map(|(name, value)| (name, number_or_text(value))).collect(),
    };
    let field = |name: &str| fields.get(name).filter(|value| **value != "*").cloned().unwrap_or_default();
    (
        field(if path.starts_with("/api/k8s/clusters/") { "id" } else { "cluster_id" }),
        // a namespace is judged by its own name
        field(if line.method == "POST" && path == "/api/k8s/namespaces" { "name" } else { "namespace" }),
    )
}

/// Formats a line of the file.
fn write(line: &Line, statuses: &[u16]) -> String {
    let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
    let Line { method, path, input, .. } = line;
    format!("{method:<4} {path:<36} {} {input}", statuses.join(" ")).trim_end().to_owned()
}

#[test]
fn rights_table_has_every_route() {
    let routes = |text: &str| {
        let mut fields = text.split_whitespace().map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap())
    };
    let written: BTreeSet<_> = FILE.lines().filter(|line| !line.starts_with('#')).map(routes).collect();
    let real: BTreeSet<_> = endpoints().into_iter().map(|(method, path)| (method, path.to_owned())).collect();
    assert_eq!(written, real);
}

/// The 27 endpoints that clients have used from the start, with the statuses of a valid request: of `viewer`, `ops`,
/// `super`, and `edit`, whose grant is in one namespace.
const FIRST_ENDPOINTS: [(&str, &str, [u16; 4]); 27] = [
    ("GET", "/api/k8s/clusters", [200, 200, 200, 200]),
    ("POST", "/api/k8s/clusters", [403, 200, 200, 403]),
    ("POST", "/api/k8s/clusters/update", [403, 200, 200, 403]),
    ("POST", "/api/k8s/clusters/delete", [403, 200, 200, 403]),
    ("POST", "/api/k8s/clusters/test", [200, 200, 200, 200]),
    ("GET", "/api/k8s/clusters/status", [200, 200, 200, 200]),
    ("GET", "/api/k8s/namespaces", [200, 200, 200, 200]),
    ("POST", "/api/k8s/namespaces", [403, 200, 200, 403]),
    ("POST", "/api/k8s/namespaces/delete", [403, 200, 200, 403]),
    ("GET", "/api/k8s/workloads", [200, 200, 200, 200]),
    ("GET", "/api/k8s/workloads/detail", [200, 200, 200, 200]),
    ("POST", "/api/k8s/workloads/scale", [403, 200, 200, 200]),
    ("POST", "/api/k8s/workloads/restart", [403, 200, 200, 200]),
    ("GET", "/api/k8s/pods/logs", [200, 200, 200, 200]),
    ("GET", "/api/k8s/services", [200, 200, 200, 200]),
    ("GET", "/api/k8s/ingresses", [200, 200, 200, 200]),
    ("GET", "/api/k8s/services/endpoints", [200, 200, 200, 200]),
    ("GET", "/api/k8s/configmaps", [200, 200, 200, 200]),
    ("GET", "/api/k8s/secrets", [200, 200, 200, 200]),
    ("POST", "/api/k8s/configmaps", [403, 200, 200, 200]),
    ("POST", "/api/k8s/secrets", [403, 200, 200, 200]),
    ("POST", "/api/k8s/configmaps/delete", [403, 200, 200, 200]),
    ("POST", "/api/k8s/secrets/delete", [403, 200, 200, 200]),
    ("GET", "/api/k8s/persistent-volumes", [200, 200, 200, 403]),
    ("GET", "/api/k8s/persistent-volume-claims", [200, 200, 200, 200]),
    ("GET", "/api/k8s/storage-classes", [200, 200, 200, 403]),
    ("GET", "/api/k8s/audit/operations", [200, 200, 200, 200]),
];

#[test]
fn first_endpoints_are_tried_with_each_role_and_a_grant_in_one_namespace() {
    for (method, path, expected) in FIRST_ENDPOINTS {
        good_inputs(method, path);
        let mut statuses = FILE.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let is_route = fields.next() == Some(method) && fields.next() == Some(path);
            let statuses: Vec<u16> = fields.take(KINDS.len()).map_while(|field| field.parse().ok()).collect();
            is_route.then(|| {
                ["viewer", "ops", "super", "edit"]
                    .map(|kind| statuses[KINDS.iter().position(|name| *name == kind).unwrap()])
            })
        });
        let valid = statuses.find(|[_, _, super_admin, _]| *super_admin == 200);
        assert_eq!(valid, Some(expected), "{method} {path}");
    }
}

/// Above all the 403 of rights that every role has and a user of the role `none` lacks.
#[test]
fn every_status_of_the_table_is_documented() {
    let document = document();
    for line in FILE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let responses = &document["paths"][fields[1]][fields[0].to_lowercase()]["responses"];
        for status in &fields[2..2 + KINDS.len()] {
            assert!(responses[*status].is_object(), "{} {} may return {status}", fields[0], fields[1]);
        }
    }
}

#[actix_web::test]
async fn every_kind_of_rights_gets_the_status_of_the_table() {
    let mut current: Vec<_> = head().map(str::to_owned).collect();
    for line in lines().into_iter().map(in_namespace) {
        let (mut statuses, mut named_roles) = (Vec::new(), BTreeSet::new());
        for kind in KINDS {
            let (api, far) = installation(kind).await;
            api.login("target").await;
            let (signed_in, name) = sign_in(&api, far, kind).await;
            let input = line.input(&api, name, &signed_in.refresh).await;
            api.fake.clusters.calls();
            let reply = api.call(&signed_in.credentials, &line.method, &line.path, &input).await;

            let (status, mut calls) = (reply.status.as_u16(), api.fake.clusters.calls());
            calls.retain(|call| call != KINDS_READ);
            let refused = status == 403 || (status == 404 && line.status("super") != 404);
            assert!(
                calls.is_empty() || !refused,
                "{kind}: {} {input} was refused, but called {calls:?}",
                line.path
            );
            if status == 403 && reply.error().2 == "role_too_low" {
                let context = reply.json()["context"].take();
                let missing = &context["missing"];
                assert!(missing["verb"].is_string(), "{kind}: {} {input} names no missing right", line.path);
                let place = (missing["cluster_id"].clone(), missing["namespace"].clone());
                assert_eq!(place, place_of(&line, &input), "{kind}: {} {input}", line.path);
                named_roles.insert(context["required_role"].as_str().unwrap_or_default().to_owned());
            }
            statuses.push(status);
        }
        let status_of = |kind: &str| statuses[KINDS.iter().position(|name| *name == kind).unwrap()];
        let lowest = PRESETS.into_iter().find(|(kind, _)| status_of(kind) != 403);
        // a request that is refused to super admins too has other reasons
        if let Some((_, role)) = lowest {
            let others: Vec<_> = named_roles.iter().filter(|named| *named != role).collect();
            assert!(others.is_empty(), "{} {}: {others:?} instead of {role}", line.path, line.input);
        }
        current.push(write(&line, &statuses));
    }
    compare(&current);
}

/// Compares the file with the actual statuses. `UPDATE=1` rewrites the file instead; review the difference.
#[allow(clippy::disallowed_methods, reason = "UPDATE is set by hand for a test run")]
fn compare(current: &[String]) {
    if std::env::var_os("UPDATE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/rights.txt");
        std::fs::write(file, current.join("\n") + "\n").unwrap();
        return;
    }
    let written: BTreeSet<_> = FILE.lines().collect();
    let differing: Vec<_> = current.iter().filter(|line| !written.contains(line.as_str())).collect();
    assert!(differing.is_empty(), "rights.txt differs; UPDATE=1 rewrites it:\n{differing:#?}");
    assert_eq!(
        written.len(),
        current.iter().collect::<BTreeSet<_>>().len(),
        "rights.txt has a line too many"
    );
}
