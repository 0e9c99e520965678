//! Demo (`cargo demo`): a Pilothouse server with one registered cluster, until Ctrl-C. The demo starts a local
//! cluster with workloads; with `--kubeconfig FILE` it registers an existing cluster and does not change it.
//!
//! `crates/demo` builds this program and starts it. This program builds the server, with the same features and in the
//! same directory, while it builds and starts the cluster.
#![allow(
    clippy::disallowed_methods,
    reason = "starts Cargo, and measures the time since the launcher's start"
)]
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::{
    any::Any,
    convert::Infallible,
    env,
    ffi::OsString,
    fmt::Display,
    io,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pilothouse_testbed::{ControlPlane, Error, Folder, PilothouseServer, Result, read_kubeconfig, workloads};
use serde_json::Value;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

const USAGE: &str = "\
usage: cargo demo [-- OPTION...]
  --kubeconfig FILE  use this existing cluster instead of starting one; nothing in the cluster is changed
  --server BINARY    use this server instead of building one";
const NAMESPACE: &str = "demo";
const POD_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of the lines with the steps that are still running.
const REPORT_INTERVAL: Duration = Duration::from_secs(15);

/// The command line.
#[derive(Default)]
struct Options {
    kubeconfig: Option<PathBuf>,
    server: Option<PathBuf>,
    /// Start of the launcher, in seconds since 1970.
    started: Option<u64>,
}

impl Options {
    /// Parses the arguments; `None` if they are invalid.
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let value = arguments.next()?;
            match argument.to_str()? {
                "--kubeconfig" => options.kubeconfig = Some(value.into()),
                "--server" => options.server = Some(value.into()),
                "--started" => options.started = Some(value.to_str()?.parse().ok()?),
                _ => return None,
            }
        }
        Some(options)
    }
}

fn main() -> ExitCode {
    let Some(options) = Options::parse(env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = Runtime::new().map_err(io_error("starting the runtime")).and_then(|runtime| {
        let result = runtime.block_on(until_signal(&options));
        // a build of the cluster's programs runs in a thread, and must not delay the end of this program
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo until Ctrl-C, SIGTERM or an error.
async fn until_signal(options: &Options) -> Result<()> {
    let listen = |kind| signal(kind).map_err(io_error("listening for signals"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        error = run(options) => return error,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    println!("\nended; all processes and files of the demo are removed");
    Ok(())
}

/// Starts the cluster and the server, and returns only on an error. Dropping the future ends the builds, the server, then
/// the cluster, then removes their directory.
async fn run(options: &Options) -> Result<()> {
    let progress = Progress::new(options.started);
    let both = async { tokio::try_join!(server_binary(options, &progress), cluster(options, &progress)) };
    let (binary, cluster) = tokio::select! {
        both = both => both?,
        never = progress.report() => match never {},
    };
    let mut server =
        progress.step("start of the server", PilothouseServer::start(&binary, &cluster.folder)).await?;
    let id =
        progress.step("registration of the cluster", server.register("demo", &cluster.kubeconfig)).await?;
    print_instructions(&server, &cluster, id);
    Err(server.wait_for_exit().await)
}

/// The server's binary: the given one, or one that Cargo builds beside this program.
async fn server_binary(options: &Options, progress: &Progress) -> Result<PathBuf> {
    match &options.server {
        Some(binary) => Ok(binary.clone()),
        None => {
            progress
                .step("build of the server: cargo build --workspace --bin pilothouse", Cargo::build_server())
                .await
        }
    }
}

/// A Cargo process. Dropping it kills the process.
struct Cargo(Child);

impl Cargo {
    async fn build_server() -> Result<PathBuf> {
        let cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--workspace", "--bin", "pilothouse"])
            .stdin(Stdio::null())
            .spawn();
        let mut cargo = Self(cargo.map_err(io_error("running cargo"))?);
        let status = loop {
            match cargo.0.try_wait().map_err(io_error("waiting for cargo"))? {
                Some(status) => break status,
                None => sleep(POLL_INTERVAL).await,
            }
        };
        if !status.success() {
            return Err(Error::Program("the server does not build; Cargo's messages are above".into()));
        }
        Ok(env::current_exe()
            .map_err(io_error("finding the path of this program"))?
            .with_file_name("pilothouse"))
    }
}

impl Drop for Cargo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cluster to register.
struct Cluster {
    kubeconfig: String,
    /// The directory for the server's data and log.
    folder: PathBuf,
    kind: ClusterKind,
    /// Dropping it removes the directory and, of a local cluster, ends the processes.
    _owner: Box<dyn Any>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClusterKind {
    Existing,
    LocalWithoutNode,
    LocalWithNode,
}

async fn cluster(options: &Options, progress: &Progress) -> Result<Cluster> {
    match &options.kubeconfig {
        Some(file) => {
            let (kubeconfig, folder) = (read_kubeconfig(file)?, Folder::create()?);
            let path = folder.path().to_owned();
            Ok(Cluster { kubeconfig, folder: path, kind: ClusterKind::Existing, _owner: Box::new(folder) })
        }
        None => local_cluster(progress).await,
    }
}

/// Starts a cluster with sample workloads, and with a node if this machine can run one.
async fn local_cluster(progress: &Progress) -> Result<Cluster> {
    let programs = "programs of the cluster: built from source the first time, then cached";
    progress.step(programs, pilothouse_testbed::build()).await?;
    let plane = progress.step("start of a control plane", ControlPlane::builder().start()).await?;
    let kind = match progress.step("start of a node", plane.start_node(0)).await {
        Ok(_) => ClusterKind::LocalWithNode,
        Err(Error::NodeUnavailable(why)) => {
            progress.print(format_args!("no node, so pods do not run and have no logs: {why}"));
            ClusterKind::LocalWithoutNode
        }
        Err(error) => return Err(error),
    };
    let client = plane.client();
    for object in workloads::samples(NAMESPACE) {
        client.apply(&object).await?;
    }
    if kind == ClusterKind::LocalWithNode {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/db-0");
        let running = |pod: &Value| pod["status"]["phase"] == "Running";
        progress.step("start of a pod", client.wait_until(&path, running, POD_TIMEOUT)).await?;
    }
    let (kubeconfig, folder) = (plane.kubeconfig(), plane.dir()?.to_owned());
    Ok(Cluster { kubeconfig, folder, kind, _owner: Box::new(plane) })
}

/// Prints address, credentials and commands to paste into another terminal. For an existing cluster, the commands only
/// read.
fn print_instructions(server: &PilothouseServer, cluster: &Cluster, id: i64) {
    let (address, password) = (server.address(), server.password());
    let jar = cluster.folder.join("cookies");
    let jar = jar.display();
    let json = "-H 'Content-Type: application/json'";
    let call = format!(r#"curl -s -b {jar} -H "Authorization: Bearer $TOKEN""#);
    println!("\naddress   {address}\nuser      admin\npassword  {password}");
    println!("directory {}\n\nIn another terminal:\n", cluster.folder.display());
    println!(
        r#"TOKEN=$(curl -s -c {jar} {json} -d '{{"username":"admin","password":"{password}"}}' {address}/api/auth/login | sed 's/.*"access_token":"\([^"]*\)".*/\1/')"#
    );
    let get = |path: &str| println!("{call} '{address}/api/k8s/{path}'");
    let list = format!("workloads?cluster_id={id}&namespace={NAMESPACE}");
    match cluster.kind {
        ClusterKind::Existing => {
            get(&format!("namespaces?cluster_id={id}"));
            get(&format!("workloads?cluster_id={id}&namespace=*&per_page=5"));
        }
        ClusterKind::LocalWithNode => {
            get(&list);
            get(&format!("pods/logs?cluster_id={id}&namespace={NAMESPACE}&pod_name=db-0&tail_lines=5"));
        }
        ClusterKind::LocalWithoutNode => {
            get(&list);
            let web = format!(r#""namespace":"{NAMESPACE}","type":"deployment","name":"web""#);
            println!(
                r#"{call} {json} -d '{{"cluster_id":{id},{web},"replicas":3}}' {address}/api/k8s/workloads/scale"#
            );
        }
    }
    println!("\nPress Ctrl-C to stop the demo.");
}

/// Prints the steps, with the seconds since the launcher's start.
struct Progress {
    start: Instant,
    running: Mutex<Vec<&'static str>>,
}

impl Progress {
    /// `started` is the start in seconds since 1970; default: now.
    fn new(started: Option<u64>) -> Self {
        let started = started.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let elapsed = started.and_then(|started| SystemTime::now().duration_since(started).ok());
        let now = Instant::now();
        Self { start: now.checked_sub(elapsed.unwrap_or_default()).unwrap_or(now), running: Mutex::default() }
    }

    fn print(&self, text: impl Display) {
        println!("[{:3} s] {text}", self.start.elapsed().as_secs());
    }

    /// Prints the start and the end of a step.
    async fn step<T>(&self, name: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.print(name);
        self.running().push(name);
        let result = work.await;
        self.running().retain(|running| *running != name);
        if result.is_ok() {
            self.print(format_args!("done: {name}"));
        }
        result
    }

    /// Prints the running steps at intervals, without end.
    async fn report(&self) -> Infallible {
        loop {
            sleep(REPORT_INTERVAL).await;
            let running = self.running().join("; ");
            if !running.is_empty() {
                self.print(format_args!("waiting for: {running}"));
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.running.lock().expect("the lock is not poisoned")
    }
}

/// Adds the operation to an I/O error.
fn io_error(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { doing: doing.into(), source }
}
