//! Logins under attack: what holds when the process or the whole house is under pressure.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Install, PASSWORD, Server};

#[tokio::test]
async fn a_throttle_survives_the_process_and_every_spelling() {
    let server = Server::fresh().await;
    let client = server.client();
    for spelling in ["admin", "ADMIN", " admin ", "ａｄｍｉｎ", "Ａdmin"] {
        client.try_sign_in(spelling, "a wrong password").await.refused("AUTHENTICATION_ERROR");
    }
    client.try_sign_in("admin", PASSWORD).await.refused("RATE_LIMITED");
    // others have counters of their own, and using these clears none
    for n in 0..20 {
        client.try_sign_in(&format!("user-{n}"), "a wrong password").await.refused("AUTHENTICATION_ERROR");
    }
    let server = server.kill().await.start().await;
    for spelling in ["admin", "Admin", "ＡＤＭＩＮ"] {
        let answer = server.client().try_sign_in(spelling, PASSWORD).await;
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
        answer.refused("RATE_LIMITED");
    }
    server.stop().await;
}

/// 500 at once: a bounded number is hashed, the others are told to come back, and whoever is signed in is answered.
#[tokio::test]
async fn a_flood_of_logins_is_bounded_and_signed_in_users_are_answered_meanwhile() {
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
    let answers = flood.await.unwrap();
    assert!(answered > 0, "somebody was answered before the flood was over");
    let count = |code: &str| answers.iter().filter(|answer| answer.body["error_code"] == code).count();
    let (refused, limited, busy) =
        (count("AUTHENTICATION_ERROR"), count("RATE_LIMITED"), count("SERVICE_UNAVAILABLE"));
    assert_eq!(refused + limited + busy, 500, "nothing else: {refused} {limited} {busy}");
    // 100 per address, and what was being hashed when the hundredth failed
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!((1..=100 + cores).contains(&refused), "{refused}");
    for answer in answers.iter().filter(|answer| answer.status != 401) {
        assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{answer}");
    }
    #[cfg(target_os = "linux")]
    {
        let grown = server.memory_peak() - before;
        // 33 MiB are reserved for each hash, of which 19 MiB are used
        assert!(grown < (100 << 20) + (cores as u64) * (33 << 20), "{} MiB more", grown >> 20);
    }
    // and it is over when it is over
    assert_eq!(admin.get("/api/auth/me").await.status, 200);
    server.stop().await;
}

/// A chosen session id, a stolen half, a forged token: through the real server, where all parts meet.
#[tokio::test]
async fn no_part_of_a_session_works_without_the_other() {
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
    let elsewhere = Server::fresh().await;
    let foreign = elsewhere.admin().await.session.unwrap();
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
    // a login with somebody's cookie makes a session of its own
    let fresh = with(&one.access_token, &one.session_id).sign_in("admin", PASSWORD).await.session.unwrap();
    assert_ne!(fresh.session_id, one.session_id);
    // a refresh token with another session's cookie, and one of another install
    for (refresh, cookie) in
        [(&one.refresh_token, &two.session_id), (&foreign.refresh_token, &one.session_id)]
    {
        let answer = with("", cookie).post("/api/auth/refresh", json!({"refresh_token": refresh})).await;
        answer.refused("AUTHENTICATION_ERROR");
    }
    assert_eq!(admin.get("/api/auth/me").await.status, 200, "none of it ended the session");

    // of many refreshes at once one is answered with a pair, and of all that were handed out that one lives
    let races = (0..10).map(|_| admin.post("/api/auth/refresh", json!({"refresh_token": one.refresh_token})));
    let answers = join_all(races).await;
    let won: Vec<_> = answers.into_iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1);
    admin.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    let pair = won.into_iter().next().unwrap().data();
    let alive = with(pair["access_token"].as_str().unwrap(), &one.session_id);
    assert_eq!(alive.get("/api/auth/me").await.status, 200);
}
