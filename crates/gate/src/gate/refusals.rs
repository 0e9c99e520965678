//! Rate limiter for the audit rows of refusals. A refused request costs its sender nothing, so the number of rows is
//! limited: each user and each service account has [`MAX_ROWS`] rows of changes and as many of reads per [`WINDOW`],
//! then one row per [`REPEAT_INTERVAL`]. Reads are counted separately from changes, so that refused reads cannot hide a
//! refused change. A read that is refused again within [`REPEAT_INTERVAL`] has no row. Each row contains the number of
//! earlier refusals without a row. The counts are kept per process: each replica has its own limit, and a restart loses
//! the unreported counts.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pilothouse_types::ids::ClusterId;

use crate::{
    access::{AccessRequest, Principal, Resource, Verb},
    rights::{Needs, RightResource, RightVerb, needs},
};

/// Maximum number of rows of refused changes of one user within [`WINDOW`], and of rows of refused reads.
pub(super) const MAX_ROWS: usize = 300;
/// Time window of [`MAX_ROWS`].
pub(super) const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Time within which a repeated refusal of the same read has no row; beyond [`MAX_ROWS`], the minimum time between two
/// rows of changes, and between two rows of reads.
pub(super) const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Key by which two refusals of a user count as the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RefusalKey {
    is_read: bool,
    operation: RefusedOperation,
    cluster: Option<ClusterId>,
    namespace: Option<String>,
}

/// A refused operation: the right that it needs, or the operation itself if it needs none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RefusedOperation {
    Right(RightVerb, RightResource),
    WithoutRight(Verb, Resource),
}

impl RefusalKey {
    pub(super) fn of(access: &AccessRequest) -> Self {
        let (verb, resource) = (access.verb, access.resource);
        Self {
            // an export only reads, although it is recorded; a verification of the second factor renews it
            is_read: (verb.reads() && resource != Resource::OwnSecondFactor) || verb == Verb::Export,
            operation: match needs(verb, resource) {
                Needs::Right(verb, resource) => RefusedOperation::Right(verb, resource),
                Needs::SignIn | Needs::AnyRight => RefusedOperation::WithoutRight(verb, resource),
            },
            cluster: access.cluster,
            namespace: access.namespaces.one().map(ToString::to_string),
        }
    }
}

/// Refusals of all users and service accounts, timed by the monotonic clock.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<Principal, UserRefusals>>);

/// Refusals of one user or service account.
#[derive(Default)]
struct UserRefusals {
    /// Times of the rows of changes, the oldest first.
    change_rows: VecDeque<Duration>,
    /// Times of the rows of reads, the oldest first.
    read_rows: VecDeque<Duration>,
    /// Number of refusals that no row reports yet.
    unreported: u64,
    reads: HashMap<RefusalKey, RefusedRead>,
}

/// A refused read of one user.
struct RefusedRead {
    /// Time of the last row of this read.
    at: Duration,
    /// Number of refusals since then.
    unreported: u64,
}

impl Refusals {
    /// Counts a refusal. If it is to have a row, returns the number of earlier refusals without a row.
    pub(super) fn count(&self, user: Principal, key: &RefusalKey, now: Duration) -> Option<u64> {
        let mut all = self.lock();
        if !all.contains_key(&user) {
            all.retain(|_, refused| !refused.is_empty(now));
        }
        let refused = all.entry(user).or_default();
        refused.expire(now);
        if let Some(read) = refused.reads.get_mut(key).filter(|read| age(read.at, now) < REPEAT_INTERVAL) {
            read.unreported += 1;
            return None;
        }
        let rows = refused.rows(key);
        if rows.len() >= MAX_ROWS && rows.back().is_some_and(|last| age(*last, now) < REPEAT_INTERVAL) {
            refused.unreported += 1;
            return None;
        }
        rows.push_back(now);
        let earlier = if key.is_read {
            refused.reads.insert(key.clone(), RefusedRead { at: now, unreported: 0 })
        } else {
            None
        };
        Some(std::mem::take(&mut refused.unreported) + earlier.map_or(0, |read| read.unreported))
    }

    /// Restores the counts when the row allowed by [`Refusals::count`] was not stored: the next row reports them.
    pub(super) fn restore(&self, user: Principal, key: &RefusalKey, earlier_count: u64) {
        if let Some(refused) = self.lock().get_mut(&user) {
            refused.rows(key).pop_back();
            let since = refused.reads.remove(key).map_or(0, |read| read.unreported);
            refused.unreported += earlier_count + since + 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Principal, UserRefusals>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time since `then`; zero if `then` is later, because concurrent requests read the clock in any order.
fn age(then: Duration, now: Duration) -> Duration {
    now.saturating_sub(then)
}

impl UserRefusals {
    /// Times of the rows that count toward the same limit as a refusal.
    fn rows(&mut self, key: &RefusalKey) -> &mut VecDeque<Duration> {
        if key.is_read { &mut self.read_rows } else { &mut self.change_rows }
    }

    /// Removes entries older than the window. Unreported counts are kept.
    fn expire(&mut self, now: Duration) {
        for rows in [&mut self.change_rows, &mut self.read_rows] {
            while rows.front().is_some_and(|row| age(*row, now) >= WINDOW) {
                rows.pop_front();
            }
        }
        let unreported = &mut self.unreported;
        self.reads.retain(|_, read| {
            let counts = age(read.at, now) < WINDOW;
            *unreported += if counts { 0 } else { read.unreported };
            counts
        });
    }

    fn is_empty(&mut self, now: Duration) -> bool {
        self.expire(now);
        let no_rows = self.change_rows.is_empty() && self.read_rows.is_empty();
        no_rows && self.reads.is_empty() && self.unreported == 0
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_types::{
        ids::{ServiceAccountId, UserId},
        kind::Kind,
        name::Namespace,
    };

    use super::*;

    const ANN: Principal = Principal::User(UserId(1));
    const BEN: Principal = Principal::User(UserId(2));
    const BOT: Principal = Principal::ServiceAccount(ServiceAccountId(1));

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn read(namespace: &str) -> RefusalKey {
        read_of(Verb::List, Kind::Pod, namespace)
    }

    fn read_of(verb: Verb, kind: Kind, namespace: &str) -> RefusalKey {
        let access = AccessRequest::to(verb, Resource::Kind(kind)).in_cluster(ClusterId(1));
        RefusalKey::of(&access.in_namespace(&Namespace::new(namespace).unwrap()))
    }

    fn change() -> RefusalKey {
        RefusalKey::of(
            &AccessRequest::to(Verb::Delete, Resource::Kind(Kind::Secret)).in_cluster(ClusterId(1)),
        )
    }

    #[test]
    fn repeated_read_refusal_has_no_row_and_next_row_has_count() {
        let refusals = Refusals::default();
        let refused = |key: &RefusalKey, at| refusals.count(ANN, key, seconds(at));
        assert_eq!(refused(&read("shop"), 1000), Some(0));
        assert_eq!(refused(&read("shop"), 1001), None);
        assert_eq!(refused(&read("other"), 1002), Some(0), "another namespace");
        let other_cluster = RefusalKey { cluster: Some(ClusterId(2)), ..read("shop") };
        assert_eq!(refused(&other_cluster, 1002), Some(0), "another cluster");
        assert_eq!(refused(&read_of(Verb::Get, Kind::Pod, "shop"), 1002), Some(0), "another verb");
        assert_eq!(refused(&read_of(Verb::List, Kind::Secret, "shop"), 1002), Some(0), "another resource");
        assert_eq!(refused(&read_of(Verb::List, Kind::Deployment, "shop"), 1002), None, "the same right");
        assert_eq!(refusals.count(BEN, &read("shop"), seconds(1002)), Some(0), "another user");
        assert_eq!(refused(&read("shop"), 1059), None, "a repetition does not extend the interval");
        assert_eq!(refused(&read("shop"), 1060), Some(3));
        assert_eq!(refused(&read("shop"), 1119), None);
        assert_eq!(refused(&read("shop"), 1180), Some(1));
    }

    #[test]
    fn change_refusals_have_one_row_a_minute_beyond_the_limit() {
        let refusals = Refusals::default();
        let refused = |at| refusals.count(ANN, &change(), seconds(at));
        for n in 0..MAX_ROWS {
            assert_eq!(refused(10), Some(0), "{n}");
        }
        for at in [10, 20, 69] {
            assert_eq!(refused(at), None, "{at}");
        }
        assert_eq!(refused(70), Some(3));
        assert_eq!(refused(70), None);
        assert_eq!(refusals.count(BEN, &change(), seconds(70)), Some(0), "another user");
        assert_eq!(refused(130), Some(1));
        // the rows of the first second are older than the window; the rows a minute later are not
        assert_eq!(refused(910), Some(0));
        for n in 3..MAX_ROWS {
            assert_eq!(refused(911), Some(0), "{n}");
        }
        assert_eq!(refused(912), None);
    }

    #[test]
    fn refused_export_counts_as_a_read_of_the_trail() {
        let refusals = Refusals::default();
        let refused = |verb, at| {
            let key = RefusalKey::of(&AccessRequest::to(verb, Resource::Operation));
            refusals.count(ANN, &key, seconds(at))
        };
        assert_eq!(refused(Verb::Export, 100), Some(0));
        // both need the right to list the audit trail
        assert_eq!(refused(Verb::Verify, 100), None);
        assert_eq!(refused(Verb::Export, 159), None);
        assert_eq!(refused(Verb::Export, 160), Some(2));
    }

    #[test]
    fn reads_do_not_take_the_rows_of_changes() {
        let refusals = Refusals::default();
        for n in 0..1000 {
            refusals.count(ANN, &read(&format!("n-{n}")), seconds(100));
        }
        assert_eq!(refusals.count(ANN, &change(), seconds(100)), Some(1000 - MAX_ROWS as u64));
        for n in 1..MAX_ROWS {
            assert_eq!(refusals.count(ANN, &change(), seconds(100)), Some(0), "{n}");
        }
        assert_eq!(refusals.count(ANN, &change(), seconds(100)), None);
        assert_eq!(refusals.count(ANN, &read("shop"), seconds(160)), Some(1));
    }

    /// The limits do not depend on the number of namespaces, kinds or clusters in the requests.
    #[test]
    fn rows_of_reads_are_limited_and_take_bounded_memory() {
        let refusals = Refusals::default();
        let mut rows = 0;
        for n in 0..10_000_u64 {
            let key = read(&format!("n-{n}"));
            rows += usize::from(refusals.count(ANN, &key, seconds(100 + n / 1000)).is_some());
        }
        assert_eq!(rows, MAX_ROWS);
        assert_eq!(refusals.lock()[&ANN].reads.len(), MAX_ROWS);
        assert_eq!(refusals.count(ANN, &change(), seconds(200)), Some(10_000 - MAX_ROWS as u64));
        assert_eq!(refusals.count(ANN, &read("n-0"), seconds(200)), Some(0), "one row a minute");
        assert_eq!(refusals.count(ANN, &read("n-0"), seconds(200)), None);
        // after the window, only an unreported count remains
        assert_eq!(refusals.count(BEN, &change(), seconds(5000)), Some(0));
        assert!(refusals.lock()[&ANN].reads.is_empty());
        assert_eq!(refusals.count(ANN, &read("n-0"), seconds(5000)), Some(1));
        assert_eq!(refusals.count(BOT, &change(), seconds(9000)), Some(0));
        assert_eq!(refusals.lock().len(), 1, "users without refusals are removed");
    }

    #[test]
    fn next_row_reports_a_row_that_was_not_stored() {
        let refusals = Refusals::default();
        for key in [read("shop"), change()] {
            assert_eq!(refusals.count(ANN, &key, seconds(100)), Some(0));
            refusals.restore(ANN, &key, 0);
            assert_eq!(refusals.count(ANN, &key, seconds(101)), Some(1), "{key:?}");
        }
        assert_eq!(refusals.count(ANN, &change(), seconds(99)), Some(0), "time of an earlier clock reading");
    }
}
