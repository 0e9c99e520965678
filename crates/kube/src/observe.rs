//! Observer of requests to clusters, for metrics.

use std::{fmt, time::Duration};

use pilothouse_core::{Cause, ids::ClusterId};

/// Receives every request to a cluster, each attempt separately. Its methods must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request has ended, with or without a response.
    fn exchanged(&self, exchange: &Exchange);

    /// A call was not sent: the circuit is open, or too many calls are running.
    fn refused(&self, cluster: Option<ClusterId>, cause: Cause);
}

/// A request to a cluster that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The cluster; none for an unregistered cluster.
    pub cluster: Option<ClusterId>,
    /// Cause of the failure; none after a 2xx response.
    pub cause: Option<Cause>,
    /// Time from the request to the end of the response.
    pub took: Duration,
}

/// Observer that does nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoopObserver;

impl Observer for NoopObserver {
    fn exchanged(&self, _: &Exchange) {}

    fn refused(&self, _: Option<ClusterId>, _: Cause) {}
}
