//! Who may do what: roles, the one rule table, and the permit that every port towards a cluster and every change to
//! our own tables asks for. Only [`crate::gate::Gate`] makes permits.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    audit::{Operation, OperationId},
    cluster::ClusterId,
    error::{Error, Reason, Result},
    kind::Kind,
    name::{Namespace, NamespaceScope},
    session::SessionId,
    user::UserId,
};

/// The three roles; the order is the order of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// 只读用户: reads, no secret values, own audit rows only.
    Viewer,
    /// 运维管理员: everything on clusters, not people.
    OpsAdmin,
    /// 超级管理员: everything.
    SuperAdmin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::OpsAdmin, Self::SuperAdmin];

    /// The role as it is written in requests and replies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::OpsAdmin => "ops_admin",
            Self::SuperAdmin => "super_admin",
        }
    }

    /// Reads a role.
    ///
    /// # Errors
    /// [`Reason::NotOneOf`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(Reason::NotOneOf)
    }
}

/// What is done; the word is the audit trail's `operation_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the words of the contract's audit vocabulary")]
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
}

impl Verb {
    /// The word in the audit trail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Logs => "logs",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
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
        }
    }

    /// Whether it only reads.
    pub const fn reads(self) -> bool {
        matches!(self, Self::List | Self::Get | Self::Logs | Self::Verify)
    }
}

/// To what it is done; the word is the audit trail's `resource_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// An object in a cluster.
    Kind(Kind),
    /// A registered cluster.
    Cluster,
    /// A cluster's connection that is not registered (a test of a new configuration).
    NewCluster,
    /// A user of Pilothouse.
    User,
    /// The caller's own account.
    OwnAccount,
    /// A session of the caller's own.
    Session,
    /// The audit trail.
    Operation,
    /// The key that seals what is stored.
    MasterKey,
    /// All that is stored.
    Database,
}

impl Resource {
    /// The word in the audit trail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.info().singular,
            Self::Cluster | Self::NewCluster => "cluster",
            Self::User | Self::OwnAccount => "user",
            Self::Session => "session",
            Self::Operation => "operation",
            Self::MasterKey => "master_key",
            Self::Database => "database",
        }
    }
}

/// The rule table: the lowest role that may do `verb` to `resource`.
pub const fn required_role(verb: Verb, resource: Resource) -> Role {
    match resource {
        Resource::User | Resource::MasterKey | Resource::Database => Role::SuperAdmin,
        Resource::Operation if matches!(verb, Verb::Prune) => Role::SuperAdmin,
        Resource::Operation if matches!(verb, Verb::Verify | Verb::Export) => Role::OpsAdmin,
        Resource::OwnAccount | Resource::Session | Resource::Operation => Role::Viewer,
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

/// What a permit to do `verb` to a kind lets the adapter read besides: a workload's detail shows its pods, a scale
/// looks for an autoscaler.
const fn related(verb: Verb, resource: Resource) -> &'static [Kind] {
    use Kind::{ControllerRevision, Event, HorizontalPodAutoscaler, Node, Pod, ReplicaSet, ResourceQuota};
    match (verb, resource) {
        (Verb::List, Resource::Kind(Kind::Namespace)) => &[ResourceQuota],
        (Verb::List, Resource::Kind(Kind::Node)) => &[Pod],
        (Verb::List, Resource::Kind(Kind::EndpointSlice)) => &[Kind::Service],
        (Verb::List, Resource::Kind(Kind::Deployment)) => {
            &[Kind::StatefulSet, Kind::DaemonSet, Kind::Job, Kind::CronJob]
        }
        (Verb::Get, Resource::Kind(_)) => &[Pod, Event, ReplicaSet, ControllerRevision, Kind::Job],
        (Verb::Scale, Resource::Kind(_)) => &[HorizontalPodAutoscaler],
        (_, Resource::Cluster | Resource::NewCluster) => &[Node, Pod, Kind::Namespace],
        _ => &[],
    }
}

/// Where a request came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The peer's address; none for the command line and the system itself.
    pub source_ip: Option<IpAddr>,
    /// The request's id, as in `X-Request-Id` and the log.
    pub request_id: Option<String>,
}

/// On whose behalf something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user; none for the system, the command line and a login that failed.
    pub user_id: Option<UserId>,
    /// The user's name, `cli:<user>`, or `system`.
    pub username: String,
    /// The role in force when the request came in; none before a login.
    pub role: Option<Role>,
    /// The session the request belongs to.
    pub session: Option<SessionId>,
    /// Where it came from.
    pub origin: Origin,
}

impl Caller {
    /// Pilothouse itself: the prober, the start.
    pub fn system() -> Self {
        Self {
            user_id: None,
            username: "system".to_owned(),
            role: Some(Role::SuperAdmin),
            session: None,
            origin: Origin::default(),
        }
    }

    /// An operator at the command line, who has the database and the key anyway.
    pub fn command_line(user: &str) -> Self {
        Self { username: format!("cli:{user}"), ..Self::system() }
    }

    /// Somebody who is not signed in yet; `username` is the one tried.
    pub fn anonymous(username: impl Into<String>, origin: Origin) -> Self {
        Self { user_id: None, username: username.into(), role: None, session: None, origin }
    }

    /// Whether the caller may do `verb` to `resource`.
    ///
    /// # Errors
    /// `RoleTooLow`, naming the role required.
    pub fn check(&self, verb: Verb, resource: Resource) -> Result<()> {
        let required = required_role(verb, resource);
        if self.role.is_some_and(|role| role >= required) {
            Ok(())
        } else {
            Err(Error::role_too_low(required))
        }
    }
}

/// What somebody asks to do, before it is allowed; also what the audit trail will say of it.
#[derive(Clone, Debug)]
pub struct AccessRequest {
    pub(crate) verb: Verb,
    pub(crate) resource: Resource,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) cluster_name: Option<String>,
    pub(crate) namespaces: NamespaceScope,
    pub(crate) name: Option<String>,
    pub(crate) params: BTreeMap<&'static str, serde_json::Value>,
}

impl AccessRequest {
    /// `verb` on `resource`.
    pub fn to(verb: Verb, resource: Resource) -> Self {
        Self {
            verb,
            resource,
            cluster: None,
            cluster_name: None,
            namespaces: NamespaceScope::All,
            name: None,
            params: BTreeMap::new(),
        }
    }

    /// In this registered cluster.
    pub fn in_cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Concerning a cluster of this name that is not registered yet.
    pub fn new_cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = Some(name.into());
        self
    }

    /// In one namespace.
    pub fn in_namespace(self, namespace: &Namespace) -> Self {
        self.within(NamespaceScope::One(namespace.clone()))
    }

    /// In these namespaces.
    pub fn within(mut self, namespaces: NamespaceScope) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// Of this name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With a parameter that the audit trail keeps. Only what is named here is kept: an allowlist. It is one word, number
    /// or switch: what takes more work to write down is added after the role was asked ([`Granted::with`]).
    pub fn with(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.params.insert(name, value.into().0);
        self
    }
}

/// One word, number or switch, as the trail keeps it.
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

/// What a caller asks to do and may do by role; nothing is recorded of it yet. Only the gate makes one
/// ([`crate::gate::Gate::grant`]), so what takes one can read the content of a request: its role was asked before.
#[derive(Clone, Debug)]
pub struct Granted {
    pub(crate) caller: Caller,
    pub(crate) access: AccessRequest,
}

impl Granted {
    /// On whose behalf.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// With a parameter that the audit trail keeps, of any size: a row keeps as much of it as it has room for.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.access.params.insert(name, value.into());
        self
    }

    /// Of this name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.access.name = Some(name.into());
        self
    }
}

/// The right to do one thing once asked: an adapter takes cluster, kind and namespaces from here, so that a handler
/// can neither forget the check nor spend the permit elsewhere.
#[derive(Clone, Debug)]
pub struct Permit {
    access: AccessRequest,
    operation: Option<Arc<Operation>>,
}

impl Permit {
    /// Only the gate calls this.
    pub(crate) fn new(access: AccessRequest, operation: Option<Operation>) -> Self {
        Self { access, operation: operation.map(Arc::new) }
    }

    /// What may be done.
    pub fn verb(&self) -> Verb {
        self.access.verb
    }

    /// To what.
    pub fn resource(&self) -> Resource {
        self.access.resource
    }

    /// The registered cluster it is about.
    ///
    /// # Errors
    /// `Internal` when it is about none: an adapter was handed the wrong permit.
    pub fn cluster(&self) -> Result<ClusterId> {
        self.access.cluster.ok_or_else(|| Error::internal("the permit names no cluster"))
    }

    /// The namespaces it covers.
    pub fn namespaces(&self) -> &NamespaceScope {
        &self.access.namespaces
    }

    /// The one namespace it covers.
    ///
    /// # Errors
    /// `Internal` when it covers all.
    pub fn namespace(&self) -> Result<&Namespace> {
        match &self.access.namespaces {
            NamespaceScope::One(namespace) => Ok(namespace),
            NamespaceScope::All => Err(Error::internal("the permit names no namespace")),
        }
    }

    /// The kind it is about.
    ///
    /// # Errors
    /// `Internal` when it is about none.
    pub fn kind(&self) -> Result<Kind> {
        match self.access.resource {
            Resource::Kind(kind) => Ok(kind),
            _ => Err(Error::internal("the permit names no kind")),
        }
    }

    /// Checks that objects of `kind` may be read under this permit: the kind itself or one related to it.
    ///
    /// # Errors
    /// `Internal` when not.
    pub fn covers(&self, kind: Kind) -> Result<()> {
        let own = self.access.resource == Resource::Kind(kind);
        if own || related(self.access.verb, self.access.resource).contains(&kind) {
            Ok(())
        } else {
            Err(Error::internal(format!("the permit does not cover {kind}")))
        }
    }

    /// The right to keep all objects of a kind at hand that this permit lets somebody list, for whoever may list them
    /// next: the system's own, in the same cluster, to read only. What of it is shown is said by each reader's permit.
    ///
    /// # Errors
    /// `Internal` when the permit does not cover the kind, or is none to list.
    pub fn for_cache(&self, kind: Kind) -> Result<Self> {
        self.covers(kind)?;
        if self.access.verb != Verb::List {
            return Err(Error::internal("the cache needs a permit to list"));
        }
        Ok(Self::new(AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(self.cluster()?), None))
    }

    /// The operation recorded for it; none for plain reads.
    pub fn operation(&self) -> Option<&Operation> {
        self.operation.as_deref()
    }

    /// The operation's id, sent to the cluster as `Audit-ID`.
    pub fn operation_id(&self) -> Option<OperationId> {
        self.operation.as_ref().map(|operation| operation.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::KINDS;

    #[test]
    fn power_only_grows() {
        let resources = KINDS.iter().map(|&kind| Resource::Kind(kind)).chain([
            Resource::Cluster,
            Resource::NewCluster,
            Resource::User,
            Resource::OwnAccount,
            Resource::Session,
            Resource::Operation,
            Resource::MasterKey,
            Resource::Database,
        ]);
        for resource in resources {
            for verb in
                [Verb::List, Verb::Get, Verb::Create, Verb::Update, Verb::Delete, Verb::Test, Verb::Scale]
            {
                let allowed = Role::ALL.map(|role| role >= required_role(verb, resource));
                assert!(allowed.is_sorted(), "{verb:?} {resource:?}: a higher role may less");
                assert!(allowed[2], "a super admin may everything");
            }
        }
    }

    #[test]
    fn viewers_change_no_cluster_and_ops_admins_no_people() {
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
