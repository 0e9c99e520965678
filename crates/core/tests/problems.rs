//! Problems of all clusters on the in-memory ports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Cause,
    access::Caller,
    app::{App, AppSettings},
    cluster::ClusterChange,
    ids::ClusterId,
    inventory::ClusterResultStatus,
    kind::Kind,
    name::{Namespace, ObjectName},
    problem::{ProblemPage, ProblemQuery, ProblemRow},
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    testing::{
        fake::{Condition, Fake},
        new_cluster,
    },
    workload::{Replicas, WorkloadRef, WorkloadType},
};
use serde_json::{Value, json};

struct Fixture {
    fake: Fake,
    app: App,
    clusters: Vec<ClusterId>,
}

impl Fixture {
    fn of(count: usize) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let register = |n: usize| {
            let cluster = new_cluster(&format!("cluster-{n}"));
            block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id
        };
        let clusters = (0..count).map(register).collect();
        Self { fake, app, clusters }
    }

    fn put(&self, cluster: usize, kind: Kind, object: Value) {
        self.fake.clusters.put(self.clusters[cluster], kind, object);
    }

    /// A pod of the deployment `web` whose container waits for this reason.
    fn pod_of_web(&self, cluster: usize, name: &str, reason: &str, message: &str) {
        let metadata = json!({"name": name, "namespace": "shop", "labels": {"pod-template-hash": "5d9f"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d9f", "controller": true}]});
        let container = json!({"name": "app", "restartCount": 4, "state": {"waiting":
            {"reason": reason, "message": message}}, "lastState": {"terminated":
            {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-01T00:00:00Z"}}});
        let status = json!({"phase": "Running", "containerStatuses": [container]});
        self.put(cluster, Kind::Pod, json!({"metadata": metadata, "status": status}));
    }

    /// The deployment `web` with 4 wanted replicas. While it is available, its own row is as wanted.
    fn web(&self, cluster: usize, available: i64, conditions: Value) {
        let status = json!({"replicas": 4, "updatedReplicas": 4, "availableReplicas": available,
            "readyReplicas": available, "conditions": conditions});
        let metadata = json!({"name": "web", "namespace": "shop"});
        self.put(
            cluster,
            Kind::Deployment,
            json!({"metadata": metadata, "spec": {"replicas": 4}, "status": status}),
        );
    }

    /// A caller of the role `none` with these rules in the namespace `shop` of the first cluster.
    fn caller(&self, rules: Value) -> Caller {
        let cluster = self.clusters[0];
        let grant = EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [cluster]})).unwrap(),
            reach: serde_json::from_value::<Reach>(json!(["shop"])).unwrap(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([(cluster, Labels::new())]);
        let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
        let user_id = Some(pilothouse_core::ids::UserId(77));
        Caller { user_id, ..Caller::system().with_rights(Role::None, Arc::new(rights)) }
    }

    fn list(&self, query: &str) -> pilothouse_core::Result<ProblemPage> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        block_on(self.app.problems.list(&Caller::system(), &ProblemQuery::parse(&pairs)?))
    }
}

/// `cluster/kind/name rule:variant count lost/wanted` of each problem.
fn lines(page: &ProblemPage) -> Vec<String> {
    let line = |problem: &ProblemRow| {
        let variant = problem.variant.map(|variant| format!(":{variant}")).unwrap_or_default();
        let replicas = problem.lost.zip(problem.wanted).map(|(lost, wanted)| format!(" {lost}/{wanted}"));
        let ProblemRow { cluster_name, kind, name, rule, count, .. } = problem;
        format!("{cluster_name}/{kind}/{name} {rule}{variant} {count}{}", replicas.unwrap_or_default())
    };
    page.problems.iter().map(line).collect()
}

#[test]
fn pods_of_one_workload_with_one_rule_are_one_problem() {
    let fixture = Fixture::of(1);
    let rolled = json!([{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]);
    fixture.web(0, 2, rolled);
    for name in ["web-5d9f-a", "web-5d9f-b"] {
        fixture.pod_of_web(0, name, "CrashLoopBackOff", "back-off");
    }
    fixture.pod_of_web(0, "web-5d9f-c", "ImagePullBackOff", "no such host");
    let page = fixture.list("").unwrap();
    let expected =
        ["cluster-0/deployment/web oom 2 2/4", "cluster-0/deployment/web image_pull:unreachable 1 2/4"];
    assert_eq!(lines(&page), expected, "a degraded deployment whose cause is known is no problem of its own");
    let ProblemRow { reason, sample, since, namespace, .. } = &page.problems[0];
    let sample = sample.as_ref().unwrap();
    assert_eq!((sample.pod.as_str(), sample.container.as_deref()), ("web-5d9f-a", Some("app")));
    assert_eq!((reason.as_deref(), namespace.as_deref()), (Some("OOMKilled"), Some("shop")));
    assert_eq!(since.unwrap().to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(page.clusters[0].total, Some(2));
}

#[test]
fn recent_changes_are_operations_that_the_caller_may_see() {
    let fixture = Fixture::of(1);
    fixture.web(0, 1, json!([]));
    fixture.pod_of_web(0, "web-5d9f-a", "ImagePullBackOff", "");
    let web = WorkloadRef {
        namespace: Namespace::new("shop").unwrap(),
        kind: WorkloadType::Deployment,
        name: ObjectName::new("web").unwrap(),
    };
    let scale = Replicas::try_from(2_i64).unwrap();
    let workloads = &fixture.app.workloads;
    block_on(workloads.scale(&Caller::system(), fixture.clusters[0], &web, scale)).unwrap();
    let changes = |rules: Value| {
        let query = ProblemQuery::parse(&[]).unwrap();
        let page = block_on(fixture.app.problems.list(&fixture.caller(rules), &query)).unwrap();
        page.problems[0].recent_changes.len()
    };
    let workloads = json!({"verbs": ["list"], "resources": ["workloads"]});
    let audit = json!({"verbs": ["list"], "resources": ["audit"]});
    assert_eq!(changes(json!([workloads])), 0, "the operation is another user's");
    assert_eq!(changes(json!([workloads, audit])), 1);
}

#[test]
fn crash_looping_deployment_that_kubernetes_calls_available_is_a_problem() {
    let fixture = Fixture::of(1);
    fixture.web(0, 4, json!([]));
    fixture.pod_of_web(0, "web-5d9f-a", "CrashLoopBackOff", "");
    assert_eq!(lines(&fixture.list("").unwrap()), ["cluster-0/deployment/web oom 1 0/4"]);
}

#[test]
fn healthy_cluster_has_no_problem() {
    let fixture = Fixture::of(1);
    fixture.web(0, 4, json!([]));
    let running = json!({"name": "app", "ready": true, "state": {"running": {}}});
    let pod = json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": {"containers": [{"name": "app"}]},
        "status": {"phase": "Running", "containerStatuses": [running], "conditions": [{"type": "Ready", "status": "True"}]}});
    fixture.put(0, Kind::Pod, pod);
    fixture.put(
        0,
        Kind::Pod,
        json!({"metadata": {"name": "done", "namespace": "shop"}, "status": {"phase": "Succeeded"}}),
    );
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    fixture.put(0, Kind::Node, json!({"metadata": {"name": "node-1"}, "status": ready}));
    let page = fixture.list("").unwrap();
    assert_eq!((page.problems, page.pagination.total, page.clusters[0].total), (vec![], 0, Some(0)));
}

#[test]
fn worst_problems_are_first_and_pages_cover_all() {
    let fixture = Fixture::of(2);
    fixture.pod_of_web(0, "web-5d9f-a", "ImagePullBackOff", "");
    fixture.web(0, 1, json!([]));
    fixture.put(1, Kind::Node, json!({"metadata": {"name": "node-1"}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}));
    fixture.put(
        1,
        Kind::PersistentVolumeClaim,
        json!({"metadata": {"name": "data", "namespace": "shop"}, "status": {"phase": "Lost"}}),
    );
    let condition = json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]);
    let owner = json!([{"kind": "CronJob", "name": "report", "controller": true}]);
    fixture.put(
        1,
        Kind::Job,
        json!({"metadata": {"name": "report-1", "namespace": "shop", "ownerReferences": owner},
        "status": {"conditions": condition}}),
    );
    let degraded = json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"replicas": 2},
        "status": {"updatedReplicas": 2, "availableReplicas": 1}});
    fixture.put(1, Kind::StatefulSet, degraded);
    let all = [
        "cluster-1/cronjob/report job:backoff_limit 1",
        "cluster-1/node/node-1 node:not_ready 1 1/1",
        "cluster-1/persistentvolumeclaim/data pvc:no_volume 1 1/1",
        "cluster-0/deployment/web image_pull 1 3/4",
        "cluster-1/statefulset/db rollout 1 1/2",
    ];
    let mut found = lines(&fixture.list("").unwrap());
    // the job's owner has no replicas: it is last among those of its level
    let job = all[0];
    assert_eq!(found.iter().position(|line| line == job), Some(3));
    found.retain(|line| line != job);
    assert_eq!(found, all[1..]);
    let pages = (1..=3).flat_map(|page| lines(&fixture.list(&format!("per_page=2&page={page}")).unwrap()));
    assert_eq!(pages.collect::<Vec<_>>(), lines(&fixture.list("").unwrap()));
    assert_eq!(lines(&fixture.list("level=warn").unwrap()), all[4..]);
    assert_eq!(lines(&fixture.list("rule=node,pvc").unwrap()), all[1..3]);
    let first = format!("cluster_id={}", fixture.clusters[0]);
    let page = fixture.list(&first).unwrap();
    assert_eq!((lines(&page), page.clusters.len()), (vec![all[3].to_owned()], 1));
    assert_eq!(fixture.list("cluster_id=999").unwrap_err().cause, Cause::NotFound);
    let deep = fixture.list("page=21&per_page=500").unwrap_err();
    assert_eq!(deep.context.fields[0].name, "page");
    let shop = fixture.list("namespace=shop").unwrap();
    assert!(!lines(&shop).iter().any(|line| line.contains("node")), "nodes are in no namespace");
    assert_eq!(shop.problems.len(), 4);
    assert!(fixture.list("namespace=other").unwrap().problems.is_empty());
}

#[test]
fn cron_job_that_misses_a_start_is_a_problem_until_it_starts() {
    let fixture = Fixture::of(1);
    // at midnight
    let problems = |last_start: &str, query: &str| {
        let spec = json!({"schedule": "0 * * * *", "timeZone": "Etc/UTC"});
        let object = json!({"metadata": {"name": "report", "namespace": "shop"}, "spec": spec,
            "status": {"lastScheduleTime": last_start}});
        fixture.put(0, Kind::CronJob, object);
        fixture.list(query).unwrap()
    };
    let page = problems("2025-12-31T21:00:00Z", "");
    assert_eq!(lines(&page), ["cluster-0/cronjob/report cron:missed 1"]);
    let ProblemRow { level, reason, since, .. } = &page.problems[0];
    assert_eq!((level.as_str(), reason), ("warn", &None));
    assert_eq!(since.unwrap().to_string(), "2025-12-31T22:05:00Z");
    assert_eq!(problems("2025-12-31T21:00:00Z", "rule=cron&level=warn&namespace=shop").problems.len(), 1);
    assert!(problems("2025-12-31T23:00:00Z", "").problems.is_empty(), "the next start is due now");
}

#[test]
fn failed_job_of_a_cron_job_is_over_when_a_later_one_succeeded() {
    let fixture = Fixture::of(1);
    let condition = json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let owner = json!([{"kind": "CronJob", "name": "report", "controller": true}]);
    let metadata = json!({"name": "report-1", "namespace": "shop", "ownerReferences": owner});
    fixture.put(0, Kind::Job, json!({"metadata": metadata, "status": {"conditions": condition}}));
    let put = |succeeded: &str| {
        let metadata = json!({"name": "report", "namespace": "shop"});
        let object = json!({"metadata": metadata, "status": {"lastSuccessfulTime": succeeded}});
        fixture.put(0, Kind::CronJob, object);
        lines(&fixture.list("").unwrap())
    };
    assert_eq!(put("2025-12-31T00:00:00Z"), ["cluster-0/cronjob/report job:backoff_limit 1"]);
    assert!(put("2026-01-02T00:00:00Z").is_empty());
}

#[test]
fn cluster_that_does_not_respond_is_told() {
    let fixture = Fixture::of(4);
    let [_, hanging, failing, stale] = fixture.clusters[..] else { panic!("four clusters") };
    fixture.fake.clusters.set(hanging, Condition::Hanging);
    fixture.fake.clusters.set(failing, Condition::Failing(Cause::Unreachable));
    let as_of = "2026-01-01T00:00:00Z".parse().unwrap();
    fixture.fake.clusters.set(stale, Condition::Cached { as_of, stale: true });
    let page = fixture.list("").unwrap();
    assert_eq!(
        lines(&page),
        ["cluster-2/cluster/cluster-2 cluster 1 1/1", "cluster-3/cluster/cluster-3 cluster 1 0/1"]
    );
    let [down, old] = &page.problems[..] else { panic!("two problems") };
    assert_eq!((down.reason.as_deref(), old.since), (Some("unreachable"), Some(as_of)));
    let statuses: Vec<_> = page.clusters.iter().map(|part| (part.status, part.total)).collect();
    assert_eq!(
        statuses,
        [
            (ClusterResultStatus::Ok, Some(0)),
            (ClusterResultStatus::Pending, None),
            (ClusterResultStatus::Error, Some(1)),
            (ClusterResultStatus::Stale, Some(1)),
        ]
    );
    fixture.fake.clusters.set(failing, Condition::Failing(Cause::ForbiddenByCluster));
    let page = fixture.list("level=bad").unwrap();
    assert!(page.problems.is_empty(), "what the credential may not read is no fault of the cluster");
    assert_eq!(page.clusters[2].status, ClusterResultStatus::Error);
}

#[test]
fn offline_cluster_is_bad_also_with_old_rows_and_without_an_answer() {
    let fixture = Fixture::of(1);
    let cluster = fixture.clusters[0];
    fixture.fake.clusters.fail(Some(Cause::Unreachable));
    block_on(fixture.app.clusters.status(&Caller::system(), cluster)).unwrap();
    fixture.fake.clusters.fail(None);
    let as_of = "2026-01-01T00:00:00Z".parse().unwrap();
    for condition in [Condition::Cached { as_of, stale: true }, Condition::Hanging] {
        fixture.fake.clusters.set(cluster, condition);
        let page = fixture.list("").unwrap();
        assert_eq!(lines(&page), ["cluster-0/cluster/cluster-0 cluster 1 1/1"], "{condition:?}");
        let problem = &page.problems[0];
        assert_eq!((problem.level.as_str(), problem.reason.as_deref()), ("bad", Some("unreachable")));
        assert!(fixture.list("namespace=shop").unwrap().problems.is_empty());
    }
}

#[test]
fn recent_changes_of_the_object_are_listed() {
    let fixture = Fixture::of(1);
    fixture.web(0, 1, json!([]));
    fixture.pod_of_web(0, "web-5d9f-a", "ImagePullBackOff", "");
    let workload = |name: &str| WorkloadRef {
        namespace: Namespace::new("shop").unwrap(),
        kind: WorkloadType::Deployment,
        name: ObjectName::new(name).unwrap(),
    };
    fixture.put(
        0,
        Kind::Deployment,
        json!({"metadata": {"name": "other", "namespace": "shop"}, "spec": {"replicas": 1}}),
    );
    for n in 0..7_i64 {
        for name in ["web", "other"] {
            let scale = Replicas::try_from(n).unwrap();
            let (system, workload) = (Caller::system(), workload(name));
            let changed = fixture.app.workloads.scale(&system, fixture.clusters[0], &workload, scale);
            block_on(changed).unwrap();
        }
    }
    let page = fixture.list("rule=image_pull").unwrap();
    let changes = &page.problems[0].recent_changes;
    assert_eq!(changes.len(), 5);
    assert!(changes.iter().all(|change| change.resource_name.as_deref() == Some("web")));
    assert!(changes.is_sorted_by_key(|change| std::cmp::Reverse(change.id)), "the newest first");
    fixture.fake.runtime.clock.advance(std::time::Duration::from_secs(2 * 60 * 60));
    let page = fixture.list("rule=image_pull").unwrap();
    assert!(page.problems[0].recent_changes.is_empty());
}

#[test]
fn recent_changes_are_found_behind_many_of_other_objects() {
    let fixture = Fixture::of(1);
    let degraded = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"replicas": 2}, "status":
            {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}})
    };
    // `api` is a problem of the same page, `other` is none
    for name in ["web", "api"] {
        fixture.put(0, Kind::Deployment, degraded(name));
    }
    let idle = json!({"metadata": {"name": "other", "namespace": "shop"}, "spec": {"replicas": 0}});
    fixture.put(0, Kind::Deployment, idle);
    let restart = |name: &str| {
        let workload = WorkloadRef {
            namespace: Namespace::new("shop").unwrap(),
            kind: WorkloadType::Deployment,
            name: ObjectName::new(name).unwrap(),
        };
        let system = Caller::system();
        block_on(fixture.app.workloads.restart(&system, fixture.clusters[0], &workload)).unwrap();
    };
    restart("web");
    for _ in 0..510 {
        restart("api");
        restart("other");
    }
    let page = fixture.list("").unwrap();
    let changes: Vec<_> =
        page.problems.iter().map(|problem| (problem.name.as_str(), problem.recent_changes.len())).collect();
    assert_eq!(changes, [("api", 5), ("web", 1)]);
}

#[test]
fn recent_changes_of_a_cluster_are_listed() {
    let fixture = Fixture::of(1);
    let change = ClusterChange { description: Some("moved".to_owned()), ..ClusterChange::default() };
    block_on(fixture.app.clusters.update(&Caller::system(), fixture.clusters[0], change)).unwrap();
    fixture.fake.clusters.set(fixture.clusters[0], Condition::Failing(Cause::Unreachable));
    let page = fixture.list("").unwrap();
    let changes = page.problems[0].recent_changes.iter();
    let changes: Vec<_> = changes.map(|change| change.operation_type.as_str()).collect();
    assert_eq!(changes, ["update", "create"]);
}
