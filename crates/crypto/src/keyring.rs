//! The master keys that a process holds, and the ports that stand on the one in use.
//!
//! A key lies in its file; while the database is sealed anew, the next one lies beside it. Which of the two is in use
//! the database says ([`Keyring::turn_to`]); so it does not matter when either file is put in the other's place.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    audit::{CheckpointSigner, PublicKey, Signature, SignatureVerifier},
    clock::Rng,
    hex::Hex,
    inventory::DigestKey,
    seal::{Keyring, Keys, SealedFor, Sealer},
    secret::ValueDigest,
    session::{Claims, TokenCodec},
};
use secrecy::SecretString;

use crate::{AesSealer, Ed25519Signer, JwtCodec, KeyError, KeyedDigest, MasterKey, purpose};

/// When to look again for a key that is not there.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What derives from one master key.
struct Derived {
    fingerprint: String,
    sealer: Arc<AesSealer>,
    signer: Arc<Ed25519Signer>,
    tokens: JwtCodec,
    digest: KeyedDigest,
    rows: DigestKey,
}

impl Derived {
    fn from(key: &MasterKey, rng: &Arc<dyn Rng>) -> Arc<Self> {
        Arc::new(Self {
            fingerprint: key.fingerprint(),
            sealer: Arc::new(AesSealer::new(key, rng.clone())),
            signer: Arc::new(Ed25519Signer::new(key)),
            tokens: JwtCodec::new(key, rng.clone()),
            digest: KeyedDigest::new(key),
            rows: DigestKey::new(&key.derive(purpose::ROW_DIGESTS)),
        })
    }
}

/// The key in use, and those beside it.
struct Held {
    current: Arc<Derived>,
    /// What was in use before; opens what was read before the change.
    past: Option<Arc<Derived>>,
    /// What may be in use soon.
    next: Option<Arc<Derived>>,
}

impl Held {
    fn all(&self) -> impl Iterator<Item = &Arc<Derived>> {
        [Some(&self.current), self.next.as_ref(), self.past.as_ref()].into_iter().flatten()
    }
}

/// The keys of a key file and of the next one beside it. Every port that stands on the master key is this one.
pub struct FileKeyring {
    path: PathBuf,
    rng: Arc<dyn Rng>,
    held: RwLock<Held>,
}

impl fmt::Debug for FileKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyring").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileKeyring {
    /// Where the next key of a key file lies.
    pub fn next_file(path: &Path) -> PathBuf {
        path.with_added_extension("next")
    }

    /// The keys that lie at `path` and beside it; in use is the one of this fingerprint, where it is one of them.
    ///
    /// # Errors
    /// As [`MasterKey::load`]: of the key file, unless only the next one is there.
    pub fn open(path: &Path, in_use: Option<&str>, rng: Arc<dyn Rng>) -> Result<Self, KeyError> {
        let next = match MasterKey::load(&Self::next_file(path)) {
            Err(KeyError::Missing(_)) => None,
            next => Some(Derived::from(&next?, &rng)),
        };
        let next_in_use = next.as_ref().is_some_and(|next| in_use == Some(&next.fingerprint));
        let held = match MasterKey::load(path) {
            Err(KeyError::Missing(_)) if next_in_use => None,
            key => Some(Derived::from(&key?, &rng)),
        };
        let held = match (held, next) {
            (past, Some(next)) if next_in_use => Held { current: next, past, next: None },
            (Some(current), next) => Held { current, past: None, next },
            (None, _) => return Err(KeyError::Missing(path.to_owned())),
        };
        Ok(Self { path: path.to_owned(), rng, held: RwLock::new(held) })
    }

    /// The key of digests of rows. A process keeps the one that it began with, see [`DigestKey::share`].
    pub fn row_digests(&self) -> DigestKey {
        self.current().rows.clone()
    }

    fn current(&self) -> Arc<Derived> {
        self.read().current.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key that is held, or lies in one of the two files by now.
    fn find(&self, is_it: impl Fn(&Derived) -> bool) -> Option<Arc<Derived>> {
        if let Some(held) = self.read().all().find(|key| is_it(key)) {
            return Some(held.clone());
        }
        let files = [Self::next_file(&self.path), self.path.clone()];
        let found = files.iter().find_map(|file| {
            let key = Derived::from(&MasterKey::load(file).ok()?, &self.rng);
            is_it(&key).then_some(key)
        })?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.next = Some(found.clone());
        Some(found)
    }

    fn named(&self, fingerprint: &str) -> Result<Arc<Derived>> {
        let found = self.find(|key| key.fingerprint == fingerprint);
        found.ok_or_else(|| Error::new(Cause::StoreUnavailable).retry_after(RETRY_AFTER))
    }
}

impl Keyring for FileKeyring {
    fn current(&self) -> String {
        self.current().fingerprint.clone()
    }

    fn keys(&self, fingerprint: &str) -> Result<Keys> {
        let key = self.named(fingerprint)?;
        Ok(Keys { sealer: key.sealer.clone(), signer: key.signer.clone() })
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        // one that no key has sealed is for any of them to refuse
        let key = self.find(|key| sealed.starts_with(&key.sealer.mark()));
        key.unwrap_or_else(|| self.current()).sealer.open(owner, sealed)
    }

    fn turn_to(&self, fingerprint: &str) -> Result<()> {
        {
            let held = self.read();
            let known = [Some(&held.current), held.past.as_ref()];
            if known.into_iter().flatten().any(|key| key.fingerprint == fingerprint) {
                return Ok(());
            }
        }
        let next = self.named(fingerprint)?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        // another thread may have been faster
        if held.current.fingerprint != fingerprint {
            held.past = Some(std::mem::replace(&mut held.current, next));
            held.next = None;
        }
        Ok(())
    }
}

impl SignatureVerifier for FileKeyring {
    fn verifies(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        crate::Ed25519Verifier.verifies(key, message, signature)
    }
}

/// Signs with the key in use.
impl CheckpointSigner for FileKeyring {
    fn public_key(&self) -> PublicKey {
        self.current().signer.public_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.current().signer.sign(message)
    }
}

/// Signs with the key in use, and reads what the next one has signed as well: another replica may use it already. What
/// the one before has signed is nothing any more.
impl TokenCodec for FileKeyring {
    fn sign(&self, claims: &Claims) -> Result<SecretString> {
        self.current().tokens.sign(claims)
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Cause> {
        let (current, next) = {
            let held = self.read();
            (held.current.clone(), held.next.clone())
        };
        match (current.tokens.verify(token, now), next) {
            (Err(Cause::TokenInvalid), Some(next)) => next.tokens.verify(token, now),
            (verified, _) => verified,
        }
    }
}

impl ValueDigest for FileKeyring {
    fn digest(&self, place: &[&str], value: &[u8]) -> Hex<16> {
        self.current().digest.digest(place, value)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pilothouse_core::{session::SessionId, user::UserId};
    use secrecy::ExposeSecret as _;
    use uuid::Uuid;

    use super::*;
    use crate::SystemRng;

    fn owner() -> SealedFor {
        SealedFor { row: Uuid::from_u128(7), field: "clusters.credential" }
    }

    fn ring(path: &Path) -> FileKeyring {
        FileKeyring::open(path, None, Arc::new(SystemRng)).unwrap()
    }

    fn claims() -> Claims {
        let at = Timestamp::UNIX_EPOCH;
        Claims {
            user_id: UserId(1),
            session_id: SessionId(1),
            generation: 0,
            issued_at: at,
            expires_at: at + Duration::from_secs(600),
        }
    }

    #[test]
    fn replicas_with_one_key_file_give_rows_the_same_digests() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, others] = ["ours", "others"].map(|name| folder.path().join(name));
        for path in [&ours, &others] {
            MasterKey::create(path, &SystemRng).unwrap();
        }
        let digest = |path| ring(path).row_digests().digest(b"row");
        assert_eq!(digest(&ours), digest(&ours));
        assert_ne!(digest(&ours), digest(&others));
    }

    #[test]
    fn a_key_put_beside_the_first_is_found_when_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let old = MasterKey::create(&path, &SystemRng).unwrap().fingerprint();
        let ring = ring(&path);
        let sealed = ring.keys(&old).unwrap().sealer.seal(&owner(), b"canary").unwrap();
        let token = TokenCodec::sign(&ring, &claims()).unwrap();

        let elsewhere = folder.path().join("elsewhere");
        let new = MasterKey::create(&elsewhere, &SystemRng).unwrap().fingerprint();
        assert_eq!(ring.keys(&new).err().map(|error| error.cause), Some(Cause::StoreUnavailable));
        assert!(ring.turn_to(&new).is_err());
        fs::rename(&elsewhere, FileKeyring::next_file(&path)).unwrap();
        let sealed_anew = ring.keys(&new).unwrap().sealer.seal(&owner(), b"canary").unwrap();
        assert_eq!(Keyring::current(&ring), old, "to hold a key is not to use it");
        let before = ring.public_key();
        for sealed in [&sealed, &sealed_anew] {
            assert_eq!(Keyring::open(&ring, &owner(), sealed).unwrap(), b"canary");
        }

        ring.turn_to(&new).unwrap();
        assert_eq!(Keyring::current(&ring), new);
        assert_ne!(ring.public_key(), before);
        let verified = |token: &SecretString| ring.verify(token.expose_secret(), Timestamp::UNIX_EPOCH);
        assert_eq!(verified(&token), Err(Cause::TokenInvalid), "signed with the key before");
        assert_eq!(verified(&TokenCodec::sign(&ring, &claims()).unwrap()), Ok(claims()));
        ring.turn_to(&old).unwrap();
        assert_eq!(Keyring::current(&ring), new, "there is no way back");
        // whoever starts anew: the file's name does not matter, only what the database says
        let again = FileKeyring::open(&path, Some(&new), Arc::new(SystemRng)).unwrap();
        assert_eq!(Keyring::current(&again), new);
        fs::remove_file(&path).unwrap();
        let again = FileKeyring::open(&path, Some(&new), Arc::new(SystemRng)).unwrap();
        assert_eq!(Keyring::open(&again, &owner(), &sealed_anew).unwrap(), b"canary");
        let refused = Keyring::open(&again, &owner(), &sealed).unwrap_err();
        assert!(refused.to_string().contains("another master key"), "{refused}");
    }

    #[test]
    fn a_token_of_a_replica_that_uses_the_next_key_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        MasterKey::create(&path, &SystemRng).unwrap();
        let new = MasterKey::create(&FileKeyring::next_file(&path), &SystemRng).unwrap().fingerprint();
        let (here, there) = (ring(&path), ring(&path));
        there.turn_to(&new).unwrap();
        let token = TokenCodec::sign(&there, &claims()).unwrap();
        assert_eq!(here.verify(token.expose_secret(), Timestamp::UNIX_EPOCH), Ok(claims()));
    }

    #[test]
    fn a_next_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        MasterKey::create(&path, &SystemRng).unwrap();
        let next = FileKeyring::next_file(&path);
        let fingerprint = MasterKey::create(&next, &SystemRng).unwrap().fingerprint();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = FileKeyring::open(&path, None, Arc::new(SystemRng)).unwrap_err();
        assert!(matches!(refused, KeyError::Exposed { .. }), "{refused}");
        fs::remove_file(&next).unwrap();
        let ring = ring(&path);
        assert!(ring.keys(&fingerprint).is_err());
    }
}
