//! Rights of users and service accounts, compiled from the role, the grants and the ceiling of the token, and cached until
//! the rights stamp changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::FoundSession;
use crate::{
    access::Principal,
    clock::Clock,
    error::Result,
    grant::{RightsRows, RightsSource, RightsStamp, RoleRegistry},
    ids::TokenId,
    rights::{BuiltInRole, Ceiling, EffectiveGrant, Rights, RoleRules, Subject},
    role::Role,
};

/// Minimum number of entries before outdated ones are removed.
const MIN_SWEEP: usize = 64;

/// Compiles and caches the rights of users and service accounts. The rights stamp of a session or token, which is read
/// with it, decides whether cached rights are current, so that they are as old as the session: less than a second.
pub(crate) struct UserRights {
    source: Arc<dyn RightsSource>,
    roles: Arc<dyn RoleRegistry>,
    clock: Arc<dyn Clock>,
    cache: Mutex<RightsCache>,
}

/// Key and input of a look-up of rights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RightsOf<'a> {
    pub(crate) principal: Principal,
    /// The user's role; `none` for a service account.
    pub(crate) role: Role,
    /// The rights stamp, as read with the session or the token.
    pub(crate) stamp: RightsStamp,
    /// The token of the request and its ceiling, which never changes. None in a session.
    pub(crate) ceiling: Option<(TokenId, &'a Ceiling)>,
}

#[derive(Default)]
struct RightsCache {
    /// Key: the user or service account, and the token whose ceiling narrows the rights.
    compiled: HashMap<(Principal, Option<TokenId>), Compiled>,
    /// Number of entries at which outdated ones are removed next.
    sweep_at: usize,
}

/// Compiled rights.
#[derive(Clone)]
struct Compiled {
    role: Role,
    /// The stamp of the session or token for which the rows were read.
    asked: RightsStamp,
    /// The stamp of the rows: `asked`, or a later one.
    read: RightsStamp,
    /// When the rights were compiled. They do not hold before, if the clock is set back.
    at: Timestamp,
    rights: Arc<Rights>,
}

impl UserRights {
    pub(crate) fn new(
        source: Arc<dyn RightsSource>,
        roles: Arc<dyn RoleRegistry>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { source, roles, clock, cache: Mutex::default() }
    }

    /// The rights of the user of a session.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(crate) async fn of(&self, found: &FoundSession) -> Result<Arc<Rights>> {
        let principal = Principal::User(found.user.id);
        let asked = RightsOf { principal, role: found.user.role, stamp: found.rights, ceiling: None };
        self.of_principal(asked).await
    }

    /// The rights of a user or service account, within the ceiling of a token.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(crate) async fn of_principal(&self, asked: RightsOf<'_>) -> Result<Arc<Rights>> {
        let RightsOf { principal, role, stamp, ceiling } = asked;
        // a token whose ceiling narrows nothing uses the cached rights of the owner
        let ceiling = ceiling.filter(|(_, ceiling)| **ceiling != Ceiling::default());
        let key = (principal, ceiling.map(|(token, _)| token));
        let now = self.clock.now();
        let is_current = |cached: &&Compiled| {
            // rights read under a later stamp than the session's are newer than the session
            let same_rows = cached.read == stamp || cached.asked == stamp;
            let same_time = cached.at <= now && cached.rights.next_change().is_none_or(|at| now < at);
            same_rows && same_time && cached.role == role
        };
        if let Some(cached) = self.lock().compiled.get(&key).filter(is_current) {
            return Ok(Arc::clone(&cached.rights));
        }
        let RightsRows { stamp: read, grants, labels } =
            self.source.rights(&[Subject::from(principal)], now).await?;
        let grants: Vec<_> = [EffectiveGrant::preset(role)].into_iter().chain(grants).collect();
        // read after the stamp: a later change of the role changes the stamp
        let ceiling = match ceiling {
            Some((_, ceiling)) => Some(ceiling.as_grant(self.rules(ceiling).await?)),
            None => None,
        };
        let rights = Arc::new(Rights::compile_within(&grants, ceiling.as_ref(), &labels, now));
        let compiled = Compiled { role, asked: stamp, read, at: now, rights: Arc::clone(&rights) };
        self.lock().insert(key, compiled);
        Ok(rights)
    }

    /// The rules of the role of a ceiling; no rule if the role was deleted.
    async fn rules(&self, ceiling: &Ceiling) -> Result<Arc<RoleRules>> {
        let Some(name) = &ceiling.role else { return Ok(Arc::default()) };
        if let Some(role) = BuiltInRole::parse(name.as_str()) {
            return Ok(Arc::new(role.rules()));
        }
        let own = self.roles.list().await?.into_iter().find(|role| role.name == *name);
        Ok(own.map(|role| Arc::new(role.rules)).unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, RightsCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RightsCache {
    fn insert(&mut self, key: (Principal, Option<TokenId>), rights: Compiled) {
        if self.compiled.len() >= self.sweep_at.max(MIN_SWEEP) {
            self.compiled.retain(|_, cached| cached.read == rights.read);
            self.sweep_at = 2 * self.compiled.len();
        }
        self.compiled.insert(key, rights);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_executor::block_on;
    use jiff::SignedDuration;

    use super::*;
    use crate::{
        grant::{MockRightsSource, MockRoleRegistry, OwnRole},
        ids::{ClusterId, GrantId, ServiceAccountId, SessionId, UserId},
        rights::{
            ClusterLabels, ClusterScope, Extent, GrantRef, Labels, Reach, RightResource, RightVerb, RoleName,
            preset,
        },
        session::Session,
        testing::fake::FakeRuntime,
        user::{User, Username},
    };

    fn found(role: Role, stamp: i64, now: Timestamp) -> FoundSession {
        let session = Session {
            id: SessionId(3),
            user_id: UserId(7),
            generation: 1,
            source_ip: None,
            user_agent: None,
            created_at: now,
            last_seen_at: now,
            expires_at: now,
            authenticated_at: now,
            factor_at: None,
        };
        let user = User {
            id: UserId(7),
            username: Username::new("ann").unwrap(),
            display_name: String::new(),
            role,
            disabled: false,
            created_at: now,
            last_login_at: None,
        };
        FoundSession { session, user, enrolled: false, rights: RightsStamp(stamp) }
    }

    /// A grant of the viewer's rights in cluster 1.
    fn grant(until: Option<Timestamp>) -> EffectiveGrant {
        EffectiveGrant {
            grant: GrantRef { id: Some(GrantId(1)), role: "viewer".to_owned(), via_group: None, until },
            rules: Arc::new(preset(Role::Viewer)),
            clusters: ClusterScope::Ids([ClusterId(1)].into()),
            reach: Reach::Cluster,
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        }
    }

    /// Rights of a source that must be read this many times and has this stamp and grant.
    fn rights(runtime: &FakeRuntime, reads: usize, stamp: i64, grant: EffectiveGrant) -> UserRights {
        let mut source = MockRightsSource::new();
        source.expect_rights().times(reads).returning(move |subjects, _| {
            assert_eq!(subjects, [Subject::User(UserId(7))]);
            let labels = ClusterLabels::from([1, 2].map(|id| (ClusterId(id), Labels::new())));
            Ok(RightsRows { stamp: RightsStamp(stamp), grants: vec![grant.clone()], labels })
        });
        UserRights::new(Arc::new(source), Arc::new(MockRoleRegistry::new()), runtime.clock.clone())
    }

    #[test]
    fn rights_are_those_of_the_role_and_of_the_grants() {
        let runtime = FakeRuntime::default();
        let now = runtime.clock.now();
        for (role, sees_both) in [(Role::None, false), (Role::Viewer, true)] {
            let user_rights = rights(&runtime, 1, 1, grant(None));
            let rights = block_on(user_rights.of(&found(role, 1, now))).unwrap();
            assert_eq!((rights.sees(ClusterId(1)), rights.sees(ClusterId(2))), (true, sees_both), "{role:?}");
        }
    }

    #[test]
    fn rights_of_a_token_are_cut_by_its_ceiling_and_cached_for_it() {
        let runtime = FakeRuntime::default();
        let now = runtime.clock.now();
        let mut source = MockRightsSource::new();
        source.expect_rights().times(3).returning(|_, _| {
            let labels = ClusterLabels::from([1, 2].map(|id| (ClusterId(id), Labels::new())));
            Ok(RightsRows { stamp: RightsStamp(1), grants: Vec::new(), labels })
        });
        let lister = RoleName::new("lister").unwrap();
        let rules = serde_json::json!([{"verbs": ["list"], "resources": ["workloads"]}]);
        let own = OwnRole {
            name: lister.clone(),
            description: String::new(),
            rules: RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap(),
            created_at: now,
            created_by: "system".to_owned(),
            updated_at: now,
        };
        let mut roles = MockRoleRegistry::new();
        roles.expect_list().times(1).returning(move || Ok(vec![own.clone()]));
        let user_rights = UserRights::new(Arc::new(source), Arc::new(roles), runtime.clock.clone());
        let session = found(Role::Viewer, 1, now);
        let (principal, role, stamp) = (Principal::User(session.user.id), Role::Viewer, RightsStamp(1));
        let of = |rights: Arc<Rights>| {
            let lists = |resource| rights.extent(RightVerb::List, &resource) != Extent::None;
            let [one, two] = [1, 2].map(|id| rights.sees(ClusterId(id)));
            (one, two, lists(RightResource::Workloads), lists(RightResource::Config))
        };
        let of_token = |token, ceiling: &Ceiling| {
            let ceiling = Some((TokenId(token), ceiling));
            of(block_on(user_rights.of_principal(RightsOf { principal, role, stamp, ceiling })).unwrap())
        };
        assert_eq!(of(block_on(user_rights.of(&session)).unwrap()), (true, true, true, true));
        assert_eq!(of_token(1, &Ceiling::default()), (true, true, true, true), "as of the session");
        let in_one = Ceiling { clusters: ClusterScope::Ids([ClusterId(1)].into()), ..Ceiling::default() };
        let own = Ceiling { role: Some(lister), ..Ceiling::default() };
        for _ in 0..2 {
            assert_eq!(of_token(2, &in_one), (true, false, true, true));
            assert_eq!(of_token(3, &own), (true, true, true, false));
        }
    }

    #[test]
    fn rights_of_a_service_account_are_those_of_its_grants() {
        let runtime = FakeRuntime::default();
        let mut source = MockRightsSource::new();
        source.expect_rights().times(1).returning(|subjects, _| {
            assert_eq!(subjects, [Subject::ServiceAccount(ServiceAccountId(7))]);
            let labels = ClusterLabels::from([1, 2].map(|id| (ClusterId(id), Labels::new())));
            Ok(RightsRows { stamp: RightsStamp(1), grants: vec![grant(None)], labels })
        });
        let roles = Arc::new(MockRoleRegistry::new());
        let user_rights = UserRights::new(Arc::new(source), roles, runtime.clock.clone());
        let principal = Principal::ServiceAccount(ServiceAccountId(7));
        let asked = RightsOf { principal, role: Role::None, stamp: RightsStamp(1), ceiling: None };
        let rights = block_on(user_rights.of_principal(asked)).unwrap();
        assert!(rights.sees(ClusterId(1)) && !rights.sees(ClusterId(2)));
    }

    #[test]
    fn rights_are_read_again_when_stamp_or_role_changes() {
        let runtime = FakeRuntime::default();
        let now = runtime.clock.now();
        // the rows have stamp 2: read for a session that was cached before the change
        let user_rights = rights(&runtime, 3, 2, grant(None));
        let read = |role, stamp| block_on(user_rights.of(&found(role, stamp, now))).unwrap();
        for stamp in [1, 1, 2, 2] {
            read(Role::None, stamp);
        }
        read(Role::None, 3);
        read(Role::Viewer, 3);
    }

    #[test]
    fn rights_end_with_their_grant_under_the_same_stamp() {
        let runtime = FakeRuntime::default();
        let until = runtime.clock.now() + Duration::from_secs(60);
        let user_rights = rights(&runtime, 2, 1, grant(Some(until)));
        let sees = || {
            let found = found(Role::None, 1, runtime.clock.now());
            block_on(user_rights.of(&found)).unwrap().sees(ClusterId(1))
        };
        assert!(sees() && sees());
        runtime.clock.advance(Duration::from_secs(60));
        assert!(!sees() && !sees());
    }

    #[test]
    fn rights_follow_a_clock_that_is_set_forward_and_back() {
        let runtime = FakeRuntime::default();
        let start = runtime.clock.now();
        let minutes = |n| start + SignedDuration::from_mins(n);
        let grant = EffectiveGrant { from: minutes(1), ..grant(Some(minutes(2))) };
        let user_rights = rights(&runtime, 5, 1, grant);
        for (minute, sees) in [(0, false), (1, true), (0, false), (2, false), (1, true), (1, true)] {
            runtime.clock.jump(minutes(minute).duration_since(runtime.clock.now()));
            let found = found(Role::None, 1, runtime.clock.now());
            let rights = block_on(user_rights.of(&found)).unwrap();
            assert_eq!(rights.sees(ClusterId(1)), sees, "minute {minute}");
        }
    }
}
