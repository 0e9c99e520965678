//! Audit webhook: delivers every entry and checkpoint of the audit trail, in order, at least once.
//!
//! Replicas share a delivery cursor: delivery resumes there after a restart, and only one replica delivers at a time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pilothouse_core::{
    audit::{Batch, TrailReader},
    clock::Clock,
    coordinator::Coordinator,
    rng::Rng,
};
use prometheus::IntCounter;
use tokio_util::sync::CancellationToken;

mod http_receiver;
#[cfg(test)]
mod tests;

pub(crate) use http_receiver::{HttpReceiver, WebhookSettings};

/// Name of the receiver in the stored cursor. There is one webhook; its receiver can forward entries to others.
pub(crate) const RECEIVER: &str = "webhook";

/// Interval of polling for new entries.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of one delivery.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Backoff after the first failure; each further failure doubles it.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Upper bound of the backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Receiver of the trail.
#[async_trait]
pub(crate) trait Receiver: Send + Sync {
    /// Sends lines of an export. The receiver has accepted all of them when this method returns without an error.
    ///
    /// # Errors
    /// When the receiver may not have accepted the lines.
    async fn send(&self, lines: Bytes) -> Result<(), DeliveryError>;
}

/// Error of a delivery.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("{0}")]
    Database(#[from] pilothouse_core::Error),
    #[error("no response within {DELIVERY_TIMEOUT:?}")]
    Timeout,
    #[error("the response was {0}")]
    Refused(StatusCode),
    #[error("the connection failed: {0}")]
    Connection(String),
}

/// The delivery task of the audit webhook.
pub(crate) struct Webhook {
    pub(crate) receiver: Arc<dyn Receiver>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) trail: Arc<dyn TrailReader>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) failures: IntCounter,
}

impl Webhook {
    /// Delivers new entries until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut failed = 0;
        loop {
            let pause = self.step(&mut failed).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes one attempt to deliver and returns the pause before the next one. `failed` is the number of consecutive
    /// failures; the first of them is logged.
    async fn step(&self, failed: &mut u32) -> Duration {
        match self.deliver().await {
            Ok(more) => {
                if *failed > 0 {
                    tracing::info!("the audit webhook accepts deliveries again");
                }
                *failed = 0;
                if more { Duration::ZERO } else { POLL_INTERVAL }
            }
            Err(error) => {
                if *failed == 0 {
                    tracing::error!(%error, "the delivery to the audit webhook failed and will be retried");
                }
                self.failures.inc();
                *failed += 1;
                self.backoff(*failed)
            }
        }
    }

    /// Delivers one batch if this replica holds the claim, and then saves the cursor. Returns whether more entries may
    /// follow.
    async fn deliver(&self) -> Result<bool, DeliveryError> {
        let Some(cursor) = self.coordinator.claim_delivery(RECEIVER, self.clock.now()).await? else {
            return Ok(false);
        };
        let Some(batch) = Batch::after(&*self.trail, cursor).await? else { return Ok(false) };
        let Batch { lines, cursor } = batch;
        self.receiver.send(lines.into()).await?;
        Ok(self.coordinator.save_cursor(RECEIVER, cursor).await?)
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
