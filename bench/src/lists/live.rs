//! B14: a live window of one page while pods change elsewhere in the list, and the diagnosis of a pod.

use std::{
    io::{BufRead, BufReader},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use super::{
    Fixture,
    freshness::{patch, write_changes},
    pin_processes,
};
use crate::{
    client::Target,
    error::{BenchError, Result},
    measure::{Measured, Subject, median, rounds},
    plan::Plan,
    plane,
    pods::{Population, Size},
    process,
    report::{Section, head, line, short},
};

/// Changes of pods per second, and connections that make them.
const RATE: usize = 200;
const WRITERS: usize = 2;
/// Target: events of the window per second.
const MAX_EVENTS: f64 = 1.0;
/// Target: CPU time of the server with the window over that without it, in percent of a core.
const MAX_ADDED_CPU: f64 = 2.0;
/// Target: p50 of a diagnosis, in milliseconds.
const MAX_DIAGNOSIS_MILLISECONDS: f64 = 300.0;

/// What the server did in one phase.
#[derive(Clone, Copy, Default)]
struct Phase {
    seconds: f64,
    cpu: f64,
    events: f64,
}

impl Phase {
    fn plus(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            cpu: self.cpu + other.cpu,
            events: self.events + other.events,
        }
    }

    /// CPU time in percent of a core.
    fn load(self) -> f64 {
        100.0 * self.cpu / self.seconds
    }
}

/// B14.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let fixture = Fixture::new(plan, plan.pods(), Size::Small).await?;
    fixture.wait_until_complete()?;
    pin_processes(&fixture)?;
    let direct = plane::direct(&fixture.plane)?;
    let (first, others) = on_and_off_the_first_page(fixture.pods)?;

    let (done, change_count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut without, mut with) = (Phase::default(), Phase::default());
    let mut rate = 0.0;
    thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let interval = Duration::from_secs_f64(WRITERS as f64 / RATE as f64);
                let (fixture, direct, others) = (&fixture, &direct, &others);
                let (done, change_count) = (&done, &change_count);
                scope.spawn(move || {
                    write_changes(fixture, direct, others, (n, WRITERS), interval, done, change_count)
                })
            })
            .collect();
        // the writers are ended below, for any result of the closure
        let result = (|| -> Result<()> {
            let time = plan.freshness / u32::try_from(plan.rounds).unwrap_or(1).max(1);
            let started = Instant::now();
            for _ in 0..plan.rounds {
                without = without.plus(phase_without(&fixture, time)?);
                with = with.plus(phase_with_window(&fixture, &direct, first, time)?);
            }
            rate = change_count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| BenchError::because("a writer panicked"))??;
        }
        result
    })?;
    let diagnosis = diagnosis(&fixture, &direct, plan)?;

    let mut section =
        Section::new("B14", &format!("a live window and a diagnosis, {} pods", fixture.pods.count));
    section.paragraph(format!(
        "Pods that are not on the first page change at {} of {RATE} changes a second. A client follows the first page as a live \
         window in every other phase.",
        short(rate)
    ));
    let row = |name: &str, phase: Phase| {
        let cells = [phase.load(), phase.events / phase.seconds].map(short);
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let heading = ["", "CPU, % of a core", "events/s"].map(str::to_owned).to_vec();
    section.table(&[heading, row("without the window", without), row("with the window", with)]);
    section.verdict("events of the window", with.events / with.seconds, MAX_EVENTS, "per second");
    section.verdict("CPU of the window", with.load() - without.load(), MAX_ADDED_CPU, "% of a core");
    let mut table = vec![head()];
    table.extend(diagnosis.iter().map(line));
    section.table(&table);
    let p50 = median(&diagnosis[0].p50);
    section.verdict("diagnosis of a pod, p50", p50, MAX_DIAGNOSIS_MILLISECONDS, "ms");
    Ok(section)
}

/// A pod on the first page, and all pods of namespaces of which no pod is on it.
fn on_and_off_the_first_page(pods: Population) -> Result<(usize, Vec<usize>)> {
    let page: Vec<_> = pods.sorted_names().into_iter().take(super::PER_PAGE).collect();
    let first = (0..pods.count).find(|i| page[0] == (Population::namespace(*i), pods.name(*i)));
    let is_off = |i: &usize| page.iter().all(|(namespace, _)| *namespace != Population::namespace(*i));
    let others: Vec<_> = (0..pods.count).filter(is_off).collect();
    let first = first.filter(|_| !others.is_empty());
    Ok((first.ok_or_else(|| BenchError::because("all pods are on the first page"))?, others))
}

fn phase_without(fixture: &Fixture, time: Duration) -> Result<Phase> {
    let (pid, started) = (fixture.server.pid(), Instant::now());
    let before = process::cpu(pid)?;
    sleep(time);
    let cpu = process::cpu(pid)?.saturating_sub(before);
    Ok(Phase { seconds: started.elapsed().as_secs_f64(), cpu: cpu.as_secs_f64(), events: 0.0 })
}

/// Follows the first page. The first event, which is the page as it is, is not counted.
fn phase_with_window(fixture: &Fixture, direct: &Target, first: usize, time: Duration) -> Result<Phase> {
    let path = format!(
        "/api/k8s/watch?kind=pods&cluster_id={}&namespace=*&page=1&per_page={}",
        fixture.id,
        super::PER_PAGE
    );
    let target = &fixture.server.target;
    let mut lines = BufReader::new(target.connect()?.stream(&target.get(&path))?);
    let (done, events) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut next_window = move || -> Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Err(BenchError::because("the live window ended"));
            }
            if line.starts_with(b"event: window") {
                return Ok(());
            }
        }
    };
    next_window()?;
    thread::scope(|scope| {
        let (done, events) = (&done, &events);
        let follower = scope.spawn(move || -> Result<()> {
            loop {
                next_window()?;
                if done.load(Ordering::Relaxed) {
                    return Ok(());
                }
                events.fetch_add(1, Ordering::Relaxed);
            }
        });
        let phase = phase_without(fixture, time);
        let counted = events.load(Ordering::Relaxed);
        done.store(true, Ordering::Relaxed);
        // a change on the page, so that the follower reads one more event and ends; the label differs in every phase
        let last = patch(fixture, direct, first, &format!("window-{}", next_phase()));
        let followed = follower.join().map_err(|_| BenchError::because("the follower panicked"))?;
        last?;
        followed?;
        Ok(Phase { events: counted as f64, ..phase? })
    })
}

/// A number that differs in every phase.
fn next_phase() -> usize {
    static PHASES: AtomicUsize = AtomicUsize::new(0);
    PHASES.fetch_add(1, Ordering::Relaxed)
}

/// The diagnosis of a pod that crashes, and for comparison the read of the pod at the API server.
fn diagnosis(fixture: &Fixture, direct: &Target, plan: &Plan) -> Result<Vec<Measured>> {
    let crashing = (0..fixture.pods.count).find(|i| Population::status(*i) == "CrashLoopBackOff");
    let crashing = crashing.ok_or_else(|| BenchError::because("no pod crashes"))?;
    let (namespace, name) = (Population::namespace(crashing), fixture.pods.name(crashing));
    let path =
        format!("/api/k8s/diagnose?cluster_id={}&namespace={namespace}&type=pod&name={name}", fixture.id);
    let found = fixture.server.data(&path)?;
    if found["findings"].as_array().is_none_or(Vec::is_empty) {
        return Err(BenchError::because(format!("nothing is found about {namespace}/{name}: {found}")));
    }
    let api_server = Subject {
        name: "the API server: the pod alone".into(),
        request: direct.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")),
        target: direct.clone(),
        clients: 1,
        pids: vec![fixture.server.pid()],
    };
    rounds(&[fixture.subject("diagnosis of a pod", &path, 1), api_server], plan.rounds, plan.window)
}
