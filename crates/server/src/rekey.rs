//! `pilothouse rekey`: a new master key, while servers go on working. Killed at any point, it goes on where it stopped when
//! it is run again: what is to be done next is read from the database and from which files there are.

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
    commands::operator,
    compose::{self, Composed},
    durable::sync_folder_of,
    settings::Settings,
};

/// How long to wait until every server says that it has the new key: they look every few seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the command.
pub(crate) async fn rekey(settings: Settings) -> Result<(), Fatal> {
    let known = compose::known(&settings.database()?).await?;
    let files = Files::new(settings.key_file());
    if !files.is_next_in_use(&known)? {
        let next = files.next_key(&known)?;
        println!("the new key is in {}: back it up separately from the database", files.next.display());
        seal_anew(&settings, &next).await?;
    }
    scrub(&settings).await?;
    files.settle()
}

/// Seals everything with the next key and takes it into use.
async fn seal_anew(settings: &Settings, next: &MasterKey) -> Result<(), Fatal> {
    let Composed { app, store, clock, keyring, .. } = compose::for_commands(settings).await?;
    let fingerprint = next.fingerprint();
    store.begin_rekey(&fingerprint).await.map_err(fatal)?;

    let end = Instant::now() + PATIENCE;
    loop {
        match store.without_next_key(&fingerprint, clock.now()).await? {
            0 => break,
            lacking if Instant::now() > end => {
                return Err(Fatal::Setting(format!(
                    "{lacking} running server(s) cannot read the new key: put its file beside their key file, under \
                     the same name and readable by them, and run this again; nothing is sealed with the new key yet"
                )));
            }
            _ => sleep(Duration::from_millis(200)).await,
        }
    }

    let (mut sealed, end) = (0, Instant::now() + PATIENCE);
    loop {
        match store.reseal(&fingerprint).await {
            Ok(0) => break,
            Ok(more) => sealed += more,
            // a busy server may keep a SQLite file from us for a while
            Err(error) if error.cause == Cause::StoreUnavailable && Instant::now() < end => {
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let [before, after] =
        [keyring.keys(&keyring.current())?, keyring.keys(&fingerprint)?].map(|keys| keys.signer.public_key());
    let caller = Caller::command_line(&operator());
    let finish = {
        let fingerprint = fingerprint.clone();
        move |permit| async move { store.finish_rekey(&permit, &fingerprint).await }
    };
    app.gate.change_local(&caller, KeyRotation::access(&before, &after), finish).await.map_err(fatal)?;
    println!("resealed {sealed} values; the new key is in use");
    Ok(())
}

/// Removes from the database's files what the key before opens. The files of the keys are put in their places only after
/// it, so that a run that was killed here is gone on with.
async fn scrub(settings: &Settings) -> Result<(), Fatal> {
    let store = compose::for_commands(settings).await?.store;
    let end = Instant::now() + PATIENCE;
    while !store.scrub().await.or_else(unless_busy)? {
        if Instant::now() > end {
            return Err(Fatal::Setting(
                "the new key is in use, but the files of the database still contain values that the previous key \
                 opens, because of a long-running read of the database: run this again"
                    .into(),
            ));
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// A busy database is asked again.
fn unless_busy(error: pilothouse_core::Error) -> Result<bool, pilothouse_core::Error> {
    if error.cause == Cause::StoreUnavailable { Ok(false) } else { Err(error) }
}

fn fatal(error: pilothouse_core::Error) -> Fatal {
    if error.cause == Cause::Modified {
        return Fatal::Setting(
            "another `pilothouse rekey` is running or ran at the same time: check its result".into(),
        );
    }
    error.into()
}

/// Where the keys lie.
struct Files {
    key: PathBuf,
    next: PathBuf,
}

impl Files {
    fn new(key: PathBuf) -> Self {
        Self { next: FileKeyring::next_file(&key), key }
    }

    /// Whether all is sealed with the next key already, and only its file is not in its place.
    fn is_next_in_use(&self, known: &Fingerprints) -> Result<bool, Fatal> {
        match MasterKey::load(&self.next) {
            Err(KeyError::Missing(_)) => Ok(false),
            next => Ok(next?.fingerprint() == known.current),
        }
    }

    /// The key to seal with: the one that lies there, or a new one, unless one has been begun with.
    fn next_key(&self, known: &Fingerprints) -> Result<MasterKey, Fatal> {
        let path = &self.next;
        let begun = known.next.as_ref();
        let next = match MasterKey::load(path) {
            Err(KeyError::Missing(_)) if begun.is_none() => MasterKey::create(path, &SystemRng),
            next => next,
        };
        let is_begun = |next: &MasterKey| begun.is_none_or(|begun| *begun == next.fingerprint());
        match next {
            Ok(next) if is_begun(&next) => Ok(next),
            Ok(_) | Err(KeyError::Missing(_)) => Err(Fatal::Setting(format!(
                "values are already sealed with a new key other than the one in {0}: put the file of that key there",
                path.display()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the next key in the place of the one before, which is kept under a name that says which it is.
    fn settle(&self) -> Result<(), Fatal> {
        match self.place() {
            Ok(kept) => {
                println!("the key in use is in {}", self.key.display());
                if let Some(kept) = kept {
                    println!("the previous key is in {}: backups made with it need it", kept.display());
                }
                let signer = Ed25519Signer::new(&MasterKey::load(&self.key)?);
                println!("checkpoints and exports are signed with {}", signer.public_key());
            }
            // where keys are mounted, they are put in place by whoever mounts them
            Err(error) => println!(
                "the key in use is in {}: replace {} with it when possible ({error})",
                self.next.display(),
                self.key.display()
            ),
        }
        Ok(())
    }

    /// Where the key before is kept, if there is one. After each step whoever starts finds the key in use.
    fn place(&self) -> io::Result<Option<PathBuf>> {
        let kept = match MasterKey::load(&self.key) {
            Ok(key) => {
                let kept = self.key.with_added_extension(&key.fingerprint()[..8]);
                match fs::hard_link(&self.key, &kept) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => Some(kept),
                }
            }
            Err(KeyError::Missing(_)) => None,
            // a key it may be all the same, one that backups need
            Err(error) => return Err(io::Error::other(error)),
        };
        self.sweep()?;
        fs::rename(&self.next, &self.key)?;
        sync_folder_of(&self.key)?;
        Ok(kept)
    }

    /// Removes what a run left that was killed while it wrote the next key: a key that nobody uses.
    fn sweep(&self) -> io::Result<()> {
        let begun = format!("{}.", self.next.file_name().unwrap_or_default().to_string_lossy());
        for entry in fs::read_dir(self.folder())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&begun) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn folder(&self) -> &Path {
        let folder = self.key.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new("."))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_cannot_be_read_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("master.key"));
        for path in [&files.key, &files.next] {
            MasterKey::create(path, &SystemRng).unwrap();
        }
        let [old, next] = [&files.key, &files.next].map(|path| fs::read(path).unwrap());
        let mode = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        files.place().unwrap_err();
        assert_eq!(
            (fs::read(&files.key).unwrap(), fs::read(&files.next).unwrap()),
            (old.clone(), next.clone())
        );
        mode(0o600);
        let kept = files.place().unwrap().unwrap();
        assert_eq!((fs::read(&files.key).unwrap(), fs::read(kept).unwrap()), (next, old));
        assert!(!files.next.exists());
    }
}
