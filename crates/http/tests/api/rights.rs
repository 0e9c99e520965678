//! Responses to users whose rights are grants.

use pilothouse_core::{
    access::Caller,
    grant::{GrantRecord, RoleRecord},
    ids::{GrantId, UserId},
    rights::{RoleName, RoleRules, Subject},
    role::Role,
    testing::new_cluster,
    user::{NewPassword, NewUser},
};
use serde_json::{Value, json};

use crate::test_app::{PASSWORD, Reply, SignedIn, TestApp};

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

/// An error without what differs in every response, and without the id that the request named.
fn comparable(reply: &Reply, id: i64) -> Value {
    let mut error = reply.json();
    error["request_id"] = Value::Null;
    let text = error.to_string().replace(&format!("\"{id}\""), "\"id\"").replace(&format!(" {id}"), " id");
    serde_json::from_str(&text).unwrap()
}

#[actix_web::test]
async fn cluster_without_a_right_is_answered_like_one_that_does_not_exist() {
    let api = TestApp::new().await;
    let ann = api.ann().await;
    api.grant_to_ann("admin", json!(["shop"])).await;
    let hidden = api.app.clusters.create(&Caller::system(), new_cluster("hidden")).await.unwrap().value.id.0;
    api.fake.clusters.calls();
    let workload =
        |id: i64| json!({"cluster_id": id, "namespace": "shop", "type": "deployment", "name": "web"});
    let bodies = |id: i64| {
        let mut scaled = workload(id);
        scaled["replicas"] = json!(3);
        [
            ("/api/k8s/workloads/scale", scaled),
            ("/api/k8s/workloads/restart", workload(id)),
            ("/api/k8s/clusters/test", json!({"id": id})),
            ("/api/k8s/clusters/delete", json!({"id": id})),
            ("/api/k8s/namespaces", json!({"cluster_id": id, "name": "shop"})),
            ("/api/k8s/secrets/reveal", json!({"cluster_id": id, "namespace": "shop", "name": "pass"})),
        ]
    };
    let absent = 987_654;
    for ((path, body), (_, other)) in bodies(hidden).into_iter().zip(bodies(absent)) {
        let (reply, other) = (api.post(&ann, path, body).await, api.post(&ann, path, other).await);
        assert_eq!(reply.status.as_u16(), 404, "{path}: {}", reply.text);
        assert_eq!(comparable(&reply, hidden), comparable(&other, absent), "{path}");
    }
    for path in [
        "/api/k8s/pods",
        "/api/k8s/workloads",
        "/api/k8s/nodes",
        "/api/k8s/clusters/status",
        "/api/k8s/watch",
    ] {
        let query = |id: i64| match path {
            "/api/k8s/clusters/status" => format!("id={id}"),
            "/api/k8s/nodes" => format!("cluster_id={id}"),
            "/api/k8s/watch" => format!("kind=pods&cluster_id={id}&namespace=*"),
            _ => format!("cluster_id={id}&namespace=*"),
        };
        let (reply, other) =
            (api.get(&ann, path, &query(hidden)).await, api.get(&ann, path, &query(absent)).await);
        assert_eq!(reply.status.as_u16(), 404, "{path}: {}", reply.text);
        assert_eq!(comparable(&reply, hidden), comparable(&other, absent), "{path}");
    }
    for path in ["/api/k8s/clusters", "/api/k8s/overview", "/api/k8s/audit/operations"] {
        let reply = api.get(&ann, path, "").await;
        assert!(!reply.text.contains("\"hidden\""), "{path}: {}", reply.text);
    }
    assert!(
        api.fake.clusters.calls().iter().all(|call| !call.contains("scale")),
        "a refused change was sent"
    );
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
