//! Documentation of the settings, generated from the table: `docs/pilothouse.example.toml` and the table in
//! `docs/configure.md`. `just settings` writes both.

use clap::{Args, Command};

use super::{
    Flags,
    table::{SETTINGS, Setting, SettingType},
};

/// First lines of the example file.
const HEADER: &str = "\
# Every setting of Pilothouse, commented out at its default value, or with an example if it has no default.
# Start: `pilothouse serve --config pilothouse.toml`. Check: `pilothouse config check` and `pilothouse config show`.
# Each setting is also an environment variable (`listen` is PILOTHOUSE_LISTEN), which overrides this file. Flags
# override both. An unknown key is an error. Durations are written 30s, 10m, 8h. Documentation: docs/configure.md
";

/// Maximum length of a line of the example file, in characters.
const WIDTH: usize = 120;

/// The example file: every setting in a comment, with its documentation.
pub(crate) fn example() -> String {
    let mut file = HEADER.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if section != setting.section {
            section = setting.section;
            file += &format!("\n# --- {section} ---\n");
        }
        file += &entry(setting);
    }
    file
}

/// A setting in the example file: its documentation, and its value or, for tables, their keys.
fn entry(setting: &Setting) -> String {
    let mut text = without_links(setting.documentation.trim());
    if let Some(flag) = flag(setting) {
        text += &format!(" Flag: `{flag}`.");
    }
    let text = comment(&text);
    if let SettingType::Tables { rows } = setting.value_type {
        let rows: String = rows.iter().map(entry).collect();
        return format!("\n{text}#[[{}]]\n{rows}", setting.key);
    }
    format!("\n{text}#{} = {}\n", setting.key, setting.value_type.value(setting.example))
}

/// The table of the manual, in Markdown: key, default and meaning of every setting.
pub(crate) fn reference() -> String {
    let mut table = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let flag = flag(setting).map(|flag| format!(" (`{flag}`)")).unwrap_or_default();
        table += &line(&format!("`{}`{flag}", setting.key), setting);
        if let SettingType::Tables { rows } = setting.value_type {
            table.extend(rows.iter().map(|row| line(&format!("`{}`: `{}`", setting.key, row.key), row)));
        }
    }
    table
}

/// A line of the table of the manual.
fn line(name: &str, setting: &Setting) -> String {
    let default = match setting.default {
        Some(default) => format!("`{default}`"),
        None if setting.required => "required".to_owned(),
        None => "–".to_owned(),
    };
    format!("| {name} | {default} | {} |\n", setting.documentation.trim())
}

/// The flag of a setting; `None` for most settings. Keys of tables have none: no flag is called as one of them.
fn flag(setting: &Setting) -> Option<String> {
    let command = Flags::augment_args(Command::new("pilothouse"));
    let flag = command.get_arguments().find(|argument| argument.get_id().as_str() == setting.key)?;
    Some(format!("--{}", flag.get_long()?))
}

/// Removes the targets of links: `[text](target)` becomes `text`.
fn without_links(markdown: &str) -> String {
    let mut parts = markdown.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += part.split_once(')').map_or(part, |(_target, rest)| rest);
    }
    text.replace('[', "")
}

/// Lines of a comment with these words.
fn comment(text: &str) -> String {
    let mut lines = "#".to_owned();
    let mut length = 1;
    for word in text.split(' ') {
        let word_length = 1 + word.chars().count();
        if length + word_length > WIDTH {
            lines += "\n#";
            length = 1;
        }
        lines += " ";
        lines += word;
        length += word_length;
    }
    lines + "\n"
}
