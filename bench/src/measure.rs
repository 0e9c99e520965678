//! Closed-loop load: each client sends its next request after the response to the previous one. Rounds of all subjects
//! alternate, so that changes of the machine's speed affect all equally. Reported are the median over rounds and the
//! interquartile range.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::Target,
    error::{BenchError, Result},
    process,
};

/// A request that is measured.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) request: Vec<u8>,
    /// Number of concurrent clients.
    pub(crate) clients: usize,
    /// Processes whose CPU time is measured.
    pub(crate) pids: Vec<u32>,
}

/// Measurements of a subject, one value per round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) name: String,
    /// CPU time per operation, in microseconds.
    pub(crate) cpu: Vec<f64>,
    /// Latency percentiles, in milliseconds.
    pub(crate) p50: Vec<f64>,
    pub(crate) p90: Vec<f64>,
    pub(crate) p99: Vec<f64>,
    /// Operations per second.
    pub(crate) rate: Vec<f64>,
    /// Size of the response body, in bytes.
    pub(crate) bytes: usize,
}

/// Requests that each client sends before the measurement.
const WARM_UP: usize = 20;

/// Measures all subjects in alternating rounds.
pub(crate) fn rounds(subjects: &[Subject], rounds: usize, window: Duration) -> Result<Vec<Measured>> {
    let mut all: Vec<_> = subjects
        .iter()
        .map(|subject| Measured { name: subject.name.clone(), ..Measured::default() })
        .collect();
    for _ in 0..rounds {
        for (subject, measured) in subjects.iter().zip(&mut all) {
            let round = closed_loop(subject, window)
                .map_err(|error| BenchError::because(format!("{}: {error}", subject.name)))?;
            let operations = round.latencies.len() as f64;
            measured.cpu.push(round.cpu.as_secs_f64() * 1e6 / operations);
            measured.rate.push(operations / round.duration.as_secs_f64());
            measured.p50.push(percentile(&round.latencies, 0.50));
            measured.p90.push(percentile(&round.latencies, 0.90));
            measured.p99.push(percentile(&round.latencies, 0.99));
            measured.bytes = round.bytes;
        }
    }
    Ok(all)
}

struct Round {
    /// Sorted latencies, in milliseconds.
    latencies: Vec<f64>,
    cpu: Duration,
    duration: Duration,
    bytes: usize,
}

fn closed_loop(subject: &Subject, window: Duration) -> Result<Round> {
    let cpu = || subject.pids.iter().map(|pid| process::cpu(*pid)).sum::<Result<Duration>>();
    let (ready, start) = (Barrier::new(subject.clients + 1), Barrier::new(subject.clients + 1));
    let client = || -> Result<(Vec<f64>, usize)> {
        let warm_up = || -> Result<_> {
            let mut connection = subject.target.connect()?;
            let mut bytes = 0;
            for _ in 0..WARM_UP {
                bytes = connection.expect_success(&subject.request)?.len();
            }
            Ok((connection, bytes))
        };
        let warm_up = warm_up();
        ready.wait();
        start.wait();
        let (mut connection, bytes) = warm_up?;
        let mut latencies = Vec::with_capacity(1 << 16);
        let end = Instant::now() + window;
        loop {
            let sent = Instant::now();
            if sent >= end {
                return Ok((latencies, bytes));
            }
            let (status, body) = connection.exchange(&subject.request)?;
            let duration = sent.elapsed();
            // timestamps in the body vary in length, and rows may change
            if status != 200 || body.len().abs_diff(bytes) > 64 + bytes / 4 {
                return Err(BenchError::because(format!(
                    "status {status} with {} bytes instead of {bytes}",
                    body.len()
                )));
            }
            latencies.push(duration.as_secs_f64() * 1e3);
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..subject.clients).map(|_| scope.spawn(client)).collect();
        ready.wait();
        let before = cpu();
        let started = Instant::now();
        start.wait();
        let mut latencies = Vec::new();
        let mut bytes = 0;
        for client in clients {
            let (times, length) = client.join().map_err(|_| BenchError::because("a client panicked"))??;
            latencies.extend(times);
            bytes = length;
        }
        let duration = started.elapsed();
        let cpu = cpu()?.saturating_sub(before?);
        latencies.sort_by(f64::total_cmp);
        if latencies.is_empty() {
            return Err(BenchError::because("no response within the window"));
        }
        Ok(Round { latencies, cpu, duration, bytes })
    })
}

/// Percentile of sorted values.
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

/// The median and the interquartile range.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (percentile(&sorted, 0.5), percentile(&sorted, 0.75) - percentile(&sorted, 0.25))
}

/// Slope of the regression line through the logarithms: the exponent with which y grows with x.
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
    fn statistics_match_values_computed_by_hand() {
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
