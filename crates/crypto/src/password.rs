//! Password hashes: Argon2id, on a bounded number of threads.

use std::{sync::Arc, thread};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash as Phc, Salt},
};
use async_trait::async_trait;
use pilothouse_core::{
    Cause, Error, Result,
    clock::Rng,
    user::{PasswordHash, PasswordHasher},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{runtime::Handle, sync::Semaphore};
use zeroize::Zeroize as _;

/// OWASP's floor for Argon2id: 19 MiB, two passes, one lane. About 40 ms.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What stands in for the hash of nobody: of the same cost, and no password has it.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What is reserved for one hash, in blocks of 1 KiB; only what is used is backed by memory. glibc keeps freed blocks of
/// up to 32 MiB once it has seen some, and gives larger ones back to the system at once (mallopt(3), M_MMAP_THRESHOLD).
const RESERVED: usize = 33 << 10;

/// How many may wait for a core; more are refused.
const QUEUE: usize = 64;

/// Hashes passwords with Argon2id, at most one per core at a time: each takes 19 MiB.
pub struct Argon2Hasher {
    runtime: Handle,
    rng: Arc<dyn Rng>,
    /// Those at work and those that wait.
    admitted: Arc<Semaphore>,
    /// Those at work.
    cores: Arc<Semaphore>,
}

impl Argon2Hasher {
    /// A hasher whose work runs on the blocking threads of `runtime`.
    pub fn new(runtime: Handle, rng: Arc<dyn Rng>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            runtime,
            rng,
            admitted: Arc::new(Semaphore::new(cores + QUEUE)),
            cores: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Runs `work` when a core is free. A caller that gives up leaves the queue; work that has begun ends.
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
        let someone = hash.is_some();
        let phc = SecretString::from(hash.map_or(NOBODY, PasswordHash::phc));
        self.run(move || match verify(&password, &phc) {
            Ok(same) => Ok(same && someone),
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

/// Whether it is the password of this hash. Cost and salt are the hash's own, so that hashes of an earlier cost stay good.
fn verify(password: &SecretString, phc: &SecretString) -> Result<bool, argon2::password_hash::Error> {
    use argon2::password_hash::Error::{OutputSize, SaltInvalid};
    let phc = Phc::new(phc.expose_secret())?;
    let (salt, expected) = (phc.salt.as_ref().ok_or(SaltInvalid)?, phc.hash.as_ref().ok_or(OutputSize)?);
    let algorithm = Algorithm::try_from(phc.algorithm.as_str())?;
    let version = phc.version.map(Version::try_from).transpose()?.unwrap_or_default();
    // compared in constant time
    Ok(output(password, salt, algorithm, version, Params::try_from(&phc)?)? == *expected)
}

/// Argon2 in memory that goes back to the system when it is done.
fn output(
    password: &SecretString,
    salt: &[u8],
    algorithm: Algorithm,
    version: Version,
    params: Params,
) -> Result<Output, argon2::password_hash::Error> {
    let mut memory = Vec::with_capacity(params.block_count().max(RESERVED));
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
    async fn a_password_is_known_again_and_no_other_is() {
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
    fn hashes_are_those_of_the_crate_and_of_any_cost() {
        use argon2::{PasswordHasher as _, PasswordVerifier as _};
        let password = SecretString::from("correct horse");
        let ours = super::hash(&password, b"0123456789abcdef").unwrap();
        assert_eq!(Argon2::default().verify_password(b"correct horse", &*ours.to_string()), Ok(()));
        let cheap = Argon2::from(Params::new(64, 1, 2, None).unwrap());
        let theirs = cheap.hash_password_with_salt(b"correct horse", b"0123456789abcdef").unwrap();
        let theirs = SecretString::from(theirs.to_string());
        assert_eq!(super::verify(&password, &theirs), Ok(true));
        assert_eq!(super::verify(&SecretString::from("correct horsE"), &theirs), Ok(false));
    }

    #[tokio::test]
    async fn nobody_costs_as_much_as_somebody() {
        let hasher = hasher();
        let hash = hasher.hash(&SecretString::from("correct horse")).await.unwrap();
        let cost = |phc: &str| phc.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(cost(hash.phc()), cost(NOBODY));
        assert_eq!(hash.phc().len(), NOBODY.len());
        assert!(!hasher.verify(&SecretString::from(""), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_broken_hash_is_a_defect_not_a_wrong_password() {
        let broken = PasswordHash::new("$argon2id$canary".to_owned());
        let error = hasher().verify(&SecretString::from("x"), Some(&broken)).await.unwrap_err();
        assert_eq!(error.cause, Cause::Internal);
        assert!(!error.to_string().contains("canary"));
    }

    #[tokio::test]
    async fn a_flood_is_refused_and_leaves_nothing_behind() {
        let hasher = hasher();
        let cores = hasher.cores.available_permits();
        // nothing runs, so that all that come find the cores taken
        let taken = hasher.cores.clone().acquire_many_owned(cores as u32).await.unwrap();
        let password = SecretString::from("correct horse");
        let mut waiting: Vec<_> = (0..cores + QUEUE).map(|_| Box::pin(hasher.hash(&password))).collect();
        for attempt in &mut waiting {
            assert!(futures_util::poll!(attempt).is_pending());
        }
        assert_eq!(hasher.hash(&password).await.unwrap_err().cause, Cause::Overloaded);
        waiting.truncate(2); // the others give up
        drop(taken);
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert!(hasher.hash(&password).await.is_ok());
        assert_eq!(hasher.admitted.available_permits(), cores + QUEUE);
    }
}
