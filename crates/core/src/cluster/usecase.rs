//! Cluster use cases: register, change, delete, test and probe clusters.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{
    CertificateExpiry, Cluster, ClusterName, ClusterPatch, ClusterPorts, ClusterRecord, CredentialInput,
    Health, NodeCount, Permission, ProbeReason, ProbeResult, ProbeTarget, Probed,
};
use crate::{
    access::{AccessRequest, Caller, Granted, Permit, Resource, Verb},
    clock::Clock,
    connection::{AuthType, Connection, Credential, check_token},
    error::{Cause, Error, MissingRight, Reason, Result},
    gate::{Changed, Gate, Warning},
    grant::RightsPorts,
    ids::ClusterId,
    kubeconfig::Kubeconfig,
    name::is_invisible,
    object::{Labels, check_labels},
    rights::{Extent, RightResource, RightVerb},
    role::Role,
    rows::{ListQuery, Pagination, Row, select},
    spawn::computed,
};

/// A cluster to be registered.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Name.
    pub name: ClusterName,
    /// Free text.
    pub description: String,
    /// Labels stored by Pilothouse.
    pub labels: Labels,
    /// Connection and credential.
    pub credential: CredentialInput,
    /// Whether the cluster is stored without a connection test.
    pub skip_test: bool,
}

/// A change of a registered cluster. Fields that are `None` stay unchanged.
#[derive(Clone, Debug, Default)]
pub struct ClusterChange {
    /// A new name.
    pub name: Option<ClusterName>,
    /// A new description.
    pub description: Option<String>,
    /// New labels; they replace all labels.
    pub labels: Option<Labels>,
    /// A new connection. A new server requires the credential again: a stored credential is sent only to the server
    /// that it was stored with.
    pub credential: CredentialInput,
    /// Whether a new connection is stored without a connection test.
    pub skip_test: bool,
    /// The `updated_at` that the caller read. A later stored value is a conflict.
    pub updated_at: Option<Timestamp>,
}

/// Result of a connection test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterTest {
    /// The API server's version.
    pub version: String,
    /// Latency of `GET /version`, in milliseconds.
    pub latency_ms: u64,
    /// Nodes; null if the credential may not list them, and for a caller without a right on the whole cluster.
    pub node_count: Option<i64>,
    /// The user name that the cluster reports for the credential.
    pub identity: Option<String>,
    /// The permissions that Pilothouse's features need, compared with the credential's.
    pub permissions: Vec<Permission>,
}

/// Current status of a registered cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: Cluster,
    /// Its nodes; null if they cannot be counted.
    pub nodes: Option<NodeCount>,
    /// Latency of `GET /version`, in milliseconds; null if the request failed.
    pub latency_ms: Option<u64>,
    /// Time of the probe.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub checked_at: Timestamp,
    /// The user name that the cluster reports for the credential.
    pub identity: Option<String>,
    /// Certificates of the connection and their expiry.
    pub certificates: Vec<CertificateExpiry>,
}

/// Use cases of registered clusters.
#[derive(Clone)]
pub struct Clusters {
    pub(crate) gate: Gate,
    pub(crate) ports: ClusterPorts,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) allow_insecure_tls: bool,
    /// Grants, which may be by the labels of clusters. None where there are no grants.
    pub(super) rights: Option<RightsPorts>,
}

impl Clusters {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`]. `allow_insecure_tls` is
    /// as in [`crate::app::AppSettings`].
    pub fn new(gate: Gate, ports: ClusterPorts, clock: Arc<dyn Clock>, allow_insecure_tls: bool) -> Self {
        Self { gate, ports, clock, allow_insecure_tls, rights: None }
    }

    /// Adds the grants: a change of labels is then judged by the grants whose clusters it changes.
    #[must_use]
    pub fn with_rights(self, rights: RightsPorts) -> Self {
        Self { rights: Some(rights), ..self }
    }

    /// A page of the clusters in which the caller has any right.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Cluster)).await?;
        let clusters = self.ports.registry.list().await?.into_iter();
        let visible = clusters.filter(|cluster| caller.rights.sees(cluster.id));
        let rows = visible.map(|cluster| Row::of(&cluster.shown_to(caller))).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// Registers a cluster after a connection test. Labels that match the label selector of a grant require the right
    /// to give that grant, and the second factor for it.
    ///
    /// # Errors
    /// `RoleTooLow`, `TokenNotAllowed`, `SecondFactorNotEnrolled`, `SecondFactorStale`, `InvalidInput`, `EgressDenied`,
    /// `NameTaken`; errors with code `ConnectionError` or `TimeoutError` if
    /// the cluster cannot be reached, in which case nothing is stored.
    pub async fn create(&self, caller: &Caller, cluster: NewCluster) -> Result<Changed<Cluster>> {
        check_description(&cluster.description)?;
        check_labels(&cluster.labels)?;
        cluster.credential.check_all_fields(self.allow_insecure_tls)?;
        let access = AccessRequest::to(Verb::Create, Resource::Cluster)
            .new_cluster(cluster.name.as_str())
            .named(cluster.name.as_str());
        let granted = self.gate.grant(caller, access).await?;
        let granted = self.granted_with_labels(granted, None, None, &cluster.labels).await?;
        let (auth_type, connection) = self.connection(&granted, cluster.credential).await?;
        let granted =
            granted.with("api_server", connection.server.as_str()).with("auth_type", auth_type.as_str());
        let this = self.clone();
        let work = async move |permit: Permit| {
            let probe_result = this.probe_unless_skipped(&permit, &connection, cluster.skip_test).await?;
            let mut changed = Changed::from(());
            if probe_result.is_none() {
                changed.warnings.push(Warning::NotTested);
            }
            let record = ClusterRecord {
                name: cluster.name,
                description: cluster.description,
                labels: cluster.labels,
                auth_type,
                connection,
                probe_result,
                at: this.clock.now(),
            };
            let value = this.ports.registry.create(&permit, record).await?;
            Ok(Changed { value, warnings: changed.warnings })
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Changes a cluster. A new connection is tested first. Labels that differ from the stored ones are judged as a
    /// change of those.
    ///
    /// # Errors
    /// As [`Clusters::create`]; `NotFound`; `Modified`, with new labels also if the cluster was changed meanwhile.
    pub async fn update(
        &self,
        caller: &Caller,
        id: ClusterId,
        change: ClusterChange,
    ) -> Result<Changed<Cluster>> {
        change.description.as_deref().map_or(Ok(()), check_description)?;
        change.labels.as_ref().map_or(Ok(()), check_labels)?;
        let ClusterChange { name, description, mut labels, credential, skip_test, updated_at } = change;
        if !credential.is_given() && name.is_none() && description.is_none() && labels.is_none() {
            return Err(Error::invalid("name", Reason::Required));
        }
        // a client may send displayed values back unchanged; this is checked after the cluster is read
        if !credential.has_only_displayed_fields() {
            credential.check_fields(self.allow_insecure_tls)?;
        }
        let access = AccessRequest::to(Verb::Update, Resource::Cluster).in_cluster(id);
        let mut granted = self.gate.grant(caller, access).await?;
        let mut unless_changed_since = updated_at;
        if let Some(after) = &labels {
            let before = self.ports.registry.find(id).await?;
            if before.as_ref().is_some_and(|before| before.labels == *after) {
                // not judged, so not written: the labels may change before this change is stored
                labels = None;
            } else {
                let labels_before = before.as_ref().map(|before| &before.labels);
                granted = self.granted_with_labels(granted, Some(id), labels_before, after).await?;
                // judged as a change of these labels
                unless_changed_since = updated_at.or(before.map(|before| before.updated_at));
            }
        }
        let connection = self.updated_connection(&granted, id, credential).await?;
        if let Some(name) = &name {
            granted = granted.with("name", name.as_str());
        }
        if let Some((auth_type, connection)) = &connection {
            granted =
                granted.with("api_server", connection.server.as_str()).with("auth_type", auth_type.as_str());
        }
        let this = self.clone();
        let work = async move |permit: Permit| {
            let mut warnings = Vec::new();
            let mut probe_result = None;
            if let Some((_, connection)) = &connection {
                probe_result = this.probe_unless_skipped(&permit, connection, skip_test).await?;
                if probe_result.is_none() {
                    warnings.push(Warning::NotTested);
                }
            }
            let reconnects = connection.is_some();
            let patch =
                ClusterPatch { name, description, labels, connection, probe_result, unless_changed_since };
            let value = this.ports.registry.update(&permit, patch, this.clock.now()).await?;
            if reconnects {
                this.ports.probe.connection_changed(id).await;
            }
            Ok(Changed { value, warnings })
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Deletes a cluster and its credential.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, caller: &Caller, id: ClusterId) -> Result<()> {
        let access = AccessRequest::to(Verb::Delete, Resource::Cluster).in_cluster(id);
        let ClusterPorts { registry, probe, .. } = self.ports.clone();
        let work = async move |permit: Permit| {
            registry.delete(&permit).await?;
            probe.connection_changed(id).await;
            Ok(())
        };
        self.gate.change_local(caller, access, work).await
    }

    /// Tests a registered cluster. Nodes and identity are left out for a caller without a right on the whole cluster.
    ///
    /// # Errors
    /// `NotFound`; the cause of the failed test.
    pub async fn test(&self, caller: &Caller, id: ClusterId) -> Result<ClusterTest> {
        let access = AccessRequest::to(Verb::Test, Resource::Cluster).in_cluster(id);
        let this = self.clone();
        let work = async move |permit: Permit| {
            let stored = this.ports.connections.connection(id).await?.ok_or_else(|| not_found(id))?;
            this.test_connection(&permit, ProbeTarget::Registered(stored, ProbeReason::Test)).await
        };
        let test = self.gate.record_read(caller, access, work).await?;
        if caller.rights.reaches_cluster(id) {
            Ok(test)
        } else {
            Ok(ClusterTest { node_count: None, identity: None, ..test })
        }
    }

    /// Tests a connection that is not registered; nothing is stored.
    ///
    /// # Errors
    /// `InvalidInput`, `EgressDenied`; the cause of the failed test.
    pub async fn test_new(&self, caller: &Caller, credential: CredentialInput) -> Result<ClusterTest> {
        credential.check_all_fields(self.allow_insecure_tls)?;
        let granted = self.gate.grant(caller, AccessRequest::to(Verb::Test, Resource::NewCluster)).await?;
        let (_, connection) = self.connection(&granted, credential).await?;
        let granted = granted.with("api_server", connection.server.as_str());
        let this = self.clone();
        let work = async move |permit: Permit| {
            this.ports.probe.check(&connection)?;
            this.test_connection(&permit, ProbeTarget::New(connection)).await
        };
        self.gate.record_read_granted(granted, work).await
    }

    /// Probes a cluster and stores the result. A cluster that does not respond is a success with status `offline`.
    /// Concurrent callers share one probe, and a result less than one second old is reused. Counts, nodes, identity and
    /// certificates are left out for a caller without a right on the whole cluster.
    ///
    /// # Errors
    /// `NotFound`, `StoreUnavailable`; `Overloaded` if no request was sent to the cluster. While its circuit is open
    /// no request is sent either: the result is the stored row, `offline` if it was online before.
    pub async fn status(&self, caller: &Caller, id: ClusterId) -> Result<ClusterStatus> {
        let permit =
            self.gate.allow(caller, AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(id)).await?;
        let probe_result = match self.probe_and_record(&permit, id, ProbeReason::Status).await {
            Err(error) if error.cause == Cause::CircuitOpen => {
                ProbeResult { at: self.clock.now(), result: Err(error.cause) }
            }
            result => result?,
        };
        let mut cluster = self.ports.registry.find(id).await?.ok_or_else(|| not_found(id))?;
        // the failure that a probe stored is more specific than an open circuit
        let is_offline = cluster.status == Health::Offline;
        if !(is_offline && matches!(probe_result.result, Err(Cause::CircuitOpen))) {
            // the caller that stores the result may not have stored it yet
            cluster.observe(&probe_result);
        }
        let checked_at = probe_result.at;
        let report = probe_result.result.ok();
        let latency_ms = report.as_ref().map(|report| millis(report.latency));
        let report = report.filter(|_| caller.rights.reaches_cluster(id));
        Ok(ClusterStatus {
            cluster: cluster.shown_to(caller),
            nodes: report.as_ref().and_then(|report| report.nodes),
            latency_ms,
            checked_at,
            identity: report.as_ref().and_then(|report| report.identity.clone()),
            certificates: report.map_or_else(Vec::new, |report| report.certificates),
        })
    }

    /// The ids of all clusters, for a single prober. Replicas that share a store let the store assign clusters to
    /// them.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn ids(&self) -> Result<Vec<ClusterId>> {
        Ok(self.ports.registry.list().await?.into_iter().map(|cluster| cluster.id).collect())
    }

    /// Scheduled probe of one cluster: probes it and stores the result.
    ///
    /// # Errors
    /// `NotFound` if the cluster was deleted meanwhile; `StoreUnavailable`; `Overloaded` if no request was sent to the
    /// cluster. A cluster that does not respond is no error.
    pub async fn refresh(&self, id: ClusterId) -> Result<()> {
        let permit = self.gate.permit_probe(id);
        self.probe_and_record(&permit, id, ProbeReason::Scheduled).await.map(drop)
    }

    /// Probes a registered cluster, and stores the result if this caller must store it.
    async fn probe_and_record(
        &self,
        permit: &Permit,
        id: ClusterId,
        reason: ProbeReason,
    ) -> Result<ProbeResult> {
        let stored = self.ports.connections.connection(id).await?.ok_or_else(|| not_found(id))?;
        let version = stored.version;
        let target = ProbeTarget::Registered(stored, reason);
        let Probed { at, record, result } = self.ports.probe.probe(permit, target).await?;
        let probe_result = ProbeResult { at, result: result.map_err(|error| error.cause) };
        if record {
            self.ports.registry.record_probe(id, version, probe_result.clone()).await?;
        }
        Ok(probe_result)
    }

    /// Checks a new connection and probes it. `None` if the probe is skipped.
    async fn probe_unless_skipped(
        &self,
        permit: &Permit,
        connection: &Connection,
        skip: bool,
    ) -> Result<Option<ProbeResult>> {
        self.ports.probe.check(connection)?;
        if skip {
            return Ok(None);
        }
        let Probed { at, result, .. } =
            self.ports.probe.probe(permit, ProbeTarget::New(connection.clone())).await?;
        Ok(Some(ProbeResult { at, result: Ok(result?) }))
    }

    async fn test_connection(&self, permit: &Permit, target: ProbeTarget) -> Result<ClusterTest> {
        let report = self.ports.probe.probe(permit, target.clone()).await?.result?;
        let permissions = self.ports.probe.permissions(permit, target).await?;
        Ok(ClusterTest {
            version: report.version,
            latency_ms: millis(report.latency),
            node_count: report.nodes.map(|nodes| nodes.total),
            identity: report.identity,
            permissions,
        })
    }

    /// The new connection of a registered cluster, or `None` if the request has none or repeats the displayed server
    /// and type. A token without a server is for the stored server, whose CA is kept unless another is sent.
    async fn updated_connection(
        &self,
        granted: &Granted,
        id: ClusterId,
        mut input: CredentialInput,
    ) -> Result<Option<(AuthType, Connection)>> {
        if !input.is_given() {
            return Ok(None);
        }
        if self.ports.registry.find(id).await?.is_some_and(|shown| input.equals_displayed(&shown)) {
            return Ok(None);
        }
        if input.auth_type != Some(AuthType::Token) || input.api_server.is_some() {
            return Ok(Some(self.connection(granted, input).await?));
        }
        let Some(stored) = self.ports.connections.connection(id).await? else {
            return self.gate.refuse_granted(granted, not_found(id)).await;
        };
        let stored = stored.connection;
        input.api_server = Some(stored.server);
        input.ca_certificate = input.ca_certificate.or(stored.ca);
        let (auth_type, mut connection) = self.connection(granted, input).await?;
        connection.tls_server_name = stored.tls_server_name;
        connection.insecure_skip_tls_verify |= stored.insecure_skip_tls_verify;
        Ok(Some((auth_type, connection)))
    }

    /// Parses a connection for a caller whose role was checked. The egress check of its address follows when the
    /// operation begins, so that a refusal leaves an audit row.
    async fn connection(&self, granted: &Granted, input: CredentialInput) -> Result<(AuthType, Connection)> {
        let required = |field: &str| Error::invalid(field, Reason::Required);
        let auth_type = input.check_fields(self.allow_insecure_tls)?;
        let mut connection = match auth_type {
            AuthType::Token => Connection {
                server: input.api_server.ok_or_else(|| required("api_server"))?,
                ca: input.ca_certificate,
                tls_server_name: None,
                insecure_skip_tls_verify: false,
                credential: Credential::Token(check_token(
                    "token",
                    &input.token.ok_or_else(|| required("token"))?,
                )?),
            },
            AuthType::Kubeconfig => {
                let CredentialInput { kubeconfig, context, api_server, .. } = input;
                let text = kubeconfig.ok_or_else(|| required("kubeconfig"))?;
                let read =
                    move || Kubeconfig::connection(text.expose_secret(), context.as_deref(), api_server);
                computed(self.gate.spawner(), read).await?
            }
        };
        let insecure = input.insecure_skip_tls_verify || connection.insecure_skip_tls_verify;
        if insecure && !self.allow_insecure_tls {
            return Err(Error::invalid("insecure_skip_tls_verify", Reason::NotAllowed));
        }
        // separate rule: only super admins have the right to manage users
        let manages_users =
            granted.caller().rights.extent(RightVerb::Update, &RightResource::Users) != Extent::None;
        if insecure && !manages_users {
            let missing = MissingRight {
                verb: RightVerb::Update.to_string(),
                resource: RightResource::Users.to_string(),
                cluster_id: None,
                namespace: None,
            };
            let refusal = Error::role_too_low(Role::SuperAdmin).missing(missing);
            return self.gate.refuse_granted(granted, refusal).await;
        }
        connection.insecure_skip_tls_verify = insecure;
        Ok((auth_type, connection))
    }
}

fn check_description(text: &str) -> Result<()> {
    if text.chars().count() > 1024 {
        Err(Error::invalid("description", Reason::TooLong))
    } else if text.chars().any(|c| is_invisible(c) || (c.is_control() && c != '\n' && c != '\t')) {
        Err(Error::invalid("description", Reason::Malformed))
    } else {
        Ok(())
    }
}

fn not_found(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
