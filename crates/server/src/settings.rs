//! Settings, in order of increasing precedence: defaults, TOML file, environment variables, flags.

mod documentation;
mod layers;
mod providers;
mod second_factor;
mod show;
mod table;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use pilothouse_crypto::WebhookKey;
use pilothouse_kube::{EgressRules, OwnSocket};
use pilothouse_store::Database;
use secrecy::ExposeSecret;
use serde::Deserialize;

pub(crate) use self::{
    documentation::{example, reference},
    layers::Flags,
    providers::{LdapTable, OidcTable, is_origin},
    table::Settings,
};
use self::{
    layers::Layers,
    providers::is_on_loopback,
    table::{SETTINGS, Setting, SettingType},
};
use crate::{Fatal, webhook::WebhookSettings};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

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

    /// Checks the ranges in the table, and combinations of settings.
    fn check(&self) -> Result<(), Fatal> {
        for setting in SETTINGS {
            let Some((value, _)) = self.layers.get(setting) else { continue };
            if let Some(path) = setting.refused_path(value) {
                return Err(invalid_value(&self.layers, &path));
            }
        }
        self.settings.check_combinations().map_err(|message| Fatal::Setting(message.into()))?;
        self.settings.check_providers().map_err(Fatal::Setting)
    }
}

/// Error for an invalid value at a path, `listen` or `oidc[0].issuer`, with its origin and the expected form.
fn invalid_value(layers: &Layers, path: &str) -> Fatal {
    let (key, in_table) = path.split_once('[').unwrap_or((path, ""));
    let Some(setting) = Setting::find(key) else {
        return Fatal::Setting("the settings are malformed: see docs/configure.md".into());
    };
    let origin =
        layers.get(setting).map(|(_, origin)| format!(" ({})", origin.describe(setting))).unwrap_or_default();
    let row = match setting.value_type {
        SettingType::Tables { rows } => {
            in_table.split_once("].").and_then(|(_, key)| rows.iter().find(|row| row.key == key))
        }
        _ => None,
    };
    let (name, value_type) = row.map_or((key, setting.value_type), |row| (path, row.value_type));
    Fatal::Setting(format!("the setting `{name}`{origin} must be {}", value_type.expected()))
}

impl Settings {
    /// Checks settings that depend on each other. The error is a complete message.
    fn check_combinations(&self) -> Result<(), &'static str> {
        let secret = self.audit_webhook_secret.as_ref().map(|secret| secret.expose_secret().len());
        let has_archive = self.audit_archive_dir.is_some() || self.audit_webhook_url.is_some();
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            Err("tls_certificate and tls_key must both be set, or neither")
        } else if self.audit_webhook_url.is_some() != secret.is_some() {
            Err("audit_webhook_url and audit_webhook_secret must both be set, or neither")
        } else if secret.is_some_and(|length| length < 16) {
            Err("audit_webhook_secret must have at least 16 characters")
        } else if self.audit_retention.is_some() && !has_archive {
            Err(
                "audit_retention needs an archive for the removed entries: set audit_archive_dir, or a webhook",
            )
        } else if self.break_glass_users.is_some() != self.break_glass_networks.is_some() {
            Err("break_glass_users and break_glass_networks must both be set, or neither")
        } else if self.listen.port() != 0 && self.metrics_listen == Some(self.listen) {
            Err("listen and metrics_listen must be different addresses")
        } else {
            Ok(())
        }
    }

    /// Checks settings that depend on each other in the tables of identity providers. The error is a complete message.
    fn check_providers(&self) -> Result<(), String> {
        let (oidc, ldap) = (self.oidc_providers(), self.ldap_providers());
        let mut ids: Vec<&str> =
            oidc.iter().map(|oidc| &*oidc.id).chain(ldap.iter().map(|ldap| &*ldap.id)).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two providers have the id `{}`: each needs its own", pair[0]));
        }
        if !oidc.is_empty() && self.public_url.is_none() {
            return Err("the tables [[oidc]] need public_url, with which the redirect URIs begin".into());
        }
        let oidc = oidc.iter().map(|oidc| (&oidc.id, oidc.check_combinations()));
        let ldap = ldap.iter().map(|ldap| (&ldap.id, ldap.check_combinations()));
        oidc.chain(ldap)
            .try_for_each(|(id, checked)| checked.map_err(|rest| format!("the provider `{id}` {rest}")))
    }

    /// The tables `[[oidc]]`.
    pub(crate) fn oidc_providers(&self) -> &[OidcTable] {
        self.oidc.as_deref().unwrap_or_default()
    }

    /// The tables `[[ldap]]`.
    pub(crate) fn ldap_providers(&self) -> &[LdapTable] {
        self.ldap.as_deref().unwrap_or_default()
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

    /// Egress rules of an identity provider at this URL. The operator chooses it, so that it may be in every network, and
    /// on loopback if the URL names it.
    pub(crate) fn egress_to_provider(&self, database: &Database, url: &str) -> EgressRules {
        EgressRules {
            allow_loopback: self.egress_allow_loopback || is_on_loopback(url),
            allow_networks: None,
            ..self.egress(database)
        }
    }

    /// Whether browsers reach the server by HTTPS, through a proxy if the server itself has no certificate.
    pub(crate) fn is_public_https(&self) -> bool {
        let url = self.public_url.as_ref().and_then(|url| url.parse::<http::Uri>().ok());
        url.is_some_and(|url| url.scheme_str() == Some("https"))
    }

    /// The redirect URI of an OIDC provider. `public_url` is set if there is one.
    pub(crate) fn redirect_uri(&self, provider: &str) -> String {
        format!("{}api/auth/oidc/{provider}/callback", self.post_logout_redirect_uri())
    }

    /// Address to which an OIDC provider sends browsers after a logout: `public_url` with a final slash.
    pub(crate) fn post_logout_redirect_uri(&self) -> String {
        format!("{}/", self.public_url.as_deref().unwrap_or_default().trim_end_matches('/'))
    }

    /// Lifetimes of tokens and sessions.
    pub(crate) fn lifetimes(&self) -> pilothouse_core::session::Lifetimes {
        pilothouse_core::session::Lifetimes {
            access: self.access_token_lifetime.unsigned_abs(),
            idle: self.session_idle.unsigned_abs(),
            absolute: self.session_lifetime.unsigned_abs(),
        }
    }

    /// Rules of the second factor.
    pub(crate) fn second_factor(&self) -> pilothouse_core::second_factor::SecondFactorSettings {
        pilothouse_core::second_factor::SecondFactorSettings {
            require: self.require_second_factor.0,
            step_up: self.step_up.0,
        }
    }

    /// Users that may use break-glass, and their networks.
    pub(crate) fn break_glass(&self) -> pilothouse_core::break_glass::BreakGlassSettings {
        pilothouse_core::break_glass::BreakGlassSettings {
            users: self.break_glass_users.clone().map(|names| names.0).unwrap_or_default(),
            networks: self.break_glass_networks.clone().map(Into::into).unwrap_or_default(),
        }
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
