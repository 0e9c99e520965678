//! Commands `pilothouse backup` and `pilothouse restore`: an archive of the whole database, encrypted with the master
//! key. SQLite databases are copied directly. For PostgreSQL, the commands seal the output of `pg_dump` and open it for
//! `pg_restore`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use pilothouse_core::{
    access::{AccessRequest, Caller, Resource, Verb},
    gate::Changed,
    seal::Keyring as _,
};
use pilothouse_crypto::{FileKeyring, KeyError, MasterKey, SystemRng, open_archive, seal_archive};
use pilothouse_store::{Database, Store};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    Fatal,
    compose::{self, Composed},
    durable::{private_directory, sync_directory_of},
    operator::operator,
    settings::Settings,
};

/// Arguments of `pilothouse backup`.
#[derive(clap::Args)]
pub(crate) struct BackupArguments {
    /// The new file to write
    file: PathBuf,
    /// Read the output of `pg_dump` from standard input, when the data is in PostgreSQL
    #[arg(long)]
    stdin: bool,
}

/// Arguments of `pilothouse restore`.
#[derive(clap::Args)]
pub(crate) struct RestoreArguments {
    /// The backup to restore
    file: PathBuf,
    /// Write to standard output, for `pg_restore`, when the data goes to PostgreSQL
    #[arg(long)]
    stdout: bool,
}

/// Writes a backup. Servers may run at the same time.
pub(crate) async fn backup(settings: Settings, arguments: BackupArguments) -> Result<(), Fatal> {
    let BackupArguments { file, stdin } = arguments;
    let on_sqlite = matches!(settings.database()?, Database::Sqlite(_));
    if on_sqlite == stdin {
        return Err(Fatal::Setting(
            if stdin {
                "the data is in SQLite: omit --stdin"
            } else {
                "the data is in PostgreSQL: run pg_dump --format=custom … | pilothouse backup --stdin FILE"
            }
            .into(),
        ));
    }
    let composed = compose::for_commands(&settings).await?;
    // the command holds a lease while it runs, so that no server closes its pending operation as an orphan
    composed.coordinator.renew_lease(composed.clock.now()).await?;
    let lease_end = CancellationToken::new();
    let lease = tokio::spawn(composed.lease_keeper().run(lease_end.clone()));
    let done = write_backup(&settings, &composed, file, stdin).await;
    lease_end.cancel();
    let _ = lease.await;
    done
}

/// Writes the backup through the gate: the intent is durable before the copy starts, the outcome is stored after it.
async fn write_backup(
    settings: &Settings,
    composed: &Composed,
    file: PathBuf,
    stdin: bool,
) -> Result<(), Fatal> {
    let Composed { app, store, keyring, .. } = composed;
    let (store, keyring) = (store.clone(), keyring.clone());
    let output = File::options().write(true).create_new(true).mode(0o600).open(&file);
    let output = output.map_err(|error| Fatal::unusable(&file, &error))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let access = AccessRequest::to(Verb::Backup, Resource::Database).named(name);
    let copy = settings.data_dir.join(format!("backup-{}.tmp", std::process::id()));
    let work = {
        let (copy, file) = (copy.clone(), file.clone());
        move |_| async move {
            let input: Box<dyn Read + Send> = if stdin {
                Box::new(io::stdin())
            } else {
                store.copy_to(&copy).await?;
                let input = File::open(&copy).map_err(|error| failed(&copy, &error))?;
                // the copy is not encrypted: it is unlinked while open, so that no file remains if this process is
                // killed
                fs::remove_file(&copy).map_err(|error| failed(&copy, &error))?;
                Box::new(input)
            };
            let seal = move || {
                let fingerprint = keyring.active();
                let sealer = keyring.keys(&fingerprint)?.sealer;
                let sealed = seal_archive(&*sealer, &fingerprint, &SystemRng, input, BufWriter::new(&output));
                let stored = sealed.and_then(|()| output.sync_all()).and_then(|()| sync_directory_of(&file));
                stored.map_err(|error| failed(&file, &error))
            };
            let sealed = tokio::task::spawn_blocking(seal).await;
            sealed.unwrap_or_else(|error| Err(pilothouse_core::Error::internal(error.to_string())))
        }
    };
    // an incomplete file is removed, so the outcome of a failure is never unknown
    let work = move |permit| {
        let done = work(permit);
        async move { done.await.map(Changed::<()>::from).map_err(pilothouse_core::Error::read_only) }
    };
    let done = app.gate.change(&Caller::command_line(&operator()), access, work).await;
    if done.is_err() {
        let _ = fs::remove_file(&file);
    }
    if !stdin {
        let _ = fs::remove_file(&copy);
    }
    if !done?.warnings.is_empty() {
        println!("the outcome of the backup could not be stored in the audit trail");
    }
    println!("wrote the backup {}; only the master key decrypts it", file.display());
    Ok(())
}

/// Restores a backup. An existing database is never overwritten.
pub(crate) async fn restore(settings: Settings, arguments: RestoreArguments) -> Result<(), Fatal> {
    let RestoreArguments { file, stdout } = arguments;
    let input = BufReader::new(File::open(&file).map_err(|error| Fatal::unusable(&file, &error))?);
    let keys = keys(&settings.key_file())?;
    let open = |output: &mut (dyn Write + Send)| {
        let opened = open_archive(&keys, Arc::new(SystemRng), input, output);
        opened.map_err(|error| Fatal::Setting(format!("cannot restore {}: {error}", file.display())))
    };
    if stdout {
        return open(&mut io::stdout());
    }
    let Database::Sqlite(database) = settings.database()? else {
        return Err(Fatal::Setting(
            "the data is in PostgreSQL: run pilothouse restore --stdout FILE | pg_restore …".into(),
        ));
    };
    private_directory(&settings.data_dir)
        .map_err(|source| Fatal::DataDir { path: settings.data_dir.display().to_string(), source })?;
    for existing in [database.clone(), with_suffix(&database, "-wal")] {
        if existing.exists() {
            return Err(Fatal::Setting(format!(
                "there is already a database at {}, which is not overwritten: move it away, or use another --data-dir",
                database.display()
            )));
        }
    }
    let partial = database.with_added_extension("restoring");
    let output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let mut output = output.map_err(|error| Fatal::unusable(&partial, &error))?;
    let restored =
        open(&mut output).and_then(|()| output.sync_all().map_err(|error| Fatal::unusable(&partial, &error)));
    drop(output);
    let restored = match restored {
        Ok(()) => Store::end_sessions_of_copy(&partial, &Handle::current()).await.map_err(Fatal::from),
        failed => failed,
    };
    let installed = restored.and_then(|()| {
        // hard_link, unlike rename, fails when the target exists
        let installed = fs::hard_link(&partial, &database).and_then(|()| sync_directory_of(&database));
        installed.map_err(|error| Fatal::unusable(&database, &error))
    });
    let _ = fs::remove_file(&partial);
    installed?;

    let Composed { app, .. } = compose::for_commands(&settings).await?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let access = AccessRequest::to(Verb::Restore, Resource::Database).named(name);
    let caller = Caller::command_line(&operator());
    app.gate.record_read(&caller, access, |_| async { Ok(()) }).await?;
    println!("restored to {}; all users must sign in again", database.display());
    if app.audit.is_truncated().await? {
        println!(
            "the audit trail ends before the last checkpoint in {}: move that file away and keep it",
            settings.audit_checkpoint_file().display()
        );
    }
    Ok(())
}

/// The master keys at `key_file`: the current one and the next one, for a backup made during a rekey.
fn keys(key_file: &Path) -> Result<Vec<MasterKey>, Fatal> {
    let mut keys = Vec::new();
    for file in [key_file.to_owned(), FileKeyring::next_file(key_file)] {
        match MasterKey::load(&file) {
            Err(KeyError::Missing(_)) => {}
            key => keys.push(key?),
        }
    }
    if keys.is_empty() { Err(KeyError::Missing(key_file.to_owned()).into()) } else { Ok(keys) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(path: &Path, error: &io::Error) -> pilothouse_core::Error {
    pilothouse_core::Error::internal(format!("cannot use {}: {error}", path.display()))
}
