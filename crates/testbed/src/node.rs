//! Node: containerd, runc and a kubelet on this machine, so that pods run and have logs.

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, geteuid, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Admin, Component, ControlPlane, REQUIRE_NODE, Signal,
    binaries::log_line,
    error::{Error, Result, io},
    kubeconfig::{self, Credential},
    processes::tail,
};

const READY_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const NODE_UP: &str = include_str!("../node/node-up.sh");
const MAKE_IMAGE: &str = include_str!("../node/make-image.sh");
const PACKAGES: &str =
    "containerd runc containernetworking-plugins iptables iproute2 busybox-static (Debian's names)";

/// Handle of a node of a control plane. The node runs until [`Node::power_cut`] or the end of its control plane;
/// dropping the handle does not stop it.
#[derive(Clone)]
pub struct Node {
    machine: Arc<Machine>,
    client: Admin,
}

/// A program of a node, for fault injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeProgram {
    /// The kubelet. After a kill it is restarted within a second.
    Kubelet,
    /// containerd. After a kill it is restarted within a second; containers keep running.
    Containerd,
}

/// State of a node that its control plane owns.
pub(crate) struct Machine {
    name: String,
    dir: PathBuf,
    kubelet: Vec<PathBuf>,
    supervisor: Mutex<Option<Child>>,
}

impl ControlPlane {
    /// Boots the node `node-<n>` of this control plane and waits until pods can be scheduled there.
    /// [`Error::NodeUnavailable`] names what is missing on this machine. Requires a control plane with controllers.
    pub async fn start_node(&self, n: u8) -> Result<Node> {
        let owned = self.owned("start a node")?;
        let kubelet = owned.binaries.command_line("kubelet");
        let kubelet = kubelet
            .ok_or_else(|| unavailable(format!("no kubelet in the directory of {}", crate::ASSETS)))?;
        preconditions()?;
        self.pid(Component::ControllerManager)?; // removes the taint of a new node

        let (name, dir) = (format!("node-{n}"), owned.folder.path().to_owned());
        fs::create_dir_all(dir.join(&name)).map_err(io("creating the node's directory"))?;
        let credential = owned.authority.client(&format!("system:node:{name}"), Some("system:nodes"))?;
        owned.write(
            &format!("{name}/kubelet.kubeconfig"),
            &kubeconfig::write(self.server(), self.ca_pem(), &Credential::Certificate(credential)),
        )?;
        for (script, text) in [("node-up.sh", NODE_UP), ("make-image.sh", MAKE_IMAGE)] {
            owned.write(script, text)?;
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(dir.join(script), executable).map_err(io(format!("chmod of {script}")))?;
        }
        if !dir.join("images.tar").exists() {
            run(Command::new(dir.join("make-image.sh")).arg(dir.join("images.tar")))?;
        }

        let machine = Arc::new(Machine { name, dir, kubelet, supervisor: Mutex::default() });
        owned.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&machine));
        let node = Node { machine, client: self.client() };
        node.boot().await?;
        Ok(node)
    }

    /// As [`start_node`](Self::start_node), but if this machine cannot run a node, prints a message and returns `None`,
    /// so that the test can be skipped. With `PILOTHOUSE_TEST_REQUIRE_NODE` set, that is an error.
    pub async fn start_node_or_skip(&self, n: u8) -> Result<Option<Node>> {
        match self.start_node(n).await {
            Ok(node) => Ok(Some(node)),
            Err(error @ Error::NodeUnavailable(_)) => {
                if env::var_os(REQUIRE_NODE).is_some_and(|value| !value.is_empty()) {
                    return Err(error);
                }
                log_line(&format!("SKIPPED: requires running pods: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Node {
    /// The node's name in its cluster.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Boots the node with its existing disk and waits until a heartbeat after the boot reports it ready.
    pub async fn boot(&self) -> Result<()> {
        let path = format!("/api/v1/nodes/{}", self.name());
        // for 40 s after a node's end the API server still shows its last heartbeat
        let before = self.client.try_get(&path).await?.as_ref().and_then(heartbeat);
        self.machine.power_on()?;
        let end = Instant::now() + READY_TIMEOUT;
        loop {
            self.machine.still_runs()?;
            let node_object = self.client.try_get(&path).await?;
            if node_object
                .as_ref()
                .is_some_and(|node_object| heartbeat(node_object) != before && schedulable(node_object))
            {
                return Ok(());
            }
            if Instant::now() > end {
                let last = tail(&self.machine.path("kubelet.log"));
                return Err(Error::Deadline {
                    what: format!("a ready node {}", self.name()),
                    waited: READY_TIMEOUT,
                    last,
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Kills the kubelet, containerd and every container at once, like a power cut. Returns when the cleanup is
    /// complete.
    pub fn power_cut(&self) {
        self.machine.power_cut();
    }

    /// Adds a taint, in the form of `kubectl taint`: `effect` is `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub async fn taint(&self, key: &str, value: &str, effect: &str) -> Result<()> {
        let taint = json!({"key": key, "value": value, "effect": effect});
        self.change_taints(|taints| taints.push(taint.clone())).await
    }

    /// Removes the taints with this key.
    pub async fn remove_taint(&self, key: &str) -> Result<()> {
        self.change_taints(|taints| taints.retain(|taint| taint["key"] != key)).await
    }

    /// Replaces the taints. Repeats when the node has changed since it was read, which each heartbeat does.
    async fn change_taints(&self, change: impl Fn(&mut Vec<Value>)) -> Result<()> {
        let path = format!("/api/v1/nodes/{}", self.name());
        loop {
            let node = self.client.get(&path).await?;
            let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            change(&mut taints);
            let version = &node["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
            match self.client.patch(&path, &patch).await {
                Err(Error::Status { code: 409, .. }) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Signals a program of the node.
    pub fn signal(&self, program: NodeProgram, signal: Signal) -> Result<()> {
        let config = self.machine.path(match program {
            NodeProgram::Kubelet => "kubelet.yaml",
            NodeProgram::Containerd => "containerd.toml",
        });
        let ended = || Error::Ended { name: format!("{program:?} of {}", self.name()), log: String::new() };
        let pid = process_named(&config).and_then(Pid::from_raw).ok_or_else(ended)?;
        kill_process(pid, signal.into()).map_err(|e| io(format!("signalling {program:?}"))(e.into()))
    }
}

impl Machine {
    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(&self.name).join(file)
    }

    fn supervisor(&self) -> MutexGuard<'_, Option<Child>> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn power_on(&self) -> Result<()> {
        let mut supervisor = self.supervisor();
        if supervisor.is_some() {
            return Ok(());
        }
        fs::write(self.path("running"), "").map_err(io("marking the node as running"))?;
        let log = fs::File::options().create(true).append(true).open(self.path("supervisor.out"));
        let log = log.map_err(io("opening the node's log"))?;
        let child = Command::new(self.dir.join("node-up.sh"))
            .arg(&self.dir)
            .arg(&self.name)
            .args(&self.kubelet)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(io("duplicating the log file handle"))?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(io("starting the node"))?;
        *supervisor = Some(child);
        Ok(())
    }

    /// Closes the supervisor's input pipe, which ends the node, and waits until the supervisor has cleaned up.
    pub(crate) fn power_cut(&self) {
        if let Some(mut child) = self.supervisor().take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    fn still_runs(&self) -> Result<()> {
        match self.supervisor().as_mut().map(Child::try_wait) {
            Some(Ok(None)) => Ok(()),
            _ => Err(Error::Ended { name: self.name.clone(), log: tail(&self.path("supervisor.out")) }),
        }
    }
}

fn heartbeat(node: &Value) -> Option<String> {
    ready(node)?["lastHeartbeatTime"].as_str().map(str::to_owned)
}

fn ready(node: &Value) -> Option<&Value> {
    node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")
}

/// Whether the node is ready and has no `node.kubernetes.io/` taint.
fn schedulable(node: &Value) -> bool {
    let taints = node["spec"]["taints"].as_array().map_or(&[][..], Vec::as_slice);
    ready(node).is_some_and(|ready| ready["status"] == "True")
        && !taints
            .iter()
            .any(|taint| taint["key"].as_str().is_some_and(|key| key.starts_with("node.kubernetes.io/")))
}

fn preconditions() -> Result<()> {
    if !geteuid().is_root() {
        return Err(unavailable("containers need root; run as root"));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    for program in ["bash", "containerd", "ctr", "runc", "iptables-save", "ip", "unshare", "flock"] {
        if !found(program) {
            return Err(unavailable(format!("{program} is not installed; a node needs {PACKAGES}")));
        }
    }
    let plugins = env::var_os("CNI_BIN").map_or(PathBuf::from("/usr/lib/cni"), PathBuf::from);
    let busybox = env::var_os("BUSYBOX").map_or(PathBuf::from("/bin/busybox"), PathBuf::from);
    for file in [plugins.join("bridge"), plugins.join("portmap"), plugins.join("host-local"), busybox] {
        if !file.is_file() {
            return Err(unavailable(format!("{} is missing; a node needs {PACKAGES}", file.display())));
        }
    }
    let namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private", "true"];
    run(Command::new("unshare").args(namespaces))
        .map_err(|e| unavailable(format!("this process cannot create namespaces: {e}")))
}

fn unavailable(what: impl Into<String>) -> Error {
    Error::NodeUnavailable(what.into())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().map_err(io(format!("running {command:?}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(Error::Program(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
    }
}

/// The process id of the process with this configuration file on its command line.
fn process_named(config: &Path) -> Option<i32> {
    let config = config.to_str()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = match fs::read(entry.path().join("cmdline")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            line => line.ok()?,
        };
        // the shell that restarts the program does not have the configuration file as an argument
        String::from_utf8_lossy(&line).split('\0').any(|word| word.ends_with(config)).then_some(pid)
    })
}
