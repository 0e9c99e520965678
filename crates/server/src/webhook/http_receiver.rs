//! Receiver over HTTP: one signed POST per batch. The URL is used as the operator sets it: no redirects are followed,
//! and no proxy or environment variable applies.

use std::{
    error::Error as StdError,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use pilothouse_core::clock::Clock;
use pilothouse_crypto::WebhookKey;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{DELIVERY_TIMEOUT, DeliveryError, Receiver};
use crate::Fatal;

/// Settings of the webhook.
#[derive(Debug)]
pub(crate) struct WebhookSettings {
    pub(crate) url: Uri,
    pub(crate) key: WebhookKey,
    pub(crate) ca_file: Option<PathBuf>,
}

impl WebhookSettings {
    /// Checks the file of CA certificates.
    ///
    /// # Errors
    /// `Fatal::Setting` when the file is not usable.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        roots(self.ca_file.as_deref()).map(drop)
    }
}

/// The receiver at the URL of the settings.
pub(crate) struct HttpReceiver {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    settings: WebhookSettings,
    clock: Arc<dyn Clock>,
}

impl HttpReceiver {
    /// Creates the client without connecting.
    ///
    /// # Errors
    /// `Fatal::Setting` when the file of CA certificates is not usable.
    pub(crate) fn new(settings: WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, Fatal> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Fatal::Setting(format!(
                    "TLS cannot be set up ({error}): report this as a defect of Pilothouse"
                ))
            })?
            .with_root_certificates(roots(settings.ca_file.as_deref())?)
            .with_no_client_auth();
        // the settings allow plain HTTP on loopback addresses only
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, settings, clock })
    }
}

#[async_trait]
impl Receiver for HttpReceiver {
    async fn send(&self, lines: Bytes) -> Result<(), DeliveryError> {
        let second = self.clock.now().as_second();
        let signature = format!("t={second},v1={}", self.settings.key.sign(second, &lines));
        let request = Request::post(self.settings.url.clone())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::USER_AGENT, concat!("pilothouse/", env!("CARGO_PKG_VERSION")))
            .header("pilothouse-signature", HeaderValue::try_from(signature).expect("ASCII signature"))
            .body(Full::new(lines))
            .expect("URL validated by the settings");
        let response = tokio::time::timeout(DELIVERY_TIMEOUT, self.client.request(request)).await;
        let response = response.map_err(|_| DeliveryError::Timeout)?;
        let status = response.map_err(|error| DeliveryError::Connection(sources(&error)))?.status();
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Refused(status)) }
    }
}

/// Root certificates: those of the file, or the system's without one.
fn roots(file: Option<&Path>) -> Result<RootCertStore, Fatal> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let unusable = |why: &str| {
        Fatal::Setting(format!(
            "the file {} of audit_webhook_ca_file {why}: use a PEM file of CA certificates",
            path.display()
        ))
    };
    let pem = fs::read(path).map_err(|error| unusable(&format!("cannot be read ({error})")))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable("is not valid PEM"))?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(unusable("contains no certificate")),
        _ => Ok(roots),
    }
}

/// The message of an error and of its sources, in one line.
fn sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
