//! Webhook signatures: HMAC-SHA256 with a secret shared with the receiver.

use std::fmt;

use aws_lc_rs::hmac;
use pilothouse_core::hex::Hex;

/// The secret shared with the receiver. `Debug` does not show the secret.
pub struct WebhookKey(hmac::Key);

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookKey(…)")
    }
}

impl WebhookKey {
    /// Creates a key from the secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Signs a body: HMAC-SHA256 over the time (seconds since 1970, in decimal), a full stop, and the body.
    pub fn sign(&self, second: i64, body: &[u8]) -> Hex<32> {
        let mut hmac = hmac::Context::with_key(&self.0);
        hmac.update(format!("{second}.").as_bytes());
        hmac.update(body);
        let mut signature = [0; 32];
        signature.copy_from_slice(hmac.sign().as_ref());
        Hex(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected value: `printf '1700000000.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn signature_matches_openssl() {
        let signature = WebhookKey::new(b"key").sign(1_700_000_000, b"{}");
        assert_eq!(signature.to_string(), "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae");
        assert_ne!(WebhookKey::new(b"key").sign(1_700_000_001, b"{}"), signature);
        assert_ne!(WebhookKey::new(b"kez").sign(1_700_000_000, b"{}"), signature);
        assert_ne!(WebhookKey::new(b"key").sign(1_700_000_000, b"{ }"), signature);
    }
}
