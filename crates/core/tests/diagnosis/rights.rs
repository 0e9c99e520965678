//! Each source of a diagnosis is read by the caller's own right.

use std::sync::Arc;

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    access::Caller,
    app::{App, AppSettings},
    diagnosis::{DiagnosedKind, DiagnosedObject, Diagnosis, Rule, Variant},
    error::Cause,
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    testing::{fake::Fake, new_cluster},
    usage::{KnownUsage, Subject, Usage, UsageTableBuilder},
};
use serde_json::{Value, json};

/// Verbs and resources of a rule of a role.
type RoleRule = (&'static [&'static str], &'static [&'static str]);

const CANARY: &str = "canary-of-the-environment";

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

impl Fixture {
    /// A deployment `web` in the namespace `shop` whose pod crashes.
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
        let this = Self { fake, app, cluster };
        let metadata = |name: &str, uid: &str, owner: Value| json!({"name": name, "namespace": "shop", "uid": uid, "labels": {"app": "web"}, "ownerReferences": owner});
        let selector = json!({"matchLabels": {"app": "web"}});
        let deployment = json!({"metadata": metadata("web", "d", json!([])), "spec": {"replicas": 1, "selector": selector},
                "status": {"replicas": 1}});
        let of_deployment = json!([{"kind": "Deployment", "name": "web", "uid": "d", "controller": true}]);
        let replica_set = json!({"metadata": metadata("web-1", "r", of_deployment), "spec": {"replicas": 1}});
        let of_replica_set = json!([{"kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true}]);
        let container =
            json!({"name": "app", "env": [{"name": "A", "value": CANARY}, {"name": "B", "value": "short"}]});
        let ended = json!({"terminated": {"reason": "Error", "exitCode": 1, "message": ""}});
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": ""}}, "lastState": ended}]});
        let pod = json!({"metadata": metadata("web-1-a", "p", of_replica_set),
            "spec": {"nodeName": "node-0", "containers": [container]}, "status": status});
        this.put(Kind::Deployment, deployment);
        this.put(Kind::ReplicaSet, replica_set);
        this.put(Kind::Pod, pod);
        this.put(
            Kind::Node,
            json!({"metadata": {"name": "node-0", "uid": "n"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        this
    }

    fn put(&self, kind: Kind, object: Value) {
        self.fake.clusters.put(self.cluster, kind, object);
    }

    /// A caller of the role `none` with these rules in the namespace `shop` (`None`: in the whole cluster).
    fn caller(&self, rules: &[RoleRule], namespaces: Option<&[&str]>) -> Caller {
        let rule = |(verbs, resources): &RoleRule| json!({"verbs": verbs, "resources": resources});
        let rules = Value::Array(rules.iter().map(rule).collect());
        let grant = EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: serde_json::from_value::<Reach>(json!(namespaces)).unwrap(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([(self.cluster, Labels::new())]);
        let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
        Caller::system().with_rights(Role::None, Arc::new(rights))
    }

    fn diagnose(&self, caller: &Caller) -> pilothouse_core::Result<Diagnosis> {
        let object = DiagnosedObject {
            kind: DiagnosedKind::of(Kind::Deployment).unwrap(),
            namespace: Some(Namespace::new("shop").unwrap()),
            name: ObjectName::new("web").unwrap(),
        };
        block_on(self.app.diagnoses.diagnose(caller, self.cluster, &object))
    }
}

const READS: RoleRule = (&["get", "list"], &["workloads"]);

#[test]
fn all_sources_are_read_by_whoever_has_all_rights() {
    let fixture = Fixture::new();
    let Diagnosis { findings, mut checked, unreadable } = fixture.diagnose(&Caller::system()).unwrap();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((finding.rule, finding.severity.as_str()), (Rule::Crash, "bad"));
    let last = finding.evidence.last().unwrap();
    assert_eq!((&*last.source, &*last.text), ("log web-1-a/app", "a line"));
    checked.sort_unstable();
    let expected = [
        "deployments",
        "events",
        "horizontalpodautoscalers",
        "logs",
        "nodes",
        "poddisruptionbudgets",
        "pods",
        "replicasets",
    ];
    assert_eq!((checked, unreadable), (expected.to_vec(), Vec::new()));
}

#[test]
fn sources_without_a_right_are_unreadable() {
    let fixture = Fixture::new();
    // rules of the role, namespaces (None: the whole cluster), what is unreadable
    type Case = (&'static [RoleRule], Option<&'static [&'static str]>, &'static [&'static str]);
    let cases: [Case; 4] = [
        (&[READS], Some(&["shop"]), &["events", "logs", "nodes"]),
        (&[READS, (&["list"], &["events"])], Some(&["shop"]), &["logs", "nodes"]),
        (&[READS, (&["logs"], &["workloads"])], Some(&["shop"]), &["events", "nodes"]),
        // a right to list nodes takes the reach of the whole cluster
        (&[READS, (&["list"], &["nodes", "events"]), (&["logs"], &["workloads"])], None, &[]),
    ];
    for (rules, namespaces, expected) in cases {
        let found = fixture.diagnose(&fixture.caller(rules, namespaces)).unwrap();
        let mut unreadable = found.unreadable;
        unreadable.sort_unstable();
        assert_eq!(unreadable, expected, "{rules:?} {namespaces:?}");
        assert_eq!(found.findings.len(), 1, "{rules:?}");
        let has_log = found.findings[0].evidence.iter().any(|quote| quote.source.starts_with("log "));
        assert_eq!(has_log, !expected.contains(&"logs"), "{rules:?}");
    }
}

#[test]
fn pods_that_may_not_be_listed_are_unreadable_and_not_healthy() {
    let fixture = Fixture::new();
    let found = fixture.diagnose(&fixture.caller(&[(&["get"], &["workloads"])], Some(&["shop"]))).unwrap();
    assert!(found.findings.is_empty());
    assert!(found.unreadable.contains(&"pods") && found.unreadable.contains(&"replicasets"));
}

/// A Service whose pods may not be listed is judged by its endpoints, and not taken for one without pods.
#[test]
fn service_is_judged_by_its_endpoints_where_pods_are_unreadable() {
    let fixture = Fixture::new();
    let service = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    fixture.put(Kind::Service, service);
    let slice = |ready: bool| {
        let labels = json!({"kubernetes.io/service-name": "web"});
        json!({"metadata": {"name": "web-a", "namespace": "shop", "uid": "e", "labels": labels},
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
    };
    let caller = fixture.caller(&[(&["get", "list"], &["network"])], Some(&["shop"]));
    let object = DiagnosedObject {
        kind: DiagnosedKind::of(Kind::Service).unwrap(),
        namespace: Some(Namespace::new("shop").unwrap()),
        name: ObjectName::new("web").unwrap(),
    };
    for (ready, expected) in [(true, None), (false, Some((Rule::Service, Some(Variant::NoneReady))))] {
        fixture.put(Kind::EndpointSlice, slice(ready));
        let found = block_on(fixture.app.diagnoses.diagnose(&caller, fixture.cluster, &object)).unwrap();
        assert!(found.unreadable.contains(&"pods"));
        let rules: Vec<_> = found.findings.iter().map(|finding| (finding.rule, finding.variant)).collect();
        assert_eq!(rules, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn without_the_right_to_get_the_object_nothing_is_read() {
    let fixture = Fixture::new();
    let caller = fixture.caller(&[(&["list", "logs"], &["workloads"])], Some(&["shop"]));
    fixture.fake.clusters.calls();
    assert_eq!(fixture.diagnose(&caller).unwrap_err().cause, Cause::RoleTooLow);
    let other = fixture.caller(&[READS], Some(&["other"]));
    assert_eq!(fixture.diagnose(&other).unwrap_err().cause, Cause::RoleTooLow);
    assert_eq!(fixture.fake.clusters.calls(), Vec::<String>::new());
}

#[test]
fn literal_values_of_the_environment_are_masked_for_whoever_may_not_read_them() {
    let fixture = Fixture::new();
    let text = format!("cannot connect with {CANARY} as short");
    let event = json!({"metadata": {"name": "e", "namespace": "shop"}, "reason": "Failed", "message": text,
        "involvedObject": {"kind": "Pod", "name": "web-1-a", "uid": "p"}});
    fixture.put(Kind::Event, event);
    let mut pod = json!({"metadata": {"name": "bare", "namespace": "shop", "uid": "b"},
        "spec": {"containers": [{"name": "app", "env": [{"name": "A", "value": CANARY}]}]}});
    pod["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"reason": "Error", "exitCode": 1, "message": text}}}]});
    fixture.put(Kind::Pod, pod);
    let object = DiagnosedObject {
        kind: DiagnosedKind::of(Kind::Pod).unwrap(),
        namespace: Some(Namespace::new("shop").unwrap()),
        name: ObjectName::new("bare").unwrap(),
    };
    let texts = |caller: &Caller| {
        let found = block_on(fixture.app.diagnoses.diagnose(caller, fixture.cluster, &object)).unwrap();
        let quotes = found.findings.into_iter().flat_map(|finding| finding.evidence);
        quotes.map(|quote| quote.text).collect::<Vec<_>>().join("\n")
    };
    let viewer = fixture.caller(&[READS], Some(&["shop"]));
    let masked = texts(&viewer);
    assert!(!masked.contains(CANARY) && masked.contains("connect with *** as short"), "{masked}");
    let editor = fixture.caller(&[READS, (&["update"], &["workloads"])], Some(&["shop"]));
    assert!(texts(&editor).contains(CANARY));
}

#[test]
fn limit_and_last_usage_of_a_container_that_lacks_memory_are_quoted() {
    let fixture = Fixture::new();
    let pod = json!({"metadata": {"name": "bare", "namespace": "shop", "uid": "b"},
        "spec": {"containers": [{"name": "app", "resources": {"limits": {"memory": "16Mi"}}}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}});
    fixture.put(Kind::Pod, pod);
    let mut table = UsageTableBuilder::default();
    let usage = Usage::of(1_000_000, 12 << 20, Timestamp::UNIX_EPOCH);
    table.add(Subject::Pod { namespace: "shop", name: "bare" }, usage);
    let known = KnownUsage { table: Arc::new(table.finish()), warning: None };
    fixture.fake.clusters.measure(fixture.cluster, known);
    let object = DiagnosedObject {
        kind: DiagnosedKind::of(Kind::Pod).unwrap(),
        namespace: Some(Namespace::new("shop").unwrap()),
        name: ObjectName::new("bare").unwrap(),
    };
    let caller = fixture.caller(&[READS], Some(&["shop"]));
    let found = block_on(fixture.app.diagnoses.diagnose(&caller, fixture.cluster, &object)).unwrap();
    let [finding] = &found.findings[..] else { panic!("{found:?}") };
    assert_eq!(finding.rule, Rule::Oom);
    let texts: Vec<_> = finding.evidence.iter().map(|quote| quote.text.as_str()).collect();
    assert!(texts.ends_with(&["resources.limits.memory: 16Mi", "memory in use: 12 MiB"]), "{texts:?}");
}

/// The right to update a Service is none to read the environment of its pods.
#[test]
fn values_of_pods_are_masked_for_whoever_may_update_only_the_service() {
    let fixture = Fixture::new();
    let service = json!({"metadata": {"name": "api", "namespace": "shop", "uid": "s"},
        "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}]}});
    fixture.put(Kind::Service, service);
    let ready = json!({"type": "Ready", "status": "False", "message": format!("waits for {CANARY}")});
    let pod = json!({"metadata": {"name": "api-1", "namespace": "shop", "uid": "a", "labels": {"app": "api"}},
        "spec": {"containers": [{"name": "app", "env": [{"name": "A", "value": CANARY}]}]},
        "status": {"phase": "Running", "conditions": [ready]}});
    fixture.put(Kind::Pod, pod);
    let caller = fixture.caller(&[READS, (&["get", "list", "update"], &["network"])], Some(&["shop"]));
    let object = DiagnosedObject {
        kind: DiagnosedKind::of(Kind::Service).unwrap(),
        namespace: Some(Namespace::new("shop").unwrap()),
        name: ObjectName::new("api").unwrap(),
    };
    let found = block_on(fixture.app.diagnoses.diagnose(&caller, fixture.cluster, &object)).unwrap();
    let quotes: Vec<_> = found.findings.iter().flat_map(|finding| &finding.evidence).collect();
    assert_eq!(quotes.iter().map(|quote| quote.text.as_str()).collect::<Vec<_>>(), ["waits for ***"]);
}

/// More Services than are read: those that are left out are not taken for missing ones.
#[test]
fn backends_beyond_the_limit_are_unreadable() {
    let fixture = Fixture::new();
    let path = |n: usize| json!({"path": format!("/{n}"), "backend": {"service": {"name": format!("s{n:02}"), "port": {"number": 80}}}});
    let paths: Vec<_> = (0..30).map(path).collect();
    fixture.put(
        Kind::Ingress,
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "i"}, "spec": {"rules": [{"http": {"paths": paths}}]}}),
    );
    for n in 1..30 {
        let metadata = json!({"name": format!("s{n:02}"), "namespace": "shop"});
        fixture.put(Kind::Service, json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}}));
    }
    let object = DiagnosedObject {
        kind: DiagnosedKind::of(Kind::Ingress).unwrap(),
        namespace: Some(Namespace::new("shop").unwrap()),
        name: ObjectName::new("web").unwrap(),
    };
    let found =
        block_on(fixture.app.diagnoses.diagnose(&Caller::system(), fixture.cluster, &object)).unwrap();
    assert_eq!((found.unreadable, found.findings), (vec!["services"], vec![]));
}

#[test]
fn object_that_does_not_exist_is_not_found() {
    let fixture = Fixture::new();
    let object = DiagnosedObject {
        kind: DiagnosedKind::of(Kind::Deployment).unwrap(),
        namespace: Some(Namespace::new("shop").unwrap()),
        name: ObjectName::new("absent").unwrap(),
    };
    let error =
        block_on(fixture.app.diagnoses.diagnose(&Caller::system(), fixture.cluster, &object)).unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::NotFoundInCluster, Some("absent")));
}
