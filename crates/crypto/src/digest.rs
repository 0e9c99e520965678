//! Keyed digests of values for the audit trail: HMAC-SHA256, truncated to 16 bytes, with a key derived from the
//! master key.

use aws_lc_rs::hmac;
use pilothouse_core::{hex::Hex, secret::ValueDigest};

use crate::{MasterKey, purpose};

/// Keyed digests of this installation.
pub struct KeyedDigest(hmac::Key);

impl KeyedDigest {
    /// Derives the digest key from the master key.
    pub fn new(key: &MasterKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &*key.derive(purpose::AUDIT_VALUES)))
    }
}

impl ValueDigest for KeyedDigest {
    fn digest(&self, place: &[&str], value: &[u8]) -> Hex<16> {
        let mut hmac = hmac::Context::with_key(&self.0);
        // each part is preceded by its length, so that different places never yield the same bytes
        for part in place.iter().map(|part| part.as_bytes()).chain([value]) {
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hmac.sign().as_ref()[..16]);
        Hex(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRng;

    #[test]
    fn digest_depends_on_place_value_and_key() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| {
            KeyedDigest::new(&MasterKey::create(&directory.path().join(name), &SystemRng).unwrap())
        });
        let one = a.digest(&["1", "ns", "name", "key"], b"value");
        assert_eq!(one, a.digest(&["1", "ns", "name", "key"], b"value"));
        for other in [
            a.digest(&["1", "ns", "name", "key"], b"valuf"),
            a.digest(&["1", "ns", "name", "ke"], b"yvalue"),
            a.digest(&["1", "n", "sname", "key"], b"value"),
            a.digest(&["2", "ns", "name", "key"], b"value"),
            b.digest(&["1", "ns", "name", "key"], b"value"),
        ] {
            assert_ne!(one, other);
        }
    }
}
