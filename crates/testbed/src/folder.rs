//! Temporary directory that is removed when its owner process ends, together with the processes that run in it.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::error::{Result, io};

/// Script of the reaper process. The reaper waits until its standard input closes, which the kernel does however the
/// owner ends. It then kills processes that write a log in the directory, because a stopped process does not read its
/// input, and the programs of KUBEBUILDER_ASSETS do not watch their input. Last, it removes the directory. A node (see
/// node-up.sh) shuts itself down, and the reaper waits for it.
const REAPER: &str = r#"
cat > /dev/null
for process in /proc/[0-9]*; do
    case $(readlink "$process/fd/1") in "$1"/*.log) kill -9 "${process#/proc/}" ;; esac
done
n=0
while [ $n -lt 300 ] && ls "$1"/*/running; do sleep 0.1; n=$((n + 1)); done
while [ $n -lt 400 ] && ! rm -rf "$1"; do sleep 0.1; n=$((n + 1)); done
"#;

/// A temporary directory that is removed when the owner process ends, even by a kill, or when this value is dropped.
/// Every process whose standard output is a `.log` file in the directory is killed before.
pub struct Folder {
    path: PathBuf,
    reaper: Child,
}

impl Folder {
    /// Creates the directory and starts the reaper.
    pub fn create() -> Result<Self> {
        let creating = || io("creating a temporary directory");
        let parent = env::temp_dir().canonicalize().map_err(creating())?;
        let folder = tempfile::Builder::new().prefix("pilothouse-").tempdir_in(parent).map_err(creating())?;
        // a separate process group, so that Ctrl-C in the terminal does not reach the reaper
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

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies a directory recursively.
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
