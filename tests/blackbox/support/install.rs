//! An installed server: a data folder, settings, and the built binary run on them.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use pilothouse_testbed::{Folder, Postgres, shared_postgres};
use rustix::process::{Pid, Signal, kill_process};

use super::{Client, eventually};

/// The password of the first admin, where a test does not say otherwise.
pub(crate) const PASSWORD: &str = "a password for tests";

/// On which database the tests run that do not name one: `sqlite` (the default) or `postgres`.
const DATABASE: &str = "PILOTHOUSE_TEST_DATABASE";

/// The system calls that change files and folders, make that durable, or send an answer.
const TRACED: &str = "trace=open,openat,creat,close,lseek,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,ftruncate,\
    truncate,fallocate,copy_file_range,sendfile,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
    unlink,unlinkat,mkdir,mkdirat,rmdir";

/// The PostgreSQL that the tests share; none, said aloud, where this machine has none.
pub(crate) fn postgres() -> Option<&'static Postgres> {
    shared_postgres().expect("a PostgreSQL starts")
}

/// A data folder and the settings that the binary is run with. Its folder goes with it, and so does a server that runs.
pub(crate) struct Install {
    folder: Folder,
    settings: BTreeMap<String, String>,
    starts: u32,
    /// The program that runs the binary, with its arguments; none runs it directly.
    runner: Vec<String>,
}

impl Install {
    /// Nothing installed yet; clusters on loopback are allowed, the first admin's password is [`PASSWORD`], and nobody
    /// probes clusters while a test looks at them. On SQLite, or on a PostgreSQL where `PILOTHOUSE_TEST_DATABASE` says
    /// so.
    pub(crate) fn new() -> Self {
        match env::var(DATABASE).as_deref() {
            Ok("postgres") => Self::on(&postgres().expect(DATABASE).database().expect("an empty database")),
            Ok("sqlite") | Err(_) => Self::on_sqlite(),
            Ok(other) => panic!("{DATABASE} is sqlite or postgres, not {other}"),
        }
    }

    /// Whether [`Install::new`] is on PostgreSQL.
    pub(crate) fn is_on_postgres() -> bool {
        env::var(DATABASE).is_ok_and(|database| database == "postgres")
    }

    /// As [`Install::new`], on this PostgreSQL database.
    pub(crate) fn on(url: &str) -> Self {
        Self::on_sqlite().set("DATABASE_URL", url)
    }

    /// Another replica of this one: the same database and key, a data folder of its own.
    pub(crate) fn replica(&self) -> Self {
        let mut replica = Self::on_sqlite();
        let data_dir = replica.settings.remove("PILOTHOUSE_DATA_DIR").expect("it is set");
        replica.settings = self.settings.clone();
        let key = self.settings.get("PILOTHOUSE_KEY_FILE").cloned();
        let key = key.unwrap_or_else(|| self.file("master.key").display().to_string());
        replica.set("DATA_DIR", data_dir).set("KEY_FILE", key)
    }

    /// As [`Install::new`], on SQLite whatever the environment says.
    pub(crate) fn on_sqlite() -> Self {
        let folder = Folder::create().expect("a temporary folder");
        let install = Self { folder, settings: BTreeMap::new(), starts: 0, runner: Vec::new() };
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

    /// Sets an environment variable that is none of ours.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs the binary as another user, in a group of the same number and in those besides. Only root can.
    pub(crate) fn run_by_user(mut self, user: u32, groups: &[u32]) -> Self {
        use std::os::unix::fs::{PermissionsExt, chown};
        // a copy, for the folders above the binary may be closed to others; made by another process, so that none of
        // ours has it open for writing when it is run
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

    /// Leaves `PILOTHOUSE_<name>` at its default.
    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.settings.remove(&format!("PILOTHOUSE_{name}"));
        self
    }

    /// Writes what its processes do to files to this file.
    pub(crate) fn traced(mut self, trace: PathBuf) -> Self {
        // the tracer is not between us and the process, and stops it for these calls only
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

    /// The folder of all that it has: data folder and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of its PostgreSQL database.
    pub(crate) fn database_url(&self) -> String {
        self.postgres_url().expect("it is on PostgreSQL")
    }

    /// The same; none on SQLite.
    pub(crate) fn postgres_url(&self) -> Option<String> {
        self.settings.get("PILOTHOUSE_DATABASE_URL").cloned()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data_dir().join(name)
    }

    /// The binary with these settings and nothing else of our environment.
    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = match self.runner.split_first() {
            None => Command::new(env!("CARGO_BIN_EXE_pilothouse")),
            Some((runner, arguments)) => {
                let mut command = Command::new(runner);
                command.args(arguments);
                command
            }
        };
        command.args(arguments).env_clear().env("USER", "tester").envs(&self.settings);
        command.current_dir(self.folder.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// Runs a command to its end, with this on its standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the built binary runs");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // whoever does not read its input may have closed it
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }

    /// Starts a command, whose output is kept.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the built binary runs")
    }

    /// Starts the server, and returns when it says that it listens.
    pub(crate) async fn start(self) -> Server {
        self.start_with(&[]).await
    }

    /// Starts the server with flags.
    pub(crate) async fn start_with(mut self, flags: &[&str]) -> Server {
        let (mut process, stdout) = self.launch(flags);
        let address = eventually("the line that says where it listens", async || {
            if let Some(status) = process.ended() {
                panic!("it ended with {status}:\n{}", self.log());
            }
            let said = fs::read_to_string(&stdout).expect("its standard output");
            let line = said.lines().next().filter(|_| said.ends_with('\n'))?;
            Some(line.strip_prefix("pilothouse listening on ").expect(line).to_owned())
        });
        let address = address.await;
        Server { process, install: self, address }
    }

    /// Starts the server, and kills it so much later, whether it listens by then or not.
    pub(crate) async fn killed_at_start(mut self, after: Duration) -> Self {
        let (process, _) = self.launch(&[]);
        tokio::time::sleep(after).await;
        drop(process);
        self
    }

    /// Starts the server; and the file that its standard output goes to.
    fn launch(&mut self, flags: &[&str]) -> (Process, PathBuf) {
        self.starts += 1;
        let log = |stream| self.folder.path().join(format!("{}-{stream}.log", self.starts));
        let file = |stream| fs::File::create(log(stream)).expect("a log in the folder");
        let child = self
            .command(&[&["serve"], flags].concat())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the built binary runs");
        (Process(child), log("stdout"))
    }

    /// Everything its servers have written to standard output and standard error.
    pub(crate) fn log(&self) -> String {
        let logs = fs::read_dir(self.folder.path()).expect("the folder").flatten();
        let mut logs: Vec<_> = logs.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        logs.sort();
        logs.iter().map(|log| String::from_utf8_lossy(&fs::read(log).expect("a log")).into_owned()).collect()
    }

    /// Every file of the data folder; a PostgreSQL's data as the file `database.sql`.
    pub(crate) fn data(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => files.push((path.clone(), fs::read(path).expect("a file of the data folder"))),
                }
            }
        }
        if let Some(url) = self.settings.get("PILOTHOUSE_DATABASE_URL") {
            let dump = postgres().expect("it is on it").dump(url).expect("a dump");
            files.push((self.file("database.sql"), dump.into_bytes()));
        }
        files
    }
}

/// A running server. Dropped, it is killed; after a failed test its log is shown.
pub(crate) struct Server {
    process: Process,
    /// What it runs on.
    pub(crate) install: Install,
    /// `http://127.0.0.1:…`
    pub(crate) address: String,
}

impl Server {
    /// A fresh install, started.
    pub(crate) async fn fresh() -> Self {
        Install::new().start().await
    }

    /// A client that has not signed in.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// A client of the first admin.
    pub(crate) async fn admin(&self) -> Client {
        self.client().sign_in("admin", PASSWORD).await
    }

    /// A client of a new user with this role (and this name).
    pub(crate) async fn user(&self, admin: &Client, role: &str) -> Client {
        admin.add_user(role, role).await;
        self.client().sign_in(role, PASSWORD).await
    }

    /// What the system says of the process under this name.
    fn of_process(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.process.0.id().to_string()).join(name)
    }

    /// How many bytes of memory it holds.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(self.of_process("status")).expect("it runs");
        let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line on memory");
        held.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// How many files and connections it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(self.of_process("fd")).expect("it runs").count()
    }

    /// Stops it in the middle of everything; none of its threads runs when this returns.
    pub(crate) async fn stand_still(&self) {
        self.signal(Signal::STOP);
        eventually("a process that stands still", async || {
            let mut threads = fs::read_dir(self.of_process("task")).expect("it runs").flatten();
            // "pid (name) state …"; the name may hold anything but ends with the last bracket
            let stands =
                |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']));
            threads
                .all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(stands))
                .then_some(())
        })
        .await;
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).expect("it runs");
    }

    /// The most memory it has used so far, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) -> (ExitStatus, Install) {
        let Self { mut process, install, .. } = self;
        let status = eventually("the end of the server", async || process.ended()).await;
        (status, install)
    }

    /// Ends it as an operator does, and sees that it ends well.
    pub(crate) async fn stop(self) -> Install {
        self.signal(Signal::TERM);
        let (status, install) = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", install.log());
        install
    }

    /// Ends it as a power cut does.
    pub(crate) async fn kill(self) -> Install {
        self.signal(Signal::KILL);
        self.ended().await.1
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} ---\n{}", self.data_dir().display(), self.log());
        }
    }
}

struct Process(Child);

impl Process {
    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is ours")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}
