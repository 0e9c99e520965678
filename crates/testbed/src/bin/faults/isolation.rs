//! Isolation benchmark: how much faulty API servers slow down requests to a healthy cluster. Three phases alternate: no
//! load; Pilothouse with callers of the faulty clusters; and, as a control, a plain client that reads the same bytes
//! from the same servers. The control is the baseline, because on a machine with few processors the load alone adds
//! latency.

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

use pilothouse_testbed::{
    ControlPlane, FaultyServer, PilothouseServer, ResponseFault, Result, read_plainly, workloads,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{Callers, PHASE_DURATION, ROUNDS, measure, p99};

/// Memory limit of the server's list cache in MiB, and the memory allowed for the rest of its process in MB.
const LIST_CACHE_MIB: u64 = 256;
const BASE_MEMORY_MB: u64 = 200;
/// Address of a name server that receives queries and never responds. Its port must be 53.
const NAME_SERVER: &str = "127.53.53.53";

/// Cases: name, and the faulty clusters that callers request.
const CASES: [(&str, &[&str]); 5] = [
    ("one cluster with an endless list", &["endless"]),
    ("one cluster sending byte by byte", &["trickle"]),
    ("one cluster with 30 MB chunks", &["large-chunks"]),
    ("one cluster without DNS", &["without-dns"]),
    ("all four faulty clusters", &["endless", "trickle", "large-chunks", "without-dns"]),
];

/// A faulty cluster. `server` is `None` for the one whose host name is never resolved.
struct FaultyCluster {
    name: &'static str,
    server: Option<Arc<FaultyServer>>,
    id: i64,
}

/// Prints the table of faulty clusters, for the cases whose names contain a part of `wanted`.
pub(crate) async fn isolation(binary: &Path, wanted: &[String]) -> Result<()> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(&**part));
    if !CASES.iter().any(|(name, _)| is_wanted(name)) {
        return Ok(());
    }
    let healthy = ControlPlane::builder().controllers(false).start().await?;
    healthy.client().apply(&workloads::namespace("bench")).await?;
    healthy.client().apply(&workloads::deployment("bench", "web", 1)).await?;
    let names = NameServer::start(binary, healthy.dir()?);
    if let Err(why) = &names {
        println!("\nThe cluster without DNS is skipped: {why}");
    }
    let program = names.as_ref().map_or(binary, |names| names.wrapper.as_path());
    let memory = LIST_CACHE_MIB.to_string();
    let server = Arc::new(
        PilothouseServer::start_with(program, healthy.dir()?, &[("LIST_CACHE_MEMORY_MIB", &memory)]).await?,
    );
    let id = server.register("healthy", &healthy.kubeconfig()).await?;
    let healthy_paths = [
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bench&type=deployment&name=web"),
        format!("/api/k8s/configmaps?cluster_id={id}&namespace=*"),
    ];
    let mut faulty = Vec::new();
    for (name, fault) in [
        ("endless", ResponseFault::Endless),
        ("trickle", ResponseFault::Trickle),
        ("large-chunks", ResponseFault::LargeChunks),
    ] {
        let faulty_server = FaultyServer::start(fault).await?;
        let id = server.register_untested(name, &faulty_server.kubeconfig()).await?;
        faulty.push(FaultyCluster { name, server: Some(Arc::new(faulty_server)), id });
    }
    if names.is_ok() {
        let kubeconfig = healthy.kubeconfig().replace("127.0.0.1", "cluster.without-dns.example");
        let id = server.register_untested("without-dns", &kubeconfig).await?;
        faulty.push(FaultyCluster { name: "without-dns", server: None, id });
    }

    println!(
        "\n| faulty clusters | p99 of the healthy cluster: no load | control | Pilothouse | more than control | at most 2 ms more | maximum memory | setting + {BASE_MEMORY_MB} MB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (case, members) in CASES.into_iter().filter(|(name, _)| is_wanted(name)) {
        let faulty: Vec<_> = faulty.iter().filter(|cluster| members.contains(&cluster.name)).collect();
        if faulty.len() < members.len() {
            println!("| {case} | skipped | | | | | | |");
            continue;
        }
        run(case, &server, &healthy_paths, &faulty).await?;
    }
    Ok(())
}

async fn run(
    case: &str,
    server: &Arc<PilothouseServer>,
    healthy_paths: &[String; 2],
    faulty: &[&FaultyCluster],
) -> Result<()> {
    let mut times: [[Vec<f64>; 2]; 3] = Default::default();
    let max_memory = Arc::new(AtomicU64::new(0));
    for _ in 0..ROUNDS {
        let [quiet, control, pilothouse] = &mut times;
        measure_all(server, healthy_paths, quiet).await?;

        // Pilothouse first: the control reads as many bytes as Pilothouse read
        let before: Vec<_> = faulty.iter().map(|cluster| cluster.sent()).collect();
        let callers: Vec<_> = faulty.iter().map(|cluster| Callers::of(server, &cluster.path())).collect();
        let memory = tokio::spawn(watch_memory(server.pid(), max_memory.clone()));
        // wait until every caller is affected
        sleep(Duration::from_secs(1)).await;
        measure_all(server, healthy_paths, pilothouse).await?;
        for callers in callers {
            callers.stop().await;
        }
        memory.abort();

        let mut plain = JoinSet::new();
        for (cluster, before) in faulty.iter().zip(before) {
            if let Some(server) = cluster.server.clone() {
                let bytes = server.sent() - before;
                plain.spawn(async move { read_plainly(&server, bytes, 2 * PHASE_DURATION).await });
            }
        }
        measure_all(server, healthy_paths, control).await?;
        plain.shutdown().await;
    }
    let max_memory = max_memory.load(Ordering::Relaxed);
    for (index, what) in ["details", "a cached list"].iter().enumerate() {
        let [quiet, control, pilothouse] = times.each_ref().map(|mode| p99(mode[index].clone()));
        let more = pilothouse - control;
        let verdict = |met| if met { "met" } else { "missed" };
        println!(
            "| {case}: {what} | {quiet:.2} ms | {control:.2} ms | {pilothouse:.2} ms | {more:+.2} ms | {} | {max_memory} MB | {} |",
            verdict(more <= 2.0),
            verdict(max_memory <= LIST_CACHE_MIB + BASE_MEMORY_MB),
        );
    }
    Ok(())
}

/// Measures both requests sequentially.
async fn measure_all(
    server: &PilothouseServer,
    healthy_paths: &[String; 2],
    times: &mut [Vec<f64>; 2],
) -> Result<()> {
    for (path, times) in healthy_paths.iter().zip(times) {
        measure(server, path, times).await?;
    }
    Ok(())
}

/// Records the maximum resident memory of a process, in MB.
async fn watch_memory(pid: u32, max_memory: Arc<AtomicU64>) {
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        if let Some(kib) = line.and_then(|kib| kib.trim().parse::<u64>().ok()) {
            max_memory.fetch_max(kib * 1024 / 1_000_000, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

impl FaultyCluster {
    fn sent(&self) -> u64 {
        self.server.as_ref().map_or(0, |server| server.sent())
    }

    fn path(&self) -> String {
        format!("/api/k8s/pods?cluster_id={}&namespace=*", self.id)
    }
}

/// A name server that never responds, and a wrapper that starts Pilothouse in a mount namespace with it as the only
/// name server.
struct NameServer {
    wrapper: PathBuf,
    _socket: UdpSocket,
}

impl NameServer {
    fn start(binary: &Path, folder: &Path) -> Result<Self, String> {
        let failure = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let socket = UdpSocket::bind((NAME_SERVER, 53)).map_err(|error| failure("port 53", &error))?;
        let configuration = folder.join("resolv.conf");
        fs::write(&configuration, format!("nameserver {NAME_SERVER}\n"))
            .map_err(|error| failure("writing resolv.conf", &error))?;
        let wrapper = folder.join("pilothouse-without-dns");
        let script = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"' '{}' '{}' \"$@\"\n",
            configuration.display(),
            binary.display()
        );
        fs::write(&wrapper, script).map_err(|error| failure("writing a program", &error))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700))
            .map_err(|error| failure("writing a program", &error))?;
        let works = Command::new(&wrapper).arg("--version").output();
        let works = works.map_err(|error| failure("a mount namespace", &error))?;
        if !works.status.success() {
            return Err(failure("a mount namespace", &String::from_utf8_lossy(&works.stderr)));
        }
        Ok(Self { wrapper, _socket: socket })
    }
}
