//! B6: how soon a change is seen. Pods are patched at a steady rate; one pod is patched by us, and from the API server's
//! answer on two clocks run: until a bare watch has told of it, and until the list shows it.

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

use super::{Stage, settle};
use crate::{
    client::Target,
    error::{Failed, Result},
    measure::{Subject, median, percentile, rounds},
    plan::Plan,
    plane,
    pods::{Population, Size},
    report::{Section, short},
};

/// How often the list is looked at, until it shows the change.
const LOOK: Duration = Duration::from_millis(1);
/// After which a change is lost.
const LOST: Duration = Duration::from_secs(30);
const LABEL: &str = "bench-probe";

/// B6.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let stage = Stage::new(plan, plan.pods(), Size::Small).await?;
    stage.sync()?;
    settle(&stage)?;
    let direct = plane::direct(&stage.plane)?;
    let page = [stage.subject("first page", &stage.path(""), 1)];
    let quiet = median(&rounds(&page, plan.rounds, plan.window)?[0].p99);

    let mut section = Section::new("B6", &format!("freshness, {} pods", stage.pods.count));
    let head = [
        "changes/s asked",
        "made",
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
        let seen = under_changes(&stage, &direct, &page[0], plan, rate)?;
        let at = |values: &[f64], share| percentile(values, share);
        table.push(vec![
            rate.to_string(),
            short(seen.rate),
            short(at(&seen.watch, 0.5)),
            short(at(&seen.watch, 0.99)),
            short(at(&seen.list, 0.5)),
            short(at(&seen.list, 0.99)),
            short(seen.page_p99),
            seen.list.len().to_string(),
        ]);
        verdicts.push((
            format!("at {rate}/s, p99 beyond the bare watch's"),
            at(&seen.list, 0.99) - at(&seen.watch, 0.99),
            50.0,
            "ms",
        ));
        verdicts.push((
            format!("at {rate}/s, B1's p99 against quiet ({} ms)", short(quiet)),
            seen.page_p99 / quiet,
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

/// What was seen at one rate of changes; times sorted, in milliseconds after the acknowledgement.
struct Seen {
    rate: f64,
    watch: Vec<f64>,
    list: Vec<f64>,
    page_p99: f64,
}

fn under_changes(stage: &Stage, direct: &Target, page: &Subject, plan: &Plan, rate: usize) -> Result<Seen> {
    let (done, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let told = Mutex::new(HashMap::<usize, Instant>::new());
    let (watching, watched) = mpsc::channel();
    let time = plan.freshness;
    thread::scope(|scope| {
        let watch = scope.spawn(|| watch(direct, &told, &done, watching));
        // whatever becomes of the rest, these end
        let result = (|| -> Result<Seen> {
            watched.recv_timeout(LOST)?;
            let writers = rate.div_ceil(100);
            let writers: Vec<_> = (0..writers)
                .map(|n| {
                    let each = Duration::from_secs_f64(writers as f64 / rate as f64);
                    let (done, made) = (&done, &made);
                    scope.spawn(move || change(stage, direct, n, writers, each, done, made))
                })
                .collect();
            let load = scope.spawn(|| {
                urgent();
                rounds(std::slice::from_ref(page), 1, time)
            });
            urgent();
            let (began, before) = (Instant::now(), made.load(Ordering::Relaxed));
            let (mut list, mut acknowledged) = (Vec::new(), Vec::new());
            while began.elapsed() < time {
                let n = rate * 1_000_000 + list.len();
                let at = probe(stage, direct, n)?;
                acknowledged.push((n, at));
                list.push(at.elapsed().as_secs_f64() * 1e3);
                sleep(time / 400);
            }
            let rate = (made.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
            let page = load.join().map_err(|_| Failed::because("the load panicked"))??;
            let mut watch = Vec::new();
            for (n, at) in acknowledged {
                let told = loop {
                    let known =
                        told.lock().map_err(|_| Failed::because("the watch panicked"))?.get(&n).copied();
                    match known {
                        Some(told) => break told,
                        None if at.elapsed() > LOST => {
                            return Err(Failed::because("the bare watch never told of a change"));
                        }
                        None => sleep(LOOK),
                    }
                };
                watch.push(told.saturating_duration_since(at).as_secs_f64() * 1e3);
            }
            done.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().map_err(|_| Failed::because("a writer panicked"))??;
            }
            list.sort_by(f64::total_cmp);
            watch.sort_by(f64::total_cmp);
            Ok(Seen { rate, watch, list, page_p99: median(&page[0].p99) })
        })();
        done.store(true, Ordering::Relaxed);
        // one more event, which the watch sees the end by
        let _ = patch(stage, direct, 0, "end");
        let watch = watch.join().map_err(|_| Failed::because("the watch panicked"))?;
        result.and_then(|seen| watch.map(|()| seen))
    })
}

/// This thread comes first, so that what is measured is not how long it waited for its turn. Only root may.
fn urgent() {
    let _ = setpriority_process(Some(gettid()), -10);
}

/// Patches our pod, waits until the list shows it, and returns when it was acknowledged.
fn probe(stage: &Stage, direct: &Target, n: usize) -> Result<Instant> {
    let mut list = stage.server.target.connect()?;
    let path = stage.path_in(&Population::namespace(0), &format!("&search={}", stage.pods.name(0)));
    let request = stage.server.target.get(&path);
    let acknowledged = patch(stage, direct, 0, &n.to_string())?;
    let wanted = format!("\"{LABEL}\":\"{n}\"");
    loop {
        let shown = list.good(&request)?;
        if shown.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
            return Ok(acknowledged);
        }
        if acknowledged.elapsed() > LOST {
            return Err(Failed::because("the list never showed a change"));
        }
        sleep(LOOK);
    }
}

/// Gives pod `i` a label; when the API server said so.
fn patch(stage: &Stage, direct: &Target, i: usize, value: &str) -> Result<Instant> {
    let mut connection = direct.connect()?;
    connection.good(&label(stage, direct, i, value))?;
    Ok(Instant::now())
}

fn label(stage: &Stage, direct: &Target, i: usize, value: &str) -> Vec<u8> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", Population::namespace(i), stage.pods.name(i));
    let body = format!("{{\"metadata\":{{\"labels\":{{\"{LABEL}\":\"{value}\"}}}}}}");
    direct.with_body("PATCH", &path, "application/merge-patch+json", &body)
}

/// Changes pods at a steady rate, whatever the answers take, as far as one connection can.
fn change(
    stage: &Stage,
    direct: &Target,
    n: usize,
    writers: usize,
    each: Duration,
    done: &AtomicBool,
    made: &AtomicUsize,
) -> Result<()> {
    let mut connection = direct.connect()?;
    let began = Instant::now();
    let mut turn: u32 = 0;
    while !done.load(Ordering::Relaxed) {
        let i = 1 + (n + turn as usize * writers) % (stage.pods.count - 1);
        connection.good(&label(stage, direct, i, &format!("w{turn}")))?;
        made.fetch_add(1, Ordering::Relaxed);
        turn += 1;
        let due = began + each * turn;
        sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// A watch and nothing else: notes when it is told of our own changes.
fn watch(
    direct: &Target,
    told: &Mutex<HashMap<usize, Instant>>,
    done: &AtomicBool,
    watching: mpsc::Sender<()>,
) -> Result<()> {
    urgent();
    // from the newest state on
    let now: Value = serde_json::from_slice(&direct.read("/api/v1/pods?limit=1")?)?;
    let version = now["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("/api/v1/pods?watch=1&resourceVersion={version}");
    let mut events = BufReader::with_capacity(256 << 10, direct.connect()?.stream(&direct.get(&path))?);
    let _ = watching.send(());
    let (mut line, key) = (Vec::new(), format!("\"{LABEL}\":\""));
    loop {
        line.clear();
        if events.read_until(b'\n', &mut line)? == 0 {
            return Err(Failed::because("the bare watch ended"));
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
            && let Ok(mut told) = told.lock()
        {
            told.insert(n, now);
        }
    }
}
