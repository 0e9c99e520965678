//! Test databases: one SQLite file per test, and one database per test on the PostgreSQL server of the tests.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests panic")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use diesel::{Connection as _, QueryableByName, SqliteConnection, sql_query, sql_types};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Resource, Verb},
    audit::{ChainHash, Checkpoint, CheckpointSigner as _, Signatures, Verdict},
    cluster::{ClusterName, ClusterRecord},
    connection::{ApiServer, AuthType, Connection, Credential},
    coordinator::LEASE,
    hex::Hex,
    kind::Kind,
    name::ProviderId,
    operation::Operation,
    provider::{Admission, Person, ProviderSession},
    rng::{Rng, uuid_v7},
    role::Role,
    seal::{Keyring, Keys, SealedFor, Sealer},
    second_factor::TotpSeed,
    session::{SecretHash, SessionRecord},
    testing::{contract::StorePorts, fake},
    user::{PasswordHash, User, UserRecord, Username},
};
use pilothouse_store::{Database, OpenError, Store, StoreDeps};
use pilothouse_testbed::{Postgres, shared_postgres};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::runtime::Handle;

pub(crate) const FINGERPRINT: &str = "fingerprint of the key";

/// Fake sealer: encodes a value, and binds it to its owner and to a key. Not a cipher: tests recognise sealed values in
/// the files of the database.
struct FakeSealer {
    fingerprint: String,
}

impl FakeSealer {
    fn prefix(&self, owner: &SealedFor) -> Vec<u8> {
        let mut prefix = self.mark();
        prefix.extend(format!(" {} {} ", owner.row, owner.field).into_bytes());
        prefix
    }
}

impl Sealer for FakeSealer {
    fn seal(&self, owner: &SealedFor, value: &[u8]) -> Result<Vec<u8>> {
        let mut sealed = self.prefix(owner);
        sealed.extend(value.iter().map(|byte| byte ^ 0xa5));
        Ok(sealed)
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        let value = sealed.strip_prefix(self.prefix(owner).as_slice());
        let value = value.ok_or_else(|| Error::internal("sealed for another owner"))?;
        Ok(value.iter().map(|byte| byte ^ 0xa5).collect())
    }

    fn mark(&self) -> Vec<u8> {
        Sha256::digest(&self.fingerprint)[..9].to_vec()
    }
}

/// Fake keyring, which identifies keys by their fingerprints alone.
pub(crate) struct FakeKeyring(Mutex<Vec<String>>);

impl FakeKeyring {
    /// Creates a keyring whose first key is in use.
    pub(crate) fn of(fingerprints: &[&str]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(fingerprints.iter().map(ToString::to_string).collect())))
    }

    /// Adds a key.
    pub(crate) fn add(&self, fingerprint: &str) {
        self.0.lock().unwrap().push(fingerprint.to_owned());
    }

    /// The signer of the key with this fingerprint.
    pub(crate) fn signer(fingerprint: &str) -> fake::FakeSigner {
        fake::FakeSigner::of(Hex(Sha256::digest(fingerprint).into()))
    }
}

impl Keyring for FakeKeyring {
    fn active(&self) -> String {
        self.0.lock().unwrap()[0].clone()
    }

    fn keys(&self, fingerprint: &str) -> Result<Keys> {
        if !self.0.lock().unwrap().iter().any(|key| key == fingerprint) {
            return Err(Error::new(Cause::StoreUnavailable));
        }
        let sealer = Arc::new(FakeSealer { fingerprint: fingerprint.to_owned() });
        Ok(Keys { sealer, signer: Arc::new(Self::signer(fingerprint)) })
    }

    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>> {
        let fingerprints = self.0.lock().unwrap().clone();
        let opened =
            fingerprints.iter().find_map(|key| self.keys(key).unwrap().sealer.open(owner, sealed).ok());
        opened.ok_or_else(|| Error::internal("sealed for another owner"))
    }

    fn set_active(&self, fingerprint: &str) -> Result<()> {
        self.keys(fingerprint)?;
        let mut fingerprints = self.0.lock().unwrap();
        let index = fingerprints.iter().position(|key| key == fingerprint).unwrap();
        fingerprints.swap(0, index);
        Ok(())
    }
}

/// A database for one test, deleted at the end.
pub(crate) struct TestDatabase {
    pub(crate) database: Database,
    pub(crate) deps: StoreDeps,
    pub(crate) clock: Arc<fake::FakeClock>,
    pub(crate) checkpoint_sink: Arc<fake::MemoryCheckpointSink>,
    pub(crate) directory: TempDir,
    /// URL of a PostgreSQL database; `None` for SQLite.
    pub(crate) url: Option<String>,
}

impl TestDatabase {
    fn new(directory: TempDir, database: Database, url: Option<String>) -> Self {
        let fake::FakeRuntime { clock, rng, .. } = fake::FakeRuntime::default();
        let checkpoint_sink = Arc::new(fake::MemoryCheckpointSink::default());
        let deps = StoreDeps {
            runtime: Handle::current(),
            checkpoint_sink: checkpoint_sink.clone(),
            clock: clock.clone(),
            rng,
            keyring: FakeKeyring::of(&[FINGERPRINT]),
        };
        Self { database, deps, clock, checkpoint_sink, directory, url }
    }

    /// A SQLite file that does not exist yet.
    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(directory.path().join("pilothouse.db"));
        Self::new(directory, database, None)
    }

    /// An empty database on the shared PostgreSQL server; `None` if this machine has no PostgreSQL.
    pub(crate) fn postgres() -> Option<Self> {
        shared_postgres().unwrap().map(Self::of)
    }

    /// An empty database on this PostgreSQL server.
    pub(crate) fn of(postgres: &Postgres) -> Self {
        Self::at(postgres.database().unwrap())
    }

    /// The database with this URL.
    pub(crate) fn at(url: String) -> Self {
        Self::new(tempfile::tempdir().unwrap(), Database::parse(&url).unwrap(), Some(url))
    }

    /// One database of each available kind.
    pub(crate) fn all() -> Vec<Self> {
        [Self::sqlite()].into_iter().chain(Self::postgres()).collect()
    }

    pub(crate) async fn open(&self) -> Store {
        self.try_open(FINGERPRINT).await.unwrap()
    }

    pub(crate) async fn try_open(&self, fingerprint: &str) -> Result<Store, OpenError> {
        let deps = StoreDeps { keyring: FakeKeyring::of(&[fingerprint]), ..self.deps.clone() };
        Store::open(&self.database, deps).await
    }

    /// Runs statements without the store.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), String> {
        match &self.database {
            Database::Sqlite(_) => self.sqlite_connection().batch(sql),
            Database::Postgres(_) => {
                let mut conn = self.postgres_connection().await;
                conn.batch_execute(sql).await.map_err(|error| error.to_string())
            }
        }
    }

    /// Reads the audit entries without the store.
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

    /// Runs a count query with the column `n`.
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

    /// Lets all leases expire.
    pub(crate) async fn expire_leases(&self) {
        self.clock.advance(LEASE);
        if self.url.is_some() {
            self.execute("UPDATE leases SET expires_at = now()").await.unwrap();
        }
    }

    /// A separate connection to the PostgreSQL database.
    pub(crate) async fn postgres_connection(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(self.url.as_deref().unwrap()).await.unwrap()
    }

    /// A separate connection to the SQLite file.
    pub(crate) fn sqlite_connection(&self) -> SqliteConnection {
        let Database::Sqlite(path) = &self.database else { panic!("not SQLite") };
        let mut conn = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        conn.batch("PRAGMA busy_timeout = 5000").unwrap();
        conn
    }
}

/// An operation on a cluster, with a new id.
pub(crate) fn operation(ports: &StorePorts) -> Operation {
    let access =
        AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("web").with("replicas", 5);
    ports.permit(access).operation().unwrap().clone()
}

/// A cluster record.
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
        probe_result: None,
        at: ports.now(),
    }
}

/// A super admin record.
pub(crate) fn user(ports: &StorePorts, name: &str) -> UserRecord {
    UserRecord {
        username: Username::new(name).unwrap(),
        password: PasswordHash::new("hash".to_owned()),
        role: Role::SuperAdmin,
        display_name: name.to_owned(),
        at: ports.now(),
    }
}

/// Signs in a new user of the provider `corp`, whose refresh token and seed contain the name. Returns the user.
pub(crate) async fn sign_in(ports: &StorePorts, rng: &dyn Rng, name: &str) -> Result<User> {
    let provider = ProviderId::new("corp").unwrap();
    let admission = Admission {
        provider: provider.clone(),
        person: Person::new(name, name, None, [format!("group of {name}")]).unwrap(),
        username: Username::federated(&provider, name),
        other_username: Username::federated(&provider, &format!("other {name}")),
        at: ports.now(),
    };
    let user = ports.federation.admit(&ports.people(), admission).await?;
    let at = ports.now();
    let record = SessionRecord {
        user_id: user.id,
        cookie: secret(rng),
        refresh: secret(rng),
        source_ip: None,
        user_agent: None,
        at,
        expires_at: at + Duration::from_secs(8 * 3600),
        authenticated_at: at,
        factor_at: None,
        throttle_key: None,
    };
    let origin = ProviderSession {
        provider,
        sid: Some(format!("session of {name}")),
        refresh_token: Some(format!("refresh token of {name}").into()),
        factor_at: None,
    };
    let login = ports.permit(AccessRequest::to(Verb::Login, Resource::Session).named(name));
    ports.federation.open(&login, record, origin).await?;
    let enroll = ports.permit(AccessRequest::to(Verb::Enroll, Resource::OwnSecondFactor).named(name));
    ports.second_factors.begin(&enroll, user.id, uuid_v7(at, rng), seed_of(name)).await?;
    Ok(user)
}

/// The seed of the user with this name: the name, filled up with `+`.
pub(crate) fn seed_of(name: &str) -> TotpSeed {
    let mut seed = [b'+'; TotpSeed::BYTES];
    seed.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    TotpSeed::new(seed)
}

/// A new secret.
pub(crate) fn secret(rng: &dyn Rng) -> SecretHash {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    SecretHash(bytes)
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

/// Panics if the chain has a gap, or a hash that does not match.
pub(crate) fn verify(entries: &[StoredEntry]) {
    let mut hash = ChainHash::GENESIS;
    for (entry, seq) in entries.iter().zip(1..) {
        assert_eq!(entry.seq, seq, "gap in the chain");
        hash = hash.next(seq, &entry.body);
        assert_eq!(entry.hash, hash.0, "hash of entry {seq} does not match");
    }
}

/// The result of a verification.
pub(crate) async fn verdict(store: &Store) -> Verdict {
    verdict_under(store, FINGERPRINT).await
}

/// The result of a verification that trusts the key with this fingerprint.
pub(crate) async fn verdict_under(store: &Store, fingerprint: &str) -> Verdict {
    let signer = FakeKeyring::signer(fingerprint);
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    pilothouse_core::audit::verify(store, None, signatures).await.unwrap()
}
