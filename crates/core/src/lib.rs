//! Domain crate of Pilothouse: types, rules, ports and use cases. It has no network, database, HTTP or runtime code;
//! those are adapters, injected through [`app::Ports`].
//!
//! Start at [`app::App`]. Each module covers one subject: types, rules, port, use case. Three parts are crates of their
//! own, re-exported here: value types (`pilothouse-types`), rows and queries (`pilothouse-rows`: [`rows`]), and
//! authorisation and audit (`pilothouse-gate`: [`access`], [`rights`], [`gate`], [`operation`]). Adapters use them through
//! this crate.
//!
//! # Errors
//! All functions return one [`Error`]: a [`Cause`], which determines the public [`Code`], and a context. Where a port
//! towards a cluster documents "as every call to a cluster", these errors are possible: `NotFound` when the cluster is
//! no longer registered; `EgressDenied`; causes of code `ConnectionError` when the cluster cannot be reached or
//! trusted, rejects the credential, closes the connection or sends an unexpected response; `DeadlineExceeded`;
//! `RateLimitedByCluster`; `ForbiddenByCluster` with verb, resource and namespace; `RejectedByCluster` with the
//! cluster's cleaned message; and for a change `ConflictInCluster`, `QuotaExceeded` and `NamespaceTerminating`.
//! [`Cause::outcome_unknown`] lists the causes after which a change may have been applied.
//!
//! # A new port
//! A port is a trait with a few methods in the module of its subject: `#[async_trait]`, `Send + Sync`, with the types
//! of this crate, and `mockall::automock` behind the feature `testing`. A missing object is `None`, not an error. A
//! method that calls a cluster or changes Pilothouse's own tables takes an [`access::Permit`]. The docs define each
//! error. Then add a field in its group of [`app::Ports`], a fake and a contract in `testing`, and an adapter. A port that
//! only the process itself uses, such as [`coordinator::Coordinator`], is no field there.

mod annotation;
pub mod app;
pub mod audit;
pub mod autoscaler;
pub mod autoscaler_limits;
pub mod break_glass;
pub mod cluster;
pub mod compare;
pub mod config;
pub mod connection;
pub mod coordinator;
pub mod cordon;
pub mod dependents;
pub mod diagnosis;
pub mod endpoint;
pub mod event;
pub mod fault;
pub mod grant;
pub mod idempotency;
pub mod inventory;
pub mod job;
pub mod json_patch;
pub mod kubeconfig;
pub mod level;
mod limiter;
mod manifest;
pub mod mask;
pub mod monitor;
pub mod namespace;
pub mod network;
pub mod node;
pub mod object;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod pod;
pub mod pod_change;
pub mod problem;
pub mod provider;
pub mod quantity;
pub mod quota;
pub mod rollout;
mod schedule;
pub mod seal;
pub mod second_factor;
pub mod secret;
pub mod service_account;
pub mod session;
pub mod storage;
pub mod streams;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
mod ttl_cache;
pub mod usage;
pub mod user;
pub mod workload;
pub mod workload_log;

pub use pilothouse_gate::{access, gate, operation, rights};
pub use pilothouse_rows as rows;
pub use pilothouse_types::{
    change_reason, clock, dynamic_kind, error,
    error::{Cause, Code, Error, Result},
    hex, ids, kind, name, namespaces, rng, role, spawn,
};
