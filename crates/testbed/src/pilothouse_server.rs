//! A Pilothouse server with SQLite in a temporary directory, for demo and benchmarks, and its release build.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use reqwest::{Client, Method};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result, io};

/// Port to listen on if it is free; otherwise the system chooses one.
const PREFERRED_PORT: u16 = 8080;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running server with a session of its first admin. Dropping it sends SIGTERM and waits for the process.
pub struct PilothouseServer {
    process: Child,
    binary: PathBuf,
    settings: Vec<(String, String)>,
    address: String,
    data_dir: PathBuf,
    log: PathBuf,
    password: String,
    client: Client,
    bearer: String,
    cookie: String,
}

impl PilothouseServer {
    /// Builds the binary, with Cargo's messages on standard error, and returns its path.
    pub fn build() -> Result<PathBuf> {
        let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--release",
                "--package",
                "pilothouse",
                "--message-format=json-render-diagnostics",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .map_err(io("running cargo"))?;
        let artifacts = String::from_utf8_lossy(&output.stdout);
        let artifacts = artifacts.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut binaries = artifacts.filter_map(|one| one["executable"].as_str().map(PathBuf::from));
        let failed = || Error::Program("the server does not build; cargo's messages are above".into());
        binaries.next_back().filter(|_| output.status.success()).ok_or_else(failed)
    }

    /// Starts the server with its data and its log in `folder`. In the directory of a control plane or of a
    /// [`Folder`](crate::Folder), the reaper ends the server if this process is killed.
    pub async fn start(binary: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(binary, folder, &[]).await
    }

    /// As [`start`](Self::start), with more settings, as environment variables without the prefix `PILOTHOUSE_`.
    pub async fn start_with(binary: &Path, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let (data_dir, log) = (folder.join("pilothouse"), folder.join("pilothouse.log"));
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (format!("PILOTHOUSE_{name}"), (*value).to_owned()))
            .collect();
        let port = TcpListener::bind(("127.0.0.1", PREFERRED_PORT)).map_or(0, |_| PREFERRED_PORT);
        let process = spawn(binary, &data_dir, &log, port, &settings)?;
        let client = Client::builder().no_proxy().build();
        let client = client.map_err(|error| Error::Program(format!("creating the HTTP client: {error}")))?;
        let mut server = Self {
            process,
            binary: binary.to_owned(),
            settings,
            address: String::new(),
            data_dir,
            log,
            password: String::new(),
            client,
            bearer: String::new(),
            cookie: String::new(),
        };
        server.address = server.wait_until_listening().await?;
        let password = fs::read_to_string(server.data_dir.join("initial-admin-password"));
        server.password = password.map_err(io("reading the initial password"))?.trim().to_owned();
        let credentials = json!({"username": "admin", "password": server.password});
        let session = server.post("/api/auth/login", credentials).await?;
        let text = |key: &str| session[key].as_str().unwrap_or_default();
        server.bearer = text("access_token").to_owned();
        server.cookie = format!("session_id={}", text("session_id"));
        Ok(server)
    }

    /// Starts the server again after [`Self::end`], with the same port and data. The session stays valid. Returns when
    /// the server listens.
    pub async fn start_again(&mut self) -> Result<()> {
        let port = self.address.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| Error::Program("the server's address has no port".into()))?;
        self.process = spawn(&self.binary, &self.data_dir, &self.log, port, &self.settings)?;
        self.wait_until_listening().await.map(drop)
    }

    /// The headers of the session: `Authorization` and `Cookie`.
    pub fn credentials(&self) -> [(&'static str, String); 2] {
        [("Authorization", format!("Bearer {}", self.bearer)), ("Cookie", self.cookie.clone())]
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub fn end(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }

    /// The server's URL, `http://127.0.0.1:…`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The password of `admin`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Registers a cluster by its kubeconfig, and returns its id.
    pub async fn register(&self, name: &str, kubeconfig: &str) -> Result<i64> {
        self.create_cluster(json!({"name": name, "auth_type": "kubeconfig", "kubeconfig": kubeconfig})).await
    }

    /// Registers a cluster without a connection test, for clusters that would fail it.
    pub async fn register_untested(&self, name: &str, kubeconfig: &str) -> Result<i64> {
        let body =
            json!({"name": name, "auth_type": "kubeconfig", "kubeconfig": kubeconfig, "skip_test": true});
        self.create_cluster(body).await
    }

    async fn create_cluster(&self, body: Value) -> Result<i64> {
        let id = self.post("/api/k8s/clusters", body).await?["cluster"]["id"].as_i64();
        id.ok_or_else(|| Error::Program("the new cluster has no id".into()))
    }

    /// GET; returns `data` of the response.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// POST; returns `data` of the response.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Waits until the process ends unexpectedly. Returns an error with the end of its log.
    pub async fn wait_for_exit(&mut self) -> Error {
        while let Ok(None) = self.process.try_wait() {
            sleep(POLL_INTERVAL).await;
        }
        Error::Ended { name: "the server".into(), log: crate::processes::tail(&self.log) }
    }

    async fn wait_until_listening(&mut self) -> Result<String> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            let output = fs::read_to_string(&self.log).map_err(io("reading the server's log"))?;
            let mut lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(address) = lines.find_map(|line| line.strip_prefix("pilothouse listening on ")) {
                return Ok(address.trim().to_owned());
            }
            if !matches!(self.process.try_wait(), Ok(None)) || Instant::now() > end {
                let log = crate::processes::tail(&self.log);
                return Err(Error::Ended { name: "the server".into(), log });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.address));
        request = request.bearer_auth(&self.bearer).header("Cookie", &self.cookie);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let (method, path) = (method.to_string(), path.to_owned());
        let result = async {
            let response = request.send().await?;
            Ok((response.status().as_u16(), response.json::<Value>().await?))
        };
        match result.await {
            Ok((200, mut body)) => Ok(body["data"].take()),
            Ok((code, body)) => {
                let message = body["details"].as_str().unwrap_or_default().to_owned();
                Err(Error::Status { method, path, code, message })
            }
            Err(source) => Err(Error::NoAnswer { method, path, source }),
        }
    }
}

/// Starts the server process with an empty log.
fn spawn(
    binary: &Path,
    data_dir: &Path,
    log: &Path,
    port: u16,
    settings: &[(String, String)],
) -> Result<Child> {
    let output = fs::File::create(log).map_err(io("creating the server's log"))?;
    Command::new(binary)
        .arg("serve")
        .env_clear() // PILOTHOUSE_… variables of the caller must not apply to this server
        .env("PILOTHOUSE_LISTEN", format!("127.0.0.1:{port}"))
        .env("PILOTHOUSE_DATA_DIR", data_dir)
        .env("PILOTHOUSE_EGRESS_ALLOW_LOOPBACK", "true")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(io("duplicating the log file handle"))?)
        .stderr(output)
        .spawn()
        .map_err(io("starting the server"))
}

impl Drop for PilothouseServer {
    fn drop(&mut self) {
        self.end();
    }
}
