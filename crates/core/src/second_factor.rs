//! Second factor of users: time-based one-time codes (TOTP, RFC 6238) and recovery codes, their ports, and the use cases.
//!
//! A user enrols with a new seed and confirms it with a code, and gets recovery codes. From then on a login takes a
//! code. Each time step and each recovery code counts once, at all replicas: the store decides.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use uuid::Uuid;

use crate::{
    access::{Permit, StepUp},
    error::Result,
    ids::{SessionId, UserId},
    rng::Rng,
    session::SecretHash,
};

mod check;
mod code;
mod require;
mod usecase;

pub(crate) use check::CodeCheck;
pub use code::{FactorCode, RecoveryCodes};
pub use require::RequireSecondFactor;
pub use usecase::{Enrolment, SecondFactors};

/// Settings of the second factor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecondFactorSettings {
    /// Users that must have a second factor.
    pub require: RequireSecondFactor,
    /// Operations that require a fresh second factor.
    pub step_up: StepUp,
}

/// Length of a seed in bytes.
const SEED_BYTES: usize = 20;

/// Seed of a user's one-time codes: 160 random bits (RFC 4226, section 4). Never displayed.
#[derive(Clone)]
pub struct TotpSeed(Arc<SecretBox<[u8; SEED_BYTES]>>);

impl TotpSeed {
    /// Length of a seed in bytes.
    pub const BYTES: usize = SEED_BYTES;

    /// Creates a random seed.
    pub fn random(rng: &dyn Rng) -> Self {
        Self(Arc::new(SecretBox::init_with_mut(|bytes: &mut [u8; Self::BYTES]| rng.fill(bytes))))
    }

    /// Creates a seed from the bytes of the store.
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
    }

    /// The bytes, for the codec and the store only.
    pub fn bytes(&self) -> &[u8; Self::BYTES] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for TotpSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSeed(…)")
    }
}

/// Second factor of a user as stored.
#[derive(Clone, Debug)]
pub struct SecondFactor {
    /// Random id of the enrolment. The store seals the seed for it.
    pub enrolment: Uuid,
    /// The user.
    pub user_id: UserId,
    /// The seed.
    pub seed: TotpSeed,
    /// Time of the enrolment.
    pub created_at: Timestamp,
    /// Time of the confirmation. `None` while the enrolment is pending: then the user has no second factor yet.
    pub confirmed_at: Option<Timestamp>,
    /// The latest time step of which a code was used.
    pub last_step: Option<i64>,
}

/// Confirmation of a pending enrolment.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// The enrolment whose seed gave the code.
    pub enrolment: Uuid,
    /// Time step of the code, which counts as used.
    pub step: i64,
    /// Hashes of the recovery codes.
    pub recovery: Vec<SecretHash>,
    /// Session of the request. Its user gives the second factor with the confirmation.
    pub session: SessionId,
}

/// A use of the second factor that counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorUse {
    /// A code of this time step. Steps up to the last used one count as used.
    Step(i64),
    /// A recovery code.
    Recovery(SecretHash),
}

/// Port for the storage of second factors. Every method with a permit commits its audit row in the same transaction; its
/// time is that of the permit's operation.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SecondFactorStore: Send + Sync {
    /// The second factor of a user, confirmed or pending.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn find(&self, user: UserId) -> Result<Option<SecondFactor>>;

    /// Stores the seed of a pending enrolment, in place of an earlier pending one.
    ///
    /// # Errors
    /// `AlreadyEnrolled` if the user has a confirmed second factor; `NotFound` if there is no such user.
    async fn begin(&self, permit: &Permit, user: UserId, enrolment: Uuid, seed: TotpSeed) -> Result<()>;

    /// Confirms a pending enrolment, stores its recovery codes, and sets [`crate::session::Session::factor_at`] of the
    /// session. One of several concurrent calls succeeds.
    ///
    /// # Errors
    /// `AlreadyEnrolled` if the user has a confirmed second factor; `NotFound` if the enrolment is not pending any more;
    /// `SessionEnded` if the user has no such session.
    async fn confirm(&self, permit: &Permit, user: UserId, confirmation: Confirmation) -> Result<()>;

    /// Uses a code of a confirmed second factor. Returns false if it was used before, or if there is no such code: one
    /// of several concurrent calls with the same code returns true. The use is stored when this returns; it has no audit
    /// row, because a login, a renewal or a removal follows.
    async fn spend(&self, user: UserId, factor_use: FactorUse) -> Result<bool>;

    /// Removes the second factor of a user, confirmed or pending, with its recovery codes. Ends the user's sessions,
    /// except `keep`, of which it clears [`crate::session::Session::factor_at`].
    ///
    /// # Errors
    /// `NotFound` if the user has none.
    async fn remove(&self, permit: &Permit, user: UserId, keep: Option<SessionId>) -> Result<()>;
}

/// Port that computes one-time codes: SHA-1, 6 digits, steps of 30 s, as every authenticator app supports them.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait TotpCodec: Send + Sync {
    /// The time step whose code this is: the current one, the one before or the one after. `None` if it is the code of
    /// none of them. The comparison takes the same time for every code.
    fn step_of(&self, seed: &TotpSeed, code: &SecretString, now: Timestamp) -> Option<i64>;
}

/// The ports of second factors.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct SecondFactorPorts {
    pub store: Arc<dyn SecondFactorStore>,
    pub codec: Arc<dyn TotpCodec>,
}
