//! Documentation of the settings, generated from the table: `docs/pilothouse.example.toml` and the table in
//! `docs/configure.md`. `just settings` writes both.

use clap::{Args, Command};

use super::{
    Flags,
    table::{SETTINGS, Setting},
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
        let mut text = without_links(setting.documentation.trim());
        if let Some(flag) = flag(setting) {
            text += &format!(" Flag: `{flag}`.");
        }
        let value = setting.value_type.value(setting.example);
        file += &format!("\n{}#{} = {value}\n", comment(&text), setting.key);
    }
    file
}

/// The table of the manual, in Markdown: key, default and meaning of every setting.
pub(crate) fn reference() -> String {
    let mut table = "| key | default | meaning |\n|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let flag = flag(setting).map(|flag| format!(" (`{flag}`)")).unwrap_or_default();
        let default = setting.default.map_or("–".to_owned(), |default| format!("`{default}`"));
        let meaning = setting.documentation.trim();
        table += &format!("| `{}`{flag} | {default} | {meaning} |\n", setting.key);
    }
    table
}

/// The flag of a setting; `None` for most settings.
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
