//! Working in-memory ports: state without a database, a cluster without a network.

mod clusters;
mod runtime;
mod secrets;
mod signatures;
mod store;

use std::sync::Arc;

pub use clusters::{Condition, FakeClusters};
pub use runtime::{FakeClock, FakeRng, FakeRuntime, ThreadSpawner};
pub use secrets::{FakeInitialPassword, PlainDigest, PlainHasher, PlainTokens};
pub use signatures::{FakeSigner, MemoryCheckpointSink};
pub use store::MemoryStore;

use crate::app::Ports;

/// All fakes together, each to be looked at and set by a test.
#[derive(Clone, Default)]
pub struct Fake {
    /// Clock, randomness, tasks.
    pub runtime: FakeRuntime,
    /// Users, sessions, clusters, the trail.
    pub store: Arc<MemoryStore>,
    /// The checkpoints kept elsewhere.
    pub witness: Arc<MemoryCheckpointSink>,
    /// What was handed over at the first start.
    pub initial_password: Arc<FakeInitialPassword>,
    /// What runs in the clusters.
    pub clusters: Arc<FakeClusters>,
}

impl Fake {
    /// The fakes as ports.
    pub fn ports(&self) -> Ports {
        let Self { runtime, store, witness, initial_password, clusters } = self;
        Ports {
            clock: runtime.clock.clone(),
            rng: runtime.rng.clone(),
            spawner: runtime.spawner.clone(),
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
