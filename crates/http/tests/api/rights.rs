//! Responses to users whose rights are grants.

use std::collections::{BTreeMap, BTreeSet};

use pilothouse_core::{
    access::Caller,
    audit::OperationRow,
    grant::{GrantRecord, RoleRecord},
    ids::{ClusterId, GrantId, UserId},
    rights::{RoleName, RoleRules, Subject},
    role::Role,
    testing::new_cluster,
    user::{NewPassword, NewUser},
};
use serde_json::{Value, json};

use crate::{
    table::{Line, lines},
    test_app::{PASSWORD, SignedIn, TestApp, seed},
};

impl TestApp {
    /// Creates the user `ann` of the role `none`, and signs them in.
    pub(crate) async fn ann(&self) -> SignedIn {
        self.create_user("ann", Role::None).await;
        self.login("ann").await
    }

    /// Creates a user.
    pub(crate) async fn create_user(&self, name: &str, role: Role) {
        let password = NewPassword::new(&PASSWORD.into()).unwrap();
        let username = name.to_owned().try_into().unwrap();
        let user = NewUser { username, password, role, display_name: None };
        self.app.users.create(&Caller::system(), user).await.unwrap();
    }

    /// Grants ann a role in the cluster, in these namespaces.
    pub(crate) async fn grant_to_ann(&self, role: &str, namespaces: Value) -> GrantId {
        let grant = GrantRecord {
            subject: Subject::User(UserId(self.user("ann").await)),
            role: RoleName::new(role).unwrap(),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: serde_json::from_value(namespaces).unwrap(),
            from: None,
            until: None,
            reason: None,
        };
        self.app.grants.create(&Caller::system(), grant).await.unwrap().value.id
    }

    /// Revokes a grant.
    pub(crate) async fn revoke(&self, grant: GrantId) {
        self.app.grants.revoke(&Caller::system(), grant, None).await.unwrap();
    }
}

#[actix_web::test]
async fn page_states_the_namespaces_that_it_covers() {
    let api = TestApp::new().await;
    let ann = api.ann().await;
    let page = async |namespace: &str| {
        api.get(&ann, "/api/k8s/pods", &format!("cluster_id={}&namespace={namespace}", api.cluster)).await
    };
    assert_eq!(page("*").await.error().2, "not_found");
    let grant = api.grant_to_ann("viewer", json!(["shop"])).await;
    let cut = page("*").await;
    let data = cut.data();
    assert_eq!((&data["pods"][0]["name"], &data["pagination"]["total"]), (&json!("web-0"), &json!(1)));
    assert_eq!(data["scope"], json!({"complete": false, "namespaces": ["shop"]}));
    assert_eq!(page("shop").await.data()["scope"], json!({"complete": true, "namespaces": null}));
    let refused = page("other").await;
    assert_eq!(refused.error(), (403, "PERMISSION_DENIED".into(), "role_too_low".into()));
    let missing =
        json!({"verb": "list", "resource": "workloads", "cluster_id": api.cluster, "namespace": "other"});
    assert_eq!(refused.json()["context"]["missing"], missing);
    api.revoke(grant).await;
    api.grant_to_ann("viewer", Value::Null).await;
    let whole = page("*").await;
    assert_eq!(whole.data()["scope"], json!({"complete": true, "namespaces": null}));
    assert_ne!(whole.header("etag"), cut.header("etag"), "the tag covers the scope");
}

/// The application, ann, who is admin in the namespace `shop` of the cluster `demo`, and the id of another cluster. It
/// is registered, or was deleted. Otherwise the two installations are alike, with the same ids.
async fn other_cluster(is_registered: bool) -> (TestApp, SignedIn, i64) {
    let api = TestApp::new().await;
    api.login("target").await;
    let ann = api.ann().await;
    api.grant_to_ann("admin", json!(["shop"])).await;
    let id = api.app.clusters.create(&Caller::system(), new_cluster("hidden")).await.unwrap().value.id;
    seed(&api.fake, id, "shop");
    if !is_registered {
        api.app.clusters.delete(&Caller::system(), id).await.unwrap();
    }
    api.fake.clusters.calls();
    (api, ann, id.0)
}

/// What a response and its audit rows show of a cluster.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    status: u16,
    headers: BTreeMap<String, String>,
    /// The body as sent, without the request id.
    body: String,
    /// The audit rows, without their own ids.
    rows: Vec<Value>,
}

/// Sends the request of a line to the other cluster.
async fn shown(line: &Line, is_registered: bool) -> Shown {
    let (api, ann, id) = other_cluster(is_registered).await;
    let line = Line { input: line.input.replace("{cluster}", &id.to_string()), ..line.clone() };
    let input = line.input(&api, "ann", &ann.refresh).await;
    let before = api.fake.store.all_operations().len();
    let reply = api.call(&ann.credentials, &line.method, &line.path, &input).await;
    let calls = api.fake.clusters.calls();
    assert!(calls.is_empty(), "{} {input} called {calls:?}", line.path);
    let row = |row: OperationRow| {
        let mut row = serde_json::to_value(row).unwrap();
        for own in ["id", "operation_id", "request_id"] {
            row[own] = Value::Null;
        }
        row
    };
    let request_id = reply.header("x-request-id").unwrap();
    let headers = reply.headers.iter().filter(|(name, _)| *name != "x-request-id");
    Shown {
        status: reply.status.as_u16(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        body: reply.text.replace(request_id, ""),
        rows: api.fake.store.all_operations().split_off(before).into_iter().map(row).collect(),
    }
}

#[actix_web::test]
async fn every_route_answers_alike_for_a_hidden_cluster_and_for_none() {
    let mut routes = BTreeSet::new();
    for line in lines().into_iter().filter(|line| line.input.contains("{cluster}")) {
        let hidden = shown(&line, true).await;
        let Line { method, path, input, .. } = &line;
        assert_eq!(hidden, shown(&line, false).await, "{method} {path} {input}");
        let expected = match (&**method, &**path) {
            // a request is checked at its approval; the right to give, revoke or list grants is checked before the
            // cluster
            ("POST", "/api/access/requests") => 200,
            // each watch of the stream is refused by an event
            ("GET", "/api/k8s/live") => {
                let refused = hidden.body.matches("event: end").count();
                let reasons = hidden.body.matches("\"reason\":\"not_found\"").count();
                assert!(refused > 1 && reasons == refused, "{input}: {}", hidden.body);
                200
            }
            // Secrets are refused by the parameter alone
            ("GET", "/api/k8s/objects") if input.contains("resource=secrets") => 400,
            ("POST", "/api/access/grants" | "/api/access/break-glass") | ("GET", "/api/access/who") => 403,
            _ => 404,
        };
        assert_eq!(hidden.status, expected, "{method} {path} {input}: {}", hidden.body);
        assert_eq!(hidden.rows.is_empty(), method == "GET" && expected != 403, "{method} {path} {input}");
        routes.insert((line.method, line.path));
    }
    assert!(routes.len() > 35, "{routes:?}");
}

#[actix_web::test]
async fn request_for_a_hidden_cluster_is_accepted_like_one_for_none() {
    let answers = async |is_registered: bool| {
        let (api, ann, id) = other_cluster(is_registered).await;
        let new = json!({"role": "viewer", "clusters": {"ids": [id]}, "namespaces": ["shop"],
            "duration_seconds": 3600, "reason": "release 4.2"});
        let made = api.post(&ann, "/api/access/requests", new).await.data();
        assert_eq!(
            (&made["request"]["state"], &made["request"]["username"]),
            (&json!("pending"), &json!("ann"))
        );
        let requests = api.get(&ann, "/api/access/requests", "state=pending").await.data();
        assert_eq!(requests["pagination"]["total"], 1);
        [made, requests, api.get(&ann, "/api/access/mine", "").await.data()]
    };
    assert_eq!(answers(true).await, answers(false).await);
}

#[actix_web::test]
async fn cluster_outside_the_rights_is_in_no_list() {
    let (api, ann, _) = other_cluster(true).await;
    for path in ["/api/k8s/clusters", "/api/k8s/overview", "/api/k8s/audit/operations"] {
        let reply = api.get(&ann, path, "").await;
        assert!(!reply.text.contains("\"hidden\""), "{path}: {}", reply.text);
    }
}

#[actix_web::test]
async fn id_of_a_deleted_cluster_reaches_nothing() {
    let api = TestApp::new().await;
    let ann = api.ann().await;
    let grant = api.grant_to_ann("admin", Value::Null).await;
    let pods = async |id: i64| api.get(&ann, "/api/k8s/pods", &format!("cluster_id={id}&namespace=*")).await;
    assert_eq!(pods(api.cluster).await.status.as_u16(), 200);
    let demo = ClusterId(api.cluster);
    api.app.clusters.delete(&Caller::system(), demo).await.unwrap();
    let new = api.app.clusters.create(&Caller::system(), new_cluster("demo")).await.unwrap().value.id;
    seed(&api.fake, new, "shop");
    assert_ne!(new, demo, "an id is not used again");
    for id in [demo, new] {
        assert_eq!(pods(id.0).await.error().2, "not_found");
    }
    assert_eq!(api.get(&ann, "/api/k8s/clusters", "").await.data()["pagination"]["total"], 0);
    let mine = api.get(&ann, "/api/access/mine", "").await.data();
    assert_eq!(mine["can"]["list workloads"], "none");
    let grants = api.get(&ann, "/api/access/grants", "state=active").await.data();
    assert_eq!(grants["grants"][0]["id"], json!(grant), "the grant itself stays");
}

/// As with kubectl, a change returns the object's row, also to a caller who may not read. The row has no values.
#[actix_web::test]
async fn change_without_the_right_to_read_returns_a_row_without_values() {
    let api = TestApp::new().await;
    let ann = api.ann().await;
    let rules = serde_json::from_value(json!([{"verbs": ["update"], "resources": ["config"]}])).unwrap();
    let role = RoleRecord {
        name: RoleName::new("config-writer").unwrap(),
        description: String::new(),
        rules: RoleRules::new(rules).unwrap(),
    };
    api.app.grants.create_role(&Caller::system(), role).await.unwrap();
    api.grant_to_ann("config-writer", json!(["shop"])).await;
    let object = format!("cluster_id={}&namespace=shop&name=conf", api.cluster);
    let read = api.get(&ann, "/api/k8s/configmaps/detail", &object).await;
    assert_eq!(read.error().2, "role_too_low");
    let labels =
        json!({"cluster_id": api.cluster, "namespace": "shop", "name": "conf", "labels": {"app": "web"}});
    let changed = api.post(&ann, "/api/k8s/configmaps/update", labels).await;
    assert_eq!(changed.data()["configmap"]["keys"], json!([{"name": "key", "bytes": 11}]));
    assert!(!changed.text.contains("canary-data"), "{}", changed.text);
}
