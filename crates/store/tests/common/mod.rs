//! Databases to try the store on: a SQLite file each, and a database each of a PostgreSQL of our own.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "tests panic")]

use std::sync::Arc;

use diesel::{Connection as _, QueryableByName, SqliteConnection, sql_query, sql_types};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use pilothouse_core::{
    Error, Result,
    access::{Access, Resource, Role, Verb},
    audit::{ChainHash, Checkpoint, CheckpointSigner as _, Operation, Signatures, Verdict},
    cluster::{ApiServer, AuthType, ClusterName, ClusterRecord, Connection, Credential},
    kind::Kind,
    seal::{SealedFor, Sealer},
    testing::{contract::StorePorts, fake},
    user::{PasswordHash, UserRecord, Username},
};
use pilothouse_store::{Database, Lent, OpenError, Store};
use pilothouse_testbed::{Postgres, shared_postgres};
use tempfile::TempDir;
use tokio::runtime::Handle;

pub(crate) const FINGERPRINT: &str = "fingerprint of the key";

/// Hides a value and binds it to its owner; no cipher, but enough to see whether the store uses it.
struct Mask;

impl Sealer for Mask {
    fn seal(&self, owner: &SealedFor, value: &[u8]) -> Result<Vec<u8>> {
        let mut sealed = format!("{} {} ", owner.row, owner.field).into_bytes();
        sealed.extend(value.iter().map(|byte| byte ^ 0xa5));
        Ok(sealed)
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        let prefix = format!("{} {} ", owner.row, owner.field);
        let value =
            sealed.strip_prefix(prefix.as_bytes()).ok_or_else(|| Error::internal("another's seal"))?;
        Ok(value.iter().map(|byte| byte ^ 0xa5).collect())
    }
}

/// A database of its own, gone at the end.
pub(crate) struct Place {
    pub(crate) database: Database,
    pub(crate) lent: Lent,
    pub(crate) clock: Arc<fake::FakeClock>,
    pub(crate) folder: TempDir,
    /// Of a PostgreSQL.
    pub(crate) url: Option<String>,
}

impl Place {
    fn new(folder: TempDir, database: Database, url: Option<String>) -> Self {
        let fake::Lent { clock, entropy, .. } = fake::Lent::default();
        let lent = Lent {
            runtime: Handle::current(),
            clock: clock.clone(),
            entropy,
            sealer: Arc::new(Mask),
            signer: Arc::new(fake::FakeSigner::default()),
        };
        Self { database, lent, clock, folder, url }
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
        Store::open(&self.database, self.lent.clone(), fingerprint).await
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
    let access = Access::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("web").with("replicas", 5);
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
    let signer = fake::FakeSigner::default();
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    pilothouse_core::audit::verify(store, &fake::MemoryWitness::default(), signatures).await.unwrap()
}
