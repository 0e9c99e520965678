//! Login throttling and session checks under attack and load, on the running server.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Install, PASSWORD, Server};

#[tokio::test]
async fn login_throttle_survives_restart_and_covers_all_spellings() {
    let server = Server::fresh().await;
    let client = server.client();
    for spelling in ["admin", "ADMIN", " admin ", "ａｄｍｉｎ", "Ａdmin"] {
        client.try_sign_in(spelling, "a wrong password").await.refused("AUTHENTICATION_ERROR");
    }
    client.try_sign_in("admin", PASSWORD).await.refused("RATE_LIMITED");
    // each user has a separate counter, and attempts of other users do not reset it
    for n in 0..20 {
        client.try_sign_in(&format!("user-{n}"), "a wrong password").await.refused("AUTHENTICATION_ERROR");
    }
    let server = server.kill().await.start().await;
    for spelling in ["admin", "Admin", "ＡＤＭＩＮ"] {
        let response = server.client().try_sign_in(spelling, PASSWORD).await;
        let seconds: u64 = response.header("retry-after").parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
        response.refused("RATE_LIMITED");
    }
    server.stop().await;
}

/// 500 concurrent logins: a bounded number is hashed, the others get 503, and signed-in users get responses.
#[tokio::test]
async fn login_flood_is_bounded_and_does_not_block_signed_in_users() {
    let server = Install::new().start().await;
    let admin = server.admin().await;
    #[cfg(target_os = "linux")]
    let before = server.memory_peak();
    let client = server.client();
    let flood = tokio::spawn({
        let client = client.clone();
        async move {
            let logins = (0..500).map(|n| {
                let client = client.clone();
                tokio::spawn(
                    async move { client.try_sign_in(&format!("user-{n}"), "a wrong password").await },
                )
            });
            join_all(logins).await.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        }
    });
    let mut answered = 0;
    while !flood.is_finished() {
        assert_eq!(admin.get("/api/auth/me").await.data()["user"]["username"], "admin");
        answered += 1;
    }
    let responses = flood.await.unwrap();
    assert!(answered > 0, "a signed-in user got a response during the flood");
    let count = |code: &str| responses.iter().filter(|response| response.body["error_code"] == code).count();
    let (refused, limited, busy) =
        (count("AUTHENTICATION_ERROR"), count("RATE_LIMITED"), count("SERVICE_UNAVAILABLE"));
    assert_eq!(refused + limited + busy, 500, "no other response: {refused} {limited} {busy}");
    // 100 failures per address, and the passwords that were being hashed when the hundredth login failed
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!((1..=100 + cores).contains(&refused), "{refused}");
    for response in responses.iter().filter(|response| response.status != 401) {
        assert!(response.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{response}");
    }
    #[cfg(target_os = "linux")]
    {
        let grown = server.memory_peak() - before;
        // 33 MiB are reserved per hash, of which 19 MiB are used
        assert!(grown < (100 << 20) + (cores as u64) * (33 << 20), "{} MiB more", grown >> 20);
    }
    // the server works normally afterwards
    assert_eq!(admin.get("/api/auth/me").await.status, 200);
    server.stop().await;
}

/// Combines access tokens, refresh tokens and session ids of several sessions, and a session id chosen by the client.
#[tokio::test]
async fn tokens_and_session_id_of_different_sessions_are_refused() {
    let server = Server::fresh().await;
    let (admin, other) = (server.admin().await, server.admin().await);
    let (one, two) = (admin.session.clone().unwrap(), other.session.clone().unwrap());
    let with = |access: &str, cookie: &str| {
        let mut client = server.client();
        let mut session = one.clone();
        (session.access_token, session.session_id) = (access.to_owned(), cookie.to_owned());
        client.session = Some(session);
        client
    };
    let other_install = Server::fresh().await;
    let foreign = other_install.admin().await.session.unwrap();
    let chosen = "0".repeat(64);
    for (access, cookie) in [
        (&one.access_token, &two.session_id),
        (&two.access_token, &one.session_id),
        (&one.access_token, &one.refresh_token),
        (&one.refresh_token, &one.session_id),
        (&one.session_id, &one.session_id),
        (&one.access_token, &chosen),
        (&foreign.access_token, &one.session_id),
        (&one.access_token, &foreign.session_id),
        (&foreign.access_token, &foreign.session_id),
    ] {
        with(access, cookie).get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    }
    // a login with the cookie of another session creates a new session
    let fresh = with(&one.access_token, &one.session_id).sign_in("admin", PASSWORD).await.session.unwrap();
    assert_ne!(fresh.session_id, one.session_id);
    // a refresh token with the cookie of another session, and one of another install
    for (refresh, cookie) in
        [(&one.refresh_token, &two.session_id), (&foreign.refresh_token, &one.session_id)]
    {
        let response = with("", cookie).post("/api/auth/refresh", json!({"refresh_token": refresh})).await;
        response.refused("AUTHENTICATION_ERROR");
    }
    assert_eq!(admin.get("/api/auth/me").await.status, 200, "the session is still valid");

    // one of many concurrent refreshes gets a token pair, and only that pair is valid afterwards
    let refreshes =
        (0..10).map(|_| admin.post("/api/auth/refresh", json!({"refresh_token": one.refresh_token})));
    let responses = join_all(refreshes).await;
    let winners: Vec<_> = responses.into_iter().filter(|response| response.status == 200).collect();
    assert_eq!(winners.len(), 1);
    admin.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    let pair = winners.into_iter().next().unwrap().data();
    let valid_client = with(pair["access_token"].as_str().unwrap(), &one.session_id);
    assert_eq!(valid_client.get("/api/auth/me").await.status, 200);
}
