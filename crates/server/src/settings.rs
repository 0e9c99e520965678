//! Settings, in order of increasing precedence: defaults, TOML file, environment variables, flags.

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

/// The effective settings. Each field is a row of [`table::SETTINGS`], a key of the settings file and, in upper case
/// after `PILOTHOUSE_`, an environment variable. Durations are written as `30s`, `10m`, `8h`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Address of the HTTP API.
    pub(crate) listen: SocketAddr,
    /// PEM file of the TLS certificate and its intermediate certificates. Unset: plain HTTP.
    tls_certificate: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    tls_key: Option<PathBuf>,
    /// Networks of proxies whose forwarding headers set the client address. Unset: no proxy is trusted.
    pub(crate) trusted_proxies: Option<Networks>,
    /// Keep-alive timeout: how long an idle connection stays open for the next request.
    keep_alive: SignedDuration,
    /// Address that serves `/metrics` for Prometheus. Unset: no metrics are served.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Directory of the SQLite database (without `database_url`), the master key and the first password.
    pub(crate) data_dir: PathBuf,
    /// URL of a PostgreSQL database. Unset: SQLite in the data directory.
    database_url: Option<SecretString>,
    /// File of the master key. Unset: `<data_dir>/master.key`.
    pub(crate) key_file: Option<PathBuf>,
    /// Checkpoint file of the audit trail. Unset: `<data_dir>/audit-checkpoints.jsonl`.
    pub(crate) audit_checkpoint_file: Option<PathBuf>,
    /// Directory to which old entries of the audit trail are archived before they are removed.
    pub(crate) audit_archive_dir: Option<PathBuf>,
    /// Age at which entries of the audit trail are removed. Unset: never.
    audit_retention: Option<SignedDuration>,
    /// Webhook URL that receives every audit entry. Unset: no webhook.
    audit_webhook_url: Option<SecretString>,
    /// Secret that signs deliveries, by which the receiver authenticates Pilothouse.
    audit_webhook_secret: Option<SecretString>,
    /// PEM file of the CA certificates for the webhook. Unset: the system's root certificates.
    audit_webhook_ca_file: Option<PathBuf>,
    /// Free disk space reserved for outcomes of running operations, in MiB; 0 disables the reserve. SQLite only.
    free_space_floor_mib: u32,
    /// The first admin's password. Used only while there is no user.
    pub(crate) admin_password: Option<SecretString>,
    /// Whether a cluster may have a loopback address.
    pub(crate) egress_allow_loopback: bool,
    /// Networks that clusters' addresses must be in. Unset: any network.
    egress_allow_networks: Option<Networks>,
    /// Whether a super admin may register a cluster without verification of its certificate.
    pub(crate) allow_insecure_tls: bool,
    /// Interval of probes of each cluster.
    probe_interval: SignedDuration,
    /// Deadline of a read from a cluster.
    read_deadline: SignedDuration,
    /// Deadline of a write to a cluster.
    write_deadline: SignedDuration,
    /// Deadline of a connection test.
    test_deadline: SignedDuration,
    /// Memory limit of the list cache, in MiB. 0 disables the cache: every list is read from its cluster.
    list_cache_memory_mib: usize,
    /// Idle time after which an unread cached list is evicted.
    list_cache_idle: SignedDuration,
    /// Limit of lists that are filled concurrently.
    list_cache_concurrent_fills: usize,
    /// Lifetime of an access token.
    access_token_lifetime: SignedDuration,
    /// Idle timeout of a session.
    session_idle: SignedDuration,
    /// Maximum lifetime of a session.
    session_lifetime: SignedDuration,
    /// Log filter in the syntax of `tracing`: `info`, `debug`, `pilothouse_kube=debug,info`.
    pub(crate) log: String,
    /// Format of log lines: `text` or `json`.
    pub(crate) log_format: LogFormat,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Accepted range of durations.
const DURATION_RANGE: std::ops::RangeInclusive<SignedDuration> =
    SignedDuration::from_secs(1)..=SignedDuration::from_hours(365 * 24);

/// Upper bound of numbers.
const MAX_NUMBER: usize = 1_000_000;
/// Accepted range of ages.
const AGE_RANGE: std::ops::RangeInclusive<SignedDuration> =
    SignedDuration::from_secs(1)..=SignedDuration::from_hours(100 * 365 * 24);

/// Minimum length of the webhook secret, in bytes: long enough that a random secret cannot be guessed.
const MIN_SECRET_LENGTH: usize = 16;

/// The effective settings and the layer each value comes from. Contains secrets.
pub(crate) struct Configuration {
    /// The effective settings.
    pub(crate) settings: Settings,
    layers: Layers,
}

impl Configuration {
    /// Reads the settings file, the environment and the flags.
    ///
    /// # Errors
    /// `Fatal::Setting`, naming the setting and never its value.
    pub(crate) fn read(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Fatal> {
        let layers = Layers::read(flags, environment)?;
        let settings: Settings = serde_path_to_error::deserialize(layers.values())
            .map_err(|error| invalid_value(&layers, &error.path().to_string()))?;
        let configuration = Self { settings, layers };
        configuration.check()?;
        Ok(configuration)
    }

    /// Checks that a webhook has an allowed URL and a secret of sufficient length.
    fn check_webhook(&self) -> Result<(), Fatal> {
        let Settings { audit_webhook_url: url, audit_webhook_secret: secret, .. } = &self.settings;
        match (url, secret) {
            (Some(url), _) if !is_allowed_webhook_url(url.expose_secret()) => {
                Err(invalid_value(&self.layers, "audit_webhook_url"))
            }
            (Some(_), None) | (None, Some(_)) => {
                let message = "audit_webhook_url and audit_webhook_secret must both be set, or neither";
                Err(Fatal::Setting(message.into()))
            }
            (_, Some(secret)) if secret.expose_secret().len() < MIN_SECRET_LENGTH => {
                let message =
                    format!("audit_webhook_secret must have at least {MIN_SECRET_LENGTH} characters");
                Err(Fatal::Setting(message))
            }
            _ => Ok(()),
        }
    }

    /// Checks ranges and combinations that the field types do not enforce.
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
        if let Some((key, _)) = durations.iter().find(|(_, duration)| !DURATION_RANGE.contains(duration)) {
            return Err(invalid_value(&self.layers, key));
        }
        let numbers = [
            ("list_cache_memory_mib", settings.list_cache_memory_mib, 0),
            ("list_cache_concurrent_fills", settings.list_cache_concurrent_fills, 1),
        ];
        if let Some((key, ..)) = numbers.iter().find(|(_, number, min)| !(*min..=MAX_NUMBER).contains(number))
        {
            return Err(invalid_value(&self.layers, key));
        }
        if settings.tls_certificate.is_some() != settings.tls_key.is_some() {
            return Err(Fatal::Setting("tls_certificate and tls_key must both be set, or neither".into()));
        }
        if settings.audit_retention.is_some_and(|age| !AGE_RANGE.contains(&age)) {
            return Err(invalid_value(&self.layers, "audit_retention"));
        }
        self.check_webhook()?;
        if settings.audit_retention.is_some()
            && settings.audit_archive_dir.is_none()
            && settings.audit_webhook_url.is_none()
        {
            let message = "audit_retention needs an archive for the removed entries: set audit_archive_dir, or a webhook";
            return Err(Fatal::Setting(message.into()));
        }
        if settings.listen.port() != 0 && settings.metrics_listen == Some(settings.listen) {
            return Err(Fatal::Setting("listen and metrics_listen must be different addresses".into()));
        }
        Ok(())
    }
}

/// Whether a webhook may have this URL: `https`, or `http` on a loopback address; no user info.
fn is_allowed_webhook_url(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let scheme = url.scheme_str();
    !host.is_empty() && !has_user && (scheme == Some("https") || scheme == Some("http") && is_loopback)
}

/// Error for an invalid value of a setting, with its origin and the expected form.
fn invalid_value(layers: &Layers, key: &str) -> Fatal {
    let Some(setting) = Setting::find(key) else {
        return Fatal::Setting("the settings are malformed: see docs/configure.md".into());
    };
    let origin =
        layers.get(setting).map(|(_, origin)| format!(" ({})", origin.describe(setting))).unwrap_or_default();
    Fatal::Setting(format!("the setting `{key}`{origin} must be {}", setting.value_type.expected()))
}

impl Settings {
    /// Keep-alive timeout of idle connections.
    pub(crate) fn keep_alive(&self) -> Duration {
        self.keep_alive.unsigned_abs()
    }

    /// Interval of probes of each cluster.
    pub(crate) fn probe_interval(&self) -> Duration {
        self.probe_interval.unsigned_abs()
    }

    /// Deadlines of requests to a cluster.
    pub(crate) fn deadlines(&self) -> pilothouse_kube::Deadlines {
        pilothouse_kube::Deadlines {
            read: self.read_deadline.unsigned_abs(),
            write: self.write_deadline.unsigned_abs(),
            test: self.test_deadline.unsigned_abs(),
        }
    }

    /// Settings of the list cache; `None` when its memory limit is 0.
    pub(crate) fn cache_settings(&self) -> Option<pilothouse_kube::CacheSettings> {
        (self.list_cache_memory_mib > 0).then(|| pilothouse_kube::CacheSettings {
            idle: self.list_cache_idle.unsigned_abs(),
            memory: self.list_cache_memory_mib.saturating_mul(1 << 20),
            fills: self.list_cache_concurrent_fills,
            ..pilothouse_kube::CacheSettings::default()
        })
    }

    /// Egress rules: the addresses a cluster may have. The server's own listeners and its database are excluded.
    pub(crate) fn egress(&self, database: &Database) -> EgressRules {
        let listeners = [Some(self.listen), self.metrics_listen].into_iter().flatten().map(OwnSocket::from);
        let databases = database.sockets().into_iter().map(|(host, port)| OwnSocket { host, port });
        EgressRules {
            allow_loopback: self.egress_allow_loopback,
            allow_networks: self.egress_allow_networks.clone(),
            own: listeners.chain(databases).collect(),
        }
    }

    /// Lifetimes of tokens and sessions.
    pub(crate) fn lifetimes(&self) -> pilothouse_core::session::Lifetimes {
        pilothouse_core::session::Lifetimes {
            access: self.access_token_lifetime.unsigned_abs(),
            idle: self.session_idle.unsigned_abs(),
            absolute: self.session_lifetime.unsigned_abs(),
        }
    }

    /// Age at which entries of the audit trail are removed; `None`: never.
    pub(crate) fn audit_retention(&self) -> Option<Duration> {
        self.audit_retention.map(SignedDuration::unsigned_abs)
    }

    /// Settings of the audit webhook; `None` without one.
    pub(crate) fn webhook(&self) -> Option<WebhookSettings> {
        let url = self.audit_webhook_url.as_ref()?.expose_secret().parse().ok()?;
        let secret = self.audit_webhook_secret.as_ref()?.expose_secret();
        Some(WebhookSettings {
            url,
            key: WebhookKey::new(secret.as_bytes()),
            ca_file: self.audit_webhook_ca_file.clone(),
        })
    }

    /// Free disk space reserved for outcomes, in bytes.
    pub(crate) fn free_space_floor(&self) -> u64 {
        u64::from(self.free_space_floor_mib) << 20
    }

    /// Path of the checkpoint file.
    pub(crate) fn audit_checkpoint_file(&self) -> PathBuf {
        let default = || self.data_dir.join("audit-checkpoints.jsonl");
        self.audit_checkpoint_file.clone().unwrap_or_else(default)
    }

    /// Path of the master key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data_dir.join("master.key"))
    }

    /// The database: PostgreSQL by its URL, or SQLite in the data directory.
    ///
    /// # Errors
    /// `Fatal::Store` when `database_url` is invalid.
    pub(crate) fn database(&self) -> Result<Database, Fatal> {
        match &self.database_url {
            Some(address) => Ok(Database::parse(address.expose_secret())?),
            None => Ok(Database::Sqlite(self.data_dir.join("pilothouse.db"))),
        }
    }

    /// Paths of the TLS certificate and key; `None`: plain HTTP.
    pub(crate) fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_certificate.as_deref().zip(self.tls_key.as_deref())
    }
}
