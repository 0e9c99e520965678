//! Command `pilothouse rekey`: replaces the master key while servers run. After a kill at any point, the next run
//! resumes: it derives the next step from the database and from the key files that exist.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use pilothouse_core::{
    Cause,
    access::Caller,
    audit::{CheckpointSigner as _, KeyRotation},
    seal::Keyring as _,
};
use pilothouse_crypto::{Ed25519Signer, FileKeyring, KeyError, MasterKey, SystemRng};
use pilothouse_store::Fingerprints;
use tokio::time::{Instant, sleep};

use crate::{
    Fatal,
    compose::{self, Composed},
    durable::sync_directory_of,
    operator::operator,
    settings::Settings,
};

/// Time limit of each wait: for servers to load the new key, which they check for every few seconds, or for a busy
/// database.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the command.
pub(crate) async fn rekey(settings: Settings) -> Result<(), Fatal> {
    let fingerprints = compose::fingerprints(&settings.database()?).await?;
    let files = KeyFiles::new(settings.key_file());
    if !files.is_next_active(&fingerprints)? {
        let next = files.next_key(&fingerprints)?;
        println!("the new key is in {}: back it up separately from the database", files.next.display());
        reseal_with(&settings, &next).await?;
    }
    scrub(&settings).await?;
    files.install_next()
}

/// Reseals all values with the next key and makes it the active key.
async fn reseal_with(settings: &Settings, next: &MasterKey) -> Result<(), Fatal> {
    let Composed { app, store, clock, keyring, .. } = compose::for_commands(settings).await?;
    let fingerprint = next.fingerprint();
    store.begin_rekey(&fingerprint).await.map_err(fatal)?;

    let end = Instant::now() + WAIT_TIMEOUT;
    loop {
        match store.servers_without_key(&fingerprint, clock.now()).await? {
            0 => break,
            servers if Instant::now() > end => {
                return Err(Fatal::Setting(format!(
                    "{servers} running server(s) cannot read the new key: copy its file next to the key file of each, \
                     with the same name and readable by the server, then run `pilothouse rekey` again; no value is \
                     sealed with the new key yet"
                )));
            }
            _ => sleep(Duration::from_millis(200)).await,
        }
    }

    let (mut sealed, end) = (0, Instant::now() + WAIT_TIMEOUT);
    loop {
        match store.reseal(&fingerprint).await {
            Ok(0) => break,
            Ok(more) => sealed += more,
            // a busy server may lock a SQLite file for a while
            Err(error) if error.cause == Cause::StoreUnavailable && Instant::now() < end => {
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let [before, after] =
        [keyring.keys(&keyring.active())?, keyring.keys(&fingerprint)?].map(|keys| keys.signer.public_key());
    let caller = Caller::command_line(&operator());
    let finish = {
        let fingerprint = fingerprint.clone();
        move |permit| async move { store.finish_rekey(&permit, &fingerprint).await }
    };
    app.gate.change_local(&caller, KeyRotation::access(&before, &after), finish).await.map_err(fatal)?;
    println!("resealed {sealed} values; the new key is active");
    Ok(())
}

/// Removes values that the previous key opens from the files of the database. The key files are renamed only after this
/// step, so that the next run resumes here after a kill.
async fn scrub(settings: &Settings) -> Result<(), Fatal> {
    let store = compose::for_commands(settings).await?.store;
    let end = Instant::now() + WAIT_TIMEOUT;
    while !store.scrub().await.or_else(unless_busy)? {
        if Instant::now() > end {
            return Err(Fatal::Setting(
                "the new key is active, but the files of the database still contain values that the previous key \
                 opens, because of a long-running read of the database: run `pilothouse rekey` again"
                    .into(),
            ));
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Maps a busy database to `false`, so that the caller retries.
fn unless_busy(error: pilothouse_core::Error) -> Result<bool, pilothouse_core::Error> {
    if error.cause == Cause::StoreUnavailable { Ok(false) } else { Err(error) }
}

fn fatal(error: pilothouse_core::Error) -> Fatal {
    if error.cause == Cause::Modified {
        return Fatal::Setting(
            "another `pilothouse rekey` is running or ran at the same time: check the result of that command"
                .into(),
        );
    }
    error.into()
}

/// Paths of the active key and the next key.
struct KeyFiles {
    key: PathBuf,
    next: PathBuf,
}

impl KeyFiles {
    fn new(key: PathBuf) -> Self {
        Self { next: FileKeyring::next_file(&key), key }
    }

    /// Whether the database is already sealed with the next key, and only the key file has not been renamed.
    fn is_next_active(&self, fingerprints: &Fingerprints) -> Result<bool, Fatal> {
        match MasterKey::load(&self.next) {
            Err(KeyError::Missing(_)) => Ok(false),
            next => Ok(next?.fingerprint() == fingerprints.active),
        }
    }

    /// The key to seal with: the one in the next file or, unless a rekey has started with another key, a new one.
    fn next_key(&self, fingerprints: &Fingerprints) -> Result<MasterKey, Fatal> {
        let path = &self.next;
        let started = fingerprints.next.as_ref();
        let next = match MasterKey::load(path) {
            Err(KeyError::Missing(_)) if started.is_none() => MasterKey::create(path, &SystemRng),
            next => next,
        };
        let is_started = |next: &MasterKey| started.is_none_or(|started| *started == next.fingerprint());
        match next {
            Ok(next) if is_started(&next) => Ok(next),
            Ok(_) | Err(KeyError::Missing(_)) => Err(Fatal::Setting(format!(
                "values are already sealed with a new key other than the one in {0}: put the file of that key there",
                path.display()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the active key file by the next one. The previous key is kept under a name with its fingerprint.
    fn install_next(&self) -> Result<(), Fatal> {
        match self.move_next_to_key() {
            Ok(previous) => {
                println!("the active key is in {}", self.key.display());
                if let Some(previous) = previous {
                    println!(
                        "the previous key is in {}: keep it to restore backups made with it",
                        previous.display()
                    );
                }
                let signer = Ed25519Signer::new(&MasterKey::load(&self.key)?);
                println!("checkpoints and exports are signed with {}", signer.public_key());
            }
            // mounted key files cannot be renamed by this process: the operator replaces them
            Err(error) => println!(
                "the active key is in {}: replace {} with it when possible ({error})",
                self.next.display(),
                self.key.display()
            ),
        }
        Ok(())
    }

    /// Returns the new path of the previous key, if there is one. A server that starts after any step finds the
    /// active key.
    fn move_next_to_key(&self) -> io::Result<Option<PathBuf>> {
        let previous = match MasterKey::load(&self.key) {
            Ok(key) => {
                let previous = self.key.with_added_extension(&key.fingerprint()[..8]);
                match fs::hard_link(&self.key, &previous) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => Some(previous),
                }
            }
            Err(KeyError::Missing(_)) => None,
            // an unreadable file may be a key that backups need, so it is not replaced
            Err(error) => return Err(io::Error::other(error)),
        };
        self.remove_partial_files()?;
        fs::rename(&self.next, &self.key)?;
        sync_directory_of(&self.key)?;
        Ok(previous)
    }

    /// Removes partial files of a run that was killed while it wrote the next key. No value is sealed with them.
    fn remove_partial_files(&self) -> io::Result<()> {
        let started = format!("{}.", self.next.file_name().unwrap_or_default().to_string_lossy());
        for entry in fs::read_dir(self.directory())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&started) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn directory(&self) -> &Path {
        let directory = self.key.parent().filter(|directory| !directory.as_os_str().is_empty());
        directory.unwrap_or(Path::new("."))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn unreadable_key_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let files = KeyFiles::new(directory.path().join("master.key"));
        for path in [&files.key, &files.next] {
            MasterKey::create(path, &SystemRng).unwrap();
        }
        let [old, next] = [&files.key, &files.next].map(|path| fs::read(path).unwrap());
        let mode = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        files.move_next_to_key().unwrap_err();
        assert_eq!(
            (fs::read(&files.key).unwrap(), fs::read(&files.next).unwrap()),
            (old.clone(), next.clone())
        );
        mode(0o600);
        let previous = files.move_next_to_key().unwrap().unwrap();
        assert_eq!((fs::read(&files.key).unwrap(), fs::read(previous).unwrap()), (next, old));
        assert!(!files.next.exists());
    }
}
