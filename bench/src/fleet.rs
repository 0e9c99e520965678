//! B7: many clusters, half of which are dead or hang.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use pilothouse_testbed::workloads;

use crate::{
    error::Result,
    fake::{Fake, dead, hanging},
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
    plane::on_the_load_core(&plane)?;
    // two of the same kind: one stays alone
    let (alone, id) = Server::beside(&plan.binary, &plane).await?;
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
    assert_eq!(many.shipped.register("bench", &plane.kubeconfig()).await?, id, "both number from one");
    sleep(plan.patience(Duration::from_secs(5)));
    let before = memory(many.pid())?.now;

    let fake = Fake::start(0)?;
    let (_listener, silent) = hanging()?;
    let dead = dead()?;
    let others = plan.clusters - 1;
    let registering = Instant::now();
    for n in 0..others {
        let url = match n % 4 {
            0 => &dead,
            1 => &silent,
            _ => &fake.url,
        };
        many.shipped.post("/api/k8s/clusters", fake.cluster(&format!("cluster-{n}"), url)).await?;
    }
    let registering = registering.elapsed().as_secs_f64() / others as f64 * 1e3;
    // at least two visits of the prober to each
    let (used, began) = (cpu(many.pid())?, Instant::now());
    sleep(plan.idle);
    let idle = (cpu(many.pid())?.saturating_sub(used)).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let grown = (memory(many.pid())?.now - before) / others as f64 / 1e3;
    let status = many.data("/api/k8s/clusters?per_page=1&status=offline")?;
    let measured = rounds(
        &[page(&alone, "page, its cluster alone"), page(&many, &format!("page, among {}", plan.clusters))],
        plan.rounds,
        plan.window,
    )?;

    let title = format!("{} clusters registered, half of them dead or hanging", plan.clusters);
    let mut section = Section::new("B7", &title);
    let mut table = vec![head()];
    table.extend(measured.iter().map(line));
    section.table(&table);
    section.say(format!(
        "One real control plane; of the others a quarter have nobody listening, a quarter take connections and never \
         answer, half are answered by a fake API server in the load's process; {} were offline. Registering one took \
         {} ms; with nobody asking, the server used {} % of its core, the prober's visits.",
        status["pagination"]["total"],
        short(registering),
        short(idle)
    ));
    let [alone, among] = &measured[..] else { return Ok(section) };
    section.verdict(
        "p50 of a healthy cluster's page against alone",
        median(&among.p50) / median(&alone.p50),
        1.1,
        "×",
    );
    section.verdict("CPU of it", median(&among.cpu) / median(&alone.cpu), 1.1, "×");
    section.verdict("idle memory a cluster", grown, 200.0, "KB");
    Ok(section)
}
