//! Master key: key file and key derivation.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use pilothouse_core::rng::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{PrivateFileError, open_private_file, purpose};

/// Reason why a key file cannot be loaded or created. Each text contains the next step and no byte of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file does not exist.
    #[error("the key file {0} does not exist: restore it, or set key_file to the right path")]
    Missing(PathBuf),
    /// The file exists. It is never overwritten.
    #[error("the key file {0} already exists and is not overwritten: use it, or move it away")]
    Exists(PathBuf),
    /// The file cannot be read or written.
    #[error("the key file {path} cannot be used ({source}): allow this user to read and write it")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Other users may read or write the file ([`open_private_file`]).
    #[error(
        "the key file {path} has mode {mode:04o}, so other users can access it: run chmod 600 on it, or mount it as root's \
         with mode 0440 and a group of this process"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },
    /// The file does not contain a key.
    #[error("the key file {0} does not contain 64 hexadecimal digits: restore it from a backup")]
    Malformed(PathBuf),
}

/// Length of a key, in bytes.
const KEY_BYTES: usize = 32;

/// The master key of this installation: 32 random bytes. Wiped from memory when dropped; `Debug` does not show the key.
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

impl MasterKey {
    /// Loads the key from a file with 64 hexadecimal digits and a line break that other users cannot read
    /// ([`open_private_file`]).
    ///
    /// # Errors
    /// [`KeyError`] except `Exists`.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
            _ => KeyError::Io { path: path.to_owned(), source },
        };
        let file = open_private_file(path).map_err(|error| match error {
            PrivateFileError::Io(source) => failed(source),
            PrivateFileError::Exposed { mode } => KeyError::Exposed { path: path.to_owned(), mode },
        })?;
        // twice the expected size, which is enough to detect a file that is too long
        let mut text = Zeroizing::new(Vec::with_capacity(4 * KEY_BYTES));
        file.take(4 * KEY_BYTES as u64).read_to_end(&mut text).map_err(failed)?;
        let key = read_hex(text.trim_ascii_end()).ok_or_else(|| KeyError::Malformed(path.to_owned()))?;
        Ok(Self(key))
    }

    /// Generates a key and stores it in a new file that only its owner can read. The file is durable when this
    /// returns.
    ///
    /// # Errors
    /// [`KeyError::Exists`], [`KeyError::Io`]. No new file is left then.
    pub fn create(path: &Path, rng: &dyn Rng) -> Result<Self, KeyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => KeyError::Io { path: path.to_owned(), source },
        };
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rng.fill(&mut *key);
        let text = Zeroizing::new(hex(&*key) + "\n");

        // written to a temporary file with a unique name first, and then linked, so that a reader of the key file
        // never reads a part of the key
        let mut suffix = [0; 8];
        rng.fill(&mut suffix);
        let temporary = path.with_added_extension(hex(&suffix));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        let stored = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::hard_link(&temporary, path));
        let removed = fs::remove_file(&temporary);
        stored.and(removed).and_then(|()| sync_directory(path)).map_err(failed)?;
        Ok(Self(key))
    }

    /// Fingerprint of the key: 64 hexadecimal digits that reveal nothing of the key. A database stores it to identify
    /// its key.
    pub fn fingerprint(&self) -> String {
        hex(&*self.derive(purpose::FINGERPRINT))
    }

    /// Derives a key for one [`purpose`] (HKDF-SHA256).
    pub(crate) fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Hkdf::<Sha256>::new(None, &*self.0)
            .expand(purpose.as_bytes(), &mut *key)
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        key
    }
}

/// Flushes the directory of a file, which makes a new directory entry durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory =
        path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// Encodes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Parses a key of exactly 64 hexadecimal digits.
fn read_hex(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let (pairs, rest) = text.as_chunks::<2>();
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if pairs.len() != KEY_BYTES || !rest.is_empty() {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::SystemRng;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn written(path: &Path, text: &[u8], mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn created_key_round_trips_and_only_its_owner_can_read_it() {
        let directory = directory();
        let path = directory.path().join("master.key");
        let created = MasterKey::create(&path, &SystemRng).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 65);
        assert!(text.ends_with('\n') && text.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
        let loaded = MasterKey::load(&path).unwrap();
        assert_eq!(loaded.0, created.0);
        assert_eq!(loaded.fingerprint(), created.fingerprint());
    }

    #[test]
    fn existing_key_file_is_not_overwritten() {
        let directory = directory();
        let path = directory.path().join("master.key");
        let first = MasterKey::create(&path, &SystemRng).unwrap();
        assert!(matches!(MasterKey::create(&path, &SystemRng), Err(KeyError::Exists(_))));
        assert_eq!(MasterKey::load(&path).unwrap().0, first.0);
    }

    #[test]
    fn concurrent_creations_yield_one_complete_key() {
        let directory = directory();
        let path = directory.path().join("master.key");
        let make = || match MasterKey::create(&path, &SystemRng) {
            Err(KeyError::Exists(_)) => (MasterKey::load(&path).unwrap().0, false),
            created => (created.unwrap().0, true),
        };
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|(_, created)| *created).count(), 1);
        assert!(made.iter().all(|(key, _)| *key == made[0].0));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other file is left");
    }

    #[test]
    fn failed_creation_leaves_no_file() {
        let directory = directory();
        let path = directory.path().join("absent").join("master.key");
        assert!(matches!(MasterKey::create(&path, &SystemRng), Err(KeyError::Io { .. })));
        assert!(matches!(MasterKey::load(&path), Err(KeyError::Missing(_))));
    }

    #[test]
    fn key_file_readable_by_other_users_is_refused() {
        let directory = directory();
        let path = directory.path().join("master.key");
        for (mode, accepted) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false), (0o644, false)]
        {
            written(&path, &[b'a'; 64], mode);
            let loaded = MasterKey::load(&path);
            assert_eq!(loaded.is_ok(), accepted, "{mode:o}");
            if let Err(error) = loaded {
                assert!(matches!(error, KeyError::Exposed { .. }), "{error}");
            }
        }
    }

    #[test]
    fn key_file_must_hold_64_hex_digits() {
        let directory = directory();
        let path = directory.path().join("master.key");
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        let cases: [(&[u8], bool); 9] = [
            (digits.as_bytes(), true),
            (&[digits.as_bytes(), b"\n"].concat(), true),
            (&[digits.as_bytes(), b"\r\n"].concat(), true),
            (b"", false),
            (&digits.as_bytes()[1..], false),
            (&[digits.as_bytes(), b"0"].concat(), false),
            (&[digits.as_bytes(), b"00"].concat(), false),
            (&[&digits.as_bytes()[1..], b"g"].concat(), false),
            (&digits.repeat(1000).into_bytes(), false),
        ];
        for (text, accepted) in cases {
            written(&path, text, 0o600);
            let loaded = MasterKey::load(&path);
            assert_eq!(loaded.is_ok(), accepted, "{:?}", String::from_utf8_lossy(text));
            assert!(loaded.err().is_none_or(|error| matches!(error, KeyError::Malformed(_))));
        }
    }

    #[test]
    fn derived_keys_differ_by_purpose_and_master_key() {
        let directory = directory();
        let [a, b] =
            ["a", "b"].map(|name| MasterKey::create(&directory.path().join(name), &SystemRng).unwrap());
        assert_ne!(a.derive("one"), a.derive("two"));
        assert_ne!(a.fingerprint(), b.fingerprint());
        assert_ne!(a.fingerprint(), hex(&*a.0), "a fingerprint is not the key");
    }

    #[test]
    fn master_key_debug_shows_nothing() {
        let directory = directory();
        let path = directory.path().join("master.key");
        let key = MasterKey::create(&path, &SystemRng).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(…)");
    }
}
