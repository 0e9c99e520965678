//! Runs the example and compares its output.
#![allow(clippy::disallowed_methods, reason = "a test starts the example")]

use std::process::{Command, Output};

fn run(parameters: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_example-rows")).args(parameters).output().expect("example starts")
}

#[test]
fn example_queries_rows_before_and_after_a_change() {
    let output = run(&["state=ok", "sort=-free_gib", "per_page=2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).expect("UTF-8 output");
    let sda = r#"{"host":"db-1","name":"sda","free_gib":120,"state":"ok"}"#;
    let sdb = r#"{"host":"db-1","name":"sdb","free_gib":300,"state":"ok"}"#;
    let changed = format!(r#"changed: {sdb} to {{"host":"db-1","name":"sdb","free_gib":0,"state":"full"}}"#);
    let expected = [
        sdb,
        sda,
        "page 1 of 2, 3 rows match",
        changed.as_str(),
        sda,
        r#"{"host":"web-1","name":"sda","free_gib":80,"state":"ok"}"#,
        "page 1 of 1, 2 rows match",
        "full: 1",
    ];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn unknown_parameter_is_refused_by_name() {
    let output = run(&["colour=red"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("colour"), "{stderr}");
}
