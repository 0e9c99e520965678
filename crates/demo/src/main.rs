//! Launcher of `cargo demo`: builds the test bed's program `demo` and replaces itself with it.
//!
//! This package has no dependencies, and the build selects the whole workspace: Cargo resolves features for the
//! selected packages, and `cargo run -p pilothouse-testbed` would compile dependencies that the server then needs again
//! with more features.
#![allow(clippy::disallowed_methods, reason = "starts Cargo and the demo, and measures the time from here")]
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::{
    convert::Infallible,
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::{SystemTime, UNIX_EPOCH},
};

fn main() -> ExitCode {
    match launch() {
        Ok(never) => match never {},
        Err(message) => {
            eprintln!("demo: {message}");
            ExitCode::FAILURE
        }
    }
}

fn launch() -> Result<Infallible, String> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    println!("[  0 s] building the demo: cargo build --workspace --bin demo");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--workspace", "--bin", "demo"]).status();
    if !built.map_err(|error| format!("running cargo: {error}"))?.success() {
        return Err("the demo does not build; Cargo's messages are above".to_owned());
    }
    let program = env::current_exe().map_err(|error| format!("finding the path of this program: {error}"))?;
    let program = program.with_file_name("demo");
    let error = Command::new(&program)
        .args(["--started", &started.as_secs().to_string()])
        .args(env::args_os().skip(1))
        .exec();
    Err(format!("starting {}: {error}", program.display()))
}
