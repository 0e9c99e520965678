//! The composition root: picks the adapters and hands them to the use cases.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    app::{App, Ports},
    clock::Clock,
    streams::StreamLimits,
};
use pilothouse_crypto::{
    AesSealer, Argon2Hasher, Ed25519Signer, JwtCodec, KeyError, KeyedDigest, MasterKey, OsEntropy,
};
use pilothouse_http::{Figures, Hooks, Readiness};
use pilothouse_kube::{EgressRules, KubeClusters, KubeSettings};
use pilothouse_store::{Database, Lent, OpenError, Store};
use tokio::{runtime::Handle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Fatal,
    checkpoint_file::CheckpointFile,
    config,
    initial_password::Handover,
    lent::{SystemClock, TrackedTasks},
    metrics::{Metrics, Scrape},
    prober::Prober,
    settings::Settings,
};

/// The use cases over real adapters, and what the process itself needs of these.
pub(crate) struct Composed {
    pub(crate) app: App,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Arc<TrackedTasks>,
    metrics: Arc<Metrics>,
}

/// For `serve`: makes database and key when there are none, and the first admin when there is no user.
pub(crate) async fn for_serving(settings: &Settings) -> Result<Composed, Fatal> {
    private_folder(&settings.data_dir)
        .map_err(|source| Fatal::DataDir { path: settings.data_dir.display().to_string(), source })?;
    let database = settings.database()?;
    let key_file = settings.key_file();
    let known = Store::fingerprint(&database, &Handle::current()).await?.is_some();
    let (key, made) = if known || key_file.exists() {
        (MasterKey::load(&key_file)?, false)
    } else {
        match MasterKey::create(&key_file, &OsEntropy) {
            // another replica starts for the first time, too, and was faster
            Err(KeyError::Exists(_)) => (MasterKey::load(&key_file)?, false),
            created => (created?, true),
        }
    };
    let first = config::first_password(settings)?;
    let composed = compose(settings, &database, &key).await;
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
pub(crate) async fn for_commands(settings: &Settings) -> Result<App, Fatal> {
    let database = settings.database()?;
    if Store::fingerprint(&database, &Handle::current()).await?.is_none() {
        return Err(Fatal::Setting(format!(
            "there is no database at {database}: start `pilothouse serve` first, or name the right --data-dir"
        )));
    }
    let key = MasterKey::load(&settings.key_file())?;
    Ok(compose(settings, &database, &key).await?.app)
}

/// A folder that only its owner can enter.
fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

async fn compose(settings: &Settings, database: &Database, key: &MasterKey) -> Result<Composed, Fatal> {
    let runtime = Handle::current();
    let metrics = Metrics::new();
    let (clock, entropy, tasks) = (SystemClock::new(), Arc::new(OsEntropy), TrackedTasks::new());
    let signer = Arc::new(Ed25519Signer::new(key));
    let lent = Lent {
        runtime: runtime.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        sealer: Arc::new(AesSealer::new(key, entropy.clone())),
        signer: signer.clone(),
    };
    let store = Store::open(database, lent, &key.fingerprint()).await?;
    let kube = KubeSettings {
        deadlines: settings.deadlines(),
        egress: EgressRules { allow_loopback: settings.egress_allow_loopback },
        observer: metrics.clone(),
        ..KubeSettings::default()
    };
    let kept = Arc::new(store.clone());
    let clusters = Arc::new(KubeClusters::new(kube, kept.clone(), clock.clone()));
    let ports = Ports {
        clock: clock.clone(),
        entropy: entropy.clone(),
        tasks: tasks.clone(),
        audit: kept.clone(),
        trail: kept.clone(),
        signer,
        witness: Arc::new(CheckpointFile::new(settings.audit_checkpoint_file())),
        users: kept.clone(),
        sessions: kept.clone(),
        throttle: kept.clone(),
        idempotency: kept.clone(),
        hasher: Arc::new(Argon2Hasher::new(runtime, entropy.clone())),
        initial_password: Arc::new(Handover::new(settings)),
        tokens: Arc::new(JwtCodec::new(key, entropy)),
        clusters: kept.clone(),
        connections: kept,
        probe: clusters.clone(),
        inventory: clusters.clone(),
        namespaces: clusters.clone(),
        workloads: clusters.clone(),
        pods: clusters.clone(),
        configs: clusters.clone(),
        secrets: clusters,
        digest: Arc::new(KeyedDigest::new(key)),
    };
    let rules = pilothouse_core::app::Settings {
        lifetimes: settings.lifetimes(),
        allow_insecure_tls: settings.allow_insecure_tls,
        streams: StreamLimits::default(),
    };
    Ok(Composed { app: App::new(ports, rules), store, clock, tasks, metrics })
}

impl Composed {
    /// What the HTTP server asks and tells us. Ready is whoever can use the database; key and migrations were checked at
    /// the start.
    pub(crate) fn hooks(&self) -> Hooks {
        let readiness = Arc::new(DatabaseAnswers(self.store.clone()));
        Hooks { readiness, observer: self.metrics.clone() }
    }

    /// What Prometheus reads.
    pub(crate) fn figures(&self) -> Arc<dyn Figures> {
        Arc::new(Scrape {
            metrics: self.metrics.clone(),
            store: self.store.clone(),
            gate: self.app.gate.clone(),
            clock: self.clock.clone(),
        })
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
                        Err(error) => tracing::warn!(%error, "cannot close orphans"),
                    },
                    Err(error) => tracing::warn!(%error, "cannot renew the lease"),
                }
            }
            if let Err(error) = store.end_lease().await {
                tracing::warn!(%error, "cannot end the lease; it runs out");
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
const ORPHANS: &str = "operations that an ended process left pending are now unknown";

struct DatabaseAnswers(Store);

#[async_trait]
impl Readiness for DatabaseAnswers {
    async fn ready(&self) -> Result<()> {
        self.0.ping().await
    }
}
