//! Usage of CPU and memory, compared with kubectl top; and a cluster that does not serve it.

use pilothouse_testbed::{ControlPlane, kubectl, metrics_server, workloads};
use serde_json::Value;

use crate::support::{Server, apply, eventually, register_cluster, shared_control_plane, strings};

/// The usage of a row as kubectl prints it.
fn printed(usage: &Value) -> Option<[String; 2]> {
    let (cpu, memory) = (usage["cpu_millis"].as_i64()?, usage["memory_bytes"].as_i64()?);
    Some([format!("{cpu}m"), format!("{}Mi", memory >> 20)])
}

/// Pilothouse reads usage every 30 s, and metrics-server measures it every 10 s. A plane of its own, because autoscalers
/// scale where usage is known.
#[tokio::test]
async fn usage_is_that_of_kubectl_top() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    metrics_server(&plane).await.unwrap();
    let kube = plane.client();
    apply(&kube, &[workloads::deployment("default", "web", 2), workloads::pod("default", "talker")]).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "usage", &plane).await;

    let (pods, nodes) = (
        format!("/api/k8s/pods?cluster_id={id}&namespace=default"),
        format!("/api/k8s/nodes?cluster_id={id}"),
    );
    for (list, key, kind, name, of_memory, object) in [
        (format!("{pods}&search=talker"), "pods", "pod", "talker", 2, "namespaces/default/pods/talker"),
        (nodes, "nodes", "node", node.name(), 3, &*format!("nodes/{}", node.name())),
    ] {
        let object = format!("/apis/metrics.k8s.io/v1beta1/{object}");
        eventually("Pilothouse and kubectl show the same measurement", async || {
            let measured = kube.get(&object).await.ok()?;
            let row = admin.rows(&list, key).await.pop()?;
            if row["usage"]["at"] != measured["timestamp"] {
                return None;
            }
            let top = kubectl(&plane, &["top", kind, name, "--no-headers"]).await.ok()?;
            if kube.get(&object).await.ok()? != measured {
                return None;
            }
            let columns: Vec<_> = top.split_whitespace().map(str::to_owned).collect();
            let [cpu, memory] = printed(&row["usage"])?;
            assert_eq!(
                (&columns[0], &columns[1], &columns[of_memory]),
                (&name.to_owned(), &cpu, &memory),
                "{top}"
            );
            Some(())
        })
        .await;
    }

    let workload = format!("/api/k8s/workloads?cluster_id={id}&namespace=default&type=deployment");
    eventually("the usage of a workload is that of its pods", async || {
        let workload = admin.rows(&workload, "workloads").await.pop()?;
        let pods = admin.rows(format!("{pods}&search=web"), "pods").await;
        let sum = |field: &str| pods.iter().map(|pod| pod["usage"][field].as_i64()).sum::<Option<i64>>();
        let sums = [sum("cpu_millis")?, sum("memory_bytes")?];
        let own = ["cpu_millis", "memory_bytes"].map(|field| workload["usage"][field].as_i64());
        (pods.len() == 2 && own == sums.map(Some)).then_some(())
    })
    .await;

    let sorted = admin.rows(format!("{pods}&sort=-usage_memory"), "pods").await;
    let values: Vec<_> = sorted.iter().map(|pod| pod["usage"]["memory_bytes"].as_i64()).collect();
    assert!(values.len() == 3 && values.is_sorted_by(|a, b| a >= b), "{values:?}");

    let series = format!("/api/k8s/metrics/series?cluster_id={id}&kind=pod&namespace=default&name=talker");
    eventually("two points of a series", async || {
        let data = admin.get(&series).await.data();
        let points = data["points"].as_array()?;
        let times: Vec<_> = points.iter().filter_map(|point| point["at"].as_str()).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{data}");
        (times.len() >= 2).then_some(())
    })
    .await;
    let of_none = series.replace("talker", "none");
    admin.get(&of_none).await.refused("RESOURCE_NOT_FOUND");
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn cluster_without_the_api_has_one_warning_and_no_usage() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "no-usage", shared_control_plane().await).await;
    for list in ["pods?namespace=*&sort=usage_cpu", "workloads?namespace=*", "nodes?sort=-usage_memory"] {
        let (key, _) = list.split_once('?').unwrap();
        let data = eventually("the API is known to be absent", async || {
            let data = admin.get(format!("/api/k8s/{list}&cluster_id={id}")).await.data();
            (!strings(&data["warnings"]).is_empty()).then_some(data)
        })
        .await;
        let warnings = strings(&data["warnings"]);
        assert!(matches!(&warnings[..], [one] if one.contains("metrics.k8s.io")), "{list}: {warnings:?}");
        let rows = data[key].as_array().unwrap();
        assert!(rows.iter().all(|row| row["usage"].is_null()), "{list}: {rows:?}");
    }
}
