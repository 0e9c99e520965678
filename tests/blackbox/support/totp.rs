//! One-time codes (RFC 6238), computed independently of the server.

use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Client, strings};

/// Length of a time step in seconds.
const STEP: i64 = 30;

/// An authenticator app.
pub(crate) struct Totp {
    secret: String,
    seed: Vec<u8>,
}

impl Totp {
    /// Reads the secret in the response to an enrolment.
    pub(crate) fn new(secret: &str) -> Self {
        let (mut bytes, mut buffer, mut bits) = (Vec::new(), 0_u32, 0_u32);
        for letter in secret.bytes() {
            let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|one| *one == letter);
            buffer = (buffer << 5) | u32::try_from(value.expect("base32")).expect("below 32");
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((buffer >> bits) as u8);
                buffer &= (1_u32 << bits) - 1;
            }
        }
        Self { secret: secret.to_owned(), seed: bytes }
    }

    /// Enrols the client's user and confirms with the code of the step before the current one, so that the codes of the
    /// current step and of the next one are unused. Returns the recovery codes, too.
    pub(crate) async fn enrol(client: &Client) -> (Self, Vec<String>) {
        let data = client.post("/api/auth/totp/enroll", json!({})).await.data();
        let totp = Self::new(data["secret"].as_str().expect("a secret"));
        let code = totp.code(-1).await;
        let data = client.post("/api/auth/totp/confirm", json!({"code": code})).await.data();
        let codes: Vec<_> = strings(&data["recovery_codes"]).into_iter().map(str::to_owned).collect();
        assert_eq!(codes.len(), 10);
        (totp, codes)
    }

    /// The secret in base32, as shown.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The bytes of the secret.
    pub(crate) fn seed(&self) -> &[u8] {
        &self.seed
    }

    /// The code of the current step, or of one `offset` steps later. Waits for the start of a step if less than 10 s of
    /// the current one are left, so that the current step is the server's, too.
    pub(crate) async fn code(&self, offset: i64) -> String {
        let left = STEP - Timestamp::now().as_second() % STEP;
        if left < 10 {
            sleep(Duration::from_secs(left.unsigned_abs())).await;
        }
        self.code_of(Timestamp::now().as_second() / STEP + offset)
    }

    /// The code of a time step.
    fn code_of(&self, step: i64) -> String {
        let mac = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.seed), &step.to_be_bytes());
        let mac = mac.as_ref();
        let start = usize::from(mac[19] & 0xf);
        let number = u32::from_be_bytes(mac[start..start + 4].try_into().expect("four bytes"));
        format!("{:06}", (number & 0x7fff_ffff) % 1_000_000)
    }
}

/// The body of a login with a code.
pub(crate) fn login_with(username: &str, password: &str, code: &str) -> Value {
    json!({"username": username, "password": password, "code": code})
}

/// The test vectors of RFC 6238, appendix B, with the last six digits.
#[test]
fn codes_are_those_of_the_rfc() {
    let totp = Totp::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
    assert_eq!(totp.seed, b"12345678901234567890");
    for (second, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
        assert_eq!(totp.code_of(second / STEP), code);
    }
}
