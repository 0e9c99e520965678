//! Somebody writes the database, and has the server sign what they wrote: in both databases, beside a running server and
//! before it starts again, with the checkpoints outside the database and without them.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{FINGERPRINT, Place, Ring, operation};
use futures_util::future::{BoxFuture, join_all};
use pilothouse_core::{
    Error, Result,
    access::Caller,
    app::{App, Ports, Settings},
    audit::{
        AuditTrail as _, ChainHash, Checkpoint, CheckpointSigner as _, CheckpointSink, Entry, ExportQuery,
        Fault, Head, KeyRotation, Outcome, PublicKey, Signatures, TrailReader as _, verify_export,
    },
    clock::{Clock as _, Computation, Spawner},
    hex::Hex,
    testing::{
        contract::StorePorts,
        fake::{Fake, FakeSigner},
        permit,
    },
};
use pilothouse_store::{Database, Store, StoreDeps};

/// Tasks where the store's connections are driven.
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

/// The use cases on a store, with its witness.
fn app(place: &Place, store: &Store) -> App {
    let store = Arc::new(store.clone());
    let ports = Ports {
        audit: store.clone(),
        trail: store.clone(),
        retention: store.clone(),
        clusters: store.clone(),
        signer: Arc::new(Ring::signer(FINGERPRINT)),
        witness: place.witness.clone(),
        clock: place.clock.clone(),
        spawner: Arc::new(OnRuntime),
        ..Fake::default().ports()
    };
    App::new(ports, Settings::default())
}

/// So many operations; all of them are signed.
async fn filled(place: &Place, count: usize) -> (Store, App) {
    let store = place.open().await;
    let (ports, app) = (ports(&store), app(place, &store));
    // the first one is signed at once
    work(place, &store, &ports, 1).await;
    work(place, &store, &ports, count - 1).await;
    place.clock.advance(Checkpoint::AGE);
    app.audit.keep_checkpoints(Checkpoint::AGE).await.unwrap();
    (store, app)
}

async fn work(place: &Place, store: &Store, ports: &StorePorts, count: usize) {
    let at = place.clock.now();
    let all = (0..count).map(|_| operation(ports)).map(async |mut operation| {
        operation.created_at = at;
        store.record(&operation, &Outcome::success(at)).await.unwrap();
    });
    join_all(all).await;
}

/// Takes away what keeps an honest hand from changing the trail.
async fn unlock(place: &Place) {
    for (table, is) in [("audit_log", "is"), ("audit_checkpoints", "are"), ("audit_handovers", "are")] {
        for what in ["changed", "cut"] {
            let on = if matches!(place.database, Database::Sqlite(_)) {
                String::new()
            } else {
                format!(" ON {table}")
            };
            place.execute(&format!("DROP TRIGGER {table}_{is}_never_{what}{on}")).await.unwrap();
        }
    }
}

fn bytes(place: &Place, hash: &ChainHash) -> String {
    let hex = hash.to_string();
    if matches!(place.database, Database::Sqlite(_)) { format!("x'{hex}'") } else { format!("'\\x{hex}'") }
}

/// How a history is forged.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    /// All checkpoints are removed; the trail is short enough not to need another.
    Short,
    /// The same, but for the first one, which is ours.
    ButTheFirst,
    /// All checkpoints are signed anew by another key, and the trail's last entry names it as the key before the install's.
    OwnKey,
}

const OWN: PublicKey = Hex([9; 32]);

/// Rewrites every entry, or all after the first one: another name is in them. All hashes are computed anew, and the rows of
/// the lists are put right.
async fn forge(place: &Place, store: &Store, forgery: Forgery) {
    unlock(place).await;
    let (trail, _) = store.head().await.unwrap();
    let own = FakeSigner::of(OWN);
    let kept = i64::from(matches!(forgery, Forgery::ButTheFirst));
    let mut head = Head::NONE;
    let mut statements = Vec::new();
    let checkpoints = store.checkpoints(0, 1_000).await.unwrap();
    let mut signed = Vec::new();
    for stored in store.entries(0, 10_000).await.unwrap() {
        let text =
            if stored.sequence <= kept { stored.text } else { stored.text.replace("\"web\"", "\"bew\"") };
        head = head.then(&text);
        let (text, hash) = (text.replace('\'', "''"), bytes(place, &head.hash));
        statements.push(format!(
            "UPDATE audit_log SET body = '{text}', hash = {hash} WHERE seq = {}",
            head.sequence
        ));
        if checkpoints.iter().any(|checkpoint| checkpoint.sequence == head.sequence) {
            let line = Checkpoint::sign(&own, &trail, head, place.clock.now()).line().unwrap();
            signed
                .push(format!("UPDATE audit_checkpoints SET line = '{line}' WHERE seq = {}", head.sequence));
        }
    }
    statements.push(format!(
        "UPDATE operations SET resource_name = 'bew', searched = 'bew' WHERE resource_name = 'web' AND id > {kept}"
    ));
    match forgery {
        Forgery::Short => statements.push("DELETE FROM audit_checkpoints".to_owned()),
        Forgery::ButTheFirst => statements.push("DELETE FROM audit_checkpoints WHERE seq > 1".to_owned()),
        Forgery::OwnKey => {
            statements.extend(signed);
            let access = KeyRotation::access(&OWN, &Ring::signer(FINGERPRINT).public_key());
            let mut rekey = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
            rekey.created_at = place.clock.now();
            let outcome = Outcome::success(rekey.created_at);
            let (id, params) = (rekey.id, rekey.summary().unwrap());
            let text = Entry::Complete { operation: rekey, outcome }.canonical().unwrap();
            head = head.then(&text);
            let micros = place.clock.now().as_microsecond();
            let at = if matches!(place.database, Database::Sqlite(_)) {
                micros.to_string()
            } else {
                format!("to_timestamp({micros}::numeric / 1000000)")
            };
            statements.push(format!(
                "INSERT INTO audit_log (seq, operation_id, entry, at, body, hash) \
                 VALUES ({}, '{id}', 'complete', {at}, '{text}', {})",
                head.sequence,
                bytes(place, &head.hash)
            ));
            statements.push(format!(
                "INSERT INTO operations (operation_id, instance, operation_type, resource_type, searched, username, \
                 status, details, duration_ms, created_at, finished_at) VALUES ('{id}', 'x', 'rekey', 'master_key', '', \
                 'cli:ann', 'success', '{params}', 0, {at}, {at})"
            ));
            let handover = KeyRotation {
                next: Ring::signer(FINGERPRINT).public_key(),
                ..KeyRotation::sign(&own, &trail, head, OWN)
            };
            statements.push(format!(
                "INSERT INTO audit_handovers (seq, line) VALUES ({}, '{}')",
                head.sequence,
                handover.line().unwrap()
            ));
        }
    }
    statements.push(format!(
        "UPDATE audit_head SET seq = {}, hash = {}",
        head.sequence,
        bytes(place, &head.hash)
    ));
    place.execute(&statements.join("; ")).await.unwrap();
}

/// Nothing of it is signed, whatever is asked; and it is told.
async fn is_not_signed(place: &Place, store: &Store, app: &App, what: &str) {
    let key = Ring::signer(FINGERPRINT).public_key();
    let before = store.checkpoints(0, 1_000).await.unwrap().len();
    let ports = ports(store);
    for _ in 0..3 {
        place.clock.advance(Checkpoint::AGE * 2);
        work(place, store, &ports, 2).await;
        app.audit.keep_checkpoints(Checkpoint::AGE).await.unwrap_err();
    }
    app.audit.keep_checkpoints(Duration::ZERO).await.unwrap_err();
    let after = store.checkpoints(0, 1_000).await.unwrap();
    assert_eq!(after.len(), before, "{what}: nothing was signed");
    let signer = Ring::signer(FINGERPRINT);
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
    assert!(refused.to_string().contains("audit trail failed verification"), "{what}: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_history_is_not_signed_beside_the_server_that_wrote_the_true_one() {
    for forgery in [Forgery::Short, Forgery::ButTheFirst, Forgery::OwnKey] {
        for with_file in [true, false] {
            for place in Place::all() {
                let (store, app) = filled(&place, 40).await;
                forge(&place, &store, forgery).await;
                if !with_file {
                    place.witness.clear();
                }
                is_not_signed(&place, &store, &app, &format!("{forgery:?}, file: {with_file}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_history_is_not_signed_by_a_server_that_starts_on_it() {
    let cases = [(Forgery::Short, true), (Forgery::ButTheFirst, true), (Forgery::OwnKey, true)];
    for (forgery, with_file) in cases.into_iter().chain([(Forgery::Short, false), (Forgery::OwnKey, false)]) {
        for place in Place::all() {
            let (store, _) = filled(&place, 40).await;
            forge(&place, &store, forgery).await;
            drop(store);
            if !with_file {
                place.witness.clear();
            }
            let begun = place.open().await;
            let app = app(&place, &begun);
            is_not_signed(&place, &begun, &app, &format!("{forgery:?}, file: {with_file}")).await;
        }
    }
}

/// An older database put back, beside the running server or before it starts: what is appended to it is not signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_was_cut_is_not_signed() {
    for place in Place::all() {
        let (store, app_) = filled(&place, 40).await;
        unlock(&place).await;
        let kept = store.entries(29, 1).await.unwrap().remove(0);
        let hash = ChainHash(kept.hash.as_slice().try_into().unwrap());
        let cut = format!(
            "DELETE FROM audit_log WHERE seq > 30; DELETE FROM operations WHERE id > 30; \
             DELETE FROM audit_checkpoints WHERE seq > 30; UPDATE audit_head SET seq = 30, hash = {}",
            bytes(&place, &hash)
        );
        place.execute(&cut).await.unwrap();
        is_not_signed(&place, &store, &app_, "beside it").await;
        drop(store);
        let begun = place.open().await;
        is_not_signed(&place, &begun, &app(&place, &begun), "with the file").await;

        // whoever meant to put it back moves the file away, and goes on with what is left
        place.witness.clear();
        let restored = place.open().await;
        let app = app(&place, &restored);
        let newest = restored.checkpoints(0, 1_000).await.unwrap().pop().unwrap().sequence;
        assert!(newest <= 30);
        app.audit.keep_checkpoints(Duration::ZERO).await.unwrap();
        assert!(restored.is_audit_signed());
        let (_, head) = restored.head().await.unwrap();
        assert_eq!(place.witness.last().unwrap().unwrap().sequence, head.sequence);
    }
}

/// A command remembers nothing: without the file it does not know whether the history is the true one, unless it is told
/// that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_exports_nothing_without_the_file_unless_told() {
    for place in Place::all() {
        let (store, app_) = filled(&place, 40).await;
        place.clock.advance(Checkpoint::AGE);
        work(&place, &store, &ports(&store), 1).await;
        place.witness.clear();
        let export = async |audit: &pilothouse_core::audit::Audit| {
            audit.export(&Caller::system(), ExportQuery::default()).await.map(drop)
        };
        export(&app_.audit).await.unwrap();
        let command = app(&place, &place.open().await).audit;
        let refused = export(&command).await.unwrap_err();
        assert!(refused.to_string().contains("--no-witness"), "{refused}");
        export(&app(&place, &place.open().await).audit.without_witness()).await.unwrap();
    }
}

/// Where the file cannot be read nothing is signed, for nobody knows what it tells; everything is recorded all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_that_can_be_read_nothing_is_signed() {
    struct Unreadable;

    impl CheckpointSink for Unreadable {
        fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
            Err(Error::internal("permission denied"))
        }

        fn last(&self) -> Result<Option<Checkpoint>> {
            Err(Error::internal("permission denied"))
        }

        fn keep(&self, _: &[String]) -> Result<()> {
            Err(Error::internal("permission denied"))
        }
    }

    for place in Place::all() {
        let (store, _) = filled(&place, 3).await;
        let deps = StoreDeps { witness: Arc::new(Unreadable), ..place.deps.clone() };
        let blind = Store::open(&place.database, deps).await.unwrap();
        place.clock.advance(Checkpoint::AGE);
        work(&place, &blind, &ports(&blind), 2).await;
        let reason = blind.checkpoint(Checkpoint::AGE).await.unwrap_err().to_string();
        assert!(reason.contains("cannot be read") && reason.contains("permission denied"), "{reason}");
        assert!(!blind.is_audit_signed());
        store.checkpoint(Checkpoint::AGE).await.unwrap();
        let verdict = common::verdict(&store).await;
        assert_eq!((verdict.first_bad, verdict.entries, verdict.unsigned), (None, 5, 0));
    }
}

/// Several processes append in turns, and each signs when it is due: nobody takes what the others wrote for forged.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_replicas_append_is_followed() {
    for place in Place::all() {
        let stores = [place.open().await, place.open().await, place.open().await];
        for round in 0..12 {
            let store = &stores[round % 3];
            work(&place, store, &ports(store), 7 * (round % 4)).await;
            if round % 2 == 1 {
                place.clock.advance(Checkpoint::AGE);
            }
            // one that comes and goes, as commands do
            if round % 5 == 2 {
                let command = place.open().await;
                work(&place, &command, &ports(&command), 1).await;
            }
            for store in &stores[round % 2..] {
                store.checkpoint(Checkpoint::AGE).await.unwrap();
            }
        }
        // more than fit between two checkpoints, all at once
        let many = stores.iter().map(async |store| work(&place, store, &ports(store), 500).await);
        join_all(many).await;
        for store in &stores {
            store.checkpoint(Duration::ZERO).await.unwrap();
            assert!(store.is_audit_signed());
            assert_eq!(store.stats(place.clock.now()).await.unwrap().audit_unsigned, Duration::ZERO);
        }
        let verdict = common::verdict(&stores[1]).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0));
    }
}

/// A replica signs the last entry before it is due, as at its stop, and another one appends without having read that
/// checkpoint: the checkpoint lies before the last entry that the other one knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_replica_that_stops_is_no_sign_of_forgery() {
    for place in Place::all() {
        let [stops, stays] = [place.open().await, place.open().await];
        for store in [&stops, &stays] {
            work(&place, store, &ports(store), 2).await;
            store.checkpoint(Duration::ZERO).await.unwrap();
        }
        work(&place, &stays, &ports(&stays), 3).await;
        stops.checkpoint(Duration::ZERO).await.unwrap();
        work(&place, &stays, &ports(&stays), 1).await;
        place.clock.advance(Checkpoint::AGE);
        stays.checkpoint(Checkpoint::AGE).await.unwrap();
        assert!(stays.is_audit_signed());
        let verdict = common::verdict(&stays).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0));
    }
}

/// What is rolled back was never there: neither the entry nor its checkpoint is missed.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_rolled_back_is_not_missed() {
    let place = Place::sqlite();
    let store = place.open().await;
    let ports = ports(&store);
    work(&place, &store, &ports, 3).await;
    let refuse =
        "CREATE TRIGGER refuse BEFORE UPDATE OF hash ON audit_head BEGIN SELECT RAISE(ABORT, 'refused'); END";
    let commit = "CREATE TRIGGER refuse AFTER UPDATE OF hash ON audit_head \
        BEGIN SELECT RAISE(ABORT, 'refused'); END";
    for trigger in [refuse, commit] {
        place.execute(trigger).await.unwrap();
        let operation = operation(&ports);
        for age in [Duration::ZERO, Checkpoint::AGE] {
            place.clock.advance(age);
            store.record(&operation, &Outcome::success(place.clock.now())).await.unwrap_err();
        }
        place.execute("DROP TRIGGER refuse").await.unwrap();
        work(&place, &store, &ports, 1).await;
        store.checkpoint(Duration::ZERO).await.unwrap();
    }
    let verdict = common::verdict(&store).await;
    assert_eq!((verdict.first_bad, verdict.entries), (None, 5));
}

/// Signing cannot be switched off by a column, and a checkpoint that the database swallows is missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_swallows_checkpoints_is_found() {
    let place = Place::sqlite();
    let (store, app) = filled(&place, 3).await;
    place
        .execute("CREATE TRIGGER swallow BEFORE INSERT ON audit_checkpoints BEGIN SELECT RAISE(IGNORE); END")
        .await
        .unwrap();
    let ports = ports(&store);
    for _ in 0..4 {
        place.clock.advance(Checkpoint::AGE);
        work(&place, &store, &ports, 1).await;
    }
    let found = app.audit.verify(&Caller::system()).await.unwrap().first_bad.unwrap();
    assert_eq!((found.sequence, found.fault), (5, Fault::Unsigned), "{found:?}");
}

/// A killed server leaves a tail that waits for the next start, and a command signs what is due by itself: neither is a
/// finding, however late it is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_waits_for_a_start_is_whole() {
    for place in Place::all() {
        let (store, _) = filled(&place, 3).await;
        place.clock.advance(Checkpoint::AGE / 2);
        work(&place, &store, &ports(&store), 2).await;
        drop(store);
        place.clock.advance(Duration::from_secs(86_400));
        let command = place.open().await;
        let verdict = common::verdict(&command).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 2));
        work(&place, &command, &ports(&command), 1).await;
        let verdict = common::verdict(&command).await;
        assert_eq!((verdict.first_bad, verdict.unsigned), (None, 0), "what comes a day later is signed");
    }
}

/// The export that was made before somebody wrote the database verifies; none is made after.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_of_the_true_history() {
    let place = Place::sqlite();
    let (store, app) = filled(&place, 40).await;
    let signer = Ring::signer(FINGERPRINT);
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    let mut export = app.audit.export(&Caller::system(), ExportQuery::default()).await.unwrap();
    let mut text = String::new();
    while let Some(lines) = export.next().await.unwrap() {
        text.push_str(&lines);
    }
    let lines = text.split_inclusive('\n').map(|line| Ok(line.as_bytes().to_vec()));
    assert_eq!(verify_export(lines, signatures).unwrap().first_bad, None);
    // begun before, read after: what was signed is not what is read
    let mut export = app.audit.export(&Caller::system(), ExportQuery::default()).await.unwrap();
    forge(&place, &store, Forgery::Short).await;
    let mut text = String::new();
    while let Some(lines) = export.next().await.unwrap() {
        text.push_str(&lines);
    }
    let lines = text.split_inclusive('\n').map(|line| Ok(line.as_bytes().to_vec()));
    assert!(!verify_export(lines, signatures).unwrap().valid);
}
