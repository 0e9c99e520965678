//! Sessions of browsers: the refresh token in a cookie, and tabs that refresh at the same time.

use serde_json::{Value, json};

use crate::support::{Browser, FakeClock, Install, PASSWORD, Server, postgres};

/// Signs in with cookies; returns the browser and the data of the response.
async fn signed_in(server: &Server) -> (Browser, Value) {
    let mut browser = Browser::new(&[]);
    let body = json!({"username": "admin", "password": PASSWORD, "cookie": true});
    let page = browser.post(&format!("{}/api/auth/login", server.address), Some(&body)).await;
    let cookies: Vec<_> =
        page.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap().to_owned()).collect();
    let refresh =
        cookies.iter().find(|cookie| cookie.starts_with("refresh_token=")).expect("a refresh cookie");
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/api/auth/refresh"] {
        assert!(refresh.split("; ").any(|part| part == attribute), "{refresh}");
    }
    let data = page.data();
    assert!(data["refresh_token"].is_null() && data["session_id"].is_null(), "{data}");
    (browser, data)
}

#[tokio::test]
async fn tabs_that_refresh_together_get_the_same_tokens_at_all_replicas() {
    let Some(postgres) = postgres() else { return };
    let Some(clock) = FakeClock::start() else { return };
    let first = Install::on_postgres(&postgres.database().unwrap()).with_clock(&clock).start().await;
    let second = first.install.replica().start().await;
    let (mut browser, _) = signed_in(&first).await;
    let old = browser.cookie("refresh_token").unwrap().to_owned();
    // a tab at each replica, with the cookies from before the refresh of the other
    let mut other_tab = Browser::new(&[]);
    other_tab.set_cookie(&format!("session_id={}; Path=/", browser.cookie("session_id").unwrap()));
    other_tab.set_cookie(&format!("refresh_token={old}; Path=/api/auth/refresh"));
    let (url, other_url) =
        (format!("{}/api/auth/refresh", first.address), format!("{}/api/auth/refresh", second.address));
    let (page, other_page) = tokio::join!(browser.post(&url, None), other_tab.post(&other_url, None));
    for data in [page.data(), other_page.data()] {
        let client = first.client().with_session(&browser.session(&data));
        assert_eq!(client.get("/api/auth/me").await.status, 200, "both tabs have a valid token");
    }
    let new = browser.cookie("refresh_token").unwrap().to_owned();
    assert_eq!(other_tab.cookie("refresh_token"), Some(&*new), "one pair for both tabs");
    assert_ne!(new, old);

    // a refresh token in the body together with the cookie is ambiguous
    let both = browser.post(&url, Some(&json!({"refresh_token": new}))).await;
    assert_eq!(both.status, 400, "{}", both.text);
    // the old token counts as stolen if it is sent later than a tab would send it
    clock.set("+30");
    let mut thief = Browser::new(&[]);
    thief.set_cookie(&format!("session_id={}; Path=/", browser.cookie("session_id").unwrap()));
    thief.set_cookie(&format!("refresh_token={old}; Path=/api/auth/refresh"));
    assert_eq!(thief.post(&url, None).await.status, 401);
}

#[tokio::test]
async fn logout_of_a_browser_removes_both_cookies() {
    let server = Server::fresh().await;
    let (mut browser, data) = signed_in(&server).await;
    let client = server.client().with_session(&browser.session(&data));
    let response = client.post("/api/auth/logout", json!({})).await;
    let removed = response.headers.get_all("set-cookie").iter();
    let removed: Vec<_> = removed.map(|cookie| cookie.to_str().unwrap().to_owned()).collect();
    for cookie in &removed {
        browser.set_cookie(cookie);
    }
    assert_eq!((browser.cookie("session_id"), browser.cookie("refresh_token")), (None, None), "{removed:?}");
    assert!(response.data()["end_session_url"].is_null(), "a local user has no page to sign out elsewhere");
    client.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
}

#[tokio::test]
async fn background_requests_do_not_extend_a_session() {
    let Some(clock) = FakeClock::start() else { return };
    let server = Install::new().set("SESSION_IDLE", "4m").with_clock(&clock).start().await;
    let (watched, used) = (server.admin().await, server.admin().await);
    let background = watched.with_header("X-Background", "true");
    clock.set("+150");
    for client in [&background, &used] {
        client.get("/api/auth/me").await.data();
    }
    clock.set("+300");
    background.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    used.get("/api/auth/me").await.data();
}
