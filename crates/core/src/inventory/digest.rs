//! The digests by which rows, and pages of them, are told apart: HMAC-SHA256, cut to 128 bits.
//!
//! A row holds text that tenants of a cluster choose. Whoever knew the key could search for two rows of one digest, and
//! replace the one by the other without the page's `ETag` changing. Without it there is nothing to search with, and 128
//! bits leave nothing to chance.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hasher as _},
    sync::OnceLock,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// A digest of 128 bits.
pub type Digest = [u8; 16];

/// The key of digests.
#[derive(Clone)]
pub struct DigestKey(Hmac<Sha256>);

/// The key of this process.
static SHARED: OnceLock<DigestKey> = OnceLock::new();

impl DigestKey {
    /// From 32 secret bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    /// Makes this the key of the process, so that replicas with the same key give a page the same `ETag`. To be called
    /// before the first row is made: digests under two keys cannot be compared. False, and without effect, when the
    /// process has a key already.
    pub fn share(self) -> bool {
        SHARED.set(self).is_ok()
    }

    /// The key of the process: the one that [`DigestKey::share`] set, else a random one.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(Self::random)
    }

    /// A digest of what is to be written to it.
    pub fn start(&self) -> Digester {
        Digester(self.0.clone())
    }

    /// The digest of these bytes.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        let mut digester = self.start();
        digester.update(bytes);
        digester.finish()
    }

    /// The standard library's hash maps are keyed by the system's randomness, 128 bits of it.
    fn random() -> Self {
        let mut key = [0; 32];
        let state = RandomState::new();
        for (place, part) in key.chunks_exact_mut(8).enumerate() {
            let mut hasher = state.build_hasher();
            hasher.write_usize(place);
            part.copy_from_slice(&hasher.finish().to_le_bytes());
        }
        Self::new(&key)
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(…)")
    }
}

/// A digest in the making.
pub struct Digester(Hmac<Sha256>);

impl Digester {
    /// Continues with these bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(&self.0.finalize().into_bytes()[..size_of::<Digest>()]);
        digest
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn it_is_hmac_sha256_cut_to_128_bits() {
        // RFC 4231, test case 2, with its key filled up with zeros to 32 bytes, which HMAC does anyway
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let digest = DigestKey::new(&key).digest(b"what do ya want for nothing?");
        assert_eq!(format!("{:032x}", u128::from_be_bytes(digest)), "5bdcc146bf60754e6a042426089575c7");
    }

    #[test]
    fn another_key_gives_another_digest() {
        let [one, other] = [[1; 32], [2; 32]].map(|key| DigestKey::new(&key));
        assert_eq!(one.digest(b"row"), one.digest(b"row"));
        assert_ne!(one.digest(b"row"), one.digest(b"rox"));
        assert_ne!(one.digest(b"row"), other.digest(b"row"));
        assert_ne!(DigestKey::random().digest(b"row"), DigestKey::random().digest(b"row"));
        assert_ne!(one.digest(b"row")[..], Sha256::digest(b"row")[..16], "not what anybody can compute");
    }

    #[test]
    fn a_process_has_one_key() {
        let digest = DigestKey::shared().digest(b"row");
        assert!(!DigestKey::new(&[1; 32]).share(), "it is in use");
        assert_eq!(DigestKey::shared().digest(b"row"), digest);
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", DigestKey::new(&[0x41; 32])), "DigestKey(…)");
    }
}
