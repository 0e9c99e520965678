//! Envelope encryption: AES-256-GCM with one data key per value, which is sealed by a key derived from the master
//! key.
//!
//! ```text
//! version 1 | id of the master key 8 | nonce 12, sealed data key 32+16 | nonce 12, sealed value n+16
//! ```
//! Lengths are in bytes; `n` is the length of the value, and 16 that of a tag. Both parts are bound to the row, the
//! field, the version and the master key.

use std::sync::Arc;

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use pilothouse_core::{
    Error, Result,
    rng::Rng,
    seal::{SealedFor, Sealer},
};
use zeroize::Zeroizing;

use crate::{MasterKey, purpose};

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const DATA_KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Seals and opens values with a master key.
pub struct AesSealer {
    cipher: Aes256Gcm,
    /// Id of the master key: the first bytes of a derived value. Distinguishes a value that another key has sealed from
    /// a damaged one.
    key_id: [u8; KEY_ID_BYTES],
    rng: Arc<dyn Rng>,
}

impl AesSealer {
    /// Creates a sealer with `key`.
    pub fn new(key: &MasterKey, rng: Arc<dyn Rng>) -> Self {
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&key.derive(purpose::SEALING_KEY_ID)[..KEY_ID_BYTES]);
        Self { cipher: Aes256Gcm::new((&*key.derive(purpose::SEALING)).into()), key_id, rng }
    }

    /// Associated data of a part.
    fn associated_data(&self, owner: &SealedFor, part: Part) -> Vec<u8> {
        let mut aad = vec![VERSION, part as u8];
        aad.extend(self.key_id);
        aad.extend(owner.row.as_bytes());
        // the field is last, as the only part without a fixed length, so that different owners never yield the same
        // bytes
        aad.extend(owner.field.as_bytes());
        aad
    }

    /// Encrypts `value` and returns a random nonce followed by the ciphertext.
    fn encrypt(&self, cipher: &Aes256Gcm, aad: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        self.rng.fill(&mut nonce);
        let sealed = cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: value, aad })
            .map_err(|_| Error::internal("a value is too large to be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }
}

/// Part of a sealed value. Included in the associated data, so that the parts cannot be exchanged.
#[derive(Clone, Copy)]
enum Part {
    Key = 1,
    Value = 2,
}

fn decrypt(cipher: &Aes256Gcm, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad }).ok()
}

impl Sealer for AesSealer {
    fn seal(&self, owner: &SealedFor, value: &[u8]) -> Result<Vec<u8>> {
        let mut key = Zeroizing::new([0; DATA_KEY_BYTES]);
        self.rng.fill(&mut *key);
        let sealed_key = self.encrypt(&self.cipher, &self.associated_data(owner, Part::Key), &*key)?;
        let cipher = Aes256Gcm::new((&*key).into());
        let sealed_value = self.encrypt(&cipher, &self.associated_data(owner, Part::Value), value)?;
        Ok([&[VERSION][..], &self.key_id, &sealed_key, &sealed_value].concat())
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        let damaged =
            || Error::internal(format!("a sealed {} was changed, or belongs to another row", owner.field));
        let ([version], rest) = sealed.split_first_chunk().ok_or_else(damaged)?;
        if *version != VERSION {
            return Err(Error::internal(format!("a sealed {} has an unsupported version", owner.field)));
        }
        let (key_id, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        if *key_id != self.key_id {
            return Err(Error::internal(format!(
                "a sealed {} was sealed with another master key",
                owner.field
            )));
        }
        let (sealed_key, sealed_value) =
            rest.split_at_checked(NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES).ok_or_else(damaged)?;
        let key =
            decrypt(&self.cipher, &self.associated_data(owner, Part::Key), sealed_key).ok_or_else(damaged)?;
        let key = Zeroizing::new(key);
        let cipher = Aes256Gcm::new_from_slice(&key).map_err(|_| damaged())?;
        decrypt(&cipher, &self.associated_data(owner, Part::Value), sealed_value).ok_or_else(damaged)
    }

    fn mark(&self) -> Vec<u8> {
        [&[VERSION][..], &self.key_id].concat()
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_core::Cause;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::SystemRng;

    fn sealer() -> AesSealer {
        let directory = tempfile::tempdir().unwrap();
        let key = MasterKey::create(&directory.path().join("master.key"), &SystemRng).unwrap();
        AesSealer::new(&key, Arc::new(SystemRng))
    }

    fn owner() -> SealedFor {
        SealedFor { row: Uuid::from_u128(7), field: "clusters.credential" }
    }

    #[test]
    fn sealed_value_opens_only_for_its_owner_and_key() {
        let (own, other_sealer) = (sealer(), sealer());
        let sealed = own.seal(&owner(), b"canary-token").unwrap();
        assert_eq!(own.open(&owner(), &sealed).unwrap(), b"canary-token");
        for other in [
            SealedFor { row: Uuid::from_u128(8), ..owner() },
            SealedFor { field: "clusters.credentials", ..owner() },
            SealedFor { field: "", ..owner() },
        ] {
            assert!(own.open(&other, &sealed).is_err(), "{other:?}");
        }
        let error = other_sealer.open(&owner(), &sealed).unwrap_err();
        assert_eq!(error.cause, Cause::Internal, "{error}");
    }

    #[test]
    fn parts_of_two_sealed_values_cannot_be_mixed() {
        let sealer = sealer();
        let [a, b] = [sealer.seal(&owner(), b"one").unwrap(), sealer.seal(&owner(), b"two").unwrap()];
        assert_ne!(a, b);
        let value = 1 + KEY_ID_BYTES + NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES;
        let mixed = [&a[..value], &b[value..]].concat();
        assert!(sealer.open(&owner(), &mixed).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sealed_value_round_trips_and_hides_its_plaintext(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let sealer = sealer();
            let sealed = sealer.seal(&owner(), &value).unwrap();
            prop_assert_eq!(sealer.open(&owner(), &sealed).unwrap(), value.clone());
            prop_assert!(value.len() < 8 || !sealed.windows(value.len()).any(|window| window == value));
        }

        #[test]
        fn flipped_bit_is_an_error(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let sealer = sealer();
            let sealed = sealer.seal(&owner(), &value).unwrap();
            for bit in 0..sealed.len() * 8 {
                let mut changed = sealed.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(sealer.open(&owner(), &changed).is_err(), "bit {}", bit);
            }
        }

        #[test]
        fn truncated_or_extended_value_is_an_error(value in proptest::collection::vec(any::<u8>(), 0..40), more in any::<u8>()) {
            let sealer = sealer();
            let mut sealed = sealer.seal(&owner(), &value).unwrap();
            for length in 0..sealed.len() {
                prop_assert!(sealer.open(&owner(), &sealed[..length]).is_err(), "cut to {}", length);
            }
            sealed.push(more);
            prop_assert!(sealer.open(&owner(), &sealed).is_err());
        }
    }
}
