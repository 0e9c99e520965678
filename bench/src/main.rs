//! Measures what docs/benchmarks.md reports: a row of the plan (B1 to B10) at a time, or all of them. The server runs on
//! one core; the load, and the cluster, on the other. Floors are measured in the same run, in turns.
#![allow(clippy::print_stdout, reason = "this is a command line")]
#![allow(clippy::disallowed_methods, reason = "it measures: it starts processes, and asks what time it is")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures of a report have three digits"
)]

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use pilothouse_testbed::{Shipped, kubernetes_version};

use crate::{
    error::{Failed, Result},
    lists::{Growth, Stage},
    plan::Plan,
    pods::{Population, Size},
    report::Section,
};

mod client;
mod error;
mod fake;
mod fleet;
mod floor;
mod instructions;
mod lists;
mod logs;
mod measure;
mod plan;
mod plane;
mod pods;
mod process;
mod report;
mod scale;
mod server;
mod trail;

/// The rows of the plan.
const ROWS: [&str; 10] = ["b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9", "b10"];
/// Where the report is.
const REPORT: &str = "docs/benchmarks.md";

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, prints, and writes into docs/benchmarks.md
    Run {
        /// Which rows, such as b1 b10; all without any
        rows: Vec<String>,
        /// A server that is built already, instead of building one
        #[arg(long)]
        binary: Option<PathBuf>,
        /// How many pods the clusters have, instead of 1,000, 10,000 and 100,000
        #[arg(long, value_delimiter = ',')]
        pods: Vec<usize>,
        /// Only prints
        #[arg(long)]
        dry: bool,
    },
    /// All rows once, small: only whether everything works and is right
    Smoke {
        /// Which rows; all without any
        rows: Vec<String>,
        /// The server
        #[arg(long)]
        binary: PathBuf,
    },
    /// Fills clusters and keeps what etcd holds in the cache folder
    Load {
        /// How many pods
        pods: usize,
        /// Pods of 10 KB, not of 3 KB
        #[arg(long)]
        large: bool,
    },
    /// The instructions of a page under valgrind, beside the number that is kept
    Instructions {
        /// The server, with symbols
        binary: PathBuf,
        /// Keeps what was counted
        #[arg(long)]
        keep: bool,
    },
    /// A handler that does the least; what measures starts it
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        bytes: usize,
        #[arg(long)]
        header: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    if let Command::Floor { bytes, header } = command {
        return floor::serve(bytes, &header);
    }
    // one thread drives what waits; what loads has threads of its own
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run { rows, binary, pods, dry } => {
                let binary = binary.map_or_else(Shipped::build, Ok)?;
                let mut plan = Plan::full(binary);
                if !pods.is_empty() {
                    plan.counts = pods;
                }
                measure(&plan, &chosen(rows)?, !dry).await
            }
            Command::Smoke { rows, binary } => measure(&Plan::smoke(binary), &chosen(rows)?, false).await,
            Command::Load { pods, large } => {
                let size = if large { Size::Large } else { Size::Small };
                plane::holding(Population { count: pods, size }).await.map(drop)
            }
            Command::Instructions { binary, keep } => instructions::count(&binary, keep).await,
            Command::Floor { .. } => Ok(()),
        }
    })
}

fn chosen(rows: Vec<String>) -> Result<Vec<String>> {
    match rows.iter().find(|row| !ROWS.contains(&row.as_str())) {
        Some(unknown) => Err(Failed::because(format!("there is no row {unknown}: {}", ROWS.join(" ")))),
        None if rows.is_empty() => Ok(ROWS.map(str::to_owned).to_vec()),
        None => Ok(rows),
    }
}

async fn measure(plan: &Plan, rows: &[String], write: bool) -> Result<()> {
    let machine = report::machine(kubernetes_version())?;
    let wants = |row: &str| rows.iter().any(|wanted| wanted == row);
    let tell = |section: &Section| -> Result<()> {
        println!("{}", section.text);
        if write { report::put(REPORT.as_ref(), section, &machine) } else { Ok(()) }
    };
    let began = Instant::now();
    // those that share a cluster and a server, so that neither starts thrice
    if wants("b1") || wants("b2") || wants("b3") {
        let mut growth = Growth::default();
        for count in &plan.counts {
            let biggest = *count == plan.pods();
            if !biggest && !wants("b3") {
                continue;
            }
            let stage = Stage::new(plan, *count, Size::Small).await?;
            if biggest && wants("b1") {
                tell(&lists::pages(&stage, plan)?)?;
            }
            if biggest && wants("b2") {
                tell(&lists::searches(&stage, plan)?)?;
            }
            if wants("b3") {
                growth.measure(&stage, plan)?;
            }
        }
        if wants("b3") {
            tell(&growth.section())?;
        }
    }
    if wants("b4") {
        tell(&lists::memory::measure(plan).await?)?;
    }
    if wants("b5") {
        tell(&lists::start::measure(plan).await?)?;
    }
    if wants("b6") {
        tell(&lists::freshness::measure(plan).await?)?;
    }
    if wants("b7") {
        tell(&fleet::measure(plan).await?)?;
    }
    if wants("b8") {
        tell(&scale::measure(plan).await?)?;
    }
    if wants("b9") {
        tell(&logs::measure(plan).await?)?;
    }
    if wants("b10") {
        tell(&trail::measure(plan).await?)?;
    }
    println!("{machine} {} s.", began.elapsed().as_secs());
    Ok(())
}
