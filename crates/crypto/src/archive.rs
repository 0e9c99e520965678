//! Backups: a stream sealed with a key of its own, which is itself sealed by the master key. Without that key nothing of it
//! can be read, not even names; with it, anything changed, moved, cut or added is found.
//!
//! ```text
//! "pilothouse backup 1\n" | fingerprint of the master key, 64 digits | "\n" | uuid 16 | sealed data key 129
//! then pieces of 65,536 bytes, each with a tag of 16; the last may be shorter
//! ```
//! Pieces are sealed by AES-256-GCM in the STREAM construction (Hoang and others, 2015), each bound to all before them and to
//! what stands before.

use std::io::{self, Read, Write};

use aead_stream::{DecryptorBE32, EncryptorBE32};
use aes_gcm::{Aes256Gcm, KeyInit, aead::Payload};
use pilothouse_core::{
    clock::Rng,
    seal::{SealedFor, Sealer},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{AesSealer, MasterKey};

const FORM: &[u8] = b"pilothouse backup 1\n";
const FINGERPRINT: usize = 64;
const ID: usize = 16;
const KEY: usize = 32;
const SEALED_KEY: usize = 129;
const PIECE: usize = 1 << 16;
const TAG: usize = 16;

/// Why a backup does not open.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It begins with something else.
    #[error("it is not a backup made by this Pilothouse, or its header was changed")]
    NotOne,
    /// It needs another master key.
    #[error(
        "it was sealed with the master key whose fingerprint begins with {0}: use that key's file as the key file"
    )]
    OtherKey(String),
    /// Something in it was changed, moved, cut off or added.
    #[error("it was changed or truncated")]
    Damaged,
    /// It cannot be read, or what is in it cannot be written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn owner(id: [u8; ID]) -> SealedFor {
    SealedFor { row: Uuid::from_bytes(id), field: "backup" }
}

/// Up to `size` bytes: fewer only at the end.
fn piece(input: &mut impl Read, size: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut piece = Zeroizing::new(Vec::with_capacity(size));
    input.take(size as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

/// Seals all of `input` under the master key of this fingerprint.
///
/// # Errors
/// What reading and writing say.
pub fn seal_archive(
    sealer: &dyn Sealer,
    fingerprint: &str,
    rng: &dyn Rng,
    mut input: impl Read,
    mut output: impl Write,
) -> io::Result<()> {
    let (mut id, mut key) = ([0; ID], Zeroizing::new([0; KEY]));
    rng.fill(&mut id);
    rng.fill(&mut *key);
    let sealed = sealer.seal(&owner(id), &*key).map_err(io::Error::other)?;
    let header = [FORM, fingerprint.as_bytes(), b"\n", &id, &sealed].concat();
    output.write_all(&header)?;

    // the key is never used again, so every nonce may begin alike
    let cipher = Aes256Gcm::new((&*key).into());
    let mut encryptor = EncryptorBE32::from_aead(cipher, &Default::default());
    let full = |_| io::Error::other("a backup is too large");
    let mut now = piece(&mut input, PIECE)?;
    loop {
        let next = piece(&mut input, PIECE)?;
        if next.is_empty() {
            let sealed = encryptor.encrypt_last(Payload { msg: &now, aad: &header }).map_err(full)?;
            output.write_all(&sealed)?;
            return output.flush();
        }
        output.write_all(&encryptor.encrypt_next(Payload { msg: &now, aad: &header }).map_err(full)?)?;
        now = next;
    }
}

/// Opens what [`seal_archive`] has sealed with one of these keys. What is written is good as far as it goes, and all of it
/// only when this succeeds.
///
/// # Errors
/// [`ArchiveError`].
pub fn open_archive(
    keys: &[MasterKey],
    rng: std::sync::Arc<dyn Rng>,
    mut input: impl Read,
    mut output: impl Write,
) -> Result<(), ArchiveError> {
    let header = piece(&mut input, FORM.len() + FINGERPRINT + 1 + ID + SEALED_KEY)?;
    let rest = header.strip_prefix(FORM).ok_or(ArchiveError::NotOne)?;
    let (fingerprint, rest) = rest.split_first_chunk::<FINGERPRINT>().ok_or(ArchiveError::NotOne)?;
    let (id, sealed_key) =
        rest.strip_prefix(b"\n").and_then(<[u8]>::split_first_chunk::<ID>).ok_or(ArchiveError::NotOne)?;
    let named = str::from_utf8(fingerprint).map_err(|_| ArchiveError::NotOne)?;
    let key = keys.iter().find(|key| key.fingerprint() == named).ok_or_else(|| {
        // it is somebody's text
        let digits = named.chars().take(8).filter(char::is_ascii_hexdigit);
        ArchiveError::OtherKey(digits.collect())
    })?;
    let opened = AesSealer::new(key, rng).open(&owner(*id), sealed_key);
    let key = Zeroizing::new(opened.map_err(|_| ArchiveError::Damaged)?);
    let cipher = Aes256Gcm::new_from_slice(&key).map_err(|_| ArchiveError::Damaged)?;
    let mut decryptor = DecryptorBE32::from_aead(cipher, &Default::default());

    let mut now = piece(&mut input, PIECE + TAG)?;
    loop {
        let next = piece(&mut input, PIECE + TAG)?;
        let payload = Payload { msg: &now, aad: &header };
        if next.is_empty() {
            let last = decryptor.decrypt_last(payload).map(Zeroizing::new);
            output.write_all(&last.map_err(|_| ArchiveError::Damaged)?)?;
            return Ok(output.flush()?);
        }
        let opened = decryptor.decrypt_next(payload).map(Zeroizing::new);
        output.write_all(&opened.map_err(|_| ArchiveError::Damaged)?)?;
        now = next;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::SystemRng;

    fn key() -> MasterKey {
        let folder = tempfile::tempdir().unwrap();
        MasterKey::create(&folder.path().join("master.key"), &SystemRng).unwrap()
    }

    fn sealed(key: &MasterKey, text: &[u8]) -> Vec<u8> {
        let sealer = AesSealer::new(key, Arc::new(SystemRng));
        let mut sealed = Vec::new();
        seal_archive(&sealer, &key.fingerprint(), &SystemRng, text, &mut sealed).unwrap();
        sealed
    }

    fn opened(keys: &[MasterKey], sealed: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        let mut text = Vec::new();
        open_archive(keys, Arc::new(SystemRng), sealed, &mut text).map(|()| text)
    }

    #[test]
    fn what_was_sealed_is_opened_whatever_its_length() {
        let keys = [key(), key()];
        for length in [0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 7] {
            let text: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let sealed = sealed(&keys[1], &text);
            assert_eq!(opened(&keys, &sealed).unwrap(), text, "{length}");
            let pieces = length.div_ceil(PIECE).max(1);
            let header = FORM.len() + FINGERPRINT + 1 + ID + SEALED_KEY;
            assert_eq!(sealed.len(), header + length + pieces * TAG, "{length}");
        }
    }

    #[test]
    fn nothing_of_it_is_readable_without_the_key() {
        let (ours, theirs) = (key(), [key()]);
        let sealed = sealed(&ours, &b"canary".repeat(1000));
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
        let refused = opened(&theirs, &sealed).unwrap_err();
        let named = ours.fingerprint()[..8].to_owned();
        assert!(matches!(&refused, ArchiveError::OtherKey(begin) if *begin == named), "{refused}");
        // a header that names another key does not make it that key's
        let mut renamed = sealed;
        renamed[FORM.len()..FORM.len() + FINGERPRINT].copy_from_slice(theirs[0].fingerprint().as_bytes());
        assert!(matches!(opened(&theirs, &renamed), Err(ArchiveError::Damaged)));
    }

    #[test]
    fn whatever_is_changed_moved_cut_or_added_is_found() {
        let keys = [key()];
        let text: Vec<u8> = (0..3 * PIECE).map(|n| (n % 251) as u8).collect();
        let whole = sealed(&keys[0], &text);
        let header = whole.len() - 3 * (PIECE + TAG);
        let step = whole.len() / 97;
        for at in (0..header).chain((header..whole.len()).step_by(step)) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(opened(&keys, &changed).is_err(), "byte {at}");
        }
        for length in (0..=header)
            .chain((header..whole.len()).step_by(step))
            .chain([1, 2].map(|n| header + n * (PIECE + TAG)))
        {
            assert!(opened(&keys, &whole[..length]).is_err(), "cut to {length}");
        }
        let (first, rest) = whole[header..].split_at(PIECE + TAG);
        let (second, third) = rest.split_at(PIECE + TAG);
        let head = &whole[..header];
        for moved in [
            [head, second, first, third].concat(),
            [head, first, third].concat(),
            [head, first, first, second, third].concat(),
            [&whole[..], &[0]].concat(),
            [&whole[..], third].concat(),
        ] {
            assert!(matches!(opened(&keys, &moved), Err(ArchiveError::Damaged)));
        }
        // pieces of another backup under the same key
        let other = sealed(&keys[0], &text);
        assert!(opened(&keys, &[head, &other[header..]].concat()).is_err());
    }
}
