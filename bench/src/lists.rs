//! B1 to B6 and B14: lists of pods of one large cluster.

use std::time::{Duration, Instant};

use pilothouse_testbed::{Component, ControlPlane};
use serde_json::Value;

use crate::{
    error::{BenchError, Result},
    measure::{Measured, Subject, log_log_slope, median, rounds},
    plan::Plan,
    plane,
    pods::{Population, Size},
    process,
    report::{Section, head, line, short},
    server::{Floor, Server},
};

pub(crate) mod freshness;
pub(crate) mod live;
pub(crate) mod memory;
pub(crate) mod start;

/// Timeout of the first fill of the list cache.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);
/// Rows per page.
const PER_PAGE: usize = 50;

/// A cluster with a population of pods, and a server with that cluster registered.
pub(crate) struct Fixture {
    pub(crate) plane: ControlPlane,
    pub(crate) server: Server,
    pub(crate) id: i64,
    pub(crate) pods: Population,
}

impl Fixture {
    pub(crate) async fn new(plan: &Plan, count: usize, size: Size) -> Result<Self> {
        eprintln!("bench: a cluster with {count} pods of {}", size.name());
        let pods = Population { count, size };
        let plane = plane::with_pods(pods).await?;
        let (server, id) = Server::start_with_cluster(&plan.binary, &plane).await?;
        Ok(Self { plane, server, id, pods })
    }

    /// Path of the list of pods of all namespaces, with additional query parameters.
    pub(crate) fn path(&self, more: &str) -> String {
        self.path_in("*", more)
    }

    fn path_in(&self, namespace: &str, more: &str) -> String {
        format!("/api/k8s/pods?cluster_id={}&namespace={namespace}&per_page={PER_PAGE}{more}", self.id)
    }

    /// Waits until the list contains all pods.
    pub(crate) fn wait_until_complete(&self) -> Result<()> {
        let end = Instant::now() + SYNC_TIMEOUT;
        loop {
            let read = self.server.data(&self.path(""));
            match read {
                Ok(page) if page["pagination"]["total"] == self.pods.count => return Ok(()),
                Ok(page) if Instant::now() > end => {
                    return Err(BenchError::because(format!(
                        "the list is incomplete: {}",
                        page["pagination"]
                    )));
                }
                Err(error) if Instant::now() > end => return Err(error),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Compares the first, middle and last page with the expected rows.
    fn check_pages(&self) -> Result<()> {
        let order = self.pods.sorted_names();
        for (name, page) in self.pages() {
            let rows = self.server.data(&self.path(&format!("&page={page}")))?;
            let rows = rows["pods"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let actual: Vec<_> =
                rows.iter().map(|row| (text(&row["namespace"]), text(&row["name"]))).collect();
            let expected =
                order.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE).cloned().collect::<Vec<_>>();
            if actual != expected {
                return Err(BenchError::because(format!("unexpected rows on the {name} page: {actual:?}")));
            }
        }
        Ok(())
    }

    fn pages(&self) -> [(&'static str, usize); 3] {
        let pages = self.pods.count.div_ceil(PER_PAGE);
        [("first", 1), ("middle", pages.div_ceil(2)), ("last", pages)]
    }

    /// A subject that requests this path repeatedly.
    pub(crate) fn subject(&self, name: &str, path: &str, clients: usize) -> Subject {
        let target = self.server.target.clone();
        let request = target.get(path);
        Subject { name: name.into(), target, request, clients, pids: vec![self.server.pid()] }
    }

    fn page_subjects(&self) -> Vec<Subject> {
        let page =
            |(name, page)| self.subject(&format!("{name} page"), &self.path(&format!("&page={page}")), 1);
        self.pages().map(page).into()
    }

    /// The searches of B2: name, path and expected number of hits.
    fn searches(&self) -> Vec<(String, String, usize)> {
        let pods = self.pods;
        let count_containing = |text: &str| (0..pods.count).filter(|i| pods.name(*i).contains(text)).count();
        let busy = "team-042";
        let crashing = (0..pods.count)
            .filter(|i| {
                Population::namespace(*i) == busy
                    && Population::status(*i) == "CrashLoopBackOff"
                    && pods.name(*i).contains("web-")
            })
            .count();
        let (needles, web) = (count_containing("needle"), count_containing("web-"));
        let search = |text: &str| self.path(&format!("&search={text}"));
        vec![
            ("search, 0 hits".into(), search("no-such-pod"), 0),
            (format!("search, {needles} hits"), search("needle"), needles),
            (format!("search, {web} hits"), search("web-"), web),
            (
                format!("namespace, status and search, {crashing} hits"),
                self.path_in(busy, "&status=CrashLoopBackOff&search=web-"),
                crashing,
            ),
            ("sort by age".into(), self.path("&sort=-created_at"), pods.count),
            (format!("search by age, {web} hits"), search("web-&sort=-created_at"), web),
        ]
    }

    fn search_subjects(&self) -> Result<Vec<Subject>> {
        let mut subjects = Vec::new();
        for (name, path, hits) in self.searches() {
            let total = &self.server.data(&path)?["pagination"]["total"];
            if *total != hits {
                return Err(BenchError::because(format!("{name}: {total} hits instead of {hits}")));
            }
            subjects.push(self.subject(&name, &path, 1));
        }
        Ok(subjects)
    }

    /// A page read directly from the API server for comparison: 50 pods, in the API server's order, without a total.
    fn direct_page(&self) -> Result<Subject> {
        let target = plane::direct(&self.plane)?;
        let pids = [Component::ApiServer, Component::Etcd].map(|component| self.plane.pid(component));
        Ok(Subject {
            name: "the API server: limit=50".into(),
            request: target.get("/api/v1/pods?limit=50"),
            target,
            clients: 1,
            pids: pids.into_iter().collect::<Result<_, _>>()?,
        })
    }
}

/// Measurements of B1 and B2 at each cluster size, which B3 compares.
#[derive(Default)]
pub(crate) struct Growth {
    pages: Vec<(usize, Vec<Measured>)>,
    searches: Vec<(usize, Vec<Measured>)>,
}

/// B1, at one cluster size.
pub(crate) fn pages(fixture: &Fixture, plan: &Plan) -> Result<Section> {
    fixture.wait_until_complete()?;
    fixture.check_pages()?;
    let first = fixture.path("&page=1");
    let floor = Floor::like(&fixture.server.target, &fixture.server.target.get(&first))?;
    let on_floor = |name: &str, clients| Subject {
        name: name.into(),
        target: floor.target.clone(),
        request: floor.target.get("/"),
        clients,
        pids: vec![floor.pid()],
    };
    let mut subjects = fixture.page_subjects();
    subjects.push(on_floor("floor: a static handler", 1));
    subjects.push(fixture.subject("first page, 16 clients", &first, 16));
    subjects.push(on_floor("floor, 16 clients", 16));
    subjects.push(fixture.direct_page()?);
    let measured = rounds(&subjects, plan.rounds, plan.window)?;

    let mut section =
        Section::new("B1", &format!("a warm page of 50 pods of all namespaces, of {}", fixture.pods.count));
    let mut table = vec![head()];
    table.extend(measured.iter().map(line));
    section.table(&table);
    let [pages @ .., floor, busy, busy_floor, _] = &measured[..] else {
        return Err(BenchError::because("no measurement of the floor"));
    };
    for page in pages {
        let what = format!("{}, CPU relative to the floor", page.name);
        section.verdict(&what, median(&page.cpu) / median(&floor.cpu), 1.5, "×");
        section.verdict(&format!("{}, p99 at c=1", page.name), median(&page.p99), 1.0, "ms");
    }
    section.verdict(
        "16 clients, CPU relative to the floor",
        median(&busy.cpu) / median(&busy_floor.cpu),
        1.5,
        "×",
    );
    Ok(section)
}

/// B2, at one cluster size.
pub(crate) fn searches(fixture: &Fixture, plan: &Plan) -> Result<Section> {
    fixture.wait_until_complete()?;
    let measured = rounds(&fixture.search_subjects()?, plan.rounds, plan.window)?;
    let mut section = Section::new("B2", &format!("searches over {} pods", fixture.pods.count));
    let mut table = vec![head()];
    table.extend(measured.iter().map(line));
    section.table(&table);
    for search in &measured {
        section.verdict(&format!("{}, p50", search.name), median(&search.p50), 1.0, "ms");
    }
    Ok(section)
}

impl Growth {
    /// Measures one cluster size for B3.
    pub(crate) fn measure(&mut self, fixture: &Fixture, plan: &Plan) -> Result<()> {
        fixture.wait_until_complete()?;
        let window = plan.window / 2;
        self.pages.push((fixture.pods.count, rounds(&fixture.page_subjects(), plan.rounds, window)?));
        self.searches.push((fixture.pods.count, rounds(&fixture.search_subjects()?, plan.rounds, window)?));
        Ok(())
    }

    /// B3.
    pub(crate) fn section(&self) -> Section {
        let mut section = Section::new("B3", "how pages and searches grow with the cluster");
        let counts = self.pages.iter().map(|(count, _)| format!("{count} pods, CPU µs / p50 ms"));
        let mut table =
            vec![std::iter::once(String::new()).chain(counts).chain(["slope of CPU".into()]).collect()];
        let mut steepest = [f64::MIN; 2];
        for (group, steepest) in [&self.pages, &self.searches].into_iter().zip(&mut steepest) {
            let subjects = group.first().map_or(0, |(_, measured)| measured.len());
            for n in 0..subjects {
                let at =
                    |(count, measured): &(usize, Vec<Measured>)| (*count as f64, median(&measured[n].cpu));
                let points: Vec<_> = group.iter().map(at).collect();
                let slope = log_log_slope(&points);
                *steepest = steepest.max(slope);
                // the name contains the number of hits, which differs by size
                let name = group.last().map_or("", |(_, measured)| &measured[n].name).to_owned();
                let cells = group.iter().map(|(_, measured)| {
                    format!("{} / {}", short(median(&measured[n].cpu)), short(median(&measured[n].p50)))
                });
                table.push(std::iter::once(name).chain(cells).chain([short(slope)]).collect());
            }
        }
        section.table(&table);
        if self.pages.len() > 1 {
            section.verdict("the steepest page", steepest[0], 0.10, "(log-log)");
            section.verdict("the steepest search", steepest[1], 1.0, "(log-log)");
        }
        section
    }
}

/// Pins the cluster's processes to the core of the load and the server to the measured core again, because processes
/// start new threads.
pub(crate) fn pin_processes(fixture: &Fixture) -> Result<()> {
    plane::pin_to_load_core(&fixture.plane)?;
    process::pin_process(fixture.server.pid(), process::MEASURED_CORE)
}
