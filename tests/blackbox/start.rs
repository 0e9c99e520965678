//! The first start, later starts, and refused starts.

use std::fs;

use serde_json::json;

use crate::support::{Install, PASSWORD, Server, mode, register_cluster, shared_control_plane};

#[tokio::test]
async fn first_start_writes_a_random_password_to_a_file() {
    let server = Install::new().unset("ADMIN_PASSWORD").start().await;
    let file = server.install.file("initial-admin-password");
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&server.install.file("master.key")), 0o600);
    assert_eq!(mode(&server.install.data_dir()), 0o700);
    let password = fs::read_to_string(&file).unwrap().trim().to_owned();
    let log = server.install.log();
    assert!(log.contains(file.to_str().unwrap()), "the log names the file: {log}");
    assert!(!log.contains(&password), "the log does not contain the password: {log}");

    let admin = server.client().sign_in("admin", &password).await;
    let me = admin.get("/api/auth/me").await.data();
    assert_eq!((&me["user"]["username"], &me["user"]["role"]), (&json!("admin"), &json!("super_admin")));
    let change = json!({"old_password": password, "new_password": PASSWORD});
    admin.post("/api/auth/password", change).await.data();
    assert!(!file.exists(), "the file is removed after the password change");
    server.client().try_sign_in("admin", &password).await.refused("AUTHENTICATION_ERROR");

    let server = server.stop().await.start().await;
    assert!(!file.exists(), "a later start creates no other file");
    server.client().sign_in("admin", PASSWORD).await;
    server.stop().await;
}

#[tokio::test]
async fn two_installs_share_no_password_and_no_key() {
    let read = async || {
        let install = Install::new().unset("ADMIN_PASSWORD").start().await.stop().await;
        ["initial-admin-password", "master.key"].map(|name| fs::read(install.file(name)).unwrap())
    };
    let ([password, key], [other_password, other_key]) = tokio::join!(read(), read());
    assert_ne!(password, other_password);
    assert_ne!(key, other_key);
}

#[tokio::test]
async fn configured_password_applies_to_the_first_start_only() {
    let install = Server::fresh().await.stop().await;
    assert!(!install.file("initial-admin-password").exists());
    let server = install.set("ADMIN_PASSWORD", "another password").start().await;
    server.client().try_sign_in("admin", "another password").await.refused("AUTHENTICATION_ERROR");
    server.admin().await;
}

#[tokio::test]
async fn restart_keeps_users_clusters_sessions_and_credentials() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "kept", plane).await;
    let viewer = server.user(&admin, "viewer").await;

    let server = server.stop().await.start().await;
    let mut restarted_client = server.client();
    restarted_client.session = viewer.session;
    assert_eq!(restarted_client.get("/api/auth/me").await.data()["user"]["username"], "viewer");
    let rows = restarted_client.rows("/api/k8s/clusters", "clusters").await;
    assert_eq!((rows.len(), &rows[0]["id"], &rows[0]["name"]), (1, &json!(id), &json!("kept")));
    let path = format!("/api/k8s/namespaces?cluster_id={id}");
    assert!(!restarted_client.rows(&path, "namespaces").await.is_empty(), "the credential can be decrypted");
}

#[tokio::test]
async fn database_is_refused_without_its_key() {
    let install = Server::fresh().await.stop().await;
    let file = install.file("master.key");
    let key = fs::read(&file).unwrap();

    fs::remove_file(&file).unwrap();
    refused_with_one_message(&install, &["serve"]);
    assert!(!file.exists(), "no key is created");

    let other = Server::fresh().await.stop().await;
    fs::copy(other.file("master.key"), &file).unwrap();
    let copied = fs::read(&file).unwrap();
    refused_with_one_message(&install, &["serve"]);
    refused_with_one_message(&install, &["user", "list"]);
    assert_eq!(fs::read(&file).unwrap(), copied, "the key is not replaced");

    fs::write(&file, key).unwrap();
    install.start().await.admin().await;
}

#[tokio::test]
async fn flags_override_environment_and_environment_overrides_file() {
    let install = Install::on_sqlite().unset("DATA_DIR").unset("ADMIN_PASSWORD");
    let folder = install.data_dir();
    let config = folder.with_file_name("settings.toml");
    let (from_file, from_flag) = (folder.with_file_name("from-file"), folder.with_file_name("from-flag"));
    let text = format!("data_dir = {from_file:?}\nlisten = \"127.0.0.1:1\"\nadmin_password = {PASSWORD:?}\n");
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();

    // the port of the environment overrides the file's
    let server = install.start_with(&["--config", config]).await;
    server.admin().await;
    assert!(from_file.join("master.key").exists());
    let flags = ["--config", config, "--data-dir", from_flag.to_str().unwrap()];
    let server = server.stop().await.start_with(&flags).await;
    server.admin().await;
    assert!(from_flag.join("master.key").exists());
}

#[tokio::test]
async fn unusable_settings_are_refused_with_one_message() {
    let occupied = Server::fresh().await;
    let address = occupied.address.strip_prefix("http://").unwrap();
    refused_with_one_message(&Install::new().set("LISTEN", "nowhere"), &["serve"]);
    refused_with_one_message(&Install::new().set("LISTEN", address), &["serve"]);
    refused_with_one_message(&Install::new().set("PROBE_INTERVAL", "soon"), &["serve"]);
    refused_with_one_message(&Install::new().set("KEY_FILE", "/proc/no-such-key"), &["serve"]);
    refused_with_one_message(&Install::new().set("DATA_DIR", "/proc/no-such-folder"), &["serve"]);
    refused_with_one_message(&Install::new(), &["serve", "--config", "no-such-file.toml"]);

    let install = Install::new();
    let config = install.data_dir().with_file_name("settings.toml");
    fs::write(&config, "colour = \"blue\"\n").unwrap();
    let stderr = refused_with_one_message(&install, &["serve", "--config", config.to_str().unwrap()]);
    assert!(stderr.contains("colour"), "{stderr}");

    let short = Install::new().set("ADMIN_PASSWORD", "qwertz");
    let stderr = refused_with_one_message(&short, &["serve"]);
    assert!(!stderr.contains("qwertz"), "a refused password is not printed: {stderr}");
}

#[tokio::test]
async fn health_version_and_api_document_need_no_session() {
    let server = Server::fresh().await;
    let client = server.client();
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 200);
    let commit = Some(env!("SOURCE_COMMIT")).filter(|commit| !commit.is_empty());
    assert_eq!(
        client.get("/api/version").await.data(),
        json!({"version": env!("CARGO_PKG_VERSION"), "commit": commit, "console": null})
    );
    let document = client.get("/api/openapi.json").await;
    assert_eq!(document.status, 200);
    assert!(document.body["paths"]["/api/k8s/workloads/scale"]["post"].is_object());
    client.get("/api/k8s/clusters").await.refused("AUTHENTICATION_ERROR");
    client.get("/api/no/such/path").await.refused("RESOURCE_NOT_FOUND");
}

/// Runs a command that must exit with code 2 and one line on standard error; returns standard error.
pub(crate) fn refused_with_one_message(install: &Install, arguments: &[&str]) -> String {
    let output = install.run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(output.stdout, b"", "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("pilothouse: ")).count(), 1, "{stderr}");
    stderr
}
