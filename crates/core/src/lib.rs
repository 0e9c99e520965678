//! What Pilothouse does: its types, its rules, its ports and its use cases. No network, no database, no HTTP, no
//! runtime: those are adapters, and come in through [`app::Ports`].
//!
//! Start at [`app::App`]. Each module is one subject and tells its whole story: types, rules, port, use case.
//!
//! # Errors
//! One [`Error`] everywhere: a [`Cause`], which decides the public [`Code`], and what it happened to. Where a port towards
//! a cluster says "as every call to a cluster", these may come of it: `NotFound` when the cluster is not registered any
//! more; `EgressDenied`; of code `ConnectionError` when it cannot be reached or trusted, rejects the credential, breaks off
//! or answers nonsense; `DeadlineExceeded`; `RateLimitedByCluster`; `ForbiddenByCluster` with verb, resource and namespace;
//! `RejectedByCluster` with the cluster's cleaned words, and of a change `ConflictInCluster`, `QuotaExceeded` and
//! `NamespaceTerminating`. [`Cause::outcome_unknown`] says after which of them a change may have been made all the same.
//!
//! # A new port
//! A trait of a few methods in its subject's module, `#[async_trait]`, `Send + Sync`, speaking this crate's types;
//! `mockall::automock` behind the feature `testing`. Absent is `Option`, not an error. What touches a cluster or changes
//! our own tables takes a [`access::Permit`]. Its docs say what each error means. Then: a field in [`app::Ports`], a fake
//! and a contract in `testing`, an adapter.

pub mod access;
mod annotation;
pub mod app;
pub mod audit;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod gate;
pub mod hex;
pub mod idempotency;
pub mod inventory;
pub mod kind;
pub mod kubeconfig;
pub mod name;
pub mod namespace;
pub mod network;
pub mod node;
pub mod object;
#[cfg(feature = "openapi")]
mod openapi;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod seal;
pub mod secret;
pub mod session;
pub mod storage;
pub mod streams;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod ttl_cache;
pub mod user;
pub mod workload;

pub use error::{Cause, Code, Error, Result};
