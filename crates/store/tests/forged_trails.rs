//! Forged audit trails: an attacker with write access to the database changes the history. The server must not sign it.
//! Tested on both databases, beside a running server and before its restart, with and without the checkpoint file.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{FINGERPRINT, FakeKeyring, TestDatabase, operation};
use futures_util::future::{BoxFuture, join_all};
use pilothouse_core::{
    Cause, Error, Result,
    access::Caller,
    app::{App, AppSettings},
    audit::{
        AuditMaintenance as _, AuditPorts, ChainHash, Checkpoint, CheckpointSigner as _, CheckpointSink,
        ExportQuery, Fault, Head, KeyRotation, PublicKey, Signatures, TrailReader as _, verify_export,
    },
    clock::Clock as _,
    hex::Hex,
    monitor::StoreMonitor as _,
    operation::{AuditWriter as _, Entry, Outcome},
    spawn::{Computation, Spawner},
    testing::{
        contract::StorePorts,
        fake::{Fake, FakeSigner},
        permit,
    },
};
use pilothouse_store::{Database, Store, StoreDeps};

/// Spawns tasks on the runtime that drives the connections of the store.
struct OnRuntime;

#[async_trait]
impl Spawner for OnRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal(error.to_string()))
    }
}

fn ports(store: &Store) -> StorePorts {
    StorePorts::over(Arc::new(store.clone()))
}

/// The use cases on a store, with its checkpoint sink.
fn app(db: &TestDatabase, store: &Store) -> App {
    let store = Arc::new(store.clone());
    let mut ports = Fake::default().ports();
    ports.runtime.clock = db.clock.clone();
    ports.runtime.spawner = Arc::new(OnRuntime);
    ports.audit_writer = store.clone();
    ports.audit = AuditPorts {
        query: store.clone(),
        maintenance: store.clone(),
        reader: store.clone(),
        pruner: store.clone(),
        signer: Arc::new(FakeKeyring::signer(FINGERPRINT)),
        checkpoint_sink: db.checkpoint_sink.clone(),
    };
    ports.clusters.registry = store;
    App::new(ports, AppSettings::default())
}

/// A store with `count` operations, all of them signed.
async fn filled_store(db: &TestDatabase, count: usize) -> (Store, App) {
    let store = db.open().await;
    let (ports, app) = (ports(&store), app(db, &store));
    // the first entry is signed at once
    work(db, &store, &ports, 1).await;
    work(db, &store, &ports, count - 1).await;
    db.clock.advance(Checkpoint::AGE);
    app.audit.update_checkpoints(Checkpoint::AGE).await.unwrap();
    (store, app)
}

async fn work(db: &TestDatabase, store: &Store, ports: &StorePorts, count: usize) {
    let at = db.clock.now();
    let all = (0..count).map(|_| operation(ports)).map(async |mut operation| {
        operation.created_at = at;
        store.record(&operation, &Outcome::success(at)).await.unwrap();
    });
    join_all(all).await;
}

/// Drops the triggers that protect the trail against changes.
async fn unlock(db: &TestDatabase) {
    for (table, is) in [("audit_log", "is"), ("audit_checkpoints", "are"), ("audit_handovers", "are")] {
        for what in ["changed", "cut"] {
            let on = if matches!(db.database, Database::Sqlite(_)) {
                String::new()
            } else {
                format!(" ON {table}")
            };
            db.execute(&format!("DROP TRIGGER {table}_{is}_never_{what}{on}")).await.unwrap();
        }
    }
}

fn bytes(db: &TestDatabase, hash: &ChainHash) -> String {
    let hex = hash.to_string();
    if matches!(db.database, Database::Sqlite(_)) { format!("x'{hex}'") } else { format!("'\\x{hex}'") }
}

/// The way in which a history is forged.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    /// All checkpoints are removed. The trail is short enough not to require another one.
    NoCheckpoints,
    /// All checkpoints except the first one, which is authentic, are removed.
    AllButFirst,
    /// All checkpoints are signed by the attacker's key, and the last entry of the trail claims a key rotation from
    /// that key to the installation's.
    AttackerKey,
}

const ATTACKER_KEY: PublicKey = Hex([9; 32]);

/// Replaces a name in every entry, or in all after the first one. Recomputes all hashes and updates the rows of the
/// lists.
async fn forge(db: &TestDatabase, store: &Store, forgery: Forgery) {
    unlock(db).await;
    let (trail, _) = store.head().await.unwrap();
    let attacker = FakeSigner::of(ATTACKER_KEY);
    let kept = i64::from(matches!(forgery, Forgery::AllButFirst));
    let mut head = Head::NONE;
    let mut statements = Vec::new();
    let checkpoints = store.checkpoints(0, 1_000).await.unwrap();
    let mut signed = Vec::new();
    for stored in store.entries(0, 10_000).await.unwrap() {
        let text =
            if stored.sequence <= kept { stored.text } else { stored.text.replace("\"web\"", "\"bew\"") };
        head = head.then(&text);
        let (text, hash) = (text.replace('\'', "''"), bytes(db, &head.hash));
        statements.push(format!(
            "UPDATE audit_log SET body = '{text}', hash = {hash} WHERE seq = {}",
            head.sequence
        ));
        if checkpoints.iter().any(|checkpoint| checkpoint.sequence == head.sequence) {
            let line = Checkpoint::sign(&attacker, &trail, head, db.clock.now()).line().unwrap();
            signed
                .push(format!("UPDATE audit_checkpoints SET line = '{line}' WHERE seq = {}", head.sequence));
        }
    }
    statements.push(format!(
        "UPDATE operations SET resource_name = 'bew', searched = 'bew' WHERE resource_name = 'web' AND id > {kept}"
    ));
    match forgery {
        Forgery::NoCheckpoints => statements.push("DELETE FROM audit_checkpoints".to_owned()),
        Forgery::AllButFirst => statements.push("DELETE FROM audit_checkpoints WHERE seq > 1".to_owned()),
        Forgery::AttackerKey => {
            statements.extend(signed);
            let access = KeyRotation::access(&ATTACKER_KEY, &FakeKeyring::signer(FINGERPRINT).public_key());
            let mut rekey = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
            rekey.created_at = db.clock.now();
            let outcome = Outcome::success(rekey.created_at);
            let (id, params) = (rekey.id, rekey.summary().unwrap());
            let text = Entry::Complete { operation: rekey, outcome }.canonical().unwrap();
            head = head.then(&text);
            let micros = db.clock.now().as_microsecond();
            let at = if matches!(db.database, Database::Sqlite(_)) {
                micros.to_string()
            } else {
                format!("to_timestamp({micros}::numeric / 1000000)")
            };
            statements.push(format!(
                "INSERT INTO audit_log (seq, operation_id, entry, at, body, hash) \
                 VALUES ({}, '{id}', 'complete', {at}, '{text}', {})",
                head.sequence,
                bytes(db, &head.hash)
            ));
            statements.push(format!(
                "INSERT INTO operations (operation_id, instance, operation_type, resource_type, searched, username, \
                 status, details, duration_ms, created_at, finished_at) VALUES ('{id}', 'x', 'rekey', 'master_key', '', \
                 'cli:ann', 'success', '{params}', 0, {at}, {at})"
            ));
            let rotation = KeyRotation {
                next: FakeKeyring::signer(FINGERPRINT).public_key(),
                ..KeyRotation::sign(&attacker, &trail, head, ATTACKER_KEY)
            };
            statements.push(format!(
                "INSERT INTO audit_handovers (seq, line) VALUES ({}, '{}')",
                head.sequence,
                rotation.line().unwrap()
            ));
        }
    }
    statements.push(format!(
        "UPDATE audit_head SET seq = {}, hash = {}",
        head.sequence,
        bytes(db, &head.hash)
    ));
    db.execute(&statements.join("; ")).await.unwrap();
}

/// Asserts that nothing is signed, verification fails, and exports are refused.
async fn assert_not_signed(db: &TestDatabase, store: &Store, app: &App, what: &str) {
    let key = FakeKeyring::signer(FINGERPRINT).public_key();
    let before = store.checkpoints(0, 1_000).await.unwrap().len();
    let ports = ports(store);
    for _ in 0..3 {
        db.clock.advance(Checkpoint::AGE * 2);
        work(db, store, &ports, 2).await;
        app.audit.update_checkpoints(Checkpoint::AGE).await.unwrap_err();
    }
    app.audit.update_checkpoints(Duration::ZERO).await.unwrap_err();
    let after = store.checkpoints(0, 1_000).await.unwrap();
    assert_eq!(after.len(), before, "{what}: something was signed");
    let signer = FakeKeyring::signer(FINGERPRINT);
    let (_, head) = store.head().await.unwrap();
    assert!(
        after
            .iter()
            .filter_map(|stored| Checkpoint::parse(&stored.line))
            .all(|one| { one.sequence < head.sequence - 3 || !one.is_signed_by(&key, &signer) }),
        "{what}"
    );
    assert!(!store.is_audit_signed(), "{what}");
    assert!(!app.audit.verify(&Caller::system()).await.unwrap().valid, "{what}");
    let refused = app.audit.export(&Caller::system(), ExportQuery::default()).await.map(drop).unwrap_err();
    assert_eq!(refused.cause, Cause::Internal, "{what}: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_server_does_not_sign_forged_history() {
    for forgery in [Forgery::NoCheckpoints, Forgery::AllButFirst, Forgery::AttackerKey] {
        for with_file in [true, false] {
            for db in TestDatabase::all() {
                let (store, app) = filled_store(&db, 40).await;
                forge(&db, &store, forgery).await;
                if !with_file {
                    db.checkpoint_sink.clear();
                }
                assert_not_signed(&db, &store, &app, &format!("{forgery:?}, file: {with_file}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_server_does_not_sign_forged_history() {
    let cases = [(Forgery::NoCheckpoints, true), (Forgery::AllButFirst, true), (Forgery::AttackerKey, true)];
    for (forgery, with_file) in
        cases.into_iter().chain([(Forgery::NoCheckpoints, false), (Forgery::AttackerKey, false)])
    {
        for db in TestDatabase::all() {
            let (store, _) = filled_store(&db, 40).await;
            forge(&db, &store, forgery).await;
            drop(store);
            if !with_file {
                db.checkpoint_sink.clear();
            }
            let started = db.open().await;
            let app = app(&db, &started);
            assert_not_signed(&db, &started, &app, &format!("{forgery:?}, file: {with_file}")).await;
        }
    }
}

/// An older database is restored, while the server runs or before its start: entries that are appended to it are not
/// signed.
#[tokio::test(flavor = "multi_thread")]
async fn truncated_trail_is_not_signed() {
    for db in TestDatabase::all() {
        let (store, first_app) = filled_store(&db, 40).await;
        unlock(&db).await;
        let kept = store.entries(29, 1).await.unwrap().remove(0);
        let hash = ChainHash(kept.hash.as_slice().try_into().unwrap());
        let cut = format!(
            "DELETE FROM audit_log WHERE seq > 30; DELETE FROM operations WHERE id > 30; \
             DELETE FROM audit_checkpoints WHERE seq > 30; UPDATE audit_head SET seq = 30, hash = {}",
            bytes(&db, &hash)
        );
        db.execute(&cut).await.unwrap();
        assert_not_signed(&db, &store, &first_app, "beside the running server").await;
        drop(store);
        let started = db.open().await;
        assert_not_signed(&db, &started, &app(&db, &started), "with the checkpoint file").await;

        // after a deliberate restore the operator moves the checkpoint file away, and the server continues the restored
        // trail
        db.checkpoint_sink.clear();
        let restored = db.open().await;
        let app = app(&db, &restored);
        let newest = restored.checkpoints(0, 1_000).await.unwrap().pop().unwrap().sequence;
        assert!(newest <= 30);
        app.audit.update_checkpoints(Duration::ZERO).await.unwrap();
        assert!(restored.is_audit_signed());
        let (_, head) = restored.head().await.unwrap();
        assert_eq!(db.checkpoint_sink.last().unwrap().unwrap().sequence, head.sequence);
    }
}

/// A command has no verified state. Without the checkpoint file, it exports only with `--no-witness`.
#[tokio::test(flavor = "multi_thread")]
async fn command_without_checkpoint_file_exports_only_with_the_no_witness_option() {
    for db in TestDatabase::all() {
        let (store, first_app) = filled_store(&db, 40).await;
        db.clock.advance(Checkpoint::AGE);
        work(&db, &store, &ports(&store), 1).await;
        db.checkpoint_sink.clear();
        let export = async |audit: &pilothouse_core::audit::Audit| {
            audit.export(&Caller::system(), ExportQuery::default()).await.map(drop)
        };
        export(&first_app.audit).await.unwrap();
        let command = app(&db, &db.open().await).audit;
        let refused = export(&command).await.unwrap_err();
        assert_eq!(refused.cause, Cause::Internal, "{refused}");
        export(&app(&db, &db.open().await).audit.without_checkpoint_sink()).await.unwrap();
    }
}

/// If the checkpoint file cannot be read, nothing is signed, because its contents are unknown. Entries are recorded
/// nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_checkpoint_file_prevents_signing() {
    struct Unreadable;

    impl CheckpointSink for Unreadable {
        fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
            Err(Error::internal("permission denied"))
        }

        fn last(&self) -> Result<Option<Checkpoint>> {
            Err(Error::internal("permission denied"))
        }

        fn store(&self, _: &[String]) -> Result<()> {
            Err(Error::internal("permission denied"))
        }
    }

    for db in TestDatabase::all() {
        let (store, _) = filled_store(&db, 3).await;
        let deps = StoreDeps { checkpoint_sink: Arc::new(Unreadable), ..db.deps.clone() };
        let store_without_file = Store::open(&db.database, deps).await.unwrap();
        db.clock.advance(Checkpoint::AGE);
        work(&db, &store_without_file, &ports(&store_without_file), 2).await;
        let reason = store_without_file.checkpoint(Checkpoint::AGE).await.unwrap_err().to_string();
        assert!(
            reason.contains("permission denied"),
            "the error of the checkpoint sink is passed on: {reason}"
        );
        assert!(!store_without_file.is_audit_signed());
        store.checkpoint(Checkpoint::AGE).await.unwrap();
        let verdict = common::verdict(&store).await;
        assert_eq!((verdict.first_bad, verdict.entries, verdict.unsigned), (None, 5, 0));
    }
}

/// Several processes append in turns, and each signs when a checkpoint is due: entries of other processes do not count
/// as forged.
#[tokio::test(flavor = "multi_thread")]
async fn entries_of_other_replicas_are_verified_and_signed() {
    for db in TestDatabase::all() {
        let stores = [db.open().await, db.open().await, db.open().await];
        for round in 0..12 {
            let store = &stores[round % 3];
            work(&db, store, &ports(store), 7 * (round % 4)).await;
            if round % 2 == 1 {
                db.clock.advance(Checkpoint::AGE);
            }
            // a short-lived process, such as a command
            if round % 5 == 2 {
                let command = db.open().await;
                work(&db, &command, &ports(&command), 1).await;
            }
            for store in &stores[round % 2..] {
                store.checkpoint(Checkpoint::AGE).await.unwrap();
            }
        }
        // more entries than fit between two checkpoints, concurrently
        let many = stores.iter().map(async |store| work(&db, store, &ports(store), 500).await);
        join_all(many).await;
        for store in &stores {
            store.checkpoint(Duration::ZERO).await.unwrap();
            assert!(store.is_audit_signed());
            assert_eq!(store.stats(db.clock.now()).await.unwrap().audit_unsigned, Duration::ZERO);
        }
        let verdict = common::verdict(&stores[1]).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0));
    }
}

/// A replica that stops signs the last entry before a checkpoint is due. Another replica appends an entry without
/// having read that checkpoint, which is then before the last entry that the other replica has verified.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoint_of_stopping_replica_is_accepted() {
    for db in TestDatabase::all() {
        let [stops, stays] = [db.open().await, db.open().await];
        for store in [&stops, &stays] {
            work(&db, store, &ports(store), 2).await;
            store.checkpoint(Duration::ZERO).await.unwrap();
        }
        work(&db, &stays, &ports(&stays), 3).await;
        stops.checkpoint(Duration::ZERO).await.unwrap();
        work(&db, &stays, &ports(&stays), 1).await;
        db.clock.advance(Checkpoint::AGE);
        stays.checkpoint(Checkpoint::AGE).await.unwrap();
        assert!(stays.is_audit_signed());
        let verdict = common::verdict(&stays).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0));
    }
}

/// After a rollback neither the entry nor its checkpoint is expected.
#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_entry_is_not_expected() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    let ports = ports(&store);
    work(&db, &store, &ports, 3).await;
    let refuse =
        "CREATE TRIGGER refuse BEFORE UPDATE OF hash ON audit_head BEGIN SELECT RAISE(ABORT, 'refused'); END";
    let commit = "CREATE TRIGGER refuse AFTER UPDATE OF hash ON audit_head \
        BEGIN SELECT RAISE(ABORT, 'refused'); END";
    for trigger in [refuse, commit] {
        db.execute(trigger).await.unwrap();
        let operation = operation(&ports);
        for age in [Duration::ZERO, Checkpoint::AGE] {
            db.clock.advance(age);
            store.record(&operation, &Outcome::success(db.clock.now())).await.unwrap_err();
        }
        db.execute("DROP TRIGGER refuse").await.unwrap();
        work(&db, &store, &ports, 1).await;
        store.checkpoint(Duration::ZERO).await.unwrap();
    }
    let verdict = common::verdict(&store).await;
    assert_eq!((verdict.first_bad, verdict.entries), (None, 5));
}

/// A trigger in the database drops every new checkpoint: verification reports the unsigned entries.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_checkpoints_are_detected() {
    let db = TestDatabase::sqlite();
    let (store, app) = filled_store(&db, 3).await;
    db.execute("CREATE TRIGGER swallow BEFORE INSERT ON audit_checkpoints BEGIN SELECT RAISE(IGNORE); END")
        .await
        .unwrap();
    let ports = ports(&store);
    for _ in 0..4 {
        db.clock.advance(Checkpoint::AGE);
        work(&db, &store, &ports, 1).await;
    }
    let found = app.audit.verify(&Caller::system()).await.unwrap().first_bad.unwrap();
    assert_eq!((found.sequence, found.fault), (5, Fault::Unsigned), "{found:?}");
}

/// A killed server leaves unsigned entries until the next start. Verification does not report them, at any later time,
/// and a command that appends an entry signs them if a checkpoint is due.
#[tokio::test(flavor = "multi_thread")]
async fn unsigned_tail_after_a_crash_is_valid() {
    for db in TestDatabase::all() {
        let (store, _) = filled_store(&db, 3).await;
        db.clock.advance(Checkpoint::AGE / 2);
        work(&db, &store, &ports(&store), 2).await;
        drop(store);
        db.clock.advance(Duration::from_secs(86_400));
        let command = db.open().await;
        let verdict = common::verdict(&command).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 2));
        work(&db, &command, &ports(&command), 1).await;
        let verdict = common::verdict(&command).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0), "an entry after a day is signed");
    }
}

/// An export read before the forgery verifies. An export that is begun before the forgery and read after it does not.
#[tokio::test(flavor = "multi_thread")]
async fn export_contains_only_verified_history() {
    let db = TestDatabase::sqlite();
    let (store, app) = filled_store(&db, 40).await;
    let signer = FakeKeyring::signer(FINGERPRINT);
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    let mut export = app.audit.export(&Caller::system(), ExportQuery::default()).await.unwrap();
    let mut text = String::new();
    while let Some(lines) = export.next().await.unwrap() {
        text.push_str(&lines);
    }
    let lines = text.split_inclusive('\n').map(|line| Ok(line.as_bytes().to_vec()));
    assert_eq!(verify_export(lines, signatures).unwrap().first_bad, None);
    // begun before the forgery and read after it: the signed entries differ from those read
    let mut export = app.audit.export(&Caller::system(), ExportQuery::default()).await.unwrap();
    forge(&db, &store, Forgery::NoCheckpoints).await;
    let mut text = String::new();
    while let Some(lines) = export.next().await.unwrap() {
        text.push_str(&lines);
    }
    let lines = text.split_inclusive('\n').map(|line| Ok(line.as_bytes().to_vec()));
    assert!(!verify_export(lines, signatures).unwrap().valid);
}
