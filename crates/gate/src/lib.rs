//! Authorisation and audit gate: the rule table, the [`access::Permit`] that every port towards a cluster requires, the
//! record of each operation, and the [`gate::Gate`] that connects them.
//!
//! No other crate can create a permit: its constructor is private to this crate, and all ways to a permit are methods
//! of the gate and [`access::Permit::for_cache`]. The feature `testing` adds a function that creates permits without
//! authorisation; a release is built without it.
//!
//! A program can link this crate without `pilothouse-core` to authorise and record operations of its own
//! (`examples/gate`). It implements [`operation::AuditWriter`], [`gate::ClusterNames`], and the clock, the task spawner
//! and the random source of `pilothouse-types`.

pub mod access;
pub mod gate;
pub mod operation;
pub mod rights;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
