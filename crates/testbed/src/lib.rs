//! Real Kubernetes control planes, and a PostgreSQL, on this machine, for tests, demo and benchmarks; never shipped.
//!
//! ```no_run
//! # async fn example() -> pilothouse_testbed::Result<()> {
//! use pilothouse_testbed::{Component, ControlPlane, Signal, workloads};
//!
//! let plane = ControlPlane::builder().start().await?;      // etcd, API server, controllers: about 6 s
//! plane.client().apply(&workloads::deployment("default", "web", 2)).await?;
//! plane.signal(Component::ApiServer, Signal::Stop)?;        // it no longer answers
//! plane.signal(Component::ApiServer, Signal::Cont)?;
//! # Ok(()) }
//! ```
//!
//! Nothing outlives the process that started it, even if that is killed: every child holds a pipe from it.
#![allow(
    clippy::disallowed_methods,
    reason = "a test bed starts processes and is told by the environment where"
)]

mod admin;
mod audit;
mod binaries;
mod builder;
mod certificates;
mod component;
mod control_plane;
mod error;
mod fault_proxy;
mod folder;
mod kubeconfig;
mod lying;
mod node;
mod ports;
mod postgres;
mod processes;
mod shipped;
mod tracing;
pub mod workloads;

use std::{
    env,
    path::Path,
    sync::{Mutex, PoisonError},
};

use tokio::sync::OnceCell;

pub use self::{
    admin::{Admin, path_of},
    audit::{AuditEvent, AuditObject, AuditStatus, AuditUser},
    binaries::{cache, kubernetes_version},
    builder::Builder,
    certificates::ServingCertificate,
    component::{Component, Signal},
    control_plane::ControlPlane,
    error::{Error, Result},
    fault_proxy::{Fault, FaultProxy},
    folder::Folder,
    lying::{Lie, LyingServer, read_plainly},
    node::{Node, NodeProgram},
    postgres::{Postgres, PostgresBuilder},
    shipped::Shipped,
    tracing::can_trace_or_skip,
};

/// A folder with etcd and kube-apiserver (and, if it has them, kube-controller-manager, kube-scheduler, kubelet).
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// The kubeconfig file of a cluster to use instead of starting one, where a test is content with any.
pub const KUBECONFIG: &str = "PILOTHOUSE_TEST_KUBECONFIG";
/// The folder for the built control plane.
pub const CACHE: &str = "PILOTHOUSE_TEST_CACHE";
/// If set, a machine that cannot run a node is a failure.
pub const REQUIRE_NODE: &str = "PILOTHOUSE_TEST_REQUIRE_NODE";
/// A folder with `initdb`, `postgres` and `psql`, instead of Debian's newest.
pub const POSTGRES_BIN: &str = "PILOTHOUSE_TEST_POSTGRES_BIN";
/// If set, a machine that cannot run a PostgreSQL is a failure.
pub const REQUIRE_POSTGRES: &str = "PILOTHOUSE_TEST_REQUIRE_POSTGRES";
/// If set, a machine that cannot trace the system calls of a process is a failure.
pub const REQUIRE_STRACE: &str = "PILOTHOUSE_TEST_REQUIRE_STRACE";

/// Builds the programs of a control plane if this machine has not yet: minutes, the first time.
pub async fn build() -> Result<()> {
    binaries::Binaries::find().await.map(|_| ())
}

/// The control plane that the tests of a process share: the one of `PILOTHOUSE_TEST_KUBECONFIG`, or one of our own.
/// Break another one.
pub async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || match env::var_os(KUBECONFIG).filter(|file| !file.is_empty()) {
        Some(file) => ControlPlane::existing(Path::new(&file)).await,
        None => ControlPlane::builder().start().await,
    };
    SHARED.get_or_try_init(start).await
}

/// Whether the shared control plane has a node, starting one in ours, once. Where this machine cannot, says so aloud and
/// returns false, so that the test can be skipped, unless `PILOTHOUSE_TEST_REQUIRE_NODE` is set. Of an existing cluster
/// it is assumed.
pub async fn shared_has_node() -> Result<bool> {
    static NODE: OnceCell<bool> = OnceCell::const_new();
    let start = async || match shared().await?.start_node_or_skip(0).await {
        Err(Error::NotOwned(_)) => Ok(true),
        node => Ok(node?.is_some()),
    };
    NODE.get_or_try_init(start).await.copied()
}

/// The PostgreSQL that the tests of a process share, each with a database of its own. Where this machine cannot run one,
/// says so aloud and returns `None`, so that the test can be skipped, unless `PILOTHOUSE_TEST_REQUIRE_POSTGRES` is set.
/// Break another one.
pub fn shared_postgres() -> Result<Option<&'static Postgres>> {
    static SHARED: Mutex<Option<Option<&'static Postgres>>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = *shared {
        return Ok(known);
    }
    let started = Postgres::builder().start_or_skip()?;
    Ok(*shared.insert(started.map(|postgres| &*Box::leak(Box::new(postgres)))))
}
