//! kubectl of the control plane's Kubernetes version. Tests compare its output with Pilothouse's responses.

use std::{
    io::Write,
    process::{Output, Stdio},
};

use crate::{
    ControlPlane,
    binaries::Binaries,
    error::{Error, Result, io},
};

/// Time limit of each request. A later `--request-timeout` among the arguments replaces it.
const REQUEST_TIMEOUT: &str = "--request-timeout=60s";

/// Runs kubectl with the cluster-admin kubeconfig. Returns its standard output.
///
/// # Errors
/// [`Error::Program`] with standard error when kubectl fails, or when `KUBEBUILDER_ASSETS` has no kubectl.
pub async fn kubectl(plane: &ControlPlane, arguments: &[&str]) -> Result<String> {
    let output = kubectl_output(plane, arguments, "").await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::Program(format!("kubectl {}: {}", arguments.join(" "), message.trim())))
}

/// As [`kubectl`], with text for its standard input (for `--filename=-`). Returns the exit status and both outputs of
/// success and failure.
pub async fn kubectl_output(plane: &ControlPlane, arguments: &[&str], input: &str) -> Result<Output> {
    let binaries = match &plane.owned {
        Some(owned) => owned.binaries.clone(),
        None => Binaries::find().await?,
    };
    let kubeconfig = plane.kubeconfig();
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let input = input.to_owned();
    let task = move || run(&binaries, &kubeconfig, &arguments, &input);
    tokio::task::spawn_blocking(task).await.map_err(|_| Error::Program("running kubectl panicked".into()))?
}

/// Runs kubectl with a home directory of its own, so that no setting of this machine applies, and discovery is not
/// cached between calls.
fn run(binaries: &Binaries, kubeconfig: &str, arguments: &[String], input: &str) -> Result<Output> {
    let home = tempfile::tempdir().map_err(io("creating a directory for kubectl"))?;
    let config = home.path().join("config");
    std::fs::write(&config, kubeconfig).map_err(io("writing a kubeconfig"))?;
    let mut child = binaries
        .command("kubectl")?
        .arg(REQUEST_TIMEOUT)
        .args(arguments)
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("KUBECONFIG", &config)
        .env("KUBERC", "off")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("starting kubectl"))?;
    // the input fits into the pipe's buffer or is read completely before kubectl prints; a program that fails early
    // closes the pipe
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().map_err(io("waiting for kubectl"))
}
