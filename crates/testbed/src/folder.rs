//! A folder that is gone when its owner is, and with it everything that runs in it.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::error::{Result, io};

/// Waits for its input to close, which the kernel does however the owner ends; then sweeps the folder. What still
/// writes a log there is ended first: a stopped process cannot see its own input close, and the programs of
/// KUBEBUILDER_ASSETS don't look. A node (see node-up.sh) has its own way to end, and is waited for.
const REAPER: &str = r#"
cat > /dev/null
for process in /proc/[0-9]*; do
    case $(readlink "$process/fd/1") in "$1"/*.log) kill -9 "${process#/proc/}" ;; esac
done
n=0
while [ $n -lt 300 ] && ls "$1"/*/running; do sleep 0.1; n=$((n + 1)); done
while [ $n -lt 400 ] && ! rm -rf "$1"; do sleep 0.1; n=$((n + 1)); done
"#;

/// A temporary folder that goes with its owner, however that ends, and takes with it every process whose standard
/// output is a file there that ends in `.log`.
pub struct Folder {
    path: PathBuf,
    reaper: Child,
}

impl Folder {
    /// A new one.
    pub fn create() -> Result<Self> {
        let creating = || io("creating a temporary folder");
        let parent = env::temp_dir().canonicalize().map_err(creating())?;
        let folder = tempfile::Builder::new().prefix("pilothouse-").tempdir_in(parent).map_err(creating())?;
        // A group of its own: a Ctrl-C in the terminal is for the owner, not for who cleans up behind it.
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "pilothouse-reaper"])
            .arg(folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(io("starting the reaper"))?;
        Ok(Self { path: folder.keep(), reaper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: &Path| io(format!("copying {}", path.display()));
    fs::create_dir_all(to).map_err(failed(to))?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(failed(&from))?;
        }
    }
    Ok(())
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}
