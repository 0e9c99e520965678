//! A server with identity providers, and the sign-in of a provider's users from start to end.

use std::time::Duration;

use pilothouse_testbed::{CLIENT_ID, OidcServer, Port, Slapd};
use serde_json::{Value, json};

use super::{Browser, Client, Install, Server, within};

/// Time within which a back-channel logout ends a session.
const LOGOUT_DELAY: Duration = Duration::from_secs(1);

/// The address at which browsers and providers reach a server. It is known before the server starts.
pub(crate) struct Site {
    port: Port,
    pub(crate) public_url: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        let port = Port::claim().expect("a free port");
        let public_url = format!("http://127.0.0.1:{}", port.number());
        Self { port, public_url }
    }

    /// A new install at this address, with providers as [`oidc_settings`] and [`ldap_settings`] write them.
    pub(crate) fn install(&self, providers: &[String]) -> Install {
        Install::new()
            .set("LISTEN", format!("127.0.0.1:{}", self.port.number()))
            .set("PUBLIC_URL", &self.public_url)
            .settings_file(&providers.concat())
    }
}

/// The settings of an OpenID provider.
pub(crate) fn oidc_settings(id: &str, provider: &impl OidcServer) -> String {
    format!(
        "[[oidc]]\nid = \"{id}\"\nlabel = \"Provider {id}\"\nissuer = \"{}\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret = \"{}\"\nscopes = \"openid profile\"\nca_file = \"{}\"\n",
        provider.issuer(),
        provider.client_secret(),
        provider.ca_file().display()
    )
}

/// The settings of a directory at `url`, which is one of the two of `slapd`.
pub(crate) fn ldap_settings(id: &str, slapd: &Slapd, url: &str, start_tls: bool) -> String {
    format!(
        "[[ldap]]\nid = \"{id}\"\nlabel = \"Directory {id}\"\nurl = \"{url}\"\nstart_tls = {start_tls}\nca_file = \"{}\"\nbind_dn = \"{}\"\n\
         bind_password = \"{}\"\nuser_base = \"{}\"\ngroup_base = \"{}\"\n",
        slapd.ca_file().display(),
        slapd.search_dn(),
        slapd.search_password(),
        slapd.user_base(),
        slapd.group_base()
    )
}

/// Registers a cluster that does not exist, and grants the group `shop-dev` of a provider the role `viewer` in one
/// namespace of it. Returns the id of the cluster.
pub(crate) async fn grant_to_group(admin: &Client, provider: &str) -> i64 {
    let cluster = json!({
        "name": format!("of-{provider}"), "auth_type": "token", "token": "of-nobody", "skip_test": true,
        "api_server": "https://192.0.2.1:6443",
    });
    let cluster =
        admin.post("/api/k8s/clusters", cluster).await.data()["cluster"]["id"].as_i64().expect("an id");
    let grant = json!({
        "subject": {"type": "group", "provider": provider, "name": "shop-dev"}, "role": "viewer",
        "clusters": {"ids": [cluster]}, "namespaces": ["shop"],
    });
    admin.post("/api/access/grants", grant).await.data();
    cluster
}

/// Reports whether the client's user has a right in a cluster.
pub(crate) async fn sees_cluster(client: &Client, cluster: i64) -> bool {
    client.rows("/api/k8s/clusters", "clusters").await.iter().any(|row| row["id"] == cluster)
}

/// Signs in at an OpenID provider; returns a client with the session.
pub(crate) async fn sign_in_openid(
    server: &Server,
    site: &Site,
    browser: &mut Browser,
    provider: &str,
    user: &str,
) -> Client {
    let callback = browser.reach_callback(&site.public_url, provider, user).await;
    let data = browser.finish(&site.public_url, provider, &callback).await.data();
    assert_eq!(data["user"]["username"], format!("{provider}:{user}"));
    server.client().with_session(&browser.session(&data))
}

/// Waits until a session is refused.
pub(crate) async fn until_signed_out(limit: Duration, client: &Client) {
    let refused = async || Some(client.get("/api/auth/me").await).filter(|response| response.status != 200);
    within(limit, "a refused session", refused).await.refused("AUTHENTICATION_ERROR");
}

/// The whole life of sessions at an OpenID provider: sign-in, rights by a group, attempts with another's code, refresh,
/// logout at the provider by the browser, and by the provider.
pub(crate) async fn check_openid_sessions<P: OidcServer>(
    site: &Site,
    server: &Server,
    id: &str,
    provider: &P,
) {
    let url = |path: &str| format!("{}/api/auth/{path}", site.public_url);
    let admin = server.admin().await;
    let cluster = grant_to_group(&admin, id).await;
    let providers = server.client().rows("/api/auth/providers", "providers").await;
    let row = providers.iter().find(|row| row["id"] == id).expect("the provider is listed");
    assert_eq!((&row["kind"], row["start_url"].is_string()), (&json!("oidc"), true), "{row}");
    let new_browser = || Browser::new(&[provider.ca_file()]);

    // the state of a sign-in is of one browser, and counts once
    let (mut mei, mut thief) = (new_browser(), new_browser());
    let callback = mei.reach_callback(&site.public_url, id, "mei").await;
    assert!(callback.headers["cache-control"].to_str().expect("a text header").contains("no-store"));
    assert_eq!(callback.headers["referrer-policy"], "no-referrer");
    thief.open_once(&url(&format!("oidc/{id}/start"))).await;
    assert_eq!(thief.finish(&site.public_url, id, &callback).await.status, 401, "another browser");
    assert_eq!(thief.cookie("session_id"), None);
    let data = mei.finish(&site.public_url, id, &callback).await.data();
    assert_eq!(mei.finish(&site.public_url, id, &callback).await.status, 401, "the second time");
    let user = &data["user"];
    assert_eq!((&user["username"], &user["role"]), (&json!(format!("{id}:mei")), &json!("none")));
    assert!(
        data["refresh_token"].is_null() && data["session_id"].is_null(),
        "the secrets are in cookies: {data}"
    );
    let client = server.client().with_session(&mei.session(&data));

    // rights are those of the groups of each person
    assert!(sees_cluster(&client, cluster).await);
    let mut tom = new_browser();
    let tom_client = sign_in_openid(server, site, &mut tom, id, "tom").await;
    assert!(!sees_cluster(&tom_client, cluster).await, "tom is in no group");

    // a refresh by the cookie
    let refreshed = mei.post(&url("refresh"), None).await.data();
    let client = server.client().with_session(&mei.session(&refreshed));
    assert_eq!(client.get("/api/auth/me").await.data()["user"]["username"], format!("{id}:mei"));

    // logout here, and at the provider
    let end = client.post("/api/auth/logout", json!({})).await.data()["end_session_url"].clone();
    client.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    let page = mei.open(end.as_str().expect("the provider has a logout page")).await;
    if page.text.contains("<form") {
        mei.submit(&page, &[]).await;
    }
    let page = mei.open(&url(&format!("oidc/{id}/start"))).await;
    assert!(
        page.text.contains("name=\"password\""),
        "the provider asks for the password again: {}",
        page.text
    );

    // logout by the provider; the other user's session stays
    let client = sign_in_openid(server, site, &mut mei, id, "mei").await;
    assert!(sees_cluster(&client, cluster).await);
    provider.end_sessions("mei").await.expect("a logout at the provider");
    until_signed_out(LOGOUT_DELAY, &client).await;
    assert_eq!(tom_client.get("/api/auth/me").await.status, 200);
    let logins = admin.operations("operation_type=login").await;
    let names: Vec<_> = logins.iter().map(|row| row["username"].clone()).collect();
    assert!(names.contains(&Value::from(format!("{id}:mei"))), "{names:?}");
}
