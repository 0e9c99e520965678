//! Errors of the test bed. Messages are for the reader of a failed test and give the cause.

use std::{io, time::Duration};

use crate::Component;

/// Result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of the test bed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the operating system failed.
    #[error("{doing}: {source}")]
    Io {
        /// The operation, such as `reading the audit log`.
        doing: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// A required program is missing or failed.
    #[error("{0}")]
    Program(String),
    /// A process of the test bed ended unexpectedly.
    #[error("{name} ended; the last lines of its log:\n{log}")]
    Ended {
        /// The component or node.
        name: String,
        /// The last lines of its log.
        log: String,
    },
    /// The component is not running: not started with this control plane, or killed.
    #[error("{0} is not running")]
    NotRunning(Component),
    /// The operation needs the control plane's processes or files, which the test bed does not own: the cluster is that
    /// of `PILOTHOUSE_TEST_KUBECONFIG`.
    #[error(
        "cannot {0}: this is an existing cluster, whose processes and files do not belong to the test bed"
    )]
    NotOwned(&'static str),
    /// This machine cannot run a node.
    #[error("cannot run a node on this machine: {0}")]
    NodeUnavailable(String),
    /// This machine cannot run PostgreSQL.
    #[error("cannot run PostgreSQL on this machine: {0}")]
    PostgresUnavailable(String),
    /// This machine cannot run an identity server.
    #[error("cannot run an identity server on this machine: {0}")]
    IdentityUnavailable(String),
    /// An expected state was not reached in time.
    #[error("timeout after {waited:?} while waiting for {what}; last state: {last}")]
    Deadline {
        /// The expected state.
        what: String,
        /// The time limit.
        waited: Duration,
        /// The last observed state.
        last: String,
    },
    /// The API server responded with an error status.
    #[error("{method} {path} returned {code}: {message}")]
    Status {
        /// The HTTP method.
        method: String,
        /// The path.
        path: String,
        /// The HTTP status code.
        code: u16,
        /// The message of the `Status` object, or the body.
        message: String,
    },
    /// The request failed without a response.
    #[error("{method} {path}: {source}")]
    NoAnswer {
        /// The HTTP method.
        method: String,
        /// The path.
        path: String,
        /// The HTTP client's error.
        source: reqwest::Error,
    },
    /// A certificate could not be created.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A kubeconfig is not usable.
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
}

/// Adds the operation to an I/O error: `.map_err(io("writing the token file"))`.
pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Io { doing, source }
}
