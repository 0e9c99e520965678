//! Filter of log lines, applied on the server: only matching lines are merged and sent.

use regex_lite::{Regex, RegexBuilder};

use crate::{error::Reason, name::is_invisible};

/// Maximum length of a filter in characters.
const MAX_FILTER_CHARS: usize = 256;
/// Maximum size of a compiled expression in bytes: some hundred states. The time to match a line is at most proportional
/// to the number of states and to the length of the line.
const MAX_REGEX_BYTES: usize = 32 << 10;

/// Filter of the lines of a log, without their timestamps.
#[derive(Clone, Debug)]
pub struct LineFilter(Matcher);

#[derive(Clone, Debug)]
enum Matcher {
    /// A text in lower case.
    Text(String),
    Regex(Regex),
}

impl LineFilter {
    /// Lines that contain a text, ignoring case.
    ///
    /// # Errors
    /// [`Reason::Required`] if empty; [`Reason::TooLong`] over 256 characters; [`Reason::Malformed`] with control or
    /// invisible characters.
    pub fn text(text: &str) -> Result<Self, Reason> {
        check(text)?;
        Ok(Self(Matcher::Text(text.to_lowercase())))
    }

    /// Lines in which an expression matches. The syntax is that of RE2 without `\p`: no back-references and no
    /// look-around; `\d`, `\s`, `\w` and `(?i)` are about ASCII.
    ///
    /// # Errors
    /// As [`LineFilter::text`]; [`Reason::Malformed`] also if it is no expression, [`Reason::TooLong`] if its repetitions
    /// make it too large.
    pub fn regex(pattern: &str) -> Result<Self, Reason> {
        check(pattern)?;
        let bounded = RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build();
        // the library's error does not report which it is
        let reason = |_| if Regex::new(pattern).is_ok() { Reason::TooLong } else { Reason::Malformed };
        Ok(Self(Matcher::Regex(bounded.map_err(reason)?)))
    }

    /// Whether a line passes the filter.
    pub fn matches(&self, line: &str) -> bool {
        match &self.0 {
            Matcher::Text(text) => line.to_lowercase().contains(text.as_str()),
            Matcher::Regex(regex) => regex.is_match(line),
        }
    }
}

fn check(text: &str) -> Result<(), Reason> {
    if text.is_empty() {
        Err(Reason::Required)
    } else if text.chars().count() > MAX_FILTER_CHARS {
        Err(Reason::TooLong)
    } else if text.chars().any(|c| c.is_control() || is_invisible(c)) {
        Err(Reason::Malformed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_matches_in_any_case() {
        let filter = LineFilter::text("Zeit: ÄRGER.*").unwrap();
        assert!(filter.matches("12:00 zeit: ärger.* am Morgen"));
        assert!(!filter.matches("zeit: ärger"), "a text is no expression");
    }

    #[test]
    fn expression_matches_anywhere_in_the_line() {
        let cases = [
            (r"status=5\d\d", "GET / status=503 in 3 ms", true),
            (r"status=5\d\d", "GET / status=200", false),
            (r"^panic", "panic: x", true),
            (r"^panic", "a panic", false),
            (r"(?i)error|fatal", "ERROR: x", true),
            (r"连接.{2}失败", "2026 连接再次失败", true),
            (r"\bweb-[0-9]+$", "started web-12", true),
        ];
        for (pattern, line, matches) in cases {
            assert_eq!(LineFilter::regex(pattern).unwrap().matches(line), matches, "{pattern} {line}");
        }
    }

    #[test]
    fn refused_filters_name_their_reason() {
        let long = "x".repeat(257);
        for text in [LineFilter::text, LineFilter::regex] {
            let refused = |of: &str| text(of).err();
            assert_eq!(refused(""), Some(Reason::Required));
            assert_eq!(refused(&long), Some(Reason::TooLong));
            assert_eq!(refused("a\nb"), Some(Reason::Malformed));
            assert_eq!(refused("a\u{202e}b"), Some(Reason::Malformed));
            assert_eq!(refused(&long[..256]), None);
        }
        let refused = |pattern: &str| LineFilter::regex(pattern).err();
        assert_eq!(refused("(open"), Some(Reason::Malformed));
        assert_eq!(refused(r"(a)\1"), Some(Reason::Malformed), "no back-references");
        assert_eq!(refused("(?=a)"), Some(Reason::Malformed), "no look-around");
        assert_eq!(refused("(a{99}){99}"), Some(Reason::TooLong));
        assert_eq!(refused(r"\d{1,3}(\.\d{1,3}){3}"), None);
    }

    proptest! {
        #[test]
        fn filters_never_panic(pattern in "\\PC{0,40}", line in "\\PC{0,200}") {
            for filter in [LineFilter::text(&pattern), LineFilter::regex(&pattern)].into_iter().flatten() {
                let _ = filter.matches(&line);
            }
        }

        #[test]
        fn text_filter_finds_every_part_of_a_line(before in "[ -~]{0,20}", text in "[ -~]{1,20}", after in "[ -~]{0,20}") {
            let line = format!("{before}{text}{after}");
            prop_assert!(LineFilter::text(&text.to_uppercase()).unwrap().matches(&line));
        }
    }
}
