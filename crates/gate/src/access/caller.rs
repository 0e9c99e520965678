//! Callers: identity and rights of the author of a request.

use std::{fmt, net::IpAddr, sync::Arc};

use pilothouse_types::{
    ids::{ServiceAccountId, SessionId, TokenId, UserId},
    role::Role,
};

use super::Factor;
use crate::rights::{Rights, Subject};

/// Origin of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Client IP address. None for the command line and the server itself.
    pub source_ip: Option<IpAddr>,
    /// Request id, as in `X-Request-Id` and the log.
    pub request_id: Option<String>,
}

/// Caller: the user or service account on whose behalf an operation runs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// User id. None for a service account, the system, the command line and a failed login.
    pub user_id: Option<UserId>,
    /// Service account, if the request has a token of one. `user_id` is then None.
    pub service_account: Option<ServiceAccountId>,
    /// User name, `sa:<service account>`, `cli:<user>`, or `system`.
    pub username: String,
    /// Role when the request arrived, for display. None before a login; `none` for a service account. It decides
    /// only that the caller is signed in: the rights of a token may be fewer than those of its owner's role.
    pub role: Option<Role>,
    /// Rights when the request arrived: those of the role and of the caller's grants, within the ceiling of the token.
    pub rights: Arc<Rights>,
    /// Session of the request. None for a request with an API token.
    pub session: Option<SessionId>,
    /// API token of the request. None for a request in a session.
    pub token: Option<TokenId>,
    /// Second factor of the session. Outside a session the default, which requires no second factor.
    pub factor: Factor,
    /// Origin of the request.
    pub origin: Origin,
}

impl Caller {
    /// The server itself, for scheduled probes and at startup.
    pub fn system() -> Self {
        let system = Self::anonymous("system", Origin::default());
        system.with_role(Role::SuperAdmin)
    }

    /// An operator at the command line, with all rights: this user can read the database and the key in any case.
    pub fn command_line(user: &str) -> Self {
        Self { username: format!("cli:{user}"), ..Self::system() }
    }

    /// A caller who is not signed in; `username` is the one in the login attempt.
    pub fn anonymous(username: impl Into<String>, origin: Origin) -> Self {
        Self {
            user_id: None,
            service_account: None,
            username: username.into(),
            role: None,
            rights: Rights::preset(Role::None),
            session: None,
            token: None,
            factor: Factor::default(),
            origin,
        }
    }

    /// The caller with this role and no grants.
    #[must_use]
    pub fn with_role(self, role: Role) -> Self {
        self.with_rights(role, Rights::preset(role))
    }

    /// The caller with this role and these rights: those of the role and of grants, or within the ceiling of a token.
    #[must_use]
    pub fn with_rights(self, role: Role, rights: Arc<Rights>) -> Self {
        Self { role: Some(role), rights, ..self }
    }

    /// The user or the service account. None for the system, the command line and a failed login.
    pub fn principal(&self) -> Option<Principal> {
        let service_account = self.service_account.map(Principal::ServiceAccount);
        self.user_id.map(Principal::User).or(service_account)
    }

    /// Whether the request has a token of a person, not of a service account.
    pub fn has_personal_token(&self) -> bool {
        self.token.is_some() && self.service_account.is_none()
    }
}

/// A user or a service account: the owner of rights, tokens, idempotency keys and streams. As text: `user:7`,
/// `service_account:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// A user.
    User(UserId),
    /// A service account.
    ServiceAccount(ServiceAccountId),
}

impl From<Principal> for Subject {
    fn from(principal: Principal) -> Self {
        match principal {
            Principal::User(id) => Self::User(id),
            Principal::ServiceAccount(id) => Self::ServiceAccount(id),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Subject::from(*self).fmt(f)
    }
}
