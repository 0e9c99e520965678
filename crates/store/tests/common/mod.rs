//! Databases to try the store on: a SQLite file each, and a database each of a PostgreSQL of our own.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "tests panic")]

use std::sync::{Arc, Mutex};

use diesel::{Connection as _, QueryableByName, SqliteConnection, sql_query, sql_types};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Resource, Role, Verb},
    audit::{ChainHash, Checkpoint, CheckpointSigner as _, Operation, Signatures, Verdict},
    cluster::{ApiServer, AuthType, ClusterName, ClusterRecord, Connection, Credential},
    hex::Hex,
    kind::Kind,
    seal::{Keyring, Keys, SealedFor, Sealer},
    testing::{contract::StorePorts, fake},
    user::{PasswordHash, UserRecord, Username},
};
use pilothouse_store::{Database, OpenError, Store, StoreDeps};
use pilothouse_testbed::{Postgres, shared_postgres};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::runtime::Handle;

pub(crate) const FINGERPRINT: &str = "fingerprint of the key";

/// Hides a value and binds it to its owner and to a key; no cipher, but enough to see whether the store uses it.
struct Mask {
    fingerprint: String,
}

impl Mask {
    fn prefix(&self, owner: &SealedFor) -> Vec<u8> {
        let mut prefix = self.mark();
        prefix.extend(format!(" {} {} ", owner.row, owner.field).into_bytes());
        prefix
    }
}

impl Sealer for Mask {
    fn seal(&self, owner: &SealedFor, value: &[u8]) -> Result<Vec<u8>> {
        let mut sealed = self.prefix(owner);
        sealed.extend(value.iter().map(|byte| byte ^ 0xa5));
        Ok(sealed)
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        let value = sealed.strip_prefix(self.prefix(owner).as_slice());
        let value = value.ok_or_else(|| Error::internal("another's seal"))?;
        Ok(value.iter().map(|byte| byte ^ 0xa5).collect())
    }

    fn mark(&self) -> Vec<u8> {
        Sha256::digest(&self.fingerprint)[..9].to_vec()
    }
}

/// Holds the keys that it is given, by their fingerprints alone.
pub(crate) struct Ring(Mutex<Vec<String>>);

impl Ring {
    /// The first one is in use.
    pub(crate) fn of(fingerprints: &[&str]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(fingerprints.iter().map(ToString::to_string).collect())))
    }

    /// Another one is put beside.
    pub(crate) fn add(&self, fingerprint: &str) {
        self.0.lock().unwrap().push(fingerprint.to_owned());
    }

    /// By what the one in use is verified.
    pub(crate) fn signer(fingerprint: &str) -> fake::FakeSigner {
        fake::FakeSigner::of(Hex(Sha256::digest(fingerprint).into()))
    }
}

impl Keyring for Ring {
    fn current(&self) -> String {
        self.0.lock().unwrap()[0].clone()
    }

    fn keys(&self, fingerprint: &str) -> Result<Keys> {
        if !self.0.lock().unwrap().iter().any(|held| held == fingerprint) {
            return Err(Error::new(Cause::StoreUnavailable));
        }
        let sealer = Arc::new(Mask { fingerprint: fingerprint.to_owned() });
        Ok(Keys { sealer, signer: Arc::new(Self::signer(fingerprint)) })
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        let held = self.0.lock().unwrap().clone();
        let opened = held.iter().find_map(|held| self.keys(held).unwrap().sealer.open(owner, sealed).ok());
        opened.ok_or_else(|| Error::internal("another's seal"))
    }

    fn turn_to(&self, fingerprint: &str) -> Result<()> {
        self.keys(fingerprint)?;
        let mut held = self.0.lock().unwrap();
        let place = held.iter().position(|held| held == fingerprint).unwrap();
        held.swap(0, place);
        Ok(())
    }
}

/// A database of its own, gone at the end.
pub(crate) struct Place {
    pub(crate) database: Database,
    pub(crate) deps: StoreDeps,
    pub(crate) clock: Arc<fake::FakeClock>,
    /// Where checkpoints are kept outside it.
    pub(crate) witness: Arc<fake::MemoryCheckpointSink>,
    pub(crate) folder: TempDir,
    /// Of a PostgreSQL.
    pub(crate) url: Option<String>,
}

impl Place {
    fn new(folder: TempDir, database: Database, url: Option<String>) -> Self {
        let fake::FakeRuntime { clock, rng, .. } = fake::FakeRuntime::default();
        let witness = Arc::new(fake::MemoryCheckpointSink::default());
        let deps = StoreDeps {
            runtime: Handle::current(),
            witness: witness.clone(),
            clock: clock.clone(),
            rng,
            keyring: Ring::of(&[FINGERPRINT]),
        };
        Self { database, deps, clock, witness, folder, url }
    }

    /// A SQLite file that is not there yet.
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("pilothouse.db"));
        Self::new(folder, database, None)
    }

    /// An empty database of the PostgreSQL that the tests share; none where this machine has none.
    pub(crate) fn postgres() -> Option<Self> {
        shared_postgres().unwrap().map(Self::of)
    }

    /// An empty database of this one.
    pub(crate) fn of(postgres: &Postgres) -> Self {
        Self::at(postgres.database().unwrap())
    }

    /// The database of this address.
    pub(crate) fn at(url: String) -> Self {
        Self::new(tempfile::tempdir().unwrap(), Database::parse(&url).unwrap(), Some(url))
    }

    /// One of each kind there is.
    pub(crate) fn all() -> Vec<Self> {
        [Self::sqlite()].into_iter().chain(Self::postgres()).collect()
    }

    pub(crate) async fn open(&self) -> Store {
        self.try_open(FINGERPRINT).await.unwrap()
    }

    pub(crate) async fn try_open(&self, fingerprint: &str) -> Result<Store, OpenError> {
        let deps = StoreDeps { keyring: Ring::of(&[fingerprint]), ..self.deps.clone() };
        Store::open(&self.database, deps).await
    }

    /// Runs statements past the store.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), String> {
        match &self.database {
            Database::Sqlite(_) => self.sqlite_connection().batch(sql),
            Database::Postgres(_) => {
                let mut conn = self.postgres_connection().await;
                conn.batch_execute(sql).await.map_err(|error| error.to_string())
            }
        }
    }

    /// Reads past the store.
    pub(crate) async fn entries(&self) -> Vec<StoredEntry> {
        let query = sql_query("SELECT seq, entry, body, hash FROM audit_log ORDER BY seq");
        match &self.database {
            Database::Sqlite(_) => diesel::RunQueryDsl::load(query, &mut self.sqlite_connection()).unwrap(),
            Database::Postgres(_) => {
                let mut conn = self.postgres_connection().await;
                RunQueryDsl::load(query, &mut conn).await.unwrap()
            }
        }
    }

    /// How many rows a query with the column `n` counts.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let counted: Count = match &self.database {
            Database::Sqlite(_) => {
                diesel::RunQueryDsl::get_result(sql_query(sql), &mut self.sqlite_connection()).unwrap()
            }
            Database::Postgres(_) => {
                let mut conn = self.postgres_connection().await;
                RunQueryDsl::get_result(sql_query(sql), &mut conn).await.unwrap()
            }
        };
        counted.n
    }

    /// As if no instance had renewed its lease for long.
    pub(crate) async fn let_leases_run_out(&self) {
        self.clock.advance(Store::LEASE);
        if self.url.is_some() {
            self.execute("UPDATE leases SET expires_at = now()").await.unwrap();
        }
    }

    /// A connection to the PostgreSQL database that is not the store's.
    pub(crate) async fn postgres_connection(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(self.url.as_deref().unwrap()).await.unwrap()
    }

    /// A connection to the SQLite file that is not the store's.
    pub(crate) fn sqlite_connection(&self) -> SqliteConnection {
        let Database::Sqlite(path) = &self.database else { panic!("not SQLite") };
        let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        conn.batch("PRAGMA busy_timeout = 5000").unwrap();
        conn
    }
}

/// An operation on a cluster, with an id of its own.
pub(crate) fn operation(ports: &StorePorts) -> Operation {
    let access =
        AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("web").with("replicas", 5);
    ports.permit(access).operation().unwrap().clone()
}

/// A cluster to be stored.
pub(crate) fn cluster(ports: &StorePorts, name: &str, credential: Credential) -> ClusterRecord {
    ClusterRecord {
        name: ClusterName::new(name).unwrap(),
        description: String::new(),
        labels: [].into(),
        auth_type: AuthType::Token,
        connection: Connection {
            server: ApiServer::new("https://192.0.2.1:6443").unwrap(),
            ca: None,
            tls_server_name: None,
            insecure_skip_tls_verify: false,
            credential,
        },
        observation: None,
        at: ports.now(),
    }
}

/// A super admin to be stored.
pub(crate) fn user(ports: &StorePorts, name: &str) -> UserRecord {
    UserRecord {
        username: Username::new(name).unwrap(),
        password: PasswordHash::new("hash".to_owned()),
        role: Role::SuperAdmin,
        display_name: name.to_owned(),
        at: ports.now(),
    }
}

pub(crate) trait Batch {
    fn batch(&mut self, sql: &str) -> Result<(), String>;
}

impl Batch for SqliteConnection {
    fn batch(&mut self, sql: &str) -> Result<(), String> {
        diesel::connection::SimpleConnection::batch_execute(self, sql).map_err(|error| error.to_string())
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = sql_types::BigInt)]
    n: i64,
}

#[derive(Debug, QueryableByName)]
pub(crate) struct StoredEntry {
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) seq: i64,
    #[diesel(sql_type = sql_types::Text)]
    pub(crate) entry: String,
    #[diesel(sql_type = sql_types::Text)]
    pub(crate) body: String,
    #[diesel(sql_type = sql_types::Binary)]
    pub(crate) hash: Vec<u8>,
}

/// Panics where the chain has a gap, or a hash that does not follow.
pub(crate) fn verify(entries: &[StoredEntry]) {
    let mut hash = ChainHash::GENESIS;
    for (entry, seq) in entries.iter().zip(1..) {
        assert_eq!(entry.seq, seq, "a gap");
        hash = hash.next(seq, &entry.body);
        assert_eq!(entry.hash, hash.0, "entry {seq} does not follow");
    }
}

/// What a verification finds.
pub(crate) async fn verdict(store: &Store) -> Verdict {
    verdict_under(store, FINGERPRINT).await
}

/// What a verification finds that trusts the key of this fingerprint.
pub(crate) async fn verdict_under(store: &Store, fingerprint: &str) -> Verdict {
    let signer = Ring::signer(fingerprint);
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    pilothouse_core::audit::verify(store, None, signatures).await.unwrap()
}
