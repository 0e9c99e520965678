//! Digests of rows and pages: HMAC-SHA256, truncated to 128 bits.
//!
//! A row holds text that tenants of a cluster choose. With a known key, a tenant could search for two rows with the
//! same digest and replace one by the other without a change of the page's `ETag`. A secret key prevents that search,
//! and 128 bits make accidental collisions negligible.

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

/// HMAC key of digests.
#[derive(Clone)]
pub struct DigestKey(Hmac<Sha256>);

/// The key of this process.
static SHARED: OnceLock<DigestKey> = OnceLock::new();

impl DigestKey {
    /// Creates a key from 32 secret bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC accepts keys of any length"))
    }

    /// Makes this the key of the process. Replicas with the same key return the same `ETag` for a page. Must be called
    /// before the first row is created, because digests under two keys cannot be compared. Returns false and has no
    /// effect if the process already has a key.
    pub fn share(self) -> bool {
        SHARED.set(self).is_ok()
    }

    /// Returns the key of the process: the one set by [`DigestKey::share`], otherwise a random one.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(Self::random)
    }

    /// Starts an incremental digest.
    pub fn start(&self) -> Digester {
        Digester(self.0.clone())
    }

    /// Returns the digest of these bytes.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        let mut digester = self.start();
        digester.update(bytes);
        digester.finish()
    }

    /// Generates a random key: `RandomState` is seeded with 128 bits of the system's randomness.
    fn random() -> Self {
        let mut key = [0; 32];
        let state = RandomState::new();
        for (index, part) in key.chunks_exact_mut(8).enumerate() {
            let mut hasher = state.build_hasher();
            hasher.write_usize(index);
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

/// Incremental digest.
pub struct Digester(Hmac<Sha256>);

impl Digester {
    /// Adds these bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// Returns the digest of all bytes added.
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
    fn digest_is_hmac_sha256_truncated_to_128_bits() {
        // RFC 4231, test case 2, with its key padded with zeros to 32 bytes, as HMAC does
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let digest = DigestKey::new(&key).digest(b"what do ya want for nothing?");
        assert_eq!(format!("{:032x}", u128::from_be_bytes(digest)), "5bdcc146bf60754e6a042426089575c7");
    }

    #[test]
    fn different_keys_give_different_digests() {
        let [one, other] = [[1; 32], [2; 32]].map(|key| DigestKey::new(&key));
        assert_eq!(one.digest(b"row"), one.digest(b"row"));
        assert_ne!(one.digest(b"row"), one.digest(b"rox"));
        assert_ne!(one.digest(b"row"), other.digest(b"row"));
        assert_ne!(DigestKey::random().digest(b"row"), DigestKey::random().digest(b"row"));
        assert_ne!(one.digest(b"row")[..], Sha256::digest(b"row")[..16], "digest depends on the secret key");
    }

    #[test]
    fn shared_key_is_set_once_per_process() {
        let digest = DigestKey::shared().digest(b"row");
        assert!(!DigestKey::new(&[1; 32]).share(), "the key is already in use");
        assert_eq!(DigestKey::shared().digest(b"row"), digest);
    }

    #[test]
    fn debug_output_omits_the_key() {
        assert_eq!(format!("{:?}", DigestKey::new(&[0x41; 32])), "DigestKey(…)");
    }
}
