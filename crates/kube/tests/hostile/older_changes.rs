//! Changes of single objects in a Kubernetes 1.30 cluster.

use pilothouse_core::{
    access::Caller,
    cordon::NodeApi,
    job::JobApi,
    json_patch::JsonPatch,
    name::Uid,
    object::Metadata,
    pod_change::{Amounts, PodChangeApi, Resize},
    quantity::Quantity,
    rollout::RolloutApi,
    testing,
    workload::WorkloadStatus,
};

use super::{old_cluster::OldCluster, *};

const POD: &str = "web-5d4f-x2x7k";

fn uid(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

#[tokio::test]
async fn pod_of_an_old_cluster_cannot_be_resized() {
    let cluster = OldCluster::start().await;
    let cpu = Some(Quantity::try_from("250m".to_owned()).unwrap());
    let resize = Resize {
        container: ContainerName::new("app").unwrap(),
        requests: Amounts { cpu, memory: None },
        limits: Amounts::default(),
    };
    let permit = permit(Verb::Resize, Kind::Pod, "shop");
    let resized = adapter(&cluster.server).resize_pod(&permit, &object(POD), &uid("p1"), &resize).await;
    let error = resized.unwrap_err();
    assert_eq!(error.cause, Cause::ClusterTooOld);
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn pod_of_an_old_cluster_is_evicted() {
    let cluster = OldCluster::start().await;
    let permit = permit(Verb::Evict, Kind::Pod, "shop");
    let adapter = adapter(&cluster.server);
    assert_eq!(adapter.identify_pod(&permit, &object(POD)).await.unwrap().unwrap().uid, "p1");
    adapter.evict_pod(&permit, &object(POD), &uid("p1")).await.unwrap();
    assert_eq!(cluster.object("/api/v1/pods", POD), None);
}

#[tokio::test]
async fn cron_job_of_an_old_cluster_is_suspended_once_and_run() {
    let cluster = OldCluster::start().await;
    let adapter = adapter(&cluster.server);
    let suspend = permit(Verb::Suspend, Kind::CronJob, "shop");
    for warnings in [vec![], vec![Warning::Unchanged]] {
        let changed = adapter.suspend_job(&suspend, &object("nightly"), true).await.unwrap();
        assert_eq!((changed.value.name.as_str(), changed.warnings), ("nightly", warnings));
        let cron_job = cluster.object("/apis/batch/v1/cronjobs", "nightly").unwrap();
        assert_eq!(cron_job["spec"]["suspend"], true);
    }
    let run = permit(Verb::Run, Kind::CronJob, "shop");
    let created = adapter.run_cron_job(&run, &object("nightly"), &object("nightly-now")).await.unwrap();
    assert_eq!(created.value.name, "nightly-now");
    let job = cluster.object("/apis/batch/v1/jobs", "nightly-now").unwrap();
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["image"], "busybox");
}

#[tokio::test]
async fn node_of_an_old_cluster_is_cordoned() {
    let cluster = OldCluster::start().await;
    let access = AccessRequest::to(Verb::Cordon, Resource::Kind(Kind::Node)).in_cluster(CLUSTER);
    let permit = testing::permit(&Caller::system(), access);
    let cordoned = adapter(&cluster.server).cordon_node(&permit, &object("node-1"), true).await.unwrap();
    assert!(cordoned.value.unschedulable);
    assert_eq!(cluster.object("/api/v1/nodes", "node-1").unwrap()["spec"]["unschedulable"], true);
}

#[tokio::test]
async fn history_of_an_old_cluster_has_the_revisions_of_each_workload() {
    let cluster = OldCluster::start().await;
    let adapter = adapter(&cluster.server);
    for (kind, name, stored) in [
        (Kind::Deployment, "web", "web-5d4f"),
        (Kind::StatefulSet, "db", "db-1"),
        (Kind::DaemonSet, "agent", "agent-1"),
    ] {
        let permit = permit(Verb::Get, kind, "shop");
        let history = adapter.history(&permit, &object(name)).await.unwrap().unwrap();
        assert_eq!(history.unreadable, None);
        let revisions: Vec<_> =
            history.revisions.iter().map(|one| (one.name.as_str(), one.revision)).collect();
        assert_eq!(revisions, [(stored, Some(1))]);
    }
}

#[tokio::test]
async fn patch_of_a_replaced_object_of_an_old_cluster_is_refused() {
    let cluster = OldCluster::start().await;
    let adapter = adapter(&cluster.server);
    let pause = permit(Verb::Pause, Kind::Deployment, "shop");
    let paused = async |uid: &str| {
        let metadata =
            Metadata { uid: uid.to_owned(), resource_version: "1".to_owned(), ..Metadata::default() };
        let patch = JsonPatch::of(&metadata).add("/spec/paused", true);
        adapter.patch(&pause, &object("web"), &patch).await
    };
    assert_eq!(paused("d2").await.unwrap_err().cause, Cause::Modified);
    assert_eq!(cluster.object("/apis/apps/v1/deployments", "web").unwrap()["spec"].get("paused"), None);
    assert_eq!(paused("d1").await.unwrap().status, WorkloadStatus::Paused);
}
