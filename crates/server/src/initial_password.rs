//! Initial password: the first admin's generated password. Printed to standard error if that is a terminal, else written
//! to a file of mode 0600 that is removed when the password is changed. Never logged.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use pilothouse_core::{Error, Result, user::InitialPassword};
use secrecy::{ExposeSecret, SecretString};

use crate::durable::sync_directory_of;

/// File name in the data directory.
const FILE_NAME: &str = "initial-admin-password";

/// [`InitialPassword`] on the terminal, or in a file of the data directory.
pub(crate) struct InitialPasswordFile {
    file: PathBuf,
}

impl InitialPasswordFile {
    pub(crate) fn new(settings: &crate::settings::Settings) -> Self {
        Self { file: settings.data_dir.join(FILE_NAME) }
    }

    fn write(&self, password: &SecretString) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.file)?;
        writeln!(file, "{}", password.expose_secret())?;
        file.sync_all()?;
        sync_directory_of(&self.file)
    }
}

impl InitialPassword for InitialPasswordFile {
    fn publish(&self, password: &SecretString) -> Result<()> {
        let mut terminal = io::stderr();
        if terminal.is_terminal() {
            let _ = writeln!(terminal, "first user: admin, password: {}", password.expose_secret());
            return Ok(());
        }
        self.write(password).map_err(|error| {
            Error::internal(format!("cannot write the initial password to {}: {error}", self.file.display()))
        })?;
        tracing::info!(file = %self.file.display(), "created the first user `admin`; its password is in the file");
        Ok(())
    }

    fn remove(&self) {
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(
                    file = %self.file.display(), %error, "cannot remove the file of the initial password: remove it by hand"
                );
            }
            _ => {}
        }
    }
}
