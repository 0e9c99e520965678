//! [`ClusterProbe`]: how a cluster is, and what its credential may do. Always over new connections: what is tested is
//! the connection.

use async_trait::async_trait;
use futures_util::try_join;
use http::StatusCode;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    cluster::{CertificateExpiry, ClusterProbe, Connection, Credential, NodeCount, Permission, Report},
    error::Reason,
    kind::Kind,
    name::NamespaceScope,
    object::parse,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    KubeClusters,
    error::Failure,
    list, permissions,
    request::{Call, SELF_SUBJECT},
    tls,
    visit::Visit,
};

/// Who an API server says we are when it did not accept our client certificate.
const ANONYMOUS: &str = "system:anonymous";

#[async_trait]
impl ClusterProbe for KubeClusters {
    fn check(&self, connection: &Connection) -> Result<()> {
        if !self.clients.guard.rules.allows_host(connection.server.as_str()) {
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

    async fn probe(&self, permit: &Permit, connection: &Connection) -> Result<Report> {
        let visit = self.first_visit(permit, connection)?;
        let started = self.clock.monotonic();
        let version = version(&visit).await?;
        let latency = self.clock.monotonic().saturating_sub(started);
        let (identity, nodes, pods, namespaces) = try_join!(
            identity(&visit),
            readable(nodes(&visit)),
            readable(list::count(&visit, Kind::Pod)),
            readable(list::count(&visit, Kind::Namespace)),
        )?;
        let certificates = certificates(&visit, connection);
        Ok(Report { version, latency, identity, nodes, pods, namespaces, certificates })
    }

    async fn permissions(&self, permit: &Permit, connection: &Connection) -> Result<Vec<Permission>> {
        permissions::ask(&self.first_visit(permit, connection)?).await
    }
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
async fn version(visit: &Visit<'_>) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let Version { git_version } = visit.read(&Call::version()?).await?.json()?;
    let looks_right =
        git_version.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && git_version.len() <= 64
            && git_version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b));
    if looks_right { Ok(git_version) } else { Err(Error::new(Cause::UnexpectedAnswer)) }
}

/// Who the cluster says we are; none where it cannot say (before Kubernetes 1.28).
async fn identity(visit: &Visit<'_>) -> Result<Option<String>> {
    let call = Call::review(SELF_SUBJECT, &SelfSubjectReview::default())?;
    let review: SelfSubjectReview = match visit.ask(&call).await {
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
        Some(name) if visit.stack().is_quoted_by(&name) => Err(Error::new(Cause::UnexpectedAnswer)),
        username => Ok(username.map(|name| pilothouse_core::error::clean_message(&name))),
    }
}

async fn nodes(visit: &Visit<'_>) -> Result<NodeCount, Failure> {
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
    let ready = list::all(visit, Kind::Node, &NamespaceScope::All, &everything, is_ready).await?.kept;
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(NodeCount { ready: count(ready.iter().filter(|ready| **ready).count()), total: count(ready.len()) })
}

/// The certificates on the way, and when they end.
fn certificates(visit: &Visit<'_>, connection: &Connection) -> Vec<CertificateExpiry> {
    let client = match &connection.credential {
        Credential::Certificate { chain, .. } => tls::expiry_of_first(chain),
        Credential::Token(_) => None,
    };
    let known = [
        ("api_server", visit.stack().server_certificate_expiry()),
        ("client", client),
        ("ca", connection.ca.as_deref().and_then(tls::first_expiry)),
    ];
    let expiry =
        |(what, end): (&str, Option<_>)| Some(CertificateExpiry { what: what.to_owned(), expires_at: end? });
    known.into_iter().filter_map(expiry).collect()
}
