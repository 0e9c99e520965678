//! Password hashing: Argon2id with bounded concurrency.

use std::{sync::Arc, thread};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash as Phc, Salt},
};
use async_trait::async_trait;
use pilothouse_core::{
    Cause, Error, Result,
    rng::Rng,
    user::{PasswordHash, PasswordHasher},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{runtime::Handle, sync::Semaphore};
use zeroize::Zeroize as _;

/// Cost of a hash: OWASP's minimum for Argon2id (19 MiB, two passes, one lane). One hash takes about 40 ms.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hash that is verified for an unknown user, at the same cost as for a known user. No password matches it.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Memory reserved per hash, in blocks of 1 KiB. Only used pages are backed by memory. glibc keeps freed blocks of up
/// to 32 MiB once it has seen some, and returns larger ones to the system at once (mallopt(3), M_MMAP_THRESHOLD).
const RESERVED_BLOCKS: usize = 33 << 10;

/// Maximum number of calls that wait for a core. Further calls are refused with `Overloaded`.
const MAX_QUEUED: usize = 64;

/// Hashes passwords with Argon2id, at most one per core at a time, because each takes 19 MiB.
pub struct Argon2Hasher {
    runtime: Handle,
    rng: Arc<dyn Rng>,
    /// Permits of running and waiting calls.
    admitted: Arc<Semaphore>,
    /// Permits of running calls.
    cores: Arc<Semaphore>,
}

impl Argon2Hasher {
    /// Creates a hasher that runs on the blocking threads of `runtime`.
    pub fn new(runtime: Handle, rng: Arc<dyn Rng>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            runtime,
            rng,
            admitted: Arc::new(Semaphore::new(cores + MAX_QUEUED)),
            cores: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Runs `work` when a core is free. If the caller is cancelled, waiting work is dropped, and running work ends
    /// normally.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let closed = |_| Error::internal("the hasher's semaphore is closed");
        let admitted =
            self.admitted.clone().try_acquire_owned().map_err(|_| Error::new(Cause::Overloaded))?;
        let core = self.cores.clone().acquire_owned().await.map_err(closed)?;
        let done = self.runtime.spawn_blocking(move || {
            let _held = (admitted, core);
            work()
        });
        done.await.map_err(|error| Error::internal(format!("hashing: {error}")))?
    }
}

#[async_trait]
impl PasswordHasher for Argon2Hasher {
    async fn hash(&self, password: &SecretString) -> Result<PasswordHash> {
        let password = password.clone();
        let mut salt = [0; argon2::RECOMMENDED_SALT_LEN];
        self.rng.fill(&mut salt);
        self.run(move || {
            let hash = hash(&password, &salt).map_err(|error| Error::internal(format!("Argon2: {error}")))?;
            Ok(PasswordHash::new(hash.to_string()))
        })
        .await
    }

    async fn verify<'a>(&self, password: &SecretString, hash: Option<&'a PasswordHash>) -> Result<bool> {
        let password = password.clone();
        let user_exists = hash.is_some();
        let phc = SecretString::from(hash.map_or(DUMMY_HASH, PasswordHash::phc));
        self.run(move || match verify(&password, &phc) {
            Ok(same) => Ok(same && user_exists),
            Err(error) => Err(Error::internal(format!("a stored password hash is unreadable: {error}"))),
        })
        .await
    }
}

fn hash(password: &SecretString, salt: &[u8]) -> Result<Phc, argon2::password_hash::Error> {
    let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(Params::DEFAULT_OUTPUT_LEN))?;
    Ok(Phc {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params)?,
        salt: Some(Salt::new(salt)?),
        hash: Some(output(password, salt, algorithm, version, params)?),
    })
}

/// Whether the password matches the hash. Cost and salt come from the hash, so that hashes with an earlier cost stay
/// valid.
fn verify(password: &SecretString, phc: &SecretString) -> Result<bool, argon2::password_hash::Error> {
    use argon2::password_hash::Error::{OutputSize, SaltInvalid};
    let phc = Phc::new(phc.expose_secret())?;
    let (salt, expected) = (phc.salt.as_ref().ok_or(SaltInvalid)?, phc.hash.as_ref().ok_or(OutputSize)?);
    let algorithm = Algorithm::try_from(phc.algorithm.as_str())?;
    let version = phc.version.map(Version::try_from).transpose()?.unwrap_or_default();
    // compared in constant time
    Ok(output(password, salt, algorithm, version, Params::try_from(&phc)?)? == *expected)
}

/// Runs Argon2 in a buffer that is returned to the system afterwards.
fn output(
    password: &SecretString,
    salt: &[u8],
    algorithm: Algorithm,
    version: Version,
    params: Params,
) -> Result<Output, argon2::password_hash::Error> {
    let mut memory = Vec::with_capacity(params.block_count().max(RESERVED_BLOCKS));
    memory.resize(params.block_count(), Block::new());
    let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(algorithm, version, params);
    let done = argon2.hash_password_into_with_memory(
        password.expose_secret().as_bytes(),
        salt,
        &mut out,
        &mut memory,
    );
    memory.iter_mut().for_each(Block::zeroize);
    done?;
    Ok(Output::new(&out)?)
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::SystemRng;

    fn hasher() -> Argon2Hasher {
        Argon2Hasher::new(Handle::current(), Arc::new(SystemRng))
    }

    #[tokio::test]
    async fn only_the_hashed_password_verifies() {
        let hasher = hasher();
        let password = SecretString::from("密码 correct horse");
        let [hash, again] = [hasher.hash(&password).await.unwrap(), hasher.hash(&password).await.unwrap()];
        assert_ne!(hash.phc(), again.phc(), "the salt is random");
        assert!(hasher.verify(&password, Some(&hash)).await.unwrap());
        for other in ["", "密码 correct horsE", "密码 correct horse "] {
            assert!(!hasher.verify(&SecretString::from(other), Some(&hash)).await.unwrap(), "{other:?}");
        }
    }

    #[test]
    fn hashes_interoperate_with_the_argon2_crate_and_any_cost() {
        use argon2::{PasswordHasher as _, PasswordVerifier as _};
        let password = SecretString::from("correct horse");
        let hashed = super::hash(&password, b"0123456789abcdef").unwrap();
        assert_eq!(Argon2::default().verify_password(b"correct horse", &*hashed.to_string()), Ok(()));
        let cheap = Argon2::from(Params::new(64, 1, 2, None).unwrap());
        let cheap_hash = cheap.hash_password_with_salt(b"correct horse", b"0123456789abcdef").unwrap();
        let cheap_hash = SecretString::from(cheap_hash.to_string());
        assert_eq!(super::verify(&password, &cheap_hash), Ok(true));
        assert_eq!(super::verify(&SecretString::from("correct horsE"), &cheap_hash), Ok(false));
    }

    #[tokio::test]
    async fn hash_for_unknown_users_has_the_cost_of_other_hashes() {
        let hasher = hasher();
        let hash = hasher.hash(&SecretString::from("correct horse")).await.unwrap();
        let cost = |phc: &str| phc.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(cost(hash.phc()), cost(DUMMY_HASH));
        assert_eq!(hash.phc().len(), DUMMY_HASH.len());
        assert!(!hasher.verify(&SecretString::from(""), None).await.unwrap());
    }

    #[tokio::test]
    async fn malformed_stored_hash_is_an_internal_error() {
        let broken = PasswordHash::new("$argon2id$canary".to_owned());
        let error = hasher().verify(&SecretString::from("x"), Some(&broken)).await.unwrap_err();
        assert_eq!(error.cause, Cause::Internal);
        assert!(!error.to_string().contains("canary"));
    }

    #[tokio::test]
    async fn full_queue_refuses_and_releases_all_permits() {
        let hasher = hasher();
        let cores = hasher.cores.available_permits();
        // occupies all cores, so that every new call waits
        let taken = hasher.cores.clone().acquire_many_owned(cores as u32).await.unwrap();
        let password = SecretString::from("correct horse");
        let mut waiting: Vec<_> = (0..cores + MAX_QUEUED).map(|_| Box::pin(hasher.hash(&password))).collect();
        for attempt in &mut waiting {
            assert!(futures_util::poll!(attempt).is_pending());
        }
        assert_eq!(hasher.hash(&password).await.unwrap_err().cause, Cause::Overloaded);
        waiting.truncate(2); // cancels the others
        drop(taken);
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert!(hasher.hash(&password).await.is_ok());
        assert_eq!(hasher.admitted.available_permits(), cores + MAX_QUEUED);
    }
}
