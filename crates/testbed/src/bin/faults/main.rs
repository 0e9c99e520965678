//! `just faults`: what one cluster's fault costs whoever uses another, and what callers do who hold on to what they have.
//! Quiet and fault take turns in one run, so that the machine's moods are the same for both. Prints a table. Faults can be
//! chosen by a part of their names. A second table is of clusters that lie (`isolation.rs`).
#![allow(clippy::print_stdout, reason = "this is a command line")]
#![allow(clippy::disallowed_methods, reason = "a test bed starts processes")]

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
    Component, ControlPlane, Error, Fault, FaultProxy, Result, Shipped, Signal, workloads,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

/// For how long the cluster that is well is read in each turn: beyond the deadline of reads, so that a fault has shown all
/// it does.
const TURN: Duration = Duration::from_secs(12);
const TURNS: usize = 2;
/// Who goes on asking for the cluster in trouble.
const CALLERS: usize = 8;

/// A request of which more never comes.
const BEGUN: &str = "POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                     Content-Length: 100\r\n\r\n{\"username\"";

/// What befalls the cluster in trouble, or the server itself.
#[derive(Clone, Copy)]
enum Trouble {
    Proxied(&'static str, Fault),
    Signalled(&'static str, Signal),
    /// So many connections to the server, each with this much of a request, and another as soon as it ends one.
    Held(&'static str, usize, &'static str),
}

const TROUBLES: [Trouble; 10] = [
    Trouble::Signalled("down (SIGKILL)", Signal::Kill),
    Trouble::Signalled("hanging (SIGSTOP)", Signal::Stop),
    Trouble::Proxied("blackholed", Fault::Swallow),
    Trouble::Proxied("connections cut", Fault::Cut),
    Trouble::Proxied(
        "slow, 800 ± 200 ms",
        Fault::Slow { delay: Duration::from_millis(800), spread: Duration::from_millis(200) },
    ),
    Trouble::Proxied("narrow, 20 KB/s", Fault::Narrow(20_000)),
    Trouble::Proxied("answering 429", Fault::Answer(429)),
    Trouble::Proxied("answering 500", Fault::Answer(500)),
    Trouble::Held("10,000 connections that say nothing", 10_000, ""),
    Trouble::Held("1,000 bodies that never end", 1_000, BEGUN),
];

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Proxied(name, _) | Self::Signalled(name, _) | Self::Held(name, ..) => name,
        }
    }

    /// What is returned holds on until it is dropped.
    fn begin(self, plane: &ControlPlane, proxy: &FaultProxy, server: &Shipped) -> Result<JoinSet<()>> {
        let mut crowd = JoinSet::new();
        match self {
            Self::Proxied(_, fault) => proxy.set(fault),
            Self::Signalled(_, signal) => plane.signal(Component::ApiServer, signal)?,
            Self::Held(_, count, begun) => {
                let address = server.address().trim_start_matches("http://").to_owned();
                (0..count).for_each(|_| drop(crowd.spawn(hold(address.clone(), begun))));
            }
        }
        Ok(crowd)
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

/// One connection after the other, each held until the server ends it.
async fn hold(address: String, begun: &'static str) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(&address).await
            && stream.write_all(begun.as_bytes()).await.is_ok()
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
    // ours, and those of the server that we start
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).map_err(|error| Error::Io {
        doing: "raising the limit of open files".into(),
        source: error.into(),
    })?;
    let binary = Shipped::build()?;
    println!("\n{}", machine()?);
    let is_wanted =
        |trouble: &Trouble| wanted.is_empty() || wanted.iter().any(|part| trouble.name().contains(&**part));
    let troubles: Vec<_> = TROUBLES.into_iter().filter(is_wanted).collect();
    if !troubles.is_empty() {
        befall(&binary, troubles).await?;
    }
    isolation::isolation(&binary, &wanted).await
}

/// The table of faults that befall one cluster or the server.
async fn befall(binary: &Path, troubles: Vec<Trouble>) -> Result<()> {
    let start = || ControlPlane::builder().controllers(false).start();
    let (well, troubled) = tokio::try_join!(start(), start())?;
    for plane in [&well, &troubled] {
        plane.client().apply(&workloads::namespace("bench")).await?;
        plane.client().apply(&workloads::deployment("bench", "web", 1)).await?;
    }
    let server = Arc::new(Shipped::start(binary, well.dir()?).await?);
    // what no list that is kept can answer
    let detail = |id: i64| {
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bench&type=deployment&name=web")
    };
    let good = detail(server.register("well", &well.kubeconfig()).await?);
    let proxy = FaultProxy::before(&troubled).await?;
    let bad = detail(server.register("troubled", &proxy.kubeconfig()).await?);

    println!(
        "\n| fault | callers of it saw (slowest) | well again after | others' p99, quiet | during | more | at most 10 % or 2 ms more | reads |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for trouble in troubles {
        let (mut quiet, mut during, mut recovered) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut seen = BTreeMap::new();
        for _ in 0..TURNS {
            let callers = Callers::of(&server, &bad);
            measure(&server, &good, &mut quiet).await?;
            callers.stop().await;

            let crowd = trouble.begin(&troubled, &proxy, &server)?;
            let callers = Callers::of(&server, &bad);
            // until each has met it
            sleep(Duration::from_secs(1)).await;
            measure(&server, &good, &mut during).await?;
            drop(crowd);
            trouble.end(&troubled, &proxy).await?;
            let ended = Instant::now();
            for (what, took) in callers.stop().await {
                let slowest: &mut Duration = seen.entry(what).or_default();
                *slowest = took.max(*slowest);
            }
            while server.get(&bad).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
            recovered = recovered.max(ended.elapsed());
        }
        let seen = seen.iter().map(|(what, took)| format!("{what} ({:.1} s)", took.as_secs_f64()));
        let reads = quiet.len() + during.len();
        let (quiet, during) = (p99(quiet), p99(during));
        let verdict = if during - quiet <= (quiet * 0.1).max(2.0) { "met" } else { "missed" };
        println!(
            "| {} | {} | {:.1} s | {:.2} ms | {:.2} ms | {:+.2} ms | {verdict} | {reads} |",
            trouble.name(),
            seen.collect::<Vec<_>>().join(", "),
            recovered.as_secs_f64(),
            quiet,
            during,
            during - quiet
        );
    }
    Ok(())
}

/// Times of reads, in milliseconds.
async fn measure(server: &Shipped, path: &str, times: &mut Vec<f64>) -> Result<()> {
    let end = Instant::now() + TURN;
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

/// Whoever goes on asking for the cluster in trouble: ten times a second each, at most.
struct Callers {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<(String, Duration)>>>,
}

impl Callers {
    fn of(server: &Arc<Shipped>, path: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let (server, path, over) = (server.clone(), path.to_owned(), over.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !over.load(Ordering::Acquire) {
                    let start = Instant::now();
                    let what = match server.get(&path).await {
                        Ok(_) => "200".to_owned(),
                        Err(Error::Status { code, .. }) => code.to_string(),
                        Err(_) => "no answer".to_owned(),
                    };
                    seen.push((what, start.elapsed()));
                    sleep(Duration::from_millis(100)).await;
                }
                seen
            })
        };
        let tasks = (0..CALLERS).map(call).collect();
        Self { over, tasks }
    }

    /// What they saw, and how long each answer took.
    async fn stop(self) -> Vec<(String, Duration)> {
        self.over.store(true, Ordering::Release);
        let mut seen = Vec::new();
        for task in self.tasks {
            seen.extend(task.await.unwrap_or_default());
        }
        seen
    }
}

/// What it ran on.
fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")
        .map_err(|source| Error::Io { doing: "reading /proc/cpuinfo".into(), source })?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!(
        "{count} × {}; two API servers, server and {CALLERS} clients on this one machine; p99 of details of a workload, which are read from the cluster each time, one after the other for {TURNS} × {} s",
        model.map_or("unknown processor", |(_, model)| model.trim()),
        TURN.as_secs()
    ))
}
