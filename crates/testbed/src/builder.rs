//! Builder of a control plane: options and startup.

use std::{path::PathBuf, sync::Mutex};

use sha2::{Digest, Sha256};

use crate::{
    Component, ControlPlane, ServingCertificate, audit,
    binaries::Binaries,
    certificates::{Authority, signing_keys},
    control_plane::ETCD_DATA,
    error::Result,
    folder::{Folder, copy},
    kubeconfig::{self, Access, Credential},
    ports::Ports,
    processes::Owned,
};

/// Options of a control plane.
#[derive(Clone, Debug)]
pub struct Builder {
    controllers: bool,
    apiserver_flags: Vec<String>,
    serving: ServingCertificate,
    data: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            controllers: true,
            apiserver_flags: Vec::new(),
            serving: ServingCertificate::Valid,
            data: None,
        }
    }
}

impl Builder {
    /// Whether to run kube-controller-manager and kube-scheduler (default: true). Without them the control plane starts
    /// faster, but no controller acts on objects: no ReplicaSets, no garbage collection, namespaces stay Terminating.
    pub fn controllers(mut self, controllers: bool) -> Self {
        self.controllers = controllers;
        self
    }

    /// Adds a flag for kube-apiserver.
    pub fn apiserver_flag(mut self, flag: impl Into<String>) -> Self {
        self.apiserver_flags.push(flag.into());
        self
    }

    /// The API server's initial serving certificate; see [`ControlPlane::serve_with`]. Only without controllers.
    pub fn serving(mut self, serving: ServingCertificate) -> Self {
        self.serving = serving;
        self
    }

    /// Starts with a copy of data saved by [`ControlPlane::keep_data`] from a control plane of the same Kubernetes
    /// version.
    pub fn data(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Starts the control plane and returns when it is ready.
    pub async fn start(self) -> Result<ControlPlane> {
        let binaries = Binaries::find().await?;
        let (ports, folder) = (Ports::claim()?, Folder::create()?);
        let authority = Authority::new("pilothouse-testbed")?;
        let mut apiserver_flags = self.apiserver_flags;
        let has = |component: Component| binaries.command_line(component.program()).is_some();
        let controllers = self.controllers && has(Component::ControllerManager) && has(Component::Scheduler);
        if !controllers {
            // this plugin requires a service account for every pod, which only a controller creates
            apiserver_flags.push("--disable-admission-plugins=ServiceAccount".into());
        }

        let (signing_key, checking_key) = signing_keys()?;
        let admin_token: String =
            Sha256::digest(&signing_key)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let access = Access {
            server: format!("https://127.0.0.1:{}", ports.apiserver),
            ca_pem: authority.pem(),
            credential: Credential::Certificate(authority.client("admin", Some("system:masters"))?),
        };
        let owned = Owned {
            nodes: Mutex::default(),
            children: Mutex::default(),
            authority,
            binaries,
            apiserver_flags,
            ports,
            folder,
        };
        let authority = &owned.authority;
        owned.write("ca.crt", &access.ca_pem)?;
        owned.write("sa.key", &signing_key)?;
        owned.write("sa.pub", &checking_key)?;
        owned.write("tokens.csv", &format!("{admin_token},admin,1,\"system:masters\"\n"))?;
        owned.write("audit-policy.yaml", audit::POLICY)?;
        owned.write_pair("apiserver", &authority.serving(self.serving)?)?;
        let kubelet_client = authority.client("apiserver-kubelet-client", Some("system:masters"))?;
        owned.write_pair("kubelet-client", &kubelet_client)?;
        let front_proxy = Authority::new("pilothouse-front-proxy")?;
        owned.write("front-proxy-ca.crt", &front_proxy.pem())?;
        owned.write_pair("front-proxy", &front_proxy.client("front-proxy", None)?)?;
        for name in ["controller-manager", "scheduler"] {
            let credential = Credential::Certificate(authority.client(&format!("system:kube-{name}"), None)?);
            let kubeconfig = kubeconfig::write(&access.server, &access.ca_pem, &credential);
            owned.write(&format!("{name}.kubeconfig"), &kubeconfig)?;
        }
        if let Some(data) = &self.data {
            copy(data, &owned.folder.path().join(ETCD_DATA))?;
        }
        let plane = ControlPlane { access, admin_token, owned: Some(owned) };
        let owned = plane.owned("start")?;
        owned.write("admin.kubeconfig", &plane.kubeconfig())?;

        owned.spawn(Component::Etcd)?;
        owned.spawn(Component::ApiServer)?;
        plane.wait_ready().await?;
        if controllers {
            owned.spawn(Component::ControllerManager)?;
            owned.spawn(Component::Scheduler)?;
            // until the service account exists, no pod can be created in the namespace
            let created = plane.client().wait_for_default_account("default").await;
            owned.still_runs(Component::ControllerManager)?;
            created?;
        }
        Ok(plane)
    }
}
