//! Masked values in details: literals of environment variables and the fields of the setting `masked_fields`, for
//! callers who may neither update the object nor run commands in its namespace.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    access::Caller,
    app::{App, AppSettings},
    ids::ClusterId,
    kind::Kind,
    mask::MaskedFields,
    name::{Namespace, ObjectName},
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    testing::{fake::Fake, new_cluster},
    workload::{WorkloadRef, WorkloadType},
};
use serde_json::{Value, json};

const CANARY: &str = "canary value";
/// Replacement for a masked value.
const MASK: &str = "***";

struct Fixture {
    app: App,
    cluster: ClusterId,
}

impl Fixture {
    /// A cluster with one object of each kind that has details, in the namespace `shop`.
    fn new(masked_fields: MaskedFields) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings { masked_fields, ..AppSettings::default() });
        let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
        let metadata = json!({"name": "web", "namespace": "shop",
            "annotations": {"copy": CANARY, "meta.helm.sh/release-name": CANARY}});
        let container = json!({"name": "app", "args": [CANARY], "env": [{"name": "A", "value": CANARY}]});
        let template = json!({"spec": {"containers": [container]}});
        for r#type in WorkloadType::ALL {
            let spec = match r#type {
                WorkloadType::CronJob => json!({"jobTemplate": {"spec": {"template": template}}}),
                _ => json!({"template": template}),
            };
            fake.clusters.put(cluster, r#type.kind(), json!({"metadata": metadata, "spec": spec}));
        }
        let data = json!({"password": CANARY, "size": "5"});
        let object = json!({"metadata": metadata, "data": data, "binaryData": {"password": "/wA="}});
        fake.clusters.put(cluster, Kind::ConfigMap, object);
        fake.clusters.put(cluster, Kind::Secret, json!({"metadata": metadata, "data": {}}));
        Self { app, cluster }
    }

    /// A caller of the role `none` who may get everything in `shop`, and has these rights in a namespace.
    fn caller(&self, verbs: &[&str], resource: &str, namespace: &str) -> Caller {
        let grant = |rules: Value, namespace: &str| EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: serde_json::from_value::<Reach>(json!([namespace])).unwrap(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let reads = json!([{"verbs": ["get"], "resources": ["workloads", "config", "secrets"]}]);
        let more = json!([{"verbs": verbs, "resources": [resource]}]);
        let grants = [grant(reads, "shop"), grant(more, namespace)];
        let clusters = ClusterLabels::from([(self.cluster, Labels::new())]);
        let rights = Rights::compile(&grants, &clusters, Timestamp::UNIX_EPOCH);
        Caller::system().with_rights(Role::None, Arc::new(rights))
    }

    fn workload(&self, caller: &Caller, kind: WorkloadType) -> Value {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web").unwrap());
        let workload = WorkloadRef { namespace, kind, name };
        let detail = block_on(self.app.workloads.detail(caller, self.cluster, &workload)).unwrap();
        serde_json::to_value(detail).unwrap()
    }

    fn configmap(&self, caller: &Caller) -> Value {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web").unwrap());
        let detail = self.app.configs.configmap(caller, self.cluster, &namespace, &name);
        serde_json::to_value(block_on(detail).unwrap()).unwrap()
    }

    fn secret(&self, caller: &Caller) -> Value {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web").unwrap());
        let detail = self.app.secrets.detail(caller, self.cluster, &namespace, &name);
        serde_json::to_value(block_on(detail).unwrap()).unwrap()
    }
}

fn has_canary(detail: &Value) -> bool {
    detail.to_string().contains(CANARY)
}

const FIELDS: &str = "/data/password, /binaryData/password, /metadata/annotations/meta.helm.sh~1release-name, \
    /spec/template/spec/containers/*/args, /spec/jobTemplate/spec/template/spec/containers/0/args";

#[test]
fn values_are_shown_by_the_right_to_update_the_object_or_to_run_commands_in_its_namespace() {
    let fixture = Fixture::new(FIELDS.parse().unwrap());
    // the rights besides `get`, and whether the values of a workload, a ConfigMap and a Secret are shown
    for (verbs, resource, namespace, shown) in [
        (&["update"][..], "workloads", "shop", [true, false, false]),
        (&["update"], "config", "shop", [false, true, false]),
        (&["update"], "secrets", "shop", [false, false, true]),
        (&["exec"], "workloads", "shop", [true, true, true]),
        (&["exec"], "workloads", "bank", [false, false, false]),
        (&["update"], "workloads", "bank", [false, false, false]),
        (&["logs", "forward", "scale", "restart", "create", "delete"], "workloads", "shop", [false; 3]),
        (&["reveal"], "secrets", "shop", [false, false, false]),
    ] {
        let caller = fixture.caller(verbs, resource, namespace);
        let context = format!("{verbs:?} {resource} in {namespace}");
        for r#type in WorkloadType::ALL {
            let workload = fixture.workload(&caller, r#type);
            assert_eq!(has_canary(&workload), shown[0], "{context}: {workload}");
            assert_eq!(workload["containers"][0]["env"], json!(["A"]), "{context}: names stay");
        }
        let configmap = fixture.configmap(&caller);
        assert_eq!(has_canary(&configmap), shown[1], "{context}: {configmap}");
        let bytes = if shown[1] { "/wA=" } else { MASK };
        assert_eq!(
            (&configmap["data"]["size"], &configmap["binary_data"]["password"]),
            (&json!("5"), &json!(bytes))
        );
        let secret = fixture.secret(&caller);
        assert_eq!(has_canary(&secret), shown[2], "{context}: {secret}");
    }
}

#[test]
fn without_the_setting_only_literals_are_masked() {
    let fixture = Fixture::new(MaskedFields::default());
    let viewer = Caller::system().with_role(Role::Viewer);
    let workload = fixture.workload(&viewer, WorkloadType::Deployment);
    let container = &workload["manifest"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["env"][0]["value"], &container["args"][0]), (&json!(MASK), &json!(CANARY)));
    assert_eq!(workload["manifest"]["metadata"]["annotations"]["copy"], "*** (12 bytes)");
    assert!(has_canary(&fixture.configmap(&viewer)));
    // the three presets as before: the two that may update see the literals
    for role in [Role::OpsAdmin, Role::SuperAdmin] {
        let workload = fixture.workload(&Caller::system().with_role(role), WorkloadType::CronJob);
        let spec = &workload["manifest"]["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        assert_eq!(spec["containers"][0]["env"][0]["value"], CANARY, "{role:?}");
    }
}
