//! Cluster and workload use cases on the in-memory ports: responses to the caller, requests to the cluster, and audit
//! rows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::Caller,
    app::{App, AppSettings},
    cluster::{
        ClusterChange, ClusterName, ClusterRegistry, Connections, CredentialInput, Health, NewCluster,
    },
    config::NewConfigMap,
    connection::{ApiServer, AuthType, Credential},
    error::Reason,
    gate::Warning,
    ids::{ClusterId, UserId},
    inventory::List,
    kind::Kind,
    name::{Namespace, ObjectName},
    object::Labels,
    operation::{Entry, Status},
    pod::LogOptions,
    role::Role,
    testing::fake::Fake,
    workload::{Replicas, WorkloadRef, WorkloadType},
};
use secrecy::ExposeSecret;
use serde_json::json;

struct Fixture {
    fake: Fake,
    app: App,
}

fn caller(role: Role) -> Caller {
    Caller { user_id: Some(UserId(7)), username: "ann".into(), ..Caller::system().with_role(role) }
}

fn token() -> CredentialInput {
    CredentialInput {
        auth_type: Some(AuthType::Token),
        api_server: Some(ApiServer::new("https://k:6443").unwrap()),
        token: Some("canary-token".into()),
        ..CredentialInput::default()
    }
}

fn new_cluster(name: &str) -> NewCluster {
    NewCluster {
        name: ClusterName::new(name).unwrap(),
        description: String::new(),
        labels: Labels::new(),
        credential: token(),
        skip_test: false,
    }
}

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn web(kind: WorkloadType) -> WorkloadRef {
    WorkloadRef { namespace: shop(), kind, name: ObjectName::new("web").unwrap() }
}

impl Fixture {
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        Self { fake, app }
    }

    /// A fixture with one cluster that contains a deployment, and without recorded calls.
    fn with_cluster() -> (Self, ClusterId) {
        let fixture = Self::new();
        let id = block_on(fixture.app.clusters.create(&caller(Role::OpsAdmin), new_cluster("prod")))
            .unwrap()
            .value
            .id;
        let deployment = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 1, "template":
            {"spec": {"containers": [{"name": "a", "env": [{"name": "A", "value": "literal"}]}]}}}});
        fixture.fake.clusters.put(id, Kind::Deployment, deployment);
        fixture.fake.clusters.calls();
        (fixture, id)
    }

    fn rows(&self) -> Vec<(String, String, Status)> {
        let rows = self.fake.store.all_operations();
        rows.into_iter().map(|row| (row.operation_type, row.resource_type, row.status)).collect()
    }
}

fn cause<T>(result: Result<T, Error>) -> Cause {
    result.map(drop).expect_err("an error").cause
}

#[test]
fn cluster_is_tested_before_it_is_stored() {
    let fixture = Fixture::new();
    let ops = caller(Role::OpsAdmin);
    fixture.fake.clusters.fail(Some(Cause::TlsUntrusted));
    assert_eq!(cause(block_on(fixture.app.clusters.create(&ops, new_cluster("prod")))), Cause::TlsUntrusted);
    assert!(block_on(fixture.app.clusters.ids()).unwrap().is_empty());
    assert_eq!(fixture.rows(), [("create".into(), "cluster".into(), Status::Failed)]);

    let skip = NewCluster { skip_test: true, ..new_cluster("prod") };
    let stored = block_on(fixture.app.clusters.create(&ops, skip)).unwrap();
    assert_eq!((stored.value.status, stored.value.node_count), (Health::Offline, None));
    assert_eq!(stored.warnings, [Warning::NotTested]);

    fixture.fake.clusters.fail(None);
    assert_eq!(cause(block_on(fixture.app.clusters.create(&ops, new_cluster("ＰＲＯＤ")))), Cause::NameTaken);
    let status = block_on(fixture.app.clusters.status(&caller(Role::Viewer), stored.value.id)).unwrap();
    assert_eq!((status.cluster.status, status.cluster.version.as_deref()), (Health::Online, Some("v1.37.2")));
    assert!(!format!("{:?}", fixture.fake.store.entries()).contains("canary"));
}

#[test]
fn stored_credential_is_sent_only_to_its_own_server() {
    let (fixture, id) = Fixture::with_cluster();
    let ops = caller(Role::OpsAdmin);
    let other_server =
        CredentialInput { api_server: Some(ApiServer::new("https://evil").unwrap()), ..Default::default() };
    let change = |credential| ClusterChange { credential, ..ClusterChange::default() };
    let refusal = block_on(fixture.app.clusters.update(&ops, id, change(other_server))).unwrap_err();
    assert_eq!(
        (refusal.context.fields[0].name.as_str(), refusal.context.fields[0].reason),
        ("auth_type", Reason::Required)
    );
    assert!(fixture.fake.clusters.calls().is_empty());

    fixture.fake.clusters.fail(Some(Cause::CredentialRejected));
    assert_eq!(
        cause(block_on(fixture.app.clusters.update(&ops, id, change(token())))),
        Cause::CredentialRejected
    );
    fixture.fake.clusters.fail(None);
    let cluster = block_on(fixture.app.clusters.update(&ops, id, rename_to_stage())).unwrap().value;
    assert_eq!((cluster.name.as_str(), cluster.status), ("stage", Health::Online));
    assert_eq!(
        cause(block_on(fixture.app.clusters.update(&ops, id, ClusterChange::default()))),
        Cause::InvalidInput
    );
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!((row.resource_name.as_deref(), row.details.as_deref()), (Some("prod"), Some("name=stage")));
}

#[test]
fn only_replaced_or_removed_connections_are_reported_as_changed() {
    let (fixture, id) = Fixture::with_cluster();
    let ops = caller(Role::OpsAdmin);
    block_on(fixture.app.clusters.update(&ops, id, rename_to_stage())).unwrap();
    assert_eq!(fixture.fake.clusters.changed(), [], "a rename does not change the connection");
    let replaced = ClusterChange { credential: token(), ..ClusterChange::default() };
    block_on(fixture.app.clusters.update(&ops, id, replaced)).unwrap();
    assert_eq!(fixture.fake.clusters.changed(), [id]);
    block_on(fixture.app.clusters.delete(&ops, id)).unwrap();
    assert_eq!(fixture.fake.clusters.changed(), [id]);
    assert_eq!(cause(block_on(fixture.app.clusters.delete(&ops, id))), Cause::NotFound);
    assert_eq!(fixture.fake.clusters.changed(), []);
}

#[test]
fn status_without_a_request_to_the_cluster_stores_nothing() {
    let (fixture, id) = Fixture::with_cluster();
    let viewer = caller(Role::Viewer);
    for cause_without_request in [Cause::CircuitOpen, Cause::Overloaded] {
        fixture.fake.clusters.fail(Some(cause_without_request));
        let status = block_on(fixture.app.clusters.status(&viewer, id));
        if cause_without_request == Cause::CircuitOpen {
            let shown = status.unwrap().cluster;
            assert_eq!(
                (shown.status, shown.status_reason.as_deref()),
                (Health::Offline, Some("circuit_open"))
            );
        } else {
            assert_eq!(cause(status), cause_without_request);
        }
        let stored = block_on(fixture.fake.store.find(id)).unwrap();
        assert_eq!(stored.unwrap().status, Health::Online, "nothing was stored");
        assert_eq!(cause(block_on(fixture.app.clusters.test(&viewer, id))), cause_without_request);
        assert_eq!(cause(block_on(fixture.app.clusters.refresh(id))), cause_without_request);
    }
    fixture.fake.clusters.fail(Some(Cause::Unreachable));
    let status = block_on(fixture.app.clusters.status(&viewer, id)).unwrap();
    assert_eq!(status.cluster.status_reason.as_deref(), Some("unreachable"), "a request was sent");
    fixture.fake.clusters.fail(None);
    let status = block_on(fixture.app.clusters.status(&viewer, id)).unwrap();
    assert_eq!(status.cluster.status, Health::Online);
}

fn rename_to_stage() -> ClusterChange {
    ClusterChange { name: Some(ClusterName::new("stage").unwrap()), ..ClusterChange::default() }
}

#[test]
fn new_token_keeps_the_stored_server_and_ca() {
    let (fixture, id) = Fixture::with_cluster();
    let ops = caller(Role::OpsAdmin);
    let ca = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let change = |credential| ClusterChange { credential, ..ClusterChange::default() };
    let with_ca = CredentialInput { ca_certificate: Some(ca.into()), ..token() };
    block_on(fixture.app.clusters.update(&ops, id, change(with_ca))).unwrap();
    let renewed = CredentialInput { api_server: None, token: Some("next".into()), ..token() };
    block_on(fixture.app.clusters.update(&ops, id, change(renewed))).unwrap();
    let stored = block_on(fixture.fake.store.connection(id)).unwrap().unwrap().connection;
    assert_eq!((stored.server.as_str(), stored.ca.as_deref()), ("https://k:6443", Some(ca)));
    assert!(matches!(stored.credential, Credential::Token(token) if token.expose_secret() == "next"));
    // sending the displayed values back is not a change
    let shown = CredentialInput { token: None, ..token() };
    let named = ClusterChange { description: Some("the same".into()), ..change(shown) };
    let kept = block_on(fixture.app.clusters.update(&ops, id, named)).unwrap();
    assert_eq!((kept.value.description.as_str(), kept.warnings.len()), ("the same", 0));
    let other_server = ApiServer::new("https://elsewhere").unwrap();
    let moved = CredentialInput { api_server: Some(other_server), token: None, ..token() };
    assert_eq!(cause(block_on(fixture.app.clusters.update(&ops, id, change(moved)))), Cause::InvalidInput);
    for ignored in [
        CredentialInput { ca_certificate: Some(ca.into()), ..Default::default() },
        CredentialInput { context: Some("x".into()), ..Default::default() },
        CredentialInput { insecure_skip_tls_verify: true, ..Default::default() },
    ] {
        assert_eq!(
            cause(block_on(fixture.app.clusters.update(&ops, id, change(ignored)))),
            Cause::InvalidInput
        );
    }
}

#[test]
fn insecure_tls_needs_configuration_and_super_admin() {
    let insecure = || NewCluster {
        credential: CredentialInput { insecure_skip_tls_verify: true, ..token() },
        ..new_cluster("prod")
    };
    for (allowed, role, expected) in [
        (false, Role::SuperAdmin, Some(Cause::InvalidInput)),
        (true, Role::OpsAdmin, Some(Cause::RoleTooLow)),
        (true, Role::SuperAdmin, None),
    ] {
        let settings = AppSettings { allow_insecure_tls: allowed, ..AppSettings::default() };
        let fake = Fake::default();
        let app = App::new(fake.ports(), settings);
        let refused = block_on(app.clusters.create(&caller(role), insecure())).err();
        assert_eq!(refused.as_ref().map(|error| error.cause), expected, "{allowed} {role:?}");
        let required = refused.and_then(|error| error.context.required_role);
        assert_eq!(required, (expected == Some(Cause::RoleTooLow)).then_some(Role::SuperAdmin));
        // a refusal by role is recorded, a refusal of the input is not
        let rows = fake.store.all_operations().len();
        assert_eq!(rows, usize::from(expected != Some(Cause::InvalidInput)), "{allowed} {role:?}");
    }
}

#[test]
fn refused_viewer_changes_write_one_row_each_and_send_nothing() {
    let (fixture, id) = Fixture::with_cluster();
    let (app, viewer) = (&fixture.app, caller(Role::Viewer));
    let configmap =
        NewConfigMap { name: ObjectName::new("c").unwrap(), data: Labels::new(), labels: Labels::new() };
    let replicas = Replicas::try_from(3).unwrap();
    let before = fixture.rows().len();
    let refusals = [
        cause(block_on(app.clusters.create(&viewer, new_cluster("x")))),
        cause(block_on(app.clusters.update(&viewer, id, rename_to_stage()))),
        cause(block_on(app.clusters.delete(&viewer, id))),
        cause(block_on(app.clusters.test_new(&viewer, token()))),
        cause(block_on(app.namespaces.create(&viewer, id, &shop(), Labels::new()))),
        cause(block_on(app.namespaces.delete(&viewer, id, &shop()))),
        cause(block_on(app.namespaces.delete(&viewer, id, &Namespace::new("default").unwrap()))),
        cause(block_on(app.workloads.scale(&viewer, id, &web(WorkloadType::Deployment), replicas))),
        cause(block_on(app.workloads.restart(&viewer, id, &web(WorkloadType::Deployment)))),
        cause(block_on(app.configs.create_configmap(&viewer, id, &shop(), configmap))),
        cause(block_on(app.configs.delete_configmap(&viewer, id, &shop(), ObjectName::new("c").unwrap()))),
    ];
    assert!(refusals.iter().all(|cause| *cause == Cause::RoleTooLow), "{refusals:?}");
    assert!(fixture.fake.clusters.calls().is_empty());
    let rows = fixture.rows();
    assert_eq!(rows.len() - before, refusals.len());
    assert!(rows[before..].iter().all(|(.., status)| *status == Status::Failed));
}

#[test]
fn change_writes_intent_and_outcome_with_one_id() {
    let (fixture, id) = Fixture::with_cluster();
    let replicas = Replicas::try_from(3).unwrap();
    let scaled = block_on(fixture.app.workloads.scale(
        &caller(Role::OpsAdmin),
        id,
        &web(WorkloadType::Deployment),
        replicas,
    ));
    assert_eq!(scaled.unwrap().value.replicas, Some(3));
    let entries = fixture.fake.store.entries();
    let [.., Entry::Intent { operation }, Entry::Outcome { operation_id, outcome }] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!((operation.id, outcome.status), (*operation_id, Status::Success));
    assert_eq!(operation.params["replicas"], json!(3));
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(row.details.as_deref(), Some("replicas=3"));
}

#[test]
fn unwritable_trail_prevents_changes() {
    let (fixture, id) = Fixture::with_cluster();
    fixture.fake.store.fail_audit_writes(true);
    let restart =
        block_on(fixture.app.workloads.restart(&caller(Role::OpsAdmin), id, &web(WorkloadType::Deployment)));
    assert_eq!(cause(restart), Cause::AuditUnavailable);
    assert_eq!(
        cause(block_on(fixture.app.clusters.delete(&caller(Role::OpsAdmin), id))),
        Cause::AuditUnavailable
    );
    assert!(fixture.fake.clusters.calls().is_empty());
    let query = List::Clusters.parse_page(&[]).unwrap();
    assert!(
        block_on(fixture.app.clusters.list(&caller(Role::Viewer), &query)).is_ok(),
        "reads are still possible"
    );
}

#[test]
fn protected_namespaces_cannot_be_deleted() {
    let (fixture, id) = Fixture::with_cluster();
    for name in pilothouse_core::namespace::PROTECTED {
        let delete = block_on(fixture.app.namespaces.delete(
            &caller(Role::SuperAdmin),
            id,
            &Namespace::new(name).unwrap(),
        ));
        assert_eq!(cause(delete), Cause::ProtectedNamespace);
    }
    assert!(fixture.fake.clusters.calls().is_empty());
    assert_eq!(fixture.rows().pop().unwrap(), ("delete".into(), "namespace".into(), Status::Failed));
}

#[test]
fn unsupported_workload_action_is_invalid_input() {
    let (fixture, id) = Fixture::with_cluster();
    let (ops, before) = (caller(Role::OpsAdmin), fixture.rows().len());
    for kind in WorkloadType::ALL {
        let replicas = Replicas::try_from(1).unwrap();
        if !kind.scales() {
            assert_eq!(
                cause(block_on(fixture.app.workloads.scale(&ops, id, &web(kind), replicas))),
                Cause::InvalidInput
            );
        }
        if !kind.rolls_out() {
            assert_eq!(
                cause(block_on(fixture.app.workloads.restart(&ops, id, &web(kind)))),
                Cause::InvalidInput
            );
        }
    }
    assert_eq!(fixture.rows().len(), before);
    for number in [-1, 10_001, i64::MAX] {
        assert_eq!(Replicas::try_from(number), Err(Reason::OutOfRange));
    }
}

#[test]
fn viewers_see_no_literal_environment_values() {
    let (fixture, id) = Fixture::with_cluster();
    let manifest = |role| {
        let detail =
            block_on(fixture.app.workloads.detail(&caller(role), id, &web(WorkloadType::Deployment)))
                .unwrap();
        detail.manifest.to_string()
    };
    assert!(manifest(Role::OpsAdmin).contains("literal"));
    assert!(!manifest(Role::Viewer).contains("literal"));
    let absent =
        block_on(fixture.app.workloads.detail(&caller(Role::Viewer), id, &web(WorkloadType::StatefulSet)));
    assert_eq!(cause(absent), Cause::NotFoundInCluster);
}

#[test]
fn reads_write_no_row_and_unknown_cluster_is_not_found() {
    let (fixture, id) = Fixture::with_cluster();
    let (viewer, before) = (caller(Role::Viewer), fixture.rows().len());
    let pairs = [("cluster_id".to_owned(), id.to_string()), ("namespace".to_owned(), "*".to_owned())];
    let query = List::Workloads.parse_page(&pairs).unwrap();
    let page = block_on(fixture.app.lists.page(&viewer, id, List::Workloads, &query)).unwrap().listing;
    assert_eq!((page.rows.len(), page.pagination.total), (1, 1));
    let unknown_cluster = block_on(fixture.app.lists.page(&viewer, ClusterId(99), List::Workloads, &query));
    assert_eq!(cause(unknown_cluster), Cause::NotFound);
    let options = LogOptions {
        container: None,
        tail_lines: 100,
        previous: false,
        since_seconds: None,
        timestamps: false,
    };
    let logs =
        block_on(fixture.app.pods.logs(&viewer, id, &shop(), &ObjectName::new("none").unwrap(), &options));
    assert_eq!(cause(logs), Cause::NotFoundInCluster);
    assert_eq!(fixture.rows().len(), before);
}

#[test]
fn connection_test_is_recorded_and_changes_nothing() {
    let (fixture, id) = Fixture::with_cluster();
    let test = block_on(fixture.app.clusters.test(&caller(Role::Viewer), id)).unwrap();
    assert_eq!((test.version.as_str(), test.node_count), ("v1.37.2", Some(1)));
    assert_eq!(fixture.rows().pop().unwrap(), ("test".into(), "cluster".into(), Status::Success));
    fixture.fake.clusters.fail(Some(Cause::DeadlineExceeded));
    assert_eq!(
        cause(block_on(fixture.app.clusters.test(&caller(Role::Viewer), id))),
        Cause::DeadlineExceeded
    );
    assert_eq!(fixture.rows().pop().unwrap(), ("test".into(), "cluster".into(), Status::Failed));
    assert_eq!(block_on(fixture.app.clusters.ids()).unwrap(), [id]);
}
