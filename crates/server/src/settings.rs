//! What an operator may set: a TOML file, then the environment, then flags; the last one wins.

mod layers;
mod show;
mod table;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use jiff::SignedDuration;
use pilothouse_crypto::WebhookKey;
use pilothouse_kube::{EgressRules, Networks, OwnSocket};
use pilothouse_store::Database;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub(crate) use self::layers::Flags;
use self::{layers::Layers, table::Setting};
use crate::{Fatal, webhook::WebhookSettings};

/// Every setting. Each is a line of [`table::SETTINGS`], of the file and, in upper case after `PILOTHOUSE_`, an
/// environment variable. Durations are written as `30s`, `10m`, `8h`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// The certificate to serve HTTPS with, and those between it and its root; HTTP without one.
    tls_certificate: Option<PathBuf>,
    /// Its key.
    tls_key: Option<PathBuf>,
    /// The proxies whose word on where a request comes from is taken; nobody's without it.
    pub(crate) trusted_proxies: Option<Networks>,
    /// How long a connection stays open for the next request.
    keep_alive: SignedDuration,
    /// Where Prometheus reads `/metrics`; nowhere without one.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Where the database (without `database_url`), the key and the first password lie.
    pub(crate) data_dir: PathBuf,
    /// A PostgreSQL address; SQLite in the data directory without one.
    database_url: Option<SecretString>,
    /// The master key; `<data_dir>/master.key` without one.
    pub(crate) key_file: Option<PathBuf>,
    /// Where checkpoints of the audit trail are kept besides the database; `<data_dir>/audit-checkpoints.jsonl` without one.
    pub(crate) audit_checkpoint_file: Option<PathBuf>,
    /// Where old entries of the audit trail are kept before they are removed.
    pub(crate) audit_archive_dir: Option<PathBuf>,
    /// How old entries of the audit trail are when they are removed; they never are without one.
    audit_retention: Option<SignedDuration>,
    /// Who is told of every entry of the audit trail; nobody without one.
    audit_webhook_url: Option<SecretString>,
    /// By what its receiver knows that it was us.
    audit_webhook_secret: Option<SecretString>,
    /// Whom to trust there, PEM; the system's roots without one.
    audit_webhook_ca_file: Option<PathBuf>,
    /// How much of the disk is kept free for outcomes, in MiB; 0 for none. SQLite only.
    free_space_floor_mib: u32,
    /// The first admin's password, used only while there is no user.
    pub(crate) admin_password: Option<SecretString>,
    /// Whether a cluster may live on a loopback address.
    pub(crate) egress_allow_loopback: bool,
    /// The only networks a cluster may be in; any without it.
    egress_allow_networks: Option<Networks>,
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
    /// The memory for lists that are kept, in MiB; with 0 every list is read from its cluster each time.
    list_cache_memory_mib: usize,
    /// How long a list is kept that nobody reads.
    list_cache_idle: SignedDuration,
    /// How many lists are read whole at once.
    list_cache_concurrent_fills: usize,
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

/// The shortest and the longest duration that makes sense.
const DURATIONS: std::ops::RangeInclusive<SignedDuration> =
    SignedDuration::from_secs(1)..=SignedDuration::from_hours(365 * 24);

/// The largest number that makes sense.
const MOST: usize = 1_000_000;
/// The same of an age.
const AGES: std::ops::RangeInclusive<SignedDuration> =
    SignedDuration::from_secs(1)..=SignedDuration::from_hours(100 * 365 * 24);

/// What nobody guesses, if it was drawn at random.
const SHORTEST_SECRET: usize = 16;

/// The settings, and where each comes from. Holds secrets.
pub(crate) struct Configuration {
    /// What holds.
    pub(crate) settings: Settings,
    layers: Layers,
}

impl Configuration {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// `Fatal::Setting`, naming the setting and never its value.
    pub(crate) fn read(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Fatal> {
        let layers = Layers::read(flags, environment)?;
        let settings: Settings = serde_path_to_error::deserialize(layers.values())
            .map_err(|error| refused(&layers, &error.path().to_string()))?;
        let configuration = Self { settings, layers };
        configuration.check()?;
        Ok(configuration)
    }

    /// A webhook is told over TLS, and knows by a secret that it was us.
    fn check_webhook(&self) -> Result<(), Fatal> {
        let Settings { audit_webhook_url: url, audit_webhook_secret: secret, .. } = &self.settings;
        match (url, secret) {
            (Some(url), _) if !may_be_told(url.expose_secret()) => {
                Err(refused(&self.layers, "audit_webhook_url"))
            }
            (Some(_), None) | (None, Some(_)) => {
                let sentence = "audit_webhook_url and audit_webhook_secret must both be set, or neither";
                Err(Fatal::Setting(sentence.into()))
            }
            (_, Some(secret)) if secret.expose_secret().len() < SHORTEST_SECRET => {
                let sentence =
                    format!("audit_webhook_secret must have at least {SHORTEST_SECRET} characters");
                Err(Fatal::Setting(sentence))
            }
            _ => Ok(()),
        }
    }

    /// What the types do not say.
    fn check(&self) -> Result<(), Fatal> {
        let settings = &self.settings;
        let durations = [
            ("keep_alive", settings.keep_alive),
            ("probe_interval", settings.probe_interval),
            ("read_deadline", settings.read_deadline),
            ("write_deadline", settings.write_deadline),
            ("test_deadline", settings.test_deadline),
            ("list_cache_idle", settings.list_cache_idle),
            ("access_token_lifetime", settings.access_token_lifetime),
            ("session_idle", settings.session_idle),
            ("session_lifetime", settings.session_lifetime),
        ];
        if let Some((key, _)) = durations.iter().find(|(_, duration)| !DURATIONS.contains(duration)) {
            return Err(refused(&self.layers, key));
        }
        let numbers = [
            ("list_cache_memory_mib", settings.list_cache_memory_mib, 0),
            ("list_cache_concurrent_fills", settings.list_cache_concurrent_fills, 1),
        ];
        if let Some((key, ..)) = numbers.iter().find(|(_, number, least)| !(*least..=MOST).contains(number)) {
            return Err(refused(&self.layers, key));
        }
        if settings.tls_certificate.is_some() != settings.tls_key.is_some() {
            return Err(Fatal::Setting("tls_certificate and tls_key must both be set, or neither".into()));
        }
        if settings.audit_retention.is_some_and(|age| !AGES.contains(&age)) {
            return Err(refused(&self.layers, "audit_retention"));
        }
        self.check_webhook()?;
        if settings.audit_retention.is_some()
            && settings.audit_archive_dir.is_none()
            && settings.audit_webhook_url.is_none()
        {
            let sentence = "audit_retention needs an archive for the removed entries: set audit_archive_dir, or a webhook";
            return Err(Fatal::Setting(sentence.into()));
        }
        if settings.listen.port() != 0 && settings.metrics_listen == Some(settings.listen) {
            return Err(Fatal::Setting("listen and metrics_listen must be different addresses".into()));
        }
        Ok(())
    }
}

/// Whether a webhook may be there: over TLS, or on this machine.
fn may_be_told(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let scheme = url.scheme_str();
    !host.is_empty() && !has_user && (scheme == Some("https") || scheme == Some("http") && is_loopback)
}

/// The sentence about a value that is not what it must be.
fn refused(layers: &Layers, key: &str) -> Fatal {
    let Some(setting) = Setting::find(key) else {
        return Fatal::Setting("the settings are malformed: see docs/configure.md".into());
    };
    let place =
        layers.get(setting).map(|(_, origin)| format!(" ({})", origin.of(setting))).unwrap_or_default();
    Fatal::Setting(format!("the setting `{key}`{place} must be {}", setting.form.expected()))
}

impl Settings {
    /// How long a connection stays open for the next request.
    pub(crate) fn keep_alive(&self) -> Duration {
        self.keep_alive.unsigned_abs()
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

    /// Which lists are kept; none when there is no memory for them.
    pub(crate) fn cache_settings(&self) -> Option<pilothouse_kube::CacheSettings> {
        (self.list_cache_memory_mib > 0).then(|| pilothouse_kube::CacheSettings {
            idle: self.list_cache_idle.unsigned_abs(),
            memory: self.list_cache_memory_mib.saturating_mul(1 << 20),
            fills: self.list_cache_concurrent_fills,
            ..pilothouse_kube::CacheSettings::default()
        })
    }

    /// Which addresses a cluster may have. Ours it may not: where we listen, and where the database is.
    pub(crate) fn egress(&self, database: &Database) -> EgressRules {
        let listeners = [Some(self.listen), self.metrics_listen].into_iter().flatten().map(OwnSocket::from);
        let databases = database.sockets().into_iter().map(|(host, port)| OwnSocket { host, port });
        EgressRules {
            allow_loopback: self.egress_allow_loopback,
            allow_networks: self.egress_allow_networks.clone(),
            own: listeners.chain(databases).collect(),
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

    /// How old entries of the audit trail are when they are removed.
    pub(crate) fn audit_retention(&self) -> Option<Duration> {
        self.audit_retention.map(SignedDuration::unsigned_abs)
    }

    /// Who is told of the audit trail.
    pub(crate) fn webhook(&self) -> Option<WebhookSettings> {
        let url = self.audit_webhook_url.as_ref()?.expose_secret().parse().ok()?;
        let secret = self.audit_webhook_secret.as_ref()?.expose_secret();
        Some(WebhookSettings {
            url,
            key: WebhookKey::new(secret.as_bytes()),
            ca_file: self.audit_webhook_ca_file.clone(),
        })
    }

    /// How many bytes of the disk are kept free.
    pub(crate) fn free_space_floor(&self) -> u64 {
        u64::from(self.free_space_floor_mib) << 20
    }

    /// Where checkpoints of the audit trail are kept.
    pub(crate) fn audit_checkpoint_file(&self) -> PathBuf {
        let default = || self.data_dir.join("audit-checkpoints.jsonl");
        self.audit_checkpoint_file.clone().unwrap_or_else(default)
    }

    /// Where the master key lies.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data_dir.join("master.key"))
    }

    /// Which database is used.
    ///
    /// # Errors
    /// `Fatal::Store` when the address is of none.
    pub(crate) fn database(&self) -> Result<Database, Fatal> {
        match &self.database_url {
            Some(address) => Ok(Database::parse(address.expose_secret())?),
            None => Ok(Database::Sqlite(self.data_dir.join("pilothouse.db"))),
        }
    }

    /// The files of certificate and key, when HTTPS is to be served.
    pub(crate) fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_certificate.as_deref().zip(self.tls_key.as_deref())
    }
}
