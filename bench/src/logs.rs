//! B9: throughput of a long log through the log stream, from a kubelet and from a fake API server, and memory of many
//! followers of slow logs.

use std::{
    io::{BufRead, BufReader, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use pilothouse_testbed::{ControlPlane, workloads};
use serde_json::{Value, json};

use crate::{
    client::Target,
    error::{BenchError, Result},
    fake::{Fake, LINE_BYTES},
    measure::{median, spread},
    plan::Plan,
    plane,
    process::memory,
    report::{Section, short},
    server::Server,
};

/// Streams per user, the server's limit.
const STREAMS_PER_USER: usize = 25;
/// Timeout until a pod has written the complete log.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);
const PASSWORD: &str = "only for the benchmark";

/// B9.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let fake = Fake::start(plan.log_bytes)?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(&plan.binary, folder.path(), &[]).await?;
    let kubelet = Kubelet::measure(plan, &server).await?;
    let created = server.pilothouse.post("/api/k8s/clusters", fake.cluster("fake", &fake.url)).await?;
    let id = created["cluster"]["id"].as_i64().unwrap_or_default();
    let direct = Target::new(&fake.url, Some(&fake.ca_pem))?;
    // the fake server sends whole chunks
    let lines = plan.log_bytes / (LINE_BYTES * 256) * 256;
    let (direct_rates, stream_rates) = alternate(plan, &direct, &server.target, (id, "long"), lines)?;

    sleep(plan.settle_time(Duration::from_secs(3)));
    let before = memory(server.pid())?.now;
    let mut followers = Vec::new();
    for user in 0..plan.followers.div_ceil(STREAMS_PER_USER) {
        let target = sign_in_new_user(&server, &format!("follower-{user}")).await?;
        for _ in 0..STREAMS_PER_USER.min(plan.followers - followers.len()) {
            followers.push(BufReader::new(target.connect()?.stream(&target.get(&stream(id, "slow")))?));
        }
    }
    // wait until each follower has received a line
    for follower in &mut followers {
        lines_until(follower, "event: log")?;
    }
    sleep(plan.settle_time(Duration::from_secs(3)));
    let per_follower = (memory(server.pid())?.now - before) / followers.len() as f64 / 1e3;

    let mut section = Section::new(
        "B9",
        &format!("logs of {} MB, {} followers", plan.log_bytes / 1_000_000, plan.followers),
    );
    let mut table = vec![["", "log MB/s"].map(str::to_owned).to_vec()];
    let rate = |rates: &[f64]| {
        let (median, spread) = spread(rates);
        format!("{} ({})", short(median), short(spread))
    };
    if let Some(Kubelet { direct_rates, stream_rates }) = &kubelet {
        table.push(vec!["kubelet: direct".into(), rate(direct_rates)]);
        table.push(vec!["kubelet: through the stream".into(), rate(stream_rates)]);
    }
    table.push(vec!["fake: direct".into(), rate(&direct_rates)]);
    table.push(vec!["fake: through the stream".into(), rate(&stream_rates)]);
    section.table(&table);
    section.paragraph(
        "Lines of 128 bytes with timestamps. Kubelet: the log of a container that has ended, read through the API server. \
         Fake: an API server in the process of the load, without reading or parsing. It shows the maximum throughput of \
         the stream, limited by the load's core, which runs both ends.",
    );
    match &kubelet {
        Some(Kubelet { direct_rates, stream_rates }) => {
            section.at_least(
                "throughput relative to direct, kubelet",
                median(stream_rates) / median(direct_rates),
                0.95,
                "×",
            );
        }
        None => section.paragraph("This machine cannot run a node, so the kubelet was not measured."),
    }
    section.at_least(
        "throughput relative to direct, fake",
        median(&stream_rates) / median(&direct_rates),
        0.95,
        "×",
    );
    section.verdict("memory per follower", per_follower, 256.0, "KB");
    Ok(section)
}

/// Rates of the log of a pod on a node, in MB/s.
struct Kubelet {
    direct_rates: Vec<f64>,
    stream_rates: Vec<f64>,
}

impl Kubelet {
    /// Measures the rates; `None` if this machine cannot run a node.
    async fn measure(plan: &Plan, server: &Server) -> Result<Option<Self>> {
        // control plane and node run on the core of the load, which they inherit from this thread
        let plane = ControlPlane::builder().apiserver_flag("--audit-log-path=").start().await?;
        let Some(node) = plane.start_node_or_skip(0).await? else { return Ok(None) };
        let cluster = plane.client();
        let lines = plan.log_bytes / LINE_BYTES;
        // with its timestamp and a space, a line is as long as one of the fake server
        let write = format!("yes {} | head -n {lines}", "x".repeat(LINE_BYTES - 32));
        let mut pod = workloads::pod_running("default", "long", &["sh", "-c", &write]);
        pod["spec"]["restartPolicy"] = "Never".into();
        let account = |account: &Value| account["metadata"]["uid"].is_string();
        cluster
            .wait_until("/api/v1/namespaces/default/serviceaccounts/default", account, WAIT_TIMEOUT)
            .await?;
        cluster.apply(&pod).await?;
        let done = |pod: &Value| pod["status"]["phase"] == "Succeeded";
        cluster.wait_until("/api/v1/namespaces/default/pods/long", done, WAIT_TIMEOUT).await?;
        let id = server.pilothouse.register("kubelet", &plane.kubeconfig()).await?;
        let (direct_rates, stream_rates) =
            alternate(plan, &plane::direct(&plane)?, &server.target, (id, "long"), lines)?;
        drop(node);
        Ok(Some(Self { direct_rates, stream_rates }))
    }
}

/// Reads the same log directly and through the stream, alternating. Returns the rates of both in MB/s.
fn alternate(
    plan: &Plan,
    direct: &Target,
    server: &Target,
    (cluster, pod): (i64, &str),
    lines: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut rates = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        rates.0.push(read_direct(direct, pod, lines)? / 1e6);
        rates.1.push(read_stream(server, &stream(cluster, pod), lines)? / 1e6);
    }
    Ok(rates)
}

fn stream(cluster: i64, pod: &str) -> String {
    format!(
        "/api/k8s/pods/logs/stream?cluster_id={cluster}&namespace=default&pod_name={pod}&tail_lines=10000"
    )
}

/// Reads the log directly and checks that all lines arrive. Returns the rate in bytes per second.
fn read_direct(target: &Target, pod: &str, lines: usize) -> Result<f64> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/log?follow=true&timestamps=true");
    let mut log = target.connect()?.stream(&target.get(&path))?;
    let (started, mut read, mut buffer) = (Instant::now(), 0, vec![0; 256 << 10]);
    loop {
        match log.read(&mut buffer)? {
            0 => break,
            count => read += buffer[..count].iter().filter(|byte| **byte == b'\n').count(),
        }
    }
    rate(started, read, lines)
}

/// As [`read_direct`], through the log stream.
fn read_stream(target: &Target, path: &str, lines: usize) -> Result<f64> {
    // resume from before the first line, to get the complete log instead of its newest lines
    let target = target.clone().header("Last-Event-ID", "2020-01-01T00:00:00Z_0_00000000");
    let mut events = BufReader::with_capacity(256 << 10, target.connect()?.stream(&target.get(path))?);
    let (started, mut read, mut line) = (Instant::now(), 0, Vec::new());
    loop {
        line.clear();
        if events.read_until(b'\n', &mut line)? == 0 {
            return Err(BenchError::because(format!(
                "the stream ended without an end event, after {read} lines"
            )));
        }
        if line.starts_with(b"event: log") {
            read += 1;
        } else if line.starts_with(b"event: end") {
            break;
        }
    }
    rate(started, read, lines)
}

fn rate(started: Instant, read: usize, expected: usize) -> Result<f64> {
    let elapsed = started.elapsed().as_secs_f64();
    if read != expected {
        return Err(BenchError::because(format!("{read} of {expected} lines received")));
    }
    Ok((read * LINE_BYTES) as f64 / elapsed)
}

fn lines_until(events: &mut impl BufRead, start: &str) -> Result<()> {
    let mut line = String::new();
    while !line.starts_with(start) {
        line.clear();
        if events.read_line(&mut line)? == 0 {
            return Err(BenchError::because("a follower's stream ended"));
        }
    }
    Ok(())
}

/// Creates a user and signs in.
async fn sign_in_new_user(server: &Server, name: &str) -> Result<Target> {
    let user = json!({"username": name, "password": PASSWORD, "role": "viewer"});
    server.pilothouse.post("/api/auth/users", user).await?;
    let target = Target::new(server.pilothouse.address(), None)?;
    let login = json!({"username": name, "password": PASSWORD}).to_string();
    let answer: Value =
        serde_json::from_slice(target.connect()?.expect_success(&target.post("/api/auth/login", &login))?)?;
    let text = |key: &str| answer["data"][key].as_str().unwrap_or_default().to_owned();
    let bearer = format!("Bearer {}", text("access_token"));
    Ok(target
        .header("Authorization", &bearer)
        .header("Cookie", &format!("session_id={}", text("session_id"))))
}
