//! B7: many registered clusters, half of which are unreachable or hang.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use pilothouse_testbed::workloads;

use crate::{
    error::Result,
    fake::{Fake, hanging, without_listener},
    measure::{Subject, median, rounds},
    plan::Plan,
    plane,
    process::{cpu, memory},
    report::{Section, head, line, short},
    server::Server,
};

const PODS: usize = 50;

/// B7.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let plane = plane::empty().await?;
    let cluster = plane.client();
    cluster.apply(&workloads::namespace("bench")).await?;
    for n in 0..PODS {
        cluster.apply(&workloads::pod("bench", &format!("pod-{n}"))).await?;
    }
    plane::pin_to_load_core(&plane)?;
    // two servers: one with this cluster only, one with many
    let (alone, id) = Server::start_with_cluster(&plan.binary, &plane).await?;
    let page = |server: &Server, name: &str| {
        let path = format!("/api/k8s/pods?cluster_id={id}&namespace=*&per_page=50");
        let target = server.target.clone();
        Subject {
            name: name.into(),
            request: target.get(&path),
            target,
            clients: 1,
            pids: vec![server.pid()],
        }
    };
    let folder = tempfile::tempdir()?;
    let many = Server::start(&plan.binary, folder.path(), &[]).await?;
    assert_eq!(
        many.pilothouse.register("bench", &plane.kubeconfig()).await?,
        id,
        "ids start at 1 on both servers"
    );
    sleep(plan.settle_time(Duration::from_secs(5)));
    let before = memory(many.pid())?.now;

    let fake = Fake::start(0)?;
    let (_listener, hanging_url) = hanging()?;
    let closed_url = without_listener()?;
    let other_clusters = plan.clusters - 1;
    let registration = Instant::now();
    for n in 0..other_clusters {
        let url = match n % 4 {
            0 => &closed_url,
            1 => &hanging_url,
            _ => &fake.url,
        };
        many.pilothouse.post("/api/k8s/clusters", fake.cluster(&format!("cluster-{n}"), url)).await?;
    }
    let registration = registration.elapsed().as_secs_f64() / other_clusters as f64 * 1e3;
    // at least two probes of each cluster
    let (cpu_before, started) = (cpu(many.pid())?, Instant::now());
    sleep(plan.idle);
    let idle =
        (cpu(many.pid())?.saturating_sub(cpu_before)).as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
    let memory_per_cluster = (memory(many.pid())?.now - before) / other_clusters as f64 / 1e3;
    let status = many.data("/api/k8s/clusters?per_page=1&status=offline")?;
    let measured = rounds(
        &[
            page(&alone, "page, only cluster"),
            page(&many, &format!("page, among {} clusters", plan.clusters)),
        ],
        plan.rounds,
        plan.window,
    )?;

    let title = format!("{} clusters registered, half of them unreachable or hanging", plan.clusters);
    let mut section = Section::new("B7", &title);
    let mut table = vec![head()];
    table.extend(measured.iter().map(line));
    section.table(&table);
    section.paragraph(format!(
        "One real control plane. Of the other clusters, a quarter have no listener, a quarter accept connections and never \
         respond, and half are served by a fake API server in the process of the load; {} were offline. Registration of a \
         cluster took {} ms. Without requests, the server used {} % of its core for probes.",
        status["pagination"]["total"],
        short(registration),
        short(idle)
    ));
    let [alone, among] = &measured[..] else { return Ok(section) };
    section.verdict(
        "p50 of a healthy cluster's page relative to the only cluster",
        median(&among.p50) / median(&alone.p50),
        1.1,
        "×",
    );
    section.verdict(
        "CPU of that page relative to the only cluster",
        median(&among.cpu) / median(&alone.cpu),
        1.1,
        "×",
    );
    section.verdict("idle memory per cluster", memory_per_cluster, 200.0, "KB");
    Ok(section)
}
