//! Command line of the test bed. `cargo run -p pilothouse-testbed -- up [--node]` runs a control plane until Ctrl-C.
//! `… -- postgres` runs PostgreSQL with an empty database. `… -- build` only builds the binaries, which takes minutes.
//! `… -- identity` only downloads the identity servers.
//! Exit status 3: this machine cannot run a node or PostgreSQL.
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::process::ExitCode;

use pilothouse_testbed::{ControlPlane, Error, Postgres, Result};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["build"] => pilothouse_testbed::build().await,
        ["identity"] => pilothouse_testbed::download_identity_servers(),
        ["up"] => until_signal(control_plane(false)).await,
        ["up", "--node"] => until_signal(control_plane(true)).await,
        ["postgres"] => until_signal(postgres()).await,
        _ => {
            eprintln!("usage: pilothouse-testbed build | identity | up [--node] | postgres");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            match error {
                Error::NodeUnavailable(_) | Error::PostgresUnavailable(_) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn control_plane(with_node: bool) -> Result<()> {
    let plane = ControlPlane::builder().start().await?;
    if with_node {
        println!("node        {}", plane.start_node(0).await?.name());
    }
    println!("directory   {}", plane.dir()?.display());
    println!("kubeconfig  {}", plane.dir()?.join("admin.kubeconfig").display());
    println!("server      {}", plane.server());
    println!("token       {}", plane.admin_token());
    println!("ready; press Ctrl-C to stop");
    std::future::pending().await
}

async fn postgres() -> Result<()> {
    let postgres = Postgres::builder().start()?;
    println!("directory   {}", postgres.dir().display());
    println!("database    {}", postgres.database()?);
    println!("ready; press Ctrl-C to stop");
    std::future::pending().await
}

async fn until_signal(running: impl Future<Output = Result<()>>) -> Result<()> {
    let listen =
        |kind| signal(kind).map_err(|source| Error::Io { doing: "listening for signals".into(), source });
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        ended = running => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}
