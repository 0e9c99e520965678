//! B11: pages, searches and counts for a user who sees everything, and for one with a grant on 10 of 500 namespaces.
//! With an earlier build, both builds run at the same time, and their rounds alternate. Besides, a cheap request with a
//! session and with an API token of the same user.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::Target,
    error::{BenchError, Result},
    fake::{Fake, FakePods, NAMESPACES, namespace},
    measure::{Measured, Subject, median, rounds},
    plan::Plan,
    process,
    report::{Section, head, line, short},
    server::Server,
};

/// Number of namespaces of the grant.
const GRANTED: usize = 10;
/// Pods of every cluster but the first, of which one is in each namespace of the grant.
const SMALL: FakePods = FakePods { count: 50 };
const PER_PAGE: usize = 50;
/// Text of the searches. About half of the pods have it in their name.
const SEARCHED: &str = "web-";
/// Timeout until all lists are filled.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);
/// Targets: CPU time relative to the earlier build, or else to the user who sees everything.
const MAX_RATIO_OF_ALL: f64 = 1.1;
const MAX_RATIO_OF_GRANTED: f64 = 1.5;
/// Target: CPU time of a request with an API token over that of the same request with a session, in microseconds.
const MAX_TOKEN_MICROSECONDS: f64 = 20.0;

/// Rights of a user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UserRights {
    /// The role `viewer`.
    All,
    /// A grant on [`GRANTED`] namespaces of all clusters.
    Granted,
}

impl UserRights {
    fn label(self) -> String {
        match self {
            Self::All => "sees everything".into(),
            Self::Granted => format!("sees {GRANTED} of {NAMESPACES} namespaces"),
        }
    }

    /// Namespace and name of the pods that the user sees, in the order of the list.
    fn visible(self, of: FakePods) -> Vec<(String, String)> {
        let granted: Vec<_> = granted().collect();
        let is_visible = |(namespace, _): &(String, String)| self == Self::All || granted.contains(namespace);
        let mut pods: Vec<_> =
            (0..of.count).map(|i| (of.namespace(i), of.name(i))).filter(is_visible).collect();
        pods.sort();
        pods
    }
}

/// The namespaces of the grant, at equal distances.
fn granted() -> impl Iterator<Item = String> {
    (0..GRANTED).map(|n| namespace(n * NAMESPACES / GRANTED))
}

/// A measured request and its correct total.
struct Request {
    name: &'static str,
    path: String,
    /// JSON pointer to the total in `data`.
    pointer: &'static str,
    total: usize,
}

impl Request {
    /// Repeats the request until the response has the correct total. Returns `data` of the response.
    fn wait_until_complete(&self, user: &Target) -> Result<Value> {
        let end = Instant::now() + SYNC_TIMEOUT;
        loop {
            let error = match user.data(&self.path) {
                Ok(data) if data.pointer(self.pointer).is_some_and(|total| *total == self.total) => {
                    return Ok(data);
                }
                Ok(data) => {
                    let (name, found) = (self.name, data.pointer(self.pointer));
                    BenchError::because(format!("{name}: the total is {found:?} instead of {}", self.total))
                }
                Err(error) => error,
            };
            if Instant::now() > end {
                return Err(error);
            }
            sleep(Duration::from_millis(100));
        }
    }
}

/// The correct results for a user.
struct Expected {
    /// Namespace and name of the visible pods of the large cluster, in the order of the list.
    pods: Vec<(String, String)>,
    /// Number of pods that a search finds in the large cluster.
    found: usize,
    /// Numbers of visible and of found pods of all clusters.
    in_all_clusters: usize,
    found_in_all_clusters: usize,
}

impl Expected {
    fn new(rights: UserRights, large: FakePods, clusters: usize) -> Self {
        let count_found =
            |pods: &[(String, String)]| pods.iter().filter(|(_, name)| name.contains(SEARCHED)).count();
        let (pods, small) = (rights.visible(large), rights.visible(SMALL));
        let found = count_found(&pods);
        Self {
            found,
            in_all_clusters: pods.len() + (clusters - 1) * small.len(),
            found_in_all_clusters: found + (clusters - 1) * count_found(&small),
            pods,
        }
    }

    fn middle_page(&self) -> usize {
        self.pods.len().div_ceil(PER_PAGE).div_ceil(2)
    }

    /// The measured requests. `cluster` is the id of the large cluster.
    fn requests(&self, cluster: i64) -> [Request; 5] {
        let list =
            |more: &str| format!("/api/k8s/pods?cluster_id={cluster}&namespace=*&per_page={PER_PAGE}{more}");
        let middle = self.middle_page();
        let (pointer, of_overview) = ("/pagination/total", "/totals/pods/total");
        [
            Request {
                name: "middle page",
                path: list(&format!("&page={middle}")),
                pointer,
                total: self.pods.len(),
            },
            Request {
                name: "middle page by age",
                path: list(&format!("&page={middle}&sort=-created_at")),
                pointer,
                total: self.pods.len(),
            },
            Request {
                name: "list search",
                path: list(&format!("&search={SEARCHED}")),
                pointer,
                total: self.found,
            },
            Request {
                name: "fleet search",
                path: format!("/api/k8s/search?kind=pods&q={SEARCHED}&per_page={PER_PAGE}"),
                pointer,
                total: self.found_in_all_clusters,
            },
            Request {
                name: "overview",
                path: "/api/k8s/overview?kind=pods".into(),
                pointer: of_overview,
                total: self.in_all_clusters,
            },
        ]
    }

    /// Waits until the totals of all requests are the expected ones. Compares the rows of the middle page with the
    /// expected ones.
    fn check(&self, user: &Target, cluster: i64) -> Result<()> {
        for request in self.requests(cluster) {
            let (name, rows) = (request.name, row_names(&request.wait_until_complete(user)?));
            let start = (self.middle_page() - 1) * PER_PAGE;
            let middle = self.pods.iter().skip(start).take(PER_PAGE);
            if name == "middle page" && !rows.iter().eq(middle) {
                return Err(BenchError::because(format!("unexpected rows on the {name}: {rows:?}")));
            }
            if rows.iter().any(|row| self.pods.binary_search(row).is_err()) {
                return Err(BenchError::because(format!("{name}: rows outside the user's rights: {rows:?}")));
            }
        }
        Ok(())
    }
}

/// Namespace and name of the rows of a list; empty for the response of another request.
fn row_names(data: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = data["pods"].as_array().into_iter().flatten();
    rows.map(|row| (text(&row["namespace"]), text(&row["name"]))).collect()
}

/// A running server with all clusters and users. The first cluster is the large one.
struct Build {
    server: Server,
    cluster: i64,
    users: Vec<(UserRights, Target)>,
    /// Removed after the server has ended.
    _folder: TempDir,
}

impl Build {
    /// Starts a server, registers the clusters and creates the users.
    async fn start(binary: &Path, fakes: &[Fake; 2], clusters: usize, with_grant: WithGrant) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = Server::start(binary, folder.path(), &[]).await?;
        let [large, small] = fakes;
        let register = async |name: &str, fake: &Fake| -> Result<Value> {
            Ok(server.pilothouse.post("/api/k8s/clusters", fake.cluster(name, &fake.url)).await?)
        };
        let created = register("large", large).await?;
        let cluster = created["cluster"]["id"].as_i64();
        let cluster =
            cluster.ok_or_else(|| BenchError::because(format!("no id of the cluster: {created}")))?;
        for n in 1..clusters {
            register(&format!("small-{n}"), small).await?;
        }
        server.create_user("viewer", "viewer").await?;
        let mut users = vec![(UserRights::All, server.sign_in("viewer")?)];
        let has_grants = server.target.connect()?.exchange(&server.target.get("/api/access/mine"))?.0 == 200;
        if with_grant == WithGrant::Required && !has_grants {
            return Err(BenchError::because("the server has no grants"));
        }
        if with_grant != WithGrant::No && has_grants {
            let id = server.create_user("granted", "none").await?;
            let grant = json!({
                "subject": {"type": "user", "id": id}, "role": "viewer", "clusters": {"all": true},
                "namespaces": granted().collect::<Vec<_>>(),
            });
            server.pilothouse.post("/api/access/grants", grant).await?;
            users.push((UserRights::Granted, server.sign_in("granted")?));
        }
        Ok(Self { server, cluster, users, _folder: folder })
    }

    /// Checks the responses to each user.
    fn check(&self, expected: &dyn Fn(UserRights) -> Expected) -> Result<()> {
        self.users.iter().try_for_each(|(rights, user)| expected(*rights).check(user, self.cluster))
    }

    /// Waits until the rows of the middle page have usage, so that the measured pages have it. The rows of an earlier build
    /// may have no such field.
    fn wait_for_usage(&self, expected: &dyn Fn(UserRights) -> Expected) -> Result<()> {
        let end = Instant::now() + SYNC_TIMEOUT;
        for (rights, user) in &self.users {
            let [page, ..] = expected(*rights).requests(self.cluster);
            let has_usage = |data: &Value| {
                let mut rows = data["pods"].as_array().into_iter().flatten();
                rows.all(|row| row.get("usage").is_none_or(Value::is_object))
            };
            while !has_usage(&user.data(&page.path)?) {
                if Instant::now() > end {
                    return Err(BenchError::because("the pods have no usage"));
                }
                sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    fn subjects(&self, expected: &dyn Fn(UserRights) -> Expected, suffix: &str) -> Vec<Subject> {
        let of_user = |(rights, target): &(UserRights, Target)| {
            expected(*rights).requests(self.cluster).map(|request| Subject {
                name: format!("{}, {}{suffix}", request.name, rights.label()),
                request: target.get(&request.path),
                target: target.clone(),
                clients: 1,
                pids: vec![self.server.pid()],
            })
        };
        self.users.iter().flat_map(of_user).collect()
    }
}

/// The same cheap request of the user who sees everything, with a session and with an API token; `None` for a build
/// without API tokens.
fn token_subjects(build: &Build) -> Result<Option<[Subject; 2]>> {
    let session = &build.users[0].1;
    let Some(token) = build.server.with_token(session)? else { return Ok(None) };
    let subject = |name: &str, target: &Target| Subject {
        name: name.into(),
        request: target.get("/api/auth/me"),
        target: target.clone(),
        clients: 1,
        pids: vec![build.server.pid()],
    };
    Ok(Some([subject("own user, with a session", session), subject("own user, with an API token", &token)]))
}

/// Whether a [`Build`] has a user with a grant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WithGrant {
    /// A build without grants is an error.
    Required,
    /// If the build has grants.
    IfSupported,
    No,
}

/// B11.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    process::pin_current_thread(process::LOAD_CORE)?;
    // each server has one watch per cluster
    process::raise_file_limit()?;
    let large = FakePods { count: plan.pods() };
    let fakes = [Fake::with_pods(large)?, Fake::with_pods(SMALL)?];
    let expected = |rights| Expected::new(rights, large, plan.clusters);
    let with_grant = if plan.smoke { WithGrant::Required } else { WithGrant::IfSupported };
    let build = Build::start(&plan.binary, &fakes, plan.clusters, with_grant).await?;
    build.check(&expected)?;
    build.wait_for_usage(&expected)?;
    let before = match &plan.before {
        Some(binary) => Some(Build::start(binary, &fakes, plan.clusters, WithGrant::No).await?),
        None => None,
    };
    let mut subjects = build.subjects(&expected, "");
    let own = subjects.len();
    if let Some(before) = &before {
        before.check(&expected)?;
        subjects.extend(before.subjects(&expected, ", earlier build"));
    }
    let measured = rounds(&subjects, plan.rounds, plan.window)?;
    let credentials = match token_subjects(&build)? {
        Some(subjects) => rounds(&subjects, plan.rounds, plan.window)?,
        None if plan.smoke => return Err(BenchError::because("the server has no API tokens")),
        None => Vec::new(),
    };

    let title = format!("{} pods in {NAMESPACES} namespaces, for users with different rights", large.count);
    let mut section = Section::new("B11", &title);
    section.paragraph(format!(
        "One cluster with {} pods and {} clusters with {} each, all of fake API servers in the process of the load. Pages and \
         the list search are of the first cluster, the fleet search and the overview of all clusters. The last column compares \
         CPU, p50 and p99 with those of the user who sees everything{}.",
        large.count,
        plan.clusters - 1,
        SMALL.count,
        if before.is_some() { ", in the earlier build" } else { "" },
    ));
    let count = subjects.len() / (build.users.len() + usize::from(before.is_some()));
    let reference = if before.is_some() { &measured[own..] } else { &measured[..count] };
    let mut table = vec![head()];
    table[0].push("relative".into());
    for (n, one) in measured.iter().enumerate() {
        let base = &reference[n % count];
        let ratio = |of: fn(&Measured) -> &[f64]| short(median(of(one)) / median(of(base)));
        let mut cells = line(one);
        cells.push(format!("{} / {} / {}", ratio(|m| &m.cpu), ratio(|m| &m.p50), ratio(|m| &m.p99)));
        table.push(cells);
    }
    section.table(&table);
    for ((rights, _), measured) in build.users.iter().zip(measured.chunks(count)) {
        let (limit, what) = match (rights, &before) {
            (UserRights::All, None) => continue,
            (UserRights::All, Some(_)) => (MAX_RATIO_OF_ALL, "the earlier build"),
            (UserRights::Granted, None) => (MAX_RATIO_OF_GRANTED, "the user who sees everything"),
            (UserRights::Granted, Some(_)) => {
                (MAX_RATIO_OF_GRANTED, "the user who sees everything in the earlier build")
            }
        };
        for (one, base) in measured.iter().zip(reference) {
            let ratio = median(&one.cpu) / median(&base.cpu);
            section.verdict(&format!("{}, CPU relative to {what}", one.name), ratio, limit, "×");
        }
    }
    if let [session, token] = &credentials[..] {
        section.paragraph("The request for one's own user, with each kind of credentials:");
        section.table(&[head(), line(session), line(token)]);
        let added = median(&token.cpu) - median(&session.cpu);
        section.verdict("check of an API token, CPU over a session's", added, MAX_TOKEN_MICROSECONDS, "µs");
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn grant_reaches_pods_of_its_namespaces_in_every_cluster() {
        for (pods, granted) in
            [(SMALL, 10), (FakePods { count: 1_000 }, 20), (FakePods { count: 10_000 }, 200)]
        {
            let visible = UserRights::Granted.visible(pods);
            let namespaces: HashSet<_> = visible.iter().map(|(namespace, _)| namespace).collect();
            assert_eq!((visible.len(), namespaces.len()), (granted, GRANTED), "of {} pods", pods.count);
            let all = UserRights::All.visible(pods);
            assert_eq!(all.iter().collect::<HashSet<_>>().len(), pods.count, "names are unique");
        }
        let expected = Expected::new(UserRights::Granted, FakePods { count: 1_000 }, 3);
        assert_eq!(expected.in_all_clusters, 20 + 2 * 10);
        assert!(expected.found > 0 && expected.found_in_all_clusters > expected.found);
    }
}
