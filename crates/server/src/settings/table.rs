//! Table of all settings. A row defines a field of [`Settings`] and its [`Setting`]: key, type, range, default and
//! documentation. `just settings` writes `docs/pilothouse.example.toml` and the table in `docs/configure.md` from it.

use std::{borrow::Cow, net::SocketAddr, path::PathBuf};

use jiff::SignedDuration;
use pilothouse_core::mask::MaskedFields;
use pilothouse_kube::Networks;
use secrecy::SecretString;
use serde::Deserialize;
use toml::{Table, Value};

use super::{
    LogFormat,
    providers::{
        LDAP, LdapTable, OIDC, OidcTable, is_https_or_loopback, is_ldap_filter, is_ldap_url, is_origin,
        is_provider_id,
    },
    second_factor::{Covered, StepUpActions, Usernames},
};

/// A row of a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Key in the settings file; in upper case after `PILOTHOUSE_` the environment variable.
    pub(crate) key: &'static str,
    /// Section of the example file.
    pub(crate) section: &'static str,
    /// Type of the value.
    pub(crate) value_type: SettingType,
    /// Default, as text; `None` for an optional or a required setting.
    pub(crate) default: Option<&'static str>,
    /// Whether the value must be set. Only keys of [`SettingType::Tables`] are required.
    pub(crate) required: bool,
    /// Value in the example file, as text: the default if there is one.
    pub(crate) example: &'static str,
    /// Meaning, in Markdown. Links are relative to `docs/configure.md`.
    pub(crate) documentation: &'static str,
}

/// Type of a value: how it is parsed, its range, and whether `config show` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingType {
    /// IP address and port to listen on.
    Address,
    /// Path of a file or directory.
    Path,
    /// URL of a database; may contain a password.
    Database,
    /// URL of a webhook: `https`, or `http` on a loopback address. Its path and query may contain a secret.
    Webhook,
    /// Secret; never printed.
    Password,
    /// `true` or `false`.
    Switch,
    /// List of networks: `10.0.0.0/8, fd12:3456::/32`.
    Networks,
    /// List of paths of fields: `/data/password, /spec/template/spec/containers/*/args`.
    Fields,
    /// Duration from 1 s to [`MAX_DURATION_HOURS`]: `30s`, `10m`, `8h`.
    Duration,
    /// Duration from 1 s to [`MAX_AGE_HOURS`]: `2160h`.
    Age,
    /// Log filter in the syntax of `tracing`.
    Filter,
    /// Format of log lines: `text` or `json`.
    LogFormat,
    /// Integer in this range.
    Number { min: i64, max: i64 },
    /// Who must have a second factor: `none`, `admins` or `all`.
    Covered,
    /// Actions that take a fresh second factor, or `none`.
    StepUp,
    /// List of usernames: `ann, ben`.
    Usernames,
    /// Text without a range; not empty.
    Text,
    /// Scheme and authority of a URL: `https`, or `http` on a loopback address; no path, query or user.
    Origin,
    /// URL of an OIDC issuer: `https`, or `http` on a loopback address; no query or user.
    Issuer,
    /// Scopes of OIDC, separated by spaces: `openid profile`.
    Scopes,
    /// URL of an LDAP server: `ldaps://host:port` or `ldap://host:port`.
    LdapUrl,
    /// Filter of an LDAP search, with this placeholder.
    LdapFilter { placeholder: &'static str },
    /// Id of an identity provider: `[a-z0-9-]{1,32}`, not a reserved word.
    ProviderId,
    /// Tables of these keys: `[[oidc]]`. In an environment variable, an array of inline tables.
    Tables { rows: &'static [Setting] },
}

/// Longest [`SettingType::Duration`], in hours: a year.
const MAX_DURATION_HOURS: i64 = 365 * 24;
/// Longest [`SettingType::Age`], in hours: 100 years.
const MAX_AGE_HOURS: i64 = 100 * MAX_DURATION_HOURS;

/// Defines a structure of settings, such as [`Settings`], and the table of its rows, such as [`SETTINGS`]. A row is
/// `key: type of the field = variant of SettingType, value;`. The value is `default "…"`, or `example "…"` for an
/// optional field, or `required "…"` with an example for a key of [`SettingType::Tables`] that must be set.
macro_rules! settings {
    (@default default $text:literal) => {
        Some($text)
    };
    (@default $kind:ident $text:literal) => {
        None
    };
    (@required required) => {
        true
    };
    (@required $kind:ident) => {
        false
    };
    ($(#[doc = $about:literal])+ $settings:ident, $(#[doc = $rows:literal])+ $table:ident: $($section:literal {
        $(
            $(#[doc = $documentation:literal])+
            $key:ident: $field:ty = $variant:ident $({ $($limit:ident: $bound:expr),+ })?, $kind:ident $text:literal;
        )+
    })+) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $settings {
            $($(
                $(#[doc = $documentation])+
                pub(crate) $key: $field,
            )+)+
        }

        $(#[doc = $rows])+
        pub(crate) const $table: &[Setting] = &[
            $($(
                Setting {
                    key: stringify!($key),
                    section: $section,
                    value_type: SettingType::$variant $({ $($limit: $bound),+ })?,
                    default: settings!(@default $kind $text),
                    required: settings!(@required $kind),
                    example: $text,
                    documentation: concat!($($documentation),+),
                },
            )+)+
        ];
    };
}

pub(super) use settings;

settings! {
    /// The effective settings. Each field is a key of the settings file and, in upper case after `PILOTHOUSE_`, an
    /// environment variable.
    Settings,
    /// All settings, in the order of the documentation.
    SETTINGS:
    "Network" {
        /// IP address and port of the API. Off loopback, use [HTTPS](#https) or a TLS proxy.
        listen: SocketAddr = Address, default "127.0.0.1:8080";
        /// Certificate chain for [HTTPS](#https): a PEM file, the server's own certificate first. Requires `tls_key`.
        /// Unset: plain HTTP.
        tls_certificate: Option<PathBuf> = Path, example "/etc/pilothouse/tls.crt";
        /// Private key of the certificate: a PEM file of mode 0600, or [mounted by
        /// Kubernetes](#keys-mounted-by-kubernetes).
        tls_key: Option<PathBuf> = Path, example "/etc/pilothouse/tls.key";
        /// Networks of the proxies in front. Only their `X-Forwarded-For` determines the client address. Unset: the
        /// header is ignored.
        trusted_proxies: Option<Networks> = Networks, example "10.0.0.0/8, fd12:3456::/32";
        /// URL at which browsers reach Pilothouse, without a path. The redirect URIs of [single
        /// sign-on](single-sign-on.md) begin with it; with https, cookies are sent over HTTPS only. Required with an OIDC
        /// provider.
        public_url: Option<String> = Origin, example "https://pilothouse.example.com";
        /// Idle time after which a client connection is closed. Must exceed the idle timeout of the load balancer.
        keep_alive: SignedDuration = Duration, default "75s";
        /// IP address and port of [`/metrics`](operate.md#metrics): plain HTTP without authentication. Unset: no
        /// metrics endpoint.
        metrics_listen: Option<SocketAddr> = Address, example "127.0.0.1:9090";
    }
    "Storage" {
        /// Directory of the SQLite database, the master key and the first admin's password. Created at the first start,
        /// with mode 0700.
        data_dir: PathBuf = Path, default "./pilothouse-data";
        /// URL of a [PostgreSQL database](#postgresql), or another SQLite file as `sqlite:<path>`. Confidential if it
        /// contains a password. Unset: SQLite in the data directory.
        database_url: Option<SecretString> = Database, example "postgres://pilothouse@db.example.com/pilothouse";
        /// Master key: encrypts the credentials of the clusters and signs tokens. All replicas use the same. Created at
        /// the first start with mode 0600; an existing key may be [mounted by Kubernetes](#keys-mounted-by-kubernetes).
        /// Unset: `<data_dir>/master.key`.
        key_file: Option<PathBuf> = Path, example "/etc/pilothouse/master.key";
        /// Disk space to keep free for a SQLite database, in MiB. With less, the [disk is full](recover.md#full-disk):
        /// changes and logins are refused, so that outcomes of running changes can still be stored. 0: none.
        free_space_floor_mib: u32 = Number { min: 0, max: 4_294_967_295 }, default "64";
    }
    "Audit trail" {
        /// Copy of the audit checkpoints outside the database, preferably where the owner of the database cannot write.
        /// Unset: `<data_dir>/audit-checkpoints.jsonl`.
        audit_checkpoint_file: Option<PathBuf> = Path, example "/mnt/elsewhere/audit-checkpoints.jsonl";
        /// Directory of the archive files that [retention](operate.md#retention) writes before it removes old audit
        /// entries. Each installation needs its own directory.
        audit_archive_dir: Option<PathBuf> = Path, example "/srv/archive/pilothouse-audit";
        /// Age at which audit entries are removed, checked every hour. Requires `audit_archive_dir` or a webhook.
        /// Unset: never.
        audit_retention: Option<SignedDuration> = Age, example "17520h";
        /// URL of the [webhook](operate.md#webhook) that receives every audit entry and checkpoint: https, or http on
        /// loopback. Confidential. Unset: no webhook.
        audit_webhook_url: Option<SecretString> = Webhook, example "https://receiver.example.org/audit";
        /// Secret that signs webhook requests; at least 16 characters. Required with `audit_webhook_url`.
        audit_webhook_secret: Option<SecretString> = Password, example "16 characters or more";
        /// Certificate authorities for the webhook, a PEM file. Unset: the system's roots.
        audit_webhook_ca_file: Option<PathBuf> = Path, example "/etc/pilothouse/receiver-ca.crt";
    }
    "Clusters" {
        /// Allow clusters on loopback addresses.
        egress_allow_loopback: bool = Switch, default "false";
        /// Only networks in which a cluster may be. Unset: all networks. [Some addresses](#cluster-addresses) are
        /// refused in either case.
        egress_allow_networks: Option<Networks> = Networks, example "10.0.0.0/8, fd12:3456::/32";
        /// Allow super admins to register clusters without certificate verification.
        allow_insecure_tls: bool = Switch, default "false";
        /// Fields that are masked in the details of objects of every kind, besides literal values of `env`: JSON
        /// pointers, in which `*` matches every key and every item. They are masked for users who may neither update the
        /// object nor open a terminal in its namespace. Rows of lists are not masked. Unset: only literal values of
        /// `env`.
        masked_fields: Option<MaskedFields> = Fields,
            example "/data/password, /spec/template/spec/containers/*/args";
        /// Interval at which the status, version and counts of each cluster are refreshed.
        probe_interval: SignedDuration = Duration, default "30s";
        /// Deadline of a read from a cluster.
        read_deadline: SignedDuration = Duration, default "10s";
        /// Deadline of a change to a cluster.
        write_deadline: SignedDuration = Duration, default "30s";
        /// Deadline of a connection test.
        test_deadline: SignedDuration = Duration, default "5s";
        /// Memory of the [list cache](operate.md#list-cache), in MiB. 0: every list is read from its cluster each time.
        list_cache_memory_mib: usize = Number { min: 0, max: 1_000_000 }, default "1024";
        /// Idle time after which a cached list is dropped.
        list_cache_idle: SignedDuration = Duration, default "10m";
        /// Number of large responses of clusters that are parsed at the same time, at most one per processor. One
        /// cluster has at most half of them.
        list_cache_concurrent_fills: usize = Number { min: 1, max: 1_000_000 }, default "4";
    }
    "Users and sessions" {
        /// Password of the first admin, used only while the database has no user. A secret. Unset: random.
        admin_password: Option<SecretString> = Password, example "12 to 128 characters";
        /// Lifetime of an access token.
        access_token_lifetime: SignedDuration = Duration, default "10m";
        /// Idle time after which a session ends.
        session_idle: SignedDuration = Duration, default "30m";
        /// Maximum lifetime of a session.
        session_lifetime: SignedDuration = Duration, default "8h";
        /// Who must have a [second factor](single-sign-on.md#second-factor): `none`, `admins` (super admins, ops
        /// admins, and users with a grant of `admin` or of a role with `grants`), or `all`.
        require_second_factor: Covered = Covered, default "none";
        /// What takes a second factor that is at most 10 minutes old, of users who have one or must have one: some of
        /// `reveal`, `grants`, `tokens`, `break_glass`, `production_terminals`, or `none`. API tokens of users may not do
        /// it.
        step_up: StepUpActions = StepUp, default "reveal, grants, tokens, break_glass, production_terminals";
        /// Local users who may use [break-glass](single-sign-on.md#break-glass). Requires `break_glass_networks`. Unset:
        /// nobody.
        break_glass_users: Option<Usernames> = Usernames, example "ann, ben";
        /// Networks from which break-glass is allowed. Required with `break_glass_users`.
        break_glass_networks: Option<Networks> = Networks, example "10.0.0.0/8, fd12:3456::/32";
    }
    "Logs, on standard error" {
        /// Log filter: `info`, `debug`, `pilothouse_kube=debug,info`.
        log: String = Filter, default "info";
        /// `text`, or `json`: one object per line.
        log_format: LogFormat = LogFormat, default "text";
    }
    "Identity providers" {
        /// OIDC providers for [single sign-on](single-sign-on.md), one table each, at the end of the file.
        oidc: Option<Vec<OidcTable>> = Tables { rows: OIDC }, example "";
        /// LDAP directories and Active Directory for [single sign-on](single-sign-on.md), one table each, at the end of
        /// the file.
        ldap: Option<Vec<LdapTable>> = Tables { rows: LDAP }, example "";
    }
}

impl Setting {
    /// Finds a setting by its key.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The path of the first value that is not in the range of its type, such as `listen` or `oidc[0].issuer`.
    pub(super) fn refused_path(&self, value: &Value) -> Option<String> {
        let SettingType::Tables { rows } = self.value_type else {
            return (!self.value_type.accepts(value)).then(|| self.key.to_owned());
        };
        let tables = value.as_array().into_iter().flatten().enumerate();
        let mut values = tables.flat_map(|(index, table)| {
            rows.iter().filter_map(move |row| Some((index, row, table.get(row.key)?)))
        });
        let (index, row, _) = values.find(|(_, row, value)| !row.value_type.accepts(value))?;
        Some(format!("{}[{index}].{}", self.key, row.key))
    }

    /// Name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("PILOTHOUSE_{}", self.key.to_uppercase())
    }
}

impl SettingType {
    /// Converts text from the environment or a flag to a TOML value. Text that is not a valid switch, number or array
    /// stays a string, which deserialisation rejects.
    pub(crate) fn value(self, text: &str) -> Value {
        let value = match self {
            Self::Switch => text.parse().ok().map(Value::Boolean),
            Self::Number { .. } => text.parse().ok().map(Value::Integer),
            Self::Tables { .. } => parse_value(text),
            _ => None,
        };
        value.unwrap_or_else(|| Value::String(text.to_owned()))
    }

    /// Whether a value that can be deserialised is also in the range of the type.
    pub(crate) fn accepts(self, value: &Value) -> bool {
        let is_duration = |max_hours| {
            let duration: Option<SignedDuration> = value.as_str().and_then(|text| text.parse().ok());
            let range = SignedDuration::from_secs(1)..=SignedDuration::from_hours(max_hours);
            duration.is_some_and(|duration| range.contains(&duration))
        };
        let is_text = |is_valid: &dyn Fn(&str) -> bool| value.as_str().is_some_and(is_valid);
        match self {
            Self::Duration => is_duration(MAX_DURATION_HOURS),
            Self::Age => is_duration(MAX_AGE_HOURS),
            Self::Number { min, max } => {
                value.as_integer().is_some_and(|number| (min..=max).contains(&number))
            }
            Self::Webhook => is_text(&|url| is_https_or_loopback(url, true)),
            Self::Text => is_text(&|text| !text.trim().is_empty()),
            Self::Origin => is_text(&is_origin),
            Self::Issuer => is_text(&|url| is_https_or_loopback(url, false)),
            Self::Scopes => is_text(&|scopes| scopes.split(' ').any(|scope| scope == "openid")),
            Self::LdapUrl => is_text(&is_ldap_url),
            Self::LdapFilter { placeholder } => is_text(&|filter| is_ldap_filter(filter, placeholder)),
            Self::ProviderId => is_text(&is_provider_id),
            _ => true,
        }
    }

    /// Description of valid values; completes the sentence "the setting must be …".
    pub(crate) fn expected(self) -> Cow<'static, str> {
        let expected = match self {
            Self::Address => "an IP address and a port, such as 127.0.0.1:8080",
            Self::Path => "a path",
            Self::Database => "a text, such as postgres://user@host/database",
            Self::Webhook => {
                "an address, such as https://receiver.example.org/audit (http:// on loopback only)"
            }
            Self::Password => "a text",
            Self::Covered => "none, admins or all",
            Self::StepUp => {
                "none, or some of reveal, grants, tokens, break_glass, production_terminals, separated by commas"
            }
            Self::Usernames => "usernames separated by commas, such as ann, ben",
            Self::Text => "a text, not empty",
            Self::Origin => {
                "the address of a server without a path, such as https://pilothouse.example.com (http:// on loopback only)"
            }
            Self::Issuer => {
                "the address of an issuer, such as https://id.example.com/realms/corp (http:// on loopback only)"
            }
            Self::Scopes => "scopes separated by single spaces, among them openid, such as openid profile",
            Self::LdapUrl => "the address of a directory, such as ldaps://ldap.example.com",
            Self::LdapFilter { placeholder } => {
                return format!("a filter in parentheses with {placeholder}, such as (cn={placeholder})")
                    .into();
            }
            Self::ProviderId => "an id of 1 to 32 of a-z, 0-9 and -, not local, sa, cli or group",
            Self::Tables { .. } => {
                "tables of the keys that docs/configure.md lists, in an environment variable an array of inline tables"
            }
            Self::Switch => "true or false",
            Self::Networks => "networks, such as 10.0.0.0/8, fd12:3456::/32",
            Self::Fields => "paths of fields, such as /data/password, /spec/template/spec/containers/*/args",
            Self::Duration => {
                return format!("a duration from 1s to {MAX_DURATION_HOURS}h, such as 30s, 10m or 8h").into();
            }
            Self::Age => {
                let examples = "2160h (90 days) or 17520h";
                return format!("a duration from 1s to {MAX_AGE_HOURS}h, such as {examples}").into();
            }
            Self::Filter => "a filter, such as info or pilothouse_kube=debug,info",
            Self::LogFormat => "text or json",
            Self::Number { min, max } => return format!("a whole number from {min} to {max}").into(),
        };
        expected.into()
    }
}

/// Parses one TOML value. `None` if the text is not exactly one value.
fn parse_value(text: &str) -> Option<Value> {
    let mut table: Table = format!("value = {text}").parse().ok()?;
    table.remove("value").filter(|_| table.is_empty())
}
