//! Cluster of a fake API server whose pods belong to Deployments, and of which one pod in a hundred does not work.

use serde_json::{Value, json};

use super::{
    lists::{Lists, Objects},
    pods::usage,
};

/// Pods per Deployment.
const REPLICAS: usize = 10;
/// One pod in this number does not work.
const ONE_IN: usize = 100;
/// Number of namespaces and of nodes.
const NAMESPACES: usize = 20;
const NODES: usize = 10;

/// Why a pod does not work. The pods take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    OutOfMemory,
    Crash,
    ImageNotFound,
    MissingSecret,
    Unschedulable,
}

const FAULTS: [Fault; 5] =
    [Fault::OutOfMemory, Fault::Crash, Fault::ImageNotFound, Fault::MissingSecret, Fault::Unschedulable];

impl Fault {
    /// The rule of the problem.
    fn rule(self) -> &'static str {
        match self {
            Self::OutOfMemory => "oom",
            Self::Crash => "crash",
            Self::ImageNotFound => "image_pull",
            Self::MissingSecret => "missing_secret",
            Self::Unschedulable => "unschedulable",
        }
    }

    /// State and last state of the container, and number of restarts; `None` for a pod without a node.
    fn container(self) -> Option<(Value, Value, u32)> {
        let ended = |reason: &str, code: u32| {
            json!({"terminated": {
                "reason": reason, "exitCode": code, "startedAt": "2026-01-28T00:00:00Z",
                "finishedAt": "2026-01-28T00:00:10Z",
            }})
        };
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let back_off = || waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container=app");
        match self {
            Self::OutOfMemory => Some((back_off(), ended("OOMKilled", 137), 12)),
            Self::Crash => Some((back_off(), ended("Error", 1), 12)),
            Self::ImageNotFound => {
                let message = "Back-off pulling image \"registry.example/app:2\": ErrImagePull: failed to resolve \
                    reference \"registry.example/app:2\": registry.example/app:2: not found";
                Some((waiting("ImagePullBackOff", message), json!({}), 0))
            }
            Self::MissingSecret => {
                Some((waiting("CreateContainerConfigError", "secret \"database\" not found"), json!({}), 0))
            }
            Self::Unschedulable => None,
        }
    }
}

/// A cluster with this number of pods, a multiple of 100. Every problem is one pod of another Deployment.
#[derive(Clone, Copy)]
pub(crate) struct ProblemCluster {
    pub(crate) pods: usize,
}

impl ProblemCluster {
    /// The rules of the problems.
    pub(crate) fn rules() -> impl Iterator<Item = &'static str> {
        FAULTS.into_iter().map(Fault::rule)
    }

    /// Number of pods that do not work, with this rule or with any.
    pub(crate) fn problems(self, rule: Option<&str>) -> usize {
        let has_rule = |fault: Fault| rule.is_none_or(|rule| fault.rule() == rule);
        (0..self.pods).filter_map(Self::fault).filter(|fault| has_rule(*fault)).count()
    }

    /// The number of Deployments.
    fn deployments(self) -> usize {
        self.pods / REPLICAS
    }

    fn fault(i: usize) -> Option<Fault> {
        i.is_multiple_of(ONE_IN).then(|| FAULTS[i / ONE_IN % FAULTS.len()])
    }

    /// The lists, and the usage of all pods.
    pub(super) fn lists(self) -> Lists {
        Lists::new(move |path| match path {
            "/api/v1/pods" => Some(Objects::watched(self.pods, pod)),
            "/api/v1/nodes" => Some(Objects::watched(NODES, node)),
            "/apis/apps/v1/deployments" => Some(Objects::watched(self.deployments(), deployment)),
            "/apis/apps/v1/replicasets" => Some(Objects::watched(self.deployments(), replica_set)),
            "/apis/metrics.k8s.io/v1beta1/pods" => Some(Objects::listed(self.pods, |i| {
                let (namespace, name) = pod_name(i);
                usage(&namespace, &name, i)
            })),
            _ => None,
        })
    }
}

fn namespace(deployment: usize) -> String {
    format!("team-{:03}", deployment % NAMESPACES)
}

/// Namespace and name of pod `i`.
fn pod_name(i: usize) -> (String, String) {
    let deployment = i / REPLICAS;
    (namespace(deployment), format!("{}-{:05x}", replica_set_name(deployment), i * 7919 % 0x10_0000))
}

fn hash(deployment: usize) -> String {
    format!("{:08x}", 0x5b7c_0000 + deployment)
}

fn replica_set_name(deployment: usize) -> String {
    format!("app-{deployment:05}-{}", hash(deployment))
}

/// Metadata of an object. `group` makes the uid differ from that of other kinds.
fn metadata(group: u16, n: usize, name: &str, namespace: Option<&str>) -> Value {
    json!({
        "name": name, "namespace": namespace, "uid": uid(group, n), "resourceVersion": "1", "generation": 1,
        "creationTimestamp": "2026-01-27T00:00:00Z",
    })
}

fn uid(group: u16, n: usize) -> String {
    format!("00000000-0000-4000-{group:04x}-{n:012x}")
}

fn pod(i: usize) -> Value {
    let deployment = i / REPLICAS;
    let (namespace, name) = pod_name(i);
    let fault = ProblemCluster::fault(i);
    let mut metadata = metadata(0x8001, i, &name, Some(&namespace));
    metadata["labels"] =
        json!({"app": format!("app-{deployment:05}"), "pod-template-hash": hash(deployment)});
    metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set_name(deployment),
        "uid": uid(0x8002, deployment), "controller": true,
    }]);
    let spec = json!({"containers": [{
        "name": "app", "image": "registry.example/app:2",
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }]});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": "2026-01-28T00:00:00Z"})
    };
    let container = fault.map_or_else(
        || Some((json!({"running": {"startedAt": "2026-01-27T00:00:00Z"}}), json!({}), 0)),
        Fault::container,
    );
    let Some((state, last_state, restarts)) = container else {
        let mut scheduled = condition("PodScheduled", false);
        scheduled["reason"] = "Unschedulable".into();
        scheduled["message"] = "0/10 nodes are available: 10 Insufficient cpu.".into();
        pod["status"] = json!({"phase": "Pending", "conditions": [scheduled]});
        return pod;
    };
    let works = fault.is_none();
    pod["spec"]["nodeName"] = format!("node-{:03}", i % NODES).into();
    pod["status"] = json!({
        "phase": if state["waiting"]["reason"] == "ImagePullBackOff" { "Pending" } else { "Running" },
        "conditions": [condition("PodScheduled", true), condition("ContainersReady", works), condition("Ready", works)],
        "containerStatuses": [{
            "name": "app", "image": "registry.example/app:2", "ready": works, "started": works,
            "restartCount": restarts, "state": state, "lastState": last_state,
        }],
        "startTime": "2026-01-27T00:00:00Z",
    });
    pod
}

/// Number of pods of a Deployment that work.
fn ready(deployment: usize) -> usize {
    let pods = deployment * REPLICAS..(deployment + 1) * REPLICAS;
    pods.filter(|i| ProblemCluster::fault(*i).is_none()).count()
}

fn deployment(n: usize) -> Value {
    let ready = ready(n);
    let name = format!("app-{n:05}");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(0x8003, n, &name, Some(&namespace(n))),
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "registry.example/app:2"}]},
            },
        },
        "status": {
            "observedGeneration": 1, "replicas": REPLICAS, "updatedReplicas": REPLICAS, "readyReplicas": ready,
            "availableReplicas": ready, "unavailableReplicas": REPLICAS - ready,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        },
    })
}

fn replica_set(n: usize) -> Value {
    let mut metadata = metadata(0x8002, n, &replica_set_name(n), Some(&namespace(n)));
    metadata["annotations"] = json!({"deployment.kubernetes.io/revision": "1"});
    metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": format!("app-{n:05}"), "uid": uid(0x8003, n),
        "controller": true,
    }]);
    let status = json!({"replicas": REPLICAS, "readyReplicas": ready(n)});
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": {"replicas": REPLICAS}, "status": status})
}

fn node(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata(0x8004, n, &format!("node-{n:03}"), None),
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-28T00:00:00Z"}],
            "capacity": {"cpu": "32", "memory": "128Gi", "pods": "250"},
            "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "250"},
            "nodeInfo": {"kubeletVersion": "v1.37.2", "containerRuntimeVersion": "containerd://2.1.4"},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn one_pod_in_a_hundred_does_not_work_each_of_another_deployment() {
        let cluster = ProblemCluster { pods: 1_000 };
        assert_eq!(cluster.problems(None), 10);
        for rule in ProblemCluster::rules() {
            assert_eq!(cluster.problems(Some(rule)), 2, "{rule}");
        }
        let pods: Vec<_> = (0..1_000).map(pod).collect();
        let is_ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        let broken: Vec<_> = pods.iter().filter(|pod| !is_ready(pod)).collect();
        let owners: HashSet<_> =
            broken.iter().map(|pod| pod["metadata"]["labels"]["app"].to_string()).collect();
        assert_eq!((broken.len(), owners.len()), (10, 10));
        let names: HashSet<_> = (0..1_000).map(pod_name).collect();
        assert_eq!(names.len(), 1_000, "names are unique");
        let unavailable = |n| deployment(n)["status"]["unavailableReplicas"].as_u64();
        assert_eq!((0..cluster.deployments()).filter_map(unavailable).sum::<u64>(), 10);
    }
}
