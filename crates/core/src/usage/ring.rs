//! Usage over time: the last hour of each node and pod that somebody asked for.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use jiff::Timestamp;

use super::{Usage, UsageSeries};

/// Maximum number of points of one object: an hour of one every 30 s.
pub const MAX_POINTS: usize = 120;

/// Points of one object, oldest first.
#[derive(Clone, Debug)]
pub struct UsageRing {
    from: Timestamp,
    points: VecDeque<Usage>,
}

impl UsageRing {
    /// An empty ring that begins at a time.
    pub const fn new(from: Timestamp) -> Self {
        Self { from, points: VecDeque::new() }
    }

    /// Adds a point, unless it is no newer than the last one. Removes the oldest point of a full ring.
    pub fn push(&mut self, usage: Usage) {
        if self.points.back().is_some_and(|last| last.at >= usage.at) {
            return;
        }
        if self.points.len() == MAX_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(usage);
    }

    /// The points.
    pub fn series(&self) -> UsageSeries {
        UsageSeries { from: self.from, points: self.points.iter().copied().collect() }
    }
}

/// Rings of a limited number of objects. For a new one, the one that was not read for the longest time is removed.
#[derive(Debug)]
pub struct UsageRings<K> {
    limit: usize,
    /// Number of reads.
    reads: u64,
    /// Ring, and the number of its last read, by object.
    rings: HashMap<K, (UsageRing, u64)>,
}

impl<K: Eq + Hash + Clone> UsageRings<K> {
    /// No rings, of at most this number of objects.
    pub fn new(limit: usize) -> Self {
        Self { limit, reads: 0, rings: HashMap::new() }
    }

    /// The points of an object; `None` if it has no ring.
    pub fn read(&mut self, key: &K) -> Option<UsageSeries> {
        self.reads += 1;
        let (ring, last_read) = self.rings.get_mut(key)?;
        *last_read = self.reads;
        Some(ring.series())
    }

    /// Begins a ring of an object, with its present usage, and returns it. An existing ring stays.
    pub fn begin(&mut self, key: K, from: Timestamp, usage: Option<Usage>) -> UsageSeries {
        self.reads += 1;
        if !self.rings.contains_key(&key) && self.rings.len() >= self.limit {
            let oldest = self.rings.iter().min_by_key(|(_, (_, last_read))| *last_read);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.rings.remove(&oldest);
            }
        }
        let (ring, last_read) = self.rings.entry(key).or_insert_with(|| (UsageRing::new(from), 0));
        *last_read = self.reads;
        if let Some(usage) = usage {
            ring.push(usage);
        }
        ring.series()
    }

    /// Adds a point to each ring for which one is known.
    pub fn push(&mut self, usage_of: impl Fn(&K) -> Option<Usage>) {
        for (key, (ring, _)) in &mut self.rings {
            if let Some(usage) = usage_of(key) {
                ring.push(usage);
            }
        }
    }

    /// Removes the rings of all objects but these.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.rings.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(second: i64) -> Usage {
        Usage { cpu_millis: second, memory_bytes: 1, at: Timestamp::from_second(second).unwrap() }
    }

    fn seconds(series: &UsageSeries) -> Vec<i64> {
        series.points.iter().map(|point| point.at.as_second()).collect()
    }

    #[test]
    fn ring_keeps_the_newest_points_in_order() {
        let mut ring = UsageRing::new(Timestamp::UNIX_EPOCH);
        for second in (1..=200).chain([200, 150]) {
            ring.push(usage(second));
        }
        let series = ring.series();
        assert_eq!(seconds(&series), (81..=200).collect::<Vec<i64>>());
        assert_eq!(series.from, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn object_that_was_not_read_for_the_longest_time_loses_its_ring() {
        let mut rings = UsageRings::new(2);
        let from = Timestamp::UNIX_EPOCH;
        assert_eq!(rings.read(&"a"), None);
        assert_eq!(seconds(&rings.begin("a", from, Some(usage(1)))), [1]);
        assert!(rings.begin("b", from, None).points.is_empty());
        rings.push(|key| (*key == "a").then(|| usage(2)));
        assert_eq!(rings.read(&"a").map(|series| seconds(&series)), Some(vec![1, 2]));
        rings.begin("c", from, None);
        assert_eq!((rings.read(&"b"), rings.read(&"c").map(|series| seconds(&series))), (None, Some(vec![])));
        let later = Timestamp::from_second(9).unwrap();
        assert_eq!(rings.begin("a", later, None).from, from, "an existing ring stays");
        rings.retain(|key| *key == "a");
        assert_eq!(rings.read(&"c"), None);
    }
}
