//! Quotes: texts of a cluster as evidence of a finding, cleaned of credentials and shortened.
//!
//! Messages of a kubelet, events and log lines may contain what a program printed: URLs with passwords, tokens, keys.
//! The cleaning masks what has the form of a credential. It is a second line of defence: each source is read only by
//! the caller's own right.

use jiff::Timestamp;
use serde::Serialize;

use crate::{mask::MASK, name::is_invisible};

/// Maximum length of a quote, in characters.
pub const MAX_QUOTE_CHARS: usize = 300;
/// Number of characters that are kept of the beginning of a longer text. Messages of container runtimes have the cause
/// at the end.
const HEAD_CHARS: usize = 100;
/// Mark of the omitted middle of a longer text.
const OMITTED: &str = " … ";
/// Length of a longer text that is examined, in bytes. The rest is dropped.
const MAX_EXAMINED_BYTES: usize = 32 << 10;
/// Number of characters from which a word of mixed letters and digits is taken for a key.
const KEY_CHARS: usize = 24;
/// Number of characters from which a word of hexadecimal digits is taken for a key.
const HEX_KEY_CHARS: usize = 32;
/// Length of a part of a value from which it is masked where the text was cut, in bytes.
const MIN_CUT_BYTES: usize = 4;
/// Number of characters of a credential after its prefix.
const MIN_CREDENTIAL_CHARS: usize = 8;

/// Prefixes of credentials: of Pilothouse, GitHub, GitLab, Docker Hub, Slack, npm, AWS, and of JSON web tokens.
const PREFIXES: [&str; 17] = [
    "php_",
    "phs_",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "dckr_pat_",
    "xoxb-",
    "xoxp-",
    "npm_",
    "AKIA",
    "ASIA",
    "eyJ",
    "sk-",
];
/// Parts of names whose values are credentials.
const SECRET_NAMES: [&str; 10] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
];
/// Names of hashes before a digest, which is no credential.
const HASHES: [&str; 4] = ["sha1", "sha256", "sha384", "sha512"];
/// Words before a credential in an `Authorization` header.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// A text of a cluster, cleaned and at most [`MAX_QUOTE_CHARS`] characters long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Quote {
    /// What the text is of: `pod/web-1 container app`, `event pod/web-1`, `log web-1/app`.
    pub source: String,
    /// Its time, if that is known.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub at: Option<Timestamp>,
    /// The text.
    pub text: String,
}

impl Quote {
    /// Quotes a text.
    pub fn new(source: impl Into<String>, at: Option<Timestamp>, text: &str) -> Self {
        Self { source: source.into(), at, text: clean(text) }
    }

    /// Masks these values where the text contains them, also a value that was cleaned with the text, or cut where the text
    /// was shortened.
    pub(super) fn mask(&mut self, values: &[String]) {
        for value in values {
            for form in [value, &clean_whole(value)] {
                if form.len() < MIN_CUT_BYTES {
                    continue;
                }
                if self.text.contains(form.as_str()) {
                    self.text = self.text.replace(form.as_str(), MASK);
                }
                if let Some((head, tail)) = self.text.split_once(OMITTED)
                    && let Some(masked) = mask_cut(head, tail, form)
                {
                    self.text = masked;
                }
            }
        }
    }
}

/// Masks the beginning of a value at the end of the first part of a shortened text, and the end of a value at the beginning
/// of the last part. `None` if there is neither.
fn mask_cut(head: &str, tail: &str, value: &str) -> Option<String> {
    let boundaries = || value.char_indices().map(|(at, _)| at);
    let begun = boundaries().rev().find(|at| *at >= MIN_CUT_BYTES && head.ends_with(&value[..*at]));
    let ended = boundaries()
        .map(|at| &value[at..])
        .find(|end| end.len() >= MIN_CUT_BYTES && tail.starts_with(*end))
        .map(str::len);
    if begun.is_none() && ended.is_none() {
        return None;
    }
    let head = begun.map_or_else(|| head.to_owned(), |at| format!("{}{MASK}", &head[..head.len() - at]));
    let tail = ended.map_or_else(|| tail.to_owned(), |length| format!("{MASK}{}", &tail[length..]));
    Some(format!("{head}{OMITTED}{tail}"))
}

/// Cleans a text: masks what has the form of a credential, replaces control and formatting characters by spaces, and
/// shortens it.
pub fn clean(text: &str) -> String {
    shorten(&clean_whole(text))
}

/// As [`clean`], without shortening.
fn clean_whole(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_EXAMINED_BYTES);
    // a word that is cut may not have the form of a credential any more
    let cut = text[..end].rsplit_once(char::is_whitespace).map_or("", |(words, _)| words);
    let examined = if end < text.len() { cut } else { text };
    let printable: String = examined.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
    let masked = mask_words(&mask_user_info(&cut_private_key(&printable)));
    masked.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a character is not printed, breaks a line, or changes how others are printed.
fn is_unprintable(c: char) -> bool {
    c.is_control() || is_invisible(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Drops everything from the beginning of a private key on.
fn cut_private_key(text: &str) -> String {
    let begins = text.match_indices("-----BEGIN ").map(|(at, _)| at);
    let mut keys =
        begins.filter(|&at| text[at..].split("-----").nth(1).is_some_and(|name| name.contains("KEY")));
    match keys.next() {
        Some(at) => format!("{}{MASK}", &text[..at]),
        None => text.to_owned(),
    }
}

/// Masks the user information of URLs: `https://***@host`.
fn mask_user_info(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str("://");
        let is_end = |c: char| c.is_whitespace() || "/?#\"'<>`".contains(c);
        let authority = &part[..part.find(is_end).unwrap_or(part.len())];
        match authority.rfind('@') {
            Some(at) => {
                masked.push_str(MASK);
                masked.push_str(&part[at..]);
            }
            None => masked.push_str(part),
        }
    }
    masked
}

/// Masks the words that are credentials: by their form, or by the name or scheme before them.
fn mask_words(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut context = Context::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_in_word = is_word(first);
        let end = rest.find(|c| is_word(c) != is_in_word).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        if is_in_word {
            masked.push_str(if context.hides(piece) { MASK } else { piece });
            context = Context::after_word(piece);
        } else {
            masked.push_str(piece);
            context.separate(piece);
        }
        rest = after;
    }
    masked
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-.+~!$%^*".contains(c)
}

/// What stands before a word.
#[derive(Default)]
struct Context {
    /// The word before is a name of a credential, or a scheme.
    before: Before,
    /// Whether the separator makes the next word its value.
    assigns: bool,
    /// Whether the word before is the name of a hash, so that hexadecimal digits are a digest.
    is_digest: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Before {
    #[default]
    Other,
    Name,
    Scheme,
}

impl Context {
    fn after_word(word: &str) -> Self {
        let lower = word.to_lowercase();
        let before = if SCHEMES.contains(&lower.as_str()) {
            Before::Scheme
        } else if SECRET_NAMES.iter().any(|name| lower.contains(name)) {
            Before::Name
        } else {
            Before::Other
        };
        Self { before, assigns: false, is_digest: HASHES.contains(&lower.as_str()) }
    }

    /// Reads the text between two words.
    fn separate(&mut self, separator: &str) {
        let compact: String = separator.chars().filter(|c| !c.is_whitespace()).collect();
        self.assigns = match self.before {
            // `password=x`, `password: x`, `"password":"x"`, `password = "x"`
            Before::Name => {
                let compact = compact.trim_matches(['"', '\'', '\\', '`']);
                compact == "=" || compact == ":" || compact == ":="
            }
            Before::Scheme => compact.is_empty(),
            Before::Other => false,
        };
    }

    /// Whether the next word is a credential.
    fn hides(&self, word: &str) -> bool {
        let is_prefixed = PREFIXES
            .iter()
            .any(|prefix| word.strip_prefix(prefix).is_some_and(|rest| rest.len() >= MIN_CREDENTIAL_CHARS));
        // `Basic usage` is no credential
        let is_value = self.assigns && (self.before == Before::Name || word.len() >= MIN_CREDENTIAL_CHARS);
        is_value || is_prefixed || (is_key(word) && !self.is_digest)
    }
}

/// Whether a word has the form of a key: long, of upper-case and lower-case letters and digits, or of hexadecimal digits.
fn is_key(word: &str) -> bool {
    let has = |matches: fn(&u8) -> bool| word.as_bytes().iter().any(matches);
    let is_mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
    let is_hex = word.bytes().all(|b| b.is_ascii_hexdigit()) && has(u8::is_ascii_digit);
    (word.len() >= KEY_CHARS && is_mixed && !word.contains('.')) || (word.len() >= HEX_KEY_CHARS && is_hex)
}

/// Shortens a text: keeps its beginning and its end.
fn shorten(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= MAX_QUOTE_CHARS {
        return text.to_owned();
    }
    let tail = MAX_QUOTE_CHARS - HEAD_CHARS - OMITTED.chars().count();
    let head: String = text.chars().take(HEAD_CHARS).collect();
    let tail: String = text.chars().skip(chars - tail).collect();
    format!("{head}{OMITTED}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked() {
        for (text, expected) in [
            ("pull https://bob:hunter2@registry.example/v2/", "pull https://***@registry.example/v2/"),
            ("postgres://app:p@ss@db:5432/shop", "postgres://***@db:5432/shop"),
            ("https://registry.example/v2/a@sha256", "https://registry.example/v2/a@sha256"),
            ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
            ("authorization: Basic Ym9iOmh1bnRlcjI=", "authorization: Basic ***="),
            ("password=hunter2 user=bob", "password=*** user=bob"),
            ("{\"db_password\": \"hunter2\"}", "{\"db_password\": \"***\"}"),
            ("DB_PASSWD: hunter2", "DB_PASSWD: ***"),
            ("login with ghp_0123456789abcdef", "login with ***"),
            ("php_1abcdefghijklmnop was refused", "*** was refused"),
            ("key AKIA0123456789ABCDEF", "key ***"),
            ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "jwt ***"),
            ("seed Zm9vYmFyYmF6cXV4MTIzNDU2", "seed ***"),
            ("id 0123456789abcdef0123456789abcdef", "id ***"),
            ("-----BEGIN RSA PRIVATE KEY----- MIIE rest", "***"),
        ] {
            assert_eq!(clean(text), expected, "{text}");
        }
    }

    #[test]
    fn ordinary_messages_stay() {
        for text in [
            "secret \"db\" not found",
            "couldn't find key password in Secret shop/db",
            "failed to fetch token from the registry",
            "Back-off pulling image \"registry.example/shop/web:1.2\"",
            "docker.io/library/busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available",
            "/var/lib/kubelet/pods/2f0a4e1c-6a53-4cc0-9d0a-5a1d5a4e3b21/volumes",
            "Basic usage: web",
            "web-6d4cf56db6-x8lqz is not ready",
            "-----BEGIN CERTIFICATE----- is missing",
            "镜像仓库无法访问",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn control_and_formatting_characters_become_spaces() {
        assert_eq!(clean("a\u{1b}[31mb\r\nc\u{202e}d\u{200b}e"), "a [31mb c d e");
    }

    #[test]
    fn long_text_keeps_its_beginning_and_its_end() {
        let text = format!("begin {} end", "x ".repeat(1_000));
        let quote = clean(&text);
        assert_eq!(quote.chars().count(), MAX_QUOTE_CHARS);
        assert!(quote.starts_with("begin ") && quote.ends_with(" end") && quote.contains(OMITTED));
        assert_eq!(clean(&"é".repeat(MAX_QUOTE_CHARS)).chars().count(), MAX_QUOTE_CHARS);
        assert!(clean(&"é ".repeat(MAX_EXAMINED_BYTES)).chars().count() <= MAX_QUOTE_CHARS);
        let credential = format!("{}https://a:canary@host", "x ".repeat(MAX_EXAMINED_BYTES / 2 - 8));
        assert!(!clean(&credential).contains("canary"));
    }

    #[test]
    fn given_values_are_masked() {
        let mut quote = Quote::new("log web-1/app", None, "connected as robot-account");
        quote.mask(&["robot-account".to_owned()]);
        assert_eq!(quote.text, "connected as ***");
        let masked = |text: &str, value: &str| {
            let mut quote = Quote::new("log web-1/app", None, text);
            quote.mask(&[value.to_owned()]);
            quote.text
        };
        assert_eq!(masked("as robot\taccount", "robot  account"), "as ***", "white space is cleaned");
        let url = "postgres://app:pw@db.example/shop";
        assert_eq!(masked(&format!("no route to {url}"), url), "no route to ***", "a credential is masked");
    }

    #[test]
    fn given_value_is_masked_where_the_text_is_cut() {
        let value = "robot-account-of-the-shop";
        let mask = |before: usize, after: usize| {
            let text = format!("{}{value}{}", "x ".repeat(before), " y".repeat(after));
            let mut quote = Quote::new("log web-1/app", None, &text);
            quote.mask(&[value.to_owned()]);
            quote.text
        };
        // the first part of a shortened text has 100 characters, the last one 197
        for quote in [mask(45, 300), mask(300, 93)] {
            assert!(quote.contains(MASK) && quote.contains(OMITTED), "{quote}");
            let is_part = |part: &[u8]| quote.contains(std::str::from_utf8(part).unwrap());
            assert!(!value.as_bytes().windows(MIN_CUT_BYTES).any(is_part), "{quote}");
        }
    }
}
