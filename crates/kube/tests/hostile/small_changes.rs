//! Changes of jobs, pods, autoscalers and nodes: what is sent, and what refusals mean.

use pilothouse_core::{
    autoscaler_limits::{AutoscalerApi, AutoscalerLimits},
    cordon::NodeApi,
    dependents::DependentApi,
    job::JobApi,
    name::Uid,
    pod_change::{Amounts, PodChangeApi, Resize},
    testing,
};

use super::*;

fn uid(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

/// A permit for the nodes of the cluster.
fn permit_node(verb: Verb) -> Permit {
    let access = AccessRequest::to(verb, Resource::Kind(Kind::Node)).in_cluster(CLUSTER);
    testing::permit(&pilothouse_core::access::Caller::system(), access)
}

fn sent(request: &RecordedRequest) -> Value {
    serde_json::from_str(&request.body).unwrap()
}

/// The texts of an API server of Kubernetes 1.37 (`pkg/registry/core/pod/storage/eviction.go`).
#[tokio::test]
async fn eviction_refused_by_a_budget_has_its_numbers_and_is_no_unknown_outcome() {
    let violates = "Cannot evict pod as it would violate the pod's disruption budget.";
    let budget = |text: &str| json!({"causes": [{"reason": "DisruptionBudget", "message": text}]});
    let numbers = "The disruption budget web needs 2 healthy pods and has 2 currently";
    let several =
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let precondition = "Precondition failed: UID in precondition: a, UID in object meta: b";
    for (code, reason, message, details, cause, expected) in [
        (429, "TooManyRequests", violates, budget(numbers), Cause::EvictRefused, Some(numbers)),
        (429, "TooManyRequests", violates, budget(""), Cause::EvictRefused, Some(violates)),
        (429, "TooManyRequests", "slow down", json!({}), Cause::RateLimitedByCluster, None),
        (403, "Forbidden", "negative", budget(numbers), Cause::EvictRefused, Some(numbers)),
        (403, "Forbidden", "no permission", json!({}), Cause::ForbiddenByCluster, Some("no permission")),
        (500, "", several, json!({}), Cause::EvictRefused, Some(several)),
        (500, "", "etcd is down", json!({}), Cause::FailingCluster, Some("etcd is down")),
        (409, "Conflict", precondition, json!({}), Cause::Modified, None),
        (404, "NotFound", "gone", json!({}), Cause::NotFoundInCluster, None),
    ] {
        let (server, adapter) =
            server_with_reply(move || Reply::status(code, reason, message, details.clone())).await;
        let evict = permit(Verb::Evict, Kind::Pod, "shop");
        let error = adapter.evict_pod(&evict, &object("web-0"), &uid("a")).await.unwrap_err();
        assert_eq!((error.cause, error.context.message.as_deref()), (cause, expected), "{code} {message}");
        assert_eq!(error.outcome_unknown(), cause == Cause::FailingCluster, "{code} {message}");
        assert_eq!(server.requests().len(), 1, "a change is sent once");
    }
}

/// The response to an eviction has no pod, so the pod is read for the lists that follow.
#[tokio::test]
async fn eviction_names_the_uid_and_reads_the_pod_afterwards() {
    for found in [true, false] {
        let server = FakeServer::start(move |request, _| match request.method.as_str() {
            "POST" => Reply::json(201, &json!({"kind": "Status", "status": "Success", "code": 201})),
            _ if found => Reply::json(
                200,
                &json!({"metadata": {"name": "web-0", "namespace": "shop", "resourceVersion": "9"}}),
            ),
            _ => Reply::status(404, "NotFound", "gone", json!({})),
        })
        .await;
        let evict = permit(Verb::Evict, Kind::Pod, "shop");
        adapter(&server).evict_pod(&evict, &object("web-0"), &uid("a")).await.unwrap();
        let requests = server.requests();
        let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
        assert_eq!(methods, ["POST", "GET"]);
        assert_eq!(requests[0].target, "/api/v1/namespaces/shop/pods/web-0/eviction?fieldManager=pilothouse");
        assert_eq!(sent(&requests[0])["deleteOptions"], json!({"preconditions": {"uid": "a"}}));
    }
}

#[tokio::test]
async fn deletion_names_the_uid_and_the_grace_period_in_its_body() {
    for (grace, expected) in [
        (None, json!({"preconditions": {"uid": "a"}})),
        (Some(0), json!({"preconditions": {"uid": "a"}, "gracePeriodSeconds": 0})),
    ] {
        let (server, adapter) =
            server_with_reply(|| Reply::json(200, &json!({"metadata": {"name": "web-0"}}))).await;
        let delete = permit(Verb::Delete, Kind::Pod, "shop");
        adapter.delete_pod(&delete, &object("web-0"), &uid("a"), grace).await.unwrap();
        let request = &server.requests()[0];
        assert_eq!((request.method.as_str(), sent(request)), ("DELETE", expected));
        assert!(!request.target.contains("dryRun"));
    }
    let (_server, adapter) =
        server_with_reply(|| Reply::status(409, "Conflict", "Precondition failed", json!({}))).await;
    let delete = permit(Verb::Delete, Kind::Pod, "shop");
    let error = adapter.delete_pod(&delete, &object("web-0"), &uid("a"), None).await.unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::Modified, Some("web-0")));
}

fn resize(container: &str) -> Resize {
    let memory = "64Mi".to_owned().try_into().ok();
    Resize {
        container: ContainerName::new(container).unwrap(),
        requests: Amounts::default(),
        limits: Amounts { cpu: None, memory },
    }
}

/// A server with the pod `web-0` of the uid `a`, that replies to a patch like this.
async fn pod_server(reply: impl Fn() -> Reply + Send + Sync + 'static) -> FakeServer {
    FakeServer::start(move |request, _| match request.method.as_str() {
        "GET" => Reply::json(
            200,
            &json!({"metadata": {"name": "web-0", "namespace": "shop", "uid": "a", "generation": 2},
                "spec": {"containers": [{"name": "app", "resources": {"limits": {"cpu": "1"}}}]}}),
        ),
        _ => reply(),
    })
    .await
}

#[tokio::test]
async fn refusals_of_a_resize_are_told_apart() {
    let capacity = json!({"causes": [{"reason": "NodeCapacity"}]});
    let rejected = json!({"causes": [{"reason": "FieldValueInvalid", "field": "spec"}]});
    let too_small = "pods \"web-0\" is forbidden: node didn't have enough allocatable resources";
    let patch_failed = "the server rejected our request due to an error in our request";
    let no_path = "the server could not find the requested resource";
    for (code, reason, message, details, cause) in [
        (403, "Forbidden", too_small, capacity, Cause::RejectedByCluster),
        (403, "Forbidden", "no permission", json!({}), Cause::ForbiddenByCluster),
        (422, "Invalid", "Pod QOS Class may not change", rejected, Cause::RejectedByCluster),
        (422, "Invalid", patch_failed, json!({}), Cause::Modified),
        (404, "NotFound", no_path, json!({}), Cause::ClusterTooOld),
        (404, "NotFound", "pods \"web-0\" not found", json!({}), Cause::NotFoundInCluster),
    ] {
        let server = pod_server(move || Reply::status(code, reason, message, details.clone())).await;
        let permit = permit(Verb::Resize, Kind::Pod, "shop");
        let resized = adapter(&server).resize_pod(&permit, &object("web-0"), &uid("a"), &resize("app")).await;
        let error = resized.unwrap_err();
        assert_eq!((error.cause, error.outcome_unknown()), (cause, false), "{code} {message}");
    }
}

#[tokio::test]
async fn resize_to_the_present_resources_sends_nothing() {
    let server = pod_server(|| Reply::Disconnect).await;
    let permit = permit(Verb::Resize, Kind::Pod, "shop");
    let cpu = "1".to_owned().try_into().ok();
    let same = Resize { limits: Amounts { cpu, memory: None }, ..resize("app") };
    let resized = adapter(&server).resize_pod(&permit, &object("web-0"), &uid("a"), &same).await.unwrap();
    assert_eq!((resized.value.name.as_str(), resized.warnings), ("web-0", vec![Warning::Unchanged]));
    assert!(server.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn resize_of_another_pod_or_container_sends_nothing() {
    let server = pod_server(|| Reply::Disconnect).await;
    let permit = permit(Verb::Resize, Kind::Pod, "shop");
    let adapter = adapter(&server);
    let other = adapter.resize_pod(&permit, &object("web-0"), &uid("b"), &resize("app")).await.unwrap_err();
    assert_eq!(other.cause, Cause::Modified);
    let absent = adapter.resize_pod(&permit, &object("web-0"), &uid("a"), &resize("no")).await.unwrap_err();
    let context = &absent.context;
    assert_eq!(
        (absent.cause, context.resource.as_deref(), context.pod.as_deref(), context.name.as_deref()),
        (Cause::NotFoundInCluster, Some("container"), Some("web-0"), Some("no"))
    );
    assert!(server.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn what_already_is_as_requested_is_not_sent() {
    let object_of = |spec: Value| json!({"metadata": {"name": "x", "namespace": "shop", "uid": "u", "resourceVersion": "7"}, "spec": spec});
    let limits = |min: i64, max: i64| AutoscalerLimits {
        min: Replicas::try_from(min).unwrap(),
        max: Replicas::try_from(max).unwrap(),
        resource_version: None,
    };
    let unchanged = vec![Warning::Unchanged];
    let (server, adapter) = server_with_reply(move || {
        Reply::json(
            200,
            &object_of(json!({"suspend": true, "unschedulable": true,
            "minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}})),
        )
    })
    .await;
    let suspend = permit(Verb::Suspend, Kind::CronJob, "shop");
    assert_eq!(adapter.suspend_job(&suspend, &object("x"), true).await.unwrap().warnings, unchanged);
    let cordon = permit_node(Verb::Cordon);
    assert_eq!(adapter.cordon_node(&cordon, &object("x"), true).await.unwrap().warnings, unchanged);
    let scale = permit(Verb::Scale, Kind::HorizontalPodAutoscaler, "shop");
    let limited = adapter.limit_autoscaler(&scale, &object("x"), &limits(1, 3)).await.unwrap();
    assert_eq!(limited.warnings, unchanged);
    assert!(server.requests().iter().all(|request| request.method == "GET"));

    let before = server.requests().len();
    adapter.suspend_job(&suspend, &object("x"), false).await.unwrap();
    adapter.cordon_node(&permit_node(Verb::Uncordon), &object("x"), false).await.unwrap();
    adapter.limit_autoscaler(&scale, &object("x"), &limits(2, 3)).await.unwrap();
    let requests = server.requests().split_off(before);
    let patches: Vec<_> = requests.iter().filter(|request| request.method == "PATCH").collect();
    assert_eq!(patches.len(), 3);
    for patch in patches {
        assert_eq!(patch.headers["content-type"], "application/json-patch+json");
        assert_eq!(sent(patch)[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        assert_eq!(sent(patch)[1], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}));
    }

    let stale = AutoscalerLimits { resource_version: Some("6".to_owned()), ..limits(2, 3) };
    let error = adapter.limit_autoscaler(&scale, &object("x"), &stale).await.unwrap_err();
    assert_eq!(error.cause, Cause::Modified);
}

/// The caller needs the right to restart, not that to list jobs.
#[tokio::test]
async fn run_of_a_cron_job_sends_one_job_of_the_given_name() {
    let server = FakeServer::start(|request, _| match request.method.as_str() {
        "GET" => Reply::json(
            200,
            &json!({"metadata": {"name": "report", "namespace": "shop", "uid": "c1"},
                "spec": {"concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {"backoffLimit": 1}}},
                "status": {"active": [{"name": "report-0"}]}}),
        ),
        _ => Reply::json(201, &json!({"metadata": {"name": "report-1", "namespace": "shop"}, "spec": {}})),
    })
    .await;
    let ann = caller(json!([{"verbs": ["restart"], "resources": ["workloads"]}]), json!(["shop"]));
    let access = AccessRequest::to(Verb::Run, Resource::Kind(Kind::CronJob)).in_cluster(CLUSTER);
    let permit = judged_permit(&ann, access.in_namespace(&common::namespace("shop"))).unwrap();
    let run = adapter(&server).run_cron_job(&permit, &object("report"), &object("report-1")).await.unwrap();
    assert_eq!(run.value.name, "report-1");
    assert_eq!(run.warnings, [Warning::RunsBeside("report-0".to_owned())]);
    let requests = server.requests();
    let paths: Vec<_> = requests
        .iter()
        .map(|request| (request.method.as_str(), request.target.split('?').next().unwrap()))
        .collect();
    assert_eq!(
        paths,
        [
            ("GET", "/apis/batch/v1/namespaces/shop/cronjobs/report"),
            ("POST", "/apis/batch/v1/namespaces/shop/jobs"),
        ]
    );
    let job = sent(&requests[1]);
    assert_eq!((&job["metadata"]["name"], &job["spec"]), (&json!("report-1"), &json!({"backoffLimit": 1})));
}

#[tokio::test]
async fn owners_are_read_as_metadata_and_unreadable_kinds_are_left_out() {
    const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let item = |n: u32| {
        json!({"metadata": {"name": format!("pod-{n}"), "namespace": "shop", "uid": format!("p{n}"),
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "r1"}]}})
    };
    let server = FakeServer::start(move |request, _| {
        let more = if request.target.contains("continue=") { "" } else { "more" };
        let number = if more.is_empty() { 2 } else { 1 };
        let list = json!({"kind": "PartialObjectMetadataList", "metadata": {"continue": more},
            "items": [item(number), {"metadata": {"name": "bare", "namespace": "shop", "uid": "b"}}]});
        Reply::json(200, &list)
    })
    .await;
    let list = permit(Verb::List, Kind::Pod, "shop");
    let owned = adapter(&server).owned_objects(&list).await.unwrap().unwrap();
    let found: Vec<_> = owned.iter().map(|object| (object.name.as_str(), object.owners.len())).collect();
    assert_eq!(found, [("pod-1", 1), ("pod-2", 1)], "objects without owners are not kept");
    // those of a StatefulSet that retains them have no owner
    let claims = permit(Verb::List, Kind::PersistentVolumeClaim, "shop");
    assert_eq!(adapter(&server).owned_objects(&claims).await.unwrap().unwrap().len(), 4);
    assert!(server.requests().iter().all(|request| request.headers["accept"] == METADATA));

    for (code, expected) in [(403, None), (404, Some(0))] {
        let (_server, adapter) =
            server_with_reply(move || Reply::status(code, "Refused", "no", json!({}))).await;
        let owned = adapter.owned_objects(&list).await.unwrap();
        assert_eq!(owned.map(|owned| owned.len()), expected, "{code}");
    }
    let (_server, adapter) = server_with_reply(|| Reply::Disconnect).await;
    assert!(adapter.owned_objects(&list).await.is_err(), "what did not answer is not left out");
}

#[tokio::test]
async fn dependee_is_read_by_the_permission_to_list() {
    let set = json!({"metadata": {"name": "db", "namespace": "shop", "uid": "s1"},
        "spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
    let list = json!({"kind": "StatefulSetList", "metadata": {}, "items": [set]});
    let (server, adapter) = server_with_reply(move || Reply::json(200, &list)).await;
    let permit_list = permit(Verb::List, Kind::StatefulSet, "shop");
    let db = adapter.dependee(&permit_list, &object("db")).await.unwrap().unwrap();
    assert_eq!((db.uid.as_str(), db.retained_claims), ("s1", vec!["data-db-".to_owned()]));
    assert!(server.requests()[0].target.contains("fieldSelector=metadata.name%3Ddb"));

    let empty = json!({"kind": "SecretList", "metadata": {}, "items": []});
    let (server, adapter) = server_with_reply(move || Reply::json(200, &empty)).await;
    let permit_list = permit(Verb::List, Kind::Secret, "shop");
    assert_eq!(adapter.dependee(&permit_list, &object("absent")).await.unwrap(), None);
    let accept = &server.requests()[0].headers["accept"];
    assert!(accept.contains("PartialObjectMetadataList"), "no value of a Secret is asked for: {accept}");
}
