//! The contract of each port that keeps something: what every adapter must keep to, the fake and the real one alike.
//!
//! A case is a plain function over ports that hold nothing yet; it panics when the contract is broken. An adapter's
//! tests run all of [`STORE`], each over ports of its own:
//!
//! ```
//! use pilothouse_core::testing::{contract::{STORE, StorePorts}, fake::Fake};
//!
//! for case in STORE {
//!     futures_executor::block_on((case.run)(StorePorts::over(Fake::default().store)));
//! }
//! ```

#![allow(clippy::unwrap_used, reason = "a broken contract panics")]

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

use super::fake::FakeRuntime;
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Role, Verb},
    audit::{AuditTrail, OperationQuery, OperationRow, TrailReader},
    clock::{Clock, Rng},
    cluster::{ClusterRegistry, Connections},
    idempotency::IdempotencyStore,
    inventory::{List, ListQuery},
    session::{LoginThrottle, SecretHash, Session, SessionRecord, SessionStore, ThrottleKey},
    user::{PasswordHash, User, UserRecord, UserRegistry, Username},
};

mod clusters;
mod idempotency;
mod listing;
mod sessions;
mod throttle;
mod trail;
mod users;

/// One case of a contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// What is promised: `users::names_are_unique`.
    pub name: &'static str,
    /// Tries it on ports that hold nothing yet.
    pub run: fn(StorePorts) -> BoxFuture<'static, ()>,
}

macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        &[$($(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            run: |ports| async move { $module::$case(&ports).await }.boxed(),
        },)+)+]
    };
}

/// The contract of everything that a database keeps.
pub const STORE: &[Case] = cases! {
    users: a_created_user_is_found, names_are_unique, ids_are_never_used_again, the_first_user_is_made_once,
        a_change_sets_what_it_names, the_last_super_admin_stays, of_two_that_leave_one_stays,
        lost_rights_end_sessions, a_new_password_ends_the_other_sessions, a_change_of_ones_own_password_does_not_overrule_another,
        an_ended_session_changes_no_password, absent_users_are_not_found;
    sessions: an_open_session_is_found_by_its_cookie_and_its_id,
        a_session_is_opened_only_for_who_was_verified, a_session_in_use_is_noted, a_token_is_used_once,
        of_many_refreshes_at_once_one_wins, of_many_races_one_chain_lives, a_replay_ends_the_session, a_token_is_of_its_session_only,
        a_session_ends_once, sessions_are_listed_by_user, only_expired_sessions_are_forgotten;
    throttle: pauses_begin_at_the_limit_and_grow, failures_are_forgotten_after_the_window,
        spraying_names_flushes_no_counter, the_longest_pause_counts, failures_at_once_all_count, one_refusal_a_minute_is_told,
        a_login_resets_what_it_was_counted_by, an_address_is_known_after_a_login,
        a_few_addresses_of_a_user_are_known;
    idempotency: of_many_claims_at_once_one_is_made, the_answer_is_kept_to_the_byte,
        what_was_not_done_frees_the_key, an_answer_that_is_not_known_is_told, keys_are_each_users_own,
        keys_are_forgotten_in_time;
    clusters: a_registered_cluster_is_found, names_are_unique_ignoring_case, ids_are_never_used_again,
        a_change_sets_what_it_names, a_new_connection_is_a_new_version, a_change_meanwhile_is_a_conflict,
        a_deleted_cluster_is_gone, a_probe_is_kept, a_probe_of_an_older_connection_is_dropped;
    trail: an_intent_is_pending_until_its_outcome, only_the_first_outcome_counts, what_is_over_is_recorded_whole,
        our_own_tables_leave_one_row_each, what_fails_leaves_no_row, many_at_once_are_all_stored;
    listing: every_order_is_the_references, every_filter_is_the_references, pages_are_the_references,
        times_and_cursors_bound_the_list;
};

/// The ports of a store that holds nothing yet.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the port of its type, whose docs say what it does")]
pub struct StorePorts {
    pub audit: Arc<dyn AuditTrail>,
    pub trail: Arc<dyn TrailReader>,
    pub users: Arc<dyn UserRegistry>,
    pub sessions: Arc<dyn SessionStore>,
    pub throttle: Arc<dyn LoginThrottle>,
    pub idempotency: Arc<dyn IdempotencyStore>,
    pub clusters: Arc<dyn ClusterRegistry>,
    pub connections: Arc<dyn Connections>,
    runtime: FakeRuntime,
}

impl StorePorts {
    /// The ports of `store`.
    pub fn over<S>(store: Arc<S>) -> Self
    where
        S: AuditTrail
            + TrailReader
            + UserRegistry
            + SessionStore
            + LoginThrottle
            + IdempotencyStore
            + ClusterRegistry
            + Connections
            + 'static,
    {
        Self {
            audit: store.clone(),
            trail: store.clone(),
            users: store.clone(),
            sessions: store.clone(),
            throttle: store.clone(),
            idempotency: store.clone(),
            clusters: store.clone(),
            connections: store,
            runtime: FakeRuntime::default(),
        }
    }

    /// The time in these tests.
    pub fn now(&self) -> Timestamp {
        self.runtime.clock.now()
    }

    /// A permit of the system's with an operation of its own.
    pub fn permit(&self, access: AccessRequest) -> Permit {
        super::permit_with(self.runtime.clone(), &Caller::system(), access)
    }

    /// A permit to do something to a user, as far as the trail is concerned.
    pub fn people(&self) -> Permit {
        self.permit(AccessRequest::to(Verb::Update, Resource::User).named("somebody"))
    }

    /// A secret nobody has seen before.
    fn secret(&self) -> SecretHash {
        let mut bytes = [0; 32];
        self.runtime.rng.fill(&mut bytes);
        SecretHash(bytes)
    }

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

    /// An open session, its cookie and its refresh token.
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
            counted_by: Some(ThrottleKey::account(&user.username)),
        };
        let permit =
            self.permit(AccessRequest::to(Verb::Login, Resource::Session).named(user.username.as_str()));
        let verified = self.users.credentials(&user.username).await.unwrap().unwrap().1;
        (self.sessions.open(&permit, record, &verified).await.unwrap(), cookie, refresh)
    }

    /// Every operation, oldest first.
    pub async fn operations(&self) -> Vec<OperationRow> {
        let oldest_first = [("sort".to_owned(), "id".to_owned()), ("per_page".to_owned(), "500".to_owned())];
        let list = ListQuery::parse(List::Operations, &oldest_first).unwrap();
        let query = OperationQuery { list, user_id: None, from: None, to: None, before: None };
        self.audit.operations(&query).await.unwrap().logs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake::Fake;

    #[test]
    fn the_fake_keeps_the_contract() {
        for case in STORE {
            eprintln!("{}", case.name);
            futures_executor::block_on((case.run)(StorePorts::over(Fake::default().store)));
        }
    }
}
