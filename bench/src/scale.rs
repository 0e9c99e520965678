//! B8: a scale through us, its audit rows durable, beside the same calls sent direct.

use std::time::Instant;

use pilothouse_testbed::workloads;
use serde_json::json;

use crate::{
    error::Result,
    measure::percentile,
    plan::Plan,
    plane,
    report::{Section, short},
    server::Server,
};

/// How many of each are not counted.
const WARM_UP: usize = 20;

/// B8.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let plane = plane::empty().await?;
    let cluster = plane.client();
    cluster.apply(&workloads::namespace("bench")).await?;
    cluster.apply(&workloads::deployment("bench", "web", 1)).await?;
    let (server, id) = Server::beside(&plan.binary, &plane).await?;
    plane::on_the_load_core(&plane)?;

    let direct = plane::direct(&plane)?;
    let (mut there, mut here) = (direct.connect()?, server.target.connect()?);
    let (mut directs, mut ours) = (Vec::new(), Vec::new());
    for turn in 0..WARM_UP + plan.scales {
        // what the server sends for a scale: the patch, and the question for autoscalers
        let body = json!({"spec": {"replicas": 2 * turn}}).to_string();
        let path = "/apis/apps/v1/namespaces/bench/deployments/web";
        let patch = direct.with_body("PATCH", path, "application/merge-patch+json", &body);
        let autoscalers = "/apis/autoscaling/v2/namespaces/bench/horizontalpodautoscalers?resourceVersion=0";
        let autoscalers = direct.get(autoscalers);
        let body = json!({
            "cluster_id": id, "namespace": "bench", "type": "deployment", "name": "web", "replicas": 2 * turn + 1,
        });
        let scale = server.target.post("/api/k8s/workloads/scale", &body.to_string());

        let began = Instant::now();
        there.good(&patch)?;
        there.good(&autoscalers)?;
        let between = Instant::now();
        here.good(&scale)?;
        let end = Instant::now();
        if turn >= WARM_UP {
            directs.push((between - began).as_secs_f64() * 1e3);
            ours.push((end - between).as_secs_f64() * 1e3);
        }
    }
    let trail = server.data("/api/k8s/audit/operations?operation_type=scale&status=success&per_page=1")?;
    if trail["pagination"]["total"] != WARM_UP + plan.scales {
        return Err(crate::error::Failed::because(format!(
            "the trail has not all scales: {}",
            trail["pagination"]
        )));
    }

    let mut section = Section::new("B8", "a scale, its audit rows durable");
    let mut table = vec![["", "p50 ms", "p90 ms", "p99 ms"].map(str::to_owned).to_vec()];
    for (name, times) in
        [("direct: PATCH, then LIST of autoscalers", &mut directs), ("through us", &mut ours)]
    {
        times.sort_by(f64::total_cmp);
        let at = |share| short(percentile(times, share));
        table.push(vec![name.into(), at(0.5), at(0.9), at(0.99)]);
    }
    section.table(&table);
    let (direct, ours) = (percentile(&directs, 0.5), percentile(&ours, 0.5));
    section.say(format!(
        "SQLite, `synchronous=FULL`: two commits to the disk in each; {} of each.",
        plan.scales
    ));
    section.verdict("p50 beyond direct", ours - direct, (direct * 0.25).max(1.5), "ms");
    Ok(section)
}
