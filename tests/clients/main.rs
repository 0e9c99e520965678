//! Clients that other people wrote, against the built binary and a real cluster: one generated from the OpenAPI
//! document, and Schemathesis, which makes up requests from it and holds the answers against it.
//!
//! They are Python programs; `just clients` installs them and runs these tests, which are ignored otherwise.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "a test starts programs, and gives them their environment")]

#[path = "../blackbox/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "made for the black-box tests, which use all of it")]
mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use pilothouse_testbed::{ControlPlane, Folder, workloads};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, PASSWORD, Server, apply, cluster, light};

/// The folder of this file.
fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

/// One of the programs that `requirements.txt` names, where `just clients` has put them.
fn program(name: &str) -> Command {
    let folder =
        std::env::var_os("PILOTHOUSE_TEST_PYTHON").expect("the folder of the Python tools: just clients");
    Command::new(Path::new(&folder).join("bin").join(name))
}

/// Runs a program to its good end, and returns what it said.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A server with a cluster in which the document's examples exist.
async fn furnished() -> (ControlPlane, Server, Client, i64) {
    let plane = light().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "production", &plane).await;
    let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
    let port = json!([{"name": "http", "port": 80}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": port},
        "metadata": {"name": "web", "namespace": "shop"}});
    let objects: [Value; 8] = [
        workloads::namespace("shop"),
        workloads::namespace("retired"),
        workloads::deployment("shop", "web", 2),
        object("ConfigMap", "settings"),
        object("ConfigMap", "retired"),
        object("Secret", "settings"),
        object("Secret", "retired"),
        service,
    ];
    apply(&plane.client(), &objects).await;
    (plane, server, admin, id)
}

#[tokio::test]
#[ignore = "takes the Python tools that `just clients` installs"]
async fn a_client_generated_from_the_document_lists_workloads() {
    let (_plane, server, _, id) = furnished().await;
    let folder = Folder::create().expect("a temporary folder");
    let document = here().join("../../docs/openapi.json");
    run(program("openapi-python-client")
        .args(["generate", "--meta", "none", "--fail-on-warning", "--path"])
        .arg(document)
        .arg("--config")
        .arg(here().join("generator.yaml"))
        .arg("--output-path")
        .arg(folder.path().join("generated")));
    // every module of it, not only those that the program uses
    run(program("python").args(["-m", "compileall", "-q"]).arg(folder.path()));
    let said = run(program("python")
        .arg(here().join("list_workloads.py"))
        .args([&server.address, "admin", PASSWORD, &id.to_string(), "shop"])
        .env("PYTHONPATH", folder.path()));
    assert_eq!(said, "deployment web 2 True\n");
}

#[tokio::test]
#[ignore = "takes the Python tools that `just clients` installs"]
async fn schemathesis_finds_no_answer_outside_the_document_in_any_role() {
    let (plane, server, admin, id) = furnished().await;
    let mut runs = JoinSet::new();
    for role in ["viewer", "ops_admin", "super_admin"] {
        let session = server.user(&admin, role).await.session.expect("signed in");
        let mut command = program("schemathesis");
        command
            .arg("--config-file")
            .arg(here().join("schemathesis.toml"))
            .arg("run")
            .arg(format!("{}/api/openapi.json", server.address))
            .args(["--header", &format!("Authorization: Bearer {}", session.access_token)])
            .env("SCHEMATHESIS_HOOKS", here().join("hooks.py"))
            .env("PILOTHOUSE_SESSION", session.session_id)
            .env("PILOTHOUSE_CLUSTER", id.to_string())
            .env("PILOTHOUSE_API_SERVER", plane.server());
        runs.spawn_blocking(move || {
            // it keeps what it found where it runs
            let folder = Folder::create().expect("a temporary folder");
            println!("{role}:\n{}", run(command.current_dir(folder.path())));
        });
    }
    runs.join_all().await;
}
