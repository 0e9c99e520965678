//! Table of all lists. A new kind needs a row type with its projection, and an entry here (`docs/adding-a-kind.md`).

use serde_json::value::RawValue;

use super::{
    objects::{ObjectRow, StoredObject},
    usage,
};
#[cfg(feature = "openapi")]
use crate::openapi::{NamedSchemas, schemas_of};
use crate::rows::{FieldInfo, ListRow, Row, Table, fields_of};
use crate::{
    access::Resource,
    audit::OperationRow,
    autoscaler::AutoscalerRow,
    break_glass::BreakGlassRow,
    cluster::Cluster,
    config::ConfigMapRow,
    endpoint::{EndpointRow, SERVICE_LABEL},
    error::Result,
    event::EventRow,
    grant::{GrantQuery, GrantRequest, GrantRow, RoleRow, SubjectGrants},
    kind::Kind,
    namespace::NamespaceRow,
    namespaces::NamespaceScope,
    network::{IngressRow, ServiceRow},
    node::NodeRow,
    object::parse,
    pod::PodRow,
    quota::QuotaRow,
    rows::ListScope,
    secret::SecretRow,
    service_account::ServiceAccount,
    session::SessionRow,
    storage::{ClaimRow, StorageClassRow, VolumeRow},
    token::TokenRow,
    usage::Subject,
    user::User,
    workload::WorkloadRow,
};

/// Identifier of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the list of the same name in LISTS")]
pub enum List {
    Clusters,
    Users,
    Sessions,
    Tokens,
    ServiceAccounts,
    Roles,
    Grants,
    Who,
    Requests,
    BreakGlass,
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
    Autoscalers,
    /// Objects of one kind, which the query names. Not in [`LISTS`]: its kinds are those that a cluster serves.
    Objects,
}

/// Entry of the table of lists.
pub struct ListInfo {
    /// The list.
    pub list: List,
    /// Path of its route.
    pub path: &'static str,
    /// Key of its rows in the response. The credential's permissions for it are the features `list_<key>` and
    /// `watch_<key>`.
    pub key: &'static str,
    /// Summary of its route in the OpenAPI document.
    pub summary: &'static str,
    /// The resource that a caller must be permitted to list.
    pub resource: Resource,
    /// Scope of its rows.
    pub scope: ListScope,
    /// The kinds that the list contains if the query has no `type`.
    pub kinds: &'static [Kind],
    /// Further kinds, which are returned only if selected by `type`.
    pub more_kinds: &'static [Kind],
    /// Default order, in the syntax of `sort`. Empty: by namespace and name.
    pub default_sort: &'static str,
    /// The required owner, if the list holds the objects of one owner only.
    pub owner: Option<ListOwner>,
    /// The fields of its rows.
    pub fields: fn() -> Vec<FieldInfo>,
    /// OpenAPI schemas of the row type, which is first, and of the types that it refers to.
    #[cfg(feature = "openapi")]
    pub schemas: fn() -> NamedSchemas,
    /// Projects one object of one of its kinds. `None` for lists of Pilothouse's own rows.
    pub project: Option<Project>,
    /// The field of its rows that is filled in from another list.
    pub join: Option<Join>,
    /// The object whose usage a row shows, if its rows have the field `usage`, which is then their last one.
    pub usage: Option<UsageOf>,
}

/// The object that owns all objects of a list. The required query parameter `name` selects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOwner {
    /// Kind of the owner. If no such object exists, the list is not found.
    pub kind: Kind,
    /// List of the owner's kind.
    pub list: List,
    /// Label by which an object of the list refers to its owner.
    pub label: &'static str,
    /// Field of the rows that holds the owner's name ([`Field::internal`](crate::rows::Field::internal)).
    pub field: &'static str,
}

/// Projects one object, in the API server's JSON, to its rows: one row for most kinds, one row per address for an
/// EndpointSlice.
pub type Project = fn(kind: Kind, object: &RawValue) -> Result<Vec<Row>>;

/// The object whose usage of CPU and memory a row shows.
pub type UsageOf = fn(row: &Row) -> Subject<'_>;

/// Join of a row with the rows of another list: the pod count of a node, the quotas of a namespace. It is evaluated
/// when the row is read, because the joined objects change more often than rows are read.
#[derive(Clone, Copy)]
pub struct Join {
    /// The list to join with.
    pub with: List,
    /// The joined field of the row; null before the join.
    pub field: &'static str,
    /// Evaluates the join for one row, over the rows of `with` in these namespaces.
    pub row: fn(row: &Row, with: &Table, namespaces: &NamespaceScope) -> Result<Row>,
}

/// All lists.
pub static LISTS: &[ListInfo] = &[
    local::<Cluster>(
        List::Clusters,
        Resource::Cluster,
        "/api/k8s/clusters",
        "clusters",
        "Registered clusters",
    ),
    local::<User>(List::Users, Resource::User, "/api/auth/users", "users", "Users"),
    ListInfo {
        default_sort: "-created_at",
        ..local::<SessionRow>(
            List::Sessions,
            Resource::Session,
            "/api/auth/sessions",
            "sessions",
            "One's own sessions; all sessions for a super admin",
        )
    },
    ListInfo {
        default_sort: "-created_at",
        ..local::<TokenRow>(
            List::Tokens,
            Resource::Token,
            "/api/auth/tokens",
            "tokens",
            "One's own API tokens and those of one's service accounts; all for a super admin",
        )
    },
    ListInfo {
        default_sort: "-created_at",
        ..local::<ServiceAccount>(
            List::ServiceAccounts,
            Resource::ServiceAccount,
            "/api/auth/service-accounts",
            "service_accounts",
            "Service accounts",
        )
    },
    ListInfo {
        default_sort: "-created_at",
        ..local::<RoleRow>(
            List::Roles,
            Resource::Role,
            "/api/access/roles",
            "roles",
            "Roles that grants give, built-in and own",
        )
    },
    ListInfo {
        default_sort: GrantQuery::DEFAULT_SORT,
        ..local::<GrantRow>(
            List::Grants,
            Resource::Grant,
            "/api/access/grants",
            "grants",
            "One's own grants, and those in a scope in which one may list grants",
        )
    },
    local::<SubjectGrants>(List::Who, Resource::Grant, "/api/access/who", "who", "All who have a right"),
    ListInfo {
        default_sort: "-created_at",
        ..local::<GrantRequest>(
            List::Requests,
            Resource::Request,
            "/api/access/requests",
            "requests",
            "One's own requests for grants, and those in a scope in which one may list or make grants",
        )
    },
    ListInfo {
        default_sort: BreakGlassRow::DEFAULT_SORT,
        ..local::<BreakGlassRow>(
            List::BreakGlass,
            Resource::Grant,
            "/api/access/break-glass",
            "break_glass",
            "One's own uses of break-glass; a super admin sees those of all users",
        )
    },
    ListInfo {
        default_sort: OperationRow::DEFAULT_SORT,
        ..local::<OperationRow>(
            List::Operations,
            Resource::Operation,
            "/api/k8s/audit/operations",
            "logs",
            "The operations of the audit trail; a viewer sees their own",
        )
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one_row(&NamespaceRow::project(parse(object)?))),
        join: Some(Join {
            with: List::ResourceQuotas,
            field: "resource_quota",
            row: |row, quotas, namespaces| {
                Row::of(&row.parse::<NamespaceRow>()?.with_quotas(quotas, namespaces)?)
            },
        }),
        ..of::<NamespaceRow>(
            List::Namespaces,
            "/api/k8s/namespaces",
            "namespaces",
            "Namespaces of a cluster",
            &[Kind::Namespace],
        )
    },
    ListInfo {
        more_kinds: &[Kind::Job, Kind::CronJob],
        project: Some(|kind, object| one_row(&WorkloadRow::project(kind, object)?)),
        usage: Some(usage::of_workload),
        ..of::<WorkloadRow>(
            List::Workloads,
            "/api/k8s/workloads",
            "workloads",
            "Deployments, stateful sets, daemon sets; jobs and cron jobs by their type",
            &[Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet],
        )
    },
    ListInfo {
        project: Some(|_, object| one_row(&PodRow::project(parse(object)?))),
        usage: Some(usage::of_pod),
        ..of::<PodRow>(List::Pods, "/api/k8s/pods", "pods", "Pods", &[Kind::Pod])
    },
    ListInfo {
        default_sort: "-last_seen",
        project: Some(|_, object| one_row(&EventRow::project(parse(object)?))),
        ..of::<EventRow>(List::Events, "/api/k8s/events", "events", "Events", &[Kind::Event])
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one_row(&NodeRow::project(parse(object)?))),
        join: Some(Join { with: List::Pods, field: "pods", row: NodeRow::join }),
        usage: Some(usage::of_node),
        ..of::<NodeRow>(List::Nodes, "/api/k8s/nodes", "nodes", "Nodes", &[Kind::Node])
    },
    ListInfo {
        project: Some(|_, object| one_row(&ServiceRow::project(parse(object)?))),
        ..of::<ServiceRow>(List::Services, "/api/k8s/services", "services", "Services", &[Kind::Service])
    },
    ListInfo {
        owner: Some(ListOwner {
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
            "Endpoints of a service",
            &[Kind::EndpointSlice],
        )
    },
    ListInfo {
        project: Some(|_, object| one_row(&IngressRow::project(parse(object)?))),
        ..of::<IngressRow>(List::Ingresses, "/api/k8s/ingresses", "ingresses", "Ingresses", &[Kind::Ingress])
    },
    ListInfo {
        project: Some(|_, object| one_row(&ConfigMapRow::project(parse(object)?))),
        ..of::<ConfigMapRow>(
            List::ConfigMaps,
            "/api/k8s/configmaps",
            "configmaps",
            "ConfigMaps without their values",
            &[Kind::ConfigMap],
        )
    },
    ListInfo {
        project: Some(|_, object| one_row(&SecretRow::project(parse(object)?))),
        ..of::<SecretRow>(
            List::Secrets,
            "/api/k8s/secrets",
            "secrets",
            "Secrets without their values",
            &[Kind::Secret],
        )
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one_row(&VolumeRow::project(parse(object)?))),
        ..of::<VolumeRow>(
            List::PersistentVolumes,
            "/api/k8s/persistent-volumes",
            "persistent_volumes",
            "Persistent volumes",
            &[Kind::PersistentVolume],
        )
    },
    ListInfo {
        project: Some(|_, object| one_row(&ClaimRow::project(parse(object)?))),
        ..of::<ClaimRow>(
            List::PersistentVolumeClaims,
            "/api/k8s/persistent-volume-claims",
            "persistent_volume_claims",
            "Persistent volume claims",
            &[Kind::PersistentVolumeClaim],
        )
    },
    ListInfo {
        scope: ListScope::Cluster,
        project: Some(|_, object| one_row(&StorageClassRow::project(parse(object)?))),
        ..of::<StorageClassRow>(
            List::StorageClasses,
            "/api/k8s/storage-classes",
            "storage_classes",
            "Storage classes",
            &[Kind::StorageClass],
        )
    },
    ListInfo {
        project: Some(|_, object| one_row(&QuotaRow::project(parse(object)?))),
        ..of::<QuotaRow>(
            List::ResourceQuotas,
            "/api/k8s/resource-quotas",
            "resource_quotas",
            "Resource quotas",
            &[Kind::ResourceQuota],
        )
    },
    ListInfo {
        project: Some(|_, object| one_row(&AutoscalerRow::project(parse(object)?))),
        ..of::<AutoscalerRow>(
            List::Autoscalers,
            "/api/k8s/autoscalers",
            "autoscalers",
            "Horizontal pod autoscalers",
            &[Kind::HorizontalPodAutoscaler],
        )
    },
];

/// The list of objects of any kind. The caller's right depends on the kind in the query, and whether rows have a namespace
/// does, too.
pub(super) static OBJECTS: ListInfo = ListInfo {
    scope: ListScope::Namespaced,
    fields: fields_of::<StoredObject>,
    ..local::<ObjectRow>(
        List::Objects,
        Resource::Cluster,
        "/api/k8s/objects",
        "objects",
        "Objects of any kind that the cluster serves, with the columns that it prints",
    )
};

fn one_row<R: ListRow>(row: &R) -> Result<Vec<Row>> {
    Ok(vec![Row::of(row)?])
}

/// Row type of an entry. With the feature `openapi`, it has a schema.
#[cfg(not(feature = "openapi"))]
trait EntryRow: ListRow {}

#[cfg(not(feature = "openapi"))]
impl<R: ListRow> EntryRow for R {}

/// Row type of an entry, with its schema.
#[cfg(feature = "openapi")]
trait EntryRow: ListRow + utoipa::ToSchema {}

#[cfg(feature = "openapi")]
impl<R: ListRow + utoipa::ToSchema> EntryRow for R {}

/// A list of Pilothouse's own rows.
const fn local<R: EntryRow>(
    list: List,
    resource: Resource,
    path: &'static str,
    key: &'static str,
    summary: &'static str,
) -> ListInfo {
    ListInfo {
        list,
        path,
        key,
        summary,
        resource,
        scope: ListScope::Local,
        kinds: &[],
        more_kinds: &[],
        default_sort: "",
        owner: None,
        fields: fields_of::<R>,
        #[cfg(feature = "openapi")]
        schemas: schemas_of::<R>,
        project: None,
        join: None,
        usage: None,
    }
}

/// A list of namespaced objects of these kinds. A caller who may list the first kind may read the list.
const fn of<R: EntryRow>(
    list: List,
    path: &'static str,
    key: &'static str,
    summary: &'static str,
    kinds: &'static [Kind],
) -> ListInfo {
    let resource = Resource::Kind(kinds[0]);
    ListInfo { scope: ListScope::Namespaced, kinds, ..local::<R>(list, resource, path, key, summary) }
}

impl Join {
    /// The kind of the joined objects.
    pub fn kind(&self) -> Kind {
        // a list of cluster objects has a kind, and one kind is all that a join reads
        self.with.info().kinds[0]
    }
}

impl List {
    /// Returns the list's entry in [`LISTS`], or that of objects of any kind.
    ///
    /// # Panics
    /// Never: a test checks that every variant has an entry.
    pub fn info(self) -> &'static ListInfo {
        LISTS
            .iter()
            .chain([&OBJECTS])
            .find(|info| info.list == self)
            .expect("every list has an entry in LISTS")
    }
}
