//! A closed loop: each client sends its next request when it has the answer to the last. Rounds of all subjects take
//! turns, so that the machine's moods are the same for all; what is reported is the median over rounds, and how far its
//! middle half lies apart.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::Target,
    error::{Failed, Result},
    process,
};

/// What is asked over and over.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) request: Vec<u8>,
    /// How many ask at once.
    pub(crate) clients: usize,
    /// Whose processor time counts.
    pub(crate) pids: Vec<u32>,
}

/// Of each round, what it took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) name: String,
    /// Processor microseconds an operation.
    pub(crate) cpu: Vec<f64>,
    /// Milliseconds.
    pub(crate) p50: Vec<f64>,
    pub(crate) p90: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    /// Operations a second.
    pub(crate) rate: Vec<f64>,
    /// Bytes of the answer's body.
    pub(crate) bytes: usize,
}

/// How many requests a client sends before it is measured.
const WARM_UP: usize = 20;

/// All subjects, in turns.
pub(crate) fn rounds(subjects: &[Subject], rounds: usize, window: Duration) -> Result<Vec<Measured>> {
    let mut all: Vec<_> = subjects
        .iter()
        .map(|subject| Measured { name: subject.name.clone(), ..Measured::default() })
        .collect();
    for _ in 0..rounds {
        for (subject, measured) in subjects.iter().zip(&mut all) {
            let round = closed_loop(subject, window)
                .map_err(|error| Failed::because(format!("{}: {error}", subject.name)))?;
            let operations = round.latencies.len() as f64;
            measured.cpu.push(round.cpu.as_secs_f64() * 1e6 / operations);
            measured.rate.push(operations / round.took.as_secs_f64());
            measured.p50.push(percentile(&round.latencies, 0.50));
            measured.p90.push(percentile(&round.latencies, 0.90));
            measured.p99.push(percentile(&round.latencies, 0.99));
            measured.bytes = round.bytes;
        }
    }
    Ok(all)
}

struct Round {
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    cpu: Duration,
    took: Duration,
    bytes: usize,
}

fn closed_loop(subject: &Subject, window: Duration) -> Result<Round> {
    let cpu = || subject.pids.iter().map(|pid| process::cpu(*pid)).sum::<Result<Duration>>();
    let (ready, go) = (Barrier::new(subject.clients + 1), Barrier::new(subject.clients + 1));
    let client = || -> Result<(Vec<f64>, usize)> {
        let warm = || -> Result<_> {
            let mut connection = subject.target.connect()?;
            let mut bytes = 0;
            for _ in 0..WARM_UP {
                bytes = connection.good(&subject.request)?.len();
            }
            Ok((connection, bytes))
        };
        let warm = warm();
        ready.wait();
        go.wait();
        let (mut connection, bytes) = warm?;
        let mut latencies = Vec::with_capacity(1 << 16);
        let end = Instant::now() + window;
        loop {
            let sent = Instant::now();
            if sent >= end {
                return Ok((latencies, bytes));
            }
            let (status, body) = connection.exchange(&subject.request)?;
            let took = sent.elapsed();
            // times in it are not always of the same length, and rows may change
            if status != 200 || body.len().abs_diff(bytes) > 64 + bytes / 4 {
                return Err(Failed::because(format!(
                    "answered {status} with {} bytes instead of {bytes}",
                    body.len()
                )));
            }
            latencies.push(took.as_secs_f64() * 1e3);
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..subject.clients).map(|_| scope.spawn(client)).collect();
        ready.wait();
        let before = cpu();
        let began = Instant::now();
        go.wait();
        let mut latencies = Vec::new();
        let mut bytes = 0;
        for client in clients {
            let (mine, length) = client.join().map_err(|_| Failed::because("a client panicked"))??;
            latencies.extend(mine);
            bytes = length;
        }
        let took = began.elapsed();
        let cpu = cpu()?.saturating_sub(before?);
        latencies.sort_by(f64::total_cmp);
        if latencies.is_empty() {
            return Err(Failed::because("nothing was answered in time"));
        }
        Ok(Round { latencies, cpu, took, bytes })
    })
}

/// Of sorted values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}

/// The median and how far its middle half lies apart.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (percentile(&sorted, 0.5), percentile(&sorted, 0.75) - percentile(&sorted, 0.25))
}

/// The slope of the line through the logarithms: how a value grows with a size.
pub(crate) fn log_log_slope(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = logs.len() as f64;
    let (x, y) = logs.iter().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x / n, sy + y / n));
    let covariance: f64 = logs.iter().map(|(a, b)| (a - x) * (b - y)).sum();
    let variance: f64 = logs.iter().map(|(a, _)| (a - x).powi(2)).sum();
    covariance / variance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let values = [4.0, 1.0, 3.0, 2.0, 5.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(spread(&values), (3.0, 2.0));
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.99), 99.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        let linear = [(1e3, 0.1), (1e4, 1.0), (1e5, 10.0)];
        assert!((log_log_slope(&linear) - 1.0).abs() < 1e-9);
        assert!(log_log_slope(&[(1e3, 2.0), (1e5, 2.0)]).abs() < 1e-9);
    }
}
