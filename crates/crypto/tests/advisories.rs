//! Advisories of comparable products about keys and tokens, reproduced as tests. docs/advisories.md has the whole
//! list.
#![allow(clippy::unwrap_used, reason = "tests panic")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use jiff::Timestamp;
use pilothouse_core::{
    Cause,
    ids::{SessionId, UserId},
    seal::{SealedFor, Sealer},
    session::{Claims, TokenCodec},
};
use pilothouse_crypto::{AesSealer, JwtCodec, KeyError, MasterKey, SystemRng};
use secrecy::ExposeSecret;
use uuid::Uuid;

fn key(directory: &Path, name: &str) -> MasterKey {
    MasterKey::create(&directory.join(name), &SystemRng).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn claims() -> Claims {
    Claims {
        user_id: UserId(1),
        session_id: SessionId(1),
        generation: 1,
        issued_at: at(0),
        expires_at: at(600),
    }
}

/// KubePi: one signing key in the source code for every installation.
#[test]
fn cve_2023_22463_every_installation_has_its_own_key() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (key(directory.path(), "one"), key(directory.path(), "other"));
    assert_ne!(
        fs::read(directory.path().join("one")).unwrap(),
        fs::read(directory.path().join("other")).unwrap()
    );
    assert_ne!(one.fingerprint(), other.fingerprint());
    let [one, other] = [one, other].map(|key| JwtCodec::new(&key));
    let token = one.sign(&claims()).unwrap();
    assert!(one.verify(token.expose_secret(), at(1)).is_ok());
    assert_eq!(other.verify(token.expose_secret(), at(1)), Err(Cause::TokenInvalid));
    let mode = fs::metadata(directory.path().join("one")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Kubero: a default key was used when none was configured. A missing, short or exposed key is refused.
#[test]
fn cve_2026_125370_incomplete_or_exposed_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(MasterKey::load(&directory.path().join("missing")), Err(KeyError::Missing(_))));
    let path = directory.path().join("key");
    for text in ["", "secret", "0", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"0".repeat(128)] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(MasterKey::load(&path), Err(KeyError::Malformed(_))), "{text:?}");
    }
    let good = directory.path().join("good");
    MasterKey::create(&good, &SystemRng).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o666] {
        fs::set_permissions(&good, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(MasterKey::load(&good), Err(KeyError::Exposed { .. })), "{mode:o}");
    }
}

/// Argo CD: tokens without a signature, or with another algorithm, were accepted for any user. `src/token.rs` tests
/// more variants.
#[test]
fn cve_2022_29165_token_without_own_signature_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let codec = JwtCodec::new(&key(directory.path(), "key"));
    let token = codec.sign(&claims()).unwrap().expose_secret().to_owned();
    let [head, body, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    // {"alg":"none"} and {"alg":"none","typ":"JWT"}
    for none in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"] {
        for forged in
            [format!("{none}.{body}."), format!("{none}.{body}"), format!("{none}.{body}.{signature}")]
        {
            assert_eq!(codec.verify(&forged, at(1)), Err(Cause::TokenInvalid), "{forged}");
        }
    }
    for forged in [format!("{head}.{body}."), format!("{head}.{body}"), format!(".{body}.{signature}")] {
        assert_eq!(codec.verify(&forged, at(1)), Err(Cause::TokenInvalid), "{forged}");
    }
}

/// Argo CD: tokens that never expired.
#[test]
fn cve_2021_26921_every_token_expires() {
    let directory = tempfile::tempdir().unwrap();
    let codec = JwtCodec::new(&key(directory.path(), "key"));
    let token = codec.sign(&claims()).unwrap();
    assert!(codec.verify(token.expose_secret(), at(599)).is_ok());
    for later in [600, 601, 86_400, 400_000_000] {
        assert_eq!(codec.verify(token.expose_secret(), at(later)), Err(Cause::TokenExpired), "{later}");
    }
    assert_eq!(codec.verify(token.expose_secret(), at(-60)), Err(Cause::TokenInvalid), "before nbf");
}

/// Rancher: a value sealed for one cluster was opened for another.
#[test]
fn cve_2026_44945_sealed_value_opens_for_its_row_only() {
    let directory = tempfile::tempdir().unwrap();
    let sealer = AesSealer::new(&key(directory.path(), "key"), Arc::new(SystemRng));
    let owner = |row: u128, field| SealedFor { row: Uuid::from_u128(row), field };
    let own = owner(1, "clusters.credential");
    let sealed = sealer.seal(&own, b"a token").unwrap();
    assert_eq!(sealer.open(&own, &sealed).unwrap(), b"a token");
    for other in [
        owner(2, "clusters.credential"),
        owner(1, "clusters.ca"),
        owner(1, "clusters.credentia"),
        owner(1, ""),
    ] {
        assert_eq!(sealer.open(&other, &sealed).unwrap_err().cause, Cause::Internal, "{other:?}");
    }
    let other_installation = AesSealer::new(&key(directory.path(), "other"), Arc::new(SystemRng));
    assert!(other_installation.open(&own, &sealed).is_err(), "another installation cannot open it");
}

/// Portainer: encryption without authentication, so that a changed ciphertext decrypted to garbage.
#[test]
fn cve_2024_33662_changed_ciphertext_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let sealer = AesSealer::new(&key(directory.path(), "key"), Arc::new(SystemRng));
    let owner = SealedFor { row: Uuid::from_u128(1), field: "clusters.credential" };
    let sealed = sealer.seal(&owner, b"a token").unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(sealer.open(&owner, &changed).is_err(), "byte {at}");
        assert!(sealer.open(&owner, &sealed[..at]).is_err(), "cut at {at}");
    }
}
