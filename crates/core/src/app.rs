//! Application: builds all use cases from the ports.
//!
//! An embedder that needs only some use cases creates a [`Gate`] and those: `Lists::new`, `Workloads::new` and similar
//! constructors take the gate and the ports that they need, as shown in `examples/`.

use std::sync::Arc;

use crate::{
    audit::{Audit, AuditPorts, AuditTrail, CheckpointSigner, CheckpointSink, Retention, TrailReader},
    clock::{Clock, Rng, Spawner},
    cluster::{ClusterPorts, ClusterProbe, ClusterRegistry, Clusters, Connections, RegistryNames},
    config::{ConfigApi, Configs},
    gate::Gate,
    idempotency::{Idempotency, IdempotencyStore},
    inventory::{Fleet, Inventory, Lists, Watches},
    namespace::{NamespaceApi, Namespaces},
    pod::{PodApi, Pods},
    secret::{SecretApi, Secrets, ValueDigest},
    session::{
        CachedSessions, InvalidatingUsers, Lifetimes, LiveSessions, LoginThrottle, SessionPorts,
        SessionStore, Sessions, TokenCodec,
    },
    streams::{StreamLimits, Streams},
    ttl_cache::TtlCache,
    user::{InitialPassword, PasswordHasher, UserRegistry, Users},
    workload::{WorkloadApi, Workloads},
};

/// All ports of the application. An embedder provides its own adapters; tests use `Ports::fake()`.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the port of its type, which is documented there")]
pub struct Ports {
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub spawner: Arc<dyn Spawner>,
    pub audit: Arc<dyn AuditTrail>,
    pub trail: Arc<dyn TrailReader>,
    pub signer: Arc<dyn CheckpointSigner>,
    pub checkpoint_sink: Arc<dyn CheckpointSink>,
    pub retention: Arc<dyn Retention>,
    pub users: Arc<dyn UserRegistry>,
    pub sessions: Arc<dyn SessionStore>,
    pub throttle: Arc<dyn LoginThrottle>,
    pub idempotency: Arc<dyn IdempotencyStore>,
    pub hasher: Arc<dyn PasswordHasher>,
    pub initial_password: Arc<dyn InitialPassword>,
    pub tokens: Arc<dyn TokenCodec>,
    pub clusters: Arc<dyn ClusterRegistry>,
    pub connections: Arc<dyn Connections>,
    pub probe: Arc<dyn ClusterProbe>,
    pub inventory: Arc<dyn Inventory>,
    pub namespaces: Arc<dyn NamespaceApi>,
    pub workloads: Arc<dyn WorkloadApi>,
    pub pods: Arc<dyn PodApi>,
    pub configs: Arc<dyn ConfigApi>,
    pub secrets: Arc<dyn SecretApi>,
    pub digest: Arc<dyn ValueDigest>,
}

/// Settings of the use cases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Lifetimes of tokens and sessions.
    pub lifetimes: Lifetimes,
    /// Whether a super admin may register a cluster with certificate verification disabled.
    pub allow_insecure_tls: bool,
    /// Limits of concurrent log streams and list watches.
    pub streams: StreamLimits,
}

/// The use cases of the application.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the use cases of its type, which are documented there")]
pub struct App {
    pub gate: Gate,
    pub idempotency: Idempotency,
    pub audit: Audit,
    pub sessions: Sessions,
    pub users: Users,
    pub clusters: Clusters,
    pub lists: Lists,
    pub fleet: Fleet,
    pub watches: Watches,
    pub namespaces: Namespaces,
    pub workloads: Workloads,
    pub pods: Pods,
    pub configs: Configs,
    pub secrets: Secrets,
    /// Open log streams and list watches.
    pub streams: Streams,
}

impl App {
    /// Creates the use cases over these ports.
    pub fn new(ports: Ports, settings: Settings) -> Self {
        let Ports { clock, rng, spawner, audit, users, sessions, throttle, hasher, tokens, clusters, .. } =
            ports;
        let streams = Streams::new(settings.streams);
        let initial = ports.initial_password;
        // all reads and changes of sessions, and all changes of users, pass through these two wrappers
        let sessions = Arc::new(CachedSessions::new(sessions, clock.clone(), spawner.clone()));
        let users: Arc<dyn UserRegistry> = Arc::new(InvalidatingUsers {
            registry: users,
            session_cache: sessions.session_cache(),
            spawner: spawner.clone(),
        });
        let sessions: Arc<dyn SessionStore> = sessions;
        let live =
            LiveSessions { store: sessions.clone(), clock: clock.clone(), idle: settings.lifetimes.idle };
        let gate = Gate::new(
            audit.clone(),
            Arc::new(RegistryNames(clusters.clone())),
            clock.clone(),
            rng.clone(),
            spawner.clone(),
        )
        .with_sessions(Arc::new(live.clone()));
        Self {
            idempotency: Idempotency {
                store: ports.idempotency,
                clock: clock.clone(),
                rng: rng.clone(),
                spawner: spawner.clone(),
            },
            audit: Audit::new(
                gate.clone(),
                AuditPorts {
                    query: audit.clone(),
                    maintenance: audit,
                    reader: ports.trail,
                    signer: ports.signer,
                    checkpoint_sink: ports.checkpoint_sink,
                    retention: ports.retention,
                },
                clock.clone(),
            ),
            sessions: Sessions {
                gate: gate.clone(),
                ports: SessionPorts { store: sessions, throttle, tokens },
                live,
                verified: Arc::new(TtlCache::new(clock.clone())),
                users: users.clone(),
                hasher: hasher.clone(),
                initial: initial.clone(),
                clock: clock.clone(),
                rng: rng.clone(),
                lifetimes: settings.lifetimes,
            },
            users: Users { gate: gate.clone(), registry: users, hasher, initial, clock: clock.clone(), rng },
            clusters: Clusters::new(
                gate.clone(),
                ClusterPorts { registry: clusters, connections: ports.connections, probe: ports.probe },
                clock.clone(),
                settings.allow_insecure_tls,
            ),
            lists: Lists::new(gate.clone(), ports.inventory.clone()),
            fleet: Fleet::new(gate.clone(), ports.inventory.clone(), spawner.clone()),
            watches: Watches {
                gate: gate.clone(),
                inventory: ports.inventory,
                spawner: spawner.clone(),
                streams: streams.clone(),
            },
            namespaces: Namespaces::new(gate.clone(), ports.namespaces),
            workloads: Workloads::new(gate.clone(), ports.workloads, clock),
            pods: Pods { gate: gate.clone(), api: ports.pods, spawner, streams: streams.clone() },
            configs: Configs::new(gate.clone(), ports.configs),
            secrets: Secrets::new(gate.clone(), ports.secrets, ports.digest),
            streams,
            gate,
        }
    }
}
