//! Password hashes: Argon2id, on a bounded number of threads.

use std::{sync::Arc, thread};

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use async_trait::async_trait;
use pilothouse_core::{
    Cause, Error, Result,
    clock::Entropy,
    user::{PasswordHash, PasswordHasher},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{runtime::Handle, sync::Semaphore};

/// OWASP's floor for Argon2id: 19 MiB, two passes, one lane. About 40 ms.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What stands in for the hash of nobody: of the same cost, and no password has it.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// How many may wait for a core; more are refused.
const QUEUE: usize = 64;

/// Hashes passwords with Argon2id, at most one per core at a time: each takes 19 MiB.
pub struct Argon2Hasher {
    runtime: Handle,
    entropy: Arc<dyn Entropy>,
    /// Those at work and those that wait.
    admitted: Arc<Semaphore>,
    /// Those at work.
    cores: Arc<Semaphore>,
}

impl Argon2Hasher {
    /// A hasher whose work runs on the blocking threads of `runtime`.
    pub fn new(runtime: Handle, entropy: Arc<dyn Entropy>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            runtime,
            entropy,
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
        self.entropy.fill(&mut salt);
        self.run(move || {
            let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
                .map_err(|error| Error::internal(format!("Argon2 parameters: {error}")))?;
            let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_with_salt(password.expose_secret().as_bytes(), &salt)
                .map_err(|error| Error::internal(format!("Argon2: {error}")))?;
            Ok(PasswordHash::new(hash.to_string()))
        })
        .await
    }

    async fn verify<'a>(&self, password: &SecretString, hash: Option<&'a PasswordHash>) -> Result<bool> {
        let password = password.clone();
        let someone = hash.is_some();
        let phc = SecretString::from(hash.map_or(NOBODY, PasswordHash::phc));
        self.run(move || {
            // cost and salt are read from the hash, so that hashes of an earlier cost stay good
            let verified =
                Argon2::default().verify_password(password.expose_secret().as_bytes(), phc.expose_secret());
            match verified {
                Ok(()) => Ok(someone),
                Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(Error::internal(format!("a stored password hash is unreadable: {error}"))),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::OsEntropy;

    fn hasher() -> Argon2Hasher {
        Argon2Hasher::new(Handle::current(), Arc::new(OsEntropy))
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
