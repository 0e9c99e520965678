//! What is measured, on its core: the shipped server, and the floor.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use pilothouse_testbed::{ControlPlane, Shipped};
use serde_json::Value;

use crate::{
    client::Target,
    error::{Failed, Result},
    process,
};

/// The server, signed in to, on its own core.
pub(crate) struct Server {
    pub(crate) shipped: Shipped,
    pub(crate) target: Target,
}

impl Server {
    /// With its data in `folder`.
    pub(crate) async fn start(binary: &Path, folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        // it inherits the core, and has one worker for it
        process::stay_on(process::MEASURED)?;
        let started = Shipped::start_with(binary, folder, settings).await;
        process::stay_on(process::LOAD)?;
        let shipped = started?;
        let mut target = Target::new(shipped.address(), None)?;
        for (name, value) in shipped.credentials() {
            target = target.header(name, &value);
        }
        Ok(Self { shipped, target })
    }

    /// Beside a control plane, which it knows as a cluster; and the cluster's id.
    pub(crate) async fn beside(binary: &Path, plane: &ControlPlane) -> Result<(Self, i64)> {
        let server = Self::start(binary, plane.dir()?, &[]).await?;
        let id = server.shipped.register("bench", &plane.kubeconfig()).await?;
        Ok((server, id))
    }

    /// Starts it again, on its core.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        process::stay_on(process::MEASURED)?;
        let started = self.shipped.start_again().await;
        process::stay_on(process::LOAD)?;
        Ok(started?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.shipped.pid()
    }

    /// The data of the answer to a GET.
    pub(crate) fn data(&self, path: &str) -> Result<Value> {
        let body: Value = serde_json::from_slice(&self.target.read(path)?)?;
        Ok(body["data"].clone())
    }
}

/// The floor: this binary with another first argument. It ends with this value.
pub(crate) struct Floor {
    process: Child,
    pub(crate) target: Target,
}

impl Floor {
    /// Answers with the body and the headers that the server gives to `request`.
    pub(crate) fn like(server: &Target, request: &[u8]) -> Result<Self> {
        let mut connection = server.connect()?;
        let bytes = connection.good(request)?.len();
        let headers = connection.headers(request)?;
        process::stay_on(process::MEASURED)?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["floor", "--bytes", &bytes.to_string()]);
        // the type and the date it has anyway
        let own = |line: &&String| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("date:") && !line.starts_with("content-type:")
        };
        for header in headers.iter().filter(own) {
            command.args(["--header", header]);
        }
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        process::stay_on(process::LOAD)?;
        let mut process = process?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or_else(|| Failed::because("the floor has no output"))?;
        BufReader::new(output).read_line(&mut line)?;
        // the same request, credentials and all, is read by it as well
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
