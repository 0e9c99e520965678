//! Cost of refused requests: the role is checked before anything is parsed, hashed or looked up. The audit rows are
//! small and limited in number.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error, Result,
    access::Caller,
    app::{App, AppSettings, Ports},
    audit::OperationRow,
    cluster::{ClusterChange, ClusterName, CredentialInput, MockClusterProbe, NewCluster},
    config::NewConfigMap,
    connection::AuthType,
    error::Reason,
    hex::Hex,
    ids::{ClusterId, SessionId, UserId},
    kind::Kind,
    name::{Namespace, ObjectName},
    object::Labels,
    operation::{Entry, MAX_ROW_BYTES, Status},
    role::Role,
    rows::ListQuery,
    secret::{NewSecret, SecretPatch, ValueDigest},
    testing::{
        fake::{Fake, PlainDigest},
        new_cluster,
    },
    user::{NewPassword, NewUser, UserPatch, Username},
};
use secrecy::SecretString;
use serde_json::json;

/// Counts digest computations.
#[derive(Default)]
struct CountingDigest(AtomicUsize);

impl ValueDigest for CountingDigest {
    fn digest(&self, path: &[&str], value: &[u8]) -> Hex<16> {
        self.0.fetch_add(1, Ordering::SeqCst);
        PlainDigest.digest(path, value)
    }
}

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
    digest: Arc<CountingDigest>,
}

fn caller(role: Role) -> Caller {
    Caller { user_id: Some(UserId(7)), username: "ann".into(), ..Caller::system().with_role(role) }
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

impl Fixture {
    fn new() -> Self {
        Self::with(|ports| ports)
    }

    /// A fixture with a cluster that contains a Secret `pass`.
    fn with(change: impl FnOnce(Ports) -> Ports) -> Self {
        let fake = Fake::default();
        let digest = Arc::new(CountingDigest::default());
        let mut ports = fake.ports();
        ports.objects.digest = digest.clone();
        let cluster = block_on(
            App::new(fake.ports(), AppSettings::default())
                .clusters
                .create(&Caller::system(), new_cluster("prod")),
        );
        let cluster = cluster.unwrap().value.id;
        let pass = json!({"metadata": {"name": "pass", "namespace": "shop"}, "data": {"old": "b2xk"}});
        fake.clusters.put(cluster, Kind::Secret, pass);
        fake.clusters.calls();
        Self { app: App::new(change(ports), AppSettings::default()), fake, cluster, digest }
    }

    /// The audit rows after the first `before` ones.
    fn rows_since(&self, before: usize) -> Vec<OperationRow> {
        self.fake.store.all_operations().split_off(before)
    }

    /// Number of audit rows.
    fn count(&self) -> usize {
        self.fake.store.all_operations().len()
    }

    /// Requests a restart as a viewer, which is refused.
    fn refused_restart(&self) {
        use pilothouse_core::workload::{WorkloadRef, WorkloadType};
        let web = WorkloadRef { namespace: shop(), kind: WorkloadType::Deployment, name: name("web") };
        let refused = block_on(self.app.workloads.restart(&caller(Role::Viewer), self.cluster, &web));
        assert_eq!(cause(refused), Cause::RoleTooLow);
    }

    /// Number of digests computed.
    fn hashed(&self) -> usize {
        self.digest.0.load(Ordering::SeqCst)
    }
}

/// The maximum number of keys of a Secret, each of maximum length.
fn max_keys<T>(value: impl Fn() -> T) -> BTreeMap<String, T> {
    (0..1000).map(|n| (format!("{n:0253}"), value())).collect()
}

#[test]
fn refused_secret_is_not_hashed_and_writes_a_small_row() {
    let fixture = Fixture::new();
    let (viewer, before) = (caller(Role::Viewer), fixture.count());
    let secret = || NewSecret {
        name: name("s"),
        r#type: None,
        data: max_keys(|| SecretString::from("canary")),
        labels: Labels::new(),
    };
    let patch = || SecretPatch {
        data: Some(max_keys(|| Some(SecretString::from("canary")))),
        ..SecretPatch::default()
    };
    let secrets = &fixture.app.secrets;
    assert_eq!(
        cause(block_on(secrets.create(&viewer, fixture.cluster, &shop(), secret()))),
        Cause::RoleTooLow
    );
    let refused = block_on(secrets.update(&viewer, fixture.cluster, &shop(), name("pass"), patch()));
    assert_eq!(cause(refused), Cause::RoleTooLow);
    assert_eq!(fixture.hashed(), 0);
    let rows = fixture.rows_since(before);
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(serde_json::to_string(&row).unwrap().len() < 1024, "{row:?}");
        assert_eq!(row.details.as_deref(), Some("PERMISSION_DENIED: role_too_low"));
    }
    // the row of an authorised caller is bounded as well, and contains the number of keys
    let ops = caller(Role::OpsAdmin);
    block_on(secrets.create(&ops, fixture.cluster, &shop(), secret())).unwrap();
    assert_eq!(fixture.hashed(), 1000);
    let entries = fixture.fake.store.entries();
    let [.., Entry::Intent { operation }, Entry::Outcome { outcome, .. }] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!(operation.params["keys"]["length"], 1000);
    assert!(outcome.details.as_ref().unwrap().contains(r#""length":1000"#), "{outcome:?}");
    for entry in entries {
        assert!(entry.canonical().unwrap().len() <= MAX_ROW_BYTES);
    }
}

#[test]
fn more_than_1000_keys_are_refused() {
    let fixture = Fixture::new();
    let (ops, before) = (caller(Role::OpsAdmin), fixture.count());
    let many = |n: usize| (0..n).map(|n| n.to_string());
    let secret = |n| NewSecret {
        name: name("s"),
        r#type: None,
        data: many(n).map(|key| (key, "v".into())).collect(),
        labels: Labels::new(),
    };
    let configmap = |n| NewConfigMap {
        name: name("c"),
        data: many(n).map(|key| (key, "v".into())).collect(),
        labels: Labels::new(),
    };
    let patch =
        SecretPatch { data: Some(many(1001).map(|key| (key, None)).collect()), ..SecretPatch::default() };
    let too_long = Error::invalid("data", Reason::TooLong);
    let App { secrets, configs, .. } = &fixture.app;
    let refused = [
        block_on(secrets.create(&ops, fixture.cluster, &shop(), secret(1001))).map(drop),
        block_on(secrets.update(&ops, fixture.cluster, &shop(), name("pass"), patch)).map(drop),
        block_on(configs.create_configmap(&ops, fixture.cluster, &shop(), configmap(1001))).map(drop),
    ];
    for result in refused {
        assert_eq!(result, Err(too_long.clone()));
    }
    assert_eq!(fixture.count(), before);
    block_on(secrets.create(&ops, fixture.cluster, &shop(), secret(1000))).unwrap();
    block_on(configs.create_configmap(&ops, fixture.cluster, &shop(), configmap(1000))).unwrap();
}

/// The hash of a rejected value would show in the caller's own rows whether it equals the value of an earlier row.
#[test]
fn only_values_accepted_by_the_cluster_are_hashed() {
    let fixture = Fixture::new();
    let (ops, shop) = (caller(Role::OpsAdmin), shop());
    let patch = |resource_version: Option<&str>| SecretPatch {
        data: Some([("pin".to_owned(), Some("1234".into()))].into()),
        resource_version: resource_version.map(str::to_owned),
        ..SecretPatch::default()
    };
    let update = |who: &Caller, patch| {
        block_on(fixture.app.secrets.update(who, fixture.cluster, &shop, name("pass"), patch)).map(drop)
    };
    assert_eq!(cause(update(&caller(Role::Viewer), patch(None))), Cause::RoleTooLow);
    assert_eq!(cause(update(&ops, patch(Some("another")))), Cause::ConflictInCluster);
    for fault in [Cause::ForbiddenByCluster, Cause::DeadlineExceeded, Cause::Unreachable] {
        fixture.fake.clusters.fail(Some(fault));
        assert_eq!(cause(update(&ops, patch(None))), fault);
    }
    fixture.fake.clusters.fail(None);
    let trail = format!("{:?} {:?}", fixture.fake.store.entries(), fixture.fake.store.all_operations());
    assert!(!trail.contains("hash\\\""), "{trail}");
    assert_eq!(fixture.hashed(), 0);
    update(&ops, patch(None)).unwrap();
    let row = fixture.fake.store.all_operations().pop().unwrap();
    let hash = PlainDigest.digest(&[&*fixture.cluster.to_string(), "shop", "pass", "pin"], b"1234");
    assert_eq!(
        row.details,
        Some(format!(r#"keys={{"pin":{{"bytes":4,"hash":"{hash}"}}}}"#)),
        "accepted values are distinguishable by hash"
    );
    assert_eq!(fixture.hashed(), 1);
}

#[test]
fn refused_changes_write_300_rows_then_one_counting_row_per_minute() {
    let fixture = Fixture::new();
    let before = fixture.count();
    for _ in 0..1000 {
        fixture.refused_restart();
    }
    assert_eq!(fixture.rows_since(before).len(), 300);
    fixture.fake.runtime.clock.advance(Duration::from_secs(60));
    for _ in 0..10 {
        fixture.refused_restart();
    }
    let rows = fixture.rows_since(before);
    assert_eq!(rows.len(), 301);
    let last = rows.last().unwrap();
    assert_eq!(last.details.as_deref(), Some("refused_before=700; PERMISSION_DENIED: role_too_low"));
    fixture.fake.runtime.clock.advance(Duration::from_secs(15 * 60));
    fixture.refused_restart();
    let last = fixture.rows_since(before).pop().unwrap();
    assert_eq!(last.details.as_deref(), Some("refused_before=9; PERMISSION_DENIED: role_too_low"));
    // another user is not affected, nor is a request that is not refused
    for _ in 0..400 {
        fixture.refused_restart();
    }
    let before = fixture.count();
    let ben = Caller { user_id: Some(UserId(8)), ..caller(Role::Viewer) };
    assert_eq!(cause(block_on(fixture.app.clusters.delete(&ben, fixture.cluster))), Cause::RoleTooLow);
    block_on(fixture.app.clusters.test(&caller(Role::Viewer), fixture.cluster)).unwrap();
    assert_eq!(fixture.rows_since(before).len(), 2);
}

#[test]
fn read_refused_again_within_a_minute_writes_no_row() {
    let fixture = Fixture::new();
    let (viewer, before) = (caller(Role::Viewer), fixture.count());
    let list = || {
        assert_eq!(
            cause(block_on(fixture.app.users.list(&viewer, &ListQuery::default()))),
            Cause::RoleTooLow
        );
    };
    let verify = || assert_eq!(cause(block_on(fixture.app.audit.verify(&viewer))), Cause::RoleTooLow);
    for _ in 0..5 {
        list();
        verify();
    }
    assert_eq!(fixture.rows_since(before).len(), 2, "one row per permission");
    fixture.fake.runtime.clock.advance(Duration::from_secs(60));
    list();
    let row = fixture.rows_since(before).pop().unwrap();
    assert_eq!(row.details.as_deref(), Some("refused_before=4; PERMISSION_DENIED: role_too_low"));
}

/// A viewer may end sessions, but cannot fill the trail by ending sessions that do not exist.
#[test]
fn not_found_refusals_write_at_most_300_rows() {
    let fixture = Fixture::new();
    let before = fixture.count();
    for n in 0..1000 {
        let refused = block_on(fixture.app.sessions.revoke(&caller(Role::Viewer), SessionId(n)));
        assert_eq!(cause(refused), Cause::NotFound);
        let absent = ClusterId(1000 + n);
        assert_eq!(
            cause(block_on(fixture.app.clusters.delete(&caller(Role::OpsAdmin), absent))),
            Cause::NotFound
        );
    }
    assert_eq!(fixture.rows_since(before).len(), 300);
}

#[test]
fn refusal_without_a_stored_row_is_counted_by_the_next() {
    let fixture = Fixture::new();
    let before = fixture.count();
    let delete =
        || block_on(fixture.app.clusters.delete(&caller(Role::Viewer), fixture.cluster)).unwrap_err();
    fixture.fake.store.fail_audit_writes(true);
    assert_eq!(delete().cause, Cause::AuditUnavailable);
    fixture.fake.store.fail_audit_writes(false);
    assert_eq!(delete().cause, Cause::RoleTooLow);
    let rows = fixture.rows_since(before);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].details.as_deref(), Some("refused_before=1; PERMISSION_DENIED: role_too_low"));
}

fn kubeconfig(text: &str) -> CredentialInput {
    CredentialInput {
        auth_type: Some(AuthType::Kubeconfig),
        kubeconfig: Some(text.into()),
        ..CredentialInput::default()
    }
}

fn registered(credential: CredentialInput) -> NewCluster {
    NewCluster { credential, ..new_cluster("next") }
}

/// Order of the checks: shape, role, contents.
#[test]
fn kubeconfig_is_parsed_after_the_role_check() {
    let fixture = Fixture::new();
    let clusters = &fixture.app.clusters;
    let bomb = "a: &a [1]\nb: {<<: [*a, *a]}\n";
    let change = |text: &str| ClusterChange { credential: kubeconfig(text), ..ClusterChange::default() };
    let all = |role: Role, text: &str| {
        let caller = caller(role);
        [
            block_on(clusters.create(&caller, registered(kubeconfig(text)))).map(drop).unwrap_err(),
            block_on(clusters.update(&caller, fixture.cluster, change(text))).map(drop).unwrap_err(),
            block_on(clusters.test_new(&caller, kubeconfig(text))).map(drop).unwrap_err(),
        ]
    };
    let before = fixture.count();
    let too_long = "a".repeat((256 << 10) + 1);
    for (text, reason) in [("", Reason::Required), (&too_long, Reason::TooLong)] {
        for role in [Role::Viewer, Role::OpsAdmin] {
            for error in all(role, text) {
                assert_eq!(error, Error::invalid("kubeconfig", reason), "{role:?}: detected without parsing");
            }
        }
    }
    assert_eq!(fixture.count(), before);
    for text in [bomb, "{", "current-context: nowhere"] {
        for error in all(Role::Viewer, text) {
            assert_eq!(error.cause, Cause::RoleTooLow, "{text}");
        }
        for error in all(Role::OpsAdmin, text) {
            assert_eq!(error.cause, Cause::InvalidInput, "{text}");
        }
    }
    let rows = fixture.rows_since(before);
    assert_eq!(rows.len(), 9, "one row per refusal by role, none for invalid input");
    assert!(rows.iter().all(|row| row.error_code.as_deref() == Some("PERMISSION_DENIED")));
}

#[test]
fn egress_denial_is_recorded_and_follows_the_role_check() {
    let mut probe = MockClusterProbe::new();
    probe.expect_check().times(5).returning(|_| Err(Error::new(Cause::EgressDenied)));
    let fixture = Fixture::with(|mut ports| {
        ports.clusters.probe = Arc::new(probe);
        ports
    });
    let clusters = &fixture.app.clusters;
    let (viewer, ops, before) = (caller(Role::Viewer), caller(Role::OpsAdmin), fixture.count());
    let token = || new_cluster("next").credential;
    let change = |skip_test| ClusterChange {
        credential: CredentialInput { token: Some("new".into()), ..token() },
        skip_test,
        ..ClusterChange::default()
    };
    let create = |who, skip_test| {
        cause(block_on(clusters.create(who, NewCluster { skip_test, ..registered(token()) })))
    };
    let update = |who, skip_test| cause(block_on(clusters.update(who, fixture.cluster, change(skip_test))));
    let test = |who| cause(block_on(clusters.test_new(who, token())));
    assert_eq!([create(&viewer, true), update(&viewer, true), test(&viewer)], [Cause::RoleTooLow; 3]);
    let refused =
        [create(&ops, true), create(&ops, false), update(&ops, true), update(&ops, false), test(&ops)];
    assert_eq!(refused, [Cause::EgressDenied; 5]);
    let rows = fixture.rows_since(before);
    assert_eq!(rows.len(), 8);
    for row in &rows[3..] {
        assert_eq!((row.status, row.error_code.as_deref()), (Status::Failed, Some("VALIDATION_ERROR")));
        assert!(row.details.as_ref().unwrap().contains("api_server=https://k8s.example.com:6443"), "{row:?}");
    }
}

#[test]
fn refusal_does_not_reveal_the_username() {
    let fixture = Fixture::new();
    let password = || NewPassword::new(&"correct horse battery".into()).unwrap();
    let new = NewUser {
        username: Username::new("canary-name").unwrap(),
        password: password(),
        role: Role::SuperAdmin,
        display_name: None,
    };
    let user = block_on(fixture.app.users.create(&Caller::system(), new)).unwrap();
    let (viewer, before) = (caller(Role::Viewer), fixture.count());
    let patch = || UserPatch { disabled: Some(false), ..UserPatch::default() };
    let users = &fixture.app.users;
    let refused = [
        block_on(users.update(&viewer, user.id, patch())).map(drop),
        block_on(users.delete(&viewer, user.id)),
        block_on(users.reset_password(&viewer, user.id, password())).map(drop),
    ];
    assert!(refused.into_iter().all(|result| cause(result) == Cause::RoleTooLow));
    let rows = fixture.rows_since(before);
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert_eq!(row.resource_name, Some(user.id.to_string()));
        assert!(!format!("{row:?}").contains("canary-name"));
    }
    block_on(users.update(&caller(Role::SuperAdmin), user.id, patch())).unwrap();
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(row.resource_name.as_deref(), Some("canary-name"));
}

#[test]
fn rows_contain_names_of_maximum_length() {
    let fixture = Fixture::new();
    let named = ClusterName::new(&"写".repeat(63)).unwrap();
    let new = NewCluster { name: named.clone(), ..new_cluster("x") };
    block_on(fixture.app.clusters.create(&caller(Role::OpsAdmin), new)).unwrap();
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(row.resource_name.as_deref(), Some(named.as_str()));
    let longest = name(&"n".repeat(253));
    let secret =
        NewSecret { name: longest.clone(), r#type: None, data: BTreeMap::new(), labels: Labels::new() };
    block_on(fixture.app.secrets.create(&caller(Role::OpsAdmin), fixture.cluster, &shop(), secret)).unwrap();
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(row.resource_name.as_deref(), Some(longest.as_str()));
}
