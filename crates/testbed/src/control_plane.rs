//! A Kubernetes control plane: started, used, broken on purpose, ended.

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

/// How long a component may take to come up, on a machine that also compiles.
pub(crate) const START: Duration = Duration::from_secs(120);
/// How long a component may take to end when asked to.
const END: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(25);
/// Where etcd keeps its data, in the control plane's folder.
pub(crate) const ETCD_DATA: &str = "etcd";

/// A control plane. Its processes belong to no runtime; they end with this value, and at the latest with the process
/// that started them, however that ends.
pub struct ControlPlane {
    pub(crate) access: Access,
    pub(crate) admin_token: String,
    pub(crate) owned: Option<Owned>,
}

impl ControlPlane {
    /// A new control plane, to be described and started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A cluster that runs elsewhere, by its kubeconfig file. There, what needs our own processes is an error. For a
    /// kubeconfig with a client certificate, a service account with all rights is made to have a token.
    pub async fn existing(kubeconfig: &Path) -> Result<Self> {
        let access = kubeconfig::read(kubeconfig)?;
        let admin_token = match &access.credential {
            Credential::Token(token) => token.clone(),
            Credential::Certificate(_) => {
                let everything = json!([
                    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                    {"nonResourceURLs": ["*"], "verbs": ["*"]},
                ]);
                let admin = Admin::new(&access)?;
                admin.service_account_token("pilothouse-testbed", "admin", everything).await?
            }
        };
        Ok(Self { access, admin_token, owned: None })
    }

    /// The API server's address, for instance `https://127.0.0.1:20000`.
    pub fn server(&self) -> &str {
        &self.access.server
    }

    /// The certificate authority, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.access.ca_pem
    }

    /// A bearer token with all rights.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// A kubeconfig with all rights, by client certificate (or as the existing cluster's says), data embedded.
    pub fn kubeconfig(&self) -> String {
        kubeconfig::write(&self.access.server, &self.access.ca_pem, &self.access.credential)
    }

    /// A kubeconfig with all rights, by token.
    pub fn token_kubeconfig(&self) -> String {
        self.kubeconfig_for(&self.admin_token)
    }

    /// A kubeconfig for a token of one's own, such as of [`Admin::service_account_token`].
    pub fn kubeconfig_for(&self, token: &str) -> String {
        kubeconfig::write(&self.access.server, &self.access.ca_pem, &Credential::Token(token.into()))
    }

    /// A client with all rights, for the runtime that calls.
    pub fn client(&self) -> Admin {
        Admin::new(&self.access).expect("what the control plane was started with makes a client")
    }

    /// The folder with its files: `admin.kubeconfig`, `ca.crt`, `audit.log`, a log per component.
    pub fn dir(&self) -> Result<&Path> {
        Ok(self.owned("show its folder")?.folder.path())
    }

    /// The audit log so far. A write is in it before its answer is sent.
    pub fn audit_events(&self) -> Result<Vec<AuditEvent>> {
        let path = self.owned("read its audit log")?.folder.path().join("audit.log");
        let log = fs::read_to_string(path).map_err(io("reading the audit log"))?;
        audit::parse(&log)
            .map_err(|e| Error::Program(format!("the audit log has a line that is no event: {e}")))
    }

    /// The process of a component.
    pub fn pid(&self, component: Component) -> Result<u32> {
        let mut children = self.owned("name its processes")?.children();
        running(&mut children, component).map(|child| child.id())
    }

    /// Signals a component. Killed means gone: its port is free when this returns.
    pub fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        let mut children = self.owned("signal its processes")?.children();
        let child = running(&mut children, component)?;
        kill_process(Pid::from_child(child), signal.into())
            .map_err(|e| io(format!("signalling {component}"))(e.into()))?;
        if signal == Signal::Kill {
            let _ = child.wait();
            children.remove(&component);
        }
        Ok(())
    }

    /// Starts a component again, on its old port and data, after killing it if it runs; returns when all is ready.
    pub async fn restart(&self, component: Component) -> Result<()> {
        let owned = self.owned("restart its processes")?;
        match self.signal(component, Signal::Kill) {
            Ok(()) | Err(Error::NotRunning(_)) => {}
            Err(error) => return Err(error),
        }
        owned.spawn(component)?;
        self.wait_ready().await
    }

    /// Has the API server show another certificate, from a restart on.
    pub async fn serve_with(&self, certificate: ServingCertificate) -> Result<()> {
        let owned = self.owned("change its certificate")?;
        owned.write_pair("apiserver", &owned.authority.serving(certificate)?)?;
        self.restart(Component::ApiServer).await
    }

    /// Ends everything in good order, which leaves a component time for its last words; dropping only kills.
    pub async fn stop(self) -> Result<()> {
        self.end_processes().await
    }

    async fn end_processes(&self) -> Result<()> {
        use Component::{ApiServer, ControllerManager, Etcd, Scheduler};
        let owned = self.owned("stop it")?;
        // Without etcd the API server hangs in its shutdown, so etcd is last; without the API server, so does a kubelet.
        owned.end_nodes();
        for component in [Scheduler, ControllerManager, ApiServer, Etcd] {
            for signal in [Signal::Cont, Signal::Term] {
                let _ = self.signal(component, signal);
            }
            let end = Instant::now() + END;
            while self.pid(component).is_ok() && Instant::now() < end {
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Ends everything in good order and keeps a copy of etcd's data in the folder `kept`, which must not be there yet;
    /// it is when the copy is whole. For [`Builder::data`].
    pub async fn keep_data(self, kept: &Path) -> Result<()> {
        self.end_processes().await?;
        let partly = kept.with_extension("partly");
        let _ = fs::remove_dir_all(&partly);
        copy(&self.owned("copy its data")?.folder.path().join(ETCD_DATA), &partly)?;
        fs::rename(&partly, kept).map_err(io(format!("naming {}", kept.display())))
    }

    /// Waits until the API server says it is ready, whatever certificate it shows.
    pub(crate) async fn wait_ready(&self) -> Result<()> {
        let client = Admin::trusting_anyone(&self.access)?;
        let end = Instant::now() + START;
        loop {
            for component in [Component::Etcd, Component::ApiServer] {
                self.owned("wait for it")?.still_runs(component)?;
            }
            // The namespace is read from etcd itself, which /readyz says nothing about for a while after etcd is gone.
            let answered = match client.text("/readyz").await {
                Ok(_) => client.text("/api/v1/namespaces/default").await,
                not_yet => not_yet,
            };
            match answered {
                Ok(_) => return Ok(()),
                Err(last) if Instant::now() > end => {
                    let last = last.to_string();
                    return Err(Error::Deadline { what: "a ready API server".into(), waited: START, last });
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    pub(crate) fn owned(&self, to: &'static str) -> Result<&Owned> {
        self.owned.as_ref().ok_or(Error::NotOwned(to))
    }
}
