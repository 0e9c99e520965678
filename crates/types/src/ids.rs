//! Ids of clusters, users, service accounts, sessions, API tokens, grants and operations.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($value:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $value);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A cluster's id. Ids are never reused.
    ClusterId(i64);
    /// A user's id. Ids are never reused.
    UserId(i64);
    /// A session's id. It may be displayed: it is not the secret value of the session cookie.
    SessionId(i64);
    /// A service account's id. Ids are never reused.
    ServiceAccountId(i64);
    /// An API token's id. Ids are never reused. It may be displayed: it is not the secret text of the token.
    TokenId(i64);
    /// A grant's id. Ids are never reused.
    GrantId(i64);
    /// Id of a request for a grant. Ids are never reused.
    GrantRequestId(i64);
    /// Id of a use of break-glass. Ids are never reused.
    BreakGlassId(i64);
    /// Operation id: a UUID version 7. It is the `Audit-ID` of the operation's requests in the cluster's own audit log.
    OperationId(Uuid);
}
