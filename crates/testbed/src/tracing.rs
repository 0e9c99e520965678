//! Availability of system call tracing with `strace`.

use std::{
    env,
    process::{Command, Stdio},
};

use crate::{
    REQUIRE_STRACE,
    binaries::log_line,
    error::{Error, Result},
};

/// Whether `strace` can trace a process on this machine. If not, prints a message and returns false, so that the test
/// can be skipped.
///
/// # Errors
/// [`Error::Program`] when `strace` cannot trace a process and `PILOTHOUSE_TEST_REQUIRE_STRACE` is set.
pub fn can_trace_or_skip() -> Result<bool> {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "--seccomp-bpf", "-e", "trace=fsync", "-o", "/dev/null", "true"]);
    let reason = match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return Ok(true),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = format!("strace (Debian's package strace, and the right to use ptrace): {reason}");
    if env::var_os(REQUIRE_STRACE).is_some_and(|value| !value.is_empty()) {
        return Err(Error::Program(reason));
    }
    log_line(&format!("SKIPPED: requires {reason}"));
    Ok(false)
}
