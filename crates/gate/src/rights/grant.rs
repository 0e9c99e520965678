//! Grants: rows that give a role to a subject.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use pilothouse_types::{
    error::Reason,
    ids::{GrantId, GrantRequestId, ServiceAccountId, UserId},
    role::Role,
};

use super::{ClusterScope, Reach, RoleName, RoleRules, preset};

/// Subject of a grant. As text, for storage: `user:7`, `group:ldap:cn=ops`, `service_account:3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A user.
    User(UserId),
    /// A group of an identity provider. A name alone is no group: two providers may use the same one.
    Group {
        /// Id of the provider, without a colon.
        provider: String,
        /// The provider's name of the group.
        name: String,
    },
    /// A service account.
    ServiceAccount(ServiceAccountId),
}

impl Subject {
    /// Maximum length in bytes of a provider's id or a group's name.
    pub const MAX_BYTES: usize = 256;

    /// The group of a provider.
    ///
    /// # Errors
    /// [`Reason::Required`] or [`Reason::TooLong`] by the length of either text; [`Reason::Malformed`] if the provider
    /// has a colon.
    pub fn group(provider: impl Into<String>, name: impl Into<String>) -> Result<Self, Reason> {
        let (provider, name) = (provider.into(), name.into());
        if provider.is_empty() || name.is_empty() {
            Err(Reason::Required)
        } else if provider.len().max(name.len()) > Self::MAX_BYTES {
            Err(Reason::TooLong)
        } else if provider.contains(':') {
            Err(Reason::Malformed)
        } else {
            Ok(Self::Group { provider, name })
        }
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// [`Reason::Malformed`]; as [`Subject::group`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let (kind, rest) = text.split_once(':').ok_or(Reason::Malformed)?;
        let id = || rest.parse::<i64>().map_err(|_| Reason::Malformed);
        match kind {
            "user" => id().map(|id| Self::User(UserId(id))),
            "service_account" => id().map(|id| Self::ServiceAccount(ServiceAccountId(id))),
            "group" => {
                let (provider, name) = rest.split_once(':').ok_or(Reason::Malformed)?;
                Self::group(provider, name)
            }
            _ => Err(Reason::Malformed),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Group { provider, name } => write!(f, "group:{provider}:{name}"),
            Self::ServiceAccount(id) => write!(f, "service_account:{id}"),
        }
    }
}

/// Origin of a grant. As text: `manual`, `request:7`, `break_glass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantSource {
    /// Made by a person, through the API or on the command line.
    Manual,
    /// Made by the approval of a request.
    Request(GrantRequestId),
    /// Made by a use of break-glass.
    BreakGlass,
}

impl GrantSource {
    /// Parses the text form.
    ///
    /// # Errors
    /// [`Reason::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        match text.strip_prefix("request:") {
            Some(id) => id.parse().map(|id| Self::Request(GrantRequestId(id))).map_err(|_| Reason::Malformed),
            None if text == "manual" => Ok(Self::Manual),
            None if text == "break_glass" => Ok(Self::BreakGlass),
            None => Err(Reason::Malformed),
        }
    }
}

impl fmt::Display for GrantSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manual => f.write_str("manual"),
            Self::Request(id) => write!(f, "request:{id}"),
            Self::BreakGlass => f.write_str("break_glass"),
        }
    }
}

/// A grant: a subject has a role in clusters, with a reach, for a time. Only its revocation changes it: another change
/// is a revocation and a new grant, so that the grants of any past day are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Id.
    pub id: GrantId,
    /// Who has the role.
    pub subject: Subject,
    /// The role: a built-in or an own one.
    pub role: RoleName,
    /// The clusters.
    pub clusters: ClusterScope,
    /// The reach in each of the clusters.
    pub reach: Reach,
    /// First moment of the grant.
    pub from: Timestamp,
    /// End of the grant; it does not hold at this moment. `None` without end.
    pub until: Option<Timestamp>,
    /// Reason in the words of its giver.
    pub reason: Option<String>,
    /// Origin.
    pub source: GrantSource,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Name of the user who created it, or `cli:<user>`.
    pub created_by: String,
    /// Time of the revocation.
    pub revoked_at: Option<Timestamp>,
    /// Name of the user who revoked it.
    pub revoked_by: Option<String>,
}

/// State of a grant at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// It gives its rights.
    Active,
    /// It has ended.
    Expired,
    /// It was revoked, at whatever time: a clock that is set back does not bring it back.
    Revoked,
    /// It has not begun.
    Future,
}

impl GrantState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Active, Self::Expired, Self::Revoked, Self::Future];

    /// The value in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Future => "future",
        }
    }

    fn of(revoked: bool, from: Timestamp, until: Option<Timestamp>, now: Timestamp) -> Self {
        if revoked {
            Self::Revoked
        } else if until.is_some_and(|until| until <= now) {
            Self::Expired
        } else if from > now {
            Self::Future
        } else {
            Self::Active
        }
    }
}

impl Grant {
    /// Maximum number of grants of a subject that are active or begin in future.
    pub const MAX_LIVE: usize = 200;

    /// State at a moment.
    pub fn state(&self, now: Timestamp) -> GrantState {
        GrantState::of(self.revoked_at.is_some(), self.from, self.until, now)
    }

    /// Whether the grant is active or begins in future: such grants count against [`Grant::MAX_LIVE`], and the role of
    /// one cannot be deleted.
    pub fn is_live(&self, now: Timestamp) -> bool {
        matches!(self.state(now), GrantState::Active | GrantState::Future)
    }
}

/// Reference to the grant that gives a right. The order is that in which grants are examined: presets, then by id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantRef {
    /// Id of the grant. `None` for the preset of the user's role.
    pub id: Option<GrantId>,
    /// Name of the role, or of the preset: `ops_admin`.
    pub role: String,
    /// The group through which the caller has the grant, as [`Subject`] in text form.
    pub via_group: Option<String>,
    /// End of the grant.
    pub until: Option<Timestamp>,
}

/// A grant of a caller with the rules of its role: one row of the input of [`super::Rights::compile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveGrant {
    /// The reference by which decisions name the grant.
    pub grant: GrantRef,
    /// The rules of the role.
    pub rules: Arc<RoleRules>,
    /// The clusters.
    pub clusters: ClusterScope,
    /// The reach in each of the clusters.
    pub reach: Reach,
    /// First moment.
    pub from: Timestamp,
    /// Whether the grant was revoked.
    pub revoked: bool,
}

impl EffectiveGrant {
    /// A stored grant with the rules of its role. The caller has it as the grant's subject, or as a member of the group
    /// that is its subject.
    pub fn of(grant: &Grant, rules: Arc<RoleRules>) -> Self {
        let via_group = matches!(grant.subject, Subject::Group { .. }).then(|| grant.subject.to_string());
        Self {
            grant: GrantRef {
                id: Some(grant.id),
                role: grant.role.to_string(),
                via_group,
                until: grant.until,
            },
            rules,
            clusters: grant.clusters.clone(),
            reach: grant.reach.clone(),
            from: grant.from,
            revoked: grant.revoked_at.is_some(),
        }
    }

    /// State at a moment.
    pub fn state(&self, now: Timestamp) -> GrantState {
        GrantState::of(self.revoked, self.from, self.grant.until, now)
    }

    /// The next moment at which the state changes by itself.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state(now) {
            GrantState::Active => self.grant.until,
            GrantState::Future => Some(self.from),
            GrantState::Expired | GrantState::Revoked => None,
        }
    }

    /// The preset of a value of `users.role`.
    pub fn preset(role: Role) -> Self {
        Self {
            grant: GrantRef { id: None, role: role.as_str().to_owned(), via_group: None, until: None },
            rules: Arc::new(preset(role)),
            clusters: ClusterScope::All,
            reach: Reach::Cluster,
            from: Timestamp::MIN,
            revoked: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_types::namespaces::NamespacePattern;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn grant() -> Grant {
        Grant {
            id: GrantId(1),
            subject: Subject::User(UserId(7)),
            role: RoleName::new("viewer").unwrap(),
            clusters: ClusterScope::All,
            reach: Reach::try_from(vec![NamespacePattern::Any]).unwrap(),
            from: at(10),
            until: Some(at(20)),
            reason: None,
            source: GrantSource::Manual,
            created_at: at(5),
            created_by: "ann".to_owned(),
            revoked_at: None,
            revoked_by: None,
        }
    }

    #[test]
    fn state_follows_the_clock_until_the_grant_is_revoked() {
        let cases = [
            (9, GrantState::Future, true),
            (10, GrantState::Active, true),
            (19, GrantState::Active, true),
            (20, GrantState::Expired, false),
            (21, GrantState::Expired, false),
        ];
        for (second, state, live) in cases {
            assert_eq!(grant().state(at(second)), state, "{second}");
            assert_eq!(grant().is_live(at(second)), live, "{second}");
            let revoked = Grant { revoked_at: Some(at(15)), ..grant() };
            assert_eq!(revoked.state(at(second)), GrantState::Revoked, "{second}");
            assert!(!revoked.is_live(at(second)));
        }
        let endless = Grant { until: None, ..grant() };
        assert_eq!(endless.state(Timestamp::MAX), GrantState::Active);
    }

    #[test]
    fn subjects_and_sources_have_a_text_form() {
        for text in ["user:7", "service_account:3", "group:ldap:cn=ops", "group:keycloak:a:b"] {
            assert_eq!(Subject::parse(text).map(|subject| subject.to_string()).as_deref(), Ok(text));
        }
        let same_name = |provider| Subject::group(provider, "ops").unwrap();
        assert_ne!(same_name("ldap"), same_name("oidc"), "a group is never its bare name");
        for text in ["", "user", "user:", "user:x", "group:ldap", "team:1", "User:1"] {
            assert_eq!(Subject::parse(text), Err(Reason::Malformed), "{text:?}");
        }
        assert_eq!(Subject::parse("group::ops"), Err(Reason::Required));
        assert_eq!(Subject::group("a:b", "ops"), Err(Reason::Malformed));
        assert_eq!(Subject::group("ldap", "x".repeat(257)), Err(Reason::TooLong));
        for text in ["manual", "request:7", "break_glass"] {
            assert_eq!(GrantSource::parse(text).map(|source| source.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "request:", "request:x", "seed"] {
            assert_eq!(GrantSource::parse(text), Err(Reason::Malformed), "{text:?}");
        }
    }

    #[test]
    fn effective_grant_names_the_group_of_its_subject() {
        let rules = Arc::new(RoleRules::default());
        let of = |subject| EffectiveGrant::of(&Grant { subject, ..grant() }, Arc::clone(&rules)).grant;
        let group = of(Subject::group("ldap", "ops").unwrap());
        assert_eq!(group.via_group.as_deref(), Some("group:ldap:ops"));
        assert_eq!(of(Subject::User(UserId(7))).via_group, None);
        assert!(EffectiveGrant::preset(Role::Viewer).grant < group, "presets come first");
    }
}
