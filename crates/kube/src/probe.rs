//! [`ClusterProbe`]: health of a cluster and permissions of its credential. Always over new connections, because
//! connecting is part of the test. A registered cluster runs one probe at a time, within the limits of its breaker;
//! connection tests of unregistered clusters have their own limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::try_join;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    cluster::{
        CertificateExpiry, ClusterProbe, NodeCount, Permission, ProbeReason, ProbeTarget, Probed, Report,
    },
    connection::{Connection, Credential},
    error::Reason,
    ids::ClusterId,
    kind::Kind,
    namespaces::NamespaceScope,
    object::parse,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    KubeClusters,
    apiserver_messages::{self, ANONYMOUS_USER},
    client::ClusterClient,
    error::Failure,
    list, permissions,
    request::{Call, SELF_SUBJECT},
    single_flight::{self, SingleFlight},
    test_limiter::{TestLimiter, TestSlot},
    tls,
    transport::TransportContext,
};

#[async_trait]
impl ClusterProbe for KubeClusters {
    fn check(&self, connection: &Connection) -> Result<()> {
        if !self.pool.guard.rules.allows_host(connection.server.as_str()) {
            return Err(Error::new(Cause::EgressDenied));
        }
        let malformed = |field: &str| Error::invalid(field, Reason::Malformed);
        tls::server_name(connection).map_err(|_| malformed("kubeconfig.tls-server-name"))?;
        match tls::config(connection, tls::ServerCertExpiry::default()) {
            Err(error) if error.cause == Cause::TlsUntrusted && connection.ca.is_some() => {
                Err(malformed("ca_certificate"))
            }
            Err(error) if error.cause == Cause::CredentialRejected => {
                Err(malformed("kubeconfig.client-certificate-data"))
            }
            // a platform without roots is a fault of this machine; it is reported when the cluster is used
            _ => Ok(()),
        }
    }

    async fn probe(&self, permit: &Permit, target: ProbeTarget) -> Result<Probed> {
        let (stored, reason) = match target {
            ProbeTarget::Registered(stored, reason) => (stored, reason),
            ProbeTarget::New(connection) => {
                let result = async {
                    let (_slot, client) = self.test_client(permit, &connection).await?;
                    report(&client, &connection).await
                };
                let ProbeOutcome { at, result, .. } = self.outcome(result.await)?;
                return Ok(Probed { at, record: true, result });
            }
        };
        let context = self.pool.context(permit.cluster()?, stored.version)?;
        let age = if reason == ProbeReason::Test { Duration::ZERO } else { single_flight::MAX_RESULT_AGE };
        let key = (permit.cluster()?, stored.version);
        let start = || {
            self.check_circuit(permit, &context, reason)?;
            let (this, permit) = (self.clone(), permit.clone());
            Ok(async move {
                let connection = &stored.connection;
                let result =
                    async { report(&this.probe_client(&permit, connection, context)?, connection).await };
                this.outcome(result.await)
            })
        };
        let ProbeOutcome { at, result, stored } = self.probes.reports.join(key, age, start)?.await?;
        // the result of a test is not recorded
        let record = reason != ProbeReason::Test && !stored.swap(true, Ordering::Relaxed);
        Ok(Probed { at, record, result })
    }

    async fn permissions(&self, permit: &Permit, target: ProbeTarget) -> Result<Vec<Permission>> {
        let (stored, reason) = match target {
            ProbeTarget::Registered(stored, reason) => (stored, reason),
            ProbeTarget::New(connection) => {
                let (_slot, client) = self.test_client(permit, &connection).await?;
                return permissions::check(&client).await;
            }
        };
        let context = self.pool.context(permit.cluster()?, stored.version)?;
        let start = || {
            self.check_circuit(permit, &context, reason)?;
            let (this, permit) = (self.clone(), permit.clone());
            Ok(
                async move { permissions::check(&this.probe_client(&permit, &stored.connection, context)?).await },
            )
        };
        let key = (permit.cluster()?, stored.version);
        self.probes.permissions.join(key, Duration::ZERO, start)?.await
    }

    async fn connection_changed(&self, id: ClusterId) {
        self.pool.recheck(id).await;
        if let Some(cache) = &self.cache {
            cache.drop_closed();
        }
    }
}

/// Result of a probe, shared by all its callers.
#[derive(Clone)]
pub(crate) struct ProbeOutcome {
    at: Timestamp,
    result: Result<Report>,
    /// Whether one of the callers records the result.
    stored: Arc<AtomicBool>,
}

/// A registered cluster and the version of its connection.
type ClusterVersion = (ClusterId, i64);

/// Running probes, permission checks and connection tests.
pub(crate) struct Probes {
    reports: SingleFlight<ClusterVersion, ProbeOutcome>,
    permissions: SingleFlight<ClusterVersion, Vec<Permission>>,
    tests: TestLimiter,
}

impl Probes {
    pub(crate) fn new(runtime: &Handle) -> Self {
        // no limit: at most one flight of each kind per cluster
        let (reports, permissions) =
            (SingleFlight::new(usize::MAX, runtime.clone()), SingleFlight::new(usize::MAX, runtime.clone()));
        Self { reports, permissions, tests: TestLimiter::default() }
    }
}

impl KubeClusters {
    /// Refuses callers while the circuit is open, except the scheduled probe, which finds out whether the cluster
    /// responds again.
    fn check_circuit(&self, permit: &Permit, context: &TransportContext, reason: ProbeReason) -> Result<()> {
        if reason == ProbeReason::Scheduled {
            return Ok(());
        }
        context.breaker().check().inspect_err(|error| {
            self.observer.refused(permit.cluster().ok(), error.cause);
        })
    }

    /// A probe's client, over new connections.
    fn probe_client<'a>(
        &self,
        permit: &'a Permit,
        connection: &Connection,
        context: TransportContext,
    ) -> Result<ClusterClient<'a>> {
        let transport = Arc::new(self.pool.probe_transport(connection, context)?);
        ClusterClient::probe(transport, permit, Instant::now() + self.deadlines.test, &self.observer)
    }

    /// A slot and a client for the connection test of an unregistered cluster.
    async fn test_client<'a>(
        &self,
        permit: &'a Permit,
        connection: &Connection,
    ) -> Result<(TestSlot, ClusterClient<'a>)> {
        let deadline = Instant::now() + self.deadlines.test;
        let slot = self.probes.tests.enter(connection.server.as_str(), deadline).await?;
        let transport = Arc::new(self.pool.test_transport(connection)?);
        Ok((slot, ClusterClient::probe(transport, permit, deadline, &self.observer)?))
    }

    /// The result of a probe; an error if no request was sent because of overload.
    fn outcome(&self, result: Result<Report>) -> Result<ProbeOutcome> {
        match result {
            Err(error) if error.cause == Cause::Overloaded => Err(error),
            result => Ok(ProbeOutcome { at: self.now(), result, stored: Arc::default() }),
        }
    }
}

async fn report(client: &ClusterClient<'_>, connection: &Connection) -> Result<Report> {
    let started = Instant::now();
    let version = version(client).await?;
    let latency = started.elapsed();
    let (identity, nodes, pods, namespaces) = try_join!(
        identity(client),
        readable(nodes(client)),
        readable(list::count(client, Kind::Pod)),
        readable(list::count(client, Kind::Namespace)),
    )?;
    let certificates = certificates(client, connection);
    Ok(Report { version, latency, identity, nodes, pods, namespaces, certificates })
}

/// The result of a count; none when the credential may not read the kind.
async fn readable<T>(count: impl Future<Output = Result<T, Failure>>) -> Result<Option<T>> {
    match count.await {
        Ok(count) => Ok(Some(count)),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The server version, if it is well-formed: `v1.37.2`, `v1.31.1-eks-1b3e656`, `v1.30.4+k3s1`.
async fn version(client: &ClusterClient<'_>) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let Version { git_version } = client.read(&Call::version()?).await?.json()?;
    let is_well_formed =
        git_version.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && git_version.len() <= 64
            && git_version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b));
    if is_well_formed { Ok(git_version) } else { Err(Error::new(Cause::UnexpectedAnswer)) }
}

/// User name of the credential according to the cluster; none where the API is missing (before Kubernetes 1.28).
async fn identity(client: &ClusterClient<'_>) -> Result<Option<String>> {
    let call = Call::review(SELF_SUBJECT, &SelfSubjectReview::default())?;
    let review: SelfSubjectReview = match client.send_review(&call).await {
        Ok(response) => response.json()?,
        // every authenticated user may send this request
        Err(refused)
            if refused.is(StatusCode::FORBIDDEN)
                && apiserver_messages::refuses_anonymous_user(&refused.cluster_message) =>
        {
            return Err(Error::new(Cause::CredentialRejected));
        }
        Err(refused) if refused.is(StatusCode::FORBIDDEN) || refused.is(StatusCode::NOT_FOUND) => {
            return Ok(None);
        }
        Err(failure) => return Err(failure.into()),
    };
    let username = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    match username {
        Some(name) if name == ANONYMOUS_USER => Err(Error::new(Cause::CredentialRejected)),
        Some(name) if client.transport().echoes_token(&name) => Err(Error::new(Cause::UnexpectedAnswer)),
        username => Ok(username.map(|name| pilothouse_core::error::clean_message(&name))),
    }
}

async fn nodes(client: &ClusterClient<'_>) -> Result<NodeCount, Failure> {
    #[derive(Deserialize)]
    struct Node {
        #[serde(default)]
        status: Status,
    }
    #[derive(Default, Deserialize)]
    struct Status {
        conditions: Option<Vec<Condition>>,
    }
    #[derive(Deserialize)]
    struct Condition {
        r#type: String,
        status: String,
    }
    let is_ready = |node: &RawValue| {
        let conditions = parse::<Node>(node)?.status.conditions.unwrap_or_default();
        Ok(Some(conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")))
    };
    let all_nodes = ListParams::default();
    let ready = list::all(client, Kind::Node, &NamespaceScope::All, &all_nodes, is_ready).await?.objects;
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(NodeCount { ready: count(ready.iter().filter(|ready| **ready).count()), total: count(ready.len()) })
}

/// The certificates of the connection and their expiry.
fn certificates(client: &ClusterClient<'_>, connection: &Connection) -> Vec<CertificateExpiry> {
    let client_certificate = match &connection.credential {
        Credential::Certificate { chain, .. } => tls::expiry_of_first(chain),
        Credential::Token(_) => None,
    };
    let certificates = [
        ("api_server", client.transport().server_certificate_expiry()),
        ("client", client_certificate),
        ("ca", connection.ca.as_deref().and_then(tls::earliest_expiry)),
    ];
    let expiry =
        |(what, end): (&str, Option<_>)| Some(CertificateExpiry { what: what.to_owned(), expires_at: end? });
    certificates.into_iter().filter_map(expiry).collect()
}
