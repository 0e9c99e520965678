//! The ports for randomness, password hashes, access tokens, sealing and signatures.
//!
//! One secret stands behind them: the install's [`MasterKey`], 32 random bytes in a file. Every other key is derived
//! from it by HKDF-SHA256 under a label of its own, so that none of them tells anything of another.

mod archive;
mod digest;
mod key;
mod keyring;
mod password;
mod private_file;
pub mod purpose;
mod rng;
mod seal;
mod sign;
mod token;
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
pub use webhook::WebhookKey;
