//! Second factors and break-glass on the running server.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Client, Install, PASSWORD, Server, Totp, login_with};

/// Sends the same login `count` times at once; returns the number of successes. The others are refused: their code was
/// used before, or another one of the user is being checked, or too many were wrong.
async fn successes(client: &Client, login: &Value, count: usize) -> usize {
    let responses = join_all((0..count).map(|_| client.post("/api/auth/login", login.clone()))).await;
    let (good, bad): (Vec<_>, Vec<_>) = responses.into_iter().partition(|response| response.status == 200);
    for response in bad {
        let code = &response.body["error_code"];
        assert!(code == "AUTHENTICATION_ERROR" || code == "RATE_LIMITED", "{response}");
    }
    good.len()
}

#[tokio::test]
async fn code_and_recovery_code_count_once_also_over_a_restart() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    // a user each, because a few wrong codes throttle the logins of a user
    for name in ["ann", "ben", "cai", "dot"] {
        admin.add_user(name, "viewer").await;
    }
    let (totp, _) = Totp::enrol(&server.client().sign_in("cai", PASSWORD).await).await;
    let (_, recovery_codes) = Totp::enrol(&server.client().sign_in("dot", PASSWORD).await).await;
    let by_code = login_with("cai", PASSWORD, &totp.code(0).await);
    let by_recovery = login_with("dot", PASSWORD, &recovery_codes[0]);
    for login in [&by_code, &by_recovery] {
        assert_eq!(successes(&server.client(), login, 10).await, 1);
    }

    let (totp, _) = Totp::enrol(&server.client().sign_in("ann", PASSWORD).await).await;
    let (_, recovery_codes) = Totp::enrol(&server.client().sign_in("ben", PASSWORD).await).await;
    let missing = server.client().try_sign_in("ann", PASSWORD).await.refused("AUTHENTICATION_ERROR");
    assert_eq!(missing["context"]["cause"], "second_factor_required");

    let by_code = login_with("ann", PASSWORD, &totp.code(0).await);
    let by_recovery = login_with("ben", PASSWORD, &recovery_codes[0]);
    for login in [&by_code, &by_recovery] {
        server.client().post("/api/auth/login", login.clone()).await.data();
        server.client().post("/api/auth/login", login.clone()).await.refused("AUTHENTICATION_ERROR");
    }
    let server = server.kill().await.start().await;
    for login in [&by_code, &by_recovery] {
        server.client().post("/api/auth/login", login.clone()).await.refused("AUTHENTICATION_ERROR");
    }
    // the code before the used one does not count either; another recovery code does
    let earlier = login_with("ann", PASSWORD, &totp.code(-1).await);
    server.client().post("/api/auth/login", earlier).await.refused("AUTHENTICATION_ERROR");
    server.client().post("/api/auth/login", login_with("ann", PASSWORD, &totp.code(1).await)).await.data();
    server.client().post("/api/auth/login", login_with("ben", PASSWORD, &recovery_codes[1])).await.data();

    // a lost factor
    let output = server.install.run(&["user", "reset-second-factor", "ann"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.client().sign_in("ann", PASSWORD).await;
}

#[tokio::test]
async fn user_who_must_have_a_factor_can_only_enrol() {
    let server = Install::new().set("REQUIRE_SECOND_FACTOR", "admins").start().await;
    let admin = server.admin().await;
    for path in ["/api/k8s/clusters", "/api/auth/users"] {
        let refused = admin.get(path).await.refused("PERMISSION_DENIED");
        assert_eq!(refused["context"]["cause"], "second_factor_not_enrolled", "{path}");
    }
    let (totp, _) = Totp::enrol(&admin).await;
    admin.get("/api/auth/users").await.data();
    let again = admin.post("/api/auth/totp/enroll", json!({})).await.refused("CONFLICT_ERROR");
    assert_eq!(again["context"]["cause"], "already_enrolled");
    let body = json!({"code": totp.code(0).await});
    admin.post("/api/auth/totp/disable", body).await.refused("PERMISSION_DENIED");
    // a viewer is not covered
    admin.add_user("ann", "viewer").await;
    server.client().sign_in("ann", PASSWORD).await.get("/api/k8s/clusters").await.data();
}

#[tokio::test]
async fn break_glass_gives_an_hour_twice_a_day_to_named_users_with_a_factor() {
    let server = Install::new()
        .set("BREAK_GLASS_USERS", "glen")
        .set("BREAK_GLASS_NETWORKS", "127.0.0.1/32")
        .start()
        .await;
    let admin = server.admin().await;
    let cluster = json!({
        "name": "burning", "auth_type": "token", "token": "of-nobody", "skip_test": true,
        "api_server": "https://192.0.2.1:6443",
    });
    let cluster = admin.post("/api/k8s/clusters", cluster).await.data()["cluster"]["id"].clone();
    for name in ["glen", "ann"] {
        admin.add_user(name, "none").await;
    }
    let break_glass = json!({"cluster_id": cluster, "reason": "the identity provider does not answer"});
    let (glen, ann) =
        (server.client().sign_in("glen", PASSWORD).await, server.client().sign_in("ann", PASSWORD).await);
    let path = "/api/access/break-glass";
    assert_ne!(glen.post(path, break_glass.clone()).await.status, 200, "without a factor");
    for client in [&glen, &ann] {
        Totp::enrol(client).await;
    }
    ann.post(path, break_glass.clone()).await.refused("PERMISSION_DENIED");
    let elsewhere = glen.with_source_address([127, 0, 0, 2]);
    elsewhere.post(path, break_glass.clone()).await.refused("PERMISSION_DENIED");
    glen.get(format!("/api/k8s/clusters/status?id={cluster}")).await.refused("RESOURCE_NOT_FOUND");

    for _ in 0..2 {
        glen.post(path, break_glass.clone()).await.data();
    }
    assert_ne!(glen.post(path, break_glass.clone()).await.status, 200, "a third use of the day");
    assert_eq!(glen.rows("/api/k8s/clusters", "clusters").await[0]["id"], cluster);
    let uses = admin.rows("/api/access/break-glass?reviewed=false", "break_glass").await;
    assert_eq!(uses.len(), 2);
    assert_eq!(uses[0]["username"], "glen");
    let review = json!({"id": uses[0]["id"], "note": "as agreed"});
    admin.post("/api/access/break-glass/review", review).await.data();
    assert_eq!(admin.rows("/api/access/break-glass?reviewed=false", "break_glass").await.len(), 1);
    let rows = admin.operations("operation_type=break_glass&status=success").await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.iter().all(|row| row["username"] == "glen"), "{rows:?}");
}
