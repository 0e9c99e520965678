//! A change that is made once, however often it is asked for: the header `Idempotency-Key`.
//!
//! A caller that lost the answer to a change asks again with the same key, and gets the same answer without a second
//! change. Before the work starts the key is claimed, by a row that outlives this process; when it is over the row
//! keeps the answer. Whoever comes meanwhile with the same key waits for it.
//!
//! What is kept is what did something, or may have: a success, or a failure that leaves doubt
//! ([`Error::outcome_unknown`]). What was certainly not done frees the key, so that the caller may try again with it. A
//! claim whose process ended before an answer was kept stays, and its repetition is told that nobody knows: a change
//! that may have happened is never made again on its own (docs/decisions/0005).
//!
//! The key comes after authentication and input, and before all else: a repeated deletion must find its answer, not
//! that the object is gone.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    access::{Caller, Role},
    clock::{Clock, Rng, Spawner, detached, uuid_v7},
    error::{Cause, Error, Reason, Result},
    user::UserId,
};

/// How long a key is remembered.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// How many keys of one user are remembered at once: one every nine seconds, all day.
const MOST: u64 = 10_000;
/// The largest answer that is kept, in bytes; that of a common change has about one thousand.
const LARGEST: usize = 256 << 10;
/// How long a repetition waits for the first call: as long as a change may take by default.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause between two looks, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The value of the header `Idempotency-Key`: 1 to 64 visible ASCII characters, chosen by the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The header's name.
    pub const HEADER: &str = "Idempotency-Key";
    /// The most characters it has.
    pub const LONGEST: usize = 64;

    /// Reads a key.
    ///
    /// # Errors
    /// [`Reason::Required`] when it is empty, [`Reason::TooLong`], [`Reason::Malformed`].
    pub fn new(text: &str) -> Result<Self, Reason> {
        if text.is_empty() {
            Err(Reason::Required)
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err(Reason::Malformed)
        } else if text.len() > Self::LONGEST {
            Err(Reason::TooLong)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SHA-256 of what was asked, to know the same request again. A body may hold a Secret that could be guessed from it:
/// adapters seal it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestDigest(pub [u8; 32]);

impl RequestDigest {
    /// The digest of a call of `route` (method and path) in this role. The body counts by what it says: the order of
    /// its keys and the space between them do not. The role counts, so that nobody reads an answer that was given to a
    /// role they have lost.
    pub fn of(route: &str, role: Option<Role>, mut body: Value) -> Self {
        body.sort_all_objects();
        let mut hash = Sha256::new();
        for part in [route, role.map_or("", Role::as_str), &body.to_string()] {
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

/// An answer as the caller got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its HTTP status.
    pub status: u16,
    /// Its body, to the byte.
    pub body: Vec<u8>,
}

/// A key that somebody wants to use.
#[derive(Clone, Debug)]
pub struct NewClaim {
    /// The claim's own id; what is sealed is bound to it.
    pub id: Uuid,
    /// Whose key.
    pub user: UserId,
    /// The key.
    pub key: IdempotencyKey,
    /// For what.
    pub request: RequestDigest,
    /// By which request, as the audit trail names it.
    pub request_id: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Until when it is remembered.
    pub expires_at: Timestamp,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The key is the claimer's.
    Made {
        /// How many keys of this user are remembered, this one included.
        live: u64,
    },
    /// The key was claimed before.
    Taken(Earlier),
}

/// An earlier claim of the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// For what.
    pub request: RequestDigest,
    /// By which request.
    pub request_id: Option<String>,
    /// How far it is.
    pub progress: Progress,
}

/// How far an earlier call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A process that lives works on it.
    Running,
    /// Its answer is not known, and never will be.
    Unknown,
    /// It is over.
    Answered(Reply),
}

/// How a claim ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing was done: the key is free again.
    NotDone,
    /// Something was or may have been done, and there is no answer to keep.
    Unknown,
    /// This was answered.
    Answered(Reply),
}

/// The claims of keys. Bookkeeping, as a throttle's is: nothing in it can be asked for but by its own user, so no
/// permit is asked for.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Claims a key, durably when this returns: of many at once, in however many processes, one makes it. Claims that
    /// have expired count as none, and are removed in passing.
    ///
    /// # Errors
    /// `StoreUnavailable`: nobody may start to work.
    async fn claim(&self, claim: &NewClaim) -> Result<Claim>;

    /// Ends the claim of this id. One that is gone stays gone.
    ///
    /// # Errors
    /// `StoreUnavailable`: to be tried again.
    async fn end(&self, id: Uuid, end: &End) -> Result<()>;
}

/// What a call under a key comes to; a failure of the work itself is an error as it always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution<T> {
    /// It was done just now.
    Executed(T),
    /// It was done before: the answer of then.
    Replayed(Reply),
}

/// Sees to it that a change is made once.
#[derive(Clone)]
pub struct Idempotency {
    pub(crate) store: Arc<dyn IdempotencyStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) spawner: Arc<dyn Spawner>,
}

impl Idempotency {
    /// Does `work` unless the caller did it before under this key. Runs to its end whatever becomes of the caller's
    /// connection. `reply` says what is answered to a result; it is asked only for what is kept.
    ///
    /// # Errors
    /// `IdempotencyKeyReused` when the key stands for another request; `IdempotencyInProgress` and
    /// `IdempotencyOutcomeUnknown` when the earlier call has no answer (yet), naming its request id;
    /// `TooManyIdempotencyKeys`; `StoreUnavailable`, and then nothing is done; else what `work` says.
    pub async fn execute<T: Send + 'static>(
        &self,
        caller: &Caller,
        key: IdempotencyKey,
        request: RequestDigest,
        work: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(&Result<T>) -> Option<Reply> + Send + 'static,
    ) -> Result<Execution<T>> {
        let user = caller.user_id.ok_or_else(|| Error::internal("an idempotency key without a user"))?;
        let at = self.clock.now();
        let id = uuid_v7(at, &*self.rng);
        let request_id = caller.origin.request_id.clone();
        let claim = NewClaim { id, user, key, request, request_id, at, expires_at: at + RETENTION };
        let this = self.clone();
        // from the claim on: a claim that nobody works on any more would block its key
        detached(&*self.spawner, async move {
            if let Some(reply) = this.claim(&claim).await? {
                return Ok(Execution::Replayed(reply));
            }
            let work = async {
                let result = work.await;
                let end = match &result {
                    Err(error) if !error.outcome_unknown() => End::NotDone,
                    result => kept(reply(result)),
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

    /// Claims the key, or finds the answer of the call that did, if need be after it is over.
    async fn claim(&self, claim: &NewClaim) -> Result<Option<Reply>> {
        let (mut pause, longest) = PAUSES;
        let mut waited = Duration::ZERO;
        loop {
            let earlier = match self.store.claim(claim).await? {
                Claim::Made { live } if live <= MOST => return Ok(None),
                Claim::Made { .. } => {
                    self.end(claim.id, End::NotDone).await;
                    return Err(Error::new(Cause::TooManyIdempotencyKeys).retry_after(RETENTION / 24));
                }
                Claim::Taken(earlier) => earlier,
            };
            let refusal = |cause| {
                let error = Error::new(cause).resource("request");
                Err(earlier.request_id.iter().fold(error, |error, id| error.name(id)))
            };
            if earlier.request != claim.request {
                return refusal(Cause::IdempotencyKeyReused);
            }
            match earlier.progress {
                Progress::Answered(reply) => return Ok(Some(reply)),
                Progress::Unknown => return refusal(Cause::IdempotencyOutcomeUnknown),
                Progress::Running if waited >= WAIT_TIMEOUT => return refusal(Cause::IdempotencyInProgress),
                Progress::Running => self.spawner.sleep(pause).await,
            }
            waited += pause;
            pause = longest.min(2 * pause);
        }
    }

    /// Ends a claim. What cannot be stored now is tried again until it is; the caller need not wait for that.
    async fn end(&self, id: Uuid, end: End) {
        if self.store.end(id, &end).await.is_ok() {
            return;
        }
        let (store, spawner) = (self.store.clone(), self.spawner.clone());
        let retry = async move {
            loop {
                spawner.sleep(PAUSES.1).await;
                if store.end(id, &end).await.is_ok() {
                    break;
                }
            }
        };
        self.spawner.spawn(retry.boxed());
    }
}

/// An answer to be kept, unless it is too large.
fn kept(reply: Option<Reply>) -> End {
    reply.filter(|reply| reply.body.len() <= LARGEST).map_or(End::Unknown, End::Answered)
}

#[cfg(test)]
mod tests;
