//! What this process remembers of the trail: the last head that it appended or verified, and the last checkpoint. By this, and
//! not by what the database says of itself, it decides what to sign.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pilothouse_core::{
    Error,
    audit::{Head, LastCheckpoint, VerifiedTrail},
};

use crate::error::StoreError;

/// How long to wait before a trail that did not follow is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a trail is not signed now.
pub(crate) enum Unfit {
    /// It does not follow from what is known.
    Unsound(String),
    /// That cannot be told.
    Unread(StoreError),
}

impl From<String> for Unfit {
    fn from(reason: String) -> Self {
        Self::Unsound(reason)
    }
}

impl From<diesel::result::Error> for Unfit {
    fn from(error: diesel::result::Error) -> Self {
        Self::Unread(error.into())
    }
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Unread(error.into())
    }
}

/// Shared by all who append in this process.
#[derive(Clone, Default)]
pub(crate) struct VerifiedState(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    known: Option<VerifiedTrail>,
    /// What will be known once the last transaction that appended is committed.
    draft: Option<VerifiedTrail>,
    unsound: Option<Unsound>,
}

struct Unsound {
    reason: String,
    /// By the monotonic clock.
    seen: Duration,
}

impl VerifiedState {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known.
    pub(crate) fn known(&self) -> Option<VerifiedTrail> {
        self.lock().known.clone()
    }

    /// What is known, now that the trail is seen to end with `head`: a draft of that end was committed.
    pub(crate) fn at(&self, head: Head) -> Option<VerifiedTrail> {
        let mut state = self.lock();
        if let Some(draft) = state.draft.take_if(|draft| draft.head() == head) {
            state.known = Some(draft);
        }
        state.known.clone()
    }

    /// This was verified.
    pub(crate) fn verified(&self, known: &VerifiedTrail) {
        let mut state = self.lock();
        if state.known.as_ref().is_none_or(|before| known.covers(before)) {
            state.known = Some(known.clone());
        }
        if state.unsound.take().is_some() {
            tracing::info!("the audit trail matches the verified history again and is signed");
        }
    }

    /// This will be known, if the transaction that holds the head's lock commits.
    pub(crate) fn draft(&self, known: Option<VerifiedTrail>) {
        self.lock().draft = known;
    }

    /// The trail does not follow from what is known. Told to the log when that begins, and when the reason changes.
    pub(crate) fn unsound(&self, reason: String, seen: Duration) {
        let mut state = self.lock();
        if state.unsound.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::error!(
                reason,
                "the audit trail does not match the verified history and is no longer signed: entries were changed or \
                 removed; run `pilothouse audit verify`"
            );
        }
        state.unsound = Some(Unsound { reason, seen });
    }

    /// Whether the trail is to be looked at now.
    pub(crate) fn may_look(&self, now: Duration) -> bool {
        self.lock().unsound.as_ref().is_none_or(|unsound| now.saturating_sub(unsound.seen) >= AGAIN)
    }

    /// Why the trail is not signed; none when it is.
    pub(crate) fn reason(&self) -> Option<String> {
        self.lock().unsound.as_ref().map(|unsound| unsound.reason.clone())
    }

    /// The last checkpoint, where anything is known.
    pub(crate) fn last_checkpoint(&self) -> Option<LastCheckpoint> {
        self.lock().known.as_ref().map(VerifiedTrail::last_checkpoint)
    }
}
