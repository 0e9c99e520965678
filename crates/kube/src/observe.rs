//! What is told of requests to clusters to whoever counts them.

use std::{fmt, time::Duration};

use pilothouse_core::{Cause, cluster::ClusterId};

/// Told of every request to a cluster, each try by itself. Returns at once.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request and its answer are over.
    fn exchanged(&self, exchange: &Exchange);

    /// A call that was not sent: the circuit is open, or too many are under way.
    fn refused(&self, cluster: Option<ClusterId>, cause: Cause);
}

/// A request to a cluster that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The cluster; none while it is not stored.
    pub cluster: Option<ClusterId>,
    /// Why there is no good answer; none when there is one.
    pub cause: Option<Cause>,
    /// From the request to the end of the answer.
    pub took: Duration,
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn exchanged(&self, _: &Exchange) {}

    fn refused(&self, _: Option<ClusterId>, _: Cause) {}
}
