//! `just faults`: what one cluster's fault costs whoever uses another. Quiet and fault take turns in one run, so that the
//! machine's moods are the same for both. Prints a table.
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::{
    collections::BTreeMap,
    fs,
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
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// For how long the cluster that is well is read in each turn: beyond the deadline of reads, so that a fault has shown all
/// it does.
const TURN: Duration = Duration::from_secs(12);
const TURNS: usize = 2;
/// Who goes on asking for the cluster in trouble.
const CALLERS: usize = 8;

/// What befalls the cluster in trouble.
#[derive(Clone, Copy)]
enum Trouble {
    Proxied(&'static str, Fault),
    Signalled(&'static str, Signal),
}

const TROUBLES: [Trouble; 8] = [
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
];

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Proxied(name, _) | Self::Signalled(name, _) => name,
        }
    }

    fn begin(self, plane: &ControlPlane, proxy: &FaultProxy) -> Result<()> {
        match self {
            Self::Proxied(_, fault) => proxy.set(fault),
            Self::Signalled(_, signal) => plane.signal(Component::ApiServer, signal)?,
        }
        Ok(())
    }

    async fn end(self, plane: &ControlPlane, proxy: &FaultProxy) -> Result<()> {
        match self {
            Self::Proxied(..) => proxy.set(Fault::None),
            Self::Signalled(_, Signal::Stop) => plane.signal(Component::ApiServer, Signal::Cont)?,
            Self::Signalled(..) => plane.restart(Component::ApiServer).await?,
        }
        Ok(())
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
    let binary = Shipped::build()?;
    let start = || ControlPlane::builder().controllers(false).start();
    let (well, troubled) = tokio::try_join!(start(), start())?;
    for plane in [&well, &troubled] {
        plane.client().apply(&workloads::namespace("bench")).await?;
        plane.client().apply(&workloads::deployment("bench", "web", 1)).await?;
    }
    let server = Arc::new(Shipped::start(&binary, well.dir()?).await?);
    // what no list that is kept can answer
    let detail = |id: i64| {
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bench&type=deployment&name=web")
    };
    let good = detail(server.register("well", &well.kubeconfig()).await?);
    let proxy = FaultProxy::before(&troubled).await?;
    let bad = detail(server.register("troubled", &proxy.kubeconfig()).await?);

    println!("\n{}\n", machine()?);
    println!(
        "| fault | callers of it saw (slowest) | well again after | others' p99, quiet | during | more | at most 10 % or 2 ms more | reads |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for trouble in TROUBLES {
        let (mut quiet, mut during, mut recovered) = (Vec::new(), Vec::new(), Duration::ZERO);
        let mut seen = BTreeMap::new();
        for _ in 0..TURNS {
            let callers = Callers::of(&server, &bad);
            measure(&server, &good, &mut quiet).await?;
            callers.stop().await;

            trouble.begin(&troubled, &proxy)?;
            let callers = Callers::of(&server, &bad);
            // until each has met it
            sleep(Duration::from_secs(1)).await;
            measure(&server, &good, &mut during).await?;
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
