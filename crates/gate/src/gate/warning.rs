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
    /// The cluster does not serve this API group or kind.
    NotServed(&'static str),
    /// The cluster was stored without having been reached.
    NotTested,
    /// This kind is read from the cluster for each request, because the credential may not watch it in all namespaces,
    /// or because there are too many objects to cache.
    NotCached(&'static str),
    /// The grant gives more power than the rights of its role.
    DerivedPower(DerivedPower),
    /// The owner of the service account can use the granted rights, by making tokens of it.
    UsedByOwner,
}

impl Warning {
    /// String form of every warning, for the test that the messages are complete.
    pub const KEYS: [&'static str; 9] = [
        "outcome_not_stored",
        "autoscaled",
        "unreadable",
        "not_served",
        "not_tested",
        "not_cached",
        "secrets_through_pods",
        "cluster_admin",
        "used_by_owner",
    ];

    /// String form, the key of the messages.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OutcomeNotStored => "outcome_not_stored",
            Self::Autoscaled(_) => "autoscaled",
            Self::Unreadable(_) => "unreadable",
            Self::NotServed(_) => "not_served",
            Self::NotTested => "not_tested",
            Self::NotCached(_) => "not_cached",
            Self::DerivedPower(power) => power.as_str(),
            Self::UsedByOwner => "used_by_owner",
        }
    }

    /// Subject of the warning, for the placeholder in the message.
    pub fn subject(&self) -> &str {
        match self {
            Self::Autoscaled(name) => name,
            Self::Unreadable(what) | Self::NotServed(what) | Self::NotCached(what) => what,
            Self::OutcomeNotStored | Self::NotTested | Self::DerivedPower(_) | Self::UsedByOwner => "",
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
