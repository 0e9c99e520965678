//! Users of an LDAP directory, with OpenLDAP's slapd.

use std::time::Duration;

use pilothouse_testbed::{Slapd, password_of};
use serde_json::{Value, json};

use crate::support::{
    ApiResponse, Client, FakeClock, Install, PASSWORD, Server, Session, Site, Totp, grant_to_group,
    ldap_settings, sees_cluster, until_signed_out, within,
};

/// Id of the directory in the settings.
const ID: &str = "dir";
/// Time within which a task of the server that is due has run.
const TASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Filters in the username of [`directory_searches_for_no_filter_that_a_username_contains`].
const FILTERS: usize = 200;
/// Failed logins of an address before others are throttled: half of the limit.
const LOGINS_OF_ADDRESS: usize = 50;

/// Sends a login of a user of the directory.
async fn try_sign_in(client: &Client, username: &str, password: &str) -> ApiResponse {
    let body = json!({"username": username, "password": password, "provider": ID});
    client.post("/api/auth/login", body).await
}

/// Access tokens and sessions that outlast the jumps of the clock.
pub(super) fn long_sessions(install: Install) -> Install {
    install.set("ACCESS_TOKEN_LIFETIME", "1h").set("SESSION_IDLE", "2h")
}

/// Signs in with the right password.
async fn sign_in(server: &Server, username: &str) -> Client {
    let data = try_sign_in(&server.client(), username, &password_of(username)).await.data();
    server.client().with_session(&Session::from_data(&data))
}

/// A server with a directory at one of its addresses.
async fn start(slapd: &Slapd, url: &str, start_tls: bool) -> Server {
    Site::new().install(&[ldap_settings(ID, slapd, url, start_tls)]).start().await
}

#[tokio::test]
async fn directory_users_have_the_rights_of_their_groups_by_ldap_starttls_and_ldaps() {
    let Some(slapd) = Slapd::start_or_skip(false).unwrap() else { return };
    for (url, start_tls) in [(slapd.url(), false), (slapd.url(), true), (slapd.tls_url(), false)] {
        let server = start(&slapd, &url, start_tls).await;
        let admin = server.admin().await;
        let cluster = grant_to_group(&admin, ID).await;
        let mei = sign_in(&server, "mei").await;
        let user = mei.get("/api/auth/me").await.data()["user"].take();
        assert_eq!((&user["username"], &user["role"]), (&json!("dir:mei"), &json!("none")), "{url}");
        assert!(sees_cluster(&mei, cluster).await, "{url}");
        assert!(!sees_cluster(&sign_in(&server, "tom").await, cluster).await, "tom is in no group: {url}");
        // the same person the next time, and no local user with a part of the name
        let again = sign_in(&server, "mei").await.get("/api/auth/me").await.data()["user"].take();
        assert_eq!(again["id"], user["id"]);
        for name in ["mei", "dir:mei"] {
            server.client().try_sign_in(name, &password_of("mei")).await.refused("AUTHENTICATION_ERROR");
        }
        let reset = json!({"id": user["id"], "new_password": PASSWORD});
        let refused = admin.post("/api/auth/users/reset-password", reset).await.refused("CONFLICT_ERROR");
        assert_eq!(refused["context"]["cause"], "federated_user");
        server.stop().await;
    }
}

#[tokio::test]
async fn commands_find_users_of_a_directory() {
    let Some(slapd) = Slapd::start_or_skip(false).unwrap() else { return };
    let server = start(&slapd, &slapd.url(), false).await;
    let mei = sign_in(&server, "mei").await;
    let run = |arguments: &[&str]| {
        let output = server.install.run(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, refusal) in [
        (&["user", "reset-password", "dir:mei"][..], "signs in through an identity provider"),
        (&["user", "reset-second-factor", "dir:mei"], "There is no second factor"),
        (&["user", "disable", "dir:nobody"], "dir:nobody"),
    ] {
        let (code, message) = run(arguments);
        assert!(code == Some(2) && message.contains(refusal), "{arguments:?}: {message}");
    }
    for arguments in [
        &["token", "create", "of mei", "--user", "dir:mei"][..],
        &["grant", "add", "dir:mei", "--role", "viewer", "--clusters", "all", "--namespaces", "shop"],
        &["user", "disable", "dir:mei"],
    ] {
        let (code, message) = run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {message}");
    }
    until_signed_out(TASK_TIMEOUT, &mei).await;
}

#[tokio::test]
async fn group_and_user_removed_in_the_directory_end_rights_and_tokens_within_ten_minutes() {
    let Some(slapd) = Slapd::start_or_skip(false).unwrap() else { return };
    let Some(clock) = FakeClock::start() else { return };
    let site = Site::new();
    let install = site.install(&[ldap_settings(ID, &slapd, &slapd.url(), false)]).with_clock(&clock);
    let server = long_sessions(install).start().await;
    let admin = server.admin().await;
    let cluster = grant_to_group(&admin, ID).await;
    let mei = sign_in(&server, "mei").await;
    let token = server.client().with_token(&mei.create_token("of mei", json!({})).await.1);
    for client in [&mei, &token] {
        assert!(sees_cluster(client, cluster).await);
    }

    slapd.leave_group("mei", "shop-dev").unwrap();
    clock.set("+600");
    for client in [&mei, &token] {
        within(TASK_TIMEOUT, "the end of the group's rights", async || {
            (!sees_cluster(client, cluster).await).then_some(())
        })
        .await;
    }
    slapd.remove_user("mei").unwrap();
    clock.set("+1200");
    for client in [&mei, &token] {
        until_signed_out(TASK_TIMEOUT, client).await;
    }
    try_sign_in(&server.client(), "mei", &password_of("mei")).await.refused("AUTHENTICATION_ERROR");
}

#[tokio::test]
async fn wrong_password_and_unknown_user_are_refused_alike_and_empty_passwords_reach_no_bind() {
    // this directory accepts a bind with a name and an empty password
    let Some(slapd) = Slapd::start_or_skip(true).unwrap() else { return };
    let server = start(&slapd, &slapd.url(), false).await;
    let user_binds = || {
        let binds = slapd.binds();
        binds.len() - binds.iter().filter(|name| **name == slapd.search_dn()).count()
    };
    sign_in(&server, "mei").await;
    let before = user_binds();
    assert_eq!(before, 1, "{:?}", slapd.binds());
    let client = server.client();
    let mut bodies = Vec::new();
    for (username, password) in [("mei", "wrong"), ("nobody", "wrong"), ("mei", ""), ("nobody", "")] {
        let mut body = try_sign_in(&client, username, password).await.refused("AUTHENTICATION_ERROR");
        body["request_id"] = Value::Null;
        bodies.push(body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:#?}");
    let binds = slapd.binds();
    assert!(!binds.iter().any(String::is_empty), "no anonymous bind: {binds:?}");
    // a bind for the wrong password, and the same number for a user who does not exist; none for an empty password
    assert_eq!(user_binds(), before + 2, "{binds:?}");
}

#[tokio::test]
async fn directory_searches_for_no_filter_that_a_username_contains() {
    let Some(slapd) = Slapd::start_or_skip(false).unwrap() else { return };
    let server = start(&slapd, &slapd.url(), false).await;
    // with the password of mei, each would sign in if one part of a filter were taken from the username
    let patterns = [
        "*",
        "m*",
        "*i",
        "m*i",
        "mei*",
        "*mei",
        "mei)(uid=*",
        "*)(uid=mei",
        "mei)(objectClass=*",
        "x)(|(uid=mei)",
        "mei)(|(uid=*",
        "*)(cn=mei",
        "me\\69",
        "\\6dei",
        "\\2a",
        "mei\\00",
        "x)(!(uid=tom)",
        "mei))(|(uid=x",
        "x))(|(uid=mei)(uid=mei",
        "mei)(cn=*)(sn=*",
    ];
    let names = (0..FILTERS).map(|n| match n / patterns.len() {
        0 => patterns[n % patterns.len()].to_owned(),
        round => format!("{}{}", patterns[n % patterns.len()], ")(mail=*".repeat(round)),
    });
    for (n, name) in names.enumerate() {
        let address = [127, 0, 0, 2 + u8::try_from(n / LOGINS_OF_ADDRESS).unwrap()];
        let client = server.client().with_source_address(address);
        let response = try_sign_in(&client, &name, &password_of("mei")).await;
        let code = response.body["error_code"].as_str().unwrap_or_default();
        assert!(["AUTHENTICATION_ERROR", "VALIDATION_ERROR"].contains(&code), "{name:?}: {response}");
    }
    // `mei` was never found, so no user but the search account was bound with that password
    let binds = slapd.binds();
    assert!(!binds.contains(&slapd.user_dn("mei")) && !binds.contains(&slapd.user_dn("tom")), "{binds:?}");
    for filter in slapd.filters() {
        // a filter of one user has one part: (uid=…), and the typed name is escaped
        let parts = filter.matches('(').count();
        assert!(parts == 1 && !filter.contains("=*"), "{filter}");
    }
    sign_in(&server, "mei").await;
}

#[tokio::test]
async fn without_the_directory_sessions_stay_and_only_local_users_sign_in() {
    let Some(slapd) = Slapd::start_or_skip(false).unwrap() else { return };
    let site = Site::new();
    let install = site.install(&[ldap_settings(ID, &slapd, &slapd.url(), false)]);
    let install = install.set("BREAK_GLASS_USERS", "glen").set("BREAK_GLASS_NETWORKS", "127.0.0.1/32");
    let server = install.start().await;
    let admin = server.admin().await;
    let cluster = grant_to_group(&admin, ID).await;
    admin.add_user("glen", "none").await;
    let mei = sign_in(&server, "mei").await;
    slapd.stop();

    assert!(sees_cluster(&mei, cluster).await, "her session lives, with the groups that were read last");
    for (user, password) in
        [("mei", password_of("mei")), ("tom", password_of("tom")), ("tom", "wrong".into())]
    {
        let refused = try_sign_in(&server.client(), user, &password).await.refused("SERVICE_UNAVAILABLE");
        assert_eq!(refused["context"]["cause"], "provider_unavailable");
    }
    let glen = server.client().sign_in("glen", PASSWORD).await;
    Totp::enrol(&glen).await;
    let body = json!({"cluster_id": cluster, "reason": "the directory does not answer"});
    glen.post("/api/access/break-glass", body).await.data();
    assert!(sees_cluster(&glen, cluster).await);
    // and over a restart of the server
    let server = server.kill().await.start().await;
    let mei = server.client().with_session(mei.session.as_ref().unwrap());
    assert!(sees_cluster(&mei, cluster).await);
    slapd.start().unwrap();
    sign_in(&server, "tom").await;
}
