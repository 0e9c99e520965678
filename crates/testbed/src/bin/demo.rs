//! Demo (`cargo demo`): starts a local Kubernetes cluster with workloads and a Pilothouse server with that cluster
//! registered, until Ctrl-C. The optional argument is a server binary to use instead of building one.
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::{env, path::Path, process::ExitCode, time::Duration};

use pilothouse_testbed::{ControlPlane, Error, Result, Shipped, workloads};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

const NAMESPACE: &str = "demo";
const POD_TIMEOUT: Duration = Duration::from_secs(120);

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
    // signal handlers are installed after the builds, so that Ctrl-C during a build ends this process and the compilers
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

/// Starts the cluster and the server, and returns only on an error. Dropping the future ends the server, then the
/// cluster, then removes their folder.
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
        cluster
            .wait_until(&format!("/api/v1/namespaces/{NAMESPACE}/pods/db-0"), running, POD_TIMEOUT)
            .await?;
    }

    println!("4/4 the server");
    let folder = plane.dir()?;
    let mut server = Shipped::start(binary, folder).await?;
    let id = server.register("demo", &plane.kubeconfig()).await?;
    print_instructions(&server, folder, id, node);
    Err(server.ended().await)
}

/// Prints address, credentials and commands to paste into another terminal.
fn print_instructions(server: &Shipped, folder: &Path, id: i64, node: bool) {
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
