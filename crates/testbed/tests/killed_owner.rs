//! Tests that nothing remains after the owner process is killed with SIGKILL.
#![allow(clippy::disallowed_methods, reason = "the owner is a child process, found through the environment")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

#[test]
fn control_plane_ends_when_its_owner_is_killed() {
    assert!(ends_with_its_owner(&["up"]));
}

#[test]
fn node_ends_when_its_owner_is_killed() {
    if !ends_with_its_owner(&["up", "--node"]) {
        assert!(std::env::var_os(pilothouse_testbed::REQUIRE_NODE).is_none(), "a node is required");
    }
}

#[test]
fn postgres_ends_when_its_owner_is_killed() {
    if !ends_with_its_owner(&["postgres"]) {
        assert!(std::env::var_os(pilothouse_testbed::REQUIRE_POSTGRES).is_none(), "a PostgreSQL is required");
    }
}

/// Starts an owner process, kills it, and checks that its child processes and its directory are removed. Returns false
/// if this machine cannot run the children.
fn ends_with_its_owner(arguments: &[&str]) -> bool {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_pilothouse-testbed"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start of the owner");
    let lines = BufReader::new(owner.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.starts_with("ready")).collect();
    let Some(folder) = lines.iter().find_map(|line| line.strip_prefix("directory ")) else {
        let mut stderr = String::new();
        owner.stderr.take().expect("stderr is piped").read_to_string(&mut stderr).expect("UTF-8 on stderr");
        let status = owner.wait().expect("exit of the owner");
        assert_eq!(status.code(), Some(3), "{stderr}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {stderr}");
        return false;
    };
    let folder = PathBuf::from(folder.trim());
    let processes = processes_of(&folder);
    assert!(processes.len() >= 4, "{processes:?} run for {}", folder.display());
    // a suspended process cannot notice that its input closed
    let is_server = |command: &str| {
        command.contains("kube-apiserver")
            || command.split(' ').next().is_some_and(|program| program.ends_with("/postgres"))
    };
    let main = processes.iter().find(|pid| is_server(&command_line(**pid)));
    let main = Pid::from_raw(*main.expect("a server process")).expect("a pid");
    kill_process(main, Signal::STOP).expect("SIGSTOP to the server");

    owner.kill().expect("SIGKILL to the owner");
    owner.wait().expect("exit of the owner");
    let end = Instant::now() + Duration::from_secs(60);
    while folder.exists() || !processes_of(&folder).is_empty() {
        assert!(Instant::now() < end, "{} and {:?} are left", folder.display(), processes_of(&folder));
        sleep(Duration::from_millis(50));
    }
    true
}

/// Ids of the processes that have the directory on their command line or as standard output. Zombies have neither.
fn processes_of(folder: &Path) -> Vec<i32> {
    let folder = folder.to_str().expect("UTF-8 path");
    let pids = fs::read_dir("/proc").expect("procfs").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let output = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap_or_default();
            command_line(*pid).contains(folder) || output.starts_with(folder)
        })
        .collect()
}

fn command_line(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}
