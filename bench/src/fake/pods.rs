//! Pods of a fake API server, and the usage of each in the API `metrics.k8s.io`.

use serde_json::{Value, json};

use super::lists::{Lists, Objects};
use crate::pods::{Population, Size};

/// Number of namespaces.
pub(crate) const NAMESPACES: usize = 500;

/// The pods of a [`Population`], spread over [`NAMESPACES`] namespaces.
#[derive(Clone, Copy)]
pub(crate) struct FakePods {
    pub(crate) count: usize,
}

impl FakePods {
    fn population(self) -> Population {
        Population { count: self.count, size: Size::Small }
    }

    /// The namespace of pod `i`. Fewer pods than namespaces lie in namespaces at equal distances.
    pub(crate) fn namespace(self, i: usize) -> String {
        let distance = NAMESPACES / self.count.clamp(1, NAMESPACES);
        namespace(i * distance % NAMESPACES)
    }

    /// The name of pod `i`.
    pub(crate) fn name(self, i: usize) -> String {
        self.population().name(i)
    }

    /// The watch of all pods, and the list of their usage.
    pub(super) fn lists(self) -> Lists {
        Lists::new(move |path| match path {
            "/api/v1/pods" => Some(Objects::watched(self.count, move |i| self.object(i))),
            "/apis/metrics.k8s.io/v1beta1/pods" => {
                Some(Objects::listed(self.count, move |i| usage(&self.namespace(i), &self.name(i), i)))
            }
            _ => None,
        })
    }

    fn object(self, i: usize) -> Value {
        let mut pod = self.population().pod(i);
        pod["status"] = self.population().status_patch(i)["status"].take();
        let metadata = &mut pod["metadata"];
        metadata["namespace"] = self.namespace(i).into();
        metadata["uid"] = format!("00000000-0000-4000-8001-{i:012x}").into();
        metadata["resourceVersion"] = "1".into();
        metadata["creationTimestamp"] =
            format!("2026-01-{:02}T{:02}:{:02}:{:02}Z", 1 + i % 28, i % 24, i / 24 % 60, i / 1440 % 60)
                .into();
        pod
    }
}

/// The name of namespace `n`.
pub(crate) fn namespace(n: usize) -> String {
    format!("team-{n:03}")
}

/// The usage of pod `i`, as metrics-server reports it: [`cpu_millis`] and [`memory_bytes`] in one container.
pub(super) fn usage(namespace: &str, name: &str, i: usize) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-28T00:00:00Z"},
        "timestamp": "2026-01-28T00:00:00Z", "window": "15.012s",
        "containers": [{
            "name": "app",
            "usage": {
                "cpu": format!("{}n", cpu_millis(i) * 1_000_000), "memory": format!("{}Ki", memory_bytes(i) >> 10),
            },
        }],
    })
}

/// CPU usage of pod `i` in thousandths of a core.
fn cpu_millis(i: usize) -> usize {
    1 + i % 997
}

/// Memory usage of pod `i` in bytes.
fn memory_bytes(i: usize) -> usize {
    (16 + i % 499) << 20
}
