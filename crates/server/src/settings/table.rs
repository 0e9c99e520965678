//! Table of all settings: key, type of the value, default.

use toml::Value;

/// A row of the table. The keys are the field names of [`super::Settings`].
pub(crate) struct Setting {
    /// Key in the settings file; in upper case after `PILOTHOUSE_` the environment variable.
    pub(crate) key: &'static str,
    /// Type of the value.
    pub(crate) value_type: SettingType,
    /// Default, as text; `None` for an optional setting.
    pub(crate) default: Option<&'static str>,
}

/// Type of a value: how it is parsed, and whether `config show` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingType {
    /// IP address and port to listen on.
    Address,
    /// Path of a file or directory.
    Path,
    /// URL of a database; may contain a password.
    Database,
    /// URL of a webhook; its path and query may contain a secret.
    Webhook,
    /// Secret; never printed.
    Password,
    /// `true` or `false`.
    Switch,
    /// List of networks: `10.0.0.0/8, fd12:3456::/32`.
    Networks,
    /// Duration: `30s`, `10m`, `8h`.
    Duration,
    /// Age: `2160h`.
    Age,
    /// Log filter.
    Filter,
    /// Format of log lines: `text` or `json`.
    LogFormat,
    /// Non-negative integer.
    Number,
}

#[rustfmt::skip]
pub(crate) const SETTINGS: [Setting; 32] = [
    Setting { key: "listen",                      value_type: SettingType::Address,   default: Some("127.0.0.1:8080") },
    Setting { key: "tls_certificate",             value_type: SettingType::Path,      default: None },
    Setting { key: "tls_key",                     value_type: SettingType::Path,      default: None },
    Setting { key: "trusted_proxies",             value_type: SettingType::Networks,  default: None },
    Setting { key: "keep_alive",                  value_type: SettingType::Duration,  default: Some("75s") },
    Setting { key: "metrics_listen",              value_type: SettingType::Address,   default: None },
    Setting { key: "data_dir",                    value_type: SettingType::Path,      default: Some("./pilothouse-data") },
    Setting { key: "database_url",                value_type: SettingType::Database,  default: None },
    Setting { key: "key_file",                    value_type: SettingType::Path,      default: None },
    Setting { key: "audit_checkpoint_file",       value_type: SettingType::Path,      default: None },
    Setting { key: "audit_archive_dir",           value_type: SettingType::Path,      default: None },
    Setting { key: "audit_retention",             value_type: SettingType::Age,       default: None },
    Setting { key: "audit_webhook_url",           value_type: SettingType::Webhook,   default: None },
    Setting { key: "audit_webhook_secret",        value_type: SettingType::Password,  default: None },
    Setting { key: "audit_webhook_ca_file",       value_type: SettingType::Path,      default: None },
    Setting { key: "free_space_floor_mib",        value_type: SettingType::Number,    default: Some("64") },
    Setting { key: "admin_password",              value_type: SettingType::Password,  default: None },
    Setting { key: "egress_allow_loopback",       value_type: SettingType::Switch,    default: Some("false") },
    Setting { key: "egress_allow_networks",       value_type: SettingType::Networks,  default: None },
    Setting { key: "allow_insecure_tls",          value_type: SettingType::Switch,    default: Some("false") },
    Setting { key: "probe_interval",              value_type: SettingType::Duration,  default: Some("30s") },
    Setting { key: "read_deadline",               value_type: SettingType::Duration,  default: Some("10s") },
    Setting { key: "write_deadline",              value_type: SettingType::Duration,  default: Some("30s") },
    Setting { key: "test_deadline",               value_type: SettingType::Duration,  default: Some("5s") },
    Setting { key: "list_cache_memory_mib",       value_type: SettingType::Number,    default: Some("1024") },
    Setting { key: "list_cache_idle",             value_type: SettingType::Duration,  default: Some("10m") },
    Setting { key: "list_cache_concurrent_fills", value_type: SettingType::Number,    default: Some("4") },
    Setting { key: "access_token_lifetime",       value_type: SettingType::Duration,  default: Some("10m") },
    Setting { key: "session_idle",                value_type: SettingType::Duration,  default: Some("30m") },
    Setting { key: "session_lifetime",            value_type: SettingType::Duration,  default: Some("8h") },
    Setting { key: "log",                         value_type: SettingType::Filter,    default: Some("info") },
    Setting { key: "log_format",                  value_type: SettingType::LogFormat, default: Some("text") },
];

impl Setting {
    /// Finds a setting by its key.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("PILOTHOUSE_{}", self.key.to_uppercase())
    }
}

impl SettingType {
    /// Converts text from the environment or a flag to a TOML value. Text that is not a valid switch or number stays a
    /// string, which deserialisation rejects.
    pub(crate) fn value(self, text: &str) -> Value {
        let value = match self {
            Self::Switch => text.parse().ok().map(Value::Boolean),
            Self::Number => text.parse().ok().map(Value::Integer),
            _ => None,
        };
        value.unwrap_or_else(|| Value::String(text.to_owned()))
    }

    /// Description of valid values; completes the sentence "the setting must be …".
    pub(crate) const fn expected(self) -> &'static str {
        match self {
            Self::Address => "an IP address and a port, such as 127.0.0.1:8080",
            Self::Path => "a path",
            Self::Database => "a text, such as postgres://user@host/database",
            Self::Webhook => {
                "an address, such as https://receiver.example.org/audit (http:// on loopback only)"
            }
            Self::Password => "a text",
            Self::Switch => "true or false",
            Self::Networks => "networks, such as 10.0.0.0/8, fd12:3456::/32",
            Self::Duration => "a duration from 1s to 8760h, such as 30s, 10m or 8h",
            Self::Number => "a whole number from 0 to 1000000",
            Self::Age => "a duration from 1s to 876000h, such as 2160h (90 days) or 17520h",
            Self::Filter => "a filter, such as info or pilothouse_kube=debug,info",
            Self::LogFormat => "text or json",
        }
    }
}
