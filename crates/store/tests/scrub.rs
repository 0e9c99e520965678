//! Scrubbing: values that were deleted, replaced or resealed are in no file of the database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{fs, sync::Arc};

use common::{Batch as _, FINGERPRINT, FakeKeyring, TestDatabase, cluster};
use pilothouse_core::{
    access::{AccessRequest, Permit, Resource, Verb},
    audit::{CheckpointSigner as _, KeyRotation},
    cluster::{ClusterPatch, ClusterRegistry as _},
    connection::{AuthType, Credential},
    coordinator::Coordinator as _,
    ids::ClusterId,
    seal::{Keyring as _, SealedFor},
    testing::contract::StorePorts,
};
use pilothouse_store::{Store, StoreDeps};
use secrecy::SecretString;

const NEXT: &str = "fingerprint of the next key";

fn token(name: &str) -> Credential {
    Credential::Token(SecretString::from(format!("token of {name} ").repeat(20)))
}

/// Bytes that a token of this name, sealed by the fake sealer, contains.
fn sealed(name: &str) -> Vec<u8> {
    format!("token of {name} ").repeat(3).bytes().map(|byte| byte ^ 0xa5).collect()
}

/// The prefix of every value sealed with this key.
fn mark(fingerprint: &str) -> Vec<u8> {
    FakeKeyring::of(&[fingerprint]).keys(fingerprint).unwrap().sealer.mark()
}

/// An open store with clusters.
struct Fixture {
    db: TestDatabase,
    store: Store,
    ports: StorePorts,
}

impl Fixture {
    async fn on(db: TestDatabase) -> Self {
        let keyring = FakeKeyring::of(&[FINGERPRINT, NEXT]);
        let store = Store::open(&db.database, StoreDeps { keyring, ..db.deps.clone() }).await.unwrap();
        let ports = StorePorts::over(Arc::new(store.clone()));
        Self { db, store, ports }
    }

    fn permit(&self, verb: Verb, id: ClusterId) -> Permit {
        self.ports.permit(AccessRequest::to(verb, Resource::Cluster).in_cluster(id))
    }

    async fn register(&self, name: &str) -> ClusterId {
        let permit = self.ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name));
        self.store.create(&permit, cluster(&self.ports, name, token(name))).await.unwrap().id
    }

    async fn replace(&self, id: ClusterId, name: &str) {
        let record = cluster(&self.ports, "any", token(name));
        let patch = ClusterPatch {
            connection: Some((AuthType::Token, record.connection)),
            ..ClusterPatch::default()
        };
        self.store.update(&self.permit(Verb::Update, id), patch, self.ports.now()).await.unwrap();
    }

    async fn delete(&self, id: ClusterId) {
        self.store.delete(&self.permit(Verb::Delete, id)).await.unwrap();
    }

    /// Whether a file of the SQLite database contains these bytes.
    fn is_in_files(&self, bytes: &[u8]) -> bool {
        let files = fs::read_dir(self.db.directory.path()).unwrap().map(|file| file.unwrap().path());
        files
            .map(|file| fs::read(file).unwrap())
            .any(|file| file.windows(bytes.len()).any(|part| part == bytes))
    }

    async fn rekey(&self) {
        self.store.begin_rekey(NEXT).await.unwrap();
        while self.store.reseal(NEXT).await.unwrap() > 0 {}
        let [before, after] = [FINGERPRINT, NEXT].map(|key| FakeKeyring::signer(key).public_key());
        let permit = self.ports.permit(KeyRotation::access(&before, &after));
        self.store.finish_rekey(&permit, NEXT).await.unwrap();
    }
}

#[test]
fn fake_sealer_output_contains_mark_and_token() {
    let owner = SealedFor { row: uuid::Uuid::nil(), field: "clusters.credential" };
    let Credential::Token(plain) = token("one") else { panic!("a token") };
    let keys = FakeKeyring::of(&[FINGERPRINT]).keys(FINGERPRINT).unwrap();
    let text = secrecy::ExposeSecret::expose_secret(&plain).as_bytes();
    let whole = keys.sealer.seal(&owner, text).unwrap();
    for part in [mark(FINGERPRINT), sealed("one")] {
        assert!(whole.windows(part.len()).any(|window| window == part));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_or_replaced_credential_is_in_no_open_file() {
    let fixture = Fixture::on(TestDatabase::sqlite()).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(fixture.register(&format!("cluster-{n}.")).await);
    }
    assert!(fixture.is_in_files(&sealed("cluster-7.")));
    fixture.delete(ids[7]).await;
    assert!(!fixture.is_in_files(&sealed("cluster-7.")), "deleted");
    fixture.replace(ids[8], "another").await;
    assert!(!fixture.is_in_files(&sealed("cluster-8.")), "replaced");
    assert!(
        fixture.is_in_files(&sealed("another")) && fixture.is_in_files(&sealed("cluster-9.")),
        "other values stay"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn value_held_by_a_reader_is_removed_after_it_ends() {
    let fixture = Fixture::on(TestDatabase::sqlite()).await;
    let id = fixture.register("read").await;
    let mut reader = fixture.db.sqlite_connection();
    reader.batch("BEGIN; SELECT count(*) FROM clusters").unwrap();
    fixture.delete(id).await;
    assert!(fixture.is_in_files(&sealed("read")), "a reader uses the older state");
    reader.batch("COMMIT").unwrap();
    fixture.store.renew_lease(fixture.db.deps.clock.now()).await.unwrap();
    assert!(!fixture.is_in_files(&sealed("read")));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_files_hold_no_value_of_the_old_key_after_rekey() {
    let fixture = Fixture::on(TestDatabase::sqlite()).await;
    let mut ids = Vec::new();
    for n in 0..60 {
        ids.push(fixture.register(&format!("cluster-{n}.")).await);
    }
    fixture.delete(ids[3]).await;
    assert!(fixture.is_in_files(&mark(FINGERPRINT)));
    fixture.rekey().await;
    assert!(fixture.store.scrub().await.unwrap());
    assert!(!fixture.is_in_files(&mark(FINGERPRINT)), "a value of the old key is left");
    assert!(fixture.is_in_files(&mark(NEXT)));
    assert!(!fixture.is_in_files(&sealed("cluster-3.")));

    // `scrub` reports a reader of an older state instead of waiting for it
    let mut reader = fixture.db.sqlite_connection();
    reader.batch("BEGIN; SELECT count(*) FROM clusters").unwrap();
    fixture.replace(ids[4], "while it is read").await;
    assert!(!fixture.store.scrub().await.unwrap());
    reader.batch("COMMIT").unwrap();
    assert!(fixture.store.scrub().await.unwrap());
}

/// Old versions of rows are deleted with the file of the table. Only a superuser could read the contents of the file,
/// so the test compares the file numbers.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_tables_are_rewritten_after_rekey() {
    let Some(db) = TestDatabase::postgres() else { return };
    let fixture = Fixture::on(db).await;
    let id = fixture.register("one").await;
    let files = async || {
        let file = |table: &str| format!("SELECT pg_relation_filenode('{table}')::bigint AS n");
        let mut files = Vec::new();
        for table in ["clusters", "idempotency_keys", "provider_sessions", "second_factors"] {
            files.push(fixture.db.count(&file(table)).await);
        }
        files
    };
    let before = files().await;
    fixture.rekey().await;
    assert_eq!(files().await, before);
    assert!(fixture.store.scrub().await.unwrap());
    let after = files().await;
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    fixture.replace(id, "another").await;
}
