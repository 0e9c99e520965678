//! B9: a long log through the stream, of a kubelet and of a server that has nothing else to do, and many followers of
//! slow ones.

use std::{
    io::{BufRead, BufReader, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use pilothouse_testbed::{ControlPlane, workloads};
use serde_json::{Value, json};

use crate::{
    client::Target,
    error::{Failed, Result},
    fake::{Fake, LINE},
    measure::{median, spread},
    plan::Plan,
    plane,
    process::memory,
    report::{Section, short},
    server::Server,
};

/// Of one user, as the server allows.
const PER_USER: usize = 25;
/// Until a pod has written all of the log.
const PATIENCE: Duration = Duration::from_secs(120);
const PASSWORD: &str = "only for the benchmark";

/// B9.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let fake = Fake::start(plan.log_bytes)?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(&plan.binary, folder.path(), &[]).await?;
    let real = Kubelet::measure(plan, &server).await?;
    let made = server.shipped.post("/api/k8s/clusters", fake.cluster("fake", &fake.url)).await?;
    let id = made["cluster"]["id"].as_i64().unwrap_or_default();
    let direct = Target::new(&fake.url, Some(&fake.ca_pem))?;
    // whole pieces, as the fake sends them
    let lines = plan.log_bytes / (LINE * 256) * 256;
    let (theirs, ours) = in_turns(plan, &direct, &server.target, (id, "long"), lines)?;

    sleep(plan.patience(Duration::from_secs(3)));
    let before = memory(server.pid())?.now;
    let mut followers = Vec::new();
    for user in 0..plan.followers.div_ceil(PER_USER) {
        let target = signed_in(&server, &format!("follower-{user}")).await?;
        for _ in 0..PER_USER.min(plan.followers - followers.len()) {
            followers.push(BufReader::new(target.connect()?.stream(&target.get(&stream(id, "slow")))?));
        }
    }
    // each has seen a line
    for follower in &mut followers {
        lines_until(follower, "event: log")?;
    }
    sleep(plan.patience(Duration::from_secs(3)));
    let each = (memory(server.pid())?.now - before) / followers.len() as f64 / 1e3;

    let mut section = Section::new(
        "B9",
        &format!("logs of {} MB, {} followers", plan.log_bytes / 1_000_000, plan.followers),
    );
    let mut table = vec![["", "MB/s of log"].map(str::to_owned).to_vec()];
    let rate = |rates: &[f64]| {
        let (median, spread) = spread(rates);
        format!("{} ({})", short(median), short(spread))
    };
    if let Some(Kubelet { theirs, ours }) = &real {
        table.push(vec!["kubelet: direct".into(), rate(theirs)]);
        table.push(vec!["kubelet: through the stream".into(), rate(ours)]);
    }
    table.push(vec!["fake: direct".into(), rate(&theirs)]);
    table.push(vec!["fake: through the stream".into(), rate(&ours)]);
    section.table(&table);
    section.say(
        "Lines of 128 bytes with their time. Of the kubelet: the log of a container that has ended, through the API \
         server. The fake is an API server in the load's process that has nothing to read or to parse: the most that \
         the stream can carry, and what both ends of it cost the load's core.",
    );
    match &real {
        Some(Kubelet { theirs, ours }) => {
            section.at_least(
                "throughput against direct, of a kubelet",
                median(ours) / median(theirs),
                0.95,
                "×",
            );
        }
        None => section.say("This machine cannot run a node: nothing was measured of a kubelet."),
    }
    section.at_least("throughput against direct, of the fake", median(&ours) / median(&theirs), 0.95, "×");
    section.verdict("memory a follower", each, 256.0, "KB");
    Ok(section)
}

/// Of a node that runs a pod which writes the log.
struct Kubelet {
    theirs: Vec<f64>,
    ours: Vec<f64>,
}

impl Kubelet {
    /// None where this machine cannot run a node.
    async fn measure(plan: &Plan, server: &Server) -> Result<Option<Self>> {
        // the node's programs with it, all on the core of the load, which this thread is on
        let plane = ControlPlane::builder().apiserver_flag("--audit-log-path=").start().await?;
        let Some(node) = plane.start_node_or_skip(0).await? else { return Ok(None) };
        let cluster = plane.client();
        let lines = plan.log_bytes / LINE;
        // with its time and a space before it, a line is as long as one of the fake's
        let write = format!("yes {} | head -n {lines}", "x".repeat(LINE - 32));
        let mut pod = workloads::pod_running("default", "long", &["sh", "-c", &write]);
        pod["spec"]["restartPolicy"] = "Never".into();
        let account = |account: &Value| account["metadata"]["uid"].is_string();
        cluster.wait_until("/api/v1/namespaces/default/serviceaccounts/default", account, PATIENCE).await?;
        cluster.apply(&pod).await?;
        let done = |pod: &Value| pod["status"]["phase"] == "Succeeded";
        cluster.wait_until("/api/v1/namespaces/default/pods/long", done, PATIENCE).await?;
        let id = server.shipped.register("kubelet", &plane.kubeconfig()).await?;
        let (theirs, ours) = in_turns(plan, &plane::direct(&plane)?, &server.target, (id, "long"), lines)?;
        drop(node);
        Ok(Some(Self { theirs, ours }))
    }
}

/// The same log direct and through the stream, in turns: of each, MB a second.
fn in_turns(
    plan: &Plan,
    direct: &Target,
    ours: &Target,
    (cluster, pod): (i64, &str),
    lines: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut rates = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        rates.0.push(read_direct(direct, pod, lines)? / 1e6);
        rates.1.push(read_ours(ours, &stream(cluster, pod), lines)? / 1e6);
    }
    Ok(rates)
}

fn stream(cluster: i64, pod: &str) -> String {
    format!(
        "/api/k8s/pods/logs/stream?cluster_id={cluster}&namespace=default&pod_name={pod}&tail_lines=10000"
    )
}

/// Bytes of the log a second, all of whose lines must come.
fn read_direct(target: &Target, pod: &str, lines: usize) -> Result<f64> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/log?follow=true&timestamps=true");
    let mut log = target.connect()?.stream(&target.get(&path))?;
    let (began, mut read, mut buffer) = (Instant::now(), 0, vec![0; 256 << 10]);
    loop {
        match log.read(&mut buffer)? {
            0 => break,
            some => read += buffer[..some].iter().filter(|byte| **byte == b'\n').count(),
        }
    }
    rate(began, read, lines)
}

/// The same of the stream.
fn read_ours(target: &Target, path: &str, lines: usize) -> Result<f64> {
    // from before its beginning, not with its newest lines
    let target = target.clone().header("Last-Event-ID", "2020-01-01T00:00:00Z_0_00000000");
    let mut events = BufReader::with_capacity(256 << 10, target.connect()?.stream(&target.get(path))?);
    let (began, mut read, mut line) = (Instant::now(), 0, Vec::new());
    loop {
        line.clear();
        if events.read_until(b'\n', &mut line)? == 0 {
            return Err(Failed::because(format!("the stream ended without saying so, after {read} lines")));
        }
        if line.starts_with(b"event: log") {
            read += 1;
        } else if line.starts_with(b"event: end") {
            break;
        }
    }
    rate(began, read, lines)
}

fn rate(began: Instant, read: usize, wanted: usize) -> Result<f64> {
    let took = began.elapsed().as_secs_f64();
    if read != wanted {
        return Err(Failed::because(format!("{read} of {wanted} lines came")));
    }
    Ok((read * LINE) as f64 / took)
}

fn lines_until(events: &mut impl BufRead, start: &str) -> Result<()> {
    let mut line = String::new();
    while !line.starts_with(start) {
        line.clear();
        if events.read_line(&mut line)? == 0 {
            return Err(Failed::because("a follower's stream ended"));
        }
    }
    Ok(())
}

/// A user of their own.
async fn signed_in(server: &Server, name: &str) -> Result<Target> {
    let user = json!({"username": name, "password": PASSWORD, "role": "viewer"});
    server.shipped.post("/api/auth/users", user).await?;
    let target = Target::new(server.shipped.address(), None)?;
    let login = json!({"username": name, "password": PASSWORD}).to_string();
    let answer: Value =
        serde_json::from_slice(target.connect()?.good(&target.post("/api/auth/login", &login))?)?;
    let text = |key: &str| answer["data"][key].as_str().unwrap_or_default().to_owned();
    let bearer = format!("Bearer {}", text("access_token"));
    Ok(target
        .header("Authorization", &bearer)
        .header("Cookie", &format!("session_id={}", text("session_id"))))
}
