//! `cargo run -p pilothouse-testbed -- up [--node]`: a control plane to play with, until Ctrl-C.
//! `… -- postgres`: a PostgreSQL with an empty database. `… -- build`: only the programs, so that the first start takes no minutes.
#![allow(clippy::print_stdout, reason = "this is a command line")]

use std::process::ExitCode;

use pilothouse_testbed::{ControlPlane, Error, Postgres, Result};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["build"] => pilothouse_testbed::build().await,
        ["up"] => until_ended(control_plane(false)).await,
        ["up", "--node"] => until_ended(control_plane(true)).await,
        ["postgres"] => until_ended(postgres()).await,
        _ => {
            eprintln!("usage: pilothouse-testbed build | up [--node] | postgres");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn control_plane(with_node: bool) -> Result<()> {
    let plane = ControlPlane::builder().start().await?;
    if with_node {
        println!("node        {}", plane.start_node(0).await?.name());
    }
    println!("folder      {}", plane.dir()?.display());
    println!("kubeconfig  {}", plane.dir()?.join("admin.kubeconfig").display());
    println!("server      {}", plane.server());
    println!("token       {}", plane.admin_token());
    println!("ready; Ctrl-C ends it");
    std::future::pending().await
}

async fn postgres() -> Result<()> {
    let postgres = Postgres::builder().start()?;
    println!("folder      {}", postgres.dir().display());
    println!("database    {}", postgres.database()?);
    println!("ready; Ctrl-C ends it");
    std::future::pending().await
}

async fn until_ended(stay: impl Future<Output = Result<()>>) -> Result<()> {
    let listen =
        |kind| signal(kind).map_err(|source| Error::Io { doing: "listening for signals".into(), source });
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        ended = stay => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}
