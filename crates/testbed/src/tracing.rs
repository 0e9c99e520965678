//! Whether this machine traces system calls.

use std::{
    env,
    process::{Command, Stdio},
};

use crate::{
    REQUIRE_STRACE,
    binaries::say,
    error::{Error, Result},
};

/// Whether `strace` traces a process here. Where it cannot, says so aloud and returns false, so that the test can be skipped,
/// unless `PILOTHOUSE_TEST_REQUIRE_STRACE` is set.
///
/// # Errors
/// [`Error::Program`] when it cannot and must.
pub fn can_trace_or_skip() -> Result<bool> {
    let mut trial = Command::new("strace");
    trial.args(["-D", "-f", "--seccomp-bpf", "-e", "trace=fsync", "-o", "/dev/null", "true"]);
    let why = match trial.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return Ok(true),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let why = format!("strace (Debian's package strace, and the right to use ptrace): {why}");
    if env::var_os(REQUIRE_STRACE).is_some_and(|value| !value.is_empty()) {
        return Err(Error::Program(why));
    }
    say(&format!("SKIPPED what needs {why}"));
    Ok(false)
}
