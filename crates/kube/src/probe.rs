//! [`ClusterProbe`]: how a cluster is, and what its credential may do. Always over new connections: what is tested is
//! the connection. A registered cluster is probed once at a time, within the places of its breaker; connections that are
//! not registered have places of their own.

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
        CertificateExpiry, ClusterId, ClusterProbe, Connection, Credential, NodeCount, Permission,
        ProbeReason, ProbeTarget, Probed, Report, StoredConnection,
    },
    error::Reason,
    kind::Kind,
    name::NamespaceScope,
    object::parse,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    KubeClusters,
    client::ClusterClient,
    error::Failure,
    list, permissions,
    request::{Call, SELF_SUBJECT},
    single_flight::{self, SingleFlight},
    test_limiter::{TestLimiter, TestSlot},
    tls,
    transport::TransportContext,
};

/// Who an API server says we are when it did not accept our client certificate.
const ANONYMOUS: &str = "system:anonymous";

#[async_trait]
impl ClusterProbe for KubeClusters {
    fn check(&self, connection: &Connection) -> Result<()> {
        if !self.pool.guard.rules.allows_host(connection.server.as_str()) {
            return Err(Error::new(Cause::EgressDenied));
        }
        let malformed = |field: &str| Error::invalid(field, Reason::Malformed);
        tls::server_name(connection).map_err(|_| malformed("kubeconfig.tls-server-name"))?;
        match tls::config(connection, tls::Shown::default()) {
            Err(error) if error.cause == Cause::TlsUntrusted && connection.ca.is_some() => {
                Err(malformed("ca_certificate"))
            }
            Err(error) if error.cause == Cause::CredentialRejected => {
                Err(malformed("kubeconfig.client-certificate-data"))
            }
            // nobody to trust yet is the machine's fault, and is told when it matters
            _ => Ok(()),
        }
    }

    async fn probe(&self, permit: &Permit, target: ProbeTarget) -> Result<Probed> {
        let (stored, reason) = match target {
            ProbeTarget::Registered(stored, reason) => (stored, reason),
            ProbeTarget::New(connection) => {
                let result = async {
                    let (_place, client) = self.trial(permit, &connection).await?;
                    report(&client, &connection).await
                };
                let Found { at, result, .. } = self.found(result.await)?;
                return Ok(Probed { at, record: true, result });
            }
        };
        let common = match self.context(permit, &stored) {
            Ok(common) => common,
            // what is wrong with the connection itself is what the probe finds
            Err(error) if matches!(error.cause, Cause::TlsUntrusted | Cause::CredentialRejected) => {
                return Ok(Probed { at: self.now(), record: true, result: Err(error) });
            }
            Err(error) => return Err(error),
        };
        let age = if reason == ProbeReason::Test { Duration::ZERO } else { single_flight::KEPT };
        let key = (permit.cluster()?, stored.version);
        let begin = || {
            self.check_circuit(permit, &common, reason)?;
            let (this, permit) = (self.clone(), permit.clone());
            Ok(async move {
                let connection = &stored.connection;
                let result =
                    async { report(&this.visit_to_probe(&permit, connection, common)?, connection).await };
                this.found(result.await)
            })
        };
        let Found { at, result, stored } = self.probes.reports.join(key, age, begin)?.await?;
        // a test keeps nothing of what it finds
        let record = reason != ProbeReason::Test && !stored.swap(true, Ordering::Relaxed);
        Ok(Probed { at, record, result })
    }

    async fn permissions(&self, permit: &Permit, target: ProbeTarget) -> Result<Vec<Permission>> {
        let (stored, reason) = match target {
            ProbeTarget::Registered(stored, reason) => (stored, reason),
            ProbeTarget::New(connection) => {
                let (_place, client) = self.trial(permit, &connection).await?;
                return permissions::ask(&client).await;
            }
        };
        let common = self.context(permit, &stored)?;
        let begin = || {
            self.check_circuit(permit, &common, reason)?;
            let (this, permit) = (self.clone(), permit.clone());
            Ok(
                async move { permissions::ask(&this.visit_to_probe(&permit, &stored.connection, common)?).await },
            )
        };
        let key = (permit.cluster()?, stored.version);
        self.probes.permissions.join(key, Duration::ZERO, begin)?.await
    }

    async fn connection_changed(&self, id: ClusterId) {
        self.pool.confirm(id).await;
        if let Some(cache) = &self.cache {
            cache.drop_closed();
        }
    }
}

/// What a probe found, for all who share it.
#[derive(Clone)]
pub(crate) struct Found {
    at: Timestamp,
    result: Result<Report>,
    /// Whether one of them stores it.
    stored: Arc<AtomicBool>,
}

/// A registered cluster, by one version of its connection.
type Registered = (ClusterId, i64);

/// The probes that are under way.
pub(crate) struct Probes {
    reports: SingleFlight<Registered, Found>,
    permissions: SingleFlight<Registered, Vec<Permission>>,
    trials: TestLimiter,
}

impl Probes {
    pub(crate) fn new(runtime: &Handle) -> Self {
        // at most one of each for every cluster
        let (reports, permissions) =
            (SingleFlight::new(usize::MAX, runtime.clone()), SingleFlight::new(usize::MAX, runtime.clone()));
        Self { reports, permissions, trials: TestLimiter::default() }
    }
}

impl KubeClusters {
    /// What the probes of a registered cluster share with its other calls.
    ///
    /// # Errors
    /// `NotFound` or `Unreachable` when the connection was removed or replaced meanwhile; as [`Transport::new`].
    ///
    /// [`Transport::new`]: crate::stack::Stack::new
    fn context(&self, permit: &Permit, stored: &StoredConnection) -> Result<TransportContext> {
        let common = self.pool.registered(permit.cluster()?, stored)?.context().clone();
        // an older credential is never used again
        if common.version() == stored.version { Ok(common) } else { Err(Error::new(Cause::Unreachable)) }
    }

    /// Refuses callers while the circuit is open; the prober finds out whether the cluster answers again.
    fn check_circuit(&self, permit: &Permit, common: &TransportContext, reason: ProbeReason) -> Result<()> {
        if reason == ProbeReason::Scheduled {
            return Ok(());
        }
        common.breaker().check().inspect_err(|error| {
            self.observer.refused(permit.cluster().ok(), error.cause);
        })
    }

    /// A visit over new connections: what is tested is the connection.
    fn visit_to_probe<'a>(
        &self,
        permit: &'a Permit,
        connection: &Connection,
        common: TransportContext,
    ) -> Result<ClusterClient<'a>> {
        let transport = Arc::new(self.pool.probing(connection, common)?);
        ClusterClient::probe(transport, permit, Instant::now() + self.deadlines.test, &self.observer)
    }

    /// A place and a visit for the test of a connection that is not registered.
    async fn trial<'a>(
        &self,
        permit: &'a Permit,
        connection: &Connection,
    ) -> Result<(TestSlot, ClusterClient<'a>)> {
        let deadline = Instant::now() + self.deadlines.test;
        let place = self.probes.trials.enter(connection.server.as_str(), deadline).await?;
        let transport = Arc::new(self.pool.trying(connection)?);
        Ok((place, ClusterClient::probe(transport, permit, deadline, &self.observer)?))
    }

    /// What became of a probe, unless the cluster was not asked.
    fn found(&self, result: Result<Report>) -> Result<Found> {
        match result {
            Err(error) if error.cause == Cause::Overloaded => Err(error),
            result => Ok(Found { at: self.now(), result, stored: Arc::default() }),
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

/// A count, or none where we may not read.
async fn readable<T>(count: impl Future<Output = Result<T, Failure>>) -> Result<Option<T>> {
    match count.await {
        Ok(count) => Ok(Some(count)),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// The version, if it looks like one: `v1.37.2`, `v1.31.1-eks-1b3e656`, `v1.30.4+k3s1`.
async fn version(client: &ClusterClient<'_>) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let Version { git_version } = client.read(&Call::version()?).await?.json()?;
    let looks_right =
        git_version.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && git_version.len() <= 64
            && git_version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b));
    if looks_right { Ok(git_version) } else { Err(Error::new(Cause::UnexpectedAnswer)) }
}

/// Who the cluster says we are; none where it cannot say (before Kubernetes 1.28).
async fn identity(client: &ClusterClient<'_>) -> Result<Option<String>> {
    let call = Call::review(SELF_SUBJECT, &SelfSubjectReview::default())?;
    let review: SelfSubjectReview = match client.ask(&call).await {
        Ok(answer) => answer.json()?,
        // everyone who is somebody may ask this
        Err(refused) if refused.is(StatusCode::FORBIDDEN) && refused.said.contains(ANONYMOUS) => {
            return Err(Error::new(Cause::CredentialRejected));
        }
        Err(refused) if refused.is(StatusCode::FORBIDDEN) || refused.is(StatusCode::NOT_FOUND) => {
            return Ok(None);
        }
        Err(failure) => return Err(failure.into()),
    };
    let username = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    match username {
        Some(name) if name == ANONYMOUS => Err(Error::new(Cause::CredentialRejected)),
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
    let everything = ListParams::default();
    let ready = list::all(client, Kind::Node, &NamespaceScope::All, &everything, is_ready).await?.objects;
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(NodeCount { ready: count(ready.iter().filter(|ready| **ready).count()), total: count(ready.len()) })
}

/// The certificates on the way, and when they end.
fn certificates(client: &ClusterClient<'_>, connection: &Connection) -> Vec<CertificateExpiry> {
    let client_certificate = match &connection.credential {
        Credential::Certificate { chain, .. } => tls::expiry_of_first(chain),
        Credential::Token(_) => None,
    };
    let known = [
        ("api_server", client.transport().server_certificate_expiry()),
        ("client", client_certificate),
        ("ca", connection.ca.as_deref().and_then(tls::first_expiry)),
    ];
    let expiry =
        |(what, end): (&str, Option<_>)| Some(CertificateExpiry { what: what.to_owned(), expires_at: end? });
    known.into_iter().filter_map(expiry).collect()
}
