//! The `pilothouse` binary: configuration, composition root and commands.

#![allow(clippy::print_stdout, reason = "this is a command line")]

mod api_client;
mod audit;
mod backup;
mod checkpoint_file;
mod commands;
mod compose;
mod config;
mod confirmer;
mod durable;
mod export_file;
mod grants;
mod http_client;
mod identity;
mod initial_password;
mod lease;
mod login;
mod metrics;
mod operator;
mod prober;
mod rekey;
mod retention;
mod runtime;
mod secret_file;
mod serve;
mod settings;
mod telemetry;
mod tls;
mod tokens;
mod webhook;

use std::{io, path::Path, process::ExitCode};

use clap::Parser;

/// One self-hosted server through which an operations team runs many Kubernetes clusters.
#[derive(Parser)]
#[command(name = "pilothouse", version)]
struct Arguments {
    #[command(flatten)]
    flags: settings::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve the HTTP API until SIGTERM or SIGINT
    Serve,
    /// Check or print the settings, without starting the server
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Manage users without signing in
    #[command(subcommand)]
    User(commands::UserCommand),
    /// Sign in to a server, and keep the session or an API token in a private file
    Login(login::LoginArguments),
    /// Manage grants of rights without signing in
    #[command(subcommand)]
    Grant(grants::GrantCommand),
    /// Manage API tokens without signing in
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Verify, export and prune the audit trail
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Reseal all stored secrets with a new master key, while servers run
    Rekey,
    /// Back up all data to a file that only the master key opens, while a server runs
    Backup(backup::BackupArguments),
    /// Restore a backup into an empty data directory
    Restore(backup::RestoreArguments),
}

/// Fatal error of a command, displayed as one sentence with the next step. Exit code 2, or 1 for a failed verification
/// of the audit trail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    /// A setting or an argument is not usable.
    #[error("{0}")]
    Setting(String),
    /// The data directory cannot be used.
    #[error(
        "cannot use the data directory {path} ({source}): allow this user to write to it, or set data_dir to another one"
    )]
    DataDir {
        /// Path of the directory.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// The master key cannot be used.
    #[error(transparent)]
    Key(#[from] pilothouse_crypto::KeyError),
    /// The database can have only one server, and another process is that server.
    #[error(
        "another pilothouse process already serves the database {0}: stop that process, or use another data directory"
    )]
    InUse(String),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] pilothouse_store::OpenError),
    /// The TLS certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The server cannot listen on the address.
    #[error("cannot listen on {address}: {source}; choose another address")]
    Listen {
        /// Address of the listener.
        address: std::net::SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// The audit trail, or an export of it, failed verification. Exit code 1.
    #[error("the audit trail failed verification: {0}")]
    VerificationFailed(String),
    /// A request to a server failed.
    #[error(transparent)]
    Api(#[from] api_client::ApiError),
    /// A use case returned an error.
    #[error("{}", error_message(.0))]
    Refused(#[from] pilothouse_core::Error),
}

impl Fatal {
    /// The error for a file that cannot be used.
    pub(crate) fn unusable(path: &Path, error: &io::Error) -> Self {
        Self::Setting(format!("cannot use {} ({error}): check the path and its permissions", path.display()))
    }
}

/// The message of a use-case error, as API callers get it. For an internal error, the details that the server only
/// logs.
fn error_message(error: &pilothouse_core::Error) -> String {
    match error.cause {
        pilothouse_core::Cause::Internal => error.to_string(),
        _ => pilothouse_http::sentence(error),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { flags, command } = Arguments::parse();
    let done = match settings::Configuration::read(&flags, std::env::vars_os()) {
        Ok(configuration) => match command {
            Command::Serve => serve::serve(configuration.settings).await,
            Command::Config(command) => config::config(&configuration, &command).await,
            Command::Login(arguments) => login::login(arguments).await,
            Command::User(command) => commands::user(configuration.settings, command).await,
            Command::Grant(command) => grants::grant(configuration.settings, command).await,
            Command::Token(command) => tokens::token(configuration.settings, command).await,
            Command::Audit(command) => audit::audit(configuration.settings, command).await,
            Command::Rekey => rekey::rekey(configuration.settings).await,
            Command::Backup(arguments) => backup::backup(configuration.settings, arguments).await,
            Command::Restore(arguments) => backup::restore(configuration.settings, arguments).await,
        },
        Err(fatal) => Err(fatal),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("pilothouse: {fatal}");
            ExitCode::from(if matches!(fatal, Fatal::VerificationFailed(_)) { 1 } else { 2 })
        }
    }
}
