//! Changes of jobs, pods, autoscalers and nodes, compared with kubectl.

use pilothouse_core::{
    access::{AccessRequest, Caller, Resource},
    autoscaler_limits::{AutoscalerApi, AutoscalerLimits},
    cordon::NodeApi,
    dependents::DependentApi,
    job::JobApi,
    name::{ContainerName, Uid},
    pod_change::{Amounts, PodChangeApi, Resize},
    testing,
};
use pilothouse_testbed::kubectl;

use super::*;

/// What kubectl prints for a JSONPath of an object of the namespace.
async fn field(plane: &ControlPlane, namespace: &str, object: &str, path: &str) -> String {
    let output = format!("--output=jsonpath={path}");
    kubectl(plane, &["get", object, "--namespace", namespace, &output]).await.unwrap()
}

async fn uid_of(plane: &ControlPlane, namespace: &str, object: &str) -> Uid {
    Uid::new(field(plane, namespace, object, "{.metadata.uid}").await).unwrap()
}

/// A Job without what differs between two Jobs of the same template.
fn template_of(job: &Value) -> Value {
    let mut job = job.clone();
    let own =
        ["controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];
    for pointer in ["/metadata/labels", "/spec/template/metadata/labels"] {
        if let Some(labels) = job.pointer_mut(pointer).and_then(Value::as_object_mut) {
            labels.retain(|key, _| !own.contains(&key.as_str()));
        }
    }
    job["spec"].as_object_mut().unwrap().remove("selector");
    let metadata = &job["metadata"];
    json!({"labels": metadata["labels"], "annotations": metadata["annotations"],
        "owners": metadata["ownerReferences"], "spec": job["spec"]})
}

#[tokio::test]
async fn run_makes_the_job_that_kubectl_makes() {
    let (plane, adapter, admin, namespace) = fixture("run").await;
    let mut cron_job = samples::cron_job(&namespace, "report");
    cron_job["spec"]["schedule"] = json!("0 0 30 2 *");
    cron_job["spec"]["jobTemplate"]["metadata"] =
        json!({"labels": {"team": "shop"}, "annotations": {"example.com/why": "nightly"}});
    cron_job["spec"]["jobTemplate"]["spec"]["suspend"] = json!(true);
    admin.apply(&cron_job).await.unwrap();
    let jobs = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    let from = ["create", "job", "by-kubectl", "--from=cronjob/report", "--namespace", &namespace];
    kubectl(plane, &from).await.unwrap();

    let run = permit(Verb::Run, Kind::CronJob, &namespace);
    let made = adapter.run_cron_job(&run, &object("report"), &object("by-us")).await.unwrap();
    assert_eq!((made.value.name.as_str(), made.warnings), ("by-us", vec![]));
    assert!(audited(plane, &run, "create", "by-us"));
    let (theirs, ours) =
        (admin.get(&format!("{jobs}/by-kubectl")).await.unwrap(), admin.get(&format!("{jobs}/by-us")).await);
    assert_eq!(template_of(&ours.unwrap()), template_of(&theirs));

    // the same operation again
    let error = adapter.run_cron_job(&run, &object("report"), &object("by-us")).await.unwrap_err();
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::AlreadyExists, Some("job")));
    let error = adapter.run_cron_job(&run, &object("absent"), &object("x")).await.unwrap_err();
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::NotFoundInCluster, Some("cronjob")));
}

#[tokio::test]
async fn job_runs_again_under_another_name_with_pods_of_its_own() {
    let (plane, adapter, admin, namespace) = fixture("rerun").await;
    let mut job = samples::job(&namespace, "migrate");
    job["spec"]["suspend"] = json!(true);
    job["metadata"]["labels"] = json!({"team": "shop"});
    let before = admin.apply(&job).await.unwrap();
    let rerun = permit(Verb::Rerun, Kind::Job, &namespace);
    adapter.rerun_job(&rerun, &object("migrate"), &object("migrate-2")).await.unwrap();
    assert!(audited(plane, &rerun, "create", "migrate-2"));
    let copy = admin.get(&format!("/apis/batch/v1/namespaces/{namespace}/jobs/migrate-2")).await.unwrap();
    assert_eq!(copy["metadata"]["labels"]["team"], "shop");
    assert_eq!(copy["spec"]["suspend"], false, "a copy runs");
    let uid = &copy["metadata"]["uid"];
    assert_eq!(&copy["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], uid);
    assert_ne!(uid, &before["metadata"]["uid"]);
    assert_eq!(field(plane, &namespace, "job/migrate", "{.spec.suspend}").await, "true", "unchanged");
    let containers = "/spec/template/spec/containers";
    assert_eq!(copy.pointer(containers), before.pointer(containers));
}

#[tokio::test]
async fn jobs_and_cron_jobs_are_suspended_and_resumed() {
    let (plane, adapter, admin, namespace) = fixture("suspend").await;
    let mut job = samples::job(&namespace, "migrate");
    job["spec"]["template"]["spec"]["nodeSelector"] = json!({"no-such": "node"});
    admin.apply(&job).await.unwrap();
    admin.apply(&samples::cron_job(&namespace, "report")).await.unwrap();
    for (kind, name) in [(Kind::CronJob, "report"), (Kind::Job, "migrate")] {
        let of_kubectl = format!("{}/{name}", kind.info().singular);
        for (verb, suspend) in [(Verb::Suspend, true), (Verb::Resume, false)] {
            let permit = permit(verb, kind, &namespace);
            let changed = adapter.suspend_job(&permit, &object(name), suspend).await.unwrap();
            assert_eq!((changed.value.name.as_str(), changed.warnings), (name, vec![]));
            assert!(audited(plane, &permit, "patch", name));
            let stored = field(plane, &namespace, &of_kubectl, "{.spec.suspend}").await;
            assert_eq!(stored, suspend.to_string(), "{of_kubectl}");
            let again = adapter.suspend_job(&permit, &object(name), suspend).await.unwrap();
            assert_eq!(again.warnings, [Warning::Unchanged]);
        }
    }
    let permit = permit(Verb::Suspend, Kind::CronJob, &namespace);
    let error = adapter.suspend_job(&permit, &object("absent"), true).await.unwrap_err();
    assert_eq!(error.cause, Cause::NotFoundInCluster);
}

#[tokio::test]
async fn limits_of_an_autoscaler_are_set_together() {
    let (plane, adapter, admin, namespace) = fixture("limits").await;
    let stored = admin.apply(&samples::autoscaler(&namespace, "db", "db")).await.unwrap();
    let scale = permit(Verb::Scale, Kind::HorizontalPodAutoscaler, &namespace);
    let limits = |min: i64, max: i64, version: Option<&str>| AutoscalerLimits {
        min: Replicas::try_from(min).unwrap(),
        max: Replicas::try_from(max).unwrap(),
        resource_version: version.map(str::to_owned),
    };
    // 1 to 3: each number alone would be rejected
    let row = adapter.limit_autoscaler(&scale, &object("db"), &limits(5, 9, None)).await.unwrap().value;
    assert_eq!((row.min_replicas, row.max_replicas), (5, 9));
    assert!(audited(plane, &scale, "patch", "db"));
    let path = "{.spec.minReplicas} {.spec.maxReplicas}";
    assert_eq!(field(plane, &namespace, "hpa/db", path).await, "5 9");
    let again = adapter.limit_autoscaler(&scale, &object("db"), &limits(5, 9, None)).await.unwrap();
    assert_eq!(again.warnings, [Warning::Unchanged]);
    let version = stored["metadata"]["resourceVersion"].as_str();
    let error = adapter.limit_autoscaler(&scale, &object("db"), &limits(2, 3, version)).await.unwrap_err();
    assert_eq!(error.cause, Cause::Modified);
    assert_eq!(field(plane, &namespace, "hpa/db", path).await, "5 9");
}

/// A plane of its own, because a node without a kubelet disturbs other tests.
#[tokio::test]
async fn node_is_cordoned_and_uncordoned() {
    let plane = ControlPlane::builder().controllers(false).start().await.unwrap();
    let admin = plane.client();
    admin.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker"}})).await.unwrap();
    let (adapter, _) = clusters(admin_connection(&plane), Deadlines::default());
    let permit_node = |verb: Verb| {
        let access = AccessRequest::to(verb, Resource::Kind(Kind::Node)).in_cluster(common::CLUSTER);
        testing::permit(&Caller::system(), access)
    };
    let worker = object("worker");
    let unschedulable = async || {
        let arguments = ["get", "node/worker", "--output=jsonpath={.spec.unschedulable}"];
        kubectl(&plane, &arguments).await.unwrap()
    };
    let cordon = permit_node(Verb::Cordon);
    let row = adapter.cordon_node(&cordon, &worker, true).await.unwrap().value;
    assert!(row.unschedulable);
    assert!(audited(&plane, &cordon, "patch", "worker"));
    assert_eq!(unschedulable().await, "true");
    assert_eq!(adapter.cordon_node(&cordon, &worker, true).await.unwrap().warnings, [Warning::Unchanged]);
    kubectl(&plane, &["uncordon", "worker"]).await.unwrap();
    adapter.cordon_node(&cordon, &worker, true).await.unwrap();
    let row = adapter.cordon_node(&permit_node(Verb::Uncordon), &worker, false).await.unwrap().value;
    assert!(!row.unschedulable);
    assert_eq!(unschedulable().await, "", "the API server leaves out false");
    kubectl(&plane, &["cordon", "worker"]).await.unwrap();
    assert_eq!(unschedulable().await, "true", "kubectl cordons what was uncordoned here");
    let error = adapter.cordon_node(&cordon, &object("absent"), true).await.unwrap_err();
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::NotFoundInCluster, Some("node")));
}

/// A pod that is on no node and counts as running and ready, so that budgets count it.
async fn running_pod(admin: &Admin, namespace: &str, name: &str) {
    let mut pod = samples::pod(namespace, name);
    pod["spec"]["nodeSelector"] = json!({"no-such": "node"});
    admin.apply(&pod).await.unwrap();
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"status": {"phase": "Running", "conditions": ready}});
    admin.patch(&format!("/api/v1/namespaces/{namespace}/pods/{name}/status"), &status).await.unwrap();
}

#[tokio::test]
async fn eviction_heeds_budgets_and_the_uid() {
    let (plane, adapter, admin, namespace) = fixture("evict").await;
    running_pod(&admin, &namespace, "web-0").await;
    let budget = |name: &str| {
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web-0"}}}})
    };
    let path = |name: &str| format!("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}");
    let counted = |budget: &Value| budget["status"]["currentHealthy"] == 1;
    admin.apply(&budget("one")).await.unwrap();
    admin.wait_until(&path("one"), counted, TEST_TIMEOUT).await.unwrap();
    let uid = uid_of(plane, &namespace, "pod/web-0").await;
    let web = object("web-0");
    let evict = permit(Verb::Evict, Kind::Pod, &namespace);
    let error = adapter.evict_pod(&evict, &web, &uid).await.unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::EvictRefused, Some("web-0")));
    let message = error.context.message.unwrap();
    assert!(message.contains("needs 1 healthy pods and has 1 currently"), "{message}");
    // kubectl reads the same numbers
    assert_eq!(field(plane, &namespace, "pdb/one", "{.status.disruptionsAllowed}").await, "0");

    admin.apply(&budget("two")).await.unwrap();
    let error = adapter.evict_pod(&evict, &web, &uid).await.unwrap_err();
    assert_eq!((error.cause, error.outcome_unknown()), (Cause::EvictRefused, false), "two budgets");
    assert_eq!(uid_of(plane, &namespace, "pod/web-0").await, uid, "the pod stays");

    for name in ["one", "two"] {
        admin.delete(&path(name)).await.unwrap();
    }
    let other = Uid::new("3f2b6a1e-0c5d-4a6b-9d8e-7f6a5b4c3d2e").unwrap();
    assert_eq!(adapter.evict_pod(&evict, &web, &other).await.unwrap_err().cause, Cause::Modified);
    adapter.evict_pod(&evict, &web, &uid).await.unwrap();
    assert!(audited(plane, &evict, "create", "web-0"));
    assert_eq!(admin.try_get(&format!("/api/v1/namespaces/{namespace}/pods/web-0")).await.unwrap(), None);
    assert_eq!(adapter.evict_pod(&evict, &web, &uid).await.unwrap_err().cause, Cause::NotFoundInCluster);
}

#[tokio::test]
async fn pod_of_a_replaced_name_is_not_deleted() {
    let (plane, adapter, admin, namespace) = fixture("delete-pod").await;
    let mut pod = samples::pod(&namespace, "db-0");
    pod["spec"]["nodeSelector"] = json!({"no-such": "node"});
    admin.apply(&pod).await.unwrap();
    let (first, db) = (uid_of(plane, &namespace, "pod/db-0").await, object("db-0"));
    let delete = permit(Verb::Delete, Kind::Pod, &namespace);
    let identity = adapter.identify_pod(&delete, &db).await.unwrap().unwrap();
    assert_eq!((identity.uid.as_str(), identity.replaced), (first.as_str(), false));
    adapter.delete_pod(&delete, &db, &first, None).await.unwrap();
    assert!(audited(plane, &delete, "delete", "db-0"));
    assert_eq!(adapter.identify_pod(&delete, &db).await.unwrap(), None);

    admin.apply(&pod).await.unwrap();
    let error = adapter.delete_pod(&delete, &db, &first, Some(0)).await.unwrap_err();
    assert_eq!(error.cause, Cause::Modified);
    let second = uid_of(plane, &namespace, "pod/db-0").await;
    assert_ne!(second, first, "the new pod stays");
    adapter.delete_pod(&delete, &db, &second, Some(0)).await.unwrap();
    assert_eq!(admin.try_get(&pilothouse_testbed::path_of(&pod)).await.unwrap(), None);
}

#[tokio::test]
async fn resources_of_a_running_container_are_changed() {
    let (plane, adapter, admin, namespace) = fixture("resize").await;
    if !shared_has_node().await.unwrap() {
        return;
    }
    let pod = samples::pod(&namespace, "web");
    admin.apply(&pod).await.unwrap();
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    admin.wait_until(&pilothouse_testbed::path_of(&pod), running, TEST_TIMEOUT).await.unwrap();
    let (uid, web) = (uid_of(plane, &namespace, "pod/web").await, object("web"));
    let amounts = |cpu: Option<&str>, memory: Option<&str>| {
        let [cpu, memory] =
            [cpu, memory].map(|amount| amount.map(|text| text.to_owned().try_into().unwrap()));
        Amounts { cpu, memory }
    };
    let resize = |requests: Amounts, limits: Amounts| Resize {
        container: ContainerName::new("web").unwrap(),
        requests,
        limits,
    };
    let permitted = permit(Verb::Resize, Kind::Pod, &namespace);
    let more = resize(amounts(Some("20m"), None), amounts(None, None));
    let resized = adapter.resize_pod(&permitted, &web, &uid, &more).await.unwrap();
    assert_eq!((resized.value.name.as_str(), resized.value.restarts, resized.warnings), ("web", 0, vec![]));
    assert!(audited(plane, &permitted, "patch", "web"));
    let requests =
        "{.spec.containers[0].resources.requests.cpu} {.spec.containers[0].resources.requests.memory}";
    assert_eq!(field(plane, &namespace, "pod/web", requests).await, "20m 8Mi");

    let again = adapter.resize_pod(&permitted, &web, &uid, &more).await.unwrap();
    assert_eq!(again.warnings, [Warning::Unchanged]);

    // requests equal to limits: another quality of service class
    let guaranteed = resize(amounts(Some("20m"), Some("8Mi")), amounts(Some("20m"), Some("8Mi")));
    let error = adapter.resize_pod(&permitted, &web, &uid, &guaranteed).await.unwrap_err();
    assert_eq!(error.cause, Cause::RejectedByCluster, "{error}");
    let too_large = resize(amounts(Some("5k"), None), amounts(None, None));
    let error = adapter.resize_pod(&permitted, &web, &uid, &too_large).await.unwrap_err();
    assert_eq!(error.cause, Cause::RejectedByCluster, "the node is too small: {error}");
    assert_eq!(field(plane, &namespace, "pod/web", requests).await, "20m 8Mi");
}

#[tokio::test]
async fn owners_of_objects_are_those_that_kubectl_reads() {
    let (plane, adapter, admin, namespace) = fixture("owners").await;
    admin.apply(&samples::deployment(&namespace, "web", 2)).await.unwrap();
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let two = |pods: &Value| pods["items"].as_array().is_some_and(|items| items.len() == 2);
    admin.wait_until(&pods, two, TEST_TIMEOUT).await.unwrap();
    let path = "{range .items[*]}{.metadata.name}={.metadata.ownerReferences[0].uid}{\"\\n\"}{end}";
    for (kind, plural) in [(Kind::Pod, "pods"), (Kind::ReplicaSet, "replicasets.apps")] {
        let printed = field(plane, &namespace, plural, path).await;
        let expected: BTreeSet<_> = printed.lines().map(str::to_owned).collect();
        let list = permit(Verb::List, kind, &namespace);
        let owned = adapter.owned_objects(&list).await.unwrap().unwrap();
        let found: BTreeSet<_> =
            owned.iter().map(|object| format!("{}={}", object.name, object.owners.join(","))).collect();
        assert_eq!(found, expected, "{plural}");
    }
    let list = permit(Verb::List, Kind::Deployment, &namespace);
    let web = adapter.dependee(&list, &object("web")).await.unwrap().unwrap();
    assert_eq!(web.uid, uid_of(plane, &namespace, "deployment/web").await.as_str());
    assert_eq!(adapter.dependee(&list, &object("absent")).await.unwrap(), None);
}
