//! Layers of settings, in order of increasing precedence: defaults, file, environment, flags. An unknown name in any
//! layer is an error, so that a mistyped name does not silently leave the default in effect.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::table::{SETTINGS, Setting, SettingType};
use crate::Fatal;

/// Prefix of Pilothouse's environment variables.
const PREFIX: &str = "PILOTHOUSE_";
/// Prefix of variables for tests, which are ignored unless they name a setting.
const TEST_PREFIX: &str = "PILOTHOUSE_TEST_";

/// Settings that are also flags. Kept as text, so that an invalid value gives the same error in every layer.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// A TOML file of settings
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub(super) listen: Option<String>,
    /// Address that serves /metrics for Prometheus [default: none]
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub(super) metrics_listen: Option<String>,
    /// Directory of the database, the key and the initial password [default: ./pilothouse-data]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) data_dir: Option<String>,
    /// postgres://… [default: SQLite in the data directory]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) database_url: Option<String>,
}

impl Flags {
    fn values(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let flags = [
            ("listen", &self.listen),
            ("metrics_listen", &self.metrics_listen),
            ("data_dir", &self.data_dir),
            ("database_url", &self.database_url),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

/// Layer that a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SettingOrigin {
    Default,
    File(PathBuf),
    Environment,
    Flag,
}

impl SettingOrigin {
    /// Displays the layer with the name of `setting` in it, such as `flag --listen`.
    pub(super) fn describe<'a>(&'a self, setting: &'a Setting) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment => write!(f, "environment {}", setting.variable()),
            Self::Flag => write!(f, "flag --{}", setting.key.replace('_', "-")),
        })
    }
}

/// The merged values and their origins. Contains secrets, so it is never printed as a whole.
pub(super) struct Layers {
    values: Table,
    origins: BTreeMap<&'static str, SettingOrigin>,
}

impl Layers {
    /// Reads all layers.
    ///
    /// # Errors
    /// `Fatal::Setting` when a layer cannot be read or contains an unknown name.
    pub(super) fn read(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Fatal> {
        let mut layers = Self { values: Table::new(), origins: BTreeMap::new() };
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                layers.set(setting, setting.value_type.value(default), SettingOrigin::Default);
            }
        }
        if let Some(path) = &flags.config {
            for (key, value) in read_file(path)? {
                let setting = Setting::find(&key).ok_or_else(|| {
                    unknown_setting(&format!("`{key}`"), format_args!("file {}", path.display()))
                })?;
                layers.set(setting, value, SettingOrigin::File(path.clone()));
            }
        }
        for (name, value) in environment {
            if let Some(setting) = setting_of_variable(&name, &value)?
                && !value.is_empty()
            {
                let text = value.to_str().ok_or_else(|| {
                    Fatal::Setting(format!("the environment variable {} is not UTF-8", setting.variable()))
                })?;
                layers.set(setting, setting.value_type.value(text), SettingOrigin::Environment);
            }
        }
        for (key, text) in flags.values() {
            if let Some(setting) = Setting::find(key) {
                layers.set(setting, setting.value_type.value(text), SettingOrigin::Flag);
            }
        }
        layers.complete_tables()?;
        Ok(layers)
    }

    /// Checks that the tables of a setting such as `oidc` have all required keys and no unknown one, and adds the
    /// defaults of the others.
    fn complete_tables(&mut self) -> Result<(), Fatal> {
        for setting in SETTINGS {
            let SettingType::Tables { rows } = setting.value_type else { continue };
            let set = (self.values.get_mut(setting.key), self.origins.get(setting.key));
            let (Some(Value::Array(tables)), Some(origin)) = set else { continue };
            let origin = origin.describe(setting);
            for (index, table) in tables.iter_mut().enumerate() {
                // deserialisation rejects what is not a table
                let Some(table) = table.as_table_mut() else { continue };
                let name = |key: &str| format!("`{}[{index}].{key}`", setting.key);
                if let Some(key) = table.keys().find(|key| rows.iter().all(|row| row.key != key.as_str())) {
                    return Err(unknown_setting(&name(key), origin));
                }
                for row in rows {
                    if let Some(default) = row.default {
                        table.entry(row.key).or_insert_with(|| row.value_type.value(default));
                    } else if row.required && !table.contains_key(row.key) {
                        let name = name(row.key);
                        return Err(Fatal::Setting(format!("the setting {name} ({origin}) must be set")));
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, setting: &'static Setting, value: Value, origin: SettingOrigin) {
        self.values.insert(setting.key.to_owned(), value);
        self.origins.insert(setting.key, origin);
    }

    /// The merged values by key.
    pub(super) fn values(&self) -> Table {
        self.values.clone()
    }

    /// The value of a setting and its origin.
    pub(super) fn get(&self, setting: &Setting) -> Option<(&Value, &SettingOrigin)> {
        Some((self.values.get(setting.key)?, self.origins.get(setting.key)?))
    }
}

/// Reads a settings file. Errors contain no line of the file, because it may contain a password.
fn read_file(path: &Path) -> Result<Table, Fatal> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Fatal::Setting(format!("cannot read the settings file {}: {error}", path.display()))
    })?;
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Fatal::Setting(format!("the settings file {} is not valid TOML at line {line}", path.display()))
    })
}

/// The setting that an environment variable names; `None` for variables that are not Pilothouse's.
fn setting_of_variable(name: &OsStr, value: &OsStr) -> Result<Option<&'static Setting>, Fatal> {
    let name = name.to_string_lossy();
    let Some(key) = name.strip_prefix(PREFIX) else { return Ok(None) };
    let setting = SETTINGS.iter().find(|setting| setting.variable() == name);
    match setting {
        None if name.starts_with(TEST_PREFIX) => Ok(None),
        None if !is_service_link(key, &value.to_string_lossy()) => Err(unknown_setting(&name, "environment")),
        setting => Ok(setting),
    }
}

/// Whether Kubernetes sets this variable for a Service whose name begins with `pilothouse`, so that it is not a typing
/// error. <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(key: &str, value: &str) -> bool {
    let key = format!("_{key}");
    let has = |part| key.contains(part);
    has("_SERVICE_HOST")
        || has("_SERVICE_PORT")
        || has("_PORT_") && (has("_TCP") || has("_UDP") || has("_SCTP"))
        || key.ends_with("_PORT") && value.contains("://")
}

fn unknown_setting(name: &str, origin: impl fmt::Display) -> Fatal {
    Fatal::Setting(format!("there is no setting {name} ({origin}); see docs/configure.md for all settings"))
}
