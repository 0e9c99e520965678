use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::StorePorts;
use crate::{
    access::{AccessRequest, Permit, Resource, Verb},
    cluster::{Cluster, ClusterName, ClusterPatch, ClusterRecord, Health, NodeCount, ProbeResult, Report},
    connection::{ApiServer, AuthType, Connection, Credential},
    error::Cause,
    ids::ClusterId,
    rows::Level,
};

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn connection_with_token(server: &str, token: &str) -> Connection {
    Connection {
        server: ApiServer::new(server).unwrap(),
        ca: None,
        tls_server_name: None,
        insecure_skip_tls_verify: false,
        credential: Credential::Token(SecretString::from(token)),
    }
}

/// All fields of a connection as text, including the credential.
fn describe(connection: &Connection) -> String {
    let Connection { server, ca, tls_server_name, insecure_skip_tls_verify, credential } = connection;
    let credential = match credential {
        Credential::Token(token) => format!("token {}", token.expose_secret()),
        Credential::Certificate { chain, key } => format!("certificate {chain} {}", key.expose_secret()),
    };
    format!("{server} {ca:?} {tls_server_name:?} {insecure_skip_tls_verify} {credential}")
}

fn online(at: Timestamp) -> ProbeResult {
    let report = Report {
        version: "v1.37.2".to_owned(),
        latency: Duration::from_millis(3),
        identity: None,
        nodes: Some(NodeCount { ready: 2, total: 3 }),
        pods: Some(40),
        namespaces: None,
        certificates: Vec::new(),
    };
    ProbeResult { at, result: Ok(report) }
}

impl StorePorts {
    pub(super) fn record(&self, text: &str) -> ClusterRecord {
        ClusterRecord {
            name: name(text),
            description: "描述".to_owned(),
            labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            auth_type: AuthType::Token,
            connection: connection_with_token("https://192.0.2.1:6443", "canary-token"),
            probe_result: None,
            at: self.now(),
        }
    }

    /// A record whose first probe succeeded.
    pub(super) fn online_record(&self, text: &str) -> ClusterRecord {
        ClusterRecord { probe_result: Some(online(self.now())), ..self.record(text) }
    }

    pub(super) async fn register(&self, record: ClusterRecord) -> Cluster {
        let access = AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(record.name.as_str());
        let permit = self.permit(access.named(record.name.as_str()));
        self.clusters.create(&permit, record).await.unwrap()
    }

    async fn version(&self, id: ClusterId) -> i64 {
        self.connections.connection(id).await.unwrap().unwrap().version
    }

    /// A permit for a cluster.
    fn on(&self, verb: Verb, id: ClusterId) -> Permit {
        self.permit(AccessRequest::to(verb, Resource::Cluster).in_cluster(id))
    }

    async fn change(&self, id: ClusterId, patch: ClusterPatch, at: Timestamp) -> Result<Cluster, Cause> {
        let changed = self.clusters.update(&self.on(Verb::Update, id), patch, at).await;
        changed.map_err(|error| error.cause)
    }
}

pub(super) async fn registered_cluster_is_found(ports: &StorePorts) {
    let untested = ports.register(ports.record("生产环境")).await;
    assert_eq!((untested.status, untested.status_reason.as_deref()), (Health::Offline, None));
    assert_eq!(
        (untested.node_count, untested.version.as_deref(), untested.last_connected_at),
        (None, None, None)
    );
    assert_eq!((&*untested.api_server, untested.auth_type), ("https://192.0.2.1:6443", AuthType::Token));
    assert_eq!((untested.created_at, untested.updated_at), (ports.now(), ports.now()));
    assert_eq!((&*untested.description, untested.labels["env"].as_str()), ("描述", "prod"));

    let connection = Connection {
        server: ApiServer::new("https://[2001:db8::1]:6443/k8s").unwrap(),
        ca: Some("canary-ca".to_owned()),
        tls_server_name: Some("kubernetes".to_owned()),
        insecure_skip_tls_verify: true,
        credential: Credential::Certificate {
            chain: "canary-chain".to_owned(),
            key: SecretString::from("canary-key \"\n密"),
        },
    };
    let record = ClusterRecord {
        auth_type: AuthType::Kubeconfig,
        connection: connection.clone(),
        probe_result: Some(online(ports.now())),
        ..ports.record("staging")
    };
    let tested = ports.register(record).await;
    assert_eq!((tested.status, tested.auth_type), (Health::Online, AuthType::Kubeconfig));
    assert_eq!((tested.node_count, tested.pod_count, tested.namespace_count), (Some(3), Some(40), None));
    assert_eq!((tested.version.as_deref(), tested.last_connected_at), (Some("v1.37.2"), Some(ports.now())));

    assert_eq!(ports.clusters.list().await.unwrap(), [untested.clone(), tested.clone()]);
    assert_eq!(ports.clusters.find(tested.id).await.unwrap(), Some(tested.clone()));
    assert_eq!(ports.clusters.name(untested.id).await.unwrap(), Some(name("生产环境")));
    let stored = ports.connections.connection(tested.id).await.unwrap().unwrap();
    assert_eq!(describe(&stored.connection), describe(&connection));

    let recorded: Vec<_> =
        ports.operations().await.into_iter().map(|row| (row.cluster_id, row.cluster_name)).collect();
    let expected = [(untested.id, "生产环境"), (tested.id, "staging")];
    assert_eq!(recorded, expected.map(|(id, name)| (Some(id), Some(name.to_owned()))));
}

pub(super) async fn names_are_unique_ignoring_case(ports: &StorePorts) {
    let prod = ports.register(ports.record("Prod")).await;
    let other = ports.register(ports.record("staging")).await;
    for again in ["Prod", "pROD", "ｐｒｏｄ"] {
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(again));
        let refused = ports.clusters.create(&permit, ports.record(again)).await.unwrap_err();
        assert_eq!(refused.cause, Cause::NameTaken, "{again}");
        let patch = ClusterPatch { name: Some(name(again)), ..ClusterPatch::default() };
        assert_eq!(ports.change(other.id, patch, ports.now()).await, Err(Cause::NameTaken), "{again}");
    }
    let patch = ClusterPatch { name: Some(name("PROD")), ..ClusterPatch::default() };
    let renamed = ports.change(prod.id, patch, ports.now()).await.unwrap();
    assert_eq!(renamed.name.as_str(), "PROD", "a cluster may keep its own name");
    assert_eq!(ports.clusters.list().await.unwrap().len(), 2);
}

pub(super) async fn ids_are_never_reused(ports: &StorePorts) {
    let first = ports.register(ports.record("prod")).await;
    ports.clusters.delete(&ports.on(Verb::Delete, first.id)).await.unwrap();
    let second = ports.register(ports.record("prod")).await;
    assert!(second.id > first.id);
}

pub(super) async fn update_sets_only_given_fields(ports: &StorePorts) {
    let before = ports.register(ports.online_record("prod")).await;
    let version = ports.version(before.id).await;
    let later = ports.now() + Duration::from_secs(1);
    let unchanged = ports.change(before.id, ClusterPatch::default(), later).await.unwrap();
    assert_eq!(unchanged, Cluster { updated_at: later, ..before.clone() });
    let patch = ClusterPatch {
        name: Some(name("production")),
        description: Some(String::new()),
        labels: Some(BTreeMap::new()),
        ..ClusterPatch::default()
    };
    let changed = ports.change(before.id, patch, later).await.unwrap();
    assert_eq!((changed.name.as_str(), &*changed.description, changed.labels.len()), ("production", "", 0));
    assert_eq!((changed.created_at, changed.status), (before.created_at, Health::Online));
    assert_eq!(ports.clusters.find(before.id).await.unwrap(), Some(changed));
    assert_eq!(ports.version(before.id).await, version, "connection is unchanged");
}

pub(super) async fn new_connection_has_a_new_version(ports: &StorePorts) {
    let connection = Connection {
        ca: Some("ca".to_owned()),
        ..connection_with_token("https://192.0.2.1:6443", "canary-token")
    };
    let record =
        ClusterRecord { probe_result: Some(online(ports.now())), connection, ..ports.record("prod") };
    let before = ports.register(record).await;
    let mut versions = vec![ports.version(before.id).await];
    let connection = connection_with_token("https://192.0.2.2:6443", "second");
    let patch = |probe_result| ClusterPatch {
        connection: Some((AuthType::Kubeconfig, connection.clone())),
        probe_result,
        ..ClusterPatch::default()
    };
    let untested = ports.change(before.id, patch(None), ports.now()).await.unwrap();
    assert_eq!((&*untested.api_server, untested.auth_type), ("https://192.0.2.2:6443", AuthType::Kubeconfig));
    assert_eq!((untested.status, untested.status_reason), (Health::Offline, None));
    let stored = ports.connections.connection(before.id).await.unwrap().unwrap();
    assert_eq!(describe(&stored.connection), describe(&connection), "the CA is removed");
    versions.push(stored.version);

    let tested = ports.change(before.id, patch(Some(online(ports.now()))), ports.now()).await.unwrap();
    assert_eq!(tested.status, Health::Online);
    versions.push(ports.version(before.id).await);
    assert!(versions.is_sorted(), "a later version is greater: {versions:?}");

    // the same connection under another id has another version
    let again = ports.register(ClusterRecord { connection, ..ports.record("again") }).await;
    versions.push(ports.version(again.id).await);
    let different: BTreeSet<_> = versions.iter().collect();
    assert_eq!(different.len(), versions.len(), "{versions:?}");

    let [.., of_before, of_again] = versions[..] else { unreachable!("four versions") };
    let all = BTreeMap::from([(before.id, of_before), (again.id, of_again)]);
    assert_eq!(ports.connections.versions().await.unwrap(), all);
}

pub(super) async fn concurrent_change_is_a_conflict(ports: &StorePorts) {
    let before = ports.register(ports.record("prod")).await;
    let patch = |read| ClusterPatch {
        description: Some("new".to_owned()),
        unless_changed_since: Some(read),
        ..ClusterPatch::default()
    };
    let later = ports.now() + Duration::from_micros(1);
    ports.change(before.id, patch(before.updated_at), later).await.unwrap();
    let refused = ports.change(before.id, patch(before.updated_at), later).await;
    assert_eq!(refused, Err(Cause::Modified));
    ports.change(before.id, patch(later), later).await.unwrap();
}

pub(super) async fn deleted_cluster_is_not_found(ports: &StorePorts) {
    let cluster = ports.register(ports.record("prod")).await;
    let version = ports.version(cluster.id).await;
    ports.clusters.delete(&ports.on(Verb::Delete, cluster.id)).await.unwrap();
    assert_eq!(ports.clusters.list().await.unwrap(), []);
    assert_eq!(ports.clusters.find(cluster.id).await.unwrap(), None);
    assert_eq!(ports.clusters.name(cluster.id).await.unwrap(), None);
    assert!(ports.connections.connection(cluster.id).await.unwrap().is_none());
    let again = ports.clusters.delete(&ports.on(Verb::Delete, cluster.id)).await;
    assert_eq!(again.unwrap_err().cause, Cause::NotFound);
    let patch = ClusterPatch { description: Some(String::new()), ..ClusterPatch::default() };
    assert_eq!(ports.change(cluster.id, patch, ports.now()).await, Err(Cause::NotFound));
    ports.clusters.record_probe(cluster.id, version, online(ports.now())).await.unwrap();
    assert_eq!(ports.operations().await.len(), 2, "the operations of the cluster are kept");
}

pub(super) async fn probe_result_is_stored(ports: &StorePorts) {
    let cluster = ports.register(ports.record("prod")).await;
    let version = ports.version(cluster.id).await;
    let find = async || ports.clusters.find(cluster.id).await.unwrap().unwrap();
    let (first, second) = (ports.now() + Duration::from_secs(30), ports.now() + Duration::from_secs(60));
    ports.clusters.record_probe(cluster.id, version, online(first)).await.unwrap();
    let online_row = find().await;
    assert_eq!(
        (online_row.status, online_row.node_count, online_row.last_connected_at),
        (Health::Online, Some(3), Some(first))
    );
    assert_eq!(online_row.updated_at, cluster.updated_at, "a probe is not a change");

    ports
        .clusters
        .record_probe(cluster.id, version, ProbeResult { at: second, result: Err(Cause::Unreachable) })
        .await
        .unwrap();
    let offline_row = find().await;
    let reason = Some("unreachable".to_owned());
    assert_eq!(
        offline_row,
        Cluster { status: Health::Offline, level: Level::Bad, status_reason: reason, ..online_row },
        "counts are kept"
    );

    ports.clusters.record_probe(cluster.id, version, online(second)).await.unwrap();
    let again = find().await;
    assert_eq!((again.status_reason, again.last_connected_at), (None, Some(second)));
}

pub(super) async fn probe_of_older_connection_is_discarded(ports: &StorePorts) {
    let cluster = ports.register(ports.record("prod")).await;
    let version = ports.version(cluster.id).await;
    let connection = Some((AuthType::Token, connection_with_token("https://192.0.2.2:6443", "second")));
    let patch = ClusterPatch { connection, ..ClusterPatch::default() };
    let changed = ports.change(cluster.id, patch, ports.now()).await.unwrap();
    ports.clusters.record_probe(cluster.id, version, online(ports.now())).await.unwrap();
    assert_eq!(ports.clusters.find(cluster.id).await.unwrap(), Some(changed));
}
