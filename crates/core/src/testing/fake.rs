//! In-memory fakes of the ports: storage without a database, clusters without a network.

mod clusters;
mod factor;
mod secrets;
mod signatures;
mod store;

use std::{collections::BTreeMap, sync::Arc};

pub use clusters::{Condition, FakeClusters};
pub use factor::PlainTotp;
pub use pilothouse_types::testing::{FakeClock, FakeRng, FakeRuntime, ThreadSpawner};
pub use secrets::{FakeInitialPassword, PlainDigest, PlainHasher, PlainTokens};
pub use signatures::{FakeSigner, MemoryCheckpointSink};
pub use store::{MemoryCoordinator, MemoryStore};

use crate::{
    app::{FederationPorts, ObjectPorts, Ports, RuntimePorts, UserPorts},
    audit::AuditPorts,
    cluster::ClusterPorts,
    grant::RightsPorts,
    name::ProviderId,
    provider::Provider,
    second_factor::SecondFactorPorts,
};

/// All fakes. Tests read and set their state.
#[derive(Clone, Default)]
pub struct Fake {
    /// Clock, random source, task spawner.
    pub runtime: FakeRuntime,
    /// Users, sessions, rights, clusters and the audit trail.
    pub store: Arc<MemoryStore>,
    /// Checkpoint sink: checkpoints outside the database.
    pub checkpoint_sink: Arc<MemoryCheckpointSink>,
    /// Port that publishes the password of the first start.
    pub initial_password: Arc<FakeInitialPassword>,
    /// Objects in the clusters.
    pub clusters: Arc<FakeClusters>,
    /// Identity providers.
    pub providers: BTreeMap<ProviderId, Provider>,
}

impl Fake {
    /// The ports of these fakes.
    pub fn ports(&self) -> Ports {
        let Self { runtime, store, checkpoint_sink, initial_password, clusters, providers } = self;
        Ports {
            runtime: RuntimePorts {
                clock: runtime.clock.clone(),
                rng: runtime.rng.clone(),
                spawner: runtime.spawner.clone(),
            },
            audit_writer: store.clone(),
            audit: AuditPorts {
                query: store.clone(),
                maintenance: store.clone(),
                reader: store.clone(),
                pruner: store.clone(),
                signer: Arc::new(FakeSigner::default()),
                checkpoint_sink: checkpoint_sink.clone(),
            },
            users: UserPorts {
                registry: store.clone(),
                sessions: store.clone(),
                throttle: store.clone(),
                hasher: Arc::new(PlainHasher),
                initial_password: initial_password.clone(),
                tokens: Arc::new(PlainTokens),
                second_factors: SecondFactorPorts { store: store.clone(), codec: Arc::new(PlainTotp) },
                api_tokens: store.clone(),
                service_accounts: store.clone(),
            },
            federation: FederationPorts { providers: providers.clone(), store: store.clone() },
            rights: RightsPorts {
                source: store.clone(),
                roles: store.clone(),
                grants: store.clone(),
                requests: store.clone(),
                break_glass: store.clone(),
            },
            clusters: ClusterPorts {
                registry: store.clone(),
                connections: store.clone(),
                probe: clusters.clone(),
            },
            objects: ObjectPorts {
                inventory: clusters.clone(),
                usage: clusters.clone(),
                namespaces: clusters.clone(),
                workloads: clusters.clone(),
                compare: clusters.clone(),
                rollouts: clusters.clone(),
                jobs: clusters.clone(),
                pods: clusters.clone(),
                pod_changes: clusters.clone(),
                autoscalers: clusters.clone(),
                nodes: clusters.clone(),
                dependents: clusters.clone(),
                diagnosis: clusters.clone(),
                configs: clusters.clone(),
                secrets: clusters.clone(),
                digest: Arc::new(PlainDigest),
                objects: clusters.clone(),
            },
            idempotency: store.clone(),
        }
    }
}
