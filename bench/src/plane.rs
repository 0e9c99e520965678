//! Control planes with a given population of pods: etcd and the API server only. Filling one takes minutes, so etcd's
//! data is saved as a snapshot in the cache directory and copied for each start.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use pilothouse_testbed::{Component, ControlPlane, cache, kubernetes_version};
use serde_json::json;

use crate::{
    client::Target,
    error::{BenchError, Result},
    pods::{Population, SHAPE_VERSION},
    process,
};

/// Number of connections that fill a control plane.
const LOADERS: usize = 24;

/// A control plane with these pods, pinned to the core of the load.
pub(crate) async fn with_pods(pods: Population) -> Result<ControlPlane> {
    // filling and starting use all cores
    process::unpin()?;
    let name = format!("etcd-{}-{}-{}-{SHAPE_VERSION}", kubernetes_version(), pods.count, pods.size.name());
    let snapshot = cache()?.join(name);
    if !snapshot.exists() {
        let plane = empty().await?;
        fill(&plane, pods)?;
        eprintln!("bench: saving {}", snapshot.display());
        plane.keep_data(&snapshot).await?;
    }
    let plane = builder().data(snapshot).start().await?;
    // the API server is ready before its watch cache has read all pods
    let target = direct(&plane)?;
    target.read("/api/v1/pods?limit=1&resourceVersion=0")?;
    pin_to_load_core(&plane)?;
    Ok(plane)
}

/// A control plane without pods, not pinned to a core.
pub(crate) async fn empty() -> Result<ControlPlane> {
    process::unpin()?;
    Ok(builder().start().await?)
}

fn builder() -> pilothouse_testbed::Builder {
    // controllers would delete pods of missing nodes; the audit log is not used here
    ControlPlane::builder().controllers(false).apiserver_flag("--audit-log-path=")
}

/// Pins a control plane to the core of the load.
pub(crate) fn pin_to_load_core(plane: &ControlPlane) -> Result<()> {
    for component in [Component::Etcd, Component::ApiServer] {
        process::pin_process(plane.pid(component)?, process::LOAD_CORE)?;
    }
    Ok(())
}

/// Client target for direct requests to the API server.
pub(crate) fn direct(plane: &ControlPlane) -> Result<Target> {
    let target = Target::new(plane.server(), Some(plane.ca_pem()))?;
    Ok(target.header("Authorization", &format!("Bearer {}", plane.admin_token())))
}

/// Creates the pods through the API and sets the status that a kubelet would report.
fn fill(plane: &ControlPlane, pods: Population) -> Result<()> {
    let target = direct(plane)?;
    let mut connection = target.connect()?;
    for namespace in Population::namespaces() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        connection.expect_success(&target.post("/api/v1/namespaces", &namespace.to_string()))?;
    }
    let (next, started) = (AtomicUsize::new(0), Instant::now());
    let worker = || -> Result<()> {
        let mut connection = target.connect()?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= pods.count {
                return Ok(());
            }
            let path = format!("/api/v1/namespaces/{}/pods", Population::namespace(i));
            let create = format!("{path}?fieldManager=kube-controller-manager");
            connection.expect_success(&target.post(&create, &pods.pod(i).to_string()))?;
            let status = format!("{path}/{}/status?fieldManager=kubelet", pods.name(i));
            let kind = "application/merge-patch+json";
            connection.expect_success(&target.with_body(
                "PATCH",
                &status,
                kind,
                &pods.status_patch(i).to_string(),
            ))?;
            if (i + 1) % 10_000 == 0 {
                eprintln!("bench: {} of {} pods after {} s", i + 1, pods.count, started.elapsed().as_secs());
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..LOADERS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| BenchError::because("a loader panicked"))?)
    })
}
