//! B13: problems of many clusters, each with 1,000 pods of which one in a hundred does not work. They are computed from
//! cached lists.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    error::{BenchError, Result},
    fake::{Fake, ProblemCluster},
    measure::{Subject, median, rounds},
    plan::Plan,
    process,
    report::{Section, head, line},
    server::Server,
};

const CLUSTER: ProblemCluster = ProblemCluster { pods: 1_000 };
const PER_PAGE: usize = 50;
/// Timeout until all lists are filled.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);
/// Target: p50 of the first page of all problems, in milliseconds.
const MAX_MILLISECONDS: f64 = 5.0;

/// B13.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    process::pin_current_thread(process::LOAD_CORE)?;
    // the server has one watch per cluster and kind
    process::raise_file_limit()?;
    let fake = Fake::with_problems(CLUSTER)?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(&plan.binary, folder.path(), &[]).await?;
    let clusters = plan.problem_clusters;
    for n in 0..clusters {
        let cluster = fake.cluster(&format!("cluster-{n}"), &fake.url);
        server.pilothouse.post("/api/k8s/clusters", cluster).await?;
    }
    let problems = |more: &str| format!("/api/k8s/problems?namespace=*&per_page={PER_PAGE}{more}");
    for rule in ProblemCluster::rules() {
        let total = clusters * CLUSTER.problems(Some(rule));
        wait_until_complete(&server, &problems(&format!("&rule={rule}")), total)?;
    }
    wait_until_complete(&server, &problems(""), clusters * CLUSTER.problems(None))?;

    let subject = |name: &str, path: &str| Subject {
        name: name.into(),
        request: server.target.get(path),
        target: server.target.clone(),
        clients: 1,
        pids: vec![server.pid()],
    };
    let subjects = [
        subject("problems of all clusters", &problems("")),
        subject("problems of one rule", &problems("&rule=oom")),
        subject("problems of one cluster", &problems("&cluster_id=1")),
        subject("overview of all clusters", "/api/k8s/overview?kind=pods"),
    ];
    let measured = rounds(&subjects, plan.rounds, plan.window)?;

    let title = format!("problems of {clusters} clusters with {} pods each", CLUSTER.pods);
    let mut section = Section::new("B13", &title);
    section.paragraph(format!(
        "One pod in a hundred does not work, each of another Deployment: {} problems. All clusters are one fake API server in \
         the process of the load. The overview, which counts the pods of all clusters, is shown for comparison.",
        clusters * CLUSTER.problems(None)
    ));
    let mut table = vec![head()];
    table.extend(measured.iter().map(line));
    section.table(&table);
    section.verdict("problems of all clusters, p50", median(&measured[0].p50), MAX_MILLISECONDS, "ms");
    Ok(section)
}

/// Repeats the request until it has this total.
fn wait_until_complete(server: &Server, path: &str, total: usize) -> Result<()> {
    let end = Instant::now() + SYNC_TIMEOUT;
    loop {
        let error = match server.data(path) {
            Ok(data) if data["pagination"]["total"] == total => return Ok(()),
            Ok(data) => BenchError::because(format!("{path}: {} instead of {total}", data["pagination"])),
            Err(error) => error,
        };
        if Instant::now() > end {
            return Err(error);
        }
        sleep(Duration::from_millis(100));
    }
}
