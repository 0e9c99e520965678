//! Fakes of the secret ports: plaintext instead of cryptography, fast and insecure.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::{
    error::{Cause, Result},
    hex::Hex,
    ids::{SessionId, UserId},
    secret::ValueDigest,
    session::{Claims, SecretHash, TokenCodec},
    user::{InitialPassword, PasswordHash, PasswordHasher},
};

/// Password hasher whose hash is the password itself.
pub struct PlainHasher;

#[async_trait]
impl PasswordHasher for PlainHasher {
    async fn hash(&self, password: &SecretString) -> Result<PasswordHash> {
        Ok(PasswordHash::new(password.expose_secret().to_owned()))
    }

    async fn verify<'a>(&self, password: &SecretString, hash: Option<&'a PasswordHash>) -> Result<bool> {
        Ok(hash.is_some_and(|hash| hash.phc() == password.expose_secret()))
    }
}

/// Value digest without a key.
pub struct PlainDigest;

impl ValueDigest for PlainDigest {
    fn digest(&self, path: &[&str], value: &[u8]) -> Hex<16> {
        let hash = Sha256::new().chain_update(path.join("/")).chain_update(value).finalize();
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash[..16]);
        Hex(digest)
    }
}

/// Token codec without a key. An access token consists of its claims: `<user>.<session>.<generation>.<end>`.
pub struct PlainTokens;

impl TokenCodec for PlainTokens {
    fn sign(&self, claims: &Claims) -> Result<SecretString> {
        let Claims { user_id, session_id, generation, expires_at, .. } = claims;
        Ok(format!("{user_id}.{session_id}.{generation}.{}", expires_at.as_microsecond()).into())
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Cause> {
        let numbers: Option<Vec<i64>> = token.split('.').map(|part| part.parse().ok()).collect();
        let Some(&[user, session, generation, end]) = numbers.as_deref() else {
            return Err(Cause::TokenInvalid);
        };
        let expires_at = Timestamp::from_microsecond(end).map_err(|_| Cause::TokenInvalid)?;
        if now >= expires_at {
            return Err(Cause::TokenExpired);
        }
        let (user_id, session_id) = (UserId(user), SessionId(session));
        Ok(Claims { user_id, session_id, generation, issued_at: now, expires_at })
    }

    fn refresh_token(&self, cookie: SecretHash, generation: i64) -> SecretString {
        let digest = Sha256::new().chain_update(cookie.0).chain_update(generation.to_be_bytes()).finalize();
        Hex::<32>(digest.into()).to_string().into()
    }
}

/// Port that stores the published password for tests.
#[derive(Default)]
pub struct FakeInitialPassword(Mutex<Option<SecretString>>);

impl FakeInitialPassword {
    /// The published password, if any.
    pub fn password(&self) -> Option<SecretString> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl InitialPassword for FakeInitialPassword {
    fn publish(&self, password: &SecretString) -> Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.clone());
        Ok(())
    }

    fn remove(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
