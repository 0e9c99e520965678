//! Table of the Kubernetes kinds that Pilothouse reads or changes.

use std::fmt;

use crate::dynamic_kind::DynamicKind;

/// Declares [`Kind`] and [`KINDS`] as one table.
macro_rules! kinds {
    ($($variant:ident: $group:literal $version:literal $plural:literal $singular:literal $scope:ident;)*) => {
        /// Kind of a Kubernetes object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each variant is the Kubernetes kind of the same name")]
        pub enum Kind {
            $($variant,)*
            /// A kind that is not in the table, named by the discovery of a cluster.
            Dynamic(DynamicKind),
        }

        /// All kinds of the table.
        pub const KINDS: &[Kind] = &[$(Kind::$variant,)*];

        impl Kind {
            /// Names of this kind: its entry of the table, or what a cluster's discovery names.
            pub const fn info(self) -> KindInfo {
                match self {
                    $(Self::$variant => KindInfo {
                        group: $group, version: $version, plural: $plural, singular: $singular,
                        kind: stringify!($variant), namespaced: matches!(Scope::$scope, Scope::Namespaced),
                    },)*
                    Self::Dynamic(kind) => kind.info(),
                }
            }
        }
    };
}

/// API group, version and resource names of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KindInfo {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version within the group.
    pub version: &'static str,
    /// The plural in lower case, as in API paths and RBAC rules.
    pub plural: &'static str,
    /// The singular in lower case, as in the audit trail's `resource_type`. Of a kind that is not in the table, its
    /// [resource name](Kind::resource_name).
    pub singular: &'static str,
    /// The `kind` in manifests.
    pub kind: &'static str,
    /// Whether objects of this kind are namespaced.
    pub namespaced: bool,
}

enum Scope {
    Cluster,
    Namespaced,
}

kinds! {
    Namespace: "" "v1" "namespaces" "namespace" Cluster;
    Node: "" "v1" "nodes" "node" Cluster;
    Pod: "" "v1" "pods" "pod" Namespaced;
    Event: "" "v1" "events" "event" Namespaced;
    ConfigMap: "" "v1" "configmaps" "configmap" Namespaced;
    Secret: "" "v1" "secrets" "secret" Namespaced;
    Service: "" "v1" "services" "service" Namespaced;
    PersistentVolume: "" "v1" "persistentvolumes" "persistentvolume" Cluster;
    PersistentVolumeClaim: "" "v1" "persistentvolumeclaims" "persistentvolumeclaim" Namespaced;
    ResourceQuota: "" "v1" "resourcequotas" "resourcequota" Namespaced;
    Deployment: "apps" "v1" "deployments" "deployment" Namespaced;
    StatefulSet: "apps" "v1" "statefulsets" "statefulset" Namespaced;
    DaemonSet: "apps" "v1" "daemonsets" "daemonset" Namespaced;
    ReplicaSet: "apps" "v1" "replicasets" "replicaset" Namespaced;
    ControllerRevision: "apps" "v1" "controllerrevisions" "controllerrevision" Namespaced;
    Job: "batch" "v1" "jobs" "job" Namespaced;
    CronJob: "batch" "v1" "cronjobs" "cronjob" Namespaced;
    Ingress: "networking.k8s.io" "v1" "ingresses" "ingress" Namespaced;
    EndpointSlice: "discovery.k8s.io" "v1" "endpointslices" "endpointslice" Namespaced;
    StorageClass: "storage.k8s.io" "v1" "storageclasses" "storageclass" Cluster;
    HorizontalPodAutoscaler: "autoscaling" "v2" "horizontalpodautoscalers" "horizontalpodautoscaler" Namespaced;
    PodDisruptionBudget: "policy" "v1" "poddisruptionbudgets" "poddisruptionbudget" Namespaced;
}

impl Kind {
    /// Whether each object of this kind belongs to a namespace: objects of namespaced kinds, and a `Namespace`, which
    /// belongs to itself.
    pub const fn belongs_to_namespace(self) -> bool {
        self.info().namespaced || matches!(self, Self::Namespace)
    }

    /// The kind of the table with these names; `None` if the table has no such entry.
    pub fn in_table(group: &str, version: &str, plural: &str) -> Option<Self> {
        let is_it = |kind: &&Self| {
            let info = kind.info();
            (info.group, info.version, info.plural) == (group, version, plural)
        };
        KINDS.iter().find(is_it).copied()
    }

    /// The name by which kubectl selects the kind: `pods`, `deployments.apps`.
    pub fn resource_name(self) -> String {
        let KindInfo { group, plural, .. } = self.info();
        if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
    }

    /// The `apiVersion` in manifests: `v1`, `apps/v1`.
    pub fn api_version(self) -> String {
        let KindInfo { group, version, .. } = self.info();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().singular)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_are_unique_and_derived_from_the_kind_name() {
        for kind in KINDS {
            let info = kind.info();
            assert_eq!(info.singular, info.kind.to_lowercase());
            assert!(info.plural.starts_with(&info.singular[..info.singular.len() - 1]));
            assert_eq!(KINDS.iter().filter(|other| other.info().plural == info.plural).count(), 1);
        }
    }

    #[test]
    fn kind_of_the_table_is_found_by_group_version_and_plural() {
        for &kind in KINDS {
            let info = kind.info();
            assert_eq!(Kind::in_table(info.group, info.version, info.plural), Some(kind));
            assert_eq!(Kind::in_table(info.group, "v9", info.plural), None);
            assert_eq!(Kind::in_table("example.org", info.version, info.plural), None);
        }
        assert_eq!(Kind::Pod.resource_name(), "pods");
        assert_eq!(Kind::Deployment.resource_name(), "deployments.apps");
    }
}
