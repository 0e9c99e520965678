//! Tells a webhook of the audit trail as it grows: every entry and checkpoint, in order, at least once.
//!
//! How far it has been told is a row of the database, so a start goes on where the last one ended, and of several replicas one
//! tells at a time. Where to, the operator says: an address that is taken as it is, without redirects, proxies or variables
//! of the environment.

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

/// The receiver's row. There is one webhook: who receives can send on.
pub(crate) const RECEIVER: &str = "webhook";

/// How often to look for what is new.
const LOOK: Duration = Duration::from_secs(1);
/// How long a delivery may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What an operator sets.
#[derive(Debug)]
pub(crate) struct WebhookSettings {
    pub(crate) url: Uri,
    pub(crate) key: WebhookKey,
    pub(crate) ca_file: Option<PathBuf>,
}

impl WebhookSettings {
    /// Whether its file of certificates can be used.
    ///
    /// # Errors
    /// `Fatal::Setting` when not.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        roots(self.ca_file.as_deref()).map(drop)
    }
}

/// The webhook, and what it is told from.
pub(crate) struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    settings: WebhookSettings,
    store: Store,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    failures: IntCounter,
}

/// Why something was not delivered.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error("{0}")]
    Database(#[from] pilothouse_core::Error),
    #[error("no response within {DEADLINE:?}")]
    TooSlow,
    #[error("the response was {0}")]
    Refused(StatusCode),
    #[error("the connection failed: {0}")]
    Connection(String),
}

impl Webhook {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// `Fatal::Setting` when the file of certificates cannot be used.
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
        // that an address may be plain HTTP on loopback only, the settings have seen to
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, settings, store, clock, rng, failures })
    }

    /// Tells what there is to tell, until `stop`. A failure is told to the log when it begins.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut failed = 0;
        loop {
            let pause = match self.deliver().await {
                Ok(more) => {
                    if failed > 0 {
                        tracing::info!("the audit webhook accepts deliveries again");
                    }
                    failed = 0;
                    if more { Duration::ZERO } else { LOOK }
                }
                Err(error) => {
                    if failed == 0 {
                        tracing::error!(%error, "the delivery to the audit webhook failed and will be retried");
                    }
                    self.failures.inc();
                    failed += 1;
                    self.pause(failed)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Delivers one batch, if it is ours to deliver; whether there may be more.
    async fn deliver(&self) -> Result<bool, Undelivered> {
        let Some(told) = self.store.claim_delivery(RECEIVER, self.clock.now()).await? else {
            return Ok(false);
        };
        let Some(batch) = Batch::after(&self.store, told).await? else { return Ok(false) };
        let Batch { lines, told } = batch;
        self.send(lines.into()).await?;
        Ok(self.store.save_cursor(RECEIVER, told).await?)
    }

    /// Sends these lines once.
    async fn send(&self, body: Bytes) -> Result<(), Undelivered> {
        let second = self.clock.now().as_second();
        let signature = format!("t={second},v1={}", self.settings.key.sign(second, &body));
        let request = Request::post(self.settings.url.clone())
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::USER_AGENT, concat!("pilothouse/", env!("CARGO_PKG_VERSION")))
            .header("pilothouse-signature", HeaderValue::try_from(signature).expect("digits and letters"))
            .body(Full::new(body))
            .expect("its address was read before");
        let answer = tokio::time::timeout(DEADLINE, self.client.request(request)).await;
        let answer = answer.map_err(|_| Undelivered::TooSlow)?;
        let status = answer.map_err(|error| Undelivered::Connection(sources(&error)))?.status();
        if status.is_success() { Ok(()) } else { Err(Undelivered::Refused(status)) }
    }

    /// Doubled by each failure, and somewhere in the upper half of that, so that replicas and installs do not knock
    /// together.
    fn pause(&self, failed: u32) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(10)).min(LONGEST_PAUSE);
        let mut random = [0];
        self.rng.fill(&mut random);
        longest / 2 + longest.mul_f64(f64::from(random[0]) / 510.0)
    }
}

/// The certificates to trust: those of the file, else the system's.
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

/// An error with its sources, in one line.
fn sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
