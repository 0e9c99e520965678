//! ConfigMap and Secret use cases on the in-memory ports: access rights, and the contents of the audit trail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::Caller,
    app::{App, AppSettings, Ports},
    config::{ConfigMapPatch, NewConfigMap},
    error::Reason,
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
    object::Labels,
    operation::{Entry, Status},
    role::Role,
    secret::{MockSecretApi, NewSecret, SecretPatch},
    testing::{fake::Fake, new_cluster},
};
use secrecy::SecretString;
use serde_json::json;

/// "canary" in base64.
const CANARY: &str = "Y2FuYXJ5";

fn caller(role: Role) -> Caller {
    Caller::system().with_role(role)
}

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn cause<T>(result: Result<T, Error>) -> Cause {
    result.map(drop).expect_err("an error").cause
}

fn new_secret(named: &str, key: &str) -> NewSecret {
    let data = BTreeMap::from([(key.to_owned(), SecretString::from("canary"))]);
    NewSecret { name: name(named), r#type: None, data, labels: Labels::new() }
}

fn secret_patch(key: &str, value: Option<&str>) -> SecretPatch {
    let data = BTreeMap::from([(key.to_owned(), value.map(SecretString::from))]);
    SecretPatch { data: Some(data), ..SecretPatch::default() }
}

fn configmap_patch(key: &str) -> ConfigMapPatch {
    let data = BTreeMap::from([(key.to_owned(), "canary".to_owned())]);
    ConfigMapPatch { data: Some(data), ..ConfigMapPatch::default() }
}

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|ports| ports)
    }

    /// A fixture with a cluster that contains a ConfigMap `settings` and a Secret `pass`, and without recorded calls.
    fn with(change: impl FnOnce(Ports) -> Ports) -> Self {
        let fake = Fake::default();
        let app = App::new(change(fake.ports()), AppSettings::default());
        let cluster = new_cluster("prod");
        let cluster = block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id;
        let metadata = |name: &str| json!({"name": name, "namespace": "shop"});
        let settings = json!({"metadata": metadata("settings"), "data": {"a": "1", "b": "2"}});
        fake.clusters.put(cluster, Kind::ConfigMap, settings);
        let pass = json!({"metadata": metadata("pass"), "data": {"password": CANARY, "old": CANARY}});
        fake.clusters.put(cluster, Kind::Secret, pass);
        fake.clusters.calls();
        Self { fake, app, cluster }
    }

    fn last_row(&self) -> (String, String, Status) {
        let row = self.fake.store.all_operations().pop().unwrap();
        (row.operation_type, row.resource_type, row.status)
    }
}

#[test]
fn viewer_cannot_read_secret_values_or_change_anything() {
    let Fixture { fake, app, cluster } = &Fixture::new();
    let (cluster, viewer, shop) = (*cluster, caller(Role::Viewer), shop());
    let before = fake.store.all_operations().len();
    let refusals = [
        cause(block_on(app.secrets.reveal(&viewer, cluster, &shop, name("pass")))),
        cause(block_on(app.secrets.create(&viewer, cluster, &shop, new_secret("fresh", "k")))),
        cause(block_on(app.secrets.update(&viewer, cluster, &shop, name("pass"), secret_patch("k", None)))),
        cause(block_on(app.secrets.delete(&viewer, cluster, &shop, name("pass")))),
        cause(block_on(app.configs.update_configmap(
            &viewer,
            cluster,
            &shop,
            name("settings"),
            configmap_patch("k"),
        ))),
    ];
    assert!(refusals.iter().all(|cause| *cause == Cause::RoleTooLow), "{refusals:?}");
    assert!(fake.clusters.calls().is_empty());
    let rows = fake.store.all_operations().split_off(before);
    assert_eq!(rows.len(), refusals.len());
    assert!(rows.iter().all(|row| row.status == Status::Failed));

    let detail = block_on(app.secrets.detail(&viewer, cluster, &shop, &name("pass"))).unwrap();
    assert_eq!(detail.secret.keys.len(), 2);
    assert!(!serde_json::to_string(&detail).unwrap().contains(CANARY));
    let detail = block_on(app.configs.configmap(&viewer, cluster, &shop, &name("settings"))).unwrap();
    assert_eq!(detail.data["b"], "2");
    assert_eq!(fake.store.all_operations().len(), before + refusals.len(), "plain reads are not recorded");
}

#[test]
fn reveal_is_recorded_before_the_value_is_read() {
    let fake = Fake::default();
    let store = fake.store.clone();
    let mut api = MockSecretApi::new();
    api.expect_reveal().once().returning(move |permit, _| {
        let entries = store.entries();
        let Some(Entry::Intent { operation }) = entries.last() else { panic!("{entries:?}") };
        assert_eq!(
            (operation.operation_type.as_str(), operation.resource_type.as_str()),
            ("reveal", "secret")
        );
        assert_eq!(permit.operation_id(), Some(operation.id));
        Ok(None)
    });
    let fixture = Fixture::with(|mut ports| {
        ports.audit_writer = fake.store.clone();
        ports.objects.secrets = Arc::new(api);
        ports
    });
    let ops = caller(Role::OpsAdmin);
    let revealed = block_on(fixture.app.secrets.reveal(&ops, fixture.cluster, &shop(), name("none")));
    assert_eq!(cause(revealed), Cause::NotFoundInCluster);
}

#[test]
fn no_value_is_read_without_a_durable_intent() {
    let Fixture { fake, app, cluster } = &Fixture::new();
    fake.store.fail_audit_writes(true);
    let revealed = block_on(app.secrets.reveal(&caller(Role::SuperAdmin), *cluster, &shop(), name("pass")));
    assert_eq!(cause(revealed), Cause::AuditUnavailable);
    assert!(fake.clusters.calls().is_empty());
}

#[test]
fn trail_stores_keys_sizes_and_hashes_but_no_values() {
    let fixture = Fixture::new();
    let Fixture { fake, app, cluster } = &fixture;
    let (cluster, ops, shop) = (*cluster, caller(Role::OpsAdmin), shop());
    let keys = || fake.store.all_operations().pop().unwrap().details.unwrap_or_default();
    let hash = |secret: &str, key: &str| {
        let path = [&*cluster.to_string(), "shop", secret, key];
        fake.ports().objects.digest.digest(&path, b"canary").to_string()
    };

    block_on(app.secrets.create(&ops, cluster, &shop, new_secret("fresh", "k"))).unwrap();
    assert_eq!(
        (fixture.last_row().0.as_str(), keys().as_str()),
        ("create", &*format!(r#"keys={{"k":{{"bytes":6,"hash":"{}"}}}}"#, hash("fresh", "k")))
    );
    let mut patch = secret_patch("password", None);
    patch.data.as_mut().unwrap().insert("new".to_owned(), Some("canary".into()));
    let row = block_on(app.secrets.update(&ops, cluster, &shop, name("pass"), patch)).unwrap().value;
    let named: Vec<_> = row.keys.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
    assert_eq!(named, [("new", 6), ("password", 6)]);
    let new = hash("pass", "new");
    assert_eq!(keys(), format!(r#"keys={{"new":{{"bytes":6,"hash":"{new}"}},"password":null}}"#));
    let revealed = block_on(app.secrets.reveal(&ops, cluster, &shop, name("pass"))).unwrap().value;
    assert!(serde_json::to_string(&revealed).unwrap().contains("canary"));
    assert_eq!(fixture.last_row(), ("reveal".into(), "secret".into(), Status::Success));
    let patch = configmap_patch("k");
    block_on(app.configs.update_configmap(&ops, cluster, &shop, name("settings"), patch.clone())).unwrap();
    assert_eq!(fixture.last_row(), ("update".into(), "configmap".into(), Status::Success));
    block_on(app.secrets.delete(&ops, cluster, &shop, name("pass"))).unwrap();

    let shown = [
        format!("{:?} {:?}", fake.store.entries(), fake.store.all_operations()),
        format!("{revealed:?} {patch:?} {:?} {:?}", new_secret("s", "k"), secret_patch("k", Some("canary"))),
    ];
    for text in shown {
        assert!(!text.contains("canary") && !text.contains(CANARY), "{text}");
    }
}

#[test]
fn configmap_is_replaced_as_a_whole_unless_modified() {
    let Fixture { fake, app, cluster } = &Fixture::new();
    let (cluster, ops, shop) = (*cluster, caller(Role::OpsAdmin), shop());
    let detail = || block_on(app.configs.configmap(&ops, cluster, &shop, &name("settings"))).unwrap();
    let update =
        |patch| block_on(app.configs.update_configmap(&ops, cluster, &shop, name("settings"), patch));
    let read = detail();
    let patch = ConfigMapPatch { resource_version: Some(read.resource_version), ..configmap_patch("c") };
    update(patch.clone()).unwrap();
    assert_eq!(detail().data, BTreeMap::from([("c".to_owned(), "canary".to_owned())]));
    assert_eq!(cause(update(patch)), Cause::ConflictInCluster);

    let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
    let relabelled = update(ConfigMapPatch { labels: Some(labels.clone()), ..Default::default() }).unwrap();
    assert_eq!((relabelled.value.labels, relabelled.value.keys.len()), (labels, 1));
    let absent = block_on(app.configs.configmap(&ops, cluster, &shop, &name("none")));
    assert_eq!(cause(absent), Cause::NotFoundInCluster);
    assert_eq!(fake.clusters.calls().pop().unwrap(), "get configmap none");
}

#[test]
fn invalid_input_writes_no_operation_and_sends_nothing() {
    let Fixture { fake, app, cluster } = &Fixture::new();
    let (cluster, ops, shop) = (*cluster, caller(Role::OpsAdmin), shop());
    let before = fake.store.all_operations().len();
    let update_secret = |patch| block_on(app.secrets.update(&ops, cluster, &shop, name("pass"), patch));
    let update = |patch| block_on(app.configs.update_configmap(&ops, cluster, &shop, name("c"), patch));
    let bad_label = Labels::from([("a b".to_owned(), String::new())]);
    let odd_type = NewSecret { r#type: Some(String::new()), ..new_secret("s", "k") };
    let create = |secret| block_on(app.secrets.create(&ops, cluster, &shop, secret)).map(drop);
    let refusals = [
        (create(new_secret("s", "a/b")), "data.a/b", Reason::InvalidName),
        (create(odd_type), "type", Reason::Required),
        (update_secret(SecretPatch::default()).map(drop), "data", Reason::Required),
        (update_secret(secret_patch("..", None)).map(drop), "data...", Reason::InvalidName),
        (update(ConfigMapPatch::default()).map(drop), "data", Reason::Required),
        (
            update(ConfigMapPatch { resource_version: Some("7\n".to_owned()), ..configmap_patch("a") })
                .map(drop),
            "resource_version",
            Reason::Malformed,
        ),
        (update(configmap_patch("a b")).map(drop), "data.a b", Reason::InvalidName),
        (
            update(ConfigMapPatch { labels: Some(bad_label), ..Default::default() }).map(drop),
            "labels.a b",
            Reason::InvalidName,
        ),
    ];
    for (refusal, field, reason) in refusals {
        let refused = refusal.expect_err(field).context.fields;
        assert_eq!((refused[0].name.as_str(), refused[0].reason), (field, reason));
    }
    let new = NewConfigMap {
        name: name("c"),
        data: Labels::from([(String::new(), String::new())]),
        labels: Labels::new(),
    };
    assert_eq!(cause(block_on(app.configs.create_configmap(&ops, cluster, &shop, new))), Cause::InvalidInput);
    assert!(fake.clusters.calls().is_empty());
    assert_eq!(fake.store.all_operations().len(), before);
}
