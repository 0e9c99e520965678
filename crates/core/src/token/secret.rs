//! Secret texts of API tokens: `php_` (person) or `phs_` (service account), 30 random base62 characters, and a CRC-32 in
//! 6 base62 characters. The checksum refuses mistyped and random texts without a query, and lets scanners of source code
//! find tokens by `ph[ps]_[0-9A-Za-z]{36}`.

use secrecy::{ExposeSecret, SecretString};

use crate::{rng::Rng, session::SecretHash};

/// Base62 digits in ascending order.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Number of random characters: 178 bits.
const RANDOM: usize = 30;
/// Number of characters of the checksum.
const CHECKSUM: usize = 6;
/// Number of characters of a prefix that is displayed.
const DISPLAYED: usize = 8;

/// Kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Of a user.
    Person,
    /// Of a service account.
    ServiceAccount,
}

impl TokenKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Person, Self::ServiceAccount];

    /// First characters of tokens of this kind.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Person => "php_",
            Self::ServiceAccount => "phs_",
        }
    }

    /// The kind of API token by the first characters of a bearer token. `None` for an access token of a session.
    pub fn of(bearer: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| bearer.starts_with(kind.prefix()))
    }
}

/// Secret text of a token. Shown once, when the token is made. The `Debug` output omits it.
#[derive(Clone, Debug)]
pub struct TokenSecret(SecretString);

impl TokenSecret {
    /// A new secret.
    pub fn generate(kind: TokenKind, rng: &dyn Rng) -> Self {
        let mut text = kind.prefix().to_owned();
        let length = text.len() + RANDOM;
        while text.len() < length {
            let mut bytes = [0; RANDOM];
            rng.fill(&mut bytes);
            // 6 bits of each byte; the two values that are no digit are skipped, so that all digits are equally likely
            let digits = bytes.iter().filter_map(|byte| DIGITS.get(usize::from(byte & 63)));
            let missing = length - text.len();
            text.extend(digits.take(missing).map(|digit| char::from(*digit)));
        }
        let checksum = checksum(&text);
        text.extend(checksum.map(char::from));
        Self(text.into())
    }

    /// Parses a bearer token. `None` if it is no API token: another prefix, length or character, or a wrong checksum.
    pub fn parse(bearer: &str) -> Option<Self> {
        let prefix = TokenKind::of(bearer)?.prefix();
        let has_form = bearer.len() == prefix.len() + RANDOM + CHECKSUM
            && bearer[prefix.len()..].bytes().all(|byte| byte.is_ascii_alphanumeric());
        let has_checksum = || {
            let (text, found) = bearer.split_at(prefix.len() + RANDOM);
            found.as_bytes() == checksum(text)
        };
        (has_form && has_checksum()).then(|| Self(bearer.into()))
    }

    /// The hash under which the token is stored and found.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.expose_secret())
    }

    /// The first characters, by which its owner recognises the token in a list: 4 of the 30 random ones.
    pub fn prefix(&self) -> String {
        self.0.expose_secret().chars().take(DISPLAYED).collect()
    }

    /// The secret, for the response to the creation only.
    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

/// CRC-32 of a text in base62, the most significant digit first.
fn checksum(text: &str) -> [u8; CHECKSUM] {
    let mut rest = crc32(text.as_bytes());
    let mut digits = [0; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// CRC-32 as in zlib and GitHub's tokens (IEEE 802.3, reflected, polynomial 0x04C11DB7).
fn crc32(bytes: &[u8]) -> u32 {
    let crc =
        bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 }
            })
        });
    !crc
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::fake::FakeRuntime;

    fn generate(kind: TokenKind) -> String {
        TokenSecret::generate(kind, &*FakeRuntime::default().rng).secret().expose_secret().to_owned()
    }

    #[test]
    fn checksum_is_the_crc_32_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(&checksum(""), b"000000");
        assert!(TokenSecret::parse("php_0123456789ABCDEFGHIJKLMNOPQRST23H5m1").is_some());
    }

    #[test]
    fn generated_secret_has_the_documented_form_and_parses() {
        let mut seen = HashSet::new();
        for kind in TokenKind::ALL {
            for _ in 0..100 {
                let text = generate(kind);
                assert_eq!((text.len(), &text[..4]), (40, kind.prefix()));
                assert!(text[4..].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
                let parsed = TokenSecret::parse(&text).expect("own token");
                assert_eq!((parsed.hash(), &*parsed.prefix()), (SecretHash::of(&text), &text[..8]));
                assert_eq!(TokenKind::of(&text), Some(kind));
                assert!(!format!("{parsed:?}").contains(&text[8..]), "no secret in Debug");
                assert!(seen.insert(text));
            }
        }
    }

    #[test]
    fn changed_secret_is_refused() {
        let text = generate(TokenKind::Person);
        for n in 0..text.len() {
            for other in [b'0', b'A', b'z', b'-', b' '] {
                let mut changed = text.clone().into_bytes();
                if changed[n] != other {
                    changed[n] = other;
                    let changed = String::from_utf8(changed).expect("ASCII");
                    assert!(TokenSecret::parse(&changed).is_none(), "{changed}");
                }
            }
        }
        let as_service_account = text.replacen("php_", "phs_", 1);
        let others = [
            "",
            "php_",
            &text[1..],
            &text[..39],
            &format!("{text}0"),
            &format!(" {text}"),
            &*as_service_account,
        ];
        for other in others {
            assert!(TokenSecret::parse(other).is_none(), "{other:?}");
        }
        assert!(TokenSecret::parse(&format!("php_{}é", &text[4..38])).is_none(), "40 bytes, not all ASCII");
    }

    #[test]
    fn no_random_text_is_accepted() {
        let accepted = (0..1_000_000_u64).filter(|n| {
            // 36 digits from a fixed sequence, so that a failure can be repeated
            let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let digits = (0..RANDOM + CHECKSUM).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let digit = u8::try_from((state >> 33) % 62).expect("below 62");
                char::from(DIGITS[usize::from(digit)])
            });
            let text: String = "php_".chars().chain(digits).collect();
            TokenSecret::parse(&text).is_some()
        });
        assert_eq!(accepted.count(), 0);
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in "(ph[ps]_)?\\PC{0,60}") {
            if let Some(secret) = TokenSecret::parse(&text) {
                prop_assert_eq!(secret.secret().expose_secret(), &text);
            }
        }
    }
}
