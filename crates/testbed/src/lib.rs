//! Testbed: local Kubernetes control planes, PostgreSQL and identity servers for tests, demo and benchmarks. Not part of
//! a release.
//!
//! ```no_run
//! # async fn example() -> pilothouse_testbed::Result<()> {
//! use pilothouse_testbed::{Component, ControlPlane, Signal, workloads};
//!
//! let plane = ControlPlane::builder().start().await?;      // etcd, API server, controllers: about 6 s
//! plane.client().apply(&workloads::deployment("default", "web", 2)).await?;
//! plane.signal(Component::ApiServer, Signal::Stop)?;        // the API server no longer responds
//! plane.signal(Component::ApiServer, Signal::Cont)?;
//! # Ok(()) }
//! ```
//!
//! All child processes end when the process that started them ends, even by a kill: each child reads a pipe from that
//! process, and ends when the pipe closes.
#![allow(
    clippy::disallowed_methods,
    reason = "the test bed starts processes and reads their location from the environment"
)]

mod admin;
mod audit;
mod binaries;
mod builder;
mod certificates;
mod component;
mod control_plane;
mod denying_webhook;
mod error;
mod fault_proxy;
mod faulty_registry;
mod faulty_server;
mod fixtures;
mod folder;
mod http;
mod identity;
mod kubeconfig;
mod kubectl;
mod metrics_server;
mod node;
mod pilothouse_server;
mod ports;
mod postgres;
mod processes;
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
    denying_webhook::DenyingWebhook,
    error::{Error, Result},
    fault_proxy::{Fault, FaultProxy},
    faulty_registry::{FaultyRegistry, RegistryFault},
    faulty_server::{FaultyServer, ResponseFault, read_plainly},
    fixtures::BrokenWorkload,
    folder::Folder,
    identity::{
        CLIENT_ID, Keycloak, OidcProvider, OidcServer, Slapd, download_identity_servers, password_of,
    },
    kubeconfig::read_kubeconfig,
    kubectl::{kubectl, kubectl_output},
    metrics_server::metrics_server,
    node::{Node, NodeProgram},
    pilothouse_server::PilothouseServer,
    ports::Port,
    postgres::{Postgres, PostgresBuilder},
    tracing::can_trace_or_skip,
};

/// A directory with etcd and kube-apiserver and, optionally, kube-controller-manager, kube-scheduler and kubelet.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// The kubeconfig file of an existing cluster to use instead of starting one, for tests that work with any cluster.
pub const KUBECONFIG: &str = "PILOTHOUSE_TEST_KUBECONFIG";
/// The cache directory for the built control plane.
pub const CACHE: &str = "PILOTHOUSE_TEST_CACHE";
/// If set, tests fail instead of being skipped on a machine that cannot run a node.
pub const REQUIRE_NODE: &str = "PILOTHOUSE_TEST_REQUIRE_NODE";
/// A directory with `initdb`, `postgres` and `psql`, to use instead of the newest installed Debian package.
pub const POSTGRES_BIN: &str = "PILOTHOUSE_TEST_POSTGRES_BIN";
/// If set, tests fail instead of being skipped on a machine that cannot run PostgreSQL.
pub const REQUIRE_POSTGRES: &str = "PILOTHOUSE_TEST_REQUIRE_POSTGRES";
/// If set, tests fail instead of being skipped on a machine that cannot run an identity server.
pub const REQUIRE_IDENTITY: &str = "PILOTHOUSE_TEST_REQUIRE_IDENTITY";
/// If set, tests fail instead of being skipped on a machine that cannot trace system calls.
pub const REQUIRE_STRACE: &str = "PILOTHOUSE_TEST_REQUIRE_STRACE";

/// Builds the binaries of a control plane if they are not cached, which takes minutes.
pub async fn build() -> Result<()> {
    binaries::Binaries::find().await.map(|_| ())
}

/// The control plane shared by the tests of a process: that of `PILOTHOUSE_TEST_KUBECONFIG`, or one started by the
/// testbed. Tests that inject faults must start their own.
pub async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || match env::var_os(KUBECONFIG).filter(|file| !file.is_empty()) {
        Some(file) => ControlPlane::existing(Path::new(&file)).await,
        None => ControlPlane::builder().start().await,
    };
    SHARED.get_or_try_init(start).await
}

/// Whether the shared control plane has a node. Starts one at the first call; an existing cluster is assumed to have
/// one. If this machine cannot run a node, prints a message and returns false, so that the test can be skipped. With
/// `PILOTHOUSE_TEST_REQUIRE_NODE` set, that is an error.
pub async fn shared_has_node() -> Result<bool> {
    static NODE: OnceCell<bool> = OnceCell::const_new();
    let start = async || match shared().await?.start_node_or_skip(0).await {
        Err(Error::NotOwned(_)) => Ok(true),
        node => Ok(node?.is_some()),
    };
    NODE.get_or_try_init(start).await.copied()
}

/// The PostgreSQL server shared by the tests of a process, each of which creates its own database. If this machine
/// cannot run PostgreSQL, prints a message and returns `None`, so that the test can be skipped. With
/// `PILOTHOUSE_TEST_REQUIRE_POSTGRES` set, that is an error. Tests that inject faults must start their own.
pub fn shared_postgres() -> Result<Option<&'static Postgres>> {
    static SHARED: Mutex<Option<Option<&'static Postgres>>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(started_before) = *shared {
        return Ok(started_before);
    }
    let started = Postgres::builder().start_or_skip()?;
    Ok(*shared.insert(started.map(|postgres| &*Box::leak(Box::new(postgres)))))
}
