//! Build script: passes the commit of the source to the compiler as `SOURCE_COMMIT`, for `GET /api/version`.
//!
//! The commit is the environment variable `SOURCE_COMMIT` if it is set, and otherwise the commit that `git` has checked
//! out; uncommitted changes are not detected. Without both, as in an unpacked archive, it is empty.

#![allow(clippy::disallowed_methods, reason = "a build script reads its environment and runs git")]

use std::{env, path::Path, process::Command};

/// The folder of this script, in which Cargo runs it, within the repository.
const FOLDER: &str = "crates/server/";

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let given = env::var("SOURCE_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = &given {
        let is_id = (7..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_id, "SOURCE_COMMIT={commit} is not the hexadecimal id of a commit");
    }
    let commit = given.or_else(checked_out).unwrap_or_default();
    println!("cargo::rustc-env=SOURCE_COMMIT={commit}");
}

/// The commit that is checked out. `None` without `git` or outside of a checkout of this repository, also if the source
/// was unpacked within another one.
fn checked_out() -> Option<String> {
    let arguments = ["rev-parse", "--show-prefix", "HEAD", "--git-path", "logs/HEAD"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut lines = text.lines();
    let (folder, commit, log) = (lines.next()?, lines.next()?, lines.next()?);
    if !output.status.success() || folder != FOLDER {
        return None;
    }
    // git appends a line to this file when another commit is checked out; a file that does not exist would run this
    // script at every build
    if Path::new(log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    Some(commit.to_owned())
}
