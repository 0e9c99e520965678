//! Runs the example and compares its output.
#![allow(clippy::disallowed_methods, reason = "a test starts the example")]

use std::process::Command;

#[test]
fn example_registers_changes_lists_refuses_and_records() {
    let output = Command::new(env!("CARGO_BIN_EXE_example-in-memory")).output().expect("example starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).expect("UTF-8 output");
    let expected = [
        "registered toy town (v0.0.1-toy), Online",
        "made payments (Active)",
        "bob is refused: PERMISSION_DENIED: role_too_low",
        r#"namespace default: {"name":"default","status":"Active","level":"ok","reason":null,"resource_quota":null,"uid":"","labels":{},"created_at":null}"#,
        r#"namespace payments: {"name":"payments","status":"Active","level":"ok","reason":null,"resource_quota":null,"uid":"","labels":{},"created_at":null}"#,
        "audit 3: bob delete namespace payments -> failed",
        "audit 2: ann create namespace payments -> success",
        "audit 1: ann create cluster toy town -> success",
    ];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
}
