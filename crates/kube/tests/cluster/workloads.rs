//! Workloads, their owned objects, and the logs of their pods.

use super::*;

#[tokio::test]
async fn workloads_scale_and_restart() {
    let (plane, adapter, admin, namespace) = fixture("changes").await;
    let deployment = samples::deployment(&namespace, "web", 1);
    let path = pilothouse_testbed::path_of(&deployment);
    admin.apply(&deployment).await.unwrap();
    admin.apply(&samples::stateful_set(&namespace, "db", 1)).await.unwrap();
    admin.apply(&samples::daemon_set(&namespace, "agent")).await.unwrap();
    let (web, three) = (object("web"), Replicas::try_from(3).unwrap());

    let scale = permit(Verb::Scale, Kind::Deployment, &namespace);
    let scaled = adapter.scale(&scale, &web, three).await.unwrap();
    assert_eq!((scaled.value.replicas, scaled.warnings), (Some(3), vec![]));
    assert_eq!(admin.get(&path).await.unwrap()["spec"]["replicas"], 3);
    assert!(audited(plane, &scale, "patch", "web"));
    let get = permit(Verb::Get, Kind::Deployment, &namespace);
    let detail = WorkloadApi::get(&adapter, &get, &web).await.unwrap().unwrap();
    assert_eq!(detail.workload.replicas, Some(3));
    let scale_set = permit(Verb::Scale, Kind::StatefulSet, &namespace);
    assert_eq!(adapter.scale(&scale_set, &object("db"), three).await.unwrap().value.replicas, Some(3));
    let error = adapter.scale(&scale, &object("absent"), three).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("deployment"))
    );

    admin
        .apply(&json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web-scaler", "namespace": namespace},
            "spec": {"maxReplicas": 4, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}))
        .await
        .unwrap();
    // responses from the API server's watch cache lag behind
    let cached_list =
        format!("/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers?resourceVersion=0");
    let not_empty = |list: &Value| list["items"].as_array().is_some_and(|items| !items.is_empty());
    admin.wait_until(&cached_list, not_empty, TEST_TIMEOUT).await.unwrap();
    let scaled = adapter.scale(&scale, &web, three).await.unwrap();
    assert_eq!(scaled.warnings, [Warning::Autoscaled("web-scaler".to_owned())]);

    let at = "2026-01-02T03:04:05.678Z".parse().unwrap();
    for (kind, name) in [(Kind::Deployment, "web"), (Kind::StatefulSet, "db"), (Kind::DaemonSet, "agent")] {
        let restart = permit(Verb::Restart, kind, &namespace);
        let row = adapter.restart(&restart, &object(name), at).await.unwrap();
        assert_eq!(row.restarted_at, Some("2026-01-02T03:04:05Z".parse().unwrap()), "{name}");
        assert!(audited(plane, &restart, "patch", name));
    }
    let annotations = &admin.get(&path).await.unwrap()["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations, &json!({"kubectl.kubernetes.io/restartedAt": "2026-01-02T03:04:05Z"}));

    admin.patch(&path, &json!({"spec": {"paused": true}})).await.unwrap();
    let restart = permit(Verb::Restart, Kind::Deployment, &namespace);
    assert_eq!(adapter.restart(&restart, &web, at).await.unwrap_err().cause, Cause::RolloutPaused);
}

#[tokio::test]
async fn workload_has_only_its_own_pods_events_and_revisions() {
    let (_, adapter, admin, namespace) = fixture("detail").await;
    let mut deployment = samples::deployment(&namespace, "web", 2);
    deployment["spec"]["selector"]["matchExpressions"] = json!([{"key": "app", "operator": "In", "values": ["web", "other"]}, {"key": "absent", "operator": "DoesNotExist"}]);
    admin.apply(&deployment).await.unwrap();
    // a pod with the same labels and no owner
    let mut unowned = samples::pod(&namespace, "unowned");
    unowned["metadata"]["labels"] = json!({"app": "web", "unowned": "yes"});
    admin.apply(&unowned).await.unwrap();
    let pods = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3Dweb,!unowned");
    let two = |pods: &Value| pods["items"].as_array().is_some_and(|items| items.len() == 2);
    let direct = admin.wait_until(&pods, two, TEST_TIMEOUT).await.unwrap();
    let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    let uid = admin.get(&deployment).await.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let events = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}");
    let some = |events: &Value| events["items"].as_array().is_some_and(|items| !items.is_empty());
    admin.wait_until(&events, some, TEST_TIMEOUT).await.unwrap();

    let detail = async |kind: WorkloadType, name: &str| {
        let permit = permit(Verb::Get, kind.kind(), &namespace);
        WorkloadApi::get(&adapter, &permit, &object(name)).await.unwrap()
    };
    let web = detail(WorkloadType::Deployment, "web").await.unwrap();
    let expected: BTreeSet<_> =
        direct["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str()).collect();
    let found: BTreeSet<_> = web.pods.iter().map(|pod| Some(pod.name.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!((web.revisions.len(), web.revisions[0].revision), (1, Some(1)));
    assert!(web.events.iter().all(|event| event.object.name == "web"));
    assert!(!web.events.is_empty());
    assert!(detail(WorkloadType::Deployment, "absent").await.is_none());

    admin.apply(&samples::stateful_set(&namespace, "db", 1)).await.unwrap();
    admin.apply(&samples::job(&namespace, "migrate")).await.unwrap();
    let owned = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app+in+(db,migrate)");
    admin.wait_until(&owned, two, TEST_TIMEOUT).await.unwrap();
    let db = detail(WorkloadType::StatefulSet, "db").await.unwrap();
    assert_eq!((db.pods.len(), db.pods[0].name.as_str(), db.revisions.len()), (1, "db-0", 1));
    let migrate = detail(WorkloadType::Job, "migrate").await.unwrap();
    assert_eq!((migrate.pods.len(), migrate.revisions.len()), (1, 0));

    let cron_job = samples::cron_job(&namespace, "report");
    let stored = admin.apply(&cron_job).await.unwrap();
    let mut job = samples::job(&namespace, "report-1");
    job["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "report",
        "uid": stored["metadata"]["uid"], "controller": true}]);
    admin.apply(&job).await.unwrap();
    let of_job = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=job-name=report-1");
    let one = |pods: &Value| pods["items"].as_array().is_some_and(|pods| pods.len() == 1);
    admin.wait_until(&of_job, one, TEST_TIMEOUT).await.unwrap();
    let report = detail(WorkloadType::CronJob, "report").await.unwrap();
    assert!(report.revisions.iter().any(|revision| revision.name == "report-1"));
    assert!(report.revisions.iter().all(|revision| revision.name != "migrate"));
    assert!(
        report.pods.iter().any(|pod| pod.name.starts_with("report-1-")),
        "the pod of the CronJob's job is included"
    );
    assert!(
        report.pods.iter().all(|pod| pod.name.starts_with("report-")),
        "the pod of another job is not included"
    );

    let listing = page(&adapter, List::Workloads, &namespace).await;
    assert_eq!(names(&listing), ["db", "web"]);
    let listing = page(&adapter, List::Pods, &namespace).await;
    let all = admin.get(&format!("/api/v1/namespaces/{namespace}/pods")).await.unwrap();
    let expected: Vec<_> =
        all["items"].as_array().unwrap().iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    assert_eq!(names(&listing), expected);
}

#[tokio::test]
async fn logs_are_read_from_running_pods_and_refused_for_waiting_pods() {
    let (_, adapter, admin, namespace) = fixture("logs").await;
    let options = LogOptions {
        container: None,
        tail_lines: 3,
        previous: false,
        since_seconds: None,
        timestamps: false,
    };
    let logs = permit(Verb::Logs, Kind::Pod, &namespace);
    let error = adapter.logs(&logs, &object("absent"), &options).await.unwrap_err();
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::NotFoundInCluster, Some("pod")));

    let mut waiting = samples::pod(&namespace, "waiting");
    waiting["spec"]["nodeSelector"] = json!({"no-such": "node"});
    admin.apply(&waiting).await.unwrap();
    let error = adapter.logs(&logs, &object("waiting"), &options).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.message.as_deref()),
        (Cause::ContainerNotStarted, Some("Pending"))
    );

    if !shared_has_node().await.unwrap() {
        return;
    }
    let counting = ["sh", "-c", "for n in 1 2 3 4 5; do echo line $n; done; sleep 1000"];
    let pod = samples::pod_running(&namespace, "counting", &counting);
    admin.apply(&pod).await.unwrap();
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    admin.wait_until(&pilothouse_testbed::path_of(&pod), running, TEST_TIMEOUT).await.unwrap();
    let log = format!("/api/v1/namespaces/{namespace}/pods/counting/log");
    let end = tokio::time::Instant::now() + TEST_TIMEOUT;
    while !admin.text(&log).await.unwrap_or_default().contains("line 5") {
        assert!(tokio::time::Instant::now() < end, "the pod wrote no log");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let read = adapter.logs(&logs, &object("counting"), &options).await.unwrap();
    assert_eq!((read.logs.as_str(), read.truncated), ("line 3\nline 4\nline 5\n", false));
    let previous = LogOptions { previous: true, ..options };
    let error = adapter.logs(&logs, &object("counting"), &previous).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("previous_log"))
    );
}
