//! Every setting by its name: what its default is, what it looks like, whether it may be shown.

use toml::Value;

/// A setting, as far as it can be said without its type. Field names of [`super::Settings`] are these keys.
pub(crate) struct Setting {
    /// Its line in the file; in upper case after `PILOTHOUSE_` its environment variable.
    pub(crate) key: &'static str,
    /// What it looks like.
    pub(crate) form: SettingType,
    /// As a line of the file would have it; none when it is optional.
    pub(crate) default: Option<&'static str>,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettingType {
    /// Where to listen.
    Address,
    /// A file or a folder.
    Path,
    /// The address of a database; may hold a password.
    Database,
    /// Where a webhook is; its path may be as good as a password.
    Webhook,
    /// A password; never shown.
    Password,
    /// On or off.
    Switch,
    /// `10.0.0.0/8, fd12:3456::/32`.
    Networks,
    /// `30s`, `10m`, `8h`.
    Duration,
    /// How old: `2160h`.
    Age,
    /// What is logged.
    Filter,
    /// How a line of the log looks.
    LogFormat,
    /// A whole number.
    Number,
}

#[rustfmt::skip]
pub(crate) const SETTINGS: [Setting; 32] = [
    Setting { key: "listen",                form: SettingType::Address,   default: Some("127.0.0.1:8080") },
    Setting { key: "tls_certificate",       form: SettingType::Path,      default: None },
    Setting { key: "tls_key",               form: SettingType::Path,      default: None },
    Setting { key: "trusted_proxies",       form: SettingType::Networks,  default: None },
    Setting { key: "keep_alive",            form: SettingType::Duration,  default: Some("75s") },
    Setting { key: "metrics_listen",        form: SettingType::Address,   default: None },
    Setting { key: "data_dir",              form: SettingType::Path,      default: Some("./pilothouse-data") },
    Setting { key: "database_url",          form: SettingType::Database,  default: None },
    Setting { key: "key_file",              form: SettingType::Path,      default: None },
    Setting { key: "audit_checkpoint_file", form: SettingType::Path,      default: None },
    Setting { key: "audit_archive_dir",     form: SettingType::Path,      default: None },
    Setting { key: "audit_retention",       form: SettingType::Age,       default: None },
    Setting { key: "audit_webhook_url",     form: SettingType::Webhook,   default: None },
    Setting { key: "audit_webhook_secret",  form: SettingType::Password,  default: None },
    Setting { key: "audit_webhook_ca_file", form: SettingType::Path,      default: None },
    Setting { key: "free_space_floor_mib",  form: SettingType::Number,    default: Some("64") },
    Setting { key: "admin_password",        form: SettingType::Password,  default: None },
    Setting { key: "egress_allow_loopback", form: SettingType::Switch,    default: Some("false") },
    Setting { key: "egress_allow_networks", form: SettingType::Networks,  default: None },
    Setting { key: "allow_insecure_tls",    form: SettingType::Switch,    default: Some("false") },
    Setting { key: "probe_interval",        form: SettingType::Duration,  default: Some("30s") },
    Setting { key: "read_deadline",         form: SettingType::Duration,  default: Some("10s") },
    Setting { key: "write_deadline",        form: SettingType::Duration,  default: Some("30s") },
    Setting { key: "test_deadline",         form: SettingType::Duration,  default: Some("5s") },
    Setting { key: "list_cache_memory_mib",      form: SettingType::Number,    default: Some("1024") },
    Setting { key: "list_cache_idle",            form: SettingType::Duration,  default: Some("10m") },
    Setting { key: "list_cache_concurrent_fills",  form: SettingType::Number,    default: Some("4") },
    Setting { key: "access_token_lifetime", form: SettingType::Duration,  default: Some("10m") },
    Setting { key: "session_idle",          form: SettingType::Duration,  default: Some("30m") },
    Setting { key: "session_lifetime",      form: SettingType::Duration,  default: Some("8h") },
    Setting { key: "log",                   form: SettingType::Filter,    default: Some("info") },
    Setting { key: "log_format",            form: SettingType::LogFormat, default: Some("text") },
];

impl Setting {
    /// The setting of this name.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("PILOTHOUSE_{}", self.key.to_uppercase())
    }
}

impl SettingType {
    /// A text, as the environment and flags have it, as the file would have it. What is no switch or number where it
    /// should be stays a text, and is refused when the settings are read.
    pub(crate) fn value(self, text: &str) -> Value {
        let value = match self {
            Self::Switch => text.parse().ok().map(Value::Boolean),
            Self::Number => text.parse().ok().map(Value::Integer),
            _ => None,
        };
        value.unwrap_or_else(|| Value::String(text.to_owned()))
    }

    /// What a value must be, to finish a sentence.
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
