//! For tests of this crate, of its adapters, and of embedders: the mocks (`MockAuditTrail` and its like, beside each
//! port), working in-memory ports, and the contract that every adapter of a port must keep.
//!
//! Mocks for calls, fakes for state.

pub mod contract;
pub mod fake;

use std::sync::Arc;

use crate::{
    access::{AccessRequest, Caller, Permit},
    app::Ports,
    audit::MockAuditTrail,
    cluster::{AuthType, CredentialInput, MockClusterRegistry, NewCluster},
    gate::Gate,
    object::Labels,
};

/// A cluster to be registered, by the token `canary-token`.
///
/// # Panics
/// When that is no name of a cluster.
pub fn new_cluster(name: &str) -> NewCluster {
    let credential = CredentialInput {
        auth_type: Some(AuthType::Token),
        api_server: Some("https://k8s.example.com:6443".to_owned().try_into().expect("an address")),
        token: Some("canary-token".into()),
        ..CredentialInput::default()
    };
    NewCluster {
        name: name.to_owned().try_into().expect("a name"),
        description: String::new(),
        labels: Labels::new(),
        credential,
        skip_test: false,
    }
}

/// A permit with its operation, without asking anybody: for the tests of adapters only.
pub fn permit(caller: &Caller, access: AccessRequest) -> Permit {
    permit_with(fake::FakeRuntime::default(), caller, access)
}

fn permit_with(runtime: fake::FakeRuntime, caller: &Caller, access: AccessRequest) -> Permit {
    let gate = Gate::new(
        Arc::new(MockAuditTrail::new()),
        Arc::new(MockClusterRegistry::new()),
        runtime.clock,
        runtime.rng,
        runtime.spawner,
    );
    gate.permit_authenticated(caller, access)
}

impl Ports {
    /// Working in-memory ports.
    pub fn fake() -> Self {
        fake::Fake::default().ports()
    }
}
