//! Contract tests of the storage ports: every adapter must pass them, the in-memory fake included.
//!
//! A case is a function over empty ports, which panics if an adapter breaks the contract. An adapter's tests run all of
//! [`STORE`] and of [`COORDINATION`], each case over new ports:
//!
//! ```
//! use pilothouse_core::testing::{contract::{STORE, StorePorts}, fake::Fake};
//!
//! for case in STORE {
//!     futures_executor::block_on((case.run)(StorePorts::over(Fake::default().store)));
//! }
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

use super::fake::FakeRuntime;
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    audit::{AuditQuery, OperationQuery, OperationRow, TrailReader},
    break_glass::BreakGlassRegistry,
    clock::Clock,
    cluster::{ClusterRegistry, Connections},
    coordinator::Coordinator,
    grant::{GrantRegistry, RequestRegistry, RightsSource, RoleRegistry},
    idempotency::IdempotencyStore,
    inventory::List,
    monitor::StoreMonitor,
    operation::AuditWriter,
    provider::FederationStore,
    rng::Rng,
    role::Role,
    second_factor::SecondFactorStore,
    service_account::ServiceAccountStore,
    session::{LoginThrottle, SecretHash, Session, SessionRecord, SessionStore, ThrottleKey},
    token::TokenStore,
    user::{PasswordHash, User, UserRecord, UserRegistry, Username},
};

mod break_glass;
mod browser_sessions;
mod clusters;
mod coordination;
mod federation;
mod grants;
mod idempotency;
mod listing;
mod monitor;
mod requests;
mod rights;
mod roles;
mod second_factors;
mod service_accounts;
mod sessions;
mod throttle;
mod tokens;
mod trail;
mod users;

/// One case of a contract.
pub struct Case<P = StorePorts> {
    /// The behaviour under test: `users::names_are_unique`.
    pub name: &'static str,
    /// Runs the case on empty ports.
    pub run: fn(P) -> BoxFuture<'static, ()>,
}

macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        &[$($(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            run: |ports| async move { $module::$case(&ports).await }.boxed(),
        },)+)+]
    };
}

/// The contract of all ports that a database implements.
pub const STORE: &[Case] = cases! {
    users: created_user_is_found, names_are_unique, ids_are_never_reused,
        concurrent_create_first_creates_one_user, update_sets_only_given_fields,
        last_super_admin_cannot_be_removed, one_super_admin_survives_concurrent_deletes,
        role_change_or_disabling_ends_sessions, new_password_ends_other_sessions,
        own_password_change_does_not_override_a_newer_one, ended_session_cannot_change_password,
        operations_on_absent_users_are_not_found;
    sessions: open_session_is_found_by_cookie_and_id, session_opens_only_with_the_current_password,
        touch_updates_last_seen, refresh_token_is_single_use, background_refresh_does_not_update_last_seen,
        one_of_concurrent_refreshes_succeeds, concurrent_refreshes_leave_one_valid_chain, replayed_token_ends_the_session,
        refresh_token_is_bound_to_its_session, session_ends_once, sessions_are_listed_by_user,
        only_expired_sessions_are_deleted, login_and_second_factor_have_their_times;
    browser_sessions: refreshes_within_the_grace_period_give_the_newest_token,
        browser_with_an_old_generation_rotates_nothing, concurrent_refreshes_of_a_browser_rotate_once,
        browser_token_that_was_never_issued_is_unknown, replayed_browser_token_ends_the_session;
    second_factors: enrolment_is_pending_until_its_confirmation, confirmed_second_factor_is_not_replaced,
        each_step_is_used_once, each_recovery_code_is_used_once, one_of_concurrent_uses_is_made,
        pending_enrolment_has_no_codes, one_of_concurrent_confirmations_succeeds,
        removal_ends_the_other_sessions, second_factor_is_deleted_with_its_user,
        each_change_writes_one_row;
    throttle: pauses_start_at_the_limit_and_grow, failures_expire_after_the_window,
        failures_of_many_names_evict_no_counter, longest_pause_of_all_keys_applies,
        concurrent_failures_are_all_counted, one_refusal_per_minute_is_reported,
        login_resets_only_its_own_counter, address_is_known_after_login,
        known_addresses_per_user_are_limited;
    idempotency: one_of_concurrent_claims_is_made, stored_reply_is_byte_identical,
        change_not_applied_releases_the_key, unknown_outcome_is_reported, keys_are_per_owner_and_case_sensitive,
        keys_expire;
    clusters: registered_cluster_is_found, names_are_unique_ignoring_case, ids_are_never_reused,
        update_sets_only_given_fields, new_connection_has_a_new_version, concurrent_change_is_a_conflict,
        deleted_cluster_is_not_found, probe_result_is_stored, probe_of_older_connection_is_discarded;
    roles: created_roles_are_listed_by_name, update_sets_only_given_fields, role_names_are_never_reused,
        own_roles_are_limited, role_in_use_is_not_deleted, no_live_grant_names_a_deleted_role;
    grants: created_grant_is_found, a_group_is_of_one_provider,
        grant_needs_an_existing_subject_and_role, revoked_and_ended_grants_are_not_live,
        live_grants_of_a_subject_are_limited, gift_is_stored_only_under_the_stamp_it_was_judged_by,
        deleting_a_user_revokes_the_grants, grant_races_with_the_deletion_of_its_user;
    requests: request_is_pending_until_its_decision, approval_gives_the_grant_from_its_time_on,
        request_is_decided_once, request_expires_without_a_decision, request_needs_an_existing_user_and_role,
        pending_requests_of_a_user_are_limited, refused_approval_leaves_the_request_pending;
    break_glass: use_gives_a_grant_for_an_hour, uses_of_a_day_are_limited, concurrent_uses_are_limited,
        use_needs_an_enabled_user_and_a_cluster, use_is_reviewed_once, uses_are_listed_by_user;
    rights: rights_are_live_grants_with_rules_and_labels, rights_leave_out_deleted_clusters,
        each_change_of_rights_changes_the_stamp, other_changes_keep_the_stamp;
    service_accounts: created_account_is_found, account_names_are_unique, account_needs_an_existing_owner,
        update_sets_only_given_fields, deleted_account_has_no_grant_and_no_token,
        deleting_a_user_leaves_the_accounts_without_an_owner;
    tokens: created_token_is_found_by_secret_and_id, ceiling_that_narrows_nothing_is_stored,
        token_of_a_service_account_has_the_account_and_its_owner,
        token_has_the_confirmation_of_its_federated_owner, token_has_the_second_factor_of_its_owner,
        token_needs_an_existing_owner_and_role,
        tokens_are_listed_by_user, revoked_token_is_not_found, renamed_token_keeps_everything_else,
        last_use_never_goes_back, live_tokens_of_an_owner_are_limited,
        deletion_and_password_reset_of_a_user_revoke_the_tokens, own_password_change_keeps_the_tokens,
        token_races_with_the_deletion_of_its_user;
    trail: intent_is_pending_until_its_outcome, only_first_outcome_is_recorded,
        record_stores_the_complete_operation, each_local_change_writes_one_row, failed_change_writes_no_row,
        concurrent_operations_are_all_stored, rows_of_operations_are_found_by_id;
    listing: every_sort_order_matches_the_reference, every_filter_matches_the_reference,
        pages_match_the_reference, time_range_and_cursor_limit_the_list,
        audited_clusters_add_rows_of_other_users;
    federation: provider_is_bound_for_ever, pending_login_is_taken_once_by_its_browser,
        pending_logins_of_an_address_are_limited, person_is_one_user_by_provider_and_subject,
        groups_give_rights_while_confirmed, one_replica_claims_a_confirmation,
        released_confirmation_is_due_again, confirmation_after_the_end_of_its_session_changes_nothing,
        idle_session_is_not_live_for_its_provider, own_logout_keeps_the_confirmation,
        provider_ends_the_sessions_that_it_names, session_opens_only_for_an_enabled_user_of_the_provider,
        logout_token_is_used_once;
    monitor: stored_objects_are_counted;
};

/// The contract of [`Coordinator`].
pub const COORDINATION: &[Case<Replicas>] = cases! {
    coordination: each_probe_is_claimed_once_per_interval, oldest_claims_come_first,
        clock_set_back_does_not_stop_probes, one_replica_delivers_until_its_lease_ends,
        lease_expires_unless_it_is_renewed;
};

/// Two replicas that share an empty store.
pub struct Replicas {
    ports: StorePorts,
    one: Arc<dyn Coordinator>,
    two: Arc<dyn Coordinator>,
    expire: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Replicas {
    /// Creates two replicas from the ports of the shared store and the coordinator of each replica. `expire` makes all
    /// leases expire by the clock of the store. It does nothing if the store measures leases by the argument `at`.
    pub fn new(
        ports: StorePorts,
        [one, two]: [Arc<dyn Coordinator>; 2],
        expire: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self { ports, one, two, expire: Box::new(expire) }
    }

    async fn expire_leases(&self) {
        (self.expire)().await;
    }
}

/// The ports of an empty store.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct StorePorts {
    pub writer: Arc<dyn AuditWriter>,
    pub query: Arc<dyn AuditQuery>,
    pub trail: Arc<dyn TrailReader>,
    pub users: Arc<dyn UserRegistry>,
    pub sessions: Arc<dyn SessionStore>,
    pub throttle: Arc<dyn LoginThrottle>,
    pub federation: Arc<dyn FederationStore>,
    pub tokens: Arc<dyn TokenStore>,
    pub accounts: Arc<dyn ServiceAccountStore>,
    pub idempotency: Arc<dyn IdempotencyStore>,
    pub roles: Arc<dyn RoleRegistry>,
    pub grants: Arc<dyn GrantRegistry>,
    pub requests: Arc<dyn RequestRegistry>,
    pub break_glass: Arc<dyn BreakGlassRegistry>,
    pub second_factors: Arc<dyn SecondFactorStore>,
    pub rights: Arc<dyn RightsSource>,
    pub clusters: Arc<dyn ClusterRegistry>,
    pub connections: Arc<dyn Connections>,
    pub monitor: Arc<dyn StoreMonitor>,
    runtime: FakeRuntime,
}

impl StorePorts {
    /// The ports of `store`.
    pub fn over<S>(store: Arc<S>) -> Self
    where
        S: AuditWriter
            + AuditQuery
            + TrailReader
            + UserRegistry
            + SessionStore
            + LoginThrottle
            + FederationStore
            + TokenStore
            + ServiceAccountStore
            + IdempotencyStore
            + RoleRegistry
            + GrantRegistry
            + RequestRegistry
            + BreakGlassRegistry
            + SecondFactorStore
            + RightsSource
            + ClusterRegistry
            + Connections
            + StoreMonitor
            + 'static,
    {
        Self {
            writer: store.clone(),
            query: store.clone(),
            trail: store.clone(),
            users: store.clone(),
            sessions: store.clone(),
            throttle: store.clone(),
            federation: store.clone(),
            tokens: store.clone(),
            accounts: store.clone(),
            idempotency: store.clone(),
            roles: store.clone(),
            grants: store.clone(),
            requests: store.clone(),
            break_glass: store.clone(),
            second_factors: store.clone(),
            rights: store.clone(),
            clusters: store.clone(),
            connections: store.clone(),
            monitor: store,
            runtime: FakeRuntime::default(),
        }
    }

    /// The current time of the test clock.
    pub fn now(&self) -> Timestamp {
        self.runtime.clock.now()
    }

    /// A system permit with a new operation.
    pub fn permit(&self, access: AccessRequest) -> Permit {
        pilothouse_gate::testing::permit_with(self.runtime.clone(), &Caller::system(), access)
    }

    /// A permit whose operation is an update of a user.
    pub fn people(&self) -> Permit {
        self.permit(AccessRequest::to(Verb::Update, Resource::User).named("user"))
    }

    /// A unique secret.
    fn secret(&self) -> SecretHash {
        let mut bytes = [0; 32];
        self.runtime.rng.fill(&mut bytes);
        SecretHash(bytes)
    }

    /// Creates a user.
    async fn user(&self, name: &str, role: Role) -> User {
        self.users.create(&self.people(), self.new_user(name, role)).await.unwrap()
    }

    fn new_user(&self, name: &str, role: Role) -> UserRecord {
        UserRecord {
            username: Username::new(name).unwrap(),
            password: PasswordHash::new(format!("hash of {name}")),
            role,
            display_name: format!("{name} 先生"),
            at: self.now(),
        }
    }

    /// Opens a session. Returns the session, the hash of its cookie and the hash of its refresh token.
    async fn session(&self, user: &User) -> (Session, SecretHash, SecretHash) {
        let (cookie, refresh) = (self.secret(), self.secret());
        let record = SessionRecord {
            user_id: user.id,
            cookie,
            refresh,
            source_ip: Some("192.0.2.1".parse().unwrap()),
            user_agent: None,
            at: self.now(),
            expires_at: self.now() + std::time::Duration::from_secs(8 * 3600),
            authenticated_at: self.now(),
            factor_at: None,
            throttle_key: Some(ThrottleKey::account(&user.username)),
        };
        let permit =
            self.permit(AccessRequest::to(Verb::Login, Resource::Session).named(user.username.as_str()));
        let verified = self.users.credentials(&user.username).await.unwrap().unwrap().1;
        (self.sessions.open(&permit, record, &verified).await.unwrap(), cookie, refresh)
    }

    /// Every operation, oldest first.
    pub async fn operations(&self) -> Vec<OperationRow> {
        let oldest_first = [("sort".to_owned(), "id".to_owned()), ("per_page".to_owned(), "500".to_owned())];
        let list = List::Operations.parse_page(&oldest_first).unwrap();
        let query = OperationQuery {
            list,
            user_id: None,
            audited: Vec::new(),
            from: None,
            to: None,
            before: None,
            after: None,
        };
        self.query.operations(&query).await.unwrap().logs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake::{Fake, MemoryCoordinator};

    #[test]
    fn memory_coordinators_pass_the_contract() {
        for case in COORDINATION {
            eprintln!("{}", case.name);
            let store = Fake::default().store;
            let replica = || -> Arc<dyn Coordinator> { Arc::new(MemoryCoordinator::of(store.clone())) };
            let replicas = [replica(), replica()];
            let replicas = Replicas::new(StorePorts::over(store), replicas, || async {}.boxed());
            futures_executor::block_on((case.run)(replicas));
        }
    }

    #[test]
    fn memory_store_passes_the_contract() {
        for case in STORE {
            eprintln!("{}", case.name);
            futures_executor::block_on((case.run)(StorePorts::over(Fake::default().store)));
        }
    }
}
