//! Names that may become part of a path. kube-rs neither escapes nor checks them, and a real API server answers
//! `kube-system/secrets/x?y=` as written; so an adapter only ever gets these types.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Reason;

/// Lower-case letters, digits and inner hyphens: RFC 1123 as `k8s.io/apimachinery`'s `IsDNS1123Label` reads it.
fn is_label(text: &str, longest: usize) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=longest).contains(&bytes.len())
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
}

/// Labels joined by dots, 253 characters at most: `IsDNS1123Subdomain`.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| is_label(part, 253))
}

/// The most bytes of a text that is normalised (Unicode NFC, NFKC) to be a name or password of ours: these have 128 characters
/// at most, and none is composed of more than four. A longer text is refused before that work is done.
pub(crate) const LONGEST_NORMALISED: usize = 4096;

/// Marks that change the direction of text, and characters of no width: two texts for people could look the same.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $longest:literal, $is:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a name.
            ///
            /// # Errors
            /// [`Reason::Required`] when empty, [`Reason::TooLong`], else [`Reason::InvalidName`].
            pub fn new(text: impl Into<String>) -> Result<Self, Reason> {
                let text = text.into();
                let is: fn(&str) -> bool = $is;
                match text.len() {
                    0 => Err(Reason::Required),
                    length if length > $longest => Err(Reason::TooLong),
                    _ if !is(&text) => Err(Reason::InvalidName),
                    _ => Ok(Self(text)),
                }
            }

            /// The name as text, safe as one segment of a path.
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
    /// The name of a container in a pod: an RFC 1123 label of 1 to 63 characters.
    ContainerName, 63, |text| is_label(text, 63)
}

/// Which namespaces a list covers: one, or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceScope {
    /// All namespaces; also the scope of what has none.
    All,
    /// One namespace.
    One(Namespace),
}

impl NamespaceScope {
    /// Reads `*` as all namespaces, anything else as a namespace.
    ///
    /// # Errors
    /// As [`Namespace::new`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if text == "*" { Ok(Self::All) } else { Namespace::new(text).map(Self::One) }
    }

    /// Whether `namespace` lies within.
    pub fn covers(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => namespace == Some(one.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_by_table() {
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

    proptest! {
        #[test]
        fn an_accepted_name_needs_no_escaping(text in "\\PC{0,80}") {
            if let Ok(name) = ObjectName::new(text) {
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
                prop_assert!(!name.as_str().starts_with('.') && !name.as_str().contains(".."));
            }
        }
    }
}
