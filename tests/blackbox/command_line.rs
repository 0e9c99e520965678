//! `pilothouse user …`, `pilothouse grant …` and `pilothouse token …` while a server runs.

use serde_json::json;

use crate::support::{PASSWORD, Server, eventually};

#[tokio::test]
async fn user_commands_apply_to_a_running_server() {
    let server = Server::fresh().await;
    let install = &server.install;
    let password = |output: std::process::Output| {
        let output_text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output_text
            .lines()
            .find_map(|line| line.strip_prefix("password: ").map(str::to_owned))
            .expect("a password")
    };

    let random = password(install.run(&["user", "add", "grace", "--role", "ops_admin"]));
    let grace = server.client().sign_in("grace", &random).await;
    assert_eq!(grace.get("/api/auth/me").await.data()["user"]["role"], "ops_admin");

    let given = install.run_with(&["user", "add", "heidi", "--role", "viewer", "--password-stdin"], PASSWORD);
    assert!(given.status.success());
    let heidi = server.client().sign_in("heidi", PASSWORD).await;
    let list = String::from_utf8(install.run(&["user", "list"]).stdout).unwrap();
    assert!(["admin", "grace", "heidi"].iter().all(|name| list.contains(name)), "{list}");

    // The running server applies the change: grace's sessions end with her old password.
    let reset = password(install.run(&["user", "reset-password", "grace"]));
    eventually("the end of grace's session", async || {
        (grace.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    server.client().try_sign_in("grace", &random).await.refused("AUTHENTICATION_ERROR");
    server.client().sign_in("grace", &reset).await;

    assert!(install.run(&["user", "disable", "heidi"]).status.success());
    eventually("the end of heidi's session", async || {
        (heidi.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    server.client().try_sign_in("heidi", PASSWORD).await.refused("AUTHENTICATION_ERROR");

    let admin = server.admin().await;
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    let operations = admin.operations(format!("resource_type=user&username=cli:{}", user.trim())).await;
    let recorded: Vec<_> =
        operations.iter().map(|row| (&row["operation_type"], &row["resource_name"])).collect();
    for (operation, name) in
        [("create", "grace"), ("create", "heidi"), ("reset_password", "grace"), ("update", "heidi")]
    {
        assert!(recorded.contains(&(&json!(operation), &json!(name))), "{operation} {name}: {recorded:?}");
    }
}

#[tokio::test]
async fn grant_commands_apply_to_a_running_server() {
    let server = Server::fresh().await;
    let install = &server.install;
    let run = |arguments: &[&str]| {
        let output = install.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let added = install.run_with(&["user", "add", "judy", "--role", "none", "--password-stdin"], PASSWORD);
    assert!(added.status.success());
    let judy = server.client().sign_in("judy", PASSWORD).await;
    let roles = async || {
        let mine = judy.get("/api/access/mine").await.data();
        mine["rights"].as_array().unwrap().iter().map(|right| right["role"].clone()).collect::<Vec<_>>()
    };
    assert!(roles().await.is_empty());

    let made = run(&[
        "grant",
        "add",
        "judy",
        "--role",
        "editor",
        "--clusters",
        "all",
        "--namespaces",
        "shop-*,bank",
    ]);
    let (first, warning) = made.split_once('\n').unwrap();
    let id = first.strip_prefix("made grant ").expect("an id");
    assert!(warning.starts_with("warning: ") && warning.contains("through pods"), "{warning}");
    assert_eq!(roles().await, ["editor"]);
    let list = run(&["grant", "list"]);
    assert!(["judy", "editor", "bank,shop-*"].iter().all(|text| list.contains(text)), "{list}");
    run(&["grant", "revoke", id, "--reason", "left the team"]);
    assert!(roles().await.is_empty());
    assert!(!run(&["grant", "list"]).contains("judy"));

    let later =
        ["--role", "viewer", "--clusters", "all", "--whole-cluster", "--from", "2099-01-01T00:00:00Z"];
    run(&[&["grant", "add", "judy"][..], &later].concat());
    assert!(roles().await.is_empty(), "it has not begun");
    assert!(run(&["grant", "list"]).contains("judy"));
}

#[tokio::test]
async fn token_commands_apply_to_a_running_server() {
    let server = Server::fresh().await;
    let install = &server.install;
    let run = |arguments: &[&str]| {
        let output = install.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ceiling = ["--role", "viewer", "--namespaces", "shop-*", "--networks", "127.0.0.0/8"];
    let made = run(&[&["token", "create", "laptop", "--user", "admin"][..], &ceiling].concat());
    let (first, second) = made.split_once('\n').unwrap();
    let id = first.strip_prefix("made token ").and_then(|rest| rest.split_once(',')).expect("an id").0;
    let secret = second.trim_end().strip_prefix("token: ").expect("a token");
    assert!(secret.starts_with("php_") && secret.len() == 40, "{secret}");

    let program = server.client().with_header("authorization", &format!("Bearer {secret}"));
    assert_eq!(program.get("/api/auth/me").await.data()["user"]["username"], "admin");
    program.get("/api/auth/users").await.refused("PERMISSION_DENIED");
    let list = run(&["token", "list"]);
    assert!(
        ["laptop", "admin", "viewer", "shop-*", "127.0.0.0/8"].iter().all(|text| list.contains(text)),
        "{list}"
    );
    assert!(!list.contains(secret), "{list}");

    run(&["token", "revoke", id]);
    eventually("the end of the token", async || {
        (program.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    assert!(!run(&["token", "list"]).contains("laptop"));
    let admin = server.admin().await;
    let recorded = admin.operations("resource_type=token").await;
    let recorded: Vec<_> =
        recorded.iter().map(|row| (&row["operation_type"], &row["resource_name"])).collect();
    for operation in ["create", "revoke"] {
        assert!(recorded.contains(&(&json!(operation), &json!("laptop"))), "{operation}: {recorded:?}");
    }
}

#[tokio::test]
async fn token_command_makes_tokens_of_service_accounts() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let owner = admin.get("/api/auth/me").await.data()["user"]["id"].clone();
    let account = json!({"name": "deploy", "description": "the pipeline", "owner_user_id": owner});
    admin.post("/api/auth/service-accounts", account).await.data();
    let made = server.install.run(&["token", "create", "pipeline", "--service-account", "deploy"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    let secret = made.lines().find_map(|line| line.strip_prefix("token: ")).expect("a token");
    let program = server.client().with_header("authorization", &format!("Bearer {secret}"));
    let me = program.get("/api/auth/me").await.data();
    assert_eq!((&me["service_account"]["name"], &me["session"]), (&json!("deploy"), &json!(null)));
    let list = String::from_utf8(server.install.run(&["token", "list"]).stdout).unwrap();
    assert!(list.contains("sa:deploy"), "{list}");

    let scope = ["--role", "viewer", "--clusters", "all", "--namespaces", "shop"];
    let granted = server.install.run(&[&["grant", "add", "sa:deploy"][..], &scope].concat());
    assert!(granted.status.success(), "{}", String::from_utf8_lossy(&granted.stderr));
    let rights = program.get("/api/access/mine").await.data()["rights"].clone();
    assert_eq!(rights.as_array().unwrap().len(), 1, "{rights}");
}

#[tokio::test]
async fn reset_second_factor_refuses_users_without_one() {
    let install = Server::fresh().await.stop().await;
    for user in ["admin", "nobody", "corp:nobody"] {
        let output = install.run(&["user", "reset-second-factor", user]);
        assert_eq!(output.status.code(), Some(2), "{user}");
    }
}

#[tokio::test]
async fn refused_user_commands_exit_with_2_and_one_message() {
    let install = Server::fresh().await.stop().await;
    for (arguments, input) in [
        (&["user", "disable", "nobody"][..], ""),
        (&["user", "disable", "admin"], ""), // the last super admin
        (&["user", "add", "admin", "--role", "viewer"], ""),
        (&["user", "add", "ivan", "--role", "king"], ""),
        (&["user", "add", "ivan", "--role", "viewer", "--password-stdin"], "short"),
        (&["grant", "add", "nobody", "--role", "viewer", "--clusters", "all", "--whole-cluster"], ""),
        (&["grant", "add", "admin", "--role", "absent", "--clusters", "all", "--whole-cluster"], ""),
        (&["grant", "add", "admin", "--role", "viewer", "--clusters", "x!=y", "--namespaces", "a"], ""),
        (
            &[
                "grant",
                "add",
                "admin",
                "--role",
                "viewer",
                "--clusters",
                "all",
                "--whole-cluster",
                "--from",
                "noon",
            ],
            "",
        ),
        (&["grant", "revoke", "999999"], ""),
        (&["token", "create", "x", "--user", "nobody"], ""),
        (&["token", "create", "x", "--service-account", "nobody"], ""),
        (&["token", "create", "x", "--user", "admin", "--expires-in-days", "366"], ""),
        (&["token", "create", "x", "--user", "admin", "--role", "absent"], ""),
        (&["token", "create", "x", "--user", "admin", "--networks", "office"], ""),
        (&["token", "revoke", "999999"], ""),
    ] {
        let output = install.run_with(arguments, input);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let output_text = String::from_utf8(output.stderr).unwrap();
        assert!(
            output_text.starts_with("pilothouse: ") && !output_text.contains("_ERROR"),
            "{arguments:?}: {output_text}"
        );
    }
    install.start().await.admin().await;
}
