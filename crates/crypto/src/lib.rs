//! Cryptography adapter: implements the ports for randomness, password hashing, access tokens, one-time codes, sealing
//! and signatures.
//!
//! All keys derive from one secret, the [`MasterKey`] of the installation: 32 random bytes in a file. Every other key
//! is derived from it by HKDF-SHA256 with its own label, so that no derived key reveals anything about another.

mod archive;
mod digest;
mod key;
mod keyring;
mod password;
mod private_file;
pub mod purpose;
mod refresh;
mod rng;
mod seal;
mod sign;
mod token;
mod totp;
mod webhook;

pub use archive::{ArchiveError, open_archive, seal_archive};
pub use digest::KeyedDigest;
pub use key::{KeyError, MasterKey};
pub use keyring::FileKeyring;
pub use password::Argon2Hasher;
pub use private_file::{PrivateFileError, open_private_file};
pub use rng::SystemRng;
pub use seal::AesSealer;
pub use sign::{Ed25519Signer, Ed25519Verifier};
pub use token::JwtCodec;
pub use totp::Rfc6238Codec;
pub use webhook::WebhookKey;
