//! Receiver over HTTP: one signed POST per batch. The URL is used as the operator sets it: no redirects are followed,
//! and no proxy or environment variable applies.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use pilothouse_core::clock::Clock;
use pilothouse_crypto::WebhookKey;

use super::{DELIVERY_TIMEOUT, DeliveryError, Receiver};
use crate::{
    Fatal,
    http_client::{HttpClient, http_client, roots, sources},
};

/// The setting of the file of CA certificates.
const CA_FILE: &str = "audit_webhook_ca_file";

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
        roots(self.ca_file.as_deref(), CA_FILE).map(drop)
    }
}

/// The receiver at the URL of the settings.
pub(crate) struct HttpReceiver {
    client: HttpClient,
    settings: WebhookSettings,
    clock: Arc<dyn Clock>,
}

impl HttpReceiver {
    /// Creates the client without connecting.
    ///
    /// # Errors
    /// `Fatal::Setting` when the file of CA certificates is not usable.
    pub(crate) fn new(settings: WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, Fatal> {
        // the settings allow plain HTTP on loopback addresses only
        let client = http_client(settings.ca_file.as_deref(), CA_FILE)?;
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
