//! Audit webhook: delivers every entry and checkpoint of the audit trail, in order, at least once.
//!
//! The delivery cursor is a row of the database: delivery resumes there after a restart, and only one replica delivers
//! at a time. The URL is used as the operator sets it: no redirects are followed, and no proxy or environment variable
//! applies.

use std::{
    error::Error as StdError,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use pilothouse_core::{
    Result,
    audit::Batch,
    clock::{Clock, Rng},
};
use pilothouse_crypto::WebhookKey;
use pilothouse_store::Store;
use prometheus::IntCounter;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_util::sync::CancellationToken;

use crate::Fatal;

/// Key of the cursor's row. There is one webhook; its receiver can forward entries to others.
pub(crate) const RECEIVER: &str = "webhook";

/// Interval of polling for new entries.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of one delivery.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Backoff after the first failure; each further failure doubles it.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Upper bound of the backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

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
    /// `Fatal::Setting` when it is not usable.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        roots(self.ca_file.as_deref()).map(drop)
    }
}

/// The delivery task of the audit webhook.
pub(crate) struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    settings: WebhookSettings,
    store: Store,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    failures: IntCounter,
}

/// Error of a delivery.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("{0}")]
    Database(#[from] pilothouse_core::Error),
    #[error("no response within {DELIVERY_TIMEOUT:?}")]
    Timeout,
    #[error("the response was {0}")]
    Refused(StatusCode),
    #[error("the connection failed: {0}")]
    Connection(String),
}

impl Webhook {
    /// Creates the task without connecting.
    ///
    /// # Errors
    /// `Fatal::Setting` when the file of CA certificates is not usable.
    pub(crate) fn new(
        settings: WebhookSettings,
        store: Store,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        failures: IntCounter,
    ) -> Result<Self, Fatal> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Fatal::Setting(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots(settings.ca_file.as_deref())?)
            .with_no_client_auth();
        // the settings allow plain HTTP on loopback addresses only
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, settings, store, clock, rng, failures })
    }

    /// Delivers new entries until `stop`. Logs the first of consecutive failures.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut failed = 0;
        loop {
            let pause = match self.deliver().await {
                Ok(more) => {
                    if failed > 0 {
                        tracing::info!("the audit webhook accepts deliveries again");
                    }
                    failed = 0;
                    if more { Duration::ZERO } else { POLL_INTERVAL }
                }
                Err(error) => {
                    if failed == 0 {
                        tracing::error!(%error, "the delivery to the audit webhook failed and will be retried");
                    }
                    self.failures.inc();
                    failed += 1;
                    self.backoff(failed)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Delivers one batch if this replica holds the lease of the cursor. Returns whether more entries may follow.
    async fn deliver(&self) -> Result<bool, DeliveryError> {
        let Some(cursor) = self.store.claim_delivery(RECEIVER, self.clock.now()).await? else {
            return Ok(false);
        };
        let Some(batch) = Batch::after(&self.store, cursor).await? else { return Ok(false) };
        let Batch { lines, cursor } = batch;
        self.send(lines.into()).await?;
        Ok(self.store.save_cursor(RECEIVER, cursor).await?)
    }

    /// Sends one signed request with these lines.
    async fn send(&self, body: Bytes) -> Result<(), DeliveryError> {
        let second = self.clock.now().as_second();
        let signature = format!("t={second},v1={}", self.settings.key.sign(second, &body));
        let request = Request::post(self.settings.url.clone())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::USER_AGENT, concat!("pilothouse/", env!("CARGO_PKG_VERSION")))
            .header("pilothouse-signature", HeaderValue::try_from(signature).expect("ASCII signature"))
            .body(Full::new(body))
            .expect("URL validated by the settings");
        let response = tokio::time::timeout(DELIVERY_TIMEOUT, self.client.request(request)).await;
        let response = response.map_err(|_| DeliveryError::Timeout)?;
        let status = response.map_err(|error| DeliveryError::Connection(sources(&error)))?.status();
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Refused(status)) }
    }

    /// Exponential backoff with jitter: a random duration in the upper half, so that replicas and installs do not retry
    /// at the same time.
    fn backoff(&self, failed: u32) -> Duration {
        let max = INITIAL_BACKOFF.saturating_mul(1 << (failed - 1).min(10)).min(MAX_BACKOFF);
        let mut random = [0];
        self.rng.fill(&mut random);
        max / 2 + max.mul_f64(f64::from(random[0]) / 510.0)
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
        Fatal::Setting(format!("the certificates of audit_webhook_ca_file, {}, {why}", path.display()))
    };
    let pem = fs::read(path).map_err(|error| unusable(&format!("cannot be read: {error}")))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable("are not valid PEM"))?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(unusable("are none")),
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
