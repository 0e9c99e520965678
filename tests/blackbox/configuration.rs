//! The `config` commands, and the log in JSON.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    start::refused_with_one_message,
    support::{Install, PASSWORD, register_cluster, shared_control_plane},
};

/// Runs a command that must succeed; returns its standard output.
fn run_ok(install: &Install, arguments: &[&str]) -> String {
    let output = install.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn config_commands_create_no_files() {
    let install = Install::new();
    for command in ["check", "show"] {
        run_ok(&install, &["config", command]);
        assert!(!install.data_dir().exists());
    }
    let server = install.start().await;
    // the server writes its checkpoints at any time
    let files = || {
        let files = server.install.data().into_iter().map(|(path, _)| path);
        files.filter(|path| !path.ends_with("audit-checkpoints.jsonl")).collect::<BTreeSet<_>>()
    };
    let before = files();
    run_ok(&server.install, &["config", "check"]);
    assert_eq!(files(), before, "also while a server runs");
}

#[tokio::test]
async fn config_show_output_starts_a_server_with_the_same_settings() {
    let install = Install::new().set("SESSION_IDLE", "7m").set("ADMIN_PASSWORD", PASSWORD);
    let shown = run_ok(&install, &["config", "show", "--listen", "127.0.0.1:0"]);
    assert!(!shown.contains(PASSWORD), "{shown}");
    let file = install.data_dir().with_file_name("shown.toml");
    fs::write(&file, &shown).unwrap();
    let file = file.to_str().unwrap();
    let install = ["SESSION_IDLE", "LISTEN", "DATA_DIR", "EGRESS_ALLOW_LOOPBACK", "PROBE_INTERVAL"]
        .into_iter()
        .fold(install, Install::unset);
    let shown_again = run_ok(&install, &["config", "show", "--config", file]);
    let values = |shown: &str| {
        shown.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(&shown_again), values(&shown));
    assert!(shown_again.contains("session_idle = \"7m\"  # file "), "{shown_again}");
    install.start_with(&["--config", file]).await.admin().await;
}

#[tokio::test]
async fn config_check_refuses_what_serve_refuses() {
    let refused = |install: &Install, expected: &str| {
        for command in [&["config", "check"][..], &["serve"]] {
            let sentence = refused_with_one_message(install, command);
            assert!(sentence.contains(expected), "{command:?}: {sentence}");
        }
    };
    refused(&Install::on_sqlite().set("LISTN", "127.0.0.1:1"), "PILOTHOUSE_LISTN");
    refused(&Install::on_sqlite().set("LOG", "a=b=c"), "`log`");
    refused(&Install::on_sqlite().set("ADMIN_PASSWORD", "short"), "admin_password");
    refused(&Install::on_sqlite().set("DATABASE_URL", "mysql://localhost"), "postgres://");
    refused(&Install::on_sqlite().set("DATA_DIR", env!("CARGO_BIN_EXE_pilothouse")), "data directory");

    let install = Install::on_sqlite();
    let key = install.data_dir().with_file_name("exposed.key");
    fs::write(&key, "0".repeat(64)).unwrap();
    refused(&install.set("KEY_FILE", key.to_str().unwrap()), "chmod 600");

    let install = Install::on_sqlite().start().await.stop().await;
    fs::remove_file(install.file("master.key")).unwrap();
    refused(&install, "restore it");
}

#[tokio::test]
async fn json_log_lines_are_objects_with_the_request_id() {
    let plane = shared_control_plane().await;
    let install = Install::on_sqlite().set("LOG_FORMAT", "json").set("LOG", "debug");
    let server = install.start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "logged", plane).await;
    let list = admin.get(format!("/api/k8s/namespaces?cluster_id={id}&search=canary-query")).await;
    let list = list.header("x-request-id").to_owned();
    let refused = server.client().get("/api/auth/me").await.header("x-request-id").to_owned();
    let log = server.stop().await.log();
    assert!(!log.contains("canary-query") && !log.contains(PASSWORD), "{log}");

    let lines = log.lines().filter(|line| !line.starts_with("pilothouse listening on "));
    let lines: Vec<Value> =
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let answered = |id: &str| {
        let of_request: Vec<_> = lines.iter().filter(|line| line["request_id"] == id).collect();
        let mut completed = of_request.into_iter().filter(|line| line["message"] == "request completed");
        let line = completed.next().unwrap_or_else(|| panic!("no line of {id} in {log}"));
        assert!(completed.next().is_none(), "one line per request");
        line.clone()
    };
    let line = answered(&list);
    assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/api/k8s/namespaces".into()));
    assert_eq!((&line["status"], &line["user_id"], &line["level"]), (&200.into(), &1.into(), &"INFO".into()));
    assert!(line["duration_ms"].is_u64() && line["timestamp"].is_string(), "{line}");
    let line = answered(&refused);
    assert_eq!((&line["status"], &line["user_id"]), (&401.into(), &Value::Null));
    for line in lines.iter().filter(|line| line["target"] == "pilothouse_http::middleware") {
        assert!(line["request_id"].is_string(), "{line}");
    }
    let starting = lines.iter().find(|line| line["database"].is_string()).unwrap();
    assert!(starting["database"].as_str().unwrap().ends_with("pilothouse.db"), "{starting}");
}

#[tokio::test]
async fn warning_has_the_request_id_when_only_warnings_are_logged() {
    let plane = shared_control_plane().await;
    for (format, id) in [("text", "request_id=\"traced\""), ("json", "\"request_id\":\"traced\"")] {
        let install = Install::new().set("LOG", "warn,pilothouse_dial=debug").set("LOG_FORMAT", format);
        let server = install.start().await;
        let admin = server.admin().await;
        let cluster = register_cluster(&admin, "traced", plane).await;
        let unreachable = serde_json::json!({
            "auth_type": "token", "token": "t", "api_server": "https://127.0.0.1:1",
        });
        admin
            .with_header("x-request-id", "traced")
            .post("/api/k8s/clusters/test", unreachable)
            .await
            .refused("CONNECTION_ERROR");
        admin.get(format!("/api/k8s/namespaces?cluster_id={cluster}")).await.data();
        let log = server.stop().await.log();
        assert!(log.lines().any(|line| line.contains("pilothouse_dial::dial") && line.contains(id)), "{log}");
        assert!(!log.contains("INFO"), "{log}");
    }
}

/// The client address is the last entry of the header, which the trusted proxy added; the client sent the first entry.
#[tokio::test]
async fn forwarded_address_counts_only_from_a_trusted_proxy() {
    for (trusted, source) in [(None, "127.0.0.1"), (Some("127.0.0.0/8, fd12:3456::/32"), "203.0.113.9")] {
        let install = Install::new();
        let install = match trusted {
            Some(networks) => install.set("TRUSTED_PROXIES", networks),
            None => install,
        };
        let server = install.start().await;
        let client = server.client().with_header("x-forwarded-for", "198.51.100.1, 203.0.113.9");
        let admin = client.sign_in("admin", PASSWORD).await;
        let sessions = admin.rows("/api/auth/sessions", "sessions").await;
        assert_eq!(sessions[0]["source_ip"], source);
        server.stop().await;
    }
}
