//! Keyring: the master keys of a process, and the ports that use the active key.
//!
//! Each key has a file; during a key rotation the file of the next key is beside the key file. The database defines
//! which of the two is active ([`Keyring::set_active`]), so the two files may be swapped.

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
    hex::Hex,
    rng::Rng,
    rows::DigestKey,
    seal::{Keyring, Keys, SealedFor, Sealer},
    secret::ValueDigest,
    session::{Claims, SecretHash, TokenCodec},
};
use secrecy::SecretString;

use crate::{AesSealer, Ed25519Signer, JwtCodec, KeyError, KeyedDigest, MasterKey, purpose};

/// `Retry-After` of an error for a key that is not in the key files.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Keys and adapters derived from one master key.
struct DerivedKeys {
    fingerprint: String,
    sealer: Arc<AesSealer>,
    signer: Arc<Ed25519Signer>,
    tokens: JwtCodec,
    digest: KeyedDigest,
    rows: DigestKey,
}

impl DerivedKeys {
    fn from(key: &MasterKey, rng: &Arc<dyn Rng>) -> Arc<Self> {
        Arc::new(Self {
            fingerprint: key.fingerprint(),
            sealer: Arc::new(AesSealer::new(key, rng.clone())),
            signer: Arc::new(Ed25519Signer::new(key)),
            tokens: JwtCodec::new(key),
            digest: KeyedDigest::new(key),
            rows: DigestKey::new(&key.derive(purpose::ROW_DIGESTS)),
        })
    }
}

/// The keys in memory.
struct HeldKeys {
    active: Arc<DerivedKeys>,
    /// The key that was active before. Opens values that were read before the rotation.
    past: Option<Arc<DerivedKeys>>,
    /// Another key of the key files, usually the one that becomes active next.
    next: Option<Arc<DerivedKeys>>,
}

impl HeldKeys {
    fn all(&self) -> impl Iterator<Item = &Arc<DerivedKeys>> {
        [Some(&self.active), self.next.as_ref(), self.past.as_ref()].into_iter().flatten()
    }
}

/// The keys of a key file and of the next key file. Implements every port that depends on the master key.
pub struct FileKeyring {
    path: PathBuf,
    rng: Arc<dyn Rng>,
    held: RwLock<HeldKeys>,
}

impl fmt::Debug for FileKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyring").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileKeyring {
    /// Path of the next key file: that of the key file with the extension `.next` added.
    pub fn next_file(path: &Path) -> PathBuf {
        path.with_added_extension("next")
    }

    /// Loads the keys from `path` and from the next key file. The key with the fingerprint `active` is the active
    /// key, if it is one of them.
    ///
    /// # Errors
    /// As [`MasterKey::load`]. A missing key file is accepted if the next key is the active one.
    pub fn open(path: &Path, active: Option<&str>, rng: Arc<dyn Rng>) -> Result<Self, KeyError> {
        let next = match MasterKey::load(&Self::next_file(path)) {
            Err(KeyError::Missing(_)) => None,
            next => Some(DerivedKeys::from(&next?, &rng)),
        };
        let next_is_active = next.as_ref().is_some_and(|next| active == Some(&next.fingerprint));
        let held = match MasterKey::load(path) {
            Err(KeyError::Missing(_)) if next_is_active => None,
            key => Some(DerivedKeys::from(&key?, &rng)),
        };
        let held = match (held, next) {
            (past, Some(next)) if next_is_active => HeldKeys { active: next, past, next: None },
            (Some(active), next) => HeldKeys { active, past: None, next },
            (None, _) => return Err(KeyError::Missing(path.to_owned())),
        };
        Ok(Self { path: path.to_owned(), rng, held: RwLock::new(held) })
    }

    /// The key for row digests. It stays the same for the lifetime of a process, see [`DigestKey::share`].
    pub fn row_digests(&self) -> DigestKey {
        self.active().rows.clone()
    }

    fn active(&self) -> Arc<DerivedKeys> {
        self.read().active.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HeldKeys> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a key in memory, or else in one of the two files.
    fn find(&self, matches: impl Fn(&DerivedKeys) -> bool) -> Option<Arc<DerivedKeys>> {
        if let Some(held) = self.read().all().find(|key| matches(key)) {
            return Some(held.clone());
        }
        let files = [Self::next_file(&self.path), self.path.clone()];
        let found = files.iter().find_map(|file| {
            let key = DerivedKeys::from(&MasterKey::load(file).ok()?, &self.rng);
            matches(&key).then_some(key)
        })?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.next = Some(found.clone());
        Some(found)
    }

    fn by_fingerprint(&self, fingerprint: &str) -> Result<Arc<DerivedKeys>> {
        let found = self.find(|key| key.fingerprint == fingerprint);
        found.ok_or_else(|| Error::new(Cause::StoreUnavailable).retry_after(RETRY_AFTER))
    }
}

impl Keyring for FileKeyring {
    fn active(&self) -> String {
        self.active().fingerprint.clone()
    }

    fn keys(&self, fingerprint: &str) -> Result<Keys> {
        let key = self.by_fingerprint(fingerprint)?;
        Ok(Keys { sealer: key.sealer.clone(), signer: key.signer.clone() })
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        // if no key matches, any key returns the error
        let key = self.find(|key| sealed.starts_with(&key.sealer.mark()));
        key.unwrap_or_else(|| self.active()).sealer.open(owner, sealed)
    }

    fn set_active(&self, fingerprint: &str) -> Result<()> {
        {
            let held = self.read();
            let known = [Some(&held.active), held.past.as_ref()];
            if known.into_iter().flatten().any(|key| key.fingerprint == fingerprint) {
                return Ok(());
            }
        }
        let next = self.by_fingerprint(fingerprint)?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        // another thread may have switched already
        if held.active.fingerprint != fingerprint {
            held.past = Some(std::mem::replace(&mut held.active, next));
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

/// Signs with the active key.
impl CheckpointSigner for FileKeyring {
    fn public_key(&self) -> PublicKey {
        self.active().signer.public_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.active().signer.sign(message)
    }
}

/// Signs with the active key, and also accepts tokens of the next key, which another replica may use already. Tokens
/// of the previous key are invalid.
impl TokenCodec for FileKeyring {
    fn sign(&self, claims: &Claims) -> Result<SecretString> {
        self.active().tokens.sign(claims)
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Cause> {
        let (active, next) = {
            let held = self.read();
            (held.active.clone(), held.next.clone())
        };
        match (active.tokens.verify(token, now), next) {
            (Err(Cause::TokenInvalid), Some(next)) => next.tokens.verify(token, now),
            (verified, _) => verified,
        }
    }

    fn refresh_token(&self, cookie: SecretHash, generation: i64) -> SecretString {
        self.active().tokens.refresh_token(cookie, generation)
    }
}

impl ValueDigest for FileKeyring {
    fn digest(&self, place: &[&str], value: &[u8]) -> Hex<16> {
        self.active().digest.digest(place, value)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pilothouse_core::ids::{SessionId, UserId};
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
    fn row_digests_are_equal_for_replicas_with_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        for path in [&one, &other] {
            MasterKey::create(path, &SystemRng).unwrap();
        }
        let digest = |path| ring(path).row_digests().digest(b"row");
        assert_eq!(digest(&one), digest(&one));
        assert_ne!(digest(&one), digest(&other));
    }

    #[test]
    fn refresh_tokens_are_of_the_active_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        MasterKey::create(&path, &SystemRng).unwrap();
        let new = MasterKey::create(&FileKeyring::next_file(&path), &SystemRng).unwrap().fingerprint();
        let token = |ring: &FileKeyring| ring.refresh_token(SecretHash::of("cookie"), 2);
        let (one, other) = (ring(&path), ring(&path));
        assert_eq!(token(&one).expose_secret(), token(&other).expose_secret());
        let before = token(&one);
        one.set_active(&new).unwrap();
        assert_ne!(token(&one).expose_secret(), before.expose_secret());
    }

    #[test]
    fn next_key_file_is_loaded_and_used_after_set_active() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let old = MasterKey::create(&path, &SystemRng).unwrap().fingerprint();
        let ring = ring(&path);
        let sealed = ring.keys(&old).unwrap().sealer.seal(&owner(), b"canary").unwrap();
        let token = TokenCodec::sign(&ring, &claims()).unwrap();

        let staged = directory.path().join("elsewhere");
        let new = MasterKey::create(&staged, &SystemRng).unwrap().fingerprint();
        assert_eq!(ring.keys(&new).err().map(|error| error.cause), Some(Cause::StoreUnavailable));
        assert!(ring.set_active(&new).is_err());
        fs::rename(&staged, FileKeyring::next_file(&path)).unwrap();
        let resealed = ring.keys(&new).unwrap().sealer.seal(&owner(), b"canary").unwrap();
        assert_eq!(Keyring::active(&ring), old, "loading a key does not activate it");
        let before = ring.public_key();
        for sealed in [&sealed, &resealed] {
            assert_eq!(Keyring::open(&ring, &owner(), sealed).unwrap(), b"canary");
        }

        ring.set_active(&new).unwrap();
        assert_eq!(Keyring::active(&ring), new);
        assert_ne!(ring.public_key(), before);
        let verified = |token: &SecretString| ring.verify(token.expose_secret(), Timestamp::UNIX_EPOCH);
        assert_eq!(verified(&token), Err(Cause::TokenInvalid), "signed with the previous key");
        assert_eq!(verified(&TokenCodec::sign(&ring, &claims()).unwrap()), Ok(claims()));
        ring.set_active(&old).unwrap();
        assert_eq!(Keyring::active(&ring), new, "a retired key is not activated again");
        // after a restart the fingerprint in the database selects the key, not the name of its file
        let reopened = FileKeyring::open(&path, Some(&new), Arc::new(SystemRng)).unwrap();
        assert_eq!(Keyring::active(&reopened), new);
        fs::remove_file(&path).unwrap();
        let reopened = FileKeyring::open(&path, Some(&new), Arc::new(SystemRng)).unwrap();
        assert_eq!(Keyring::open(&reopened, &owner(), &resealed).unwrap(), b"canary");
        let refused = Keyring::open(&reopened, &owner(), &sealed).unwrap_err();
        assert_eq!(refused.cause, Cause::Internal, "{refused}");
    }

    #[test]
    fn token_of_the_next_key_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        MasterKey::create(&path, &SystemRng).unwrap();
        let new = MasterKey::create(&FileKeyring::next_file(&path), &SystemRng).unwrap().fingerprint();
        let (old_replica, new_replica) = (ring(&path), ring(&path));
        new_replica.set_active(&new).unwrap();
        let token = TokenCodec::sign(&new_replica, &claims()).unwrap();
        assert_eq!(old_replica.verify(token.expose_secret(), Timestamp::UNIX_EPOCH), Ok(claims()));
    }

    #[test]
    fn next_key_file_readable_by_other_users_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
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
