//! Comparison of a workload across clusters on the in-memory ports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Cause,
    access::Caller,
    app::{App, AppSettings},
    compare::{ComparedField, Comparison},
    ids::{ClusterId, UserId},
    inventory::ClusterResultStatus,
    kind::Kind,
    name::{Namespace, ObjectName},
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    testing::{
        fake::{Condition, Fake},
        new_cluster,
    },
    workload::{WorkloadRef, WorkloadType},
};
use serde_json::{Value, json};

struct Fixture {
    fake: Fake,
    app: App,
    clusters: Vec<ClusterId>,
}

fn caller(role: Role) -> Caller {
    Caller { user_id: Some(UserId(7)), username: "ann".into(), ..Caller::system().with_role(role) }
}

impl Fixture {
    /// A fixture with this many clusters: one deployment each, whose variable MODE and whose ConfigMap are the same in
    /// all clusters but the first.
    fn of(count: usize) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let register = |n: usize| {
            let cluster = new_cluster(&format!("cluster-{n}"));
            let id = block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id;
            let value = if n == 0 { "canary-first" } else { "canary-rest" };
            let container = json!({"name": "app", "image": "web:1", "env": [{"name": "MODE", "value": value}],
                "envFrom": [{"configMapRef": {"name": "settings"}}]});
            let spec = json!({"replicas": 2, "template": {"spec": {"containers": [container]}}});
            let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
            fake.clusters.put(id, Kind::Deployment, json!({"metadata": metadata("web"), "spec": spec}));
            let data = json!({"key": value});
            fake.clusters.put(id, Kind::ConfigMap, json!({"metadata": metadata("settings"), "data": data}));
            id
        };
        let clusters = (0..count).map(register).collect();
        fake.clusters.calls();
        Self { fake, app, clusters }
    }

    /// A caller of the role `none` who may list these resources in `shop`, one list for each cluster.
    fn lists(&self, resources: &[&[&str]]) -> Caller {
        let grant = |(cluster, resources): (&ClusterId, &&[&str])| EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(
                RoleRules::new(
                    serde_json::from_value(json!([{"verbs": ["list"], "resources": resources}])).unwrap(),
                )
                .unwrap(),
            ),
            clusters: serde_json::from_value(json!({"ids": [cluster]})).unwrap(),
            reach: serde_json::from_value::<Reach>(json!(["shop"])).unwrap(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let grants: Vec<_> = self.clusters.iter().zip(resources).map(grant).collect();
        let clusters: ClusterLabels = self.clusters.iter().map(|id| (*id, Labels::new())).collect();
        let rights = Rights::compile(&grants, &clusters, Timestamp::UNIX_EPOCH);
        caller(Role::None).with_rights(Role::None, Arc::new(rights))
    }

    fn compare(&self, role: Role, r#type: WorkloadType, clusters: &[ClusterId]) -> Result<Comparison, Cause> {
        self.compare_as(&caller(role), r#type, clusters)
    }

    fn compare_as(
        &self,
        caller: &Caller,
        r#type: WorkloadType,
        clusters: &[ClusterId],
    ) -> Result<Comparison, Cause> {
        let workload = WorkloadRef {
            namespace: Namespace::new("shop").unwrap(),
            kind: r#type,
            name: ObjectName::new("web").unwrap(),
        };
        block_on(self.app.compare.compare(caller, &workload, clusters)).map_err(|error| error.cause)
    }
}

fn field<'a>(comparison: &'a Comparison, path: &str) -> &'a ComparedField {
    comparison.fields.iter().find(|field| field.path == path).unwrap()
}

fn values(field: &ComparedField) -> Vec<&Value> {
    field.values.values().collect()
}

#[test]
fn workload_is_compared_in_all_clusters() {
    let fixture = Fixture::of(3);
    let all = fixture.compare(Role::OpsAdmin, WorkloadType::Deployment, &[]).unwrap();
    assert_eq!(all.clusters.iter().map(|part| part.id).collect::<Vec<_>>(), fixture.clusters);
    assert!(all.clusters.iter().all(|part| part.status == ClusterResultStatus::Ok && part.complete));
    let image = field(&all, "containers/app/image");
    assert!(image.same && image.values.len() == 3 && values(image).iter().all(|value| *value == "web:1"));
    let mode = field(&all, "containers/app/env/MODE");
    assert!(!mode.same);
    assert!(mode.values[&fixture.clusters[0].to_string()] == "canary-first");
    assert!(!field(&all, "config/settings").same);
    assert!(field(&all, "replicas").same && all.missing.is_empty());
    let calls = fixture.fake.clusters.calls();
    assert_eq!(calls.len(), 6, "one workload and one ConfigMap in each cluster: {calls:?}");
}

#[test]
fn viewer_sees_whether_masked_values_are_the_same_and_no_value() {
    let fixture = Fixture::of(3);
    let all = fixture.compare(Role::Viewer, WorkloadType::Deployment, &[]).unwrap();
    assert!(!serde_json::to_string(&all).unwrap().contains("canary"), "{all:?}");
    assert!(!field(&all, "containers/app/env/MODE").same);
    let rest = fixture.compare(Role::Viewer, WorkloadType::Deployment, &fixture.clusters[1..]).unwrap();
    assert_eq!(rest.clusters.len(), 2);
    let mode = field(&rest, "containers/app/env/MODE");
    assert!(mode.same && values(mode).iter().all(|value| *value == "***"));
    let config = field(&rest, "config/settings");
    assert!(config.same && !serde_json::to_string(&config).unwrap().contains("canary"));
}

#[test]
fn cluster_that_does_not_answer_or_lacks_the_workload_is_named() {
    let fixture = Fixture::of(3);
    let [_, failing, hanging] = fixture.clusters[..] else { panic!("three clusters") };
    fixture.fake.clusters.set(failing, Condition::Failing(Cause::Unreachable));
    fixture.fake.clusters.set(hanging, Condition::Hanging);
    let all = fixture.compare(Role::OpsAdmin, WorkloadType::Deployment, &[]).unwrap();
    let parts: Vec<_> = all.clusters.iter().map(|part| (part.status, part.error_code)).collect();
    assert_eq!(
        parts,
        [
            (ClusterResultStatus::Ok, None),
            (ClusterResultStatus::Error, Some("CONNECTION_ERROR")),
            (ClusterResultStatus::Pending, None),
        ]
    );
    assert_eq!(field(&all, "replicas").values.len(), 1);
    let absent = fixture.compare(Role::OpsAdmin, WorkloadType::StatefulSet, &fixture.clusters[..1]).unwrap();
    assert_eq!((absent.missing, absent.fields), (fixture.clusters[..1].to_vec(), Vec::new()));
}

#[test]
fn unknown_cluster_is_not_found_and_no_cluster_is_read() {
    let fixture = Fixture::of(1);
    let named = [fixture.clusters[0], ClusterId(99)];
    let refused = fixture.compare(Role::Viewer, WorkloadType::Deployment, &named);
    assert_eq!(refused.unwrap_err(), Cause::NotFound);
    assert!(fixture.fake.clusters.calls().is_empty());
    let nobody = fixture.compare(Role::None, WorkloadType::Deployment, &[]).unwrap();
    assert_eq!(nobody, Comparison { fields: Vec::new(), missing: Vec::new(), clusters: Vec::new() });
}

#[test]
fn only_what_the_caller_may_list_is_read_and_the_rest_is_named() {
    let fixture = Fixture::of(4);
    let caller = fixture.lists(&[&["workloads", "config"], &["workloads"], &["events"]]);
    let all = fixture.compare_as(&caller, WorkloadType::Deployment, &[]).unwrap();
    let parts: Vec<_> =
        all.clusters.iter().map(|part| (part.id, part.complete, part.unreadable.clone())).collect();
    let [whole, without_config, without_workloads, hidden] = fixture.clusters[..] else {
        panic!("four clusters")
    };
    assert_eq!(
        parts,
        [
            (whole, true, vec![]),
            (without_config, true, vec!["configmaps"]),
            (without_workloads, false, vec![]),
        ]
    );
    assert_eq!(field(&all, "replicas").values.len(), 2);
    assert!(!serde_json::to_string(&all).unwrap().contains("canary"), "env is masked: {all:?}");
    assert_eq!(fixture.fake.clusters.calls().len(), 3, "two workloads and one ConfigMap");
    for (refused, cause) in [(without_workloads, Cause::RoleTooLow), (hidden, Cause::NotFound)] {
        let named = fixture.compare_as(&caller, WorkloadType::Deployment, &[whole, refused]);
        assert_eq!(named.unwrap_err(), cause);
    }
}
