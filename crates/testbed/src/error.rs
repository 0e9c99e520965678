//! What can go wrong, said so that the person at the failing test knows what to do.

use std::{io, time::Duration};

use crate::Component;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program that is needed is missing, or failed.
    #[error("{0}")]
    Program(String),
    /// A process of ours ended when it should have run.
    #[error("{name} ended; its log ends with\n{log}")]
    Ended {
        /// The component or node.
        name: String,
        /// The last lines of its log.
        log: String,
    },
    /// The component is not running: not started with this control plane, or killed.
    #[error("{0} is not running")]
    NotRunning(Component),
    /// The cluster of `PILOTHOUSE_TEST_KUBECONFIG` is only ours to use.
    #[error("cannot {0}: this cluster runs elsewhere, its processes and files are not ours")]
    NotOwned(&'static str),
    /// This machine cannot run a node.
    #[error("no node on this machine: {0}")]
    NodeUnavailable(String),
    /// This machine cannot run a PostgreSQL.
    #[error("no PostgreSQL on this machine: {0}")]
    PostgresUnavailable(String),
    /// Something awaited did not come.
    #[error("{what} did not come within {waited:?}; last seen: {last}")]
    Deadline {
        /// What was awaited.
        what: String,
        /// For how long.
        waited: Duration,
        /// The last answer.
        last: String,
    },
    /// The API server answered with an error.
    #[error("{method} {path} was answered {code}: {message}")]
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
    /// The API server did not answer.
    #[error("{method} {path}: {source}")]
    NoAnswer {
        /// The HTTP method.
        method: String,
        /// The path.
        path: String,
        /// What the HTTP client said.
        source: reqwest::Error,
    },
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A kubeconfig cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
}

/// Says what was being done when the system refused: `.map_err(io("writing the token file"))`.
pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Io { doing, source }
}
