//! B6: delay until a change is visible. Pods are patched at a constant rate. For one more pod, two delays are measured
//! from the API server's response to its patch: until a plain watch receives the event, and until the list shows the
//! change.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use rustix::{process::setpriority_process, thread::gettid};
use serde_json::Value;

use super::{Fixture, pin_processes};
use crate::{
    client::Target,
    error::{BenchError, Result},
    measure::{Subject, median, percentile, rounds},
    plan::Plan,
    plane,
    pods::{Population, Size},
    report::{Section, short},
};

/// Poll interval of the list, until it shows the change.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Timeout after which a change counts as lost.
const TIMEOUT: Duration = Duration::from_secs(30);
const LABEL: &str = "bench-probe";

/// B6.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let fixture = Fixture::new(plan, plan.pods(), Size::Small).await?;
    fixture.wait_until_complete()?;
    pin_processes(&fixture)?;
    let direct = plane::direct(&fixture.plane)?;
    let page = [fixture.subject("first page", &fixture.path(""), 1)];
    let p99_without_changes = median(&rounds(&page, plan.rounds, plan.window)?[0].p99);

    let mut section = Section::new("B6", &format!("freshness, {} pods", fixture.pods.count));
    let head = [
        "target changes/s",
        "actual",
        "watch p50 ms",
        "watch p99 ms",
        "list p50 ms",
        "list p99 ms",
        "B1's p99 ms",
        "samples",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let mut verdicts = Vec::new();
    for rate in [20, 200, 1000] {
        let result = measure_at_rate(&fixture, &direct, &page[0], plan, rate)?;
        let at = |values: &[f64], share| percentile(values, share);
        table.push(vec![
            rate.to_string(),
            short(result.rate),
            short(at(&result.watch, 0.5)),
            short(at(&result.watch, 0.99)),
            short(at(&result.list, 0.5)),
            short(at(&result.list, 0.99)),
            short(result.page_p99),
            result.list.len().to_string(),
        ]);
        verdicts.push((
            format!("at {rate}/s, p99 above that of a plain watch"),
            at(&result.list, 0.99) - at(&result.watch, 0.99),
            50.0,
            "ms",
        ));
        verdicts.push((
            format!("at {rate}/s, B1's p99 relative to no changes ({} ms)", short(p99_without_changes)),
            result.page_p99 / p99_without_changes,
            2.0,
            "×",
        ));
    }
    section.table(&table);
    for (what, measured, target, unit) in verdicts {
        section.verdict(&what, measured, target, unit);
    }
    Ok(section)
}

/// Result for one rate of changes. Delays are sorted, in milliseconds after the API server's response.
struct RateResult {
    rate: f64,
    watch: Vec<f64>,
    list: Vec<f64>,
    page_p99: f64,
}

fn measure_at_rate(
    fixture: &Fixture,
    direct: &Target,
    page: &Subject,
    plan: &Plan,
    rate: usize,
) -> Result<RateResult> {
    let (done, change_count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let event_times = Mutex::new(HashMap::<usize, Instant>::new());
    let (ready, watch_ready) = mpsc::channel();
    let time = plan.freshness;
    // the first pod is the probe
    let changed: Vec<_> = (1..fixture.pods.count).collect();
    thread::scope(|scope| {
        let watch = scope.spawn(|| watch(direct, &event_times, &done, ready));
        // the threads are ended below, for any result of the closure
        let result = (|| -> Result<RateResult> {
            watch_ready.recv_timeout(TIMEOUT)?;
            let writers = rate.div_ceil(100);
            let writers: Vec<_> = (0..writers)
                .map(|n| {
                    let interval = Duration::from_secs_f64(writers as f64 / rate as f64);
                    let (done, change_count, changed) = (&done, &change_count, &changed);
                    scope.spawn(move || {
                        write_changes(fixture, direct, changed, (n, writers), interval, done, change_count)
                    })
                })
                .collect();
            let load = scope.spawn(|| {
                raise_priority();
                rounds(std::slice::from_ref(page), 1, time)
            });
            raise_priority();
            let (started, before) = (Instant::now(), change_count.load(Ordering::Relaxed));
            let (mut list, mut acknowledged) = (Vec::new(), Vec::new());
            while started.elapsed() < time {
                let n = rate * 1_000_000 + list.len();
                let at = measure_list_delay(fixture, direct, n)?;
                acknowledged.push((n, at));
                list.push(at.elapsed().as_secs_f64() * 1e3);
                sleep(time / 400);
            }
            let rate =
                (change_count.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
            let page = load.join().map_err(|_| BenchError::because("the load panicked"))??;
            let mut watch = Vec::new();
            for (n, at) in acknowledged {
                let received = loop {
                    let event_time = event_times
                        .lock()
                        .map_err(|_| BenchError::because("the watch panicked"))?
                        .get(&n)
                        .copied();
                    match event_time {
                        Some(received) => break received,
                        None if at.elapsed() > TIMEOUT => {
                            return Err(BenchError::because(
                                "the plain watch did not receive a change in time",
                            ));
                        }
                        None => sleep(POLL_INTERVAL),
                    }
                };
                watch.push(received.saturating_duration_since(at).as_secs_f64() * 1e3);
            }
            done.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().map_err(|_| BenchError::because("a writer panicked"))??;
            }
            list.sort_by(f64::total_cmp);
            watch.sort_by(f64::total_cmp);
            Ok(RateResult { rate, watch, list, page_p99: median(&page[0].p99) })
        })();
        done.store(true, Ordering::Relaxed);
        // one more event, so that the watch thread checks the flag and ends
        let _ = patch(fixture, direct, 0, "end");
        let watch = watch.join().map_err(|_| BenchError::because("the watch panicked"))?;
        result.and_then(|result| watch.map(|()| result))
    })
}

/// Raises the priority of this thread, so that scheduling delays do not distort the measurement. Without root, nothing
/// is changed.
fn raise_priority() {
    let _ = setpriority_process(Some(gettid()), -10);
}

/// Patches the probe pod and waits until the list shows the change. Returns the time of the API server's response.
fn measure_list_delay(fixture: &Fixture, direct: &Target, n: usize) -> Result<Instant> {
    let mut list = fixture.server.target.connect()?;
    let path = fixture.path_in(&Population::namespace(0), &format!("&search={}", fixture.pods.name(0)));
    let request = fixture.server.target.get(&path);
    let acknowledged = patch(fixture, direct, 0, &n.to_string())?;
    let needle = format!("\"{LABEL}\":\"{n}\"");
    loop {
        let body = list.expect_success(&request)?;
        if body.windows(needle.len()).any(|part| part == needle.as_bytes()) {
            return Ok(acknowledged);
        }
        if acknowledged.elapsed() > TIMEOUT {
            return Err(BenchError::because("the list did not show a change in time"));
        }
        sleep(POLL_INTERVAL);
    }
}

/// Sets a label of pod `i`. Returns the time of the API server's response.
pub(super) fn patch(fixture: &Fixture, direct: &Target, i: usize, value: &str) -> Result<Instant> {
    let mut connection = direct.connect()?;
    connection.expect_success(&label(fixture, direct, i, value))?;
    Ok(Instant::now())
}

fn label(fixture: &Fixture, direct: &Target, i: usize, value: &str) -> Vec<u8> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", Population::namespace(i), fixture.pods.name(i));
    let body = format!("{{\"metadata\":{{\"labels\":{{\"{LABEL}\":\"{value}\"}}}}}}");
    direct.with_body("PATCH", &path, "application/merge-patch+json", &body)
}

/// Patches these pods in turn, as the writer `n` of several, at a constant rate over one connection. After a slow response, the next patches are sent without a
/// pause.
pub(super) fn write_changes(
    fixture: &Fixture,
    direct: &Target,
    of: &[usize],
    (n, writers): (usize, usize),
    interval: Duration,
    done: &AtomicBool,
    change_count: &AtomicUsize,
) -> Result<()> {
    let mut connection = direct.connect()?;
    let started = Instant::now();
    let mut iteration: u32 = 0;
    while !done.load(Ordering::Relaxed) {
        let i = of[(n + iteration as usize * writers) % of.len()];
        connection.expect_success(&label(fixture, direct, i, &format!("w{iteration}")))?;
        change_count.fetch_add(1, Ordering::Relaxed);
        iteration += 1;
        let due = started + interval * iteration;
        sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Plain watch as a baseline: records the time at which it receives each change of the probe pod.
fn watch(
    direct: &Target,
    event_times: &Mutex<HashMap<usize, Instant>>,
    done: &AtomicBool,
    ready: mpsc::Sender<()>,
) -> Result<()> {
    raise_priority();
    // starts at the current resourceVersion
    let now: Value = serde_json::from_slice(&direct.read("/api/v1/pods?limit=1")?)?;
    let version = now["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("/api/v1/pods?watch=1&resourceVersion={version}");
    let mut events = BufReader::with_capacity(256 << 10, direct.connect()?.stream(&direct.get(&path))?);
    let _ = ready.send(());
    let (mut line, key) = (Vec::new(), format!("\"{LABEL}\":\""));
    loop {
        line.clear();
        if events.read_until(b'\n', &mut line)? == 0 {
            return Err(BenchError::because("the plain watch ended"));
        }
        let now = Instant::now();
        let at = line.windows(key.len()).position(|part| part == key.as_bytes());
        let value = at.map(|at| &line[at + key.len()..]).and_then(|rest| {
            let end = rest.iter().position(|byte| *byte == b'"')?;
            std::str::from_utf8(&rest[..end]).ok()
        });
        if value == Some("end") && done.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(n) = value.and_then(|value| value.parse().ok())
            && let Ok(mut event_times) = event_times.lock()
        {
            event_times.insert(n, now);
        }
    }
}
