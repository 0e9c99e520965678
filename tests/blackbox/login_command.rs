//! `pilothouse login`, which keeps credentials in a file.

use std::{fs, path::PathBuf, process::Output};

use serde_json::{Value, json};

use crate::support::{Install, PASSWORD, Session, mode};

/// An install whose commands have a home directory of their own.
fn install() -> Install {
    let install = Install::new();
    let home = install.folder().join("home");
    fs::create_dir(&home).expect("a folder");
    install.env("HOME", home.to_str().expect("UTF-8"))
}

fn file(install: &Install) -> PathBuf {
    install.folder().join("home/.config/pilothouse/login.json")
}

fn content(install: &Install) -> Value {
    serde_json::from_slice(&fs::read(file(install)).expect("a file")).expect("JSON")
}

/// Asserts that a command failed with one message, which it returns.
fn refused(output: &Output) -> String {
    let message = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{message}");
    message
}

#[tokio::test]
async fn login_keeps_a_session_in_a_private_file() {
    let server = install().start().await;
    let (install, address) = (&server.install, server.address.as_str());
    let output = install.run_with(&["login", "--server", address], &format!("admin\n{PASSWORD}\n"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = format!("{output:?}");
    assert!(shown.contains("as admin") && !shown.contains(PASSWORD), "{shown}");
    assert_eq!((mode(&file(install)), mode(file(install).parent().unwrap())), (0o600, 0o700));
    let stored = content(install);
    assert_eq!((&stored["server"], &stored["ca_file"]), (&json!(address), &Value::Null));
    let session = Session::from_data(&stored["session"]);
    let client = server.client().with_session(&session);
    assert_eq!(client.get("/api/auth/me").await.data()["user"]["username"], "admin");

    // the file of the last login has the server
    let again = install.run_with(&["login"], &format!("admin\n{PASSWORD}\n"));
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_ne!(content(install)["session"], stored["session"]);
}

#[tokio::test]
async fn refused_login_keeps_the_file_of_the_last_one() {
    let server = install().start().await;
    let (install, address) = (&server.install, server.address.as_str());
    assert!(
        install.run_with(&["login", "--server", address], &format!("admin\n{PASSWORD}\n")).status.success()
    );
    let stored = content(install);
    let token = format!("php_{}", "0".repeat(36));
    for (arguments, input) in [
        (&["login"][..], "admin\nnot the password\n"),
        (&["login"], "admin\n"),
        (&["login"], ""),
        (&["login", "--token"], &token),
        (&["login", "--token"], "not\ta token"),
        (&["login", "--server", "http://pilothouse.example.com"], "admin\n"),
        (&["login", "--server", "https://127.0.0.1:1/path"], "admin\n"),
        (&["login", "--server", "http://127.0.0.1:1"], "admin\npassword\n"),
        (&["login", "--ca-file", "/nowhere"], "admin\n"),
        (&["login", "--token", "--provider", "corp"], ""),
    ] {
        let message = refused(&install.run_with(arguments, input));
        assert!(!message.contains("not the password") && !message.contains(&token), "{message}");
        assert_eq!(content(install), stored, "{arguments:?}");
    }
}

#[tokio::test]
async fn login_keeps_an_api_token() {
    let server = install().start().await;
    let (install, address) = (&server.install, server.address.as_str());
    let body = json!({"name": "laptop", "expires_in_days": 1});
    let made = server.admin().await.post("/api/auth/tokens", body).await.data();
    let secret = made["secret"].as_str().expect("a secret");
    let output = install.run_with(&["login", "--server", address, "--token"], secret);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!format!("{output:?}").contains(secret));
    let stored = content(install);
    assert_eq!((&stored["token"], &stored["session"]), (&json!(secret), &Value::Null));
    assert_eq!(mode(&file(install)), 0o600);
}
