//! Ed25519 signatures (RFC 8032) of checkpoints and exports, with a key derived from the master key.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use pilothouse_core::{
    audit::{CheckpointSigner, PublicKey, Signature, SignatureVerifier},
    hex::Hex,
};

use crate::{MasterKey, purpose};

/// Verifies signatures. Holds no secret.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ed25519Verifier;

impl SignatureVerifier for Ed25519Verifier {
    fn verifies(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key.0).verify(message, &signature.0).is_ok()
    }
}

/// Signs with the key of this installation.
pub struct Ed25519Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Ed25519Signer {
    /// Derives the signing key from the master key.
    pub fn new(key: &MasterKey) -> Self {
        let seed = key.derive(purpose::AUDIT_SIGNATURES);
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).expect("every 32 bytes are a seed");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: Hex(public) }
    }
}

impl SignatureVerifier for Ed25519Signer {
    fn verifies(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        Ed25519Verifier.verifies(key, message, signature)
    }
}

impl CheckpointSigner for Ed25519Signer {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Hex(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRng;

    fn signer() -> Ed25519Signer {
        let directory = tempfile::tempdir().unwrap();
        Ed25519Signer::new(&MasterKey::create(&directory.path().join("master.key"), &SystemRng).unwrap())
    }

    /// Test vector: RFC 8032, section 7.1, test 3.
    #[test]
    fn rfc8032_vector_verifies() {
        let key = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025".parse().unwrap();
        let signature = "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
                         18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
        let signature = signature.parse().unwrap();
        assert!(Ed25519Verifier.verifies(&key, &[0xaf, 0x82], &signature));
        assert!(!Ed25519Verifier.verifies(&key, &[0xaf, 0x83], &signature));
    }

    #[test]
    fn signature_verifies_only_with_its_key_and_message() {
        let (own, other) = (signer(), signer());
        assert_ne!(own.public_key(), other.public_key());
        let signed = own.sign(b"message");
        assert_eq!(signed, own.sign(b"message"));
        assert!(own.verifies(&own.public_key(), b"message", &signed));
        assert!(!own.verifies(&other.public_key(), b"message", &signed));
        assert!(!own.verifies(&own.public_key(), b"messagf", &signed));
        for bit in 0..512 {
            let mut forged = signed;
            forged.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!Ed25519Verifier.verifies(&own.public_key(), b"message", &forged), "bit {bit}");
        }
    }
}
