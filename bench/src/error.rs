//! What goes wrong ends the run, with a sentence that says what was being done.

use std::fmt;

/// The result of everything here.
pub(crate) type Result<T, E = Failed> = std::result::Result<T, E>;

/// Why a run ended.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl Failed {
    /// For this reason.
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            text = format!("{text}: {deeper}");
            cause = deeper.source();
        }
        Self(text)
    }
}
