//! Settings of identity providers: behaviour of `serve` and `config check`. No provider is reachable here.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    start::refused_with_one_message,
    support::{Install, PASSWORD},
};

const SECRET: &str = "canary of a provider";
const ISSUER: &str = "https://127.0.0.1:1/realms/corp";

/// A directory at a closed port, as a value of `PILOTHOUSE_LDAP`.
fn ldap(user_base: &str, password: &str) -> String {
    format!(
        "[{{id = \"directory\", label = \"Directory\", url = \"ldaps://127.0.0.1:1\", bind_dn = \"cn=search\", \
         user_base = \"{user_base}\", group_base = \"ou=groups\", {password}}}]"
    )
}

/// A provider at a closed port, as a value of `PILOTHOUSE_OIDC`.
fn oidc(issuer: &str) -> String {
    format!(
        "[{{id = \"corp\", label = \"Corp\", issuer = \"{issuer}\", client_id = \"pilothouse\", \
         client_secret = \"{SECRET}\"}}]"
    )
}

/// An install with both.
fn install() -> Install {
    Install::new()
        .set("PUBLIC_URL", "https://pilothouse.example.com")
        .set("OIDC", oidc(ISSUER))
        .set("LDAP", ldap("ou=people", &format!("bind_password = \"{SECRET}\"")))
}

#[tokio::test]
async fn local_users_sign_in_while_all_providers_are_away() {
    let server = install().start().await;
    let admin = server.admin().await;
    let providers = server.client().get("/api/auth/providers").await.data();
    let ids: Vec<_> =
        providers["providers"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["local", "corp", "directory"]);
    let recorded = admin.recorded_responses() + &server.stop().await.log();
    assert!(!recorded.contains(SECRET) && !recorded.contains(PASSWORD));
}

/// A server on loopback can be behind a proxy that serves HTTPS.
#[tokio::test]
async fn cookies_are_secure_if_browsers_reach_the_server_by_https() {
    for (public_url, is_secure) in
        [("https://pilothouse.example.com", true), ("http://127.0.0.1:8080", false)]
    {
        let server = Install::new().set("PUBLIC_URL", public_url).start().await;
        let login = server.client().try_sign_in("admin", PASSWORD).await;
        let cookie = login.header("set-cookie").to_owned();
        assert_eq!(cookie.split("; ").any(|attribute| attribute == "Secure"), is_secure, "{cookie}");
        server.stop().await;
    }
}

#[tokio::test]
async fn id_of_a_provider_is_bound_to_its_issuer_or_base() {
    let directory = |base| ldap(base, &format!("bind_password = \"{SECRET}\""));
    let mut install = install().start().await.stop().await;
    for (setting, bound, other, id) in [
        ("OIDC", oidc(ISSUER), oidc("https://127.0.0.1:1/realms/other"), "corp"),
        ("LDAP", directory("ou=people"), directory("ou=others"), "directory"),
    ] {
        install = install.set(setting, other);
        let message = refused_with_one_message(&install, &["serve"]);
        assert!(message.contains(id) && !message.contains(SECRET), "{message}");
        install = install.set(setting, bound);
    }
    install.start().await.admin().await;
}

#[tokio::test]
async fn config_check_names_every_provider_that_does_not_answer() {
    let message = refused_with_one_message(&install(), &["config", "check"]);
    assert!(message.contains("`corp`") && message.contains("`directory`"), "{message}");
    assert!(!message.contains(SECRET), "{message}");
}

#[tokio::test]
async fn secret_of_a_provider_in_a_file_that_others_can_read_is_refused() {
    let install = Install::new();
    let file = install.folder().join("password");
    fs::write(&file, SECRET).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let password = format!("bind_password_file = \"{}\"", file.display());
    let install = install.set("LDAP", ldap("ou=people", &password));
    for command in [&["config", "check"][..], &["serve"]] {
        let message = refused_with_one_message(&install, command);
        assert!(message.contains("chmod 600") && !message.contains(SECRET), "{message}");
    }
}
