//! The table of lists. Adding a kind is a row type with its projection, and a line here.

use serde_json::value::RawValue;

use super::{FieldInfo, ListRow, Row, Table, fields_of};
use crate::{
    audit::OperationRow,
    cluster::Cluster,
    config::ConfigMapRow,
    endpoint::{EndpointRow, SERVICE_LABEL},
    error::Result,
    event::EventRow,
    kind::Kind,
    namespace::NamespaceRow,
    network::{IngressRow, ServiceRow},
    node::NodeRow,
    object::parse,
    pod::PodRow,
    quota::QuotaRow,
    secret::SecretRow,
    session::SessionRow,
    storage::{ClaimRow, StorageClassRow, VolumeRow},
    user::User,
    workload::WorkloadRow,
};

/// A list that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the list of the same name in LISTS")]
pub enum List {
    Clusters,
    Users,
    Sessions,
    Operations,
    Namespaces,
    Workloads,
    Pods,
    Events,
    Nodes,
    Services,
    Endpoints,
    Ingresses,
    ConfigMaps,
    Secrets,
    PersistentVolumes,
    PersistentVolumeClaims,
    StorageClasses,
    ResourceQuotas,
}

/// Whose rows a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListScope {
    /// Our own; no `cluster_id`.
    Ours,
    /// A cluster's, of a kind without namespaces.
    Cluster,
    /// A cluster's; `namespace` is required, `*` is all.
    Namespaced,
}

/// What the table says of a list.
pub struct ListInfo {
    /// Which list.
    pub list: List,
    /// The path of its route.
    pub path: &'static str,
    /// The key of its rows in the reply.
    pub key: &'static str,
    /// Whose rows.
    pub scope: ListScope,
    /// The kinds merged in it when no `type` is asked for.
    pub kinds: &'static [Kind],
    /// Kinds that only `type` brings in.
    pub more_kinds: &'static [Kind],
    /// The order when none is asked for, as `sort` writes it; empty is by namespace and name.
    pub default_sort: &'static str,
    /// What its objects belong to, when it shows those of one owner only.
    pub owner: Option<Owner>,
    /// The fields of its rows.
    pub fields: fn() -> Vec<FieldInfo>,
    /// Projects one object of one of its kinds; lists of our own rows have none.
    pub project: Option<Project>,
    /// What its rows lack until the rows of another list are at hand.
    pub join: Option<Join>,
}

/// The one object that a list's objects belong to; the required parameter `name` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind. One of that name must exist, or the list is not found.
    pub kind: Kind,
    /// The list of that kind.
    pub list: List,
    /// The label by which an object of the list names it.
    pub label: &'static str,
    /// The field of the rows that holds it ([`super::Field::ours`]).
    pub field: &'static str,
}

/// Projects one object, as the API server wrote it, to its rows: of most kinds one, of an EndpointSlice one an address.
pub type Project = fn(kind: Kind, object: &RawValue) -> Result<Vec<Row>>;

/// What a row shows of other objects: a node the number of its pods, a namespace its quotas. It is filled in when the
/// row is shown; those objects change more often than anybody looks.
#[derive(Clone, Copy)]
pub struct Join {
    /// The list whose rows tell it.
    pub with: List,
    /// The field of the row that is null until then.
    pub field: &'static str,
    /// Fills it in.
    pub row: fn(row: &Row, with: &Table) -> Result<Row>,
}

/// Every list.
pub static LISTS: &[ListInfo] = &[
    ours::<Cluster>(List::Clusters, "/api/k8s/clusters", "clusters", ""),
    ours::<User>(List::Users, "/api/auth/users", "users", ""),
    ours::<SessionRow>(List::Sessions, "/api/auth/sessions", "sessions", "-created_at"),
    ours::<OperationRow>(List::Operations, "/api/k8s/audit/operations", "logs", "-id"),
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one(&NamespaceRow::project(parse(object)?))),
        join: Some(Join {
            with: List::ResourceQuotas,
            field: "resource_quota",
            row: |row, quotas| Row::of(&row.parse::<NamespaceRow>()?.with_quotas(quotas)?),
        }),
        ..of::<NamespaceRow>(List::Namespaces, "/api/k8s/namespaces", "namespaces", &[Kind::Namespace])
    },
    ListInfo {
        more_kinds: &[Kind::Job, Kind::CronJob],
        project: Some(|kind, object| one(&WorkloadRow::project(kind, object)?)),
        ..of::<WorkloadRow>(
            List::Workloads,
            "/api/k8s/workloads",
            "workloads",
            &[Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet],
        )
    },
    ListInfo {
        project: Some(|_, object| one(&PodRow::project(parse(object)?))),
        ..of::<PodRow>(List::Pods, "/api/k8s/pods", "pods", &[Kind::Pod])
    },
    ListInfo {
        default_sort: "-last_seen",
        project: Some(|_, object| one(&EventRow::project(parse(object)?))),
        ..of::<EventRow>(List::Events, "/api/k8s/events", "events", &[Kind::Event])
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one(&NodeRow::project(parse(object)?))),
        join: Some(Join {
            with: List::Pods,
            field: "pods",
            row: |row, pods| Row::of(&row.parse::<NodeRow>()?.with_pods(pods)),
        }),
        ..of::<NodeRow>(List::Nodes, "/api/k8s/nodes", "nodes", &[Kind::Node])
    },
    ListInfo {
        project: Some(|_, object| one(&ServiceRow::project(parse(object)?))),
        ..of::<ServiceRow>(List::Services, "/api/k8s/services", "services", &[Kind::Service])
    },
    ListInfo {
        owner: Some(Owner {
            kind: Kind::Service,
            list: List::Services,
            label: SERVICE_LABEL,
            field: "service",
        }),
        project: Some(|_, object| EndpointRow::project(parse(object)?).map(|row| Row::of(&row)).collect()),
        ..of::<EndpointRow>(
            List::Endpoints,
            "/api/k8s/services/endpoints",
            "endpoints",
            &[Kind::EndpointSlice],
        )
    },
    ListInfo {
        project: Some(|_, object| one(&IngressRow::project(parse(object)?))),
        ..of::<IngressRow>(List::Ingresses, "/api/k8s/ingresses", "ingresses", &[Kind::Ingress])
    },
    ListInfo {
        project: Some(|_, object| one(&ConfigMapRow::project(parse(object)?))),
        ..of::<ConfigMapRow>(List::ConfigMaps, "/api/k8s/configmaps", "configmaps", &[Kind::ConfigMap])
    },
    ListInfo {
        project: Some(|_, object| one(&SecretRow::project(parse(object)?))),
        ..of::<SecretRow>(List::Secrets, "/api/k8s/secrets", "secrets", &[Kind::Secret])
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one(&VolumeRow::project(parse(object)?))),
        ..of::<VolumeRow>(
            List::PersistentVolumes,
            "/api/k8s/persistent-volumes",
            "persistent_volumes",
            &[Kind::PersistentVolume],
        )
    },
    ListInfo {
        project: Some(|_, object| one(&ClaimRow::project(parse(object)?))),
        ..of::<ClaimRow>(
            List::PersistentVolumeClaims,
            "/api/k8s/persistent-volume-claims",
            "persistent_volume_claims",
            &[Kind::PersistentVolumeClaim],
        )
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one(&StorageClassRow::project(parse(object)?))),
        ..of::<StorageClassRow>(
            List::StorageClasses,
            "/api/k8s/storage-classes",
            "storage_classes",
            &[Kind::StorageClass],
        )
    },
    ListInfo {
        project: Some(|_, object| one(&QuotaRow::project(parse(object)?))),
        ..of::<QuotaRow>(
            List::ResourceQuotas,
            "/api/k8s/resource-quotas",
            "resource_quotas",
            &[Kind::ResourceQuota],
        )
    },
];

fn one<R: ListRow>(row: &R) -> Result<Vec<Row>> {
    Ok(vec![Row::of(row)?])
}

const fn ours<R: ListRow>(list: List, path: &'static str, key: &'static str, sort: &'static str) -> ListInfo {
    ListInfo { scope: ListScope::Ours, default_sort: sort, ..of::<R>(list, path, key, &[]) }
}

const fn of<R: ListRow>(
    list: List,
    path: &'static str,
    key: &'static str,
    kinds: &'static [Kind],
) -> ListInfo {
    ListInfo {
        list,
        path,
        key,
        scope: ListScope::Namespaced,
        kinds,
        more_kinds: &[],
        default_sort: "",
        owner: None,
        fields: fields_of::<R>,
        project: None,
        join: None,
    }
}

impl List {
    /// The list's line in the table.
    ///
    /// # Panics
    /// Never: a test holds every variant against the table.
    pub fn info(self) -> &'static ListInfo {
        LISTS.iter().find(|info| info.list == self).expect("every list has a line in LISTS")
    }
}
