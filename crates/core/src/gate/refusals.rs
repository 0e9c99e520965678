//! Which refusals get a row of their own. Requests that are refused cost their sender nothing, so their rows are bounded:
//! a subject has [`MOST`] in [`WINDOW`] and one in [`PAUSE`] beyond them, and a read that is refused again within
//! [`PAUSE`] has none. A row tells how many refusals before it have none. The counts are this process's own: each replica
//! has its own bound, and a restart forgets what was not told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    access::{AccessRequest, Resource, Verb},
    cluster::ClusterId,
    name::NamespaceScope,
    user::UserId,
};

/// How many rows of refusals one subject has within [`WINDOW`].
pub(super) const MOST: usize = 300;
/// The time in which they are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(15 * 60);
/// The time in which a read that is refused again has no row, and beyond [`MOST`] any refusal but the first.
pub(super) const PAUSE: Duration = Duration::from_secs(60);

/// What was asked for, as far as one refusal is the same as another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Right {
    verb: Verb,
    resource: Resource,
    cluster: Option<ClusterId>,
    namespace: Option<String>,
}

impl Right {
    pub(super) fn of(access: &AccessRequest) -> Self {
        let namespace = match &access.namespaces {
            NamespaceScope::One(namespace) => Some(namespace.to_string()),
            NamespaceScope::All => None,
        };
        Self { verb: access.verb, resource: access.resource, cluster: access.cluster, namespace }
    }
}

/// The refusals of every subject, by a clock that only goes forward.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<UserId, Subject>>);

#[derive(Default)]
struct Subject {
    /// When its rows were made, the oldest first.
    rows: VecDeque<Duration>,
    /// Refusals that no row tells of yet.
    untold: u64,
    reads: HashMap<Right, Read>,
}

struct Read {
    /// When it had a row.
    at: Duration,
    /// How often it was refused since then.
    untold: u64,
}

impl Refusals {
    /// Counts a refusal. When it gets a row, how many before it had none.
    pub(super) fn admit(&self, who: UserId, right: &Right, now: Duration) -> Option<u64> {
        let mut all = self.lock();
        if !all.contains_key(&who) {
            all.retain(|_, subject| !subject.is_quiet(now));
        }
        let subject = all.entry(who).or_default();
        subject.forget(now);
        if let Some(read) = subject.reads.get_mut(right).filter(|read| age(read.at, now) < PAUSE) {
            read.untold += 1;
            return None;
        }
        let full = subject.rows.len() >= MOST;
        if full && subject.rows.back().is_some_and(|last| age(*last, now) < PAUSE) {
            subject.untold += 1;
            return None;
        }
        subject.rows.push_back(now);
        let earlier = if right.verb.reads() {
            subject.reads.insert(right.clone(), Read { at: now, untold: 0 })
        } else {
            None
        };
        Some(std::mem::take(&mut subject.untold) + earlier.map_or(0, |read| read.untold))
    }

    /// The row that [`Refusals::admit`] promised was not stored: the next one tells of it.
    pub(super) fn again(&self, who: UserId, right: &Right, before: u64) {
        if let Some(subject) = self.lock().get_mut(&who) {
            subject.rows.pop_back();
            let since = subject.reads.remove(right).map_or(0, |read| read.untold);
            subject.untold += before + since + 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Subject>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long ago something was. Of two requests at once either may have looked at the clock first.
fn age(then: Duration, now: Duration) -> Duration {
    now.saturating_sub(then)
}

impl Subject {
    /// Lets go of what is past the window. A count outlives it.
    fn forget(&mut self, now: Duration) {
        while self.rows.front().is_some_and(|row| age(*row, now) >= WINDOW) {
            self.rows.pop_front();
        }
        let untold = &mut self.untold;
        self.reads.retain(|_, read| {
            let counts = age(read.at, now) < WINDOW;
            *untold += if counts { 0 } else { read.untold };
            counts
        });
    }

    fn is_quiet(&mut self, now: Duration) -> bool {
        self.forget(now);
        self.rows.is_empty() && self.reads.is_empty() && self.untold == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kind::Kind, name::Namespace};

    const ANN: UserId = UserId(1);
    const BEN: UserId = UserId(2);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn read(namespace: &str) -> Right {
        let access = AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).in_cluster(ClusterId(1));
        Right::of(&access.in_namespace(&Namespace::new(namespace).unwrap()))
    }

    fn change() -> Right {
        Right::of(&AccessRequest::to(Verb::Delete, Resource::Kind(Kind::Secret)).in_cluster(ClusterId(1)))
    }

    #[test]
    fn a_read_refused_again_within_a_minute_has_no_row_and_the_next_row_has_the_count() {
        let refusals = Refusals::default();
        let refused = |right: &Right, at| refusals.admit(ANN, right, seconds(at));
        assert_eq!(refused(&read("shop"), 1000), Some(0));
        assert_eq!(refused(&read("shop"), 1001), None);
        assert_eq!(refused(&read("other"), 1002), Some(0), "of another namespace");
        let elsewhere = Right { cluster: Some(ClusterId(2)), ..read("shop") };
        assert_eq!(refused(&elsewhere, 1002), Some(0), "of another cluster");
        let another = Right { verb: Verb::Get, ..read("shop") };
        assert_eq!(refused(&another, 1002), Some(0), "of another right");
        assert_eq!(refusals.admit(BEN, &read("shop"), seconds(1002)), Some(0), "of another subject");
        assert_eq!(refused(&read("shop"), 1059), None, "it is not put off by its repetition");
        assert_eq!(refused(&read("shop"), 1060), Some(2));
        assert_eq!(refused(&read("shop"), 1119), None);
        assert_eq!(refused(&read("shop"), 1180), Some(1));
    }

    #[test]
    fn a_change_has_a_row_until_there_are_too_many_and_then_one_a_minute_has_the_count() {
        let refusals = Refusals::default();
        let refused = |at| refusals.admit(ANN, &change(), seconds(at));
        for n in 0..MOST {
            assert_eq!(refused(10), Some(0), "{n}");
        }
        for at in [10, 20, 69] {
            assert_eq!(refused(at), None, "{at}");
        }
        assert_eq!(refused(70), Some(3));
        assert_eq!(refused(70), None);
        assert_eq!(refusals.admit(BEN, &change(), seconds(70)), Some(0), "of another subject");
        assert_eq!(refused(130), Some(1));
        // the rows of the first second are past the window: one of a minute after them is not
        assert_eq!(refused(910), Some(0));
        for n in 3..MOST {
            assert_eq!(refused(911), Some(0), "{n}");
        }
        assert_eq!(refused(912), None);
    }

    /// However many namespaces, kinds or clusters a caller names.
    #[test]
    fn reads_count_as_rows_and_take_bounded_memory() {
        let refusals = Refusals::default();
        let mut rows = 0;
        for n in 0..10_000_u64 {
            let right = read(&format!("n-{n}"));
            rows += usize::from(refusals.admit(ANN, &right, seconds(100 + n / 1000)).is_some());
        }
        assert_eq!(rows, MOST);
        assert_eq!(refusals.lock()[&ANN].reads.len(), MOST);
        assert_eq!(refusals.admit(ANN, &change(), seconds(200)), Some(10_000 - MOST as u64));
        // a count is kept until it is told, and nothing else is
        assert_eq!(refusals.admit(ANN, &read("n-0"), seconds(200)), None);
        assert_eq!(refusals.admit(BEN, &change(), seconds(5000)), Some(0));
        assert!(refusals.lock()[&ANN].reads.is_empty());
        assert_eq!(refusals.admit(ANN, &read("n-0"), seconds(5000)), Some(1));
        assert_eq!(refusals.admit(UserId(3), &change(), seconds(9000)), Some(0));
        assert_eq!(refusals.lock().len(), 1, "quiet subjects are forgotten");
    }

    #[test]
    fn a_row_that_was_not_stored_is_told_by_the_next() {
        let refusals = Refusals::default();
        for right in [read("shop"), change()] {
            assert_eq!(refusals.admit(ANN, &right, seconds(100)), Some(0));
            refusals.again(ANN, &right, 0);
            assert_eq!(refusals.admit(ANN, &right, seconds(101)), Some(1), "{right:?}");
        }
        assert_eq!(refusals.admit(ANN, &change(), seconds(99)), Some(0), "the clock was read earlier");
    }
}
