//! Text forms of the second factor: codes in requests, recovery codes, and the seed for authenticator apps.

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};

use super::TotpSeed;
use crate::{rng::Rng, session::SecretHash};

/// Number of digits of a one-time code.
const DIGITS: usize = 6;
/// Number of random bytes of a recovery code.
const RECOVERY_BYTES: usize = 10;
/// Number of characters of a recovery code, without hyphens.
const RECOVERY_CHARS: usize = RECOVERY_BYTES / 5 * 8;
/// Maximum length in bytes of a code as sent.
const MAX_BYTES: usize = 64;
/// Alphabet of base32 (RFC 4648, section 6).
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Name of the service in authenticator apps.
const ISSUER: &str = "Pilothouse";

/// A code as sent by a user.
#[derive(Clone, Debug)]
pub enum FactorCode {
    /// A one-time code: six digits.
    Totp(SecretString),
    /// A recovery code.
    Recovery(SecretHash),
    /// A text that is no code. It counts as a wrong one.
    Malformed,
}

impl FactorCode {
    /// Parses a code. Case, spaces and hyphens have no effect.
    pub fn parse(text: &SecretString) -> Self {
        let text = text.expose_secret();
        if text.len() > MAX_BYTES {
            return Self::Malformed;
        }
        let code: SecretString = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| c.to_ascii_uppercase())
            .collect::<String>()
            .into();
        let bytes = code.expose_secret().as_bytes();
        if bytes.len() == DIGITS && bytes.iter().all(u8::is_ascii_digit) {
            Self::Totp(code)
        } else if bytes.len() == RECOVERY_CHARS && bytes.iter().all(|byte| ALPHABET.contains(byte)) {
            Self::Recovery(SecretHash::of(code.expose_secret()))
        } else {
            Self::Malformed
        }
    }

    /// The kind of code, for the audit trail.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Totp(_) => "totp",
            Self::Recovery(_) => "recovery_code",
            Self::Malformed => "malformed",
        }
    }
}

/// The recovery codes of an enrolment, shown once: 80 random bits each, as `ABCD-EFGH-IJKL-MNOP`.
#[derive(Clone, Debug)]
pub struct RecoveryCodes(Vec<SecretString>);

impl RecoveryCodes {
    /// Number of recovery codes.
    pub const COUNT: usize = 10;

    /// Creates random codes.
    pub fn random(rng: &dyn Rng) -> Self {
        let code = || -> SecretString {
            let mut bytes = [0; RECOVERY_BYTES];
            rng.fill(&mut bytes);
            let mut text = String::with_capacity(RECOVERY_CHARS + 3);
            for (n, character) in base32(&bytes).chars().enumerate() {
                if n > 0 && n % 4 == 0 {
                    text.push('-');
                }
                text.push(character);
            }
            text.into()
        };
        Self((0..Self::COUNT).map(|_| code()).collect())
    }

    /// The codes, for the response to the user only.
    pub fn codes(&self) -> &[SecretString] {
        &self.0
    }

    /// The hashes of the codes, for the store. The codes are random, so no salt is needed.
    pub fn hashes(&self) -> Vec<SecretHash> {
        let of = |code: &SecretString| SecretHash::of(&code.expose_secret().replace('-', ""));
        self.0.iter().map(of).collect()
    }
}

/// A seed in base32, for an app without a camera.
pub(super) fn seed_text(seed: &TotpSeed) -> SecretString {
    base32(seed.bytes()).into()
}

/// The `otpauth` URL of a seed, for a QR code. Apps assume SHA-1, 6 digits and 30 s, which need no parameters.
pub(super) fn otpauth_url(seed: &TotpSeed, username: &str) -> SecretString {
    let secret = seed_text(seed);
    let account = percent_encoded(username);
    format!("otpauth://totp/{ISSUER}:{account}?secret={}&issuer={ISSUER}", secret.expose_secret()).into()
}

/// Base32 of a whole number of groups of five bytes, which needs no padding.
fn base32(bytes: &[u8]) -> String {
    let (groups, rest) = bytes.as_chunks::<5>();
    debug_assert!(rest.is_empty(), "a whole number of groups");
    let characters = groups.iter().flat_map(|group| {
        let bits = group.iter().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
        (0..8).rev().map(move |n| {
            let [index, ..] = (bits >> (5 * n)).to_le_bytes();
            char::from(ALPHABET[usize::from(index & 31)])
        })
    });
    characters.collect()
}

/// Encodes all characters that are reserved in a URL.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // writing to a text cannot fail
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake::FakeRuntime;

    #[test]
    fn codes_are_parsed_regardless_of_case_spaces_and_hyphens() {
        let kind = |text: &str| FactorCode::parse(&text.into()).as_str();
        for text in ["012345", " 012 345 ", "012-345"] {
            assert_eq!(kind(text), "totp", "{text:?}");
        }
        for text in ["abcd-efgh-ijkl-mn27", "ABCDEFGHIJKLMN27", "abcd efgh ijkl mn27"] {
            assert_eq!(kind(text), "recovery_code", "{text:?}");
        }
        for text in [
            "",
            "12345",
            "1234567",
            "１２３４５６",
            "12345a",
            "abcd-efgh-ijkl-mn18",
            "abcdefghijklmn2",
            &"1 ".repeat(33),
        ] {
            assert_eq!(kind(text), "malformed", "{text:?}");
        }
    }

    #[test]
    fn recovery_code_as_shown_has_its_stored_hash() {
        let codes = RecoveryCodes::random(&*FakeRuntime::default().rng);
        let mut hashes = codes.hashes();
        assert_eq!((codes.codes().len(), hashes.len()), (RecoveryCodes::COUNT, RecoveryCodes::COUNT));
        for (code, hash) in codes.codes().iter().zip(&hashes) {
            let FactorCode::Recovery(parsed) = FactorCode::parse(code) else { panic!("a recovery code") };
            assert!(parsed == *hash);
            assert_eq!(code.expose_secret().len(), RECOVERY_CHARS + 3);
        }
        hashes.sort_by_key(|hash| hash.0);
        hashes.dedup();
        assert_eq!(hashes.len(), RecoveryCodes::COUNT, "the codes differ");
        assert!(!format!("{codes:?}").contains(codes.codes()[0].expose_secret()));
    }

    /// Test vectors: RFC 4648, section 10.
    #[test]
    fn base32_matches_the_test_vectors() {
        assert_eq!(base32(b"fooba"), "MZXW6YTB");
        assert_eq!(base32(b""), "");
        assert_eq!(base32(b"12345678901234567890"), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    }

    #[test]
    fn otpauth_url_names_issuer_and_account() {
        let seed = TotpSeed::new(*b"12345678901234567890");
        let url = otpauth_url(&seed, "keycloak:ann");
        assert_eq!(
            url.expose_secret(),
            "otpauth://totp/Pilothouse:keycloak%3Aann?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Pilothouse"
        );
        assert_eq!(format!("{seed:?}"), "TotpSeed(…)");
    }
}
