//! Fault benchmark (`just faults`): how much a fault of one cluster slows down requests to another, and how callers
//! that hold connections open affect the server. Phases without and with the fault alternate in one run, so that
//! changes of the machine's speed affect both equally. Prints a table. Arguments select faults by a part of their
//! names. A second table covers faulty API servers (`isolation.rs`).
#![allow(clippy::print_stdout, reason = "this is a command line")]
#![allow(clippy::disallowed_methods, reason = "the test bed starts processes")]

mod isolation;

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pilothouse_testbed::{
    Component, ControlPlane, Error, Fault, FaultProxy, PilothouseServer, Result, Signal, workloads,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

/// Duration of a phase, in which the healthy cluster is read: longer than the read deadline, so that a fault has its
/// full effect.
const PHASE_DURATION: Duration = Duration::from_secs(12);
const ROUNDS: usize = 2;
/// Number of callers that keep requesting the faulty cluster.
const CALLERS: usize = 8;

/// Start of a request that is never completed.
const PARTIAL_REQUEST: &str = "POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                     Content-Length: 100\r\n\r\n{\"username\"";

/// A fault of the faulty cluster, or load on the server itself.
#[derive(Clone, Copy)]
enum FaultCase {
    Proxied(&'static str, Fault),
    Signalled(&'static str, Signal),
    /// A number of connections to the server, each of which sends this part of a request and is reopened when the
    /// server closes it.
    Held(&'static str, usize, &'static str),
}

const FAULT_CASES: [FaultCase; 10] = [
    FaultCase::Signalled("down (SIGKILL)", Signal::Kill),
    FaultCase::Signalled("hanging (SIGSTOP)", Signal::Stop),
    FaultCase::Proxied("blackholed", Fault::Blackhole),
    FaultCase::Proxied("connections reset", Fault::Reset),
    FaultCase::Proxied(
        "slow, 800 ± 200 ms",
        Fault::Slow { delay: Duration::from_millis(800), spread: Duration::from_millis(200) },
    ),
    FaultCase::Proxied("throttled, 20 KB/s", Fault::Throttle(20_000)),
    FaultCase::Proxied("responding with 429", Fault::Answer(429)),
    FaultCase::Proxied("responding with 500", Fault::Answer(500)),
    FaultCase::Held("10,000 idle connections", 10_000, ""),
    FaultCase::Held("1,000 bodies that never end", 1_000, PARTIAL_REQUEST),
];

impl FaultCase {
    fn name(self) -> &'static str {
        match self {
            Self::Proxied(name, _) | Self::Signalled(name, _) | Self::Held(name, ..) => name,
        }
    }

    /// Starts the fault. Dropping the returned set closes its connections.
    fn start(
        self,
        plane: &ControlPlane,
        proxy: &FaultProxy,
        server: &PilothouseServer,
    ) -> Result<JoinSet<()>> {
        let mut connections = JoinSet::new();
        match self {
            Self::Proxied(_, fault) => proxy.set(fault),
            Self::Signalled(_, signal) => plane.signal(Component::ApiServer, signal)?,
            Self::Held(_, count, partial) => {
                let address = server.address().trim_start_matches("http://").to_owned();
                (0..count).for_each(|_| drop(connections.spawn(hold(address.clone(), partial))));
            }
        }
        Ok(connections)
    }

    async fn end(self, plane: &ControlPlane, proxy: &FaultProxy) -> Result<()> {
        match self {
            Self::Proxied(..) => proxy.set(Fault::None),
            Self::Signalled(_, Signal::Stop) => plane.signal(Component::ApiServer, Signal::Cont)?,
            Self::Signalled(..) => plane.restart(Component::ApiServer).await?,
            Self::Held(..) => {}
        }
        Ok(())
    }
}

/// Opens one connection after the other and holds each until the server closes it.
async fn hold(address: String, partial: &'static str) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(&address).await
            && stream.write_all(partial.as_bytes()).await.is_ok()
        {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        } else {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match faults().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faults: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn faults() -> Result<()> {
    let wanted: Vec<_> = env::args().skip(1).collect();
    // raises the limit for this process and for the server, which inherits it
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).map_err(|error| Error::Io {
        doing: "raising the limit of open files".into(),
        source: error.into(),
    })?;
    let binary = PilothouseServer::build()?;
    println!("\n{}", machine()?);
    let is_wanted =
        |case: &FaultCase| wanted.is_empty() || wanted.iter().any(|part| case.name().contains(&**part));
    let cases: Vec<_> = FAULT_CASES.into_iter().filter(is_wanted).collect();
    if !cases.is_empty() {
        run_faults(&binary, cases).await?;
    }
    isolation::isolation(&binary, &wanted).await
}

/// Prints the table of faults of one cluster or of load on the server.
async fn run_faults(binary: &Path, cases: Vec<FaultCase>) -> Result<()> {
    let start = || ControlPlane::builder().controllers(false).start();
    let (healthy, faulty) = tokio::try_join!(start(), start())?;
    for plane in [&healthy, &faulty] {
        plane.client().apply(&workloads::namespace("bench")).await?;
        plane.client().apply(&workloads::deployment("bench", "web", 1)).await?;
    }
    let server = Arc::new(PilothouseServer::start(binary, healthy.dir()?).await?);
    // a request that the list cache cannot serve
    let detail = |id: i64| {
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bench&type=deployment&name=web")
    };
    let healthy_path = detail(server.register("healthy", &healthy.kubeconfig()).await?);
    let proxy = FaultProxy::before(&faulty).await?;
    let faulty_path = detail(server.register("faulty", &proxy.kubeconfig()).await?);

    println!(
        "\n| fault | responses of the faulty cluster (slowest) | recovered after | p99 of the healthy cluster: no fault | during the fault | more | at most 10 % or 2 ms more | reads |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for case in cases {
        let (mut quiet, mut during, mut recovered) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut seen = BTreeMap::new();
        for _ in 0..ROUNDS {
            let callers = Callers::of(&server, &faulty_path);
            measure(&server, &healthy_path, &mut quiet).await?;
            callers.stop().await;

            let connections = case.start(&faulty, &proxy, &server)?;
            let callers = Callers::of(&server, &faulty_path);
            // wait until every caller is affected
            sleep(Duration::from_secs(1)).await;
            measure(&server, &healthy_path, &mut during).await?;
            drop(connections);
            case.end(&faulty, &proxy).await?;
            let ended = Instant::now();
            for (what, duration) in callers.stop().await {
                let slowest: &mut Duration = seen.entry(what).or_default();
                *slowest = duration.max(*slowest);
            }
            while server.get(&faulty_path).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
            recovered = recovered.max(ended.elapsed());
        }
        let seen = seen.iter().map(|(what, duration)| format!("{what} ({:.1} s)", duration.as_secs_f64()));
        let reads = quiet.len() + during.len();
        let (quiet, during) = (p99(quiet), p99(during));
        let verdict = if during - quiet <= (quiet * 0.1).max(2.0) { "met" } else { "missed" };
        println!(
            "| {} | {} | {:.1} s | {:.2} ms | {:.2} ms | {:+.2} ms | {verdict} | {reads} |",
            case.name(),
            seen.collect::<Vec<_>>().join(", "),
            recovered.as_secs_f64(),
            quiet,
            during,
            during - quiet
        );
    }
    Ok(())
}

/// Reads `path` sequentially for one phase and appends the duration of each read, in milliseconds.
async fn measure(server: &PilothouseServer, path: &str, times: &mut Vec<f64>) -> Result<()> {
    let end = Instant::now() + PHASE_DURATION;
    while Instant::now() < end {
        let start = Instant::now();
        server.get(path).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

/// Callers that keep requesting the faulty cluster, each at most ten times per second.
struct Callers {
    stopped: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<(String, Duration)>>>,
}

impl Callers {
    fn of(server: &Arc<PilothouseServer>, path: &str) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let (server, path, stopped) = (server.clone(), path.to_owned(), stopped.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !stopped.load(Ordering::Acquire) {
                    let start = Instant::now();
                    let what = match server.get(&path).await {
                        Ok(_) => "200".to_owned(),
                        Err(Error::Status { code, .. }) => code.to_string(),
                        Err(_) => "no response".to_owned(),
                    };
                    seen.push((what, start.elapsed()));
                    sleep(Duration::from_millis(100)).await;
                }
                seen
            })
        };
        let tasks = (0..CALLERS).map(call).collect();
        Self { stopped, tasks }
    }

    /// Stops the callers. Returns the result and the duration of each request.
    async fn stop(self) -> Vec<(String, Duration)> {
        self.stopped.store(true, Ordering::Release);
        let mut seen = Vec::new();
        for task in self.tasks {
            seen.extend(task.await.unwrap_or_default());
        }
        seen
    }
}

/// Description of the machine and of the measurement.
fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")
        .map_err(|source| Error::Io { doing: "reading /proc/cpuinfo".into(), source })?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!(
        "{count} × {}; two API servers, the server and {CALLERS} clients on this machine; p99 of sequential requests for the details of a workload, which are not cached, over {ROUNDS} × {} s",
        model.map_or("unknown processor", |(_, model)| model.trim()),
        PHASE_DURATION.as_secs()
    ))
}
