//! Composition root: builds the adapters and passes them to the use cases.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    app::{App, FederationPorts, ObjectPorts, Ports, RuntimePorts, UserPorts},
    audit::AuditPorts,
    clock::Clock,
    cluster::{CachedClusters, ClusterPorts},
    coordinator::Coordinator,
    grant::RightsPorts,
    name::ProviderId,
    provider::Provider,
    second_factor::SecondFactorPorts,
    streams::StreamLimits,
};
use pilothouse_crypto::{Argon2Hasher, FileKeyring, KeyError, MasterKey, Rfc6238Codec, SystemRng};
use pilothouse_http::{Hooks, ProcessMetrics, Readiness};
use pilothouse_kube::{KubeClusters, KubeSettings};
use pilothouse_store::{Database, Fingerprints, OpenError, Store, StoreDeps};
use tokio::runtime::Handle;

use crate::{
    Fatal,
    checkpoint_file::CheckpointFile,
    config,
    confirmer::Confirmer,
    durable::private_directory,
    identity,
    initial_password::InitialPasswordFile,
    lease::{LeaseKeeper, close_orphans},
    metrics::{Metrics, Scrape},
    prober::Prober,
    retention::Retention,
    runtime::{SystemClock, TrackedSpawner},
    settings::Settings,
    webhook::{HttpReceiver, Webhook},
};

/// The use cases over real adapters, and the adapters that the process itself uses.
pub(crate) struct Composed {
    pub(crate) app: App,
    pub(crate) store: Store,
    /// The leases and claims of this process in `store`.
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keyring: Arc<FileKeyring>,
    pub(crate) spawner: Arc<TrackedSpawner>,
    rng: Arc<SystemRng>,
    metrics: Arc<Metrics>,
    lists: KubeClusters,
}

/// Composition for `serve`: creates the database and the master key when neither exists, and the first admin when there
/// is no user.
pub(crate) async fn for_serving(settings: &Settings) -> Result<Composed, Fatal> {
    private_directory(&settings.data_dir)
        .map_err(|source| Fatal::DataDir { path: settings.data_dir.display().to_string(), source })?;
    let database = settings.database()?;
    let identity = identity::providers(settings)?;
    let key_file = settings.key_file();
    let fingerprints = Store::fingerprints(&database, &Handle::current()).await?;
    let mut created_key = false;
    if fingerprints.is_none() && !key_file.exists() {
        match MasterKey::create(&key_file, &SystemRng) {
            // another replica created it at the same time
            Err(KeyError::Exists(_)) => {}
            created => created_key = created.map(|_| true)?,
        }
    }
    let keyring = keyring(&key_file, fingerprints.as_ref())?;
    let initial_password = config::initial_password(settings)?;
    let composed = compose(settings, &database, keyring, identity.providers).await;
    if created_key && matches!(composed, Err(Fatal::Store(OpenError::OtherKey))) {
        // a replica with its own key file initialised the database first: the key created here is unused
        let _ = std::fs::remove_file(&key_file);
    }
    let composed = composed?;
    if !composed.coordinator.take_lease(composed.clock.now()).await? {
        return Err(Fatal::InUse(database.to_string()));
    }
    for binding in &identity.bindings {
        composed.app.federation.bind(binding).await?;
    }
    close_orphans(&composed.app.audit).await?;
    composed.app.users.bootstrap(initial_password).await?;
    Ok(composed)
}

/// Composition for commands, without identity providers. Requires an existing database, so that a mistyped directory is
/// not initialised.
pub(crate) async fn for_commands(settings: &Settings) -> Result<Composed, Fatal> {
    let database = settings.database()?;
    let fingerprints = fingerprints(&database).await?;
    let keyring = keyring(&settings.key_file(), Some(&fingerprints))?;
    compose(settings, &database, keyring, BTreeMap::new()).await
}

/// Fingerprints of the master keys that the database is sealed with.
///
/// # Errors
/// `Fatal::Setting` when there is no database.
pub(crate) async fn fingerprints(database: &Database) -> Result<Fingerprints, Fatal> {
    Store::fingerprints(database, &Handle::current()).await?.ok_or_else(|| {
        Fatal::Setting(format!(
            "there is no database at {database}: start `pilothouse serve` first, or set --data-dir to the right directory"
        ))
    })
}

/// Opens the master keys at `key_file`.
fn keyring(key_file: &Path, fingerprints: Option<&Fingerprints>) -> Result<Arc<FileKeyring>, Fatal> {
    let active = fingerprints.map(|fingerprints| fingerprints.active.as_str());
    Ok(Arc::new(FileKeyring::open(key_file, active, Arc::new(SystemRng))?))
}

async fn compose(
    settings: &Settings,
    database: &Database,
    keyring: Arc<FileKeyring>,
    providers: BTreeMap<ProviderId, Provider>,
) -> Result<Composed, Fatal> {
    let runtime = Handle::current();
    // must precede the first digest of a row; a process that composes twice keeps the key of the first call
    keyring.row_digests().share();
    let metrics = Metrics::new();
    let (clock, rng, spawner) = (SystemClock::new(), Arc::new(SystemRng), TrackedSpawner::new());
    let checkpoint_sink = Arc::new(CheckpointFile::new(settings.audit_checkpoint_file()));
    let deps = StoreDeps {
        runtime: runtime.clone(),
        clock: clock.clone(),
        rng: rng.clone(),
        keyring: keyring.clone(),
        checkpoint_sink: checkpoint_sink.clone(),
    };
    let store = Store::open(database, deps).await?.with_disk_reserve(settings.free_space_floor());
    let kube = KubeSettings {
        deadlines: settings.deadlines(),
        egress: settings.egress(database),
        observer: metrics.clone(),
        cache_settings: settings.cache_settings(),
        ..KubeSettings::default()
    };
    let store_port = Arc::new(store.clone());
    // one cache for all users of the cluster registry, so that a change invalidates the entry that reads use
    let cached_clusters =
        Arc::new(CachedClusters::new(store_port.clone(), store_port.clone(), clock.clone(), spawner.clone()));
    let lists = KubeClusters::new(kube, cached_clusters.clone(), clock.clone());
    let clusters = Arc::new(lists.clone());
    let ports = Ports {
        runtime: RuntimePorts { clock: clock.clone(), rng: rng.clone(), spawner: spawner.clone() },
        audit_writer: store_port.clone(),
        audit: AuditPorts {
            query: store_port.clone(),
            maintenance: store_port.clone(),
            reader: store_port.clone(),
            pruner: store_port.clone(),
            signer: keyring.clone(),
            checkpoint_sink,
        },
        users: UserPorts {
            registry: store_port.clone(),
            sessions: store_port.clone(),
            throttle: store_port.clone(),
            hasher: Arc::new(Argon2Hasher::new(runtime, rng.clone())),
            initial_password: Arc::new(InitialPasswordFile::new(settings)),
            tokens: keyring.clone(),
            api_tokens: store_port.clone(),
            service_accounts: store_port.clone(),
            second_factors: SecondFactorPorts { store: store_port.clone(), codec: Arc::new(Rfc6238Codec) },
        },
        federation: FederationPorts { providers, store: store_port.clone() },
        rights: RightsPorts {
            source: store_port.clone(),
            roles: store_port.clone(),
            grants: store_port.clone(),
            requests: store_port.clone(),
            break_glass: store_port.clone(),
        },
        clusters: ClusterPorts {
            registry: cached_clusters.clone(),
            connections: cached_clusters,
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
            objects: clusters.clone(),
            secrets: clusters,
            digest: keyring.clone(),
        },
        idempotency: store_port.clone(),
    };
    let coordinator: Arc<dyn Coordinator> = store_port;
    let rules = pilothouse_core::app::AppSettings {
        lifetimes: settings.lifetimes(),
        allow_insecure_tls: settings.allow_insecure_tls,
        streams: StreamLimits::default(),
        masked_fields: settings.masked_fields.clone().unwrap_or_default(),
        second_factor: settings.second_factor(),
        break_glass: settings.break_glass(),
    };
    let app = App::new(ports, rules);
    Ok(Composed { app, store, coordinator, clock, keyring, spawner, rng, metrics, lists })
}

impl Composed {
    /// Readiness check and observer of the HTTP server. Ready means that the database responds; master key and
    /// migrations were checked at the start.
    pub(crate) fn hooks(&self) -> Hooks {
        let readiness = Arc::new(DatabaseReadiness(self.store.clone()));
        Hooks { readiness, observer: self.metrics.clone() }
    }

    /// The values that the metrics endpoint returns.
    pub(crate) fn metrics(&self, settings: &Settings) -> Arc<dyn ProcessMetrics> {
        Arc::new(Scrape {
            metrics: self.metrics.clone(),
            monitor: Arc::new(self.store.clone()),
            coordinator: self.coordinator.clone(),
            gate: self.app.gate.clone(),
            clock: self.clock.clone(),
            lists: self.lists.clone(),
            webhook: settings.webhook().is_some(),
        })
    }

    /// The webhook delivery task; `None` without a webhook.
    ///
    /// # Errors
    /// `Fatal::Setting` when the file of CA certificates cannot be used.
    pub(crate) fn webhook(&self, settings: &Settings) -> Result<Option<Webhook>, Fatal> {
        let Some(webhook) = settings.webhook() else { return Ok(None) };
        let failures = self.metrics.webhook_failures.clone();
        Ok(Some(Webhook {
            receiver: Arc::new(HttpReceiver::new(webhook, self.clock.clone())?),
            coordinator: self.coordinator.clone(),
            trail: Arc::new(self.store.clone()),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            failures,
        }))
    }

    /// The retention task, which removes old entries of the audit trail.
    ///
    /// # Errors
    /// `Fatal::Setting` when the archive directory cannot be created.
    pub(crate) fn retention(&self, settings: &Settings) -> Result<Retention, Fatal> {
        let directory = settings.audit_archive_dir.clone();
        if let Some(directory) = &directory {
            private_directory(directory).map_err(|error| {
                Fatal::Setting(format!(
                    "cannot use the directory {} of audit_archive_dir ({error}): allow this user to write to it",
                    directory.display()
                ))
            })?;
        }
        let webhook = settings.webhook().is_some();
        Ok(Retention {
            audit: self.app.audit.clone(),
            coordinator: self.coordinator.clone(),
            directory,
            webhook,
        })
    }

    /// The lease task.
    pub(crate) fn lease_keeper(&self) -> LeaseKeeper {
        LeaseKeeper {
            coordinator: self.coordinator.clone(),
            audit: self.app.audit.clone(),
            clock: self.clock.clone(),
        }
    }

    /// The task that reads users of identity providers again.
    pub(crate) fn confirmer(&self) -> Confirmer {
        Confirmer { federation: self.app.federation.clone() }
    }

    /// The probe task of the clusters.
    pub(crate) fn prober(&self, settings: &Settings) -> Prober {
        Prober {
            clusters: self.app.clusters.clone(),
            coordinator: self.coordinator.clone(),
            clock: self.clock.clone(),
            interval: settings.probe_interval.unsigned_abs().max(settings.deadlines().test),
        }
    }
}

/// [`Readiness`] by a query to the database.
struct DatabaseReadiness(Store);

#[async_trait]
impl Readiness for DatabaseReadiness {
    async fn ready(&self) -> Result<()> {
        self.0.ping().await
    }
}
