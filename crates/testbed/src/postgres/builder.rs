//! Options of a PostgreSQL server, and its initialisation.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    sync::{Mutex, atomic::AtomicU32},
};

use rustix::process::geteuid;

use super::{PASSWORD, Postgres};
use crate::{
    POSTGRES_BIN, REQUIRE_POSTGRES, ServingCertificate,
    binaries::log_line,
    certificates::Authority,
    error::{Error, Result, io},
    folder::Folder,
    ports::Port,
};

/// Minimum major version.
const MIN_MAJOR_VERSION: u32 = 15;

/// Options of a PostgreSQL server.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresBuilder {
    pub(super) durable: bool,
    pub(super) commits_late: bool,
    pub(super) serving: Option<ServingCertificate>,
}

impl PostgresBuilder {
    /// Whether commits are flushed to disk, so that they survive a [`Postgres::cut`]. Default: false, for speed.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Whether commits are acknowledged before they are written (`synchronous_commit = off` as the default of sessions)
    /// and written as late as possible, so that a [`Postgres::cut`] loses them.
    pub fn commits_late(mut self, commits_late: bool) -> Self {
        self.commits_late = commits_late;
        self
    }

    /// Accepts TLS connections with this certificate, besides unencrypted ones. Default: no TLS.
    pub fn serving(mut self, certificate: ServingCertificate) -> Self {
        self.serving = Some(certificate);
        self
    }

    /// Initialises and starts the server. Returns when it accepts connections. [`Error::PostgresUnavailable`] names
    /// what is missing on this machine.
    pub fn start(self) -> Result<Postgres> {
        let bin = binaries()?;
        let (port, folder) = (Port::claim()?, Folder::create()?);
        let server_dir = folder.path().join("postgres");
        fs::create_dir(&server_dir).map_err(io("creating the directory of PostgreSQL"))?;
        let authority = Authority::new("pilothouse-testbed")?;
        let postgres = Postgres {
            options: self,
            bin,
            user: unprivileged_user()?,
            supervisor: Mutex::default(),
            databases: AtomicU32::default(),
            port,
            server_dir,
            folder,
        };
        postgres.write("password", PASSWORD)?;
        postgres.write("ca.crt", &authority.pem())?;
        if let Some(certificate) = self.serving {
            let pair = authority.serving(certificate)?;
            postgres.write("server.crt", &pair.certificate)?;
            postgres.write("server.key", &pair.key)?;
        }
        if let Some((uid, gid)) = postgres.user {
            let searchable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(postgres.folder.path(), searchable)
                .map_err(io("setting the mode of the directory"))?;
            chown(&postgres.server_dir, Some(uid), Some(gid))
                .map_err(io("changing the owner of the directory to postgres"))?;
        }
        // the default collation sorts by language, to test that Pilothouse's tables set their own collation
        postgres.run(
            "initdb",
            &["--pgdata=data", "--username=postgres", "--pwfile=password", "--auth=scram-sha-256"],
            &["--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en", "--no-sync"],
        )?;
        postgres.start()?;
        postgres.sql(&format!("CREATE ROLE pilothouse LOGIN CREATEDB PASSWORD '{PASSWORD}'"))?;
        Ok(postgres)
    }

    /// As [`start`](Self::start), but if this machine cannot run PostgreSQL, prints a message and returns `None`, so
    /// that the test can be skipped. With `PILOTHOUSE_TEST_REQUIRE_POSTGRES` set, that is an error.
    pub fn start_or_skip(self) -> Result<Option<Postgres>> {
        match self.start() {
            Ok(postgres) => Ok(Some(postgres)),
            Err(error @ Error::PostgresUnavailable(_)) => {
                if env::var_os(REQUIRE_POSTGRES).is_some_and(|value| !value.is_empty()) {
                    return Err(error);
                }
                log_line(&format!("SKIPPED: requires PostgreSQL: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The directory of the newest PostgreSQL binaries that Debian installed.
fn binaries() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(POSTGRES_BIN).filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(version, bin)| *version >= MIN_MAJOR_VERSION && bin.join("initdb").is_file() && bin.join("psql").is_file())
        .max()
        .map(|(_, bin)| bin)
        .ok_or_else(|| {
            Error::PostgresUnavailable(format!(
                "no PostgreSQL {MIN_MAJOR_VERSION} or later in /usr/lib/postgresql (Debian's package postgresql), and no {POSTGRES_BIN}"
            ))
        })
}

/// User and group id of `postgres`, created by Debian's package, if this process is root; PostgreSQL does not run as
/// root.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(io("reading /etc/passwd"))?;
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.first() == Some(&"postgres"));
    let ids = user.and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)));
    ids.map(Some).ok_or_else(|| {
        Error::PostgresUnavailable(
            "as root, PostgreSQL needs a user `postgres`: install Debian's package postgresql".into(),
        )
    })
}
