//! Reason of a change: the text with which a person explains it.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::{error::Reason, name::check_free_text};

/// Reason of a change, as its audit row shows it: 5 to 500 characters, without those that [`check_free_text`] refuses.
/// White space around it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChangeReason(String);

impl ChangeReason {
    /// Length in characters.
    pub const LENGTH: RangeInclusive<usize> = 5..=500;

    /// Checks a reason.
    ///
    /// # Errors
    /// As [`check_free_text`].
    pub fn new(text: &str) -> Result<Self, Reason> {
        check_free_text(text, &Self::LENGTH)?;
        Ok(Self(text.trim().to_owned()))
    }

    /// The reason as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ChangeReason {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::new(&text)
    }
}

impl From<ChangeReason> for String {
    fn from(reason: ChangeReason) -> Self {
        reason.0
    }
}

impl fmt::Display for ChangeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_has_5_to_500_characters_and_no_invisible_ones() {
        let new = |text: &str| ChangeReason::new(text).map(String::from);
        assert_eq!(new("  back to 4.1\n"), Ok("back to 4.1".to_owned()));
        assert_eq!(new("回滚到四一"), Ok("回滚到四一".to_owned()));
        assert!(new(&"写".repeat(500)).is_ok());
        let cases = [
            ("", Reason::Required),
            ("   \t", Reason::Required),
            (" 4.1 ", Reason::TooShort),
            (&"x".repeat(501), Reason::TooLong),
            ("back\u{202e} to 4.1", Reason::Malformed),
            ("back \u{1b}[31m", Reason::Malformed),
        ];
        for (text, reason) in cases {
            assert_eq!(new(text), Err(reason), "{text:?}");
        }
    }
}
