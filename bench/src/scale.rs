//! B8: latency of a scale operation through Pilothouse, with durable audit rows, compared with the same direct
//! requests.

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

/// Operations of each kind before the measurement.
const WARM_UP: usize = 20;

/// B8.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    let plane = plane::empty().await?;
    let cluster = plane.client();
    cluster.apply(&workloads::namespace("bench")).await?;
    cluster.apply(&workloads::deployment("bench", "web", 1)).await?;
    let (server, id) = Server::start_with_cluster(&plan.binary, &plane).await?;
    plane::pin_to_load_core(&plane)?;

    let direct = plane::direct(&plane)?;
    let (mut direct_connection, mut server_connection) = (direct.connect()?, server.target.connect()?);
    let (mut direct_times, mut server_times) = (Vec::new(), Vec::new());
    for n in 0..WARM_UP + plan.scales {
        // the requests that the server sends for a scale: the patch and the list of autoscalers
        let body = json!({"spec": {"replicas": 2 * n}}).to_string();
        let path = "/apis/apps/v1/namespaces/bench/deployments/web";
        let patch = direct.with_body("PATCH", path, "application/merge-patch+json", &body);
        let autoscalers = "/apis/autoscaling/v2/namespaces/bench/horizontalpodautoscalers?resourceVersion=0";
        let autoscalers = direct.get(autoscalers);
        let body = json!({
            "cluster_id": id, "namespace": "bench", "type": "deployment", "name": "web", "replicas": 2 * n + 1,
        });
        let scale = server.target.post("/api/k8s/workloads/scale", &body.to_string());

        let started = Instant::now();
        direct_connection.expect_success(&patch)?;
        direct_connection.expect_success(&autoscalers)?;
        let middle = Instant::now();
        server_connection.expect_success(&scale)?;
        let end = Instant::now();
        if n >= WARM_UP {
            direct_times.push((middle - started).as_secs_f64() * 1e3);
            server_times.push((end - middle).as_secs_f64() * 1e3);
        }
    }
    let trail = server.data("/api/k8s/audit/operations?operation_type=scale&status=success&per_page=1")?;
    if trail["pagination"]["total"] != WARM_UP + plan.scales {
        return Err(crate::error::BenchError::because(format!(
            "the audit trail does not contain all scale operations: {}",
            trail["pagination"]
        )));
    }

    let mut section = Section::new("B8", "a scale, its audit rows durable");
    let mut table = vec![["", "p50 ms", "p90 ms", "p99 ms"].map(str::to_owned).to_vec()];
    for (name, times) in [
        ("direct: PATCH, then LIST of autoscalers", &mut direct_times),
        ("through Pilothouse", &mut server_times),
    ] {
        times.sort_by(f64::total_cmp);
        let at = |share| short(percentile(times, share));
        table.push(vec![name.into(), at(0.5), at(0.9), at(0.99)]);
    }
    section.table(&table);
    let (direct, server_times) = (percentile(&direct_times, 0.5), percentile(&server_times, 0.5));
    section.paragraph(format!(
        "SQLite with `synchronous=FULL`: two durable commits per operation; {} operations of each kind.",
        plan.scales
    ));
    section.verdict("p50 above direct", server_times - direct, (direct * 0.25).max(1.5), "ms");
    Ok(section)
}
