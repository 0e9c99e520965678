//! Runs the example and compares its output.
#![allow(clippy::disallowed_methods, reason = "a test starts the example")]

use std::process::Command;

#[test]
fn example_permits_refuses_and_records() {
    let output = Command::new(env!("CARGO_BIN_EXE_example-gate")).output().expect("example starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).expect("UTF-8 output");
    let expected = [
        "audit: ann scale deployment web: pending",
        "audit: replicas=5: success",
        "ann scaled web to 5",
        "audit: bob scale deployment web: failed",
        "bob is refused: PERMISSION_DENIED: role_too_low",
        r#"bob reads {"web": 5}"#,
    ];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
}
