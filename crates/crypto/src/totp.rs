//! One-time codes (TOTP, RFC 6238) by the crate `totp-rs`, in the form that every authenticator app supports: HMAC-SHA-1,
//! 6 digits, steps of 30 s. These are the defaults of the crate; the tests check them by the vectors of the RFC.

use jiff::Timestamp;
use pilothouse_core::second_factor::{TotpCodec, TotpSeed};
use secrecy::{ExposeSecret, SecretString};
use totp_rs::Builder;

/// Length of a time step in seconds.
const STEP: u64 = 30;
/// Number of steps before and after the current one whose codes are accepted.
const SKEW: u16 = 1;

/// Codec of one-time codes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rfc6238Codec;

impl TotpCodec for Rfc6238Codec {
    fn step_of(&self, seed: &TotpSeed, code: &SecretString, now: Timestamp) -> Option<i64> {
        // there is no step before the first one
        let time = u64::try_from(now.as_second()).ok().filter(|time| *time >= STEP)?;
        let totp = Builder::new().with_skew(SKEW).with_secret(&seed.bytes()[..]).build().ok()?;
        totp.check(code.expose_secret(), time).and_then(|step| i64::try_from(step).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step_of(code: &str, second: i64) -> Option<i64> {
        let seed = TotpSeed::new(*b"12345678901234567890");
        Rfc6238Codec.step_of(&seed, &code.into(), Timestamp::from_second(second).unwrap())
    }

    /// Test vectors: RFC 6238, appendix B, the last six of eight digits.
    const VECTORS: [(i64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    #[test]
    fn codes_match_the_test_vectors() {
        for (second, code) in VECTORS {
            assert_eq!(step_of(code, second), Some(second / 30), "{second}");
        }
    }

    #[test]
    fn code_is_accepted_one_step_before_and_after_its_own() {
        for (second, code) in VECTORS {
            let step = second / 30;
            let first = step * 30;
            for (at, accepted) in [
                (first - 31, false),
                (first - 30, true),
                (first, true),
                (first + 29, true),
                (first + 59, true),
                (first + 60, false),
            ] {
                let expected = (accepted && at >= 30).then_some(step);
                assert_eq!(step_of(code, at.max(0)), expected, "{code} at {at}");
            }
        }
    }

    #[test]
    fn other_texts_and_seeds_have_no_step() {
        for code in ["", "28708", "2870822", "287083", "２８７０８２", "287082 "] {
            assert_eq!(step_of(code, 59), None, "{code:?}");
        }
        let other = TotpSeed::new(*b"12345678901234567891");
        let at = Timestamp::from_second(59).unwrap();
        assert_eq!(Rfc6238Codec.step_of(&other, &"287082".into(), at), None);
        for second in [-1, 0, 29] {
            assert_eq!(step_of("287082", second), None, "{second}");
        }
    }
}
