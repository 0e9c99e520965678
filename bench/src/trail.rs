//! B10: the audit trail with a million rows on SQLite and PostgreSQL, through the ports of the store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use pilothouse_core::{
    audit::{AuditQuery, Checkpoint, CheckpointSink, OperationQuery, TrailReader as _},
    clock::Clock,
    ids::{ClusterId, OperationId, UserId},
    operation::{AuditWriter, Operation, Outcome},
    rng::uuid_v7,
    role::Role,
    seal::Keyring as _,
};
use pilothouse_crypto::{FileKeyring, MasterKey, SystemRng};
use pilothouse_store::{Database, Store, StoreDeps};
use pilothouse_testbed::Postgres;
use tokio::runtime::Handle;

use crate::{
    error::{BenchError, Result},
    measure::percentile,
    plan::Plan,
    process,
    report::{Section, short},
};

mod bare;

/// Number of users in the generated rows.
pub(crate) const USERS: usize = 20;
/// Time span of the generated rows, in days.
pub(crate) const DAYS: i64 = 30;
/// Number of concurrent callers that insert entries.
const CONCURRENT_CALLERS: usize = 256;
/// Calls per query.
const CALLS_PER_QUERY: usize = 200;

/// Checkpoint sink with one checkpoint. Rows written by the bare driver have no hash chain, so the store would not sign
/// them; this checkpoint covers them.
#[derive(Default)]
struct LastCheckpoint(Mutex<Option<Checkpoint>>);

impl LastCheckpoint {
    /// Signs the current head of the trail.
    async fn sign_head(&self, store: &Store, keyring: &FileKeyring, now: Timestamp) -> Result<()> {
        let (trail, head) = store.head().await?;
        let checkpoint = Checkpoint::sign(&*keyring.keys(&keyring.active())?.signer, &trail, head, now);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
        Ok(())
    }
}

impl CheckpointSink for LastCheckpoint {
    fn lines(
        &self,
    ) -> pilothouse_core::Result<Box<dyn Iterator<Item = pilothouse_core::Result<String>> + Send>> {
        Ok(Box::new(std::iter::empty()))
    }

    fn last(&self) -> pilothouse_core::Result<Option<Checkpoint>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn store(&self, _: &[String]) -> pilothouse_core::Result<()> {
        Ok(())
    }
}

/// B10.
pub(crate) async fn measure(plan: &Plan) -> Result<Section> {
    // the store runs in this process, so nothing is pinned
    process::unpin()?;
    let mut section = Section::new("B10", &format!("the audit trail at {} rows", plan.audit_rows));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pilothouse.db");
    measure_database(plan, &mut section, "SQLite", &Database::Sqlite(file.clone()), &bare::Sqlite(file))
        .await?;
    match Postgres::builder().durable(true).start_or_skip()? {
        None => section.paragraph("PostgreSQL is not available on this machine."),
        Some(postgres) => {
            let url = postgres.database()?;
            let bare = bare::Postgres(url.clone(), &postgres);
            measure_database(plan, &mut section, "PostgreSQL", &Database::parse(&url)?, &bare).await?;
        }
    }
    Ok(section)
}

async fn measure_database(
    plan: &Plan,
    section: &mut Section,
    name: &str,
    database: &Database,
    bare: &dyn bare::Driver,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rng = Arc::new(SystemRng);
    let key = folder.path().join("master.key");
    MasterKey::create(&key, &*rng)?;
    let (keyring, sink) =
        (Arc::new(FileKeyring::open(&key, None, rng.clone())?), Arc::new(LastCheckpoint::default()));
    let deps = StoreDeps {
        runtime: Handle::current(),
        clock: Arc::new(SystemClock(Instant::now())),
        rng,
        keyring: keyring.clone(),
        checkpoint_sink: sink.clone(),
    };
    let mut store = Store::open(database, deps.clone()).await?;
    let fill_started = Instant::now();
    bare.fill(plan.audit_rows, SystemClock(Instant::now()).now()).await?;
    eprintln!(
        "bench: {name} has {} rows after {:.1} s",
        plan.audit_rows,
        fill_started.elapsed().as_secs_f64()
    );

    let (mut store_rates, mut bare_rates) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds.min(3) {
        bare_rates.push(bare.insert(plan.audit_inserts, CONCURRENT_CALLERS).await?);
        sink.sign_head(&store, &keyring, deps.clock.now()).await?;
        // the store is opened again, so that it has no state of the previous trail
        store = Store::open(database, deps.clone()).await?;
        store_rates.push(insert(&store, &*deps.clock, plan.audit_inserts).await?);
    }
    let median_rate = |rates: &[f64]| crate::measure::median(rates);
    section.paragraph(format!(
        "**{name}**: {} entries per second through the store's port, with {CONCURRENT_CALLERS} callers, each of which waits \
         until its entry is durable; {} with the bare driver and {CONCURRENT_CALLERS} entries per transaction.",
        short(median_rate(&store_rates)),
        short(median_rate(&bare_rates))
    ));

    let now = deps.clock.now();
    let (from, to) = (now - Duration::from_secs(15 * 86_400), now - Duration::from_secs(14 * 86_400));
    let middle = (plan.audit_rows / 2).to_string();
    let deep = (plan.audit_rows / 2 / 50).to_string();
    let (from, to) = (from.to_string(), to.to_string());
    type Query<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);
    let queries: [Query<'_>; 6] = [
        ("first page", &[], true),
        ("first page of a user and a day", &[("username", "user-07"), ("from", &from), ("to", &to)], true),
        ("first page of a user", &[("username", "user-07")], true),
        ("first page of failed operations", &[("status", "failed")], true),
        ("next by cursor, from the middle", &[("before", &middle)], true),
        ("the middle page by its number", &[("page", &deep)], false),
    ];
    let mut table = vec![["", "rows", "first call ms", "p50 ms", "p99 ms"].map(str::to_owned).to_vec()];
    let mut verdicts = Vec::new();
    for (what, pairs, has_target) in queries {
        let mut pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        pairs.push(("per_page".into(), "50".into()));
        let query = OperationQuery::parse(&pairs).map_err(|error| BenchError::because(error.to_string()))?;
        let (mut times, mut total) = (Vec::new(), 0);
        for _ in 0..=if plan.smoke { 2 } else { CALLS_PER_QUERY } {
            let started = Instant::now();
            let page = store.operations(&query).await?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            total = page.pagination.total;
            if page.logs.is_empty() {
                return Err(BenchError::because(format!("{name}, {what}: no rows")));
            }
        }
        let expected = bare.count(&pairs).await?;
        if expected != total {
            return Err(BenchError::because(format!("{name}, {what}: {total} rows instead of {expected}")));
        }
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        let p50 = percentile(&times, 0.5);
        table.push(vec![
            what.into(),
            total.to_string(),
            short(first),
            short(p50),
            short(percentile(&times, 0.99)),
        ]);
        if has_target {
            verdicts.push((format!("{name}, {what}, p50"), p50));
        }
    }
    section.table(&table);
    section.at_least(
        &format!("{name}, inserts relative to the bare driver"),
        median_rate(&store_rates) / median_rate(&bare_rates),
        0.6,
        "×",
    );
    for (what, p50) in verdicts {
        section.verdict(&what, p50, 2.0, "ms");
    }
    Ok(())
}

/// Inserts entries through the store. Returns entries per second.
async fn insert(store: &Store, clock: &dyn Clock, count: usize) -> Result<f64> {
    let started = Instant::now();
    let caller = async |n: usize| -> Result<()> {
        for i in (n..count).step_by(CONCURRENT_CALLERS) {
            let operation = operation(i, clock.now());
            store.record(&operation, &Outcome::success(clock.now())).await?;
        }
        Ok(())
    };
    try_join_all((0..CONCURRENT_CALLERS).map(caller)).await?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

fn operation(i: usize, now: Timestamp) -> Operation {
    let user = i % USERS;
    Operation {
        id: OperationId(uuid_v7(now, &SystemRng)),
        operation_type: "scale".into(),
        resource_type: "deployment".into(),
        cluster_id: Some(ClusterId(1 + i as i64 % 50)),
        cluster_name: Some(format!("cluster-{:02}", i % 50)),
        namespace: Some(format!("team-{:03}", i % 100)),
        resource_name: Some(format!("deployment-{}", i % 1000)),
        user_id: Some(UserId(1 + user as i64)),
        username: format!("user-{user:02}"),
        role: Some(Role::OpsAdmin),
        grant_id: None,
        token_id: None,
        source_ip: None,
        request_id: Some(format!("request-{i}")),
        reason: None,
        params: BTreeMap::from([("replicas".to_owned(), 3.into())]),
        created_at: now,
    }
}

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.round(jiff::Unit::Microsecond).unwrap_or(now)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}
