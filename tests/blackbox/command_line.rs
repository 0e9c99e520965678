//! `pilothouse user …` and `pilothouse grant …` while a server runs.

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
