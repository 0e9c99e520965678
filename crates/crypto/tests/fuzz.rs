//! Fuzz tests of tokens and sealed values with generated input.
#![allow(clippy::unwrap_used, reason = "tests panic")]

use std::sync::Arc;

use jiff::Timestamp;
use pilothouse_core::{
    ids::{SessionId, UserId},
    seal::{SealedFor, Sealer},
    session::{Claims, TokenCodec},
};
use pilothouse_crypto::{AesSealer, JwtCodec, MasterKey, SystemRng};
use pilothouse_fuzz::fuzz;
use secrecy::ExposeSecret;
use uuid::Uuid;

fn key() -> MasterKey {
    let directory = tempfile::tempdir().unwrap();
    MasterKey::create(&directory.path().join("key"), &SystemRng).unwrap()
}

/// Of all inputs similar to a valid token, only the token itself verifies.
#[test]
fn fuzz_access_tokens() {
    let codec = JwtCodec::new(&key());
    let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let (user_id, session_id) = (UserId(1), SessionId(1));
    let claims = Claims { user_id, session_id, generation: 1, issued_at: at(0), expires_at: at(600) };
    let token = codec.sign(&claims).unwrap().expose_secret().to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let dictionary = [&token, parts[0], parts[1], parts[2], ".", "=", "eyJhbGciOiJub25lIn0"];
    let check = |text: &str| {
        if codec.verify(text, at(1)).is_ok() {
            assert_eq!(text, token);
        }
    };
    assert!(codec.verify(&token, at(1)).is_ok());
    fuzz("access_tokens", &dictionary, |input| {
        check(&String::from_utf8_lossy(input));
        // a changed byte of the valid token: position and value from the first two bytes of the input
        if let [position, byte, ..] = input {
            let mut changed = token.clone().into_bytes();
            let position = usize::from(*position) * changed.len() / 256;
            changed[position] = *byte;
            check(&String::from_utf8_lossy(&changed));
        }
    });
}

#[test]
fn fuzz_sealed_values() {
    let sealer = AesSealer::new(&key(), Arc::new(SystemRng));
    let owner = SealedFor { row: Uuid::from_u128(1), field: "clusters.credential" };
    let sealed = sealer.seal(&owner, b"a value").unwrap();
    fuzz("sealed_values", &[], |input| {
        assert!(sealer.open(&owner, input).is_err());
        // the sealed value XOR the input
        let changed: Vec<_> = sealed
            .iter()
            .zip(input.iter().chain(std::iter::repeat(&0)))
            .map(|(byte, change)| byte ^ change)
            .collect();
        let opened = sealer.open(&owner, &changed);
        assert_eq!(opened.is_ok(), changed == sealed);
    });
}
