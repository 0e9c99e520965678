//! Fake of the codec of one-time codes: no cryptography.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::second_factor::{TotpCodec, TotpSeed};

/// Length of a time step in seconds.
const STEP: i64 = 30;

/// Codec whose codes are the sum of the time step and of the bytes of the seed.
pub struct PlainTotp;

impl PlainTotp {
    /// The code of a seed at this time.
    pub fn code(seed: &TotpSeed, at: Timestamp) -> SecretString {
        Self::code_of_step(seed, at.as_second().div_euclid(STEP))
    }

    fn code_of_step(seed: &TotpSeed, step: i64) -> SecretString {
        let sum: i64 = seed.bytes().iter().map(|byte| i64::from(*byte)).sum();
        format!("{:06}", (step + sum).rem_euclid(1_000_000)).into()
    }
}

impl TotpCodec for PlainTotp {
    fn step_of(&self, seed: &TotpSeed, code: &SecretString, now: Timestamp) -> Option<i64> {
        let current = now.as_second().div_euclid(STEP);
        let is_code = |step: &i64| Self::code_of_step(seed, *step).expose_secret() == code.expose_secret();
        (current - 1..=current + 1).find(is_code)
    }
}
