//! Generated pods: realistic in shape and size, spread over 100 namespaces and 200 nodes, and deterministic, so that
//! every response can be compared with the expected one.

use serde_json::{Value, json};

/// Version of the pods' shape, part of the snapshot's name. Increment it when the generated pods change.
pub(crate) const SHAPE_VERSION: u32 = 2;

const NAMESPACES: usize = 100;
const NODES: usize = 200;

/// Size of a pod as JSON with its managedFields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// About 3 KB.
    Small,
    /// About 10 KB.
    Large,
}

impl Size {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "3KB",
            Self::Large => "10KB",
        }
    }
}

/// A population of generated pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    pub(crate) count: usize,
    pub(crate) size: Size,
}

const APPS: [&str; 10] =
    ["checkout", "catalog", "billing", "search", "mail", "login", "stock", "report", "gateway", "media"];

impl Population {
    /// The names of all namespaces.
    pub(crate) fn namespaces() -> impl Iterator<Item = String> {
        (0..NAMESPACES).map(|n| format!("team-{n:03}"))
    }

    /// The namespace of pod `i`.
    pub(crate) fn namespace(i: usize) -> String {
        format!("team-{:03}", i % NAMESPACES)
    }

    /// Whether a search for `needle` finds pod `i`. True for at most 50 pods of a population.
    fn is_needle(self, i: usize) -> bool {
        let step = self.count / 50 + 1;
        i.is_multiple_of(step) && i / step < 50
    }

    fn app(self, i: usize) -> String {
        // a search for `web-` finds about half of the pods
        let tier = if self.is_needle(i) {
            "needle"
        } else if (i / 7).is_multiple_of(2) {
            "web"
        } else {
            "svc"
        };
        format!("{tier}-{}-{:02}", APPS[(i / 3) % APPS.len()], (i / 100) % 25)
    }

    /// The name of pod `i`, in the form of a ReplicaSet's pods.
    pub(crate) fn name(self, i: usize) -> String {
        let app = self.app(i);
        format!("{app}-{}-{:05x}", template_hash(&app), (i * 7919) % 0x10_0000)
    }

    /// Namespace and name of all pods, in the order of the list.
    pub(crate) fn sorted_names(self) -> Vec<(String, String)> {
        let mut all: Vec<_> = (0..self.count).map(|i| (Self::namespace(i), self.name(i))).collect();
        all.sort();
        all
    }

    /// The status of pod `i` as `kubectl get pods` prints it.
    pub(crate) fn status(i: usize) -> &'static str {
        match (i / NAMESPACES) % 20 {
            3 => "CrashLoopBackOff",
            5 => "ImagePullBackOff",
            7 => "Pending",
            8 | 9 => "Completed",
            _ => "Running",
        }
    }

    /// The object of pod `i`, as created.
    pub(crate) fn pod(self, i: usize) -> Value {
        let (app, name, namespace) = (self.app(i), self.name(i), Self::namespace(i));
        let hash = template_hash(&app);
        let (containers, variables) = match self.size {
            Size::Small => (1, 1),
            Size::Large => (3, 6),
        };
        let container = |n: usize| {
            let variables: Vec<_> = (0..variables)
                .map(|v| match v % 3 {
                    0 => json!({"name": format!("SETTING_{v}"), "value": format!("value-{i}-{v}")}),
                    1 => json!({"name": format!("SECRET_{v}"), "valueFrom": {"secretKeyRef": {"name": app, "key": format!("key-{v}")}}}),
                    _ => json!({"name": format!("FIELD_{v}"), "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
                })
                .collect();
            let mut container = json!({
                "name": if n == 0 { "app".to_owned() } else { format!("sidecar-{n}") },
                "image": format!("registry.example/{app}:1.{}.{}", i % 9, n),
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
                "env": variables,
            });
            if self.size == Size::Large {
                container["ports"] = json!([{"name": "http", "containerPort": 8080 + n}]);
                container["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": 8080 + n}});
                container["volumeMounts"] = json!([{"name": "config", "mountPath": "/etc/app"}, {"name": "data", "mountPath": "/data"}]);
            }
            container
        };
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {"app": app, "pod-template-hash": hash},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-{hash}"),
                    "uid": format!("00000000-0000-4000-8000-{:012x}", i / 7), "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {
                "nodeName": format!("node-{:03}", (i * 7) % NODES),
                "containers": (0..containers).map(container).collect::<Vec<_>>(),
            },
        });
        if self.size == Size::Large {
            pod["metadata"]["labels"]["team"] = json!(namespace);
            pod["metadata"]["annotations"] = json!({
                "prometheus.io/scrape": "true", "prometheus.io/port": "8080",
                "checksum/config": format!("{:064x}", i * 7919),
            });
            pod["spec"]["volumes"] = json!([
                {"name": "config", "configMap": {"name": app}}, {"name": "data", "emptyDir": {}},
            ]);
        }
        pod
    }

    /// The status of pod `i` that a kubelet would report, as a merge patch.
    pub(crate) fn status_patch(self, i: usize) -> Value {
        let status = Self::status(i);
        let pod = self.pod(i);
        let ready = status == "Running";
        let time = format!("2026-01-{:02}T{:02}:{:02}:00Z", 1 + i % 28, i % 24, i % 60);
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": time});
        let conditions = json!([
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ]);
        if status == "Pending" {
            return json!({"status": {"phase": "Pending", "conditions": [condition("PodScheduled", true)]}});
        }
        let state = match status {
            "Running" => json!({"running": {"startedAt": time}}),
            "Completed" => {
                json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": time, "finishedAt": time}})
            }
            reason => json!({"waiting": {"reason": reason, "message": format!("back-off of pod {i}")}}),
        };
        let last_state = match status {
            "CrashLoopBackOff" => json!({"terminated": {
                "exitCode": 1, "reason": "Error", "startedAt": time, "finishedAt": time,
                "containerID": format!("containerd://{:064x}", i + 1),
            }}),
            _ => json!({}),
        };
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let statuses: Vec<_> = containers
            .map(|container| {
                json!({
                    "name": container["name"], "image": container["image"],
                    "imageID": format!("registry.example/app@sha256:{:064x}", i % 1000),
                    "containerID": format!("containerd://{:064x}", i), "state": state,
                    "lastState": last_state, "ready": ready,
                    "started": ready, "restartCount": if status == "CrashLoopBackOff" { 1 + i % 90 } else { i % 3 },
                })
            })
            .collect();
        let phase = match status {
            "Completed" => "Succeeded",
            "ImagePullBackOff" => "Pending",
            _ => "Running",
        };
        let ip = format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255);
        json!({"status": {
            "phase": phase, "conditions": conditions, "containerStatuses": statuses, "hostIP": format!("192.168.0.{}", i % NODES),
            "podIP": ip, "podIPs": [{"ip": ip}], "startTime": time, "qosClass": "Burstable",
        }})
    }
}

fn template_hash(app: &str) -> String {
    let hash =
        app.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_searches_find_expected_counts() {
        for count in [1_000, 10_000, 100_000] {
            let pods = Population { count, size: Size::Small };
            let names: Vec<_> = (0..count).map(|i| pods.name(i)).collect();
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), count);
            let count_containing = |text: &str| names.iter().filter(|name| name.contains(text)).count();
            assert!((45..=50).contains(&count_containing("needle")), "{}", count_containing("needle"));
            assert!(
                count_containing("web-").abs_diff(count / 2) < count / 20,
                "{}",
                count_containing("web-")
            );
            assert_eq!(count_containing("no-such-pod"), 0);
        }
    }
}
