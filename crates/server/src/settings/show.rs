//! Command `pilothouse config show`: the effective settings as a valid settings file, without secrets.

use std::fmt::{Display, Write};

use http::Uri;
use pilothouse_store::Database;
use toml::Value;

use super::{
    Configuration,
    table::{SETTINGS, Setting, SettingType},
};

impl Configuration {
    /// The effective settings as TOML. Each line ends with the origin of its value. Lines of secrets are comments.
    pub(crate) fn show(&self) -> String {
        SETTINGS.iter().fold(String::new(), |mut text, setting| {
            // writing to a String cannot fail
            let _ = writeln!(text, "{}", self.line(setting));
            text
        })
    }

    fn line(&self, setting: &Setting) -> String {
        let key = setting.key;
        let Some((value, origin)) = self.layers.get(setting) else {
            return format!("# {key} is not set");
        };
        let origin = origin.describe(setting);
        match (setting.value_type, value) {
            (SettingType::Tables { rows }, Value::Array(tables)) => {
                let tables: Vec<_> =
                    tables.iter().map(|table| table_lines(key, rows, table, &origin)).collect();
                tables.join("\n")
            }
            (SettingType::Password, _) => format!("# {key} is set and not shown  # {origin}"),
            (SettingType::Database, Value::String(url)) => {
                let shown =
                    Database::parse(url).map_or_else(|_| "…".to_owned(), |database| database.to_string());
                format!(
                    "# {key} = {}  # without user, password and parameters  # {origin}",
                    Value::String(shown)
                )
            }
            (SettingType::Webhook, Value::String(url)) => {
                let host = url.parse::<Uri>().ok().and_then(|uri| Some(uri.host()?.to_owned()));
                let host = Value::String(host.unwrap_or_else(|| "…".to_owned()));
                format!("# {key} = {host}  # without path and query  # {origin}")
            }
            _ => format!("{key} = {value}  # {origin}"),
        }
    }
}

/// The lines of a table such as `[[oidc]]`. All are comments if the table has a secret, because the settings without it
/// are not complete.
fn table_lines(key: &str, rows: &[Setting], table: &Value, origin: &impl Display) -> String {
    let is_secret = |row: &Setting| row.value_type == SettingType::Password;
    let values: Vec<_> = rows.iter().filter_map(|row| Some((row, table.get(row.key)?))).collect();
    let mark = if values.iter().any(|(row, _)| is_secret(row)) { "# " } else { "" };
    let mut text = format!("{mark}[[{key}]]  # {origin}");
    for (row, value) in values {
        text += &if is_secret(row) {
            format!("\n# {} is set and not shown", row.key)
        } else {
            format!("\n{mark}{} = {value}", row.key)
        };
    }
    text
}
