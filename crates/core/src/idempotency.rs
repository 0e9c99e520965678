//! Idempotent requests: the header `Idempotency-Key`. A change is made at most once per key.
//!
//! A caller that lost the response to a change sends the request again with the same key, and receives the same
//! response without a second change. Before the work starts, the key is claimed with a row that outlives this process.
//! When the work has ended, the row stores the response. A concurrent request with the same key waits for that
//! response.
//!
//! A response is stored if the change was applied or may have been: a success, or a failure with an unknown outcome
//! ([`Error::outcome_unknown`]). If the change was certainly not applied, the key is released, so that the caller may
//! retry with it. A claim whose process ended before a response was stored remains, and a repeated request receives the
//! error that the outcome is unknown: a change that may have been applied is never repeated automatically
//! (docs/decisions/0005).
//!
//! The key is evaluated after authentication and input validation, and before everything else: a repeated deletion must
//! return the stored response, not the error that the object does not exist.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    access::{Caller, Principal},
    clock::Clock,
    error::{Cause, Error, Reason, Result},
    ids::TokenId,
    rng::{Rng, uuid_v7},
    spawn::{Spawner, detached},
};

/// Time for which a key is stored.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of stored keys per user or service account: one key every nine seconds for a day.
const MAX_KEYS: u64 = 10_000;
/// Maximum size of a stored response body in bytes; the response to a common change has about 1 kB.
const MAX_REPLY_BYTES: usize = 256 << 10;
/// Time for which a repeated request waits for the first one: the default time limit of a change.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// First and maximum interval between two polls of a claim.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The value of the header `Idempotency-Key`: 1 to 64 visible ASCII characters, chosen by the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Name of the header.
    pub const HEADER: &str = "Idempotency-Key";
    /// Maximum length in characters.
    pub const MAX_LENGTH: usize = 64;

    /// Parses a key.
    ///
    /// # Errors
    /// [`Reason::Required`] when it is empty, [`Reason::TooLong`], [`Reason::Malformed`].
    pub fn new(text: &str) -> Result<Self, Reason> {
        if text.is_empty() {
            Err(Reason::Required)
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err(Reason::Malformed)
        } else if text.len() > Self::MAX_LENGTH {
            Err(Reason::TooLong)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SHA-256 digest of a request, to recognise a repetition. A body may contain a Secret that could be guessed from the
/// digest, so adapters seal it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestDigest(pub [u8; 32]);

impl RequestDigest {
    /// Digest of a request to `route` (method and path) that this right allows. The body is normalised: the order of keys
    /// and whitespace have no effect. The right, as the text of a role or of a grant, is included, so that a user who lost
    /// it cannot read a response given to it. The API token is included too: a repetition with another token, or in a
    /// session, is a different request.
    pub fn of(route: &str, right: &str, token: Option<TokenId>, mut body: Value) -> Self {
        body.sort_all_objects();
        let token = token.map_or_else(String::new, |token| token.to_string());
        let mut hash = Sha256::new();
        for part in [route, right, &token, &body.to_string()] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestDigest(…)")
    }
}

/// Stored response, as sent to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// Body, byte for byte.
    pub body: Vec<u8>,
}

/// Claim of a key by a new request.
#[derive(Clone, Debug)]
pub struct NewClaim {
    /// Claim id; sealed values are bound to it.
    pub id: Uuid,
    /// User or service account that owns the key.
    pub owner: Principal,
    /// Key.
    pub key: IdempotencyKey,
    /// Digest of the request.
    pub request: RequestDigest,
    /// Request id, as in the audit trail.
    pub request_id: Option<String>,
    /// Time of the claim.
    pub at: Timestamp,
    /// Expiry of the claim.
    pub expires_at: Timestamp,
}

/// Result of claiming a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The key was claimed for this request.
    Made {
        /// Number of stored keys of this owner, including this one.
        live: u64,
    },
    /// The key was claimed before.
    Taken(Earlier),
}

/// An earlier claim of the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// Digest of the earlier request.
    pub request: RequestDigest,
    /// Request id of the earlier request.
    pub request_id: Option<String>,
    /// Progress of the earlier request.
    pub progress: Progress,
}

/// Progress of an earlier request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A running process executes the request.
    Running,
    /// The outcome of the request is unknown and stays unknown.
    Unknown,
    /// The request has ended with this response.
    Answered(Reply),
}

/// End of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The change was not applied: the key is released.
    NotDone,
    /// The change was or may have been applied, and there is no response to store.
    Unknown,
    /// The change was or may have been applied, and this response is stored.
    Answered(Reply),
}

/// Storage port for claims. Its methods take no permit, like the login throttle: a claim is visible to its owner
/// only.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Claims a key; the claim is durable when this returns. Of concurrent claims in any number of processes, exactly
    /// one succeeds. Expired claims are ignored and removed along the way.
    ///
    /// # Errors
    /// `StoreUnavailable`: the work must not start.
    async fn claim(&self, claim: &NewClaim) -> Result<Claim>;

    /// Ends the claim with this id. A claim that no longer exists is not created again.
    ///
    /// # Errors
    /// `StoreUnavailable`: the call must be retried.
    async fn end(&self, id: Uuid, end: &End) -> Result<()>;
}

/// Result of an idempotent request. A failure of the work itself is returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution<T> {
    /// The work was executed by this request.
    Executed(T),
    /// An earlier request executed the work; this is its response.
    Replayed(Reply),
}

/// Use case of idempotent requests.
#[derive(Clone)]
pub struct Idempotency {
    pub(crate) store: Arc<dyn IdempotencyStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) spawner: Arc<dyn Spawner>,
}

impl Idempotency {
    /// Runs `work`, unless an earlier request of this caller did so with this key. The work runs to completion even if
    /// the caller disconnects. `reply` converts a result into the response to store; it is called only for results that
    /// are stored.
    ///
    /// # Errors
    /// `IdempotencyKeyReused` when the key was used for another request; `IdempotencyInProgress` or
    /// `IdempotencyOutcomeUnknown`, with the request id of the earlier request, when that request has no response yet
    /// or will never have one; `TooManyIdempotencyKeys`; `StoreUnavailable`, and then `work` does not run; otherwise
    /// the error of `work`.
    pub async fn execute<T: Send + 'static>(
        &self,
        caller: &Caller,
        key: IdempotencyKey,
        request: RequestDigest,
        work: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(&Result<T>) -> Option<Reply> + Send + 'static,
    ) -> Result<Execution<T>> {
        let owner =
            caller.principal().ok_or_else(|| Error::internal("an idempotency key without an owner"))?;
        let at = self.clock.now();
        let id = uuid_v7(at, &*self.rng);
        let request_id = caller.origin.request_id.clone();
        let claim = NewClaim { id, owner, key, request, request_id, at, expires_at: at + RETENTION };
        let this = self.clone();
        // detached from the claim on: a claim whose work was cancelled would block its key
        detached(&*self.spawner, async move {
            if let Some(reply) = this.claim(&claim).await? {
                return Ok(Execution::Replayed(reply));
            }
            let work = async {
                let result = work.await;
                let end = match &result {
                    Err(error) if !error.outcome_unknown() => End::NotDone,
                    result => end_with_reply(reply(result)),
                };
                (result, end)
            };
            let panicked = |_| (Err(Error::internal("panicked; see the log")), End::Unknown);
            let (result, end) = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
            this.end(claim.id, end).await;
            result.map(Execution::Executed)
        })
        .await
    }

    /// Claims the key. If it was claimed before, waits for the earlier request and returns its response.
    async fn claim(&self, claim: &NewClaim) -> Result<Option<Reply>> {
        let (mut interval, max_interval) = POLL_INTERVALS;
        let mut waited = Duration::ZERO;
        loop {
            let earlier = match self.store.claim(claim).await? {
                Claim::Made { live } if live <= MAX_KEYS => return Ok(None),
                Claim::Made { .. } => {
                    self.end(claim.id, End::NotDone).await;
                    return Err(Error::new(Cause::TooManyIdempotencyKeys).retry_after(RETENTION / 24));
                }
                Claim::Taken(earlier) => earlier,
            };
            let refusal = |cause| {
                let error = Error::new(cause).resource("request");
                Err(earlier.request_id.iter().fold(error, pilothouse_types::Error::name))
            };
            if earlier.request != claim.request {
                return refusal(Cause::IdempotencyKeyReused);
            }
            match earlier.progress {
                Progress::Answered(reply) => return Ok(Some(reply)),
                Progress::Unknown => return refusal(Cause::IdempotencyOutcomeUnknown),
                Progress::Running if waited >= WAIT_TIMEOUT => return refusal(Cause::IdempotencyInProgress),
                Progress::Running => self.spawner.sleep(interval).await,
            }
            waited += interval;
            interval = max_interval.min(2 * interval);
        }
    }

    /// Ends a claim. After a failure, the call is retried in the background until it succeeds.
    async fn end(&self, id: Uuid, end: End) {
        if self.store.end(id, &end).await.is_ok() {
            return;
        }
        let (store, spawner) = (self.store.clone(), self.spawner.clone());
        let retry = async move {
            loop {
                spawner.sleep(POLL_INTERVALS.1).await;
                if store.end(id, &end).await.is_ok() {
                    break;
                }
            }
        };
        self.spawner.spawn(retry.boxed());
    }
}

/// End of a claim with this response; [`End::Unknown`] without a response, or if it is too large to store.
fn end_with_reply(reply: Option<Reply>) -> End {
    reply.filter(|reply| reply.body.len() <= MAX_REPLY_BYTES).map_or(End::Unknown, End::Answered)
}

#[cfg(test)]
mod tests;
