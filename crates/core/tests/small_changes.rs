//! Changes of jobs, pods and nodes, and the dependents of objects: the rights that they take, and what is recorded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Caller,
    app::{App, AppSettings},
    audit::OperationRow,
    change_reason::ChangeReason,
    dependents::{Dependee, Dependents, DependentsNote, MockDependentApi, OwnedObject},
    gate::Warning,
    ids::ClusterId,
    inventory::objects::{MockObjectApi, ServedKind, ServedKinds},
    job::JobRun,
    kind::{KINDS, Kind},
    name::{Namespace, ObjectName, Uid},
    operation::Status,
    pod_change::PodRef,
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    testing::{fake::Fake, new_cluster},
    workload::{WorkloadRef, WorkloadType},
};
use serde_json::{Value, json};

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn reason() -> Option<ChangeReason> {
    Some(ChangeReason::new("node is slow").unwrap())
}

impl Fixture {
    /// A cluster in which all kinds of the table can be listed, watched and deleted.
    fn new() -> Self {
        let fake = Fake::default();
        let mut objects = MockObjectApi::new();
        objects.expect_kinds().returning(|_, _| {
            let verbs = || ["delete", "list", "watch"].map(str::to_owned).to_vec();
            let served = |kind: &Kind| {
                let info = kind.info();
                ServedKind {
                    group: info.group.to_owned(),
                    version: info.version.to_owned(),
                    plural: info.plural.to_owned(),
                    kind: info.kind.to_owned(),
                    namespaced: info.namespaced,
                    verbs: verbs(),
                    ..ServedKind::default()
                }
            };
            Ok(Arc::new(ServedKinds { kinds: KINDS.iter().map(served).collect(), warnings: Vec::new() }))
        });
        let mut ports = fake.ports();
        ports.objects.objects = Arc::new(objects);
        let app = App::new(ports, AppSettings::default());
        let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
        fake.clusters.calls();
        Self { fake, app, cluster }
    }

    fn put(&self, kind: Kind, name: &str, uid: &str, owners: Value, rest: Value) {
        let metadata = json!({"name": name, "namespace": "shop", "uid": uid, "ownerReferences": owners});
        let mut object = json!({"metadata": metadata});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        self.fake.clusters.put(self.cluster, kind, object);
    }

    /// Puts the pods `web-0`, which a ReplicaSet replaces, and `bare`, which nothing replaces. Their names are their uids.
    fn put_pods(&self) {
        let owner = json!([{"kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]);
        self.put(Kind::Pod, "web-0", "web-0", owner, json!({}));
        self.put(Kind::Pod, "bare", "bare", json!(null), json!({}));
    }

    /// A caller of the role `none` who has these rights in `shop`.
    fn caller(&self, rules: Value) -> Caller {
        let grant = EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: serde_json::from_value::<Reach>(json!(["shop"])).unwrap(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([(self.cluster, Labels::new())]);
        let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
        Caller::system().with_rights(Role::None, Arc::new(rights))
    }

    fn delete(&self, caller: &Caller, pod: &PodRef, grace_seconds: Option<u32>) -> Result<(), Cause> {
        let changes = &self.app.pod_changes;
        let deleted = block_on(changes.delete(caller, self.cluster, pod, grace_seconds, reason()));
        deleted.map(drop).map_err(|error| error.cause)
    }

    fn evict(&self, caller: &Caller, pod: &PodRef) -> Result<(), Cause> {
        let evicted = block_on(self.app.pod_changes.evict(caller, self.cluster, pod, None));
        evicted.map(drop).map_err(|error| error.cause)
    }

    fn last_operation(&self) -> OperationRow {
        self.fake.store.all_operations().pop().unwrap()
    }
}

fn pod(name: &str, uid: &str) -> PodRef {
    PodRef { namespace: shop(), name: self::name(name), uid: Uid::new(uid).unwrap() }
}

fn on_workloads(verbs: &[&str]) -> Value {
    json!([{"verbs": verbs, "resources": ["workloads"]}])
}

#[test]
fn replaced_pod_takes_the_right_to_restart_and_any_other_the_right_to_delete() {
    let fixture = Fixture::new();
    let (operator, editor) =
        (fixture.caller(on_workloads(&["restart"])), fixture.caller(on_workloads(&["restart", "delete"])));
    let viewer = fixture.caller(on_workloads(&["list", "get"]));
    let cleaner = fixture.caller(on_workloads(&["delete"]));
    let (replaced, bare) = (pod("web-0", "web-0"), pod("bare", "bare"));
    let low = Err(Cause::RoleTooLow);
    for (caller, pod, grace_seconds, expected) in [
        (&viewer, &replaced, None, low),
        (&operator, &replaced, None, Ok(())),
        (&operator, &replaced, Some(30), Ok(())),
        (&operator, &replaced, Some(0), low),
        (&operator, &bare, None, low),
        (&editor, &bare, None, Ok(())),
        (&editor, &replaced, Some(0), Ok(())),
        (&cleaner, &replaced, None, low),
        (&cleaner, &replaced, Some(0), Ok(())),
        (&cleaner, &bare, Some(30), Ok(())),
    ] {
        fixture.put_pods();
        let result = fixture.delete(caller, pod, grace_seconds);
        assert_eq!(result, expected, "{} {grace_seconds:?}", pod.name);
        let row = fixture.last_operation();
        assert_eq!((&*row.operation_type, &*row.resource_type), ("delete", "pod"));
        let status = if expected.is_ok() { Status::Success } else { Status::Failed };
        assert_eq!(row.status, status, "{row:?}");
    }
    for (caller, pod, expected) in [
        (&viewer, &replaced, low),
        (&operator, &replaced, Ok(())),
        (&operator, &bare, low),
        (&editor, &bare, Ok(())),
        (&cleaner, &replaced, low),
        (&cleaner, &bare, Ok(())),
    ] {
        fixture.put_pods();
        assert_eq!(fixture.evict(caller, pod), expected, "{}", pod.name);
        assert_eq!(fixture.last_operation().operation_type, "evict");
    }
}

#[test]
fn refusal_of_a_bare_pod_names_the_right_to_delete_and_removes_nothing() {
    let fixture = Fixture::new();
    fixture.put_pods();
    let operator = fixture.caller(on_workloads(&["restart"]));
    let changes = &fixture.app.pod_changes;
    let refused = block_on(changes.delete(&operator, fixture.cluster, &pod("bare", "bare"), None, None));
    let missing = refused.unwrap_err().context.missing.unwrap();
    assert_eq!((&*missing.verb, &*missing.resource), ("delete", "workloads"));
    assert_eq!((missing.cluster_id, missing.namespace.as_deref()), (Some(fixture.cluster), Some("shop")));
    assert_eq!(fixture.fake.clusters.calls(), ["delete pod bare"], "the pod was read");
    let editor = fixture.caller(on_workloads(&["restart", "delete"]));
    assert_eq!(fixture.delete(&editor, &pod("bare", "bare"), None), Ok(()), "it is still there");
}

#[test]
fn pod_of_the_same_name_with_another_uid_stays() {
    let fixture = Fixture::new();
    fixture.put_pods();
    let system = Caller::system();
    let other = pod("web-0", "an-earlier-pod");
    assert_eq!(fixture.delete(&system, &other, None), Err(Cause::Modified));
    assert_eq!(fixture.evict(&system, &other), Err(Cause::Modified));
    assert_eq!(fixture.delete(&system, &pod("absent", "web-0"), None), Err(Cause::NotFoundInCluster));
    assert_eq!(fixture.delete(&system, &pod("web-0", "web-0"), None), Ok(()));
}

#[test]
fn row_of_a_change_has_its_reason_and_the_uid() {
    let fixture = Fixture::new();
    fixture.put_pods();
    fixture.delete(&Caller::system(), &pod("web-0", "web-0"), Some(30)).unwrap();
    let row = fixture.last_operation();
    assert_eq!(row.reason.as_deref(), Some("node is slow"));
    assert_eq!(row.details.as_deref(), Some("grace_seconds=30 uid=web-0"));
}

#[test]
fn each_run_of_a_cron_job_is_a_job_named_after_its_operation() {
    let fixture = Fixture::new();
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}});
    let spec = json!({"spec": {"schedule": "0 3 * * *", "suspend": true, "jobTemplate": template}});
    fixture.put(Kind::CronJob, "report", "c1", json!(null), spec);
    let operator = fixture.caller(on_workloads(&["restart"]));
    let run = JobRun { namespace: shop(), name: name("report"), job_name: None };
    let mut names = Vec::new();
    for _ in 0..2 {
        let job = block_on(fixture.app.jobs.run(&operator, fixture.cluster, &run, None)).unwrap().value;
        let row = fixture.last_operation();
        assert_eq!((&*row.operation_type, &*row.resource_type), ("run", "cronjob"));
        let id = row.operation_id.to_string().replace('-', "");
        assert_eq!(job.name, format!("report-{}", &id[20..]));
        assert_eq!(row.details, Some(format!("job_name={}", job.name)));
        names.push(job.name);
    }
    assert_ne!(names[0], names[1]);
    let named = JobRun { job_name: Some(name(&names[0])), ..run };
    let refused = block_on(fixture.app.jobs.run(&operator, fixture.cluster, &named, None)).unwrap_err();
    assert_eq!(refused.cause, Cause::AlreadyExists);
}

#[test]
fn suspending_what_is_suspended_changes_nothing() {
    let fixture = Fixture::new();
    fixture.put(Kind::CronJob, "report", "c1", json!(null), json!({"spec": {}}));
    let report = WorkloadRef { namespace: shop(), kind: WorkloadType::CronJob, name: name("report") };
    let suspend = |suspend: bool| {
        let jobs = &fixture.app.jobs;
        block_on(jobs.suspend(&Caller::system(), fixture.cluster, &report, suspend, None)).unwrap().warnings
    };
    assert_eq!(suspend(false), [Warning::Unchanged]);
    assert_eq!(suspend(true), []);
    assert_eq!(suspend(true), [Warning::Unchanged]);
    assert_eq!(suspend(false), []);
    let web = WorkloadRef { kind: WorkloadType::Deployment, ..report.clone() };
    let refused =
        block_on(fixture.app.jobs.suspend(&Caller::system(), fixture.cluster, &web, true, None)).unwrap_err();
    assert_eq!(refused.context.fields[0].name, "type");
}

#[test]
fn cordon_takes_the_right_to_update_nodes_of_the_whole_cluster() {
    let fixture = Fixture::new();
    fixture.fake.clusters.put(fixture.cluster, Kind::Node, json!({"metadata": {"name": "node-1"}}));
    let nodes = &fixture.app.nodes;
    let in_namespace = fixture.caller(json!([{"verbs": ["update"], "resources": ["nodes", "workloads"]}]));
    let cordon = |caller: &Caller, cordoned: bool| {
        block_on(nodes.cordon(caller, fixture.cluster, &name("node-1"), cordoned, None))
    };
    assert_eq!(cordon(&in_namespace, true).unwrap_err().cause, Cause::RoleTooLow);
    let cordoned = cordon(&Caller::system(), true).unwrap();
    assert!(cordoned.value.unschedulable && cordoned.warnings.is_empty());
    assert_eq!(fixture.last_operation().operation_type, "cordon");
    assert_eq!(cordon(&Caller::system(), true).unwrap().warnings, [Warning::Unchanged]);
    assert!(!cordon(&Caller::system(), false).unwrap().value.unschedulable);
    assert_eq!(fixture.last_operation().operation_type, "uncordon");
}

#[test]
fn dependents_are_of_the_kinds_that_the_caller_may_list() {
    let fixture = Fixture::new();
    let owner = |uid: &str| json!([{"kind": "x", "name": "x", "uid": uid}]);
    fixture.put(Kind::Deployment, "web", "d1", json!(null), json!({}));
    fixture.put(Kind::ReplicaSet, "web-a", "r1", owner("d1"), json!({}));
    fixture.put(Kind::Pod, "web-a-1", "p1", owner("r1"), json!({}));
    fixture.put(Kind::ConfigMap, "web-config", "m1", owner("d1"), json!({}));
    fixture.put(Kind::ConfigMap, "other", "m2", json!(null), json!({}));
    let read = |caller: &Caller, resource: &str| {
        let resource = resource.parse().unwrap();
        block_on(fixture.app.dependents.read(caller, fixture.cluster, &resource, &shop(), &name("web")))
    };
    let names = |caller: &Caller| {
        let found = read(caller, "deployments.apps").unwrap();
        (found.tree.into_iter().map(|row| row.name).collect::<Vec<_>>(), found.warnings)
    };
    let (all, warnings) = names(&Caller::system());
    assert_eq!(
        (all, warnings),
        (vec!["web-config".to_owned(), "web-a".to_owned(), "web-a-1".to_owned()], vec![])
    );

    let ann = fixture.caller(on_workloads(&["list"]));
    fixture.fake.clusters.calls();
    let (seen, warnings) = names(&ann);
    assert_eq!(seen, ["web-a", "web-a-1"]);
    assert!(warnings.contains(&Warning::Unreadable("configmaps")));
    assert!(!warnings.contains(&Warning::Unreadable("pods")));
    let calls = fixture.fake.clusters.calls();
    assert!(!calls.iter().any(|call| call.contains("configmap") || call.contains("secret")), "{calls:?}");

    assert_eq!(read(&ann, "services").unwrap_err().cause, Cause::RoleTooLow);
    assert_eq!(read(&ann, "pods").unwrap_err().cause, Cause::NotFoundInCluster);
    for unknown in ["boats.example.org", "nodes", "events", "deployments"] {
        assert_eq!(read(&Caller::system(), unknown).unwrap_err().cause, Cause::KindNotServed, "{unknown}");
    }
}

/// Reads the dependents of a deployment in a cluster with these kinds (group, plural, kind), of which some fail. Returns the
/// plurals of the kinds that were read, too.
fn read_dependents(
    kinds: &[(&str, &str, &str)],
    failure: fn(&str) -> Option<Cause>,
) -> (Result<Dependents>, Vec<&'static str>) {
    let served = |&(group, plural, kind): &(&str, &str, &str)| ServedKind {
        group: group.to_owned(),
        version: "v1".to_owned(),
        plural: plural.to_owned(),
        kind: kind.to_owned(),
        namespaced: true,
        verbs: ["delete", "list", "watch"].map(str::to_owned).to_vec(),
        ..ServedKind::default()
    };
    let kinds = ServedKinds { kinds: kinds.iter().map(served).collect(), warnings: Vec::new() };
    let kinds = Arc::new(kinds);
    let mut objects = MockObjectApi::new();
    objects.expect_kinds().returning(move |_, _| Ok(kinds.clone()));
    let read = Arc::new(Mutex::new(Vec::new()));
    let seen = read.clone();
    let mut dependents = MockDependentApi::new();
    let web = Dependee { uid: "d1".to_owned(), ..Dependee::default() };
    dependents.expect_dependee().returning(move |_, _| Ok(Some(web.clone())));
    dependents.expect_owned_objects().returning(move |permit| {
        let plural = permit.kind().unwrap().info().plural;
        seen.lock().unwrap().push(plural);
        match failure(plural) {
            Some(cause) => Err(Error::new(cause)),
            None => {
                let (uid, name) = (format!("uid of {plural}"), format!("one of {plural}"));
                let owners = vec!["d1".to_owned()];
                Ok(Some(vec![OwnedObject { uid, name, owners, ..OwnedObject::default() }]))
            }
        }
    });
    let mut ports = Fake::default().ports();
    ports.objects.objects = Arc::new(objects);
    ports.objects.dependents = Arc::new(dependents);
    let app = App::new(ports, AppSettings::default());
    let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
    let resource = "deployments.apps".parse().unwrap();
    let found = block_on(app.dependents.read(&Caller::system(), cluster, &resource, &shop(), &name("web")));
    let read = read.lock().unwrap().clone();
    (found, read)
}

#[test]
fn kinds_that_fail_are_left_out_of_the_dependents_and_named() {
    let kinds = [
        ("apps", "deployments", "Deployment"),
        ("", "pods", "Pod"),
        ("", "configmaps", "ConfigMap"),
        ("down.example.org", "boats", "Boat"),
        ("slow.example.org", "rafts", "Raft"),
        ("slow.example.org", "ships", "Ship"),
    ];
    let (found, read) = read_dependents(&kinds, |plural| match plural {
        "configmaps" => Some(Cause::TooLarge),
        "boats" => Some(Cause::FailingCluster),
        "rafts" | "ships" => Some(Cause::DeadlineExceeded),
        _ => None,
    });
    let found = found.unwrap();
    let names: Vec<_> = found.tree.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["one of deployments", "one of pods"]);
    assert_eq!(found.note, Some(DependentsNote::Partial));
    let not_read = ["boats", "configmaps", "rafts", "ships"].map(Warning::NotRead);
    assert_eq!(found.warnings, not_read);
    assert!(read.contains(&"rafts") && !read.contains(&"ships"), "{read:?}");

    for cause in [Cause::Unreachable, Cause::CircuitOpen, Cause::Overloaded] {
        let failure: fn(&str) -> Option<Cause> = match cause {
            Cause::Unreachable => |_| Some(Cause::Unreachable),
            Cause::CircuitOpen => |_| Some(Cause::CircuitOpen),
            _ => |_| Some(Cause::Overloaded),
        };
        let (failed, _) = read_dependents(&kinds, failure);
        assert_eq!(failed.unwrap_err().cause, cause, "the whole cluster fails");
    }
}
