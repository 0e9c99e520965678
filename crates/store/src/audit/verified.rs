//! Verified state of the trail in this process: the last head that the process appended or verified, and the last
//! checkpoint. Only a trail that continues this state is signed, because the database may have been tampered with.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pilothouse_core::{
    Error,
    audit::{Head, LastCheckpoint, VerifiedTrail},
};

use crate::error::StoreError;

/// Interval between verifications of a trail that failed one.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Error of verifying the trail.
pub(crate) enum VerifyError {
    /// The trail does not continue the verified part.
    Mismatch(String),
    /// The trail could not be read.
    Store(StoreError),
}

impl From<String> for VerifyError {
    fn from(reason: String) -> Self {
        Self::Mismatch(reason)
    }
}

impl From<diesel::result::Error> for VerifyError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<Error> for VerifyError {
    fn from(error: Error) -> Self {
        Self::Store(error.into())
    }
}

/// Verified state, shared by all writers of the trail in this process. A clone is the same state.
#[derive(Clone, Default)]
pub(crate) struct VerifiedState(Arc<Mutex<SigningState>>);

#[derive(Default)]
struct SigningState {
    verified: Option<VerifiedTrail>,
    /// The verified state after the last appending transaction, if that commits.
    draft: Option<VerifiedTrail>,
    mismatch: Option<FailedVerification>,
}

struct FailedVerification {
    reason: String,
    /// Time of the last failed verification, by the monotonic clock.
    failed_at: Duration,
}

impl VerifiedState {
    fn lock(&self) -> MutexGuard<'_, SigningState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verified part of the trail.
    pub(crate) fn current(&self) -> Option<VerifiedTrail> {
        self.lock().verified.clone()
    }

    /// The verified part of the trail, where `head` is the head just read: a draft with this head was committed and
    /// becomes the verified state.
    pub(crate) fn commit_draft(&self, head: Head) -> Option<VerifiedTrail> {
        let mut state = self.lock();
        if let Some(draft) = state.draft.take_if(|draft| draft.head() == head) {
            state.verified = Some(draft);
        }
        state.verified.clone()
    }

    /// Stores a verified state, unless the current one covers more.
    pub(crate) fn set_verified(&self, verified: &VerifiedTrail) {
        let mut state = self.lock();
        if state.verified.as_ref().is_none_or(|before| verified.covers(before)) {
            state.verified = Some(verified.clone());
        }
        if state.mismatch.take().is_some() {
            tracing::info!("the audit trail matches the verified history again and is signed");
        }
    }

    /// Stores the state that becomes the verified one if the transaction that holds the lock on `audit_head` commits.
    pub(crate) fn set_draft(&self, verified: Option<VerifiedTrail>) {
        self.lock().draft = verified;
    }

    /// Records that the trail does not match. Logged at the first failure and whenever the reason changes.
    pub(crate) fn set_mismatch(&self, reason: String, failed_at: Duration) {
        let mut state = self.lock();
        if state.mismatch.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::error!(
                reason,
                "the audit trail does not match the verified history and is no longer signed: entries were changed or \
                 removed; run `pilothouse audit verify`"
            );
        }
        state.mismatch = Some(FailedVerification { reason, failed_at });
    }

    /// Whether the trail may be verified now: after a failure only every [`RETRY_INTERVAL`].
    pub(crate) fn may_verify(&self, now: Duration) -> bool {
        self.lock()
            .mismatch
            .as_ref()
            .is_none_or(|mismatch| now.saturating_sub(mismatch.failed_at) >= RETRY_INTERVAL)
    }

    /// Reason why the trail is not signed; `None` while it is signed.
    pub(crate) fn mismatch_reason(&self) -> Option<String> {
        self.lock().mismatch.as_ref().map(|mismatch| mismatch.reason.clone())
    }

    /// The last verified checkpoint; `None` before the first verification.
    pub(crate) fn last_checkpoint(&self) -> Option<LastCheckpoint> {
        self.lock().verified.as_ref().map(VerifiedTrail::last_checkpoint)
    }
}
