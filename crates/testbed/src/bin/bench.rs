//! `just bench`: what the server costs on top of the cluster itself, and how big it is. Ours and direct calls take
//! turns in one run, so that the machine's moods are the same for both. Prints the table of docs/benchmarks.md.
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::{fs, process::ExitCode, time::Duration};

use pilothouse_testbed::{Admin, ControlPlane, Error, Result, Shipped, workloads};
use serde_json::json;
use tokio::time::{Instant, sleep};

const ROUNDS: u32 = 500;
const WARM_UP: u32 = 50;
const PODS: u32 = 20;
/// Longer than the prober's interval, so that what it holds is counted.
const IDLE: Duration = Duration::from_secs(35);

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench() -> Result<()> {
    let binary = Shipped::build()?;
    // Without controllers nobody else works, neither on this machine nor on these objects.
    let plane = ControlPlane::builder().controllers(false).start().await?;
    let cluster = plane.client();
    cluster.apply(&workloads::namespace("bench")).await?;
    cluster.apply(&workloads::deployment("bench", "web", 1)).await?;
    for n in 0..PODS {
        cluster.apply(&workloads::pod("bench", &format!("pod-{n}"))).await?;
    }
    let server = Shipped::start(&binary, plane.dir()?).await?;
    let id = server.register("bench", &plane.kubeconfig()).await?;

    let mut rows = Vec::new();
    let page = format!("/api/k8s/pods?cluster_id={id}&namespace=bench&per_page=20");
    let direct = async |_| cluster.text("/api/v1/namespaces/bench/pods?limit=500").await.map(drop);
    let ours = async |_| server.get(&page).await.map(drop);
    rows.push(Row::of("a page of 20 pods / LIST", 1.0, direct, ours).await?);

    let direct = async |round| direct_scale(&cluster, round).await;
    let ours = async |round| {
        let body = json!({
            "cluster_id": id, "namespace": "bench", "type": "deployment", "name": "web", "replicas": round,
        });
        server.post("/api/k8s/workloads/scale", body).await.map(drop)
    };
    rows.push(Row::of("a scale, audited durably / PATCH and LIST of autoscalers", 1.5, direct, ours).await?);

    println!("\n{}\n", machine(&cluster).await?);
    println!("| median of {ROUNDS} | direct | through us | more | target |\n|---|---|---|---|---|");
    for Row { what, direct, ours, target } in rows {
        let more = ms(ours) - ms(direct);
        println!("| {what} | {:.2} ms | {:.2} ms | {more:.2} ms | ≤ {target} ms |", ms(direct), ms(ours));
    }
    sleep(IDLE).await;
    let resident = resident(server.pid())?;
    let size = fs::metadata(&binary).map_err(io("reading the binary"))?.len();
    println!("\n| size | | target |\n|---|---|---|");
    println!(
        "| the idle server, after all this, one cluster registered (VmRSS) | {resident:.1} MB | < 30 MB |"
    );
    println!("| the binary, stripped | {:.1} MB | < 40 MB |", size as f64 / 1e6);
    Ok(())
}

/// What the server sends upstream for a scale, sent direct.
async fn direct_scale(cluster: &Admin, round: u32) -> Result<()> {
    let body = json!({"spec": {"replicas": round + 1}});
    cluster.patch("/apis/apps/v1/namespaces/bench/deployments/web", &body).await?;
    cluster
        .text("/apis/autoscaling/v2/namespaces/bench/horizontalpodautoscalers?resourceVersion=0")
        .await
        .map(drop)
}

/// A line of the table: medians.
struct Row {
    what: &'static str,
    direct: Duration,
    ours: Duration,
    target: f64,
}

impl Row {
    async fn of(
        what: &'static str,
        target: f64,
        direct: impl AsyncFn(u32) -> Result<()>,
        ours: impl AsyncFn(u32) -> Result<()>,
    ) -> Result<Self> {
        let (mut directs, mut oursies) = (Vec::new(), Vec::new());
        for round in 0..WARM_UP + ROUNDS {
            let start = Instant::now();
            direct(round).await?;
            let between = Instant::now();
            ours(round).await?;
            let end = Instant::now();
            if round >= WARM_UP {
                directs.push(between - start);
                oursies.push(end - between);
            }
        }
        Ok(Self { what, direct: median(directs), ours: median(oursies), target })
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What is resident of a process, in MB.
fn resident(pid: u32) -> Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(io("reading the server's status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0 / 1e6).ok_or_else(|| Error::Program("no VmRSS in the server's status".into()))
}

/// What it ran on.
async fn machine(cluster: &Admin) -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").map_err(io("reading /proc/cpuinfo"))?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let version = cluster.get("/version").await?;
    Ok(format!(
        "{count} × {}; Kubernetes {}, API server, server and client on this one machine",
        model.map_or("unknown processor", |(_, model)| model.trim()),
        version["gitVersion"].as_str().unwrap_or_default()
    ))
}

fn io(doing: &str) -> impl FnOnce(std::io::Error) -> Error {
    let doing = doing.to_owned();
    move |source| Error::Io { doing, source }
}
