//! Process of an identity server.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    error::{Error, Result, io},
    folder::Folder,
    processes::tail,
};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A server process in a process group of its own. Its standard output and error are a log file in the folder, so that
/// the folder's reaper kills it if the owner process ends. Dropping this value kills the process group.
pub(super) struct Process {
    name: &'static str,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// A server that does not run yet.
    pub(super) fn new(name: &'static str, folder: &Folder) -> Self {
        Self { name, log: folder.path().join(name).with_extension("log"), child: Mutex::default() }
    }

    /// Starts the server with an empty log. Returns when the log contains `ready`.
    ///
    /// # Errors
    /// [`Error::IdentityUnavailable`] if the program is not installed, [`Error::Ended`] if the server ends, and
    /// [`Error::Deadline`] if it is not ready within `limit`.
    pub(super) fn start(&self, command: &mut Command, ready: &str, limit: Duration) -> Result<()> {
        let log = fs::File::create(&self.log).map_err(io(format!("creating the log of {}", self.name)))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io("duplicating the log file handle"))?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| Error::IdentityUnavailable(format!("starting {}: {error}", self.name)))?;
        *self.child() = Some(child);
        let end = Instant::now() + limit;
        while !self.log().contains(ready) {
            let ended = self.child().as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                return Err(Error::Ended { name: self.name.into(), log: tail(&self.log) });
            }
            if Instant::now() > end {
                let what = format!("a ready {}", self.name);
                return Err(Error::Deadline { what, waited: limit, last: tail(&self.log) });
            }
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Kills the process group, and waits for the process.
    pub(super) fn stop(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }

    /// The standard output and error since the last start.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a program that must succeed, with a message that names it.
///
/// # Errors
/// [`Error::IdentityUnavailable`] if the program is not installed or fails, with its output.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::IdentityUnavailable(format!("running {name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Err(Error::IdentityUnavailable(format!("{name} failed ({}): {text}", output.status)))
}
