//! A throwaway PostgreSQL, from Debian's binaries: started, broken on purpose, gone with its owner.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{
    POSTGRES_BIN, REQUIRE_POSTGRES, ServingCertificate,
    binaries::say,
    certificates::Authority,
    error::{Error, Result, io},
    folder::{Folder, copy},
    ports::Port,
    processes::tail,
};

/// How long a start may take on a machine that also compiles, and an end.
const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// The oldest major version that is used.
const OLDEST: u32 = 15;
/// Of the superuser `postgres` and of `pilothouse`, who may make databases and owns those.
const PASSWORD: &str = "password of the test bed";

/// Ends the server when its own input closes, which the kernel does however the owner ends. Unlike a kill, that leaves
/// no shared memory behind; the reaper of the folder waits for it as long as `running` is there.
/// When the owner dies while the server is stopped, the kernel hangs up on the whole group.
const SUPERVISOR: &str = r#"
trap '' HUP
("$@"; rm -f running) &
cat > /dev/null
if read -r pid < data/postmaster.pid; then
    for process in "$pid" $(cat "/proc/$pid/task/$pid/children"); do kill -CONT "$process"; done
    kill -INT "$pid"
fi
wait
rm -f running
"#;

/// What a PostgreSQL shall be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresBuilder {
    durable: bool,
    commits_late: bool,
    serving: Option<ServingCertificate>,
}

impl PostgresBuilder {
    /// Whether what is committed is flushed, so that it survives a [`Postgres::cut`]; not by default, for speed.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Acknowledges commits before they are written (`synchronous_commit = off`), by default of every session, and writes them
    /// as late as it can: a [`Postgres::cut`] loses them.
    pub fn commits_late(mut self, commits_late: bool) -> Self {
        self.commits_late = commits_late;
        self
    }

    /// Speaks TLS, too, with this certificate; without it only in the clear.
    pub fn serving(mut self, certificate: ServingCertificate) -> Self {
        self.serving = Some(certificate);
        self
    }

    /// Makes and starts it; returns when it takes connections. [`Error::PostgresUnavailable`] says what this machine
    /// lacks.
    pub fn start(self) -> Result<Postgres> {
        let bin = binaries()?;
        let (port, folder) = (Port::claim()?, Folder::create()?);
        let home = folder.path().join("postgres");
        fs::create_dir(&home).map_err(io("creating the folder of PostgreSQL"))?;
        let authority = Authority::new("pilothouse-testbed")?;
        let postgres = Postgres {
            built: self,
            bin,
            user: unprivileged_user()?,
            supervisor: Mutex::default(),
            databases: AtomicU32::default(),
            port,
            home,
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
            fs::set_permissions(postgres.folder.path(), searchable).map_err(io("opening the folder"))?;
            chown(&postgres.home, Some(uid), Some(gid)).map_err(io("giving the folder to postgres"))?;
        }
        // texts sort by language unless our tables say otherwise
        postgres.run(
            "initdb",
            &["--pgdata=data", "--username=postgres", "--pwfile=password", "--auth=scram-sha-256"],
            &["--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en", "--no-sync"],
        )?;
        postgres.start()?;
        postgres.sql(&format!("CREATE ROLE pilothouse LOGIN CREATEDB PASSWORD '{PASSWORD}'"))?;
        Ok(postgres)
    }

    /// As [`start`](Self::start); where this machine cannot, says so aloud and returns `None`, so that the test can be
    /// skipped, unless `PILOTHOUSE_TEST_REQUIRE_POSTGRES` is set.
    pub fn start_or_skip(self) -> Result<Option<Postgres>> {
        match self.start() {
            Ok(postgres) => Ok(Some(postgres)),
            Err(error @ Error::PostgresUnavailable(_)) => {
                if env::var_os(REQUIRE_POSTGRES).is_some_and(|value| !value.is_empty()) {
                    return Err(error);
                }
                say(&format!("SKIPPED what needs PostgreSQL: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// A PostgreSQL on a port of the loopback. It ends with this value, and at the latest with the process that started it,
/// however that ends.
pub struct Postgres {
    built: PostgresBuilder,
    bin: PathBuf,
    /// Whom it runs as, when we are root, whom it refuses.
    user: Option<(u32, u32)>,
    supervisor: Mutex<Option<Child>>,
    databases: AtomicU32,
    port: Port,
    home: PathBuf,
    folder: Folder,
}

impl Postgres {
    /// A new one, to be described and started.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// Makes an empty database; its address, with user and password, without parameters.
    pub fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name} OWNER pilothouse"))?;
        let password = PASSWORD.replace(' ', "%20");
        Ok(format!("postgres://pilothouse:{password}@127.0.0.1:{}/{name}", self.port.number()))
    }

    /// The password in the addresses, as it must be shown nowhere.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The folder with its programs.
    pub fn programs(&self) -> &Path {
        &self.bin
    }

    /// The folder with its files.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of the authority that signed its certificate, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.home.join("ca.crt")
    }

    /// Runs SQL as the superuser; what it answers, a line per row.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in("postgres", sql)
    }

    /// Runs SQL in the database of this name or address.
    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        let flags = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"];
        self.run("psql", &flags, &["--command", sql, database])
    }

    /// All of the database of this address, as SQL.
    pub fn dump(&self, database: &str) -> Result<String> {
        self.run("pg_dump", &["--inserts"], &[database])
    }

    /// Ends it in the middle of everything; it is gone when this returns, its data is not.
    pub fn cut(&self) -> Result<()> {
        let pid = fs::read_to_string(self.home.join("data/postmaster.pid")).unwrap_or_default();
        let pid = pid.lines().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let pid = pid.ok_or_else(|| Error::Program("PostgreSQL is not running".into()))?;
        kill_process(pid, Signal::QUIT).map_err(|error| io("ending PostgreSQL")(error.into()))?;
        let end = Instant::now() + START;
        while self.home.join("running").exists() {
            if Instant::now() > end {
                return Err(self.late("the end of PostgreSQL"));
            }
            sleep(POLL);
        }
        self.dismiss();
        Ok(())
    }

    /// Signals it and all its backends.
    pub fn signal(&self, signal: crate::Signal) -> Result<()> {
        let pid = fs::read_to_string(self.home.join("data/postmaster.pid")).unwrap_or_default();
        let pid = pid.lines().next().unwrap_or_default();
        let is_its = |stat: &str| {
            // "pid (name) state parent …"; the name may hold anything but ends with the last bracket
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(pid)
        };
        let processes = fs::read_dir("/proc").map_err(io("listing processes"))?.flatten();
        let backends = processes
            .filter(|entry| fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_its(&stat)))
            .filter_map(|entry| entry.file_name().into_string().ok());
        // the postmaster first, so that it makes no more
        for pid in std::iter::once(pid.to_owned()).chain(backends) {
            let pid = pid.parse().ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| Error::Program("PostgreSQL is not running".into()))?;
            match kill_process(pid, signal.into()) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(io("signalling PostgreSQL")(error.into())),
            }
        }
        Ok(())
    }

    /// Starts it, on its old port and data; returns when it takes connections.
    pub fn start(&self) -> Result<()> {
        self.write("running", "")?;
        let out = fs::File::options().create(true).append(true).open(self.home.join("server.out"));
        let out = out.map_err(io("opening the log of PostgreSQL"))?;
        let flush = if self.built.durable { "on" } else { "off" };
        let tls = if self.built.serving.is_some() { "on" } else { "off" };
        let late = [
            "synchronous_commit=off",
            "wal_writer_delay=10s",
            "wal_writer_flush_after=1GB",
            "autovacuum=off",
        ];
        let late = if self.built.commits_late { &late[..] } else { &[] };
        let settings = [
            format!("port={}", self.port.number()),
            format!("fsync={flush}"),
            format!("full_page_writes={flush}"),
            format!("ssl={tls}"),
            "ssl_cert_file=../server.crt".into(),
            "ssl_key_file=../server.key".into(),
            "listen_addresses=127.0.0.1".into(),
            "unix_socket_directories=".into(),
            "dynamic_shared_memory_type=mmap".into(),
            "max_connections=400".into(),
        ];
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SUPERVISOR, "pilothouse-postgres"]).arg(self.bin.join("postgres"));
        command.arg("-D").arg(self.home.join("data"));
        for setting in settings.iter().map(String::as_str).chain(late.iter().copied()) {
            command.args(["-c", setting]);
        }
        let supervisor = self
            .as_user(&mut command)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().map_err(io("sharing a log"))?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .map_err(io("starting PostgreSQL"))?;
        *self.supervisor() = Some(supervisor);
        let end = Instant::now() + START;
        loop {
            // the eighth line says how far it is
            let status = fs::read_to_string(self.home.join("data/postmaster.pid")).unwrap_or_default();
            if status.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if !self.home.join("running").exists() {
                let log = tail(&self.home.join("server.out"));
                return Err(Error::Ended { name: "PostgreSQL".into(), log });
            }
            if Instant::now() > end {
                return Err(self.late("a ready PostgreSQL"));
            }
            sleep(POLL);
        }
    }

    /// Copies its files to `folder`, which must not exist, as they are at one moment: what a standby has that received nothing
    /// since.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        self.signal(crate::Signal::Stop)?;
        let copied = copy(&self.home.join("data"), folder);
        self.signal(crate::Signal::Cont)?;
        copied
    }

    /// Ends it in the middle of everything and starts it on the files of a [copy](Self::copy_to), under the same address: a
    /// failover to a standby that lacks the commits since. Returns when it takes connections.
    pub fn fail_over_to(&self, folder: &Path) -> Result<()> {
        self.cut()?;
        let data = self.home.join("data");
        fs::remove_dir_all(&data).map_err(io("removing the files of PostgreSQL"))?;
        copy(folder, &data)?;
        // of the process that ran when they were copied
        let _ = fs::remove_file(data.join("postmaster.pid"));
        self.give_to_user(&data)?;
        self.start()
    }

    /// Makes a folder and all in it the files of the user that PostgreSQL runs as, for it alone.
    fn give_to_user(&self, path: &Path) -> Result<()> {
        let giving = || io(format!("giving {} to postgres", path.display()));
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).map_err(giving())?;
        }
        if !path.is_dir() {
            return Ok(());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(giving())?;
        for entry in fs::read_dir(path).map_err(giving())? {
            self.give_to_user(&entry.map_err(giving())?.path())?;
        }
        Ok(())
    }

    /// Lets the supervisor end the server, if it runs, and waits for both.
    fn dismiss(&self) {
        if let Some(mut supervisor) = self.supervisor().take() {
            drop(supervisor.stdin.take());
            let _ = supervisor.wait();
        }
    }

    fn supervisor(&self) -> MutexGuard<'_, Option<Child>> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self, what: &str) -> Error {
        let last = tail(&self.home.join("server.out"));
        Error::Deadline { what: what.into(), waited: START, last }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.home.join(name);
        fs::write(&path, text).map_err(io(format!("writing {name}")))?;
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid)).map_err(io(format!("giving {name} to postgres")))?;
        }
        let mode = if name == "server.key" { 0o600 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io(format!("chmod of {name}")))
    }

    fn as_user<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.current_dir(&self.home);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs one of its programs to its end; what that says.
    fn run(&self, program: &str, flags: &[&str], more: &[&str]) -> Result<String> {
        let mut command = Command::new(self.bin.join(program));
        command.args(flags).args(more).stdin(Stdio::null());
        if program == "psql" {
            let server = [("PGHOST", "127.0.0.1"), ("PGUSER", "postgres")];
            command.envs(server).env("PGPASSWORD", PASSWORD).env("PGPORT", self.port.number().to_string());
        }
        let output = self.as_user(&mut command).output().map_err(io(format!("running {program}")))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Error::Program(format!(
                "{program} failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// The newest binaries that Debian has installed.
fn binaries() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(POSTGRES_BIN).filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(version, bin)| *version >= OLDEST && bin.join("initdb").is_file() && bin.join("psql").is_file())
        .max()
        .map(|(_, bin)| bin)
        .ok_or_else(|| {
            Error::PostgresUnavailable(format!(
                "no PostgreSQL {OLDEST} or later in /usr/lib/postgresql (Debian's package postgresql), and no {POSTGRES_BIN}"
            ))
        })
}

/// PostgreSQL does not run as root: the user that Debian's package has made.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(io("reading /etc/passwd"))?;
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.first() == Some(&"postgres"));
    let ids = user.and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)));
    ids.map(Some).ok_or_else(|| Error::PostgresUnavailable("as root it takes a user `postgres`".into()))
}
