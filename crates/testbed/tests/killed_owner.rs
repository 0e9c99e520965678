//! What a SIGKILLed owner leaves behind: nothing.
#![allow(clippy::disallowed_methods, reason = "the owner is a process, told by the environment")]

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
fn a_control_plane_goes_with_its_owner() {
    assert!(goes_with_its_owner(&["up"]));
}

#[test]
fn a_node_goes_with_its_owner() {
    if !goes_with_its_owner(&["up", "--node"]) {
        assert!(std::env::var_os(pilothouse_testbed::REQUIRE_NODE).is_none(), "a node is required");
    }
}

#[test]
fn a_postgres_goes_with_its_owner() {
    if !goes_with_its_owner(&["postgres"]) {
        assert!(std::env::var_os(pilothouse_testbed::REQUIRE_POSTGRES).is_none(), "a PostgreSQL is required");
    }
}

/// False if this machine cannot run it.
fn goes_with_its_owner(arguments: &[&str]) -> bool {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_pilothouse-testbed"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the owner starts");
    let lines = BufReader::new(owner.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.starts_with("ready")).collect();
    let Some(folder) = lines.iter().find_map(|line| line.strip_prefix("folder ")) else {
        let mut said = String::new();
        owner.stderr.take().expect("stderr is piped").read_to_string(&mut said).expect("stderr is text");
        assert!(said.contains(" on this machine"), "{said}");
        let _ = writeln!(std::io::stderr(), "SKIPPED: {said}");
        let _ = owner.wait();
        return false;
    };
    let folder = PathBuf::from(folder.trim());
    let processes = processes_of(&folder);
    assert!(processes.len() >= 4, "{processes:?} run for {}", folder.display());
    // One of them cannot notice anything.
    let is_server = |command: &str| {
        command.contains("kube-apiserver")
            || command.split(' ').next().is_some_and(|it| it.ends_with("/postgres"))
    };
    let main = processes.iter().find(|pid| is_server(&command_line(**pid)));
    let main = Pid::from_raw(*main.expect("a server runs")).expect("a pid");
    kill_process(main, Signal::STOP).expect("it is ours");

    owner.kill().expect("it is ours");
    owner.wait().expect("it ends");
    let end = Instant::now() + Duration::from_secs(60);
    while folder.exists() || !processes_of(&folder).is_empty() {
        assert!(Instant::now() < end, "{} and {:?} are left", folder.display(), processes_of(&folder));
        sleep(Duration::from_millis(50));
    }
    true
}

/// Who has the folder on its command line or writes there; the dead whom nobody has waited for have neither.
fn processes_of(folder: &Path) -> Vec<i32> {
    let folder = folder.to_str().expect("a temporary folder has a plain name");
    let pids = fs::read_dir("/proc").expect("this is Linux").flatten();
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
