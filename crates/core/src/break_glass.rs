//! Break-glass: a user named in the settings takes the role `admin` in one cluster for an hour, without an approval and
//! without an identity provider. Another super admin reviews each use afterwards.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use async_trait::async_trait;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::Permit,
    error::Result,
    ids::{BreakGlassId, ClusterId, GrantId, UserId},
    rows::{Cell, Field, Filter, ListRow},
    user::Username,
};

mod usecase;

pub use usecase::BreakGlass;

/// Users that may use break-glass, and their networks. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BreakGlassSettings {
    /// Names of local users.
    pub users: BTreeSet<Username>,
    /// Networks from which these users may use break-glass. Empty: no address is allowed.
    pub networks: Vec<IpNet>,
}

impl BreakGlassSettings {
    /// Whether the settings allow break-glass to a user at this address.
    pub fn allows(&self, user: &str, address: Option<IpAddr>) -> bool {
        let address = address.map(|address| address.to_canonical());
        self.users.iter().any(|name| name.as_str() == user)
            && address.is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)))
    }
}

/// A use of break-glass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BreakGlassRow {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: BreakGlassId,
    /// The user.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub user_id: UserId,
    /// Name of the user at that time.
    pub username: String,
    /// The cluster.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub cluster_id: ClusterId,
    /// Why it was used.
    pub reason: String,
    /// The grant of the role `admin`. A revocation ends it earlier.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub grant_id: GrantId,
    /// Time of the use.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// End of the grant.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
    /// Whether it was reviewed.
    pub reviewed: bool,
    /// Time of the review; null before.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub reviewed_at: Option<Timestamp>,
    /// Name of the super admin who reviewed it.
    pub reviewed_by: Option<String>,
    /// Note of the review.
    pub note: Option<String>,
}

impl BreakGlassRow {
    /// Default order: newest first.
    pub const DEFAULT_SORT: &str = "-created_at";
    /// Role of the grant.
    pub const ROLE: &str = "admin";
    /// Duration of the grant.
    pub const DURATION: Duration = Duration::from_hours(1);
    /// Maximum number of uses of a user within [`BreakGlassRow::WINDOW`].
    pub const MAX_USES: usize = 2;
    /// Time window of [`BreakGlassRow::MAX_USES`]: a use counts until this time has passed.
    pub const WINDOW: Duration = Duration::from_hours(24);
}

impl ListRow for BreakGlassRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::filtered("user_id", Filter::Number, |row| Cell::from(row.user_id.0)),
        Field::new("username", |row| Cell::text(&*row.username)),
        Field::filtered("cluster_id", Filter::Number, |row| Cell::from(row.cluster_id.0)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("until", |row| Cell::from(row.until)),
        Field::filtered("reviewed", Filter::OneOf(&["true", "false"]), |row| Cell::from(row.reviewed)),
        Field::new("reviewed_at", |row| Cell::from(row.reviewed_at)),
        Field::new("reviewed_by", |row| Cell::from(&row.reviewed_by)),
    ];

    fn name(&self) -> &str {
        &self.username
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        [Some(&self.reason), self.note.as_ref()].into_iter().flatten().map(String::as_str).collect()
    }
}

/// A use of break-glass to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlassRecord {
    /// The user.
    pub user_id: UserId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Reason for the use.
    pub reason: String,
}

/// Registry of the uses of break-glass. Every change commits its audit row in the same transaction; author and time are
/// those of the permit's operation.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait BreakGlassRegistry: Send + Sync {
    /// Uses, oldest first: those of one user, or all.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self, user: Option<UserId>) -> Result<Vec<BreakGlassRow>>;

    /// One use.
    async fn find(&self, id: BreakGlassId) -> Result<Option<BreakGlassRow>>;

    /// Stores a use with its grant: the role [`BreakGlassRow::ROLE`] with the reach `cluster` in the cluster, for
    /// [`BreakGlassRow::DURATION`] from now on, with the source [`crate::rights::GrantSource::BreakGlass`] and the
    /// reason of the use; and a new rights stamp. The audit row has the cluster.
    ///
    /// # Errors
    /// `TooMany` if the user has [`BreakGlassRow::MAX_USES`] uses within [`BreakGlassRow::WINDOW`], or the maximum number
    /// of live grants, also with concurrent calls; `NotFound` if the user does not exist or is disabled, or if there is
    /// no such cluster.
    async fn open(&self, permit: &Permit, record: BreakGlassRecord) -> Result<BreakGlassRow>;

    /// Stores the review of a use. One of several concurrent calls succeeds.
    ///
    /// # Errors
    /// `NotFound`; `RequestDecided` if it was reviewed before.
    async fn review(&self, permit: &Permit, id: BreakGlassId, note: String) -> Result<BreakGlassRow>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_allow_named_users_at_named_networks() {
        let settings = BreakGlassSettings {
            users: [Username::new("ann").unwrap()].into(),
            networks: ["10.1.0.0/16", "2001:db8::/32"].map(|network| network.parse().unwrap()).to_vec(),
        };
        let allows = |user, address: &str| settings.allows(user, Some(address.parse().unwrap()));
        assert!(
            allows("ann", "10.1.2.3") && allows("ann", "2001:db8::1") && allows("ann", "::ffff:10.1.2.3")
        );
        assert!(!allows("ann", "10.2.0.1") && !allows("ann", "2001:db9::1"), "another network");
        assert!(!allows("bob", "10.1.2.3") && !allows("oidc:ann", "10.1.2.3"), "another user");
        assert!(!settings.allows("ann", None), "no address");
        let anywhere = BreakGlassSettings { networks: Vec::new(), ..settings };
        assert!(!anywhere.allows("ann", Some("10.1.2.3".parse().unwrap())));
        assert!(!BreakGlassSettings::default().allows("admin", Some("127.0.0.1".parse().unwrap())));
    }
}
