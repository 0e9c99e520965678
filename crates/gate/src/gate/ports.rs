//! Ports of the gate.

use std::sync::Arc;

use async_trait::async_trait;
use pilothouse_types::{
    error::Result,
    ids::{ClusterId, SessionId, TokenId},
    role::Role,
};

use crate::rights::Rights;

/// Port: names of the registered clusters.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ClusterNames: Send + Sync {
    /// Name of a cluster; `None` if it is not registered.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn name(&self, id: ClusterId) -> Result<Option<String>>;

    /// Ids and names of all clusters, in no defined order.
    async fn all(&self) -> Result<Vec<(ClusterId, String)>>;
}

/// Role and rights of a caller at this moment.
#[derive(Clone, Debug)]
pub struct CurrentRights {
    /// The user's role; `none` for a service account.
    pub role: Role,
    /// The rights of the role and of the caller's grants, within the ceiling of the token.
    pub rights: Arc<Rights>,
}

/// Port: current state of a session.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SessionCheck: Send + Sync {
    /// Current rights of the user of a session. The check does not count as a use of the session.
    ///
    /// # Errors
    /// `SessionEnded` if the session ended or expired, or if its user is disabled; `StoreUnavailable`.
    async fn current_rights(&self, session: SessionId) -> Result<CurrentRights>;
}

/// Port: current state of an API token.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TokenCheck: Send + Sync {
    /// Current rights of a token. The check does not count as a use of it.
    ///
    /// # Errors
    /// `TokenInvalid` if the token is revoked, or its owner is disabled or absent; `TokenExpired`; `StoreUnavailable`.
    async fn current_rights(&self, token: TokenId) -> Result<CurrentRights>;
}
