//! Binaries of a control plane: from `KUBEBUILDER_ASSETS`, or built once from the Go module in this crate.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use crate::{
    ASSETS, CACHE,
    error::{Error, Result, io},
};

const GO_MOD: &str = include_str!("../controlplane/go.mod");
/// The files of the Go module, by name.
const GO_FILES: [(&str, &str); 4] = [
    ("go.mod", GO_MOD),
    ("go.sum", include_str!("../controlplane/go.sum")),
    ("main.go", include_str!("../controlplane/main.go")),
    ("metrics_server.go", include_str!("../controlplane/metrics_server.go")),
];

/// Location of the binaries.
#[derive(Clone, Debug)]
pub(crate) enum Binaries {
    /// One multi-call binary, which runs the program named by its first argument.
    MultiCall(PathBuf),
    /// A directory with one file per program.
    Folder(PathBuf),
}

impl Binaries {
    /// Finds the binaries, or builds them, which takes minutes the first time on a machine.
    pub(crate) async fn find() -> Result<Self> {
        if let Some(folder) = env::var_os(ASSETS).filter(|folder| !folder.is_empty()) {
            return Ok(Self::Folder(folder.into()));
        }
        let build = tokio::task::spawn_blocking(build);
        build
            .await
            .map_err(|_| Error::Program("building the control plane panicked".into()))?
            .map(Self::MultiCall)
    }

    /// The command line that runs a program, for instance `["…/controlplane", "kubelet"]`; `None` if the directory
    /// has no such program.
    pub(crate) fn command_line(&self, program: &str) -> Option<Vec<PathBuf>> {
        match self {
            Self::MultiCall(file) => Some(vec![file.clone(), program.into()]),
            Self::Folder(folder) => {
                Some(vec![folder.join(program)]).filter(|command_line| command_line[0].is_file())
            }
        }
    }

    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let command_line = self.command_line(program);
        let command_line = command_line
            .ok_or_else(|| Error::Program(format!("no {program} in the directory of {ASSETS}")))?;
        let mut command = Command::new(&command_line[0]);
        command.args(&command_line[1..]);
        Ok(command)
    }
}

/// The cache directory for build results, outside the source tree. Its contents are kept between runs.
pub fn cache() -> Result<PathBuf> {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = var(CACHE)
        .or_else(|| var("XDG_CACHE_HOME").map(|cache| cache.join("pilothouse")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/pilothouse")))
        .ok_or_else(|| Error::Program(format!("no cache directory: set {CACHE}, XDG_CACHE_HOME or HOME")))?;
    fs::create_dir_all(&folder).map_err(io(format!("creating {}", folder.display())))?;
    folder.canonicalize().map_err(io(format!("resolving the path {}", folder.display())))
}

/// The Kubernetes version that go.mod pins, for instance `v1.37.2`.
pub fn kubernetes_version() -> &'static str {
    let pinned = GO_MOD.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    pinned.expect("go.mod requires k8s.io/kubernetes").trim()
}

fn build() -> Result<PathBuf> {
    let digest = Sha256::digest(GO_FILES.map(|(_, text)| text).concat());
    let key: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let cache = cache()?;
    let binary = cache.join(format!("controlplane-{}-{key}", kubernetes_version()));
    if binary.exists() {
        return Ok(binary);
    }
    // One process or thread builds and the others wait: each opens the lock file itself, so the lock excludes threads
    // too.
    let lock = cache.join("controlplane.lock");
    let lock = fs::File::create(&lock).map_err(io(format!("creating {}", lock.display())))?;
    if lock.try_lock().is_err() {
        log_line("waiting for another process that builds the control plane");
        lock.lock().map_err(io("waiting for the build's lock"))?;
    }
    if !binary.exists() {
        let scratch = cache.join("build");
        // removes the files of a build that was killed
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir(&scratch).map_err(io("creating the build's directory"))?;
        let built = go_build(&scratch)?;
        fs::rename(built, &binary)
            .map_err(io(format!("renaming the build result to {}", binary.display())))?;
        let _ = fs::remove_dir_all(&scratch);
    }
    Ok(binary)
}

fn go_build(folder: &Path) -> Result<PathBuf> {
    for (name, text) in GO_FILES {
        fs::write(folder.join(name), text).map_err(io(format!("writing {name}")))?;
    }
    let version = kubernetes_version();
    log_line(&format!(
        "building etcd, Kubernetes {version} and metrics-server from source: once, about 8 minutes on 2 cores"
    ));
    let packages = packages(folder)?;

    // clients and `kubectl version` cannot parse the version of a build without these flags
    const STAMP: &str = "-X k8s.io/component-base/version";
    let minor = version.split('.').nth(1).unwrap_or_default();
    let flags = format!("-s -w {STAMP}.gitVersion={version} {STAMP}.gitMajor=1 {STAMP}.gitMinor={minor}");
    let mut go = Command::new("go")
        .args(["build", "-v", "-buildvcs=false", "-ldflags", &flags, "-o", "controlplane", "."])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("running go"))?;
    let mut compiled = 0;
    for line in BufReader::new(go.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok) {
        // `-v` prints one line per compiled package; lines with spaces are messages
        if line.contains(' ') {
            log_line(&line);
            continue;
        }
        compiled += 1;
        if compiled % 100 == 0 {
            log_line(&format!("compiled {compiled} of at most {packages} packages"));
        }
    }
    match go.wait().map_err(io("waiting for go"))? {
        status if status.success() => Ok(folder.join("controlplane")),
        status => Err(Error::Program(format!("go build failed ({status}); its messages are above"))),
    }
}

/// Downloads the modules and returns the number of packages to compile.
fn packages(folder: &Path) -> Result<usize> {
    let go =
        Command::new("go").args(["list", "-deps", "."]).current_dir(folder).stderr(Stdio::inherit()).output();
    let list = go.map_err(io("running go, which builds the control plane (or set KUBEBUILDER_ASSETS)"))?;
    match list.status.success() {
        true => Ok(list.stdout.lines().count()),
        false => Err(Error::Program("go list failed; its messages are above".into())),
    }
}

/// Prints a line to the real standard error: the test harness captures `eprintln!`.
pub(crate) fn log_line(line: &str) {
    let _ = writeln!(io::stderr(), "pilothouse-testbed: {line}");
}
