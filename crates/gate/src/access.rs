//! Authorisation: callers and their rights, access requests, and the permit required by every port towards a cluster
//! and by every change to Pilothouse's own tables. Only [`crate::gate::Gate`] creates permits.

use std::collections::BTreeMap;

use pilothouse_types::{
    change_reason::ChangeReason, ids::ClusterId, kind::Kind, name::Namespace, namespaces::NamespaceScope,
    role::Role,
};

mod caller;
mod judge;
mod permit;
mod step_up;

pub use caller::{Caller, Origin, Principal};
pub use judge::Allowed;
pub(crate) use judge::cluster_not_found;
pub use permit::Permit;
pub use step_up::{Factor, StepUp, StepUpAction};

/// Verb of an operation: the `operation_type` of the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are defined by the contract's audit vocabulary")]
pub enum Verb {
    List,
    Get,
    Logs,
    Create,
    Update,
    Delete,
    Test,
    Scale,
    Restart,
    Reveal,
    Login,
    Logout,
    Refresh,
    Revoke,
    ChangePassword,
    ResetPassword,
    Verify,
    Export,
    Rekey,
    Backup,
    Restore,
    Prune,
    Grant,
    Request,
    Approve,
    Deny,
    Withdraw,
    BreakGlass,
    Review,
    Enroll,
    Disable,
    Undo,
    Pause,
    Resume,
    SetImage,
    Suspend,
    Run,
    Rerun,
    Evict,
    Resize,
    Cordon,
    Uncordon,
    /// Deletion of a pod that its controller replaces. In the audit trail it is `delete`; its right is `restart`.
    DeleteReplaced,
    /// Eviction of a pod that nothing replaces. In the audit trail it is `evict`; its right is `delete`.
    EvictUnreplaced,
}

impl Verb {
    /// The value in the audit trail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Logs => "logs",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete | Self::DeleteReplaced => "delete",
            Self::Test => "test",
            Self::Scale => "scale",
            Self::Restart => "restart",
            Self::Reveal => "reveal",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Refresh => "refresh",
            Self::Revoke => "revoke",
            Self::ChangePassword => "change_password",
            Self::ResetPassword => "reset_password",
            Self::Verify => "verify",
            Self::Export => "export",
            Self::Rekey => "rekey",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Prune => "prune",
            Self::Grant => "grant",
            Self::Request => "request",
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Withdraw => "withdraw",
            Self::BreakGlass => "break_glass",
            Self::Review => "review",
            Self::Enroll => "enroll",
            Self::Disable => "disable",
            Self::Undo => "undo",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetImage => "set_image",
            Self::Suspend => "suspend",
            Self::Run => "run",
            Self::Rerun => "rerun",
            Self::Evict | Self::EvictUnreplaced => "evict",
            Self::Resize => "resize",
            Self::Cordon => "cordon",
            Self::Uncordon => "uncordon",
        }
    }

    /// Whether the verb only reads.
    pub const fn reads(self) -> bool {
        matches!(self, Self::List | Self::Get | Self::Logs | Self::Verify)
    }
}

/// Resource of an operation: the `resource_type` of the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// An object in a cluster, of a kind of the table or of any other kind that the cluster serves.
    Kind(Kind),
    /// A registered cluster.
    Cluster,
    /// A cluster that is not registered yet (a connection test of a new configuration).
    NewCluster,
    /// A user of Pilothouse.
    User,
    /// The caller's own account.
    OwnAccount,
    /// The caller's own second factor.
    OwnSecondFactor,
    /// The second factor of another user.
    SecondFactor,
    /// A session of the caller.
    Session,
    /// An API token: of the caller, or of a service account.
    Token,
    /// A service account.
    ServiceAccount,
    /// The audit trail.
    Operation,
    /// A grant of rights.
    Grant,
    /// A role: built-in, or defined by a super admin.
    Role,
    /// A request for a grant.
    Request,
    /// The master key that encrypts stored secrets.
    MasterKey,
    /// The whole database.
    Database,
}

impl Resource {
    /// The value in the audit trail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.info().singular,
            Self::Cluster | Self::NewCluster => "cluster",
            Self::User | Self::OwnAccount => "user",
            Self::OwnSecondFactor | Self::SecondFactor => "second_factor",
            Self::Session => "session",
            Self::Token => "token",
            Self::ServiceAccount => "service_account",
            Self::Operation => "operation",
            Self::Grant => "grant",
            Self::Role => "role",
            Self::Request => "request",
            Self::MasterKey => "master_key",
            Self::Database => "database",
        }
    }
}

/// The weakest of the roles viewer, ops_admin and super_admin that may do `verb` to `resource`: for the documentation,
/// and `required_role` of refusals. [`crate::rights`] decides; a test compares the two.
pub const fn required_role(verb: Verb, resource: Resource) -> Role {
    match resource {
        Resource::User | Resource::ServiceAccount | Resource::MasterKey | Resource::Database => {
            Role::SuperAdmin
        }
        Resource::Operation if matches!(verb, Verb::Prune) => Role::SuperAdmin,
        Resource::Operation if matches!(verb, Verb::Verify | Verb::Export) => Role::OpsAdmin,
        Resource::SecondFactor => Role::SuperAdmin,
        Resource::Grant if matches!(verb, Verb::Review) => Role::SuperAdmin,
        Resource::OwnSecondFactor => Role::Viewer,
        Resource::OwnAccount | Resource::Session | Resource::Token | Resource::Operation => Role::Viewer,
        // the use cases judge each grant and each request by its scope
        Resource::Grant | Resource::Request => Role::Viewer,
        Resource::Role if verb.reads() => Role::Viewer,
        Resource::Role => Role::SuperAdmin,
        Resource::NewCluster => Role::OpsAdmin,
        Resource::Cluster if matches!(verb, Verb::Test) => Role::Viewer,
        Resource::Cluster | Resource::Kind(_) => {
            if verb.reads() {
                Role::Viewer
            } else {
                Role::OpsAdmin
            }
        }
    }
}

/// Whether an operation changes accounts, credentials or rights: every change under `/api/auth` and `/api/access`. No
/// token allows it.
const fn is_closed_to_tokens(verb: Verb, resource: Resource) -> bool {
    match resource {
        // a verification of the second factor renews it, although it is named after a read
        Resource::OwnSecondFactor | Resource::SecondFactor => true,
        Resource::User
        | Resource::OwnAccount
        | Resource::Session
        | Resource::Token
        | Resource::ServiceAccount
        | Resource::Grant
        | Resource::Role
        | Resource::Request => !verb.reads(),
        Resource::Kind(_)
        | Resource::Cluster
        | Resource::NewCluster
        | Resource::Operation
        | Resource::MasterKey
        | Resource::Database => false,
    }
}

/// Related kinds that a permit for `verb` on `resource` also lets the adapter read, as far as the caller may list them:
/// the details of a workload include its pods, a scale checks for an autoscaler.
const fn related(verb: Verb, resource: Resource) -> &'static [Kind] {
    use Kind::{
        ControllerRevision, EndpointSlice, Event, HorizontalPodAutoscaler, Node, PersistentVolumeClaim, Pod,
        PodDisruptionBudget, ReplicaSet, ResourceQuota,
    };
    match (verb, resource) {
        (Verb::List, Resource::Kind(Kind::Namespace)) => &[ResourceQuota],
        (Verb::List, Resource::Kind(Kind::Node)) => &[Pod],
        (Verb::List, Resource::Kind(Kind::EndpointSlice)) => &[Kind::Service],
        (Verb::List, Resource::Kind(Kind::Deployment)) => {
            &[Kind::StatefulSet, Kind::DaemonSet, Kind::Job, Kind::CronJob]
        }
        // the diagnosis of an object reads what it depends on
        (Verb::Get, Resource::Kind(Kind::Service)) => &[Pod, Event, EndpointSlice],
        (Verb::Get, Resource::Kind(Kind::Ingress)) => &[Event, EndpointSlice, Kind::Service],
        (Verb::Get, Resource::Kind(Kind::PersistentVolumeClaim)) => &[Pod, Event],
        (Verb::Get, Resource::Kind(Kind::Node)) => &[Event],
        (Verb::Get, Resource::Kind(_)) => &[
            Pod,
            Event,
            ReplicaSet,
            ControllerRevision,
            Kind::Job,
            PersistentVolumeClaim,
            Node,
            HorizontalPodAutoscaler,
            PodDisruptionBudget,
        ],
        (Verb::Scale, Resource::Kind(_)) => &[HorizontalPodAutoscaler],
        // what the pods of an earlier revision need
        (Verb::Undo, Resource::Kind(_)) => {
            &[ReplicaSet, ControllerRevision, HorizontalPodAutoscaler, Kind::ConfigMap, Kind::Secret]
        }
        (_, Resource::Cluster | Resource::NewCluster) => &[Node, Pod, Kind::Namespace],
        _ => &[],
    }
}

/// The kind of the object that a change creates, where it is another kind than that of the request: a run of a CronJob
/// creates a Job.
const fn created(verb: Verb, resource: Resource) -> Option<Kind> {
    match (verb, resource) {
        (Verb::Run, Resource::Kind(Kind::CronJob)) => Some(Kind::Job),
        _ => None,
    }
}

/// Access request: the requested operation before authorisation, with the parameters for the audit trail.
#[derive(Clone, Debug)]
pub struct AccessRequest {
    pub(crate) verb: Verb,
    pub(crate) resource: Resource,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) cluster_name: Option<String>,
    pub(crate) namespaces: NamespaceScope,
    pub(crate) name: Option<String>,
    pub(crate) reason: Option<ChangeReason>,
    pub(crate) params: BTreeMap<&'static str, serde_json::Value>,
}

impl AccessRequest {
    /// Creates a request for `verb` on `resource`, in no cluster and no namespace.
    pub fn to(verb: Verb, resource: Resource) -> Self {
        Self {
            verb,
            resource,
            cluster: None,
            cluster_name: None,
            namespaces: NamespaceScope::Unscoped,
            name: None,
            reason: None,
            params: BTreeMap::new(),
        }
    }

    /// Creates a request for `verb` on an object of `kind` in a namespace of a registered cluster.
    pub fn to_object(verb: Verb, kind: Kind, cluster: ClusterId, namespace: &Namespace, name: &str) -> Self {
        Self::to(verb, Resource::Kind(kind)).in_cluster(cluster).in_namespace(namespace).named(name)
    }

    /// Sets the registered cluster.
    pub fn in_cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Sets the name of a cluster that is not registered yet.
    pub fn new_cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = Some(name.into());
        self
    }

    /// Sets one namespace.
    pub fn in_namespace(self, namespace: &Namespace) -> Self {
        self.within(NamespaceScope::One(namespace.clone()))
    }

    /// Sets the namespaces.
    pub fn within(mut self, namespaces: NamespaceScope) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// Sets the name of the object.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the reason that the caller gives for the change, for the audit trail.
    pub fn because(mut self, reason: Option<ChangeReason>) -> Self {
        self.reason = reason;
        self
    }

    /// Adds a parameter for the audit trail. The trail stores only parameters added here: an allowlist. The value is a
    /// text, number or boolean; values that are more expensive to build are added after the check of the right
    /// ([`Granted::with`]).
    pub fn with(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.params.insert(name, value.into().0);
        self
    }
}

/// A text, number or boolean parameter, as stored in the trail.
#[derive(Clone, Debug)]
pub struct Scalar(serde_json::Value);

macro_rules! scalars {
    ($($from:ty)*) => {$(
        impl From<$from> for Scalar {
            fn from(value: $from) -> Self {
                Self(value.into())
            }
        }
    )*};
}

scalars! { &str String bool i32 i64 u32 u64 }

/// Access request that passed the check of the right but is not recorded yet. Only the gate creates it
/// ([`crate::gate::Gate::grant`]), so a function that takes a `Granted` may read the content of the request: the
/// right was checked before.
#[derive(Clone, Debug)]
pub struct Granted {
    pub(crate) caller: Caller,
    /// The request, with the namespaces that the caller's rights reach.
    pub(crate) access: AccessRequest,
    pub(crate) allowed: Allowed,
}

impl Granted {
    /// The caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The name of the object, if it is set.
    pub fn name(&self) -> Option<&str> {
        self.access.name.as_deref()
    }

    /// Adds a parameter for the audit trail. A value of any size is accepted, and truncated to the size limit of a row.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.access.params.insert(name, value.into());
        self
    }

    /// Sets the name of the object.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.access.name = Some(name.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_types::kind::KINDS;

    use super::*;

    #[test]
    fn viewers_cannot_change_clusters_and_ops_admins_cannot_manage_users() {
        for &kind in KINDS {
            for verb in [Verb::Create, Verb::Update, Verb::Delete, Verb::Scale, Verb::Restart] {
                assert_eq!(required_role(verb, Resource::Kind(kind)), Role::OpsAdmin);
            }
            assert_eq!(required_role(Verb::List, Resource::Kind(kind)), Role::Viewer);
        }
        assert_eq!(required_role(Verb::List, Resource::User), Role::SuperAdmin);
        assert_eq!(required_role(Verb::Create, Resource::User), Role::SuperAdmin);
    }
}
