//! Warnings in successful responses.

use crate::rights::DerivedPower;

/// Warning in a successful response. Its string form is the key of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The change was applied, but its outcome could not be stored yet. No further change is accepted until the outcome
    /// is stored.
    OutcomeNotStored,
    /// The autoscaler of this name will override the number of replicas.
    Autoscaled(String),
    /// The credential may not read these related objects, so the response lacks their data.
    Unreadable(&'static str),
    /// These related objects could not be read from the cluster, so the response lacks their data.
    NotRead(&'static str),
    /// The cluster does not serve this API group or kind.
    NotServed(&'static str),
    /// The API server of this API group does not answer, so its kinds may be missing or out of date.
    GroupUnavailable(String),
    /// The cluster was stored without having been reached.
    NotTested,
    /// This kind is read from the cluster for each request, because the credential may not watch it in all namespaces,
    /// or because there are too many objects to cache.
    NotCached(&'static str),
    /// The grant gives more power than the rights of its role.
    DerivedPower(DerivedPower),
    /// The owner of the service account can use the granted rights, by making tokens of it.
    UsedByOwner,
    /// Nothing was changed, and nothing was sent to the cluster: the object already is as requested.
    Unchanged,
    /// The rollout is paused, so the change takes effect when it is resumed.
    RolloutPaused,
    /// The pod template refers to this object, as `configmap/settings`, which does not exist in the namespace.
    MissingReference(String),
    /// The Job of this name still runs, beside the new one.
    RunsBeside(String),
    /// The resources of a pod's container hold until the pod is replaced.
    UntilReplaced,
}

impl Warning {
    /// String form of every warning, for the test that the messages are complete.
    pub const KEYS: [&'static str; 16] = [
        "outcome_not_stored",
        "autoscaled",
        "unreadable",
        "not_read",
        "not_served",
        "group_unavailable",
        "not_tested",
        "not_cached",
        "secrets_through_pods",
        "cluster_admin",
        "used_by_owner",
        "unchanged",
        "rollout_paused",
        "missing_reference",
        "runs_beside",
        "until_replaced",
    ];

    /// String form, the key of the messages.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OutcomeNotStored => "outcome_not_stored",
            Self::Autoscaled(_) => "autoscaled",
            Self::Unreadable(_) => "unreadable",
            Self::NotRead(_) => "not_read",
            Self::NotServed(_) => "not_served",
            Self::GroupUnavailable(_) => "group_unavailable",
            Self::NotTested => "not_tested",
            Self::NotCached(_) => "not_cached",
            Self::DerivedPower(power) => power.as_str(),
            Self::UsedByOwner => "used_by_owner",
            Self::Unchanged => "unchanged",
            Self::RolloutPaused => "rollout_paused",
            Self::MissingReference(_) => "missing_reference",
            Self::RunsBeside(_) => "runs_beside",
            Self::UntilReplaced => "until_replaced",
        }
    }

    /// Subject of the warning, for the placeholder in the message.
    pub fn subject(&self) -> &str {
        match self {
            Self::Autoscaled(name)
            | Self::GroupUnavailable(name)
            | Self::MissingReference(name)
            | Self::RunsBeside(name) => name,
            Self::Unreadable(what) | Self::NotRead(what) | Self::NotServed(what) | Self::NotCached(what) => {
                what
            }
            Self::OutcomeNotStored
            | Self::NotTested
            | Self::DerivedPower(_)
            | Self::UsedByOwner
            | Self::Unchanged
            | Self::RolloutPaused
            | Self::UntilReplaced => "",
        }
    }
}

/// Result of a change: the changed object and warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// Object after the change.
    pub value: T,
    /// Warnings for the caller.
    pub warnings: Vec<Warning>,
}

impl<T> From<T> for Changed<T> {
    fn from(value: T) -> Self {
        Self { value, warnings: Vec::new() }
    }
}
