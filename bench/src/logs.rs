//! B9: a long log through the stream, and many followers of slow ones.

use std::{
    io::{BufRead, BufReader, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::Target,
    error::{Failed, Result},
    fake::{Fake, LINE},
    measure::{median, spread},
    plan::Plan,
    process::memory,
    report::{Section, short},
    server::Server,
};

/// Of one user, as the server allows.
const PER_USER: usize = 25;
const PASSWORD: &str = "only for the benchmark";

/// B9.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let fake = Fake::start(plan.log_bytes)?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(&plan.binary, folder.path(), &[]).await?;
    let made = server.shipped.post("/api/k8s/clusters", fake.cluster("fake", &fake.url)).await?;
    let id = made["cluster"]["id"].as_i64().unwrap_or_default();
    let stream = |pod: &str| {
        format!("/api/k8s/pods/logs/stream?cluster_id={id}&namespace=default&pod_name={pod}&tail_lines=10000")
    };
    let direct = Target::new(&fake.url, Some(&fake.ca_pem))?;

    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds.min(3) {
        theirs.push(read_direct(&direct)? / 1e6);
        ours.push(read_ours(&server.target, &stream("long"), plan.log_bytes)? / 1e6);
    }

    sleep(plan.patience(Duration::from_secs(3)));
    let before = memory(server.pid())?.now;
    let mut followers = Vec::new();
    for user in 0..plan.followers.div_ceil(PER_USER) {
        let target = signed_in(&server, &format!("follower-{user}")).await?;
        for _ in 0..PER_USER.min(plan.followers - followers.len()) {
            followers.push(BufReader::new(target.connect()?.stream(&target.get(&stream("slow")))?));
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
    for (name, rates) in [("direct", &theirs), ("through the stream", &ours)] {
        let (median, spread) = spread(rates);
        table.push(vec![name.into(), format!("{} ({})", short(median), short(spread))]);
    }
    section.table(&table);
    section.say("The log comes from a fake API server in the load's process, over TLS, lines of 128 bytes: no node is needed, and nothing else is as fast.");
    section.at_least("throughput against direct", median(&ours) / median(&theirs), 0.95, "×");
    section.verdict("memory a follower", each, 256.0, "KB");
    Ok(section)
}

/// Bytes a second.
fn read_direct(target: &Target) -> Result<f64> {
    let path = "/api/v1/namespaces/default/pods/long/log?container=app&follow=true&timestamps=true";
    let mut log = target.connect()?.stream(&target.get(path))?;
    let (began, mut bytes, mut buffer) = (Instant::now(), 0, vec![0; 256 << 10]);
    loop {
        match log.read(&mut buffer)? {
            0 => return Ok(bytes as f64 / began.elapsed().as_secs_f64()),
            read => bytes += read,
        }
    }
}

/// Bytes of the log a second, by its lines, all of which must come.
fn read_ours(target: &Target, path: &str, log_bytes: usize) -> Result<f64> {
    let mut events = BufReader::with_capacity(256 << 10, target.connect()?.stream(&target.get(path))?);
    let (began, mut lines, mut line) = (Instant::now(), 0, Vec::new());
    loop {
        line.clear();
        if events.read_until(b'\n', &mut line)? == 0 {
            return Err(Failed::because(format!("the stream ended without saying so, after {lines} lines")));
        }
        if line.starts_with(b"event: log") {
            lines += 1;
        } else if line.starts_with(b"event: end") {
            break;
        }
    }
    let took = began.elapsed().as_secs_f64();
    // whole pieces, as the fake sends them
    let wanted = log_bytes / (LINE * 256) * 256;
    if lines != wanted {
        return Err(Failed::because(format!("{lines} of {wanted} lines came")));
    }
    Ok((lines * LINE) as f64 / took)
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
