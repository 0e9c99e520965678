//! The commands `token` and `login`, beside a running server.

use std::{process::Output, time::Duration};

use crate::support::{Install, PASSWORD, mode, until_signed_out};

/// The standard output of a command that must succeed.
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn token_command_makes_lists_and_revokes_tokens_beside_a_running_server() {
    let server = Install::new().start().await;
    let admin = server.admin().await;
    admin.add_user("ann", "viewer").await;
    let create =
        ["token", "create", "nightly", "--user", "ann", "--expires-in-days", "1", "--role", "viewer"];
    let created = stdout(&server.install.run(&create));
    let secret = created.split_whitespace().find(|word| word.starts_with("php_")).expect("a token");
    let client = server.client().with_token(secret);
    assert_eq!(client.get("/api/auth/me").await.data()["user"]["username"], "ann");
    let listed = stdout(&server.install.run(&["token", "list"]));
    let row = listed.lines().find(|line| line.contains("nightly")).expect("a row");
    assert!(row.contains("ann") && !listed.contains(secret), "{listed}");
    let id = row.split_whitespace().next().unwrap();
    stdout(&server.install.run(&["token", "revoke", id]));
    until_signed_out(Duration::from_secs(1), &client).await;
    let unknown = server.install.run(&["token", "create", "nightly", "--user", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", String::from_utf8_lossy(&unknown.stderr));
    let rows = admin.operations("operation_type=create&resource_type=token").await;
    assert!(rows[0]["username"].as_str().is_some_and(|name| name.contains("tester")), "{rows:?}");
}

#[tokio::test]
async fn login_command_keeps_a_session_or_a_token_in_a_private_file() {
    let install = Install::new();
    let home = install.folder().join("home");
    let install = install.env("HOME", home.to_str().unwrap());
    let server = install.start().await;
    let admin = server.admin().await;
    admin.add_user("ann", "viewer").await;
    let file = home.join(".config/pilothouse/login.json");
    let stored = || std::fs::read_to_string(&file).unwrap_or_default();

    let wrong = server.install.run_with(&["login", "--server", &server.address], "ann\nnot the password\n");
    assert!(!wrong.status.success() && !file.exists(), "a refused login leaves no file");
    let by_password =
        server.install.run_with(&["login", "--server", &server.address], &format!("ann\n{PASSWORD}\n"));
    let shown = stdout(&by_password);
    assert!(stored().contains("session_id") && mode(&file) == 0o600);
    let (_, secret) = admin.create_token("of the command", serde_json::json!({})).await;
    // the server is that of the last login
    let by_token = server.install.run_with(&["login", "--token"], &format!("{secret}\n"));
    let shown = shown + &stdout(&by_token);
    assert!(stored().contains(&secret) && !stored().contains("session_id") && mode(&file) == 0o600);
    let errors = [wrong.stderr, by_password.stderr, by_token.stderr].concat();
    for hidden in [PASSWORD, &secret] {
        assert!(!shown.contains(hidden) && !String::from_utf8_lossy(&errors).contains(hidden));
    }
    let refused =
        server.install.run_with(&["login", "--token"], "php_000000000000000000000000000000000000\n");
    assert!(!refused.status.success() && stored().contains(&secret), "a refused token replaces nothing");
}
