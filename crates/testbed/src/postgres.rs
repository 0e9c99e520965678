//! Temporary PostgreSQL server from Debian's binaries, with fault injection. The server and its data are removed when
//! the owner process ends.

use std::{
    fs,
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

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    error::{Error, Result, io},
    folder::{Folder, copy},
    ports::Port,
    processes::tail,
};

mod builder;

pub use builder::PostgresBuilder;

/// Time limit of a start and of a stop. Generous, because the machine may compile at the same time.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Password of the superuser `postgres` and of `pilothouse`, which may create databases and owns them.
const PASSWORD: &str = "password of the test bed";

/// Supervisor script: shuts the server down when its standard input closes, which the kernel does however the owner
/// ends. Unlike a kill, a shutdown leaves no shared memory behind. The directory's reaper waits while the file
/// `running` exists. SIGHUP is ignored: the kernel sends it to the process group when the owner ends while the server is
/// stopped.
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

/// A PostgreSQL server on a loopback port. It ends when this value is dropped and, at the latest, when the process that
/// started it ends, even by a kill.
pub struct Postgres {
    options: PostgresBuilder,
    bin: PathBuf,
    /// User and group id that the server runs as if this process is root, because PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
    supervisor: Mutex<Option<Child>>,
    databases: AtomicU32,
    port: Port,
    server_dir: PathBuf,
    folder: Folder,
}

impl Postgres {
    /// Returns a builder with the default options.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// Creates an empty database. Returns its URL with user and password, without parameters.
    pub fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name} OWNER pilothouse"))?;
        let password = PASSWORD.replace(' ', "%20");
        Ok(format!("postgres://pilothouse:{password}@127.0.0.1:{}/{name}", self.port.number()))
    }

    /// The password in the URLs, for tests that check that no output contains the password.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The directory of the PostgreSQL programs.
    pub fn programs(&self) -> &Path {
        &self.bin
    }

    /// The temporary directory of the server.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The PEM file with the certificate of the authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.server_dir.join("ca.crt")
    }

    /// Runs SQL as the superuser. Returns the result, one line per row.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in("postgres", sql)
    }

    /// As [`sql`](Self::sql), in the database with this name or URL.
    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        let flags = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"];
        self.run("psql", &flags, &["--command", sql, database])
    }

    /// Dumps the database with this URL as SQL.
    pub fn dump(&self, database: &str) -> Result<String> {
        self.run("pg_dump", &["--inserts"], &[database])
    }

    /// Ends the server immediately, without a checkpoint (SIGQUIT). Its processes have ended when this returns; its
    /// data remains.
    pub fn cut(&self) -> Result<()> {
        let pid = fs::read_to_string(self.server_dir.join("data/postmaster.pid")).unwrap_or_default();
        let pid = pid.lines().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let pid = pid.ok_or_else(|| Error::Program("PostgreSQL is not running".into()))?;
        kill_process(pid, Signal::QUIT).map_err(|error| io("sending SIGQUIT to PostgreSQL")(error.into()))?;
        let end = Instant::now() + START_TIMEOUT;
        while self.server_dir.join("running").exists() {
            if Instant::now() > end {
                return Err(self.deadline_error("the end of PostgreSQL"));
            }
            sleep(POLL_INTERVAL);
        }
        self.stop_supervisor();
        Ok(())
    }

    /// Signals the postmaster and all its child processes.
    pub fn signal(&self, signal: crate::Signal) -> Result<()> {
        let pid = fs::read_to_string(self.server_dir.join("data/postmaster.pid")).unwrap_or_default();
        let pid = pid.lines().next().unwrap_or_default();
        let is_child = |stat: &str| {
            // "pid (name) state parent …"; the name may contain anything and ends at the last bracket
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(pid)
        };
        let processes = fs::read_dir("/proc").map_err(io("listing processes"))?.flatten();
        let backends = processes
            .filter(|entry| fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_child(&stat)))
            .filter_map(|entry| entry.file_name().into_string().ok());
        // the postmaster first, so that it starts no more child processes
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

    /// Starts the server with the same port and data. Returns when it accepts connections.
    pub fn start(&self) -> Result<()> {
        self.write("running", "")?;
        let out = fs::File::options().create(true).append(true).open(self.server_dir.join("server.out"));
        let out = out.map_err(io("opening the log of PostgreSQL"))?;
        let flush = if self.options.durable { "on" } else { "off" };
        let tls = if self.options.serving.is_some() { "on" } else { "off" };
        let late_commit_settings = [
            "synchronous_commit=off",
            "wal_writer_delay=10s",
            "wal_writer_flush_after=1GB",
            "autovacuum=off",
        ];
        let late_commit_settings = if self.options.commits_late { &late_commit_settings[..] } else { &[] };
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
        command.arg("-D").arg(self.server_dir.join("data"));
        for setting in settings.iter().map(String::as_str).chain(late_commit_settings.iter().copied()) {
            command.args(["-c", setting]);
        }
        let supervisor = self
            .as_user(&mut command)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().map_err(io("duplicating the log file handle"))?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .map_err(io("starting PostgreSQL"))?;
        *self.supervisor() = Some(supervisor);
        let end = Instant::now() + START_TIMEOUT;
        loop {
            // the eighth line of the file is the status of the server
            let status = fs::read_to_string(self.server_dir.join("data/postmaster.pid")).unwrap_or_default();
            if status.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if !self.server_dir.join("running").exists() {
                let log = tail(&self.server_dir.join("server.out"));
                return Err(Error::Ended { name: "PostgreSQL".into(), log });
            }
            if Instant::now() > end {
                return Err(self.deadline_error("a ready PostgreSQL"));
            }
            sleep(POLL_INTERVAL);
        }
    }

    /// Copies the data files to `folder`, which must not exist, at one point in time: the state of a standby that
    /// received nothing since.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        self.signal(crate::Signal::Stop)?;
        let result = copy(&self.server_dir.join("data"), folder);
        self.signal(crate::Signal::Cont)?;
        result
    }

    /// Ends the server immediately and starts it with the files of a [copy](Self::copy_to), at the same address: a
    /// failover to a standby that lacks the commits since the copy. Returns when it accepts connections.
    pub fn fail_over_to(&self, folder: &Path) -> Result<()> {
        self.cut()?;
        let data = self.server_dir.join("data");
        fs::remove_dir_all(&data).map_err(io("removing the files of PostgreSQL"))?;
        copy(folder, &data)?;
        // the copy contains the file of the server that ran during the copy
        let _ = fs::remove_file(data.join("postmaster.pid"));
        self.chown_recursively(&data)?;
        self.start()
    }

    /// Changes the owner of a directory and its contents to the user of PostgreSQL, with mode 0700 for directories.
    fn chown_recursively(&self, path: &Path) -> Result<()> {
        let failed = || io(format!("changing the owner of {} to postgres", path.display()));
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).map_err(failed())?;
        }
        if !path.is_dir() {
            return Ok(());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed())?;
        for entry in fs::read_dir(path).map_err(failed())? {
            self.chown_recursively(&entry.map_err(failed())?.path())?;
        }
        Ok(())
    }

    /// Closes the supervisor's input, which shuts the server down, and waits for both.
    fn stop_supervisor(&self) {
        if let Some(mut supervisor) = self.supervisor().take() {
            drop(supervisor.stdin.take());
            let _ = supervisor.wait();
        }
    }

    fn supervisor(&self) -> MutexGuard<'_, Option<Child>> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline_error(&self, what: &str) -> Error {
        let last = tail(&self.server_dir.join("server.out"));
        Error::Deadline { what: what.into(), waited: START_TIMEOUT, last }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.server_dir.join(name);
        fs::write(&path, text).map_err(io(format!("writing {name}")))?;
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid))
                .map_err(io(format!("changing the owner of {name} to postgres")))?;
        }
        let mode = if name == "server.key" { 0o600 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io(format!("chmod of {name}")))
    }

    fn as_user<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.current_dir(&self.server_dir);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a PostgreSQL program. Returns its standard output.
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
        self.stop_supervisor();
    }
}
