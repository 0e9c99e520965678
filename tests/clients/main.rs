//! Third-party clients against the built binary and a real cluster: a client generated from the OpenAPI document, and
//! Schemathesis, which generates requests from the document and validates the responses.
//!
//! Both clients are Python programs. `just clients` installs them and runs these tests, which are ignored otherwise.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and set their environment")]

#[path = "../blackbox/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the black-box tests, which use all of it")]
mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use pilothouse_testbed::{ControlPlane, Folder, workloads};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, PASSWORD, Server, apply, control_plane, register_cluster};

/// The folder of this file.
fn test_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

/// A program of `requirements.txt` in the folder where `just clients` installs it.
fn program(name: &str) -> Command {
    let folder = std::env::var_os("PILOTHOUSE_TEST_PYTHON")
        .expect("PILOTHOUSE_TEST_PYTHON is the folder of the Python tools; run `just clients`");
    Command::new(Path::new(&folder).join("bin").join(name))
}

/// Runs a program that must succeed; returns its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// A server with a registered cluster that contains the objects in the document's examples.
async fn fixture() -> (ControlPlane, Server, Client, i64) {
    let plane = control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "production", &plane).await;
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
#[ignore = "needs the Python tools that `just clients` installs"]
async fn generated_client_lists_workloads() {
    let (_plane, server, _, id) = fixture().await;
    let folder = Folder::create().expect("a temporary folder");
    let document = test_folder().join("../../docs/openapi.json");
    run(program("openapi-python-client")
        .args(["generate", "--meta", "none", "--fail-on-warning", "--path"])
        .arg(document)
        .arg("--config")
        .arg(test_folder().join("generator.yaml"))
        .arg("--output-path")
        .arg(folder.path().join("generated")));
    // checks all generated modules, not only those that the program uses
    run(program("python").args(["-m", "compileall", "-q"]).arg(folder.path()));
    let stdout = run(program("python")
        .arg(test_folder().join("list_workloads.py"))
        .args([&server.address, "admin", PASSWORD, &id.to_string(), "shop"])
        .env("PYTHONPATH", folder.path()));
    assert_eq!(stdout, "deployment web 2 True\n");
}

#[tokio::test]
#[ignore = "needs the Python tools that `just clients` installs"]
async fn schemathesis_finds_no_undocumented_response_in_any_role() {
    let (plane, server, admin, id) = fixture().await;
    let mut runs = JoinSet::new();
    for role in ["viewer", "ops_admin", "super_admin"] {
        let session = server.user(&admin, role).await.session.expect("signed in");
        let mut command = program("schemathesis");
        command
            .arg("--config-file")
            .arg(test_folder().join("schemathesis.toml"))
            .arg("run")
            .arg(format!("{}/api/openapi.json", server.address))
            .args(["--header", &format!("Authorization: Bearer {}", session.access_token)])
            .env("SCHEMATHESIS_HOOKS", test_folder().join("hooks.py"))
            .env("PILOTHOUSE_SESSION", session.session_id)
            .env("PILOTHOUSE_CLUSTER", id.to_string())
            .env("PILOTHOUSE_API_SERVER", plane.server());
        runs.spawn_blocking(move || {
            // Schemathesis writes its results to the working directory
            let folder = Folder::create().expect("a temporary folder");
            println!("{role}:\n{}", run(command.current_dir(folder.path())));
        });
    }
    runs.join_all().await;
}
