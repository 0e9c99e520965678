//! Random source, injected so that tests are deterministic.

use jiff::Timestamp;
use uuid::Uuid;

/// Cryptographically secure random source.
#[cfg_attr(feature = "testing", mockall::automock)]
pub trait Rng: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// Creates a UUID version 7: ordered by time, with 74 random bits.
pub fn uuid_v7(now: Timestamp, rng: &dyn Rng) -> Uuid {
    let mut random = [0; 10];
    rng.fill(&mut random);
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
