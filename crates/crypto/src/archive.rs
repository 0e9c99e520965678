//! Encrypted backup archive: a stream encrypted with its own data key, which is sealed with the master key. Without the
//! master key no part of the contents is readable. Opening detects any change, reordering, truncation or addition.
//!
//! ```text
//! "pilothouse backup 1\n" | fingerprint of the master key, 64 digits | "\n" | uuid 16 | sealed data key 129
//! then chunks of 65,536, each with a tag of 16; the last may be shorter
//! ```
//! Lengths are in bytes.
//!
//! Chunks are sealed by AES-256-GCM in the STREAM construction (Hoang and others, 2015). Each is bound to all chunks
//! before it and to the header.

use std::io::{self, Read, Write};

use aead_stream::{DecryptorBE32, EncryptorBE32};
use aes_gcm::{Aes256Gcm, KeyInit, aead::Payload};
use pilothouse_core::{
    rng::Rng,
    seal::{SealedFor, Sealer},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{AesSealer, MasterKey};

const MAGIC: &[u8] = b"pilothouse backup 1\n";
const FINGERPRINT_BYTES: usize = 64;
const ID_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const SEALED_KEY_BYTES: usize = 129;
const CHUNK_BYTES: usize = 1 << 16;
const TAG_BYTES: usize = 16;

/// Reason why a backup cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The header is not that of a backup.
    #[error("the file is not a Pilothouse backup, or its header was changed: use another copy")]
    NotABackup,
    /// The backup is sealed with another master key.
    #[error(
        "the backup was sealed with the master key whose fingerprint begins with {0}: use the file of that key as the key \
         file"
    )]
    OtherKey(String),
    /// Data was changed, reordered, truncated or added.
    #[error("the backup was changed or truncated: use another copy")]
    Damaged,
    /// The input cannot be read, or the output cannot be written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn owner(id: [u8; ID_BYTES]) -> SealedFor {
    SealedFor { row: Uuid::from_bytes(id), field: "backup" }
}

/// Reads `size` bytes, or fewer at the end of the input.
fn read_chunk(input: &mut impl Read, size: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut chunk = Zeroizing::new(Vec::with_capacity(size));
    input.take(size as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// Seals `input` with the master key of this fingerprint, and writes the archive to `output`.
///
/// # Errors
/// Errors of `input` and `output`.
pub fn seal_archive(
    sealer: &dyn Sealer,
    fingerprint: &str,
    rng: &dyn Rng,
    mut input: impl Read,
    mut output: impl Write,
) -> io::Result<()> {
    let (mut id, mut key) = ([0; ID_BYTES], Zeroizing::new([0; KEY_BYTES]));
    rng.fill(&mut id);
    rng.fill(&mut *key);
    let sealed = sealer.seal(&owner(id), &*key).map_err(io::Error::other)?;
    let header = [MAGIC, fingerprint.as_bytes(), b"\n", &id, &sealed].concat();
    output.write_all(&header)?;

    // the data key is used once, so a constant nonce prefix is safe
    let cipher = Aes256Gcm::new((&*key).into());
    let mut encryptor = EncryptorBE32::from_aead(cipher, &Default::default());
    let too_large = |_| io::Error::other("a backup is too large");
    let mut current = read_chunk(&mut input, CHUNK_BYTES)?;
    loop {
        let next = read_chunk(&mut input, CHUNK_BYTES)?;
        if next.is_empty() {
            let sealed =
                encryptor.encrypt_last(Payload { msg: &current, aad: &header }).map_err(too_large)?;
            output.write_all(&sealed)?;
            return output.flush();
        }
        output.write_all(
            &encryptor.encrypt_next(Payload { msg: &current, aad: &header }).map_err(too_large)?,
        )?;
        current = next;
    }
}

/// Opens an archive of [`seal_archive`] with one of these keys. Output written before an error is authentic but
/// incomplete: only success means that all of it was written.
///
/// # Errors
/// [`ArchiveError`].
pub fn open_archive(
    keys: &[MasterKey],
    rng: std::sync::Arc<dyn Rng>,
    mut input: impl Read,
    mut output: impl Write,
) -> Result<(), ArchiveError> {
    let header = read_chunk(&mut input, MAGIC.len() + FINGERPRINT_BYTES + 1 + ID_BYTES + SEALED_KEY_BYTES)?;
    let rest = header.strip_prefix(MAGIC).ok_or(ArchiveError::NotABackup)?;
    let (fingerprint, rest) =
        rest.split_first_chunk::<FINGERPRINT_BYTES>().ok_or(ArchiveError::NotABackup)?;
    let (id, sealed_key) = rest
        .strip_prefix(b"\n")
        .and_then(<[u8]>::split_first_chunk::<ID_BYTES>)
        .ok_or(ArchiveError::NotABackup)?;
    let key_fingerprint = str::from_utf8(fingerprint).map_err(|_| ArchiveError::NotABackup)?;
    let key = keys.iter().find(|key| key.fingerprint() == key_fingerprint).ok_or_else(|| {
        // the header is untrusted text
        let digits = key_fingerprint.chars().take(8).filter(char::is_ascii_hexdigit);
        ArchiveError::OtherKey(digits.collect())
    })?;
    let opened = AesSealer::new(key, rng).open(&owner(*id), sealed_key);
    let key = Zeroizing::new(opened.map_err(|_| ArchiveError::Damaged)?);
    let cipher = Aes256Gcm::new_from_slice(&key).map_err(|_| ArchiveError::Damaged)?;
    let mut decryptor = DecryptorBE32::from_aead(cipher, &Default::default());

    let mut current = read_chunk(&mut input, CHUNK_BYTES + TAG_BYTES)?;
    loop {
        let next = read_chunk(&mut input, CHUNK_BYTES + TAG_BYTES)?;
        let payload = Payload { msg: &current, aad: &header };
        if next.is_empty() {
            let last = decryptor.decrypt_last(payload).map(Zeroizing::new);
            output.write_all(&last.map_err(|_| ArchiveError::Damaged)?)?;
            return Ok(output.flush()?);
        }
        let opened = decryptor.decrypt_next(payload).map(Zeroizing::new);
        output.write_all(&opened.map_err(|_| ArchiveError::Damaged)?)?;
        current = next;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::SystemRng;

    fn key() -> MasterKey {
        let directory = tempfile::tempdir().unwrap();
        MasterKey::create(&directory.path().join("master.key"), &SystemRng).unwrap()
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
    fn archives_of_any_length_round_trip() {
        let keys = [key(), key()];
        for length in
            [0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]
        {
            let text: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let sealed = sealed(&keys[1], &text);
            assert_eq!(opened(&keys, &sealed).unwrap(), text, "{length}");
            let chunks = length.div_ceil(CHUNK_BYTES).max(1);
            let header = MAGIC.len() + FINGERPRINT_BYTES + 1 + ID_BYTES + SEALED_KEY_BYTES;
            assert_eq!(sealed.len(), header + length + chunks * TAG_BYTES, "{length}");
        }
    }

    #[test]
    fn archive_opens_only_with_its_master_key() {
        let (own_key, other_keys) = (key(), [key()]);
        let sealed = sealed(&own_key, &b"canary".repeat(1000));
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
        let refused = opened(&other_keys, &sealed).unwrap_err();
        let prefix = own_key.fingerprint()[..8].to_owned();
        assert!(matches!(&refused, ArchiveError::OtherKey(begin) if *begin == prefix), "{refused}");
        // a changed fingerprint in the header does not change the key
        let mut renamed = sealed;
        renamed[MAGIC.len()..MAGIC.len() + FINGERPRINT_BYTES]
            .copy_from_slice(other_keys[0].fingerprint().as_bytes());
        assert!(matches!(opened(&other_keys, &renamed), Err(ArchiveError::Damaged)));
    }

    #[test]
    fn changed_reordered_truncated_or_extended_archive_is_rejected() {
        let keys = [key()];
        let text: Vec<u8> = (0..3 * CHUNK_BYTES).map(|n| (n % 251) as u8).collect();
        let whole = sealed(&keys[0], &text);
        let header = whole.len() - 3 * (CHUNK_BYTES + TAG_BYTES);
        let step = whole.len() / 97;
        for at in (0..header).chain((header..whole.len()).step_by(step)) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(opened(&keys, &changed).is_err(), "byte {at}");
        }
        for length in (0..=header)
            .chain((header..whole.len()).step_by(step))
            .chain([1, 2].map(|n| header + n * (CHUNK_BYTES + TAG_BYTES)))
        {
            assert!(opened(&keys, &whole[..length]).is_err(), "cut to {length}");
        }
        let (first, rest) = whole[header..].split_at(CHUNK_BYTES + TAG_BYTES);
        let (second, third) = rest.split_at(CHUNK_BYTES + TAG_BYTES);
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
        // chunks of another backup under the same master key
        let other = sealed(&keys[0], &text);
        assert!(opened(&keys, &[head, &other[header..]].concat()).is_err());
    }
}
