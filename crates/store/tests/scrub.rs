//! What was sealed, and is deleted, replaced or sealed anew, is in no file of the database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{fs, sync::Arc};

use common::{Batch as _, FINGERPRINT, Place, Ring, cluster};
use pilothouse_core::{
    access::{AccessRequest, Permit, Resource, Verb},
    audit::{CheckpointSigner as _, KeyRotation},
    cluster::{AuthType, ClusterId, ClusterPatch, ClusterRegistry as _, Credential},
    seal::{Keyring as _, SealedFor},
    testing::contract::StorePorts,
};
use pilothouse_store::{Store, StoreDeps};
use secrecy::SecretString;

const NEXT: &str = "fingerprint of the next key";

fn token(name: &str) -> Credential {
    Credential::Token(SecretString::from(format!("token of {name} ").repeat(20)))
}

/// Part of what a token is once it is sealed.
fn sealed(name: &str) -> Vec<u8> {
    format!("token of {name} ").repeat(3).bytes().map(|byte| byte ^ 0xa5).collect()
}

/// What every value begins with that this key has sealed.
fn mark(fingerprint: &str) -> Vec<u8> {
    Ring::of(&[fingerprint]).keys(fingerprint).unwrap().sealer.mark()
}

/// A store that is open, with clusters in it.
struct Scene {
    place: Place,
    store: Store,
    ports: StorePorts,
}

impl Scene {
    async fn on(place: Place) -> Self {
        let keyring = Ring::of(&[FINGERPRINT, NEXT]);
        let store = Store::open(&place.database, StoreDeps { keyring, ..place.deps.clone() }).await.unwrap();
        let ports = StorePorts::over(Arc::new(store.clone()));
        Self { place, store, ports }
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

    /// Whether these bytes are in a file of a SQLite database.
    fn is_in_files(&self, bytes: &[u8]) -> bool {
        let files = fs::read_dir(self.place.folder.path()).unwrap().map(|file| file.unwrap().path());
        files
            .map(|file| fs::read(file).unwrap())
            .any(|file| file.windows(bytes.len()).any(|part| part == bytes))
    }

    async fn rekey(&self) {
        self.store.begin_rekey(NEXT).await.unwrap();
        while self.store.reseal(NEXT).await.unwrap() > 0 {}
        let [before, after] = [FINGERPRINT, NEXT].map(|key| Ring::signer(key).public_key());
        let permit = self.ports.permit(KeyRotation::access(&before, &after));
        self.store.finish_rekey(&permit, NEXT).await.unwrap();
    }
}

#[test]
fn the_seal_of_these_tests_is_found() {
    let owner = SealedFor { row: uuid::Uuid::nil(), field: "clusters.credential" };
    let Credential::Token(plain) = token("one") else { panic!("a token") };
    let keys = Ring::of(&[FINGERPRINT]).keys(FINGERPRINT).unwrap();
    let text = secrecy::ExposeSecret::expose_secret(&plain).as_bytes();
    let whole = keys.sealer.seal(&owner, text).unwrap();
    for part in [mark(FINGERPRINT), sealed("one")] {
        assert!(whole.windows(part.len()).any(|window| window == part));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_replaced_credential_is_in_no_file_while_the_store_is_open() {
    let scene = Scene::on(Place::sqlite()).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(scene.register(&format!("cluster-{n}.")).await);
    }
    assert!(scene.is_in_files(&sealed("cluster-7.")));
    scene.delete(ids[7]).await;
    assert!(!scene.is_in_files(&sealed("cluster-7.")), "deleted");
    scene.replace(ids[8], "another").await;
    assert!(!scene.is_in_files(&sealed("cluster-8.")), "replaced");
    assert!(scene.is_in_files(&sealed("another")) && scene.is_in_files(&sealed("cluster-9.")), "others stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_long_read_holds_is_removed_once_it_ends() {
    let scene = Scene::on(Place::sqlite()).await;
    let id = scene.register("read").await;
    let mut reader = scene.place.sqlite_connection();
    reader.batch("BEGIN; SELECT count(*) FROM clusters").unwrap();
    scene.delete(id).await;
    assert!(scene.is_in_files(&sealed("read")), "an older state is read");
    reader.batch("COMMIT").unwrap();
    scene.store.renew_lease(scene.place.deps.clock.now()).await.unwrap();
    assert!(!scene.is_in_files(&sealed("read")));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rekey_no_file_holds_what_the_old_key_opens() {
    let scene = Scene::on(Place::sqlite()).await;
    let mut ids = Vec::new();
    for n in 0..60 {
        ids.push(scene.register(&format!("cluster-{n}.")).await);
    }
    scene.delete(ids[3]).await;
    assert!(scene.is_in_files(&mark(FINGERPRINT)));
    scene.rekey().await;
    assert!(scene.store.scrub().await.unwrap());
    assert!(!scene.is_in_files(&mark(FINGERPRINT)), "the old key opens something");
    assert!(scene.is_in_files(&mark(NEXT)));
    assert!(!scene.is_in_files(&sealed("cluster-3.")));

    // whoever reads an older state is told of, not waited for
    let mut reader = scene.place.sqlite_connection();
    reader.batch("BEGIN; SELECT count(*) FROM clusters").unwrap();
    scene.replace(ids[4], "while it is read").await;
    assert!(!scene.store.scrub().await.unwrap());
    reader.batch("COMMIT").unwrap();
    assert!(scene.store.scrub().await.unwrap());
}

/// Old versions of rows go with the file that a table is in; what is in the file only a superuser could read.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_rekey_the_tables_of_postgresql_are_written_anew() {
    let Some(place) = Place::postgres() else { return };
    let scene = Scene::on(place).await;
    let id = scene.register("one").await;
    let files = async || {
        let file = |table: &str| format!("SELECT pg_relation_filenode('{table}')::bigint AS n");
        [scene.place.count(&file("clusters")).await, scene.place.count(&file("idempotency_keys")).await]
    };
    let before = files().await;
    scene.rekey().await;
    assert_eq!(files().await, before);
    assert!(scene.store.scrub().await.unwrap());
    let after = files().await;
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    scene.replace(id, "another").await;
}
