//! Commands `pilothouse config …`: check, print and document the settings. They start no server and create no files.
//! `check` also asks the identity providers.

use std::path::Path;

use pilothouse_core::user::NewPassword;
use pilothouse_crypto::MasterKey;
use pilothouse_store::Database;
use rustix::fs::{Access, access};

use crate::{
    Fatal, identity,
    settings::{self, Configuration, Settings},
    telemetry, tls,
};

/// Subcommands of `pilothouse config`.
#[derive(clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the settings, the files they name and the identity providers, without changing anything
    Check,
    /// Print the effective settings as TOML with the origin of each value, without secrets
    Show,
    /// Print a settings file with every setting and its documentation, commented out
    Example,
    /// Print the table of all settings in docs/configure.md
    Reference,
}

/// Runs a config command.
pub(crate) async fn config(configuration: &Configuration, command: &ConfigCommand) -> Result<(), Fatal> {
    match command {
        ConfigCommand::Check => {
            check(&configuration.settings)?;
            identity::check(&configuration.settings).await?;
            println!("the settings are valid");
        }
        ConfigCommand::Show => print!("{}", configuration.show()),
        ConfigCommand::Example => print!("{}", settings::example()),
        ConfigCommand::Reference => print!("{}", settings::reference()),
    }
    Ok(())
}

/// Every check of the settings that `serve` makes before it listens, except whether the database responds.
fn check(settings: &Settings) -> Result<(), Fatal> {
    telemetry::filter(settings)?;
    initial_password(settings)?;
    check_writable(&settings.data_dir)
        .map_err(|source| Fatal::DataDir { path: settings.data_dir.display().to_string(), source })?;
    let (database, key_file) = (settings.database()?, settings.key_file());
    let in_use = matches!(&database, Database::Sqlite(path) if path.exists());
    // a missing key is valid without a database: the first start creates the key
    if key_file.exists() || in_use {
        MasterKey::load(&key_file)?;
    }
    if let Some(webhook) = settings.webhook() {
        webhook.check()?;
    }
    if let Some(files) = settings.tls() {
        tls::TlsFiles::new(files).load()?;
    }
    Ok(())
}

/// The initial password, if one is set.
///
/// # Errors
/// `Fatal::Setting` when its length is not 12 to 128 characters.
pub(crate) fn initial_password(settings: &Settings) -> Result<Option<NewPassword>, Fatal> {
    let password = settings.admin_password.as_ref().map(NewPassword::new).transpose();
    password.map_err(|reason| {
        Fatal::Setting(format!("admin_password is {reason}: it must have 12 to 128 characters"))
    })
}

/// Checks that files can be created in the directory or, when it does not exist, in its nearest existing ancestor.
fn check_writable(path: &Path) -> std::io::Result<()> {
    let path = std::path::absolute(path)?;
    let Some(nearest) = path.ancestors().find(|directory| directory.exists()) else { return Ok(()) };
    if !nearest.is_dir() {
        return Err(std::io::ErrorKind::NotADirectory.into());
    }
    Ok(access(nearest, Access::WRITE_OK | Access::EXEC_OK)?)
}
