//! Namespaces: list rows with quotas, creation, deletion, and protected namespaces.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    error::{Cause, Error, Result},
    gate::{Changed, Gate},
    ids::ClusterId,
    kind::Kind,
    level,
    name::Namespace,
    namespaces::NamespaceScope,
    object::{Labels, Metadata, or_default},
    quota::{QuotaRow, QuotaSummary},
    rows::{AgingLevel, Cell, Field, Filter, Level, ListRow, NextLevel, Row, Table, has_reason},
};

/// Namespaces that Pilothouse never deletes. Kubernetes itself uses them, and a deletion would break the cluster; the
/// API server refuses the deletion of some of them, too.
pub const PROTECTED: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Fields of Namespace that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceObject {
    #[serde(deserialize_with = "or_default")]
    pub(crate) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    phase: Option<String>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<NamespaceCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NamespaceCondition {
    #[serde(deserialize_with = "or_default")]
    status: String,
    #[serde(deserialize_with = "or_default")]
    reason: String,
}

/// List row of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NamespaceRow {
    /// Its name.
    pub name: String,
    /// `Active` or `Terminating`.
    pub status: String,
    /// Level of the status.
    pub level: Level,
    /// Cause of the level in the words of Kubernetes, such as `OOMKilled`; null if there is none besides the status.
    pub reason: Option<String>,
    /// Its merged quotas; null if it has none.
    pub resource_quota: Option<QuotaSummary>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// The change of its level that comes with age.
    #[serde(skip)]
    next_level: Option<NextLevel>,
}

impl NamespaceRow {
    /// Projects a Namespace, without its quotas, which are separate objects.
    pub fn project(object: NamespaceObject) -> Self {
        let NamespaceObject { metadata, status } = object;
        let (created_at, deleted_at) = (metadata.creation_timestamp, metadata.deletion_timestamp);
        let by_deletion = || if deleted_at.is_some() { "Terminating" } else { "Active" }.to_owned();
        let phase = status.phase.unwrap_or_else(by_deletion);
        let AgingLevel { level, next } = level::of_phase(Some(&phase), created_at, deleted_at);
        // the conditions are those of its deletion, the last one about the finalizers of its objects
        let remaining = status.conditions.into_iter().rev().find(|condition| condition.status == "True");
        let reason = remaining.map(|condition| condition.reason);
        Self {
            name: metadata.name,
            uid: metadata.uid,
            status: phase,
            level,
            reason: reason.filter(|reason| has_reason(level) && !reason.is_empty()),
            resource_quota: None,
            labels: metadata.labels,
            created_at,
            next_level: next,
        }
    }

    /// Sets the merged quotas of this namespace from the table of quotas, if it is one of `namespaces`, whose quotas
    /// may be read.
    ///
    /// # Errors
    /// `Internal` if the rows of the table are not quotas.
    pub fn with_quotas(self, quotas: &Table, namespaces: &NamespaceScope) -> Result<Self> {
        if !namespaces.contains(Some(&self.name)) {
            return Ok(self);
        }
        let own = quotas.rows_in(&self.name).map(Row::parse).collect::<Result<Vec<QuotaRow>>>()?;
        Ok(Self { resource_quota: QuotaSummary::merge(&own), ..self })
    }
}

impl ListRow for NamespaceRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered("status", Filter::OneOf(&["Active", "Terminating"]), |row: &Self| {
            Cell::text(&*row.status)
        })
        .counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::from(&row.reason)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    /// Its own name: a right to a namespace includes its row.
    fn namespace(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn next_level(&self) -> Option<NextLevel> {
        self.next_level
    }
}

/// Port: changes namespaces in the permit's cluster.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait NamespaceApi: Send + Sync {
    /// Creates the permit's namespace.
    ///
    /// # Errors
    /// `AlreadyExists`; `NamespaceTerminating` while a namespace of that name is being deleted; and the errors of every
    /// call to a cluster.
    async fn create(&self, permit: &Permit, labels: &Labels) -> Result<NamespaceRow>;

    /// Requests the deletion of the permit's namespace. The API server deletes it in the background.
    ///
    /// # Errors
    /// `NotFoundInCluster`; and the errors of every call to a cluster.
    async fn delete(&self, permit: &Permit) -> Result<()>;
}

/// Use cases: creating and deleting namespaces.
#[derive(Clone)]
pub struct Namespaces {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn NamespaceApi>,
}

impl Namespaces {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn NamespaceApi>) -> Self {
        Self { gate, api }
    }

    /// Creates a namespace. Labels take the right to update namespaces besides: they can be rights themselves, as those
    /// of the Pod Security admission.
    ///
    /// # Errors
    /// As [`Gate::change`] and [`NamespaceApi::create`].
    pub async fn create(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        labels: Labels,
    ) -> Result<Changed<NamespaceRow>> {
        let granted = self.gate.grant(caller, access(Verb::Create, cluster, namespace)).await?;
        if !labels.is_empty()
            && let Err(refusal) = caller.judge(&access(Verb::Update, cluster, namespace))
        {
            return self.gate.refuse_granted(&granted, refusal).await;
        }
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.create(&permit, &labels).await?.into());
        self.gate.change_granted(granted, work, |_| Vec::new()).await
    }

    /// Deletes a namespace and all objects in it.
    ///
    /// # Errors
    /// `ProtectedNamespace`; otherwise as [`Gate::change`] and [`NamespaceApi::delete`].
    pub async fn delete(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
    ) -> Result<Changed<()>> {
        let access = access(Verb::Delete, cluster, namespace);
        if PROTECTED.contains(&namespace.as_str()) {
            let refusal =
                Error::new(Cause::ProtectedNamespace).resource("namespace").name(namespace.as_str());
            return self.gate.refuse(caller, access, refusal).await;
        }
        let api = self.api.clone();
        self.gate.change(caller, access, async move |permit| Ok(api.delete(&permit).await?.into())).await
    }
}

/// Creates the access request of a namespace operation, with the namespace also as the name of the object.
fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace) -> AccessRequest {
    AccessRequest::to_object(verb, Kind::Namespace, cluster, namespace, namespace.as_str())
}
