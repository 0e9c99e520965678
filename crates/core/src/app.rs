//! Application: builds all use cases from the ports.
//!
//! An embedder that needs only some use cases creates a [`Gate`] and these use cases: `Lists::new`, `Workloads::new`
//! and similar constructors take the gate and the ports that they need, as shown in `examples/`.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    audit::{Audit, AuditPorts},
    autoscaler_limits::{AutoscalerApi, Autoscalers},
    break_glass::{BreakGlass, BreakGlassSettings},
    clock::Clock,
    cluster::{ClusterPorts, Clusters, RegistryNames},
    compare::{Compare, CompareApi},
    config::{ConfigApi, Configs},
    cordon::{NodeApi, Nodes},
    dependents::{DependentApi, DependentReader},
    diagnosis::{Diagnoses, DiagnosisSource},
    gate::Gate,
    grant::{Grants, RightsPorts},
    idempotency::{Idempotency, IdempotencyStore},
    inventory::{
        Fleet, Inventory, Lists, Watches,
        objects::{ObjectApi, Objects},
    },
    job::{JobApi, Jobs},
    mask::MaskedFields,
    name::ProviderId,
    namespace::{NamespaceApi, Namespaces},
    operation::AuditWriter,
    pod::{PodApi, Pods},
    pod_change::{PodChangeApi, PodChanges},
    problem::Problems,
    provider::{Federation, FederationStore, Provider},
    rng::Rng,
    rollout::{RolloutApi, Rollouts},
    second_factor::{CodeCheck, SecondFactorPorts, SecondFactorSettings, SecondFactors},
    secret::{SecretApi, Secrets, ValueDigest},
    service_account::{ServiceAccountStore, ServiceAccounts},
    session::{
        CachedSessions, Invalidating, Lifetimes, LiveSessions, LoginThrottle, SessionPorts, SessionStore,
        Sessions, TokenCodec, UserRights,
    },
    spawn::Spawner,
    streams::{StreamLimits, Streams},
    token::{CachedTokens, LiveTokens, TokenStore, Tokens},
    ttl_cache::{Caches, TtlCache},
    usage::{UsageApi, UsageHistory},
    user::{InitialPassword, PasswordHasher, UserRegistry, Users},
    workload::{WorkloadApi, Workloads},
    workload_log::WorkloadLogs,
};

/// All ports of the application, by subject. An embedder provides its own adapters; tests use `Ports::fake()`.
#[derive(Clone)]
pub struct Ports {
    /// Ports of the process.
    pub runtime: RuntimePorts,
    /// Writer of the audit trail, for the gate.
    pub audit_writer: Arc<dyn AuditWriter>,
    /// Ports of the audit trail, for its use cases.
    pub audit: AuditPorts,
    /// Ports of users and their sessions.
    pub users: UserPorts,
    /// Identity providers and the storage of their users.
    pub federation: FederationPorts,
    /// Ports of grants, own roles, requests and break-glass.
    pub rights: RightsPorts,
    /// Ports of registered clusters.
    pub clusters: ClusterPorts,
    /// Ports of the objects in clusters.
    pub objects: ObjectPorts,
    /// Store of idempotency keys.
    pub idempotency: Arc<dyn IdempotencyStore>,
}

/// Ports of the process.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct RuntimePorts {
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub spawner: Arc<dyn Spawner>,
}

/// Ports of users and their sessions.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct UserPorts {
    pub registry: Arc<dyn UserRegistry>,
    pub sessions: Arc<dyn SessionStore>,
    pub throttle: Arc<dyn LoginThrottle>,
    pub hasher: Arc<dyn PasswordHasher>,
    pub initial_password: Arc<dyn InitialPassword>,
    pub tokens: Arc<dyn TokenCodec>,
    pub second_factors: SecondFactorPorts,
    pub api_tokens: Arc<dyn TokenStore>,
    pub service_accounts: Arc<dyn ServiceAccountStore>,
}

/// Identity providers and the storage of their users.
#[derive(Clone)]
pub struct FederationPorts {
    /// The configured providers.
    pub providers: BTreeMap<ProviderId, Provider>,
    /// Storage of bindings, pending sign-ins, people and their groups.
    pub store: Arc<dyn FederationStore>,
}

/// Ports of the objects in clusters.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct ObjectPorts {
    pub inventory: Arc<dyn Inventory>,
    pub usage: Arc<dyn UsageApi>,
    pub namespaces: Arc<dyn NamespaceApi>,
    pub workloads: Arc<dyn WorkloadApi>,
    pub compare: Arc<dyn CompareApi>,
    pub rollouts: Arc<dyn RolloutApi>,
    pub jobs: Arc<dyn JobApi>,
    pub pods: Arc<dyn PodApi>,
    pub pod_changes: Arc<dyn PodChangeApi>,
    pub autoscalers: Arc<dyn AutoscalerApi>,
    pub nodes: Arc<dyn NodeApi>,
    pub dependents: Arc<dyn DependentApi>,
    pub diagnosis: Arc<dyn DiagnosisSource>,
    pub configs: Arc<dyn ConfigApi>,
    pub secrets: Arc<dyn SecretApi>,
    pub digest: Arc<dyn ValueDigest>,
    pub objects: Arc<dyn ObjectApi>,
}

/// Settings of the use cases.
#[derive(Clone, Debug, Default)]
pub struct AppSettings {
    /// Lifetimes of tokens and sessions.
    pub lifetimes: Lifetimes,
    /// Whether a super admin may register a cluster with certificate verification disabled.
    pub allow_insecure_tls: bool,
    /// Limits of concurrent streams, and of the connections that they hold.
    pub streams: StreamLimits,
    /// Fields that are masked in details, besides literal values of environment variables.
    pub masked_fields: MaskedFields,
    /// Users that must have a second factor, and operations that require a fresh one.
    pub second_factor: SecondFactorSettings,
    /// Users that may use break-glass, and their networks.
    pub break_glass: BreakGlassSettings,
}

/// The use cases of the application.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents its use cases")]
pub struct App {
    pub gate: Gate,
    pub idempotency: Idempotency,
    pub audit: Audit,
    pub sessions: Sessions,
    pub tokens: Tokens,
    pub service_accounts: ServiceAccounts,
    pub federation: Federation,
    pub users: Users,
    pub second_factors: SecondFactors,
    pub grants: Grants,
    pub break_glass: BreakGlass,
    pub clusters: Clusters,
    pub lists: Lists,
    pub usage: UsageHistory,
    pub fleet: Fleet,
    pub problems: Problems,
    pub watches: Watches,
    pub objects: Objects,
    pub namespaces: Namespaces,
    pub workloads: Workloads,
    pub compare: Compare,
    pub rollouts: Rollouts,
    pub jobs: Jobs,
    pub pods: Pods,
    pub pod_changes: PodChanges,
    pub autoscalers: Autoscalers,
    pub nodes: Nodes,
    pub dependents: DependentReader,
    pub diagnoses: Diagnoses,
    pub workload_logs: WorkloadLogs,
    pub configs: Configs,
    pub secrets: Secrets,
    /// Open streams of logs and lists.
    pub streams: Streams,
}

impl App {
    /// Creates the use cases over these ports.
    pub fn new(ports: Ports, settings: AppSettings) -> Self {
        let Ports { runtime, audit_writer, audit, users, federation, rights, clusters, objects, idempotency } =
            ports;
        let RuntimePorts { clock, rng, spawner } = runtime;
        let UserPorts {
            registry,
            sessions,
            throttle,
            hasher,
            initial_password: initial,
            tokens: codec,
            second_factors,
            api_tokens,
            service_accounts,
        } = users;
        let streams = Streams::new(settings.streams);
        let masked_fields = settings.masked_fields;
        // all reads and changes of sessions and tokens, and all changes of users, service accounts, rights and clusters,
        // pass through these wrappers
        let sessions = Arc::new(CachedSessions::new(sessions, clock.clone(), spawner.clone()));
        let api_tokens = Arc::new(CachedTokens::new(api_tokens, clock.clone(), spawner.clone()));
        let caches = Caches::new(sessions.caches().into_iter().chain(api_tokens.caches()));
        let users: Arc<dyn UserRegistry> =
            Arc::new(Invalidating { registry, caches: caches.clone(), spawner: spawner.clone() });
        let rights = RightsPorts {
            roles: Arc::new(Invalidating {
                registry: rights.roles,
                caches: caches.clone(),
                spawner: spawner.clone(),
            }),
            grants: Arc::new(Invalidating {
                registry: rights.grants,
                caches: caches.clone(),
                spawner: spawner.clone(),
            }),
            requests: Arc::new(Invalidating {
                registry: rights.requests,
                caches: caches.clone(),
                spawner: spawner.clone(),
            }),
            break_glass: Arc::new(Invalidating {
                registry: rights.break_glass,
                caches: caches.clone(),
                spawner: spawner.clone(),
            }),
            source: rights.source,
        };
        let second_factors = SecondFactorPorts {
            store: Arc::new(Invalidating {
                registry: second_factors.store,
                caches: caches.clone(),
                spawner: spawner.clone(),
            }),
            codec: second_factors.codec,
        };
        let trusted = federation.providers.values().filter(|provider| provider.trusts_second_factor);
        let trusted_providers = Arc::new(trusted.map(|provider| provider.id.clone()).collect());
        let code_check = CodeCheck::new(second_factors.clone(), throttle.clone(), clock.clone());
        let federation_store: Arc<dyn FederationStore> = Arc::new(Invalidating {
            registry: federation.store,
            caches: caches.clone(),
            spawner: spawner.clone(),
        });
        let service_accounts: Arc<dyn ServiceAccountStore> = Arc::new(Invalidating {
            registry: service_accounts,
            caches: caches.clone(),
            spawner: spawner.clone(),
        });
        let registry =
            Arc::new(Invalidating { registry: clusters.registry, caches, spawner: spawner.clone() });
        let clusters = ClusterPorts { registry, ..clusters };
        let session_store: Arc<dyn SessionStore> = sessions;
        let user_rights =
            Arc::new(UserRights::new(rights.source.clone(), rights.roles.clone(), clock.clone()));
        let live_tokens =
            LiveTokens { store: api_tokens.clone(), clock: clock.clone(), rights: user_rights.clone() };
        let live = LiveSessions {
            store: session_store.clone(),
            clock: clock.clone(),
            idle: settings.lifetimes.idle,
            rights: user_rights,
        };
        let gate = Gate::new(
            audit_writer,
            Arc::new(RegistryNames(clusters.registry.clone())),
            clock.clone(),
            rng.clone(),
            spawner.clone(),
        )
        .with_sessions(Arc::new(live.clone()))
        .with_tokens(Arc::new(live_tokens.clone()))
        .with_step_up(settings.second_factor.step_up);
        let audit = Audit::new(gate.clone(), audit, clock.clone());
        let diagnoses = Diagnoses::new(gate.clone(), objects.diagnosis, objects.pods.clone(), clock.clone())
            .with_usage(objects.usage.clone());
        let sessions = Sessions {
            gate: gate.clone(),
            ports: SessionPorts { store: session_store.clone(), throttle: throttle.clone(), tokens: codec },
            live,
            verified: Arc::new(TtlCache::new(clock.clone())),
            users: users.clone(),
            hasher: hasher.clone(),
            factors: code_check.clone(),
            require_factor: settings.second_factor.require,
            initial: initial.clone(),
            clock: clock.clone(),
            rng: rng.clone(),
            lifetimes: settings.lifetimes,
        };
        let object_api = objects.objects;
        let any_objects =
            Objects::new(gate.clone(), object_api.clone()).with_masked_fields(masked_fields.clone());
        let fleet = Fleet::new(gate.clone(), objects.inventory.clone(), spawner.clone());
        Self {
            problems: Problems::new(fleet.clone(), audit.clone(), clusters.registry.clone(), clock.clone()),
            idempotency: Idempotency {
                store: idempotency,
                clock: clock.clone(),
                rng: rng.clone(),
                spawner: spawner.clone(),
            },
            audit: audit.clone(),
            second_factors: SecondFactors {
                gate: gate.clone(),
                ports: second_factors,
                check: code_check,
                sessions: session_store,
                throttle,
                users: users.clone(),
                clock: clock.clone(),
                rng: rng.clone(),
            },
            break_glass: BreakGlass {
                gate: gate.clone(),
                registry: rights.break_glass.clone(),
                source: rights.source.clone(),
                settings: Arc::new(settings.break_glass),
                clock: clock.clone(),
            },
            federation: Federation {
                providers: Arc::new(federation.providers),
                store: federation_store,
                sessions: sessions.clone(),
                spawner: spawner.clone(),
            },
            sessions,
            tokens: Tokens {
                gate: gate.clone(),
                store: api_tokens,
                live: live_tokens,
                accounts: service_accounts.clone(),
                users: users.clone(),
                require_factor: settings.second_factor.require,
                trusted_providers,
                clock: clock.clone(),
                rng: rng.clone(),
            },
            service_accounts: ServiceAccounts { gate: gate.clone(), store: service_accounts },
            grants: Grants {
                gate: gate.clone(),
                ports: rights.clone(),
                users: users.clone(),
                clock: clock.clone(),
            },
            users: Users { gate: gate.clone(), registry: users, hasher, initial, clock: clock.clone(), rng },
            clusters: Clusters::new(gate.clone(), clusters, clock.clone(), settings.allow_insecure_tls)
                .with_rights(rights),
            lists: Lists::new(gate.clone(), objects.inventory.clone()).with_usage(objects.usage.clone()),
            usage: UsageHistory::new(gate.clone(), objects.usage.clone(), clock.clone()),
            fleet,
            watches: Watches {
                gate: gate.clone(),
                inventory: objects.inventory.clone(),
                usage: Some(objects.usage),
                objects: Some(any_objects.clone()),
                spawner: spawner.clone(),
                streams: streams.clone(),
            },
            workload_logs: WorkloadLogs {
                gate: gate.clone(),
                inventory: objects.inventory,
                api: objects.pods.clone(),
                clock: clock.clone(),
                spawner: spawner.clone(),
                streams: streams.clone(),
            },
            objects: any_objects,
            namespaces: Namespaces::new(gate.clone(), objects.namespaces),
            compare: Compare::new(
                gate.clone(),
                objects.compare,
                objects.configs.clone(),
                objects.digest.clone(),
                spawner.clone(),
            )
            .with_masked_fields(masked_fields.clone()),
            rollouts: Rollouts {
                gate: gate.clone(),
                api: objects.rollouts,
                diagnoses: diagnoses.clone(),
                audit: Some(audit),
                spawner: spawner.clone(),
                streams: streams.clone(),
                masked_fields: masked_fields.clone(),
            },
            diagnoses,
            workloads: Workloads::new(gate.clone(), objects.workloads, clock)
                .with_masked_fields(masked_fields.clone()),
            jobs: Jobs::new(gate.clone(), objects.jobs),
            pod_changes: PodChanges::new(gate.clone(), objects.pod_changes),
            autoscalers: Autoscalers::new(gate.clone(), objects.autoscalers),
            nodes: Nodes::new(gate.clone(), objects.nodes),
            dependents: DependentReader::new(gate.clone(), object_api, objects.dependents),
            pods: Pods { gate: gate.clone(), api: objects.pods, spawner, streams: streams.clone() },
            configs: Configs::new(gate.clone(), objects.configs).with_masked_fields(masked_fields.clone()),
            secrets: Secrets::new(gate.clone(), objects.secrets, objects.digest)
                .with_masked_fields(masked_fields),
            streams,
            gate,
        }
    }
}
