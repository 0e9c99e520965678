//! Users of an OpenID provider, with the npm package `oidc-provider`.

use std::time::Duration;

use futures_util::future::join_all;
use pilothouse_testbed::{OidcProvider, OidcServer, password_of};
use serde_json::json;

use super::directory::long_sessions;
use crate::support::{
    Browser, Canaries, FakeClock, Site, check_openid_sessions, grant_to_group, oidc_settings, postgres,
    sees_cluster, sign_in_openid, until_signed_out, within,
};

/// Id of the provider in the settings.
const ID: &str = "op";
/// Time within which a task of the server that is due has run.
const TASK_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn openid_sessions_live_and_end_as_the_provider_says_and_leave_no_secret() {
    let site = Site::new();
    let Some(provider) = OidcProvider::start_or_skip(&site.public_url, ID, &[]).unwrap() else { return };
    let install = site.install(&[oidc_settings(ID, &provider)]).set("LOG", "trace");
    let server = install.start().await;
    check_openid_sessions(&site, &server, ID, &provider).await;

    let mut browser = Browser::new(&[provider.ca_file()]);
    let callback = browser.reach_callback(&site.public_url, ID, "mei").await;
    let query = |name: &str| {
        let pair = callback.url.query_pairs().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.into_owned()).unwrap()
    };
    let data = browser.finish(&site.public_url, ID, &callback).await.data();
    let (password, access_token) = (password_of("mei"), data["access_token"].as_str().unwrap());
    let session = browser.session(&data);
    let refresh_token = browser.cookie("refresh_token").unwrap().to_owned();
    let issued = provider.issued_tokens().await.unwrap();
    assert!(issued.len() >= 9, "three tokens at each sign-in: {}", issued.len());
    let state_and_code = [query("state"), query("code")];
    let mut secrets = vec![
        ("the client secret", provider.client_secret()),
        ("a password", &password),
        ("a state", &state_and_code[0]),
        ("a code", &state_and_code[1]),
        ("a session id", &session.session_id),
        ("a refresh token", &refresh_token),
        ("an access token", access_token),
    ];
    secrets.extend(issued.iter().map(|token| ("a token of the provider", &**token)));
    let secrets: Vec<_> =
        secrets.into_iter().map(|(name, secret)| (name, secret.as_bytes().to_vec())).collect();
    let canaries = Canaries::new(&secrets);
    // the server keeps the refresh token of the provider while the session lasts
    let while_signed_in = server.install.data();
    let install = server.stop().await;
    let log = install.log();
    assert!(log.contains("TRACE"), "the log has the level trace");
    let mut found = canaries.find(log.as_bytes());
    for (path, bytes) in while_signed_in.iter().chain(&install.data()) {
        found.extend(canaries.find(bytes).into_iter().map(|found| format!("{}: {found}", path.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn group_and_user_removed_at_the_provider_end_rights_and_tokens_within_ten_minutes() {
    let (site, Some(clock)) = (Site::new(), FakeClock::start()) else { return };
    let variables = clock.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
    let provider = OidcProvider::start_or_skip(&site.public_url, ID, &variables).unwrap();
    let Some(provider) = provider else { return };
    let install = site.install(&[oidc_settings(ID, &provider)]).with_clock(&clock);
    let server = long_sessions(install).start().await;
    let cluster = grant_to_group(&server.admin().await, ID).await;
    let mut browser = Browser::new(&[provider.ca_file()]);
    let mei = sign_in_openid(&server, &site, &mut browser, ID, "mei").await;
    let token = server.client().with_token(&mei.create_token("of mei", json!({})).await.1);
    for client in [&mei, &token] {
        assert!(sees_cluster(client, cluster).await);
    }

    provider.leave_group("mei", "shop-dev").await.unwrap();
    clock.set("+600");
    for client in [&mei, &token] {
        within(TASK_TIMEOUT, "the end of the group's rights", async || {
            (!sees_cluster(client, cluster).await).then_some(())
        })
        .await;
    }
    provider.remove_user("mei").await.unwrap();
    clock.set("+1200");
    for client in [&mei, &token] {
        until_signed_out(TASK_TIMEOUT, client).await;
    }
}

#[tokio::test]
async fn sign_in_begun_at_one_replica_ends_at_another_and_back_channel_logout_holds_at_both() {
    let Some(postgres) = postgres() else { return };
    let site = Site::new();
    let Some(provider) = OidcProvider::start_or_skip(&site.public_url, ID, &[]).unwrap() else { return };
    let install =
        site.install(&[oidc_settings(ID, &provider)]).set("DATABASE_URL", postgres.database().unwrap());
    let first = install.start().await;
    let second = first.install.replica().set("LISTEN", "127.0.0.1:0").start().await;
    let mut browser = Browser::new(&[provider.ca_file()]);
    let callback = browser.reach_callback(&site.public_url, ID, "mei").await;
    let data = browser.finish(&second.address, ID, &callback).await.data();
    let session = browser.session(&data);
    let sessions = [&first, &second].map(|server| server.client().with_session(&session));
    let (_, secret) = sessions[0].create_token("of mei", json!({})).await;
    let tokens = [&first, &second].map(|server| server.client().with_token(&secret));
    let clients: Vec<_> = sessions.iter().chain(&tokens).collect();
    for client in &clients {
        client.get("/api/auth/me").await.data();
    }
    provider.end_sessions("mei").await.unwrap();
    join_all(clients.into_iter().map(|client| until_signed_out(Duration::from_secs(1), client))).await;
}

#[tokio::test]
async fn without_the_provider_sessions_stay_and_nobody_signs_in_there() {
    let site = Site::new();
    let Some(provider) = OidcProvider::start_or_skip(&site.public_url, ID, &[]).unwrap() else { return };
    let server = site.install(&[oidc_settings(ID, &provider)]).start().await;
    let cluster = grant_to_group(&server.admin().await, ID).await;
    let (mut mei, mut late) = (Browser::new(&[provider.ca_file()]), Browser::new(&[provider.ca_file()]));
    let client = sign_in_openid(&server, &site, &mut mei, ID, "mei").await;
    let callback = late.reach_callback(&site.public_url, ID, "tom").await;
    provider.stop();
    let refused = late.finish(&site.public_url, ID, &callback).await;
    assert_eq!((refused.status, &*refused.cause()), (503, "provider_unavailable"));
    assert!(sees_cluster(&client, cluster).await, "her session lives");

    // a server that starts without the provider serves all other users
    let server = server.kill().await.start().await;
    assert!(sees_cluster(&client, cluster).await);
    server.admin().await;
    let start = format!("{}/api/auth/oidc/{ID}/start", site.public_url);
    let refused = mei.open_once(&start).await;
    assert_eq!((refused.status, &*refused.cause()), (503, "provider_unavailable"));
    provider.start().unwrap();
    // no request is sent for some seconds to a provider that did not answer
    within(TASK_TIMEOUT, "the next question to the provider", async || {
        (mei.open_once(&start).await.status == 302).then_some(())
    })
    .await;
    sign_in_openid(&server, &site, &mut Browser::new(&[provider.ca_file()]), ID, "tom").await;
}

#[tokio::test]
async fn start_and_callback_refuse_what_the_provider_did_not_send() {
    let site = Site::new();
    let Some(provider) = OidcProvider::start_or_skip(&site.public_url, ID, &[]).unwrap() else { return };
    let server = site.install(&[oidc_settings(ID, &provider)]).start().await;
    let mut browser = Browser::new(&[provider.ca_file()]);
    let callback = browser.reach_callback(&site.public_url, ID, "mei").await;
    let pairs: Vec<_> = callback.url.query_pairs().into_owned().collect();
    let url = format!("{}/api/auth/oidc/{ID}/finish", site.public_url);
    for (changed, value) in [("state", "another"), ("iss", "https://other.invalid")] {
        let body = serde_json::Value::from_iter(
            pairs
                .iter()
                .map(|(name, given)| (name.clone(), json!(if name == changed { value } else { given }))),
        );
        assert_eq!(browser.post(&url, Some(&body)).await.status, 401, "{changed}");
    }
    assert_eq!(browser.cookie("session_id"), None);
    let body = json!({"code": "of nobody", "state": "of nobody", "iss": provider.issuer()});
    let absent = format!("{}/api/auth/oidc/absent/finish", site.public_url);
    assert_eq!(browser.post(&absent, Some(&body)).await.status, 404);
    // the browser goes on to a path of the console only
    for to in ["//other.invalid", "https://other.invalid", "/\\other.invalid", "javascript:alert(1)"] {
        let page = browser.open_once(&format!("{}/api/auth/oidc/{ID}/start?to={to}", site.public_url)).await;
        let location = page.headers.get("location").map_or("", |location| location.to_str().unwrap());
        assert!(page.status == 400 || location.starts_with(&provider.issuer()), "{to}: {location}");
        assert!(!location.contains("other.invalid") && !page.text.contains("alert(1)"), "{to}: {location}");
    }
    let logins = server.admin().await.operations("operation_type=login&status=success").await;
    assert!(logins.iter().all(|row| row["username"] == "admin"), "{logins:?}");
}
