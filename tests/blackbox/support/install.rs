//! Installed server: a data folder, settings, and the built binary that runs with them.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use pilothouse_testbed::{Folder, Postgres, shared_postgres};

use super::{
    FakeClock, eventually,
    server::{Process, Server},
};

/// Default password of the first admin.
pub(crate) const PASSWORD: &str = "a password for tests";

/// Selects the database of tests that do not choose one: `sqlite` (the default) or `postgres`.
const DATABASE: &str = "PILOTHOUSE_TEST_DATABASE";

/// The system calls that change files and folders, make changes durable, or send a response.
const TRACED: &str = "trace=open,openat,creat,close,lseek,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,ftruncate,\
    truncate,fallocate,copy_file_range,sendfile,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
    unlink,unlinkat,mkdir,mkdirat,rmdir";

/// The shared PostgreSQL; `None`, with a message, if the machine has none.
pub(crate) fn postgres() -> Option<&'static Postgres> {
    shared_postgres().expect("a PostgreSQL starts")
}

/// A data folder and the settings for the binary. Dropping this value removes the folder.
pub(crate) struct Install {
    folder: Folder,
    settings: BTreeMap<String, String>,
    /// The settings file of all commands, if any.
    settings_file: Option<PathBuf>,
    starts: u32,
    /// The command line that runs the binary; if it is empty, the binary runs directly.
    runner: Vec<String>,
}

impl Install {
    /// An empty install: clusters on loopback are allowed, the first admin's password is [`PASSWORD`], and probes do
    /// not run during a test. The database is SQLite, or PostgreSQL if `PILOTHOUSE_TEST_DATABASE` is `postgres`.
    pub(crate) fn new() -> Self {
        match env::var(DATABASE).as_deref() {
            Ok("postgres") => {
                Self::on_postgres(&postgres().expect(DATABASE).database().expect("an empty database"))
            }
            Ok("sqlite") | Err(_) => Self::on_sqlite(),
            Ok(other) => panic!("{DATABASE} is sqlite or postgres, not {other}"),
        }
    }

    /// Reports whether [`Install::new`] uses PostgreSQL.
    pub(crate) fn is_on_postgres() -> bool {
        env::var(DATABASE).is_ok_and(|database| database == "postgres")
    }

    /// As [`Install::new`], with this PostgreSQL database.
    pub(crate) fn on_postgres(url: &str) -> Self {
        Self::on_sqlite().set("DATABASE_URL", url)
    }

    /// Another replica: the same database and key, with its own data folder.
    pub(crate) fn replica(&self) -> Self {
        let mut replica = Self::on_sqlite();
        let data_dir = replica.settings.remove("PILOTHOUSE_DATA_DIR").expect("DATA_DIR is set");
        replica.settings = self.settings.clone();
        replica.settings_file = self.settings_file.clone();
        let key = self.settings.get("PILOTHOUSE_KEY_FILE").cloned();
        let key = key.unwrap_or_else(|| self.file("master.key").display().to_string());
        replica.set("DATA_DIR", data_dir).set("KEY_FILE", key)
    }

    /// As [`Install::new`], always with SQLite.
    pub(crate) fn on_sqlite() -> Self {
        let folder = Folder::create().expect("a temporary folder");
        let install =
            Self { folder, settings: BTreeMap::new(), settings_file: None, starts: 0, runner: Vec::new() };
        let data_dir = install.data_dir().display().to_string();
        install
            .set("DATA_DIR", data_dir)
            .set("LISTEN", "127.0.0.1:0")
            .set("EGRESS_ALLOW_LOOPBACK", "true")
            .set("ADMIN_PASSWORD", PASSWORD)
            .set("PROBE_INTERVAL", "1h")
    }

    /// Sets the environment variable `PILOTHOUSE_<name>`.
    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(format!("PILOTHOUSE_{name}"), value.into());
        self
    }

    /// Sets the text of a settings file, for settings that environment variables cannot express.
    pub(crate) fn settings_file(mut self, text: &str) -> Self {
        // in a folder of its own: the files beside the data folder are logs
        let folder = self.folder.path().join("settings");
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("pilothouse.toml");
        fs::write(&file, text).expect("the settings file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the mode of a file");
        self.settings_file = Some(file);
        self
    }

    /// Sets an environment variable without the prefix.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs the binary with this clock.
    pub(crate) fn with_clock(self, clock: &FakeClock) -> Self {
        clock.variables().iter().fold(self, |install, (name, value)| install.env(name, value))
    }

    /// Runs the binary as another user, with the group of the same number and with `groups`. Needs root.
    pub(crate) fn run_as_user(mut self, user: u32, groups: &[u32]) -> Self {
        use std::os::unix::fs::chown;
        // Other users may not be able to read the folders above the binary, so it is copied. Another process makes the
        // copy, so that this process does not have the copy open for writing when it is executed.
        let (data, programs) = (self.data_dir(), self.folder.path().join("bin"));
        let binary = programs.join("pilothouse");
        fs::create_dir(&programs).expect("a folder");
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_pilothouse")).arg(&binary).status();
        assert!(copied.expect("cp runs").success());
        fs::create_dir(&data).expect("the data folder");
        chown(&data, Some(user), Some(user)).expect("this is root");
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("this is root");
        };
        allow(self.folder.path(), 0o711);
        allow(&programs, 0o711);
        allow(&binary, 0o755);
        allow(&data, 0o700);
        let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
        self.runner = vec![
            "setpriv".to_owned(),
            format!("--reuid={user}"),
            format!("--regid={user}"),
            format!("--groups={}", groups.join(",")),
            binary.display().to_string(),
        ];
        self
    }

    /// Removes `PILOTHOUSE_<name>`, so that its default applies.
    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.settings.remove(&format!("PILOTHOUSE_{name}"));
        self
    }

    /// Records the file system calls of the server and the commands in the file `trace`.
    pub(crate) fn traced(mut self, trace: PathBuf) -> Self {
        // -D keeps the server a direct child of the test; --seccomp-bpf stops it only for the traced calls
        let options = [
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-xx",
            "-s",
            "1048576",
            "-e",
            "signal=none",
            "-e",
            TRACED,
        ];
        self.runner = options.map(str::to_owned).to_vec();
        let (file, binary) = (trace.display().to_string(), env!("CARGO_BIN_EXE_pilothouse").to_owned());
        self.runner.extend(["-o".to_owned(), file, binary]);
        self
    }

    /// The folder that contains the data folder and the logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of the PostgreSQL database.
    pub(crate) fn database_url(&self) -> String {
        self.postgres_url().expect("the install uses PostgreSQL")
    }

    /// As [`Install::database_url`]; `None` with SQLite.
    pub(crate) fn postgres_url(&self) -> Option<String> {
        self.settings.get("PILOTHOUSE_DATABASE_URL").cloned()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data_dir().join(name)
    }

    /// The binary with these settings and no other environment variables of the test.
    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = match self.runner.split_first() {
            None => Command::new(env!("CARGO_BIN_EXE_pilothouse")),
            Some((runner, arguments)) => {
                let mut command = Command::new(runner);
                command.args(arguments);
                command
            }
        };
        command.args(arguments);
        if let Some(file) = &self.settings_file {
            command.arg("--config").arg(file);
        }
        command.env_clear().env("USER", "tester").envs(&self.settings);
        command.current_dir(self.folder.path());
        command
    }

    /// Runs a command until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// As [`Install::run`], with `input` on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the built binary runs");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // a process that does not read its input may have closed it
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("the command ends")
    }

    /// Starts a command; its output is captured.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the built binary runs")
    }

    /// Starts the server, and returns when it listens.
    pub(crate) async fn start(self) -> Server {
        self.start_with(&[]).await
    }

    /// As [`Install::start`], with command line flags.
    pub(crate) async fn start_with(mut self, flags: &[&str]) -> Server {
        let (mut process, stdout) = self.launch(flags);
        let address = eventually("the line with the listen address", async || {
            if let Some(status) = process.exit_status() {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            let output = fs::read_to_string(&stdout).expect("the server's standard output");
            let line = output.lines().next().filter(|_| output.ends_with('\n'))?;
            Some(line.strip_prefix("pilothouse listening on ").expect(line).to_owned())
        });
        let address = address.await;
        Server { process, install: self, address }
    }

    /// Starts the server, and kills it after the duration `after`, even if it does not listen yet.
    pub(crate) async fn start_and_kill(mut self, after: Duration) -> Self {
        let (process, _) = self.launch(&[]);
        tokio::time::sleep(after).await;
        drop(process);
        self
    }

    /// Starts the server. Returns the file with its standard output, too.
    fn launch(&mut self, flags: &[&str]) -> (Process, PathBuf) {
        self.starts += 1;
        let log = |stream| self.folder.path().join(format!("{}-{stream}.log", self.starts));
        let file = |stream| fs::File::create(log(stream)).expect("a log file");
        let child = self
            .command(&[&["serve"], flags].concat())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the built binary runs");
        (Process(child), log("stdout"))
    }

    /// The standard output and standard error of all servers of this install.
    pub(crate) fn log(&self) -> String {
        let logs = fs::read_dir(self.folder.path()).expect("a readable folder").flatten();
        let mut logs: Vec<_> = logs.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        logs.sort();
        logs.iter().map(|log| String::from_utf8_lossy(&fs::read(log).expect("a log")).into_owned()).collect()
    }

    /// All files of the data folder; a PostgreSQL dump as the file `database.sql`.
    pub(crate) fn data(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => files.push((path.clone(), fs::read(path).expect("a readable file"))),
                }
            }
        }
        if let Some(url) = self.settings.get("PILOTHOUSE_DATABASE_URL") {
            let dump = postgres().expect("the install uses PostgreSQL").dump(url).expect("a dump");
            files.push((self.file("database.sql"), dump.into_bytes()));
        }
        files
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.data_dir().display(), self.log());
        }
    }
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file exists").permissions().mode() & 0o777
}
