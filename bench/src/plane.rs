//! Control planes that hold so many pods: etcd and the API server alone. Filling one takes minutes, so what etcd then
//! holds is kept in the cache folder, and copied.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use pilothouse_testbed::{Component, ControlPlane, cache, kubernetes_version};
use serde_json::json;

use crate::{
    client::Target,
    error::{Failed, Result},
    pods::{Population, SHAPE},
    process,
};

/// How many connections fill a control plane.
const FILLING: usize = 24;

/// A control plane that holds these pods, on the core of the load.
pub(crate) async fn holding(pods: Population) -> Result<ControlPlane> {
    // filling and starting one takes all cores
    process::roam()?;
    let name = format!("etcd-{}-{}-{}-{SHAPE}", kubernetes_version(), pods.count, pods.size.name());
    let kept = cache()?.join(name);
    if !kept.exists() {
        let plane = empty().await?;
        fill(&plane, pods)?;
        eprintln!("bench: keeping {}", kept.display());
        plane.keep_data(&kept).await?;
    }
    let plane = builder().data(kept).start().await?;
    // the API server is ready before it has read all of them
    let target = direct(&plane)?;
    target.read("/api/v1/pods?limit=1&resourceVersion=0")?;
    on_the_load_core(&plane)?;
    Ok(plane)
}

/// A control plane without pods, free to run anywhere.
pub(crate) async fn empty() -> Result<ControlPlane> {
    process::roam()?;
    Ok(builder().start().await?)
}

fn builder() -> pilothouse_testbed::Builder {
    // no controllers, who would delete pods of nodes that are not there; no audit log, which nobody reads here
    ControlPlane::builder().controllers(false).apiserver_flag("--audit-log-path=")
}

/// Moves a control plane to the core of the load.
pub(crate) fn on_the_load_core(plane: &ControlPlane) -> Result<()> {
    for component in [Component::Etcd, Component::ApiServer] {
        process::move_to(plane.pid(component)?, process::LOAD)?;
    }
    Ok(())
}

/// The API server itself.
pub(crate) fn direct(plane: &ControlPlane) -> Result<Target> {
    let target = Target::new(plane.server(), Some(plane.ca_pem()))?;
    Ok(target.header("Authorization", &format!("Bearer {}", plane.admin_token())))
}

/// Creates the pods through the API, and says of each what its kubelet would.
fn fill(plane: &ControlPlane, pods: Population) -> Result<()> {
    let target = direct(plane)?;
    let mut connection = target.connect()?;
    for namespace in Population::namespaces() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        connection.good(&target.post("/api/v1/namespaces", &namespace.to_string()))?;
    }
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let worker = || -> Result<()> {
        let mut connection = target.connect()?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= pods.count {
                return Ok(());
            }
            let path = format!("/api/v1/namespaces/{}/pods", Population::namespace(i));
            let create = format!("{path}?fieldManager=kube-controller-manager");
            connection.good(&target.post(&create, &pods.pod(i).to_string()))?;
            let status = format!("{path}/{}/status?fieldManager=kubelet", pods.name(i));
            let kind = "application/merge-patch+json";
            connection.good(&target.with_body("PATCH", &status, kind, &pods.kubelet(i).to_string()))?;
            if (i + 1) % 10_000 == 0 {
                eprintln!("bench: {} of {} pods after {} s", i + 1, pods.count, began.elapsed().as_secs());
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..FILLING).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| Failed::because("a loader panicked"))?)
    })
}
