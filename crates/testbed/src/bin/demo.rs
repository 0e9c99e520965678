//! `cargo demo`: a real local cluster with workloads, and the server with that cluster registered, until Ctrl-C. With an
//! argument, the server is that binary, and none is built.
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::{env, path::Path, process::ExitCode, time::Duration};

use pilothouse_testbed::{ControlPlane, Error, Result, Shipped, workloads};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

const NAMESPACE: &str = "demo";
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    // While it builds, a signal ends it and the compilers as if it were a script.
    let binary = match env::args_os().nth(1) {
        Some(binary) => binary.into(),
        None => {
            println!("1/4 the server: cargo build --release -p pilothouse");
            Shipped::build()?
        }
    };
    println!("2/4 the cluster's programs: built from source the first time, then kept");
    pilothouse_testbed::build().await?;

    let listen =
        |kind| signal(kind).map_err(|source| Error::Io { doing: "listening for signals".into(), source });
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        error = run(&binary) => return error,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    println!("\nended; nothing is left");
    Ok(())
}

/// Starts everything and stays. Whoever drops this ends the server, then the cluster, then their folder.
async fn run(binary: &Path) -> Result<()> {
    println!("3/4 a cluster");
    let plane = ControlPlane::builder().start().await?;
    let node = match plane.start_node(0).await {
        Ok(_) => true,
        Err(Error::NodeUnavailable(why)) => {
            println!("    without running pods, and so without logs: {why}");
            false
        }
        Err(error) => return Err(error),
    };
    let cluster = plane.client();
    for object in workloads::samples(NAMESPACE) {
        cluster.apply(&object).await?;
    }
    if node {
        let running = |pod: &Value| pod["status"]["phase"] == "Running";
        cluster.wait_until(&format!("/api/v1/namespaces/{NAMESPACE}/pods/db-0"), running, PATIENCE).await?;
    }

    println!("4/4 the server");
    let folder = plane.dir()?;
    let mut server = Shipped::start(binary, folder).await?;
    let id = server.register("demo", &plane.kubeconfig()).await?;
    introduce(&server, folder, id, node);
    Err(server.ended().await)
}

/// What a person needs to know, and three lines for another terminal.
fn introduce(server: &Shipped, folder: &Path, id: i64, node: bool) {
    let (address, password) = (server.address(), server.password());
    let jar = folder.join("cookies");
    let jar = jar.display();
    let json = "-H 'Content-Type: application/json'";
    let call = format!(r#"curl -s -b {jar} -H "Authorization: Bearer $TOKEN""#);
    println!("\naddress   {address}\nuser      admin\npassword  {password}");
    println!("folder    {}\n\nIn another terminal:\n", folder.display());
    println!(
        r#"TOKEN=$(curl -s -c {jar} {json} -d '{{"username":"admin","password":"{password}"}}' {address}/api/auth/login | sed 's/.*"access_token":"\([^"]*\)".*/\1/')"#
    );
    println!("{call} '{address}/api/k8s/workloads?cluster_id={id}&namespace={NAMESPACE}'");
    if node {
        let pod = format!("namespace={NAMESPACE}&pod_name=db-0&tail_lines=5");
        println!("{call} '{address}/api/k8s/pods/logs?cluster_id={id}&{pod}'");
    } else {
        let web = format!(r#""namespace":"{NAMESPACE}","type":"deployment","name":"web""#);
        println!(
            r#"{call} {json} -d '{{"cluster_id":{id},{web},"replicas":3}}' {address}/api/k8s/workloads/scale"#
        );
    }
    println!("\nCtrl-C ends it.");
}
