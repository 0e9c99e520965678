//! What an operator may set: a TOML file, then the environment, then flags; the last one wins.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use jiff::SignedDuration;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::Fatal;

/// Every setting. Each is a line of the file and, in upper case after `PILOTHOUSE_`, an environment variable.
/// Durations are written as `30s`, `10m`, `8h`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Where the database (without `database_url`), the key and the first password lie.
    pub(crate) data_dir: PathBuf,
    /// A PostgreSQL address; SQLite in the data directory without one.
    pub(crate) database_url: Option<SecretString>,
    /// The master key; `<data_dir>/master.key` without one.
    pub(crate) key_file: Option<PathBuf>,
    /// The first admin's password, used only while there is no user.
    pub(crate) admin_password: Option<SecretString>,
    /// Whether a cluster may live on a loopback address.
    pub(crate) egress_allow_loopback: bool,
    /// Whether a super admin may register a cluster whose certificate is not checked.
    pub(crate) allow_insecure_tls: bool,
    /// How often each cluster is probed.
    probe_interval: SignedDuration,
    /// How long a read of a cluster may take.
    read_deadline: SignedDuration,
    /// How long a change of a cluster may take.
    write_deadline: SignedDuration,
    /// How long the test of a cluster may take.
    test_deadline: SignedDuration,
    /// How long an access token lives.
    access_token_lifetime: SignedDuration,
    /// How long an unused session lives.
    session_idle: SignedDuration,
    /// How long a session lives at most.
    session_lifetime: SignedDuration,
    /// What is logged, as `tracing` filters: `info`, `debug`, `pilothouse_kube=debug,info`.
    pub(crate) log: String,
    /// `text` or `json`.
    pub(crate) log_format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What is set when nothing is.
const DEFAULTS: &str = r#"
    listen = "127.0.0.1:8080"
    data_dir = "./pilothouse-data"
    egress_allow_loopback = false
    allow_insecure_tls = false
    probe_interval = "30s"
    read_deadline = "10s"
    write_deadline = "30s"
    test_deadline = "5s"
    access_token_lifetime = "10m"
    session_idle = "30m"
    session_lifetime = "8h"
    log = "info"
    log_format = "text"
"#;

/// Settings that have no default.
const WITHOUT_DEFAULT: [&str; 3] = ["database_url", "key_file", "admin_password"];

/// The settings that are also flags.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
pub(crate) struct Flags {
    /// A TOML file of settings
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Where the database, the key and the first password lie [default: ./pilothouse-data]
    #[arg(long, value_name = "DIR", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// postgres://…; SQLite in the data directory without one
    #[arg(long, value_name = "URL", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    database_url: Option<String>,
}

impl Settings {
    /// Reads file, environment and flags.
    pub(crate) fn read(flags: &Flags) -> Result<Self, Fatal> {
        let bad = |error: figment::Error| Fatal::Setting(first_line(&error));
        let defaults = Figment::from(Toml::string(DEFAULTS));
        let known: Vec<String> = defaults
            .extract::<figment::value::Dict>()
            .map_err(bad)?
            .into_keys()
            .chain(WITHOUT_DEFAULT.map(str::to_owned))
            .collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let mut figment = defaults;
        if let Some(file) = &flags.config {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Fatal::Setting(format!("cannot read {}: {error}", file.display())))?;
            figment = figment.merge(Toml::string(&text));
        }
        let settings: Self = figment
            .merge(Env::prefixed("PILOTHOUSE_").only(&known))
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(bad)?;
        settings.check()
    }

    fn check(self) -> Result<Self, Fatal> {
        let durations = [
            ("probe_interval", self.probe_interval),
            ("read_deadline", self.read_deadline),
            ("write_deadline", self.write_deadline),
            ("test_deadline", self.test_deadline),
            ("access_token_lifetime", self.access_token_lifetime),
            ("session_idle", self.session_idle),
            ("session_lifetime", self.session_lifetime),
        ];
        match durations.iter().find(|(_, duration)| *duration < SignedDuration::from_secs(1)) {
            Some((name, _)) => Err(Fatal::Setting(format!("{name} must be one second or longer, as in 30s"))),
            None => Ok(self),
        }
    }

    /// How often each cluster is probed.
    pub(crate) fn probe_interval(&self) -> Duration {
        self.probe_interval.unsigned_abs()
    }

    /// How long calls to a cluster may take.
    pub(crate) fn deadlines(&self) -> pilothouse_kube::Deadlines {
        pilothouse_kube::Deadlines {
            read: self.read_deadline.unsigned_abs(),
            write: self.write_deadline.unsigned_abs(),
            test: self.test_deadline.unsigned_abs(),
        }
    }

    /// How long tokens and sessions live.
    pub(crate) fn lifetimes(&self) -> pilothouse_core::session::Lifetimes {
        pilothouse_core::session::Lifetimes {
            access: self.access_token_lifetime.unsigned_abs(),
            idle: self.session_idle.unsigned_abs(),
            absolute: self.session_lifetime.unsigned_abs(),
        }
    }

    /// Where the master key lies.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data_dir.join("master.key"))
    }
}

/// One sentence, and never a value: it may be a password.
fn first_line(error: &figment::Error) -> String {
    use figment::error::Kind;
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(name, _) => {
            format!("there is no setting `{name}`; see docs/operations.md for all of them")
        }
        Kind::MissingField(name) => format!("the setting `{name}` is missing"),
        Kind::InvalidType(_, expected) => format!("the setting `{key}` must be {expected}"),
        _ if key.is_empty() => "the settings file is not TOML of the form in docs/operations.md".to_owned(),
        _ => format!("the setting `{key}` has a value that is not understood; see docs/operations.md"),
    }
}
