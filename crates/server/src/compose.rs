//! The composition root: picks the adapters and hands them to the use cases.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    app::{App, Ports},
    clock::Clock,
    cluster::CachedClusters,
    streams::StreamLimits,
};
use pilothouse_crypto::{Argon2Hasher, FileKeyring, KeyError, MasterKey, SystemRng};
use pilothouse_http::{Hooks, ProcessMetrics, Readiness};
use pilothouse_kube::{KubeClusters, KubeSettings};
use pilothouse_store::{Database, Fingerprints, OpenError, Store, StoreDeps};
use tokio::{runtime::Handle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Fatal,
    checkpoint_file::CheckpointFile,
    config,
    durable::private_folder,
    initial_password::InitialPasswordFile,
    metrics::{Metrics, Scrape},
    prober::Prober,
    retention::Retention,
    runtime::{SystemClock, TrackedSpawner},
    settings::Settings,
    webhook::Webhook,
};

/// The use cases over real adapters, and what the process itself needs of these.
pub(crate) struct Composed {
    pub(crate) app: App,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keyring: Arc<FileKeyring>,
    pub(crate) spawner: Arc<TrackedSpawner>,
    rng: Arc<SystemRng>,
    metrics: Arc<Metrics>,
    lists: KubeClusters,
}

/// For `serve`: makes database and key when there are none, and the first admin when there is no user.
pub(crate) async fn for_serving(settings: &Settings) -> Result<Composed, Fatal> {
    private_folder(&settings.data_dir)
        .map_err(|source| Fatal::DataDir { path: settings.data_dir.display().to_string(), source })?;
    let database = settings.database()?;
    let key_file = settings.key_file();
    let known = Store::fingerprints(&database, &Handle::current()).await?;
    let mut made = false;
    if known.is_none() && !key_file.exists() {
        match MasterKey::create(&key_file, &SystemRng) {
            // another replica starts for the first time, too, and was faster
            Err(KeyError::Exists(_)) => {}
            created => made = created.map(|_| true)?,
        }
    }
    let keyring = keyring(&key_file, known.as_ref())?;
    let first = config::first_password(settings)?;
    let composed = compose(settings, &database, keyring).await;
    if made && matches!(composed, Err(Fatal::Store(OpenError::OtherKey))) {
        // a replica with a key file of its own was faster: ours belongs to nothing
        let _ = std::fs::remove_file(&key_file);
    }
    let composed = composed?;
    composed.store.take_lease(composed.clock.now()).await?;
    let closed = composed.app.gate.close_orphans().await?;
    if closed > 0 {
        tracing::warn!(closed, "{ORPHANS}");
    }
    composed.app.users.bootstrap(first).await?;
    Ok(composed)
}

/// For commands: only where `serve` has been, so that a mistyped directory is not filled.
pub(crate) async fn for_commands(settings: &Settings) -> Result<Composed, Fatal> {
    let database = settings.database()?;
    let known = known(&database).await?;
    compose(settings, &database, keyring(&settings.key_file(), Some(&known))?).await
}

/// What the database knows of its keys.
///
/// # Errors
/// `Fatal::Setting` when there is none.
pub(crate) async fn known(database: &Database) -> Result<Fingerprints, Fatal> {
    Store::fingerprints(database, &Handle::current()).await?.ok_or_else(|| {
        Fatal::Setting(format!(
            "there is no database at {database}: start `pilothouse serve` first, or set --data-dir to the right directory"
        ))
    })
}

/// The keys at `key_file`.
fn keyring(key_file: &Path, known: Option<&Fingerprints>) -> Result<Arc<FileKeyring>, Fatal> {
    let in_use = known.map(|known| known.current.as_str());
    Ok(Arc::new(FileKeyring::open(key_file, in_use, Arc::new(SystemRng))?))
}

async fn compose(
    settings: &Settings,
    database: &Database,
    keyring: Arc<FileKeyring>,
) -> Result<Composed, Fatal> {
    let runtime = Handle::current();
    // before the first row; a process that composes twice keeps the first key
    keyring.row_digests().share();
    let metrics = Metrics::new();
    let (clock, rng, spawner) = (SystemClock::new(), Arc::new(SystemRng), TrackedSpawner::new());
    let witness = Arc::new(CheckpointFile::new(settings.audit_checkpoint_file()));
    let deps = StoreDeps {
        runtime: runtime.clone(),
        clock: clock.clone(),
        rng: rng.clone(),
        keyring: keyring.clone(),
        witness: witness.clone(),
    };
    let store = Store::open(database, deps).await?.with_disk_reserve(settings.free_space_floor());
    let kube = KubeSettings {
        deadlines: settings.deadlines(),
        egress: settings.egress(database),
        observer: metrics.clone(),
        cache_settings: settings.cache_settings(),
        ..KubeSettings::default()
    };
    let kept = Arc::new(store.clone());
    // one memory for all who ask for a cluster or change one
    let registered =
        Arc::new(CachedClusters::new(kept.clone(), kept.clone(), clock.clone(), spawner.clone()));
    let lists = KubeClusters::new(kube, registered.clone(), clock.clone());
    let clusters = Arc::new(lists.clone());
    let ports = Ports {
        clock: clock.clone(),
        rng: rng.clone(),
        spawner: spawner.clone(),
        audit: kept.clone(),
        trail: kept.clone(),
        signer: keyring.clone(),
        retention: kept.clone(),
        witness,
        users: kept.clone(),
        sessions: kept.clone(),
        throttle: kept.clone(),
        idempotency: kept,
        hasher: Arc::new(Argon2Hasher::new(runtime, rng.clone())),
        initial_password: Arc::new(InitialPasswordFile::new(settings)),
        tokens: keyring.clone(),
        clusters: registered.clone(),
        connections: registered,
        probe: clusters.clone(),
        inventory: clusters.clone(),
        namespaces: clusters.clone(),
        workloads: clusters.clone(),
        pods: clusters.clone(),
        configs: clusters.clone(),
        secrets: clusters,
        digest: keyring.clone(),
    };
    let rules = pilothouse_core::app::Settings {
        lifetimes: settings.lifetimes(),
        allow_insecure_tls: settings.allow_insecure_tls,
        streams: StreamLimits::default(),
    };
    Ok(Composed { app: App::new(ports, rules), store, clock, keyring, spawner, rng, metrics, lists })
}

impl Composed {
    /// What the HTTP server asks and tells us. Ready is whoever can use the database; key and migrations were checked at
    /// the start.
    pub(crate) fn hooks(&self) -> Hooks {
        let readiness = Arc::new(DatabaseAnswers(self.store.clone()));
        Hooks { readiness, observer: self.metrics.clone() }
    }

    /// What Prometheus reads.
    pub(crate) fn metrics(&self, settings: &Settings) -> Arc<dyn ProcessMetrics> {
        Arc::new(Scrape {
            metrics: self.metrics.clone(),
            store: self.store.clone(),
            gate: self.app.gate.clone(),
            clock: self.clock.clone(),
            lists: self.lists.clone(),
            webhook: settings.webhook().is_some(),
        })
    }

    /// Who tells the audit webhook, if there is one.
    ///
    /// # Errors
    /// `Fatal::Setting` when its certificates cannot be used.
    pub(crate) fn webhook(&self, settings: &Settings) -> Result<Option<Webhook>, Fatal> {
        let Some(webhook) = settings.webhook() else { return Ok(None) };
        let failures = self.metrics.webhook_failures.clone();
        Webhook::new(webhook, self.store.clone(), self.clock.clone(), self.rng.clone(), failures).map(Some)
    }

    /// Who removes what is old of the audit trail.
    ///
    /// # Errors
    /// `Fatal::Setting` when the folder that it is kept in cannot be made.
    pub(crate) fn retention(&self, settings: &Settings) -> Result<Retention, Fatal> {
        let folder = settings.audit_archive_dir.clone();
        if let Some(folder) = &folder {
            private_folder(folder).map_err(|error| {
                Fatal::Setting(format!(
                    "cannot use the directory {} of audit_archive_dir: {error}",
                    folder.display()
                ))
            })?;
        }
        let webhook = settings.webhook().is_some();
        Ok(Retention { audit: self.app.audit.clone(), store: self.store.clone(), folder, webhook })
    }

    /// Says that this process lives, and closes what others that no longer do left pending, until `end`: that is when
    /// nothing of it runs any more.
    pub(crate) fn keep_lease(&self, end: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (gate, store, clock) = (self.app.gate.clone(), self.store.clone(), self.clock.clone());
        async move {
            let mut ticks = tokio::time::interval(RENEW_LEASE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = end.cancelled() => break,
                }
                match store.renew_lease(clock.now()).await {
                    Ok(()) => match gate.close_orphans().await {
                        Ok(0) => {}
                        Ok(closed) => tracing::warn!(closed, "{ORPHANS}"),
                        Err(error) => {
                            tracing::warn!(%error, "cannot close the pending operations of ended processes")
                        }
                    },
                    Err(error) => tracing::warn!(%error, "cannot renew the lease"),
                }
            }
            if let Err(error) = store.end_lease().await {
                tracing::warn!(%error, "cannot release the lease; it will expire");
            }
        }
    }

    /// Who keeps the clusters' status fresh.
    pub(crate) fn prober(&self, settings: &Settings) -> Prober {
        Prober {
            clusters: self.app.clusters.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            interval: settings.probe_interval().max(settings.deadlines().test),
        }
    }
}

/// How often a replica says that it lives: thrice in a lease.
const RENEW_LEASE: Duration = Duration::from_secs(5);

/// What the log says of operations closed for others.
const ORPHANS: &str = "pending operations of an ended process are now unknown";

struct DatabaseAnswers(Store);

#[async_trait]
impl Readiness for DatabaseAnswers {
    async fn ready(&self) -> Result<()> {
        self.0.ping().await
    }
}
