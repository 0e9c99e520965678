//! What clusters that lie cost whoever uses another: in turns, quiet; a plain client that reads the same bytes from the
//! same servers instead of us (on a machine with few processors, quiet is no measure); and us.

use std::{
    fs,
    net::UdpSocket,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pilothouse_testbed::{ControlPlane, Lie, LyingServer, Result, Shipped, read_plainly, workloads};
use tokio::{task::JoinSet, time::sleep};

use crate::{Callers, TURN, TURNS, measure, p99};

/// The setting of the server's list cache, in MiB, and what its process may take besides.
const LISTS_MIB: u64 = 256;
const BESIDES_MIB: u64 = 200;
/// A name server that takes questions and never answers. Its port has to be 53.
const NAME_SERVER: &str = "127.53.53.53";

/// Which clusters are asked for.
const CASES: [(&str, &[&str]); 5] = [
    ("one cluster endless", &["endless"]),
    ("one cluster dripping", &["dripping"]),
    ("one cluster with 30 MB chunks", &["heavy"]),
    ("one cluster without DNS", &["nameless"]),
    ("all four of them", &["endless", "dripping", "heavy", "nameless"]),
];

/// A cluster that lies; none is behind a name that is never resolved.
struct Liar {
    name: &'static str,
    server: Option<Arc<LyingServer>>,
    id: i64,
}

/// The table of clusters that lie; those whose names have a part of `wanted`.
pub(crate) async fn isolation(binary: &Path, wanted: &[String]) -> Result<()> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(&**part));
    if !CASES.iter().any(|(name, _)| is_wanted(name)) {
        return Ok(());
    }
    let well = ControlPlane::builder().controllers(false).start().await?;
    well.client().apply(&workloads::namespace("bench")).await?;
    well.client().apply(&workloads::deployment("bench", "web", 1)).await?;
    let names = NameServer::start(binary, well.dir()?);
    if let Err(why) = &names {
        println!("\nThe cluster without DNS is left out: {why}");
    }
    let started = names.as_ref().map_or(binary, |names| names.wrapper.as_path());
    let memory = LISTS_MIB.to_string();
    let server =
        Arc::new(Shipped::start_with(started, well.dir()?, &[("LIST_CACHE_MEMORY_MIB", &memory)]).await?);
    let id = server.register("well", &well.kubeconfig()).await?;
    let good = [
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bench&type=deployment&name=web"),
        format!("/api/k8s/configmaps?cluster_id={id}&namespace=*"),
    ];
    let mut liars = Vec::new();
    for (name, lie) in [("endless", Lie::Endless), ("dripping", Lie::Dripping), ("heavy", Lie::Heavy)] {
        let lying = LyingServer::start(lie).await?;
        let id = server.register_untested(name, &lying.kubeconfig()).await?;
        liars.push(Liar { name, server: Some(Arc::new(lying)), id });
    }
    if names.is_ok() {
        let kubeconfig = well.kubeconfig().replace("127.0.0.1", "cluster.without-dns.example");
        let id = server.register_untested("nameless", &kubeconfig).await?;
        liars.push(Liar { name: "nameless", server: None, id });
    }

    println!(
        "\n| clusters that lie | others' p99: quiet | control | us | more than control | at most 2 ms more | our memory, at most | setting + {BESIDES_MIB} MB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (case, members) in CASES.into_iter().filter(|(name, _)| is_wanted(name)) {
        let liars: Vec<_> = liars.iter().filter(|liar| members.contains(&liar.name)).collect();
        if liars.len() < members.len() {
            println!("| {case} | left out | | | | | | |");
            continue;
        }
        run(case, &server, &good, &liars).await?;
    }
    Ok(())
}

async fn run(case: &str, server: &Arc<Shipped>, good: &[String; 2], liars: &[&Liar]) -> Result<()> {
    let mut times: [[Vec<f64>; 2]; 3] = Default::default();
    let most = Arc::new(AtomicU64::new(0));
    for _ in 0..TURNS {
        let [quiet, control, us] = &mut times;
        each(server, good, quiet).await?;

        // us before the control, which reads what we read
        let before: Vec<_> = liars.iter().map(|liar| liar.sent()).collect();
        let callers: Vec<_> = liars.iter().map(|liar| Callers::of(server, &liar.path())).collect();
        let memory = tokio::spawn(watch_memory(server.pid(), most.clone()));
        // until each has met it
        sleep(Duration::from_secs(1)).await;
        each(server, good, us).await?;
        for callers in callers {
            callers.stop().await;
        }
        memory.abort();

        let mut plain = JoinSet::new();
        for (liar, before) in liars.iter().zip(before) {
            if let Some(server) = liar.server.clone() {
                let bytes = server.sent() - before;
                plain.spawn(async move { read_plainly(&server, bytes, 2 * TURN).await });
            }
        }
        each(server, good, control).await?;
        plain.shutdown().await;
    }
    let most = most.load(Ordering::Relaxed);
    for (which, what) in ["details", "a cached list"].iter().enumerate() {
        let [quiet, control, us] = times.each_ref().map(|mode| p99(mode[which].clone()));
        let more = us - control;
        let verdict = |met| if met { "met" } else { "missed" };
        println!(
            "| {case}: {what} | {quiet:.2} ms | {control:.2} ms | {us:.2} ms | {more:+.2} ms | {} | {most} MB | {} |",
            verdict(more <= 2.0),
            verdict(most <= LISTS_MIB + BESIDES_MIB),
        );
    }
    Ok(())
}

/// Measures both requests, one after the other.
async fn each(server: &Shipped, good: &[String; 2], times: &mut [Vec<f64>; 2]) -> Result<()> {
    for (path, times) in good.iter().zip(times) {
        measure(server, path, times).await?;
    }
    Ok(())
}

/// Keeps the most memory that a process was seen to take, in MB.
async fn watch_memory(pid: u32, most: Arc<AtomicU64>) {
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        if let Some(kib) = line.and_then(|kib| kib.trim().parse::<u64>().ok()) {
            most.fetch_max(kib * 1024 / 1_000_000, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

impl Liar {
    fn sent(&self) -> u64 {
        self.server.as_ref().map_or(0, |server| server.sent())
    }

    fn path(&self) -> String {
        format!("/api/k8s/pods?cluster_id={}&namespace=*", self.id)
    }
}

/// A name server that never answers, and a program that starts the server with it as the only one, by a mount namespace.
struct NameServer {
    wrapper: PathBuf,
    _socket: UdpSocket,
}

impl NameServer {
    fn start(binary: &Path, folder: &Path) -> Result<Self, String> {
        let said = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let socket = UdpSocket::bind((NAME_SERVER, 53)).map_err(|error| said("port 53", &error))?;
        let configuration = folder.join("resolv.conf");
        fs::write(&configuration, format!("nameserver {NAME_SERVER}\n"))
            .map_err(|error| said("writing resolv.conf", &error))?;
        let wrapper = folder.join("pilothouse-without-dns");
        let script = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"' '{}' '{}' \"$@\"\n",
            configuration.display(),
            binary.display()
        );
        fs::write(&wrapper, script).map_err(|error| said("writing a program", &error))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700))
            .map_err(|error| said("writing a program", &error))?;
        let works = Command::new(&wrapper).arg("--version").output();
        let works = works.map_err(|error| said("a mount namespace", &error))?;
        if !works.status.success() {
            return Err(said("a mount namespace", &String::from_utf8_lossy(&works.stderr)));
        }
        Ok(Self { wrapper, _socket: socket })
    }
}
