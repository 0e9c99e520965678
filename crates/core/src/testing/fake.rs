//! Working in-memory ports: state without a database, a cluster without a network.

mod clusters;
mod evidence;
mod lent;
mod secrets;
mod store;

use std::sync::Arc;

pub use clusters::{Condition, FakeClusters};
pub use evidence::{FakeSigner, MemoryWitness};
pub use lent::{FakeClock, FakeEntropy, Lent, ThreadTasks};
pub use secrets::{HandedOver, PlainDigest, PlainHasher, PlainTokens};
pub use store::MemoryStore;

use crate::app::Ports;

/// All fakes together, each to be looked at and set by a test.
#[derive(Clone, Default)]
pub struct Fake {
    /// Clock, randomness, tasks.
    pub lent: Lent,
    /// Users, sessions, clusters, the trail.
    pub store: Arc<MemoryStore>,
    /// The checkpoints kept elsewhere.
    pub witness: Arc<MemoryWitness>,
    /// What was handed over at the first start.
    pub initial_password: Arc<HandedOver>,
    /// What runs in the clusters.
    pub clusters: Arc<FakeClusters>,
}

impl Fake {
    /// The fakes as ports.
    pub fn ports(&self) -> Ports {
        let Self { lent, store, witness, initial_password, clusters } = self;
        Ports {
            clock: lent.clock.clone(),
            entropy: lent.entropy.clone(),
            tasks: lent.tasks.clone(),
            audit: store.clone(),
            trail: store.clone(),
            signer: Arc::new(FakeSigner::default()),
            witness: witness.clone(),
            retention: store.clone(),
            users: store.clone(),
            sessions: store.clone(),
            throttle: store.clone(),
            idempotency: store.clone(),
            hasher: Arc::new(PlainHasher),
            initial_password: initial_password.clone(),
            tokens: Arc::new(PlainTokens),
            clusters: store.clone(),
            connections: store.clone(),
            probe: clusters.clone(),
            inventory: clusters.clone(),
            namespaces: clusters.clone(),
            workloads: clusters.clone(),
            pods: clusters.clone(),
            configs: clusters.clone(),
            secrets: clusters.clone(),
            digest: Arc::new(PlainDigest),
        }
    }
}
