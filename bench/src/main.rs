//! Benchmark program: measures the rows B1 to B14 of docs/benchmarks.md, all or some. The server runs on one core, the
//! load and the cluster on the other. Baselines are measured in the same run, alternating with the server.
#![allow(clippy::print_stdout, reason = "this is a command line")]
#![allow(clippy::disallowed_methods, reason = "a benchmark starts processes and reads the clock")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the report shows three significant digits"
)]

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use pilothouse_testbed::{PilothouseServer, kubernetes_version};

use crate::{
    error::{BenchError, Result},
    lists::{Fixture, Growth},
    plan::Plan,
    pods::{Population, Size},
    report::Section,
};

mod client;
mod decisions;
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
mod problems;
mod process;
mod report;
mod rights;
mod scale;
mod server;
mod trail;

/// Rows of the report.
const ROWS: [&str; 14] =
    ["b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9", "b10", "b11", "b12", "b13", "b14"];
/// File of the report.
const REPORT: &str = "docs/benchmarks.md";

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, print, and update docs/benchmarks.md
    Run {
        /// Rows to measure, such as b1 b10 [default: all]
        rows: Vec<String>,
        /// Server binary [default: build one]
        #[arg(long)]
        binary: Option<PathBuf>,
        /// Server binary of an earlier build, with which B4 and B11 compare in the same run
        #[arg(long)]
        before: Option<PathBuf>,
        /// Pods per cluster [default: 1000,10000,100000]
        #[arg(long, value_delimiter = ',')]
        pods: Vec<usize>,
        /// Print only, do not update the report
        #[arg(long)]
        dry: bool,
    },
    /// Run all rows once, with small sizes: checks that they work and that responses are correct
    Smoke {
        /// Rows to run [default: all]
        rows: Vec<String>,
        /// Server binary
        #[arg(long)]
        binary: PathBuf,
    },
    /// Fill a cluster with pods and save etcd's data in the cache directory
    Load {
        /// Number of pods
        pods: usize,
        /// Pods of 10 KB instead of 3 KB
        #[arg(long)]
        large: bool,
    },
    /// Count the instructions of a page request under valgrind, and compare with the reference
    Instructions {
        /// Server binary with symbols
        binary: PathBuf,
        /// Write the count as the new reference
        #[arg(long)]
        keep: bool,
    },
    /// Minimal server as a baseline; started by other rows
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
    // the runtime only drives setup; load runs on its own threads
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run { rows, binary, before, pods, dry } => {
                let binary = binary.map_or_else(PilothouseServer::build, Ok)?;
                let mut plan = Plan { before, ..Plan::full(binary) };
                if !pods.is_empty() {
                    plan.counts = pods;
                }
                measure(&plan, &parse_rows(rows)?, !dry).await
            }
            Command::Smoke { rows, binary } => measure(&Plan::smoke(binary), &parse_rows(rows)?, false).await,
            Command::Load { pods, large } => {
                let size = if large { Size::Large } else { Size::Small };
                plane::with_pods(Population { count: pods, size }).await.map(drop)
            }
            Command::Instructions { binary, keep } => instructions::count(&binary, keep).await,
            Command::Floor { .. } => Ok(()),
        }
    })
}

fn parse_rows(rows: Vec<String>) -> Result<Vec<String>> {
    match rows.iter().find(|row| !ROWS.contains(&row.as_str())) {
        Some(unknown) => {
            Err(BenchError::because(format!("unknown row {unknown}; the rows are: {}", ROWS.join(" "))))
        }
        None if rows.is_empty() => Ok(ROWS.map(str::to_owned).to_vec()),
        None => Ok(rows),
    }
}

async fn measure(plan: &Plan, rows: &[String], write: bool) -> Result<()> {
    let machine = report::machine(kubernetes_version())?;
    let selected = |row: &str| rows.iter().any(|other| other == row);
    let publish = |section: &Section| -> Result<()> {
        println!("{}", section.text);
        if write { report::write_section(REPORT.as_ref(), section, &machine) } else { Ok(()) }
    };
    let started = Instant::now();
    // B1 to B3 share a cluster and a server, so that these start only once per size
    if selected("b1") || selected("b2") || selected("b3") {
        let mut growth = Growth::default();
        for count in &plan.counts {
            let largest = *count == plan.pods();
            if !largest && !selected("b3") {
                continue;
            }
            let fixture = Fixture::new(plan, *count, Size::Small).await?;
            if largest && selected("b1") {
                publish(&lists::pages(&fixture, plan)?)?;
            }
            if largest && selected("b2") {
                publish(&lists::searches(&fixture, plan)?)?;
            }
            if selected("b3") {
                growth.measure(&fixture, plan)?;
            }
        }
        if selected("b3") {
            publish(&growth.section())?;
        }
    }
    if selected("b4") {
        publish(&lists::memory::measure(plan).await?)?;
    }
    if selected("b5") {
        publish(&lists::start::measure(plan).await?)?;
    }
    if selected("b6") {
        publish(&lists::freshness::measure(plan).await?)?;
    }
    if selected("b7") {
        publish(&fleet::measure(plan).await?)?;
    }
    if selected("b8") {
        publish(&scale::measure(plan).await?)?;
    }
    if selected("b9") {
        publish(&logs::measure(plan).await?)?;
    }
    if selected("b10") {
        publish(&trail::measure(plan).await?)?;
    }
    if selected("b11") {
        publish(&rights::measure(plan).await?)?;
    }
    if selected("b12") {
        publish(&decisions::measure(plan)?)?;
    }
    if selected("b13") {
        publish(&problems::measure(plan).await?)?;
    }
    if selected("b14") {
        publish(&lists::live::measure(plan).await?)?;
    }
    println!("{machine} {} s.", started.elapsed().as_secs());
    Ok(())
}
