//! A Kubernetes control plane for tests: start, use, fault injection, stop.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, kill_process};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    Builder, Component, ServingCertificate, Signal,
    admin::Admin,
    audit::{self, AuditEvent},
    error::{Error, Result, io},
    folder::copy,
    kubeconfig::{self, Access, Credential},
    processes::{Owned, running},
};

/// Time limit of the start of a component. Generous, because the machine may compile at the same time.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit of a component's shutdown after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// etcd's data directory in the control plane's directory.
pub(crate) const ETCD_DATA: &str = "etcd";

/// A control plane. The processes are independent of any async runtime. They end when this value is dropped and, at the
/// latest, when the process that started them ends, even by a kill.
pub struct ControlPlane {
    pub(crate) access: Access,
    pub(crate) admin_token: String,
    pub(crate) owned: Option<Owned>,
}

impl ControlPlane {
    /// Returns a builder with the default options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// An existing cluster, from its kubeconfig file. Operations on the control plane's processes or files fail with
    /// [`Error::NotOwned`]. For a kubeconfig with a client certificate, a cluster-admin service account is created to
    /// get a token.
    pub async fn existing(kubeconfig: &Path) -> Result<Self> {
        let access = kubeconfig::read(kubeconfig)?;
        let admin_token = match &access.credential {
            Credential::Token(token) => token.clone(),
            Credential::Certificate(_) => {
                let all_rules = json!([
                    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                    {"nonResourceURLs": ["*"], "verbs": ["*"]},
                ]);
                let admin = Admin::new(&access)?;
                admin.service_account_token("pilothouse-testbed", "admin", all_rules).await?
            }
        };
        Ok(Self { access, admin_token, owned: None })
    }

    /// The API server's URL, for instance `https://127.0.0.1:20000`.
    pub fn server(&self) -> &str {
        &self.access.server
    }

    /// The certificate of the certificate authority, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.access.ca_pem
    }

    /// A cluster-admin bearer token.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// A cluster-admin kubeconfig with embedded data: with a client certificate or, for an existing cluster, with the
    /// credential of its kubeconfig.
    pub fn kubeconfig(&self) -> String {
        kubeconfig::write(&self.access.server, &self.access.ca_pem, &self.access.credential)
    }

    /// A cluster-admin kubeconfig with a token.
    pub fn token_kubeconfig(&self) -> String {
        self.kubeconfig_for(&self.admin_token)
    }

    /// A kubeconfig with the given token, such as one of [`Admin::service_account_token`].
    pub fn kubeconfig_for(&self, token: &str) -> String {
        kubeconfig::write(&self.access.server, &self.access.ca_pem, &Credential::Token(token.into()))
    }

    /// A cluster-admin client for the calling runtime.
    pub fn client(&self) -> Admin {
        Admin::new(&self.access).expect("valid CA and credential")
    }

    /// The control plane's directory: `admin.kubeconfig`, `ca.crt`, `audit.log` and one log per component.
    pub fn dir(&self) -> Result<&Path> {
        Ok(self.owned("return the directory")?.folder.path())
    }

    /// The events of the audit log. A write is logged before its response is sent.
    pub fn audit_events(&self) -> Result<Vec<AuditEvent>> {
        let path = self.owned("read the audit log")?.folder.path().join("audit.log");
        let log = fs::read_to_string(path).map_err(io("reading the audit log"))?;
        audit::parse(&log)
            .map_err(|e| Error::Program(format!("the audit log contains a line that is not an event: {e}")))
    }

    /// The process id of a component.
    pub fn pid(&self, component: Component) -> Result<u32> {
        let mut children = self.owned("return the process id")?.children();
        running(&mut children, component).map(|child| child.id())
    }

    /// Signals a component. After SIGKILL, its process has ended and its port is free when this returns.
    pub fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        let mut children = self.owned("signal a process")?.children();
        let child = running(&mut children, component)?;
        kill_process(Pid::from_child(child), signal.into())
            .map_err(|e| io(format!("signalling {component}"))(e.into()))?;
        if signal == Signal::Kill {
            let _ = child.wait();
            children.remove(&component);
        }
        Ok(())
    }

    /// Restarts a component with the same port and data; kills it first if it runs. Returns when the API server is
    /// ready.
    pub async fn restart(&self, component: Component) -> Result<()> {
        let owned = self.owned("restart a process")?;
        match self.signal(component, Signal::Kill) {
            Ok(()) | Err(Error::NotRunning(_)) => {}
            Err(error) => return Err(error),
        }
        owned.spawn(component)?;
        self.wait_ready().await
    }

    /// Restarts the API server with another serving certificate.
    pub async fn serve_with(&self, certificate: ServingCertificate) -> Result<()> {
        let owned = self.owned("change the serving certificate")?;
        owned.write_pair("apiserver", &owned.authority.serving(certificate)?)?;
        self.restart(Component::ApiServer).await
    }

    /// Shuts down all components gracefully. Dropping the value kills them instead.
    pub async fn stop(self) -> Result<()> {
        self.end_processes().await
    }

    async fn end_processes(&self) -> Result<()> {
        use Component::{ApiServer, ControllerManager, Etcd, MetricsServer, Scheduler};
        let owned = self.owned("stop the control plane")?;
        // etcd stops last: the shutdown of the API server hangs without etcd, and that of a kubelet without the API
        // server
        owned.end_nodes();
        for component in [MetricsServer, Scheduler, ControllerManager, ApiServer, Etcd] {
            for signal in [Signal::Cont, Signal::Term] {
                let _ = self.signal(component, signal);
            }
            let end = Instant::now() + STOP_TIMEOUT;
            while self.pid(component).is_ok() && Instant::now() < end {
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Shuts down gracefully and copies etcd's data to the directory `target`, which must not exist. It is created only
    /// when the copy is complete. For [`Builder::data`].
    pub async fn keep_data(self, target: &Path) -> Result<()> {
        self.end_processes().await?;
        let partial = target.with_extension("partly");
        let _ = fs::remove_dir_all(&partial);
        copy(&self.owned("copy the data of etcd")?.folder.path().join(ETCD_DATA), &partial)?;
        fs::rename(&partial, target).map_err(io(format!("renaming the copy to {}", target.display())))
    }

    /// Waits until the API server is ready, with any serving certificate.
    pub(crate) async fn wait_ready(&self) -> Result<()> {
        let client = Admin::accepting_any_certificate(&self.access)?;
        let end = Instant::now() + START_TIMEOUT;
        loop {
            for component in [Component::Etcd, Component::ApiServer] {
                self.owned("wait for the control plane")?.still_runs(component)?;
            }
            // the namespace is read from etcd, because /readyz succeeds for a while after etcd has ended
            let result = match client.text("/readyz").await {
                Ok(_) => client.text("/api/v1/namespaces/default").await,
                error => error,
            };
            match result {
                Ok(_) => return Ok(()),
                Err(last) if Instant::now() > end => {
                    let last = last.to_string();
                    return Err(Error::Deadline {
                        what: "a ready API server".into(),
                        waited: START_TIMEOUT,
                        last,
                    });
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    pub(crate) fn owned(&self, to: &'static str) -> Result<&Owned> {
        self.owned.as_ref().ok_or(Error::NotOwned(to))
    }
}
