//! Refresh tokens of browsers: HMAC-SHA256 of session and generation, with a key derived from the master key. Every
//! replica derives the same token, so that none needs to be stored.

use aws_lc_rs::hmac;
use pilothouse_core::session::SecretHash;
use secrecy::SecretString;

use crate::{MasterKey, key::hex, purpose};

/// Derives the refresh tokens of this installation.
pub(crate) struct RefreshTokens(hmac::Key);

impl RefreshTokens {
    /// Derives the key from the master key.
    pub(crate) fn new(key: &MasterKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &*key.derive(purpose::REFRESH_TOKENS)))
    }

    /// The token of a generation of the session with this cookie: 64 hexadecimal digits.
    pub(crate) fn token(&self, cookie: SecretHash, generation: i64) -> SecretString {
        // both parts have a fixed length, so different parts never yield the same bytes
        let message = [&cookie.0[..], &generation.to_be_bytes()].concat();
        hex(hmac::sign(&self.0, &message).as_ref()).into()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::SystemRng;

    fn tokens() -> [RefreshTokens; 2] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let created = MasterKey::create(&path, &SystemRng).unwrap();
        [created, MasterKey::load(&path).unwrap()].map(|key| RefreshTokens::new(&key))
    }

    #[test]
    fn token_depends_on_session_generation_and_key() {
        let ([one, replica], [other, _]) = (tokens(), tokens());
        let [a, b] = ["a", "b"].map(SecretHash::of);
        let token = one.token(a, 2);
        assert_eq!(token.expose_secret().len(), 64);
        assert_eq!(token.expose_secret(), replica.token(a, 2).expose_secret(), "the same key");
        for different in [one.token(a, 1), one.token(a, 3), one.token(b, 2), other.token(a, 2)] {
            assert_ne!(token.expose_secret(), different.expose_secret());
        }
    }
}
