//! Grants, requests and questions about rights, as a client sees them.

use pilothouse_core::ids::UserId;
use serde_json::{Value, json};

use crate::test_app::{PASSWORD, SignedIn, TestApp};

/// Creates the user `ann` of the role `none` and signs in. Returns the id, too.
async fn ann(api: &TestApp, admin: &SignedIn) -> (UserId, SignedIn) {
    let new = json!({"username": "ann", "password": PASSWORD, "role": "none"});
    let user = api.post(admin, "/api/auth/users", new).await.data()["user"].take();
    assert_eq!(user["role"], "none");
    (UserId(user["id"].as_i64().unwrap()), api.login("ann").await)
}

fn grant_to(user: UserId, role: &str, namespaces: Value) -> Value {
    let subject = json!({"type": "user", "id": user});
    json!({"subject": subject, "role": role, "clusters": {"all": true}, "namespaces": namespaces})
}

#[actix_web::test]
async fn user_without_a_role_has_what_was_granted() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let (id, ann) = ann(&api, &admin).await;
    let users = api.get(&admin, "/api/auth/users", "role=none").await.data();
    assert_eq!(users["pagination"]["total"], 1);
    let pods = format!("cluster_id={}&namespace=shop", api.cluster);
    assert_eq!(api.get(&ann, "/api/k8s/pods", &pods).await.error().2, "not_found");
    assert_eq!(api.get(&ann, "/api/k8s/clusters", "").await.data()["pagination"]["total"], 0);
    let mine = api.get(&ann, "/api/access/mine", "").await.data();
    assert_eq!(mine["user"], json!({"id": id, "username": "ann", "role": "none"}));
    assert_eq!((&mine["rights"], &mine["can"]["list workloads"]), (&json!([]), &json!("none")));

    let made = api.post(&admin, "/api/access/grants", grant_to(id, "editor", json!(["shop"]))).await.data();
    assert_eq!(made["grant"]["subject"], json!({"type": "user", "id": id, "provider": null, "name": null}));
    assert_eq!((&made["grant"]["state"], &made["grant"]["until"]), (&json!("active"), &Value::Null));
    let warnings = made["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("Secrets"), "{warnings:?}");
    assert_eq!(api.get(&ann, "/api/k8s/pods", &pods).await.status.as_u16(), 200);
    let mine = api.get(&ann, "/api/access/mine", "").await.data();
    assert_eq!(
        (&mine["rights"][0]["role"], &mine["can"]["list workloads"]),
        (&json!("editor"), &json!("some"))
    );

    let revoked = json!({"id": made["grant"]["id"], "reason": "left the team"});
    let revoked = api.post(&admin, "/api/access/grants/revoke", revoked).await.data();
    assert_eq!(
        (&revoked["grant"]["state"], &revoked["grant"]["revoked_by"]),
        (&json!("revoked"), &json!("super"))
    );
    assert_eq!(api.get(&ann, "/api/k8s/pods", &pods).await.error().2, "not_found");
}

#[actix_web::test]
async fn second_decision_on_a_request_is_a_conflict() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let (_, ann) = ann(&api, &admin).await;
    let new = json!({"role": "editor", "clusters": {"ids": [api.cluster]}, "namespaces": ["shop"],
        "duration_seconds": 3600, "reason": "release 4.2"});
    let request = api.post(&ann, "/api/access/requests", new).await.data()["request"].take();
    assert_eq!((&request["state"], &request["username"]), (&json!("pending"), &json!("ann")));
    let id = json!({"id": request["id"]});
    let own = api.post(&ann, "/api/access/requests/approve", id.clone()).await;
    assert_eq!(own.json()["context"]["missing"]["resource"], "grants");
    // whoever has every right is told why it is refused, not that a right is missing
    let new = json!({"role": "editor", "clusters": {"ids": [api.cluster]}, "namespaces": ["shop"],
        "duration_seconds": 3600, "reason": "release 4.2"});
    let of_admin = api.post(&admin, "/api/access/requests", new).await.data()["request"]["id"].take();
    let own = api.post(&admin, "/api/access/requests/approve", json!({"id": of_admin})).await;
    assert_eq!(own.error(), (403, "PERMISSION_DENIED".into(), "own_request".into()));
    assert!(own.json()["context"].get("missing").is_none());

    let approved = api.post(&admin, "/api/access/requests/approve", id.clone()).await.data();
    assert_eq!(approved["request"]["state"], "approved");
    for decision in ["approve", "deny"] {
        let path = format!("/api/access/requests/{decision}");
        assert_eq!(api.post(&admin, &path, id.clone()).await.error().2, "request_decided");
    }
    assert_eq!(api.post(&ann, "/api/access/requests/withdraw", id).await.error().2, "request_decided");
    let grants = api.get(&ann, "/api/access/grants", "state=active").await.data();
    assert_eq!(grants["grants"][0]["id"], approved["request"]["grant_id"]);
    assert_eq!(grants["grants"][0]["source"], format!("request:{}", request["id"]));
}

#[actix_web::test]
async fn grants_of_a_disabled_user_hold_again_after_enabling() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let (id, signed_in) = ann(&api, &admin).await;
    api.post(&admin, "/api/access/grants", grant_to(id, "editor", json!(["shop"]))).await.data();
    let pods = format!("cluster_id={}&namespace=shop", api.cluster);
    let set_disabled = async |disabled: bool| {
        let patch = json!({"id": id, "disabled": disabled});
        api.post(&admin, "/api/auth/users/update", patch).await.data();
    };
    let editors = async || {
        let question = format!("verb=update&resource=workloads&{pods}&search=ann");
        api.get(&admin, "/api/access/who", &question).await.data()["pagination"]["total"].take()
    };
    assert_eq!(editors().await, 1);
    set_disabled(true).await;
    assert_eq!(api.get(&signed_in, "/api/k8s/pods", &pods).await.error().2, "session_ended");
    let grants = api.get(&admin, "/api/access/grants", &format!("user_id={}", id.0)).await.data();
    assert_eq!((&grants["grants"][0]["state"], editors().await), (&json!("active"), json!(0)));
    set_disabled(false).await;
    assert_eq!(editors().await, 1);
    let again = api.login("ann").await;
    assert_eq!(api.get(&again, "/api/k8s/pods", &pods).await.status.as_u16(), 200);
}

#[actix_web::test]
async fn absent_scopes_are_refused_by_name() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    let user = UserId(api.user("target").await);
    let whole = grant_to(user, "viewer", Value::Null);
    let cases = [
        ("clusters", Value::Null, "clusters=invalid_type"),
        ("clusters", json!({}), "clusters=required"),
        ("clusters", json!({"ids": []}), "clusters=required"),
        ("clusters", json!({"all": false}), "clusters=malformed"),
        ("clusters", json!({"all": true, "ids": [1]}), "clusters=malformed"),
        ("clusters", json!({"labels": "environment!=dev"}), "clusters=malformed"),
        ("namespaces", json!([]), "namespaces=required"),
        ("namespaces", json!(["shop*"]), "namespaces[0]=malformed"),
        ("subject", json!({"type": "user"}), "subject.id=required"),
        ("subject", json!({"type": "user", "id": user, "name": "ann"}), "subject.name=not_allowed"),
        ("subject", json!({"type": "group", "provider": "ldap"}), "subject.name=required"),
        ("reason", json!("four"), "reason=too_short"),
    ];
    for (field, value, refused) in cases {
        let mut body = whole.clone();
        body[field] = value;
        let reply = api.post(&admin, "/api/access/grants", body.clone()).await;
        assert_eq!(reply.fields(), [refused], "{body}");
    }
    for field in ["clusters", "namespaces"] {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().remove(field);
        let reply = api.post(&admin, "/api/access/grants", body).await;
        assert_eq!(reply.fields(), [format!("{field}=required")]);
    }
    let service_account = json!({"type": "service_account", "id": 1});
    let mut body = whole;
    body["subject"] = service_account;
    assert_eq!(api.post(&admin, "/api/access/grants", body).await.error().2, "not_found");
}

#[actix_web::test]
async fn who_is_paged_like_other_lists() {
    let api = TestApp::new().await;
    let admin = api.login("super").await;
    ann(&api, &admin).await;
    let question = format!("verb=list&resource=workloads&cluster_id={}&namespace=shop", api.cluster);
    let who =
        async |more: &str| api.get(&admin, "/api/access/who", &format!("{question}{more}")).await.data();
    let all = who("&per_page=500").await;
    let names: Vec<_> = all["who"].as_array().unwrap().iter().map(|row| row["username"].clone()).collect();
    assert!(names.is_sorted_by_key(Value::to_string) && names.contains(&json!("viewer")), "{names:?}");
    assert!(!names.contains(&json!("ann")), "the role none gives no right");
    assert_eq!(all["pagination"]["total"], names.len());
    for (n, name) in names.iter().enumerate() {
        let page = who(&format!("&per_page=1&page={}", n + 1)).await;
        assert_eq!((&page["who"][0]["username"], &page["pagination"]["total"]), (name, &json!(names.len())));
        assert_eq!(page["who"].as_array().unwrap().len(), 1);
    }
    assert_eq!(who("&search=viewer").await["who"][0]["username"], "viewer");
    assert_eq!(who("&subject_type=group").await["who"], json!([]));
    let refused = api.get(&admin, "/api/access/who", "verb=logs&resource=secrets").await;
    assert_eq!(refused.fields(), ["verb=not_allowed"]);
}

#[actix_web::test]
async fn question_about_a_right_that_does_not_exist_is_refused() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    for (query, refused) in [
        ("verb=logs&resource=secrets", "verb=not_allowed"),
        ("verb=watch&resource=secrets", "verb=not_one_of"),
        ("verb=list&resource=pods", "resource=not_one_of"),
        ("verb=list&resource=custom:apps", "resource=invalid_name"),
        ("verb=list&resource=workloads&namespace=a*", "namespace=invalid_name"),
    ] {
        assert_eq!(api.get(&viewer, "/api/access/explain", query).await.fields(), [refused], "{query}");
    }
    let query = format!("verb=update&resource=workloads&cluster_id={}&namespace=shop", api.cluster);
    let explained = api.get(&viewer, "/api/access/explain", &query).await.data();
    assert_eq!(
        explained,
        json!({
            "allowed": false,
            "because": null,
            "layers": [{
                "layer": "grant",
                "verdict": "other_role",
                "because": {"grant_id": null, "role": "viewer", "via_group": null, "until": null},
            }],
            "missing": {"verb": "update", "resource": "workloads", "cluster_id": api.cluster, "namespace": "shop"},
            "roles_that_would_do": ["editor", "admin"],
        })
    );
}
