//! TLS towards identity providers.

use std::sync::Arc;

use pilothouse_core::{Error, Result};
use pilothouse_dial::tls::{platform_roots, provider, roots};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// TLS that trusts the roots in a PEM text, or those of the platform.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl Tls {
    /// # Errors
    /// `TlsUntrusted` when the text has no certificate.
    pub(crate) fn new(ca: Option<&str>) -> Result<Self> {
        let roots = ca.map_or_else(|| Ok(platform_roots()), roots)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|_| Error::internal("the TLS provider lacks the default versions"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Connects to a host, which the certificate must name. `None` if the handshake fails.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> Option<TlsStream<S>> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
        self.0.connect(name, stream).await.ok()
    }
}
