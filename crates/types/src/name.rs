//! Validated name types that are safe as URL path segments.
//!
//! kube-rs neither escapes nor checks names, and an API server interprets `kube-system/secrets/x?y=` as a path and a
//! query. Adapters therefore accept only these types.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::error::Reason;

/// Whether a text is an RFC 1123 label: lower-case letters, digits and inner hyphens, as `IsDNS1123Label` of
/// `k8s.io/apimachinery` checks it.
pub(crate) fn is_label(text: &str, max_bytes: usize) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=max_bytes).contains(&bytes.len())
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
}

/// Whether a text is an RFC 1123 subdomain: labels joined by dots, at most 253 characters (`IsDNS1123Subdomain`).
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| is_label(part, 253))
}

/// Whether a text is a key of a Kubernetes label, `[prefix/]name`: the prefix is a subdomain, the name has 1 to 63 letters,
/// digits and inner `-`, `_`, `.` (`IsQualifiedName`).
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_name(name),
        None => is_label_name(text),
    }
}

/// Whether a text is a value of a Kubernetes label: empty, or 1 to 63 letters, digits and inner `-`, `_`, `.`
/// (`IsValidLabelValue`).
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

fn is_label_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| inner(b))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// Whether a text is one segment of a path that needs no escape.
fn is_path_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@".contains(&b);
    text.bytes().all(allowed) && text != "." && text != ".."
}

/// Maximum length in bytes of a name or password before Unicode normalisation (NFC, NFKC). A normalised
/// name or password has at most 128 characters, each composed of at most four characters. A longer text is refused
/// before the normalisation.
pub const MAX_NORMALISED_BYTES: usize = 4096;

/// Whether a character is a bidirectional control or has no width. With such characters, two different texts could look
/// the same.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Checks a free text of a person, which may have several lines: its length in characters, without white space around
/// it, and that it has no invisible characters and no control characters except line breaks and tabs.
///
/// # Errors
/// [`Reason::TooLong`], [`Reason::Malformed`], [`Reason::Required`] if empty, [`Reason::TooShort`].
pub fn check_free_text(text: &str, length: &RangeInclusive<usize>) -> Result<(), Reason> {
    let refused = |c: char| is_invisible(c) || (c.is_control() && c != '\n' && c != '\t');
    match text.trim().chars().count() {
        n if n > *length.end() => Err(Reason::TooLong),
        _ if text.chars().any(refused) => Err(Reason::Malformed),
        0 if *length.start() > 0 => Err(Reason::Required),
        n if n < *length.start() => Err(Reason::TooShort),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max_bytes:literal, $is_valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Validates a name.
            ///
            /// # Errors
            /// [`Reason::Required`] if empty, [`Reason::TooLong`], otherwise [`Reason::InvalidName`].
            pub fn new(text: impl Into<String>) -> Result<Self, Reason> {
                let text = text.into();
                let is_valid: fn(&str) -> bool = $is_valid;
                match text.len() {
                    0 => Err(Reason::Required),
                    length if length > $max_bytes => Err(Reason::TooLong),
                    _ if !is_valid(&text) => Err(Reason::InvalidName),
                    _ => Ok(Self(text)),
                }
            }

            /// The name as text, safe as one path segment.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Reason;
            fn try_from(text: String) -> Result<Self, Reason> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A namespace: an RFC 1123 label of 1 to 63 characters.
    Namespace, 63, |text| is_label(text, 63)
}
name! {
    /// The name of an object: an RFC 1123 subdomain of 1 to 253 characters.
    ObjectName, 253, is_subdomain
}
name! {
    /// The name of an object of any kind, such as `system:node` of a ClusterRole: 1 to 253 letters, digits, `-`, `_`, `.`,
    /// `:` and `@`, but not `.` or `..`. Kubernetes also allows other characters (`IsValidPathSegmentName`), which no
    /// known object uses and which a URL would escape.
    PathName, 253, is_path_name
}
name! {
    /// The name of a container in a pod: an RFC 1123 label of 1 to 63 characters.
    ContainerName, 63, |text| is_label(text, 63)
}
name! {
    /// The uid of an object: 1 to 64 letters, digits and hyphens. It is never used again, unlike a name.
    Uid, 64, |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Id of an identity provider: 1 to 32 characters of `[a-z0-9-]`, not one of [`ProviderId::RESERVED`]. It is bound to its
/// issuer or directory for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ProviderId(String);

impl ProviderId {
    /// Reserved words that are no valid id: `local` denotes the local users of Pilothouse; the others are prefixes of
    /// names of callers and subjects, as the id of a provider is the prefix of its usernames.
    pub const RESERVED: [&str; 4] = ["local", "sa", "cli", "group"];

    /// Checks an id.
    ///
    /// # Errors
    /// [`Reason::Required`], [`Reason::TooLong`]; [`Reason::Malformed`], [`Reason::NotAllowed`] for a reserved word.
    pub fn new(text: &str) -> Result<Self, Reason> {
        match text.len() {
            0 => Err(Reason::Required),
            33.. => Err(Reason::TooLong),
            _ if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') => {
                Err(Reason::Malformed)
            }
            _ if Self::RESERVED.contains(&text) => Err(Reason::NotAllowed),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_rfc_1123_labels_or_subdomains() {
        let cases: [(&str, bool, bool); 14] = [
            ("default", true, true),
            ("a", true, true),
            ("0-9", true, true),
            ("web.v1", false, true),
            ("Web", false, false),
            ("-web", false, false),
            ("web-", false, false),
            ("web..v1", false, false),
            ("..", false, false),
            ("a/b", false, false),
            ("a?b", false, false),
            ("a%2fb", false, false),
            ("ä", false, false),
            ("a\n", false, false),
        ];
        for (text, label, subdomain) in cases {
            assert_eq!(Namespace::new(text).is_ok(), label, "{text:?} as a label");
            assert_eq!(ObjectName::new(text).is_ok(), subdomain, "{text:?} as a subdomain");
        }
        assert_eq!(Namespace::new(""), Err(Reason::Required));
        assert_eq!(Namespace::new("a".repeat(64)), Err(Reason::TooLong));
        assert!(ObjectName::new("a".repeat(253)).is_ok());
        assert_eq!(ObjectName::new("a".repeat(254)), Err(Reason::TooLong));
    }

    #[test]
    fn path_names_are_single_segments() {
        for name in
            ["web", "system:node", "system:controller:job-controller", "Admin_1", "a..b", "ann@example.org"]
        {
            assert!(PathName::new(name).is_ok(), "{name}");
        }
        for text in [".", "..", "a/b", "a%2fb", "a?b", "a#b", "a b", "ä", "a\n"] {
            assert_eq!(PathName::new(text), Err(Reason::InvalidName), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_names_need_no_escaping(text in "\\PC{0,80}") {
            if let Ok(name) = ObjectName::new(text) {
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
                prop_assert!(!name.as_str().starts_with('.') && !name.as_str().contains(".."));
            }
        }
    }

    #[test]
    fn uids_have_letters_digits_and_hyphens() {
        // of a pod, and of the mirror of a static pod
        for good in ["3f2b6a1e-0c5d-4a6b-9d8e-7f6a5b4c3d2e", "6d1e7a2b9c8f4e5d6a7b8c9d0e1f2a3b"] {
            assert!(Uid::new(good).is_ok(), "{good}");
        }
        for bad in ["a/b", "..", "a b", "é"] {
            assert_eq!(Uid::new(bad), Err(Reason::InvalidName), "{bad}");
        }
        assert_eq!(Uid::new("a".repeat(65)), Err(Reason::TooLong));
    }

    #[test]
    fn provider_ids_are_short_and_plain() {
        assert_eq!(ProviderId::new("corp-1").map(|id| id.to_string()), Ok("corp-1".to_owned()));
        let cases = [
            ("", Reason::Required),
            ("local", Reason::NotAllowed),
            ("sa", Reason::NotAllowed),
            ("cli", Reason::NotAllowed),
            ("group", Reason::NotAllowed),
            ("a:b", Reason::Malformed),
            ("Corp", Reason::Malformed),
            ("a/b", Reason::Malformed),
        ];
        for (text, reason) in cases {
            assert_eq!(ProviderId::new(text), Err(reason), "{text:?}");
        }
        assert_eq!(ProviderId::new(&"a".repeat(33)), Err(Reason::TooLong));
    }
}
