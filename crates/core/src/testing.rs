//! Test support for this crate, its adapters and embedders: mocks (`MockAuditWriter` and others, next to each port),
//! in-memory fakes of the ports, and the contract tests that every adapter of a port must pass.
//!
//! Use mocks for calls, fakes for state.

pub mod contract;
pub mod fake;

pub use pilothouse_gate::testing::{judged_permit, permit};
pub use pilothouse_types::testing::env_number;

use crate::{
    app::Ports,
    cluster::{CredentialInput, NewCluster},
    connection::AuthType,
    object::Labels,
};

/// A cluster to be registered, with the token `canary-token`.
///
/// # Panics
/// If `name` is not a valid cluster name.
pub fn new_cluster(name: &str) -> NewCluster {
    let credential = CredentialInput {
        auth_type: Some(AuthType::Token),
        api_server: Some("https://k8s.example.com:6443".to_owned().try_into().expect("valid address")),
        token: Some("canary-token".into()),
        ..CredentialInput::default()
    };
    NewCluster {
        name: name.to_owned().try_into().expect("valid name"),
        description: String::new(),
        labels: Labels::new(),
        credential,
        skip_test: false,
    }
}

impl Ports {
    /// In-memory ports.
    pub fn fake() -> Self {
        fake::Fake::default().ports()
    }
}
