//! The real identity servers, once per CI run: Keycloak, which takes a minute to start. The tests with slapd and
//! oidc-provider are black-box tests (`tests/blackbox/identity`).
//!
//! `just identity` runs these tests, which are ignored otherwise.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(clippy::disallowed_methods, reason = "tests start the binary and set its environment")]

#[path = "../blackbox/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the black-box tests, which use all of it")]
mod support;

use pilothouse_testbed::{Keycloak, OidcServer};

use crate::support::{Browser, Site, check_openid_sessions, oidc_settings, sees_cluster, sign_in_openid};

/// Id of Keycloak in the settings.
const ID: &str = "keycloak";

/// One test, because each would start a Keycloak. Groups that the server reads again while a session lasts are tested
/// with oidc-provider: Keycloak's clock cannot jump.
#[tokio::test]
#[ignore = "needs Keycloak, which `just identity` starts"]
async fn keycloak_signs_in_and_out_and_the_newest_groups_hold() {
    let site = Site::new();
    let Some(keycloak) = Keycloak::start_or_skip(&site.public_url, ID).unwrap() else { return };
    let server = site.install(&[oidc_settings(ID, &keycloak)]).start().await;
    let output = server.install.run(&["config", "check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check_openid_sessions(&site, &server, ID, &keycloak).await;

    let clusters = server.admin().await.rows("/api/k8s/clusters", "clusters").await;
    let cluster = clusters[0]["id"].as_i64().unwrap();
    let new_browser = || Browser::new(&[keycloak.ca_file()]);
    let before = sign_in_openid(&server, &site, &mut new_browser(), ID, "mei").await;
    assert!(sees_cluster(&before, cluster).await);
    keycloak.leave_group("mei", "shop-dev").await.unwrap();
    let after = sign_in_openid(&server, &site, &mut new_browser(), ID, "mei").await;
    for client in [&before, &after] {
        assert!(!sees_cluster(client, cluster).await, "rights are of the person, not of the session");
    }

    // while Keycloak is stopped, sessions stay and no user can sign in
    let mut late = new_browser();
    let callback = late.reach_callback(&site.public_url, ID, "tom").await;
    keycloak.stop();
    let refused = late.finish(&site.public_url, ID, &callback).await;
    assert_eq!((refused.status, &*refused.cause()), (503, "provider_unavailable"));
    assert_eq!(after.get("/api/auth/me").await.status, 200);
    let output = server.install.run(&["config", "check"]);
    assert!(!output.status.success(), "`config check` tries discovery");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&keycloak.issuer()) || stderr.contains(ID), "{stderr}");
}
