//! Running server: its process and its clients.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, Install, PASSWORD, eventually};

/// A running server. Dropping this value kills the process, and prints the log after a failed test.
pub(crate) struct Server {
    pub(super) process: Process,
    /// The install that the server runs with.
    pub(crate) install: Install,
    /// `http://127.0.0.1:…`
    pub(crate) address: String,
}

impl Server {
    /// Starts a server on a new install.
    pub(crate) async fn fresh() -> Self {
        Install::new().start().await
    }

    /// A client that is not signed in.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// A client that is signed in as the first admin.
    pub(crate) async fn admin(&self) -> Client {
        self.client().sign_in("admin", PASSWORD).await
    }

    /// A client of a new user with this role; the role is also the username.
    pub(crate) async fn user(&self, admin: &Client, role: &str) -> Client {
        admin.add_user(role, role).await;
        self.client().sign_in(role, PASSWORD).await
    }

    /// The path of a file of the process in `/proc`.
    fn proc_path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.process.0.id().to_string()).join(name)
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(self.proc_path("status")).expect("the process is running");
        let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
        held.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// The number of open file descriptors.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(self.proc_path("fd")).expect("the process is running").count()
    }

    /// Suspends the process; returns when none of its threads runs.
    pub(crate) async fn suspend(&self) {
        self.signal(Signal::STOP);
        eventually("a suspended process", async || {
            let mut threads = fs::read_dir(self.proc_path("task")).expect("the process is running").flatten();
            // "pid (name) state …"; the name may contain any characters, so the last bracket ends it
            let is_stopped =
                |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
            threads
                .all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(is_stopped))
                .then_some(())
        })
        .await;
    }

    /// Resumes the suspended process.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).expect("the process is running");
    }

    /// Peak resident memory in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))
            .expect("the process is running");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a VmHWM line");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Waits until the process has ended.
    pub(crate) async fn wait(self) -> (ExitStatus, Install) {
        let Self { mut process, install, .. } = self;
        let status = eventually("the end of the server", async || process.exit_status()).await;
        (status, install)
    }

    /// Ends the process with SIGTERM, and checks that it exits with status 0.
    pub(crate) async fn stop(self) -> Install {
        self.signal(Signal::TERM);
        let (status, install) = self.wait().await;
        assert_eq!(status.code(), Some(0), "{}", install.log());
        install
    }

    /// Ends the process with SIGKILL.
    pub(crate) async fn kill(self) -> Install {
        self.signal(Signal::KILL);
        self.wait().await.1
    }
}

/// The process of a server. Dropping this value kills the process.
pub(super) struct Process(pub(super) Child);

impl Process {
    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
