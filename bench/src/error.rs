//! Error of a benchmark run. Every error ends the run with a message.

use std::fmt;

/// Result type of this crate.
pub(crate) type Result<T, E = BenchError> = std::result::Result<T, E>;

/// A message with the cause of the failure.
#[derive(Debug)]
pub(crate) struct BenchError(String);

impl BenchError {
    /// Creates an error with this message.
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for BenchError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            text = format!("{text}: {source}");
            cause = source.source();
        }
        Self(text)
    }
}
