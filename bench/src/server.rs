//! Measured processes, pinned to their core: the release build of the server, and the floor.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use pilothouse_testbed::{ControlPlane, PilothouseServer};
use serde_json::{Value, json};

use crate::{
    client::Target,
    error::{BenchError, Result},
    process,
};

/// Password of every user that [`Server::create_user`] creates.
const PASSWORD: &str = "correct-horse-battery-staple";

/// The server with an authenticated session, pinned to its core.
pub(crate) struct Server {
    pub(crate) pilothouse: PilothouseServer,
    pub(crate) target: Target,
}

impl Server {
    /// Starts the server with its data in `folder`.
    pub(crate) async fn start(binary: &Path, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        // the server inherits the pinning and starts one worker for the core
        process::pin_current_thread(process::MEASURED_CORE)?;
        let started = PilothouseServer::start_with(binary, folder, settings).await;
        process::pin_current_thread(process::LOAD_CORE)?;
        let pilothouse = started?;
        let mut target = Target::new(pilothouse.address(), None)?;
        for (name, value) in pilothouse.credentials() {
            target = target.header(name, &value);
        }
        Ok(Self { pilothouse, target })
    }

    /// Starts the server and registers the control plane as a cluster. Returns the server and the cluster's id.
    pub(crate) async fn start_with_cluster(binary: &Path, plane: &ControlPlane) -> Result<(Self, i64)> {
        let server = Self::start(binary, plane.dir()?, &[]).await?;
        let id = server.pilothouse.register("bench", &plane.kubeconfig()).await?;
        Ok((server, id))
    }

    /// Restarts the server, pinned to its core.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        process::pin_current_thread(process::MEASURED_CORE)?;
        let started = self.pilothouse.start_again().await;
        process::pin_current_thread(process::LOAD_CORE)?;
        Ok(started?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pilothouse.pid()
    }

    /// Creates a user with this role and no display name. Returns the id.
    pub(crate) async fn create_user(&self, name: &str, role: &str) -> Result<i64> {
        let body = json!({"username": name, "password": PASSWORD, "role": role});
        let user = self.pilothouse.post("/api/auth/users", body).await?;
        user["user"]["id"]
            .as_i64()
            .ok_or_else(|| BenchError::because(format!("no id of the user {name}: {user}")))
    }

    /// Signs a user in that [`Self::create_user`] created. Returns the target with the session's credentials.
    pub(crate) fn sign_in(&self, name: &str) -> Result<Target> {
        let target = Target::new(self.pilothouse.address(), None)?;
        let login =
            target.post("/api/auth/login", &json!({"username": name, "password": PASSWORD}).to_string());
        let session: Value = serde_json::from_slice(target.connect()?.expect_success(&login)?)?;
        let text = |key: &str| session["data"][key].as_str().unwrap_or_default().to_owned();
        let cookie = format!("session_id={}", text("session_id"));
        Ok(target
            .header("Authorization", &format!("Bearer {}", text("access_token")))
            .header("Cookie", &cookie))
    }

    /// Creates an API token of the user of a session. Returns the target with the token alone; `None` for a build
    /// without API tokens.
    pub(crate) fn with_token(&self, user: &Target) -> Result<Option<Target>> {
        let request = user.post("/api/auth/tokens", &json!({"name": "bench"}).to_string());
        let mut connection = user.connect()?;
        let (status, body) = connection.exchange(&request)?;
        if status == 404 {
            return Ok(None);
        }
        let body: Value = serde_json::from_slice(body)?;
        let secret = body["data"]["secret"].as_str();
        let secret =
            secret.ok_or_else(|| BenchError::because(format!("no secret of the token: status {status}")))?;
        let target = Target::new(self.pilothouse.address(), None)?;
        Ok(Some(target.header("Authorization", &format!("Bearer {secret}"))))
    }

    /// GET; returns `data` of the response.
    pub(crate) fn data(&self, path: &str) -> Result<Value> {
        self.target.data(path)
    }
}

/// The floor server: this binary with another subcommand. It ends when this value is dropped.
pub(crate) struct Floor {
    process: Child,
    pub(crate) target: Target,
}

impl Floor {
    /// Starts a floor that responds with the body size and the headers of the server's response to `request`.
    pub(crate) fn like(server: &Target, request: &[u8]) -> Result<Self> {
        let mut connection = server.connect()?;
        let bytes = connection.expect_success(request)?.len();
        let headers = connection.headers(request)?;
        process::pin_current_thread(process::MEASURED_CORE)?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["floor", "--bytes", &bytes.to_string()]);
        // actix-web sets the content type and the date itself
        let is_copied = |line: &&String| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("date:") && !line.starts_with("content-type:")
        };
        for header in headers.iter().filter(is_copied) {
            command.args(["--header", header]);
        }
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        process::pin_current_thread(process::LOAD_CORE)?;
        let mut process = process?;
        let mut line = String::new();
        let output = process
            .stdout
            .take()
            .ok_or_else(|| BenchError::because("the standard output of the floor is not piped"))?;
        BufReader::new(output).read_line(&mut line)?;
        // requests to the floor have the same headers, including credentials
        let mut target = Target::new(line.trim(), None)?;
        for header in String::from_utf8_lossy(request).lines().skip(1) {
            if let Some((name, value)) = header.split_once(": ")
                && name != "Host"
            {
                target = target.header(name, value);
            }
        }
        Ok(Self { process, target })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
