//! Usage of the nodes, or of the pods and workloads, of one cluster. A hundred thousand pods take less than 2 MB: of each,
//! a hash of its name and 8 bytes with its usage are kept.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use jiff::Timestamp;

use super::Usage;

/// An object whose usage is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject<'a> {
    /// A node.
    Node {
        /// Its name.
        name: &'a str,
    },
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A workload.
    Workload {
        /// Its namespace.
        namespace: &'a str,
        /// Its type: `deployment`.
        r#type: &'a str,
        /// Its name.
        name: &'a str,
    },
}

/// Usage by object. A hash of 64 bits with a random key stands for the name; a collision of n names has a probability of
/// about n²/2⁶⁵ and is accepted, as in [`crate::rows::Table`].
#[derive(Debug, Default)]
pub struct UsageTable {
    hasher: RandomState,
    /// Time of the newest measurement of a pod, in seconds since the Unix epoch.
    newest: i64,
    /// Usage of pods, by hash.
    pods: Box<[PodUsage]>,
    /// Index of the first pod of each bucket, and the number of pods. The highest bits of a hash are its bucket.
    buckets: Box<[u32]>,
    /// Usage of nodes and workloads, by hash.
    others: HashMap<u64, Usage>,
}

/// Usage of one pod.
#[derive(Clone, Copy, Debug)]
struct PodUsage {
    hash: u64,
    packed: PackedUsage,
}

/// Usage in 8 bytes: from the lowest bits, 32 of memory in KiB, 22 of CPU in thousandths of a core, 10 of the age in
/// seconds before the newest measurement. Larger values, 4 TiB or 4,194 cores of one pod, are cut.
#[derive(Clone, Copy, Debug)]
struct PackedUsage(u64);

impl PackedUsage {
    const MEMORY_BITS: u32 = 32;
    const CPU_BITS: u32 = 22;
    const AGE_BITS: u32 = 10;

    fn new(usage: Usage, newest: i64) -> Self {
        let part = |value: i64, bits: u32| value.clamp(0, (1 << bits) - 1).cast_unsigned();
        let memory_kib = usage.memory_bytes.saturating_add(1023) >> 10;
        let age = part(newest.saturating_sub(usage.at.as_second()), Self::AGE_BITS);
        let cpu = part(usage.cpu_millis, Self::CPU_BITS);
        let high = (age << Self::CPU_BITS) | cpu;
        Self((high << Self::MEMORY_BITS) | part(memory_kib, Self::MEMORY_BITS))
    }

    fn usage(self, newest: i64) -> Option<Usage> {
        let part = |shift: u32, bits: u32| ((self.0 >> shift) & ((1 << bits) - 1)).cast_signed();
        let age = part(Self::MEMORY_BITS + Self::CPU_BITS, Self::AGE_BITS);
        Some(Usage {
            cpu_millis: part(Self::MEMORY_BITS, Self::CPU_BITS),
            memory_bytes: part(0, Self::MEMORY_BITS) << 10,
            at: Timestamp::from_second(newest - age).ok()?,
        })
    }
}

impl UsageTable {
    /// The usage of an object, if it is known.
    pub fn get(&self, subject: Subject<'_>) -> Option<Usage> {
        let hash = self.hasher.hash_one(subject);
        match subject {
            Subject::Pod { .. } => self.pod(hash),
            Subject::Node { .. } | Subject::Workload { .. } => self.others.get(&hash).copied(),
        }
    }

    /// Adds the usage of workloads: the sums of their pods, each given by namespace, name, and workload as `type/name`.
    /// Replaces earlier sums.
    #[must_use]
    pub fn with_workloads<'a>(mut self, pods: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Self {
        self.others.clear();
        for (namespace, name, workload) in pods {
            let Some(usage) = self.get(Subject::Pod { namespace, name }) else { continue };
            let Some((r#type, name)) = workload.split_once('/') else { continue };
            let hash = self.hasher.hash_one(Subject::Workload { namespace, r#type, name });
            self.others.entry(hash).and_modify(|sum| *sum = sum.plus(usage)).or_insert(usage);
        }
        self
    }

    /// Whether no usage is known.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.others.is_empty()
    }

    /// Memory of the table in bytes, without allocator overhead.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.pods)
            + size_of_val(&*self.buckets)
            + self.others.capacity() * size_of::<(u64, Usage)>()
    }

    fn pod(&self, hash: u64) -> Option<Usage> {
        // no bucket without pods; otherwise one more than there are buckets
        let bucket = bucket(hash, self.buckets.len().checked_sub(1)?);
        let (start, end) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        let found = self.pods[start..end].iter().find(|pod| pod.hash == hash)?;
        found.packed.usage(self.newest)
    }
}

/// The bucket of a hash, of a number of buckets that is a power of two.
fn bucket(hash: u64, buckets: usize) -> usize {
    // in two steps: a shift by 64 bits would overflow
    ((hash >> 1) >> (63 - buckets.trailing_zeros())) as usize
}

/// Builder of a [`UsageTable`].
#[derive(Debug, Default)]
pub struct UsageTableBuilder {
    hasher: RandomState,
    pods: Vec<(u64, Usage)>,
    others: HashMap<u64, Usage>,
}

/// Average number of pods in a bucket.
const PODS_PER_BUCKET: usize = 4;

impl UsageTableBuilder {
    /// Adds a node or a pod. Of two with the same name, either stays.
    pub fn add(&mut self, subject: Subject<'_>, usage: Usage) {
        let hash = self.hasher.hash_one(subject);
        match subject {
            Subject::Pod { .. } => self.pods.push((hash, usage)),
            Subject::Node { .. } | Subject::Workload { .. } => {
                self.others.insert(hash, usage);
            }
        }
    }

    /// Builds the table.
    pub fn finish(self) -> UsageTable {
        let Self { hasher, mut pods, others } = self;
        pods.sort_unstable_by_key(|(hash, _)| *hash);
        pods.dedup_by_key(|(hash, _)| *hash);
        let newest = pods.iter().map(|(_, usage)| usage.at.as_second()).max().unwrap_or_default();
        let count = (pods.len() / PODS_PER_BUCKET).next_power_of_two();
        let mut buckets = vec![0; if pods.is_empty() { 0 } else { count + 1 }];
        for (hash, _) in &pods {
            buckets[bucket(*hash, count) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut buckets {
            sum += *start;
            *start = sum;
        }
        let pods = pods
            .into_iter()
            .map(|(hash, usage)| PodUsage { hash, packed: PackedUsage::new(usage, newest) })
            .collect();
        UsageTable { hasher, newest, pods, buckets: buckets.into(), others }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn usage(cpu_millis: i64, memory_kib: i64, second: i64) -> Usage {
        Usage { cpu_millis, memory_bytes: memory_kib << 10, at: at(second) }
    }

    proptest! {
        #[test]
        fn table_returns_the_usage_of_every_pod_and_of_no_other_one(
            pods in prop::collection::btree_map(("[ab]{1,2}", "[a-z]{1,3}"), (0i64..4_000_000, 0i64..1 << 31, 0i64..1000), 0..200),
        ) {
            let mut builder = UsageTableBuilder::default();
            for ((namespace, name), (cpu, memory, second)) in &pods {
                builder.add(Subject::Pod { namespace, name }, usage(*cpu, *memory, *second));
            }
            let table = builder.finish();
            for ((namespace, name), (cpu, memory, second)) in &pods {
                prop_assert_eq!(table.get(Subject::Pod { namespace, name }), Some(usage(*cpu, *memory, *second)));
                prop_assert_eq!(table.get(Subject::Node { name }), None);
            }
            prop_assert_eq!(table.get(Subject::Pod { namespace: "c", name: "a" }), None);
            prop_assert_eq!(table.is_empty(), pods.is_empty());
        }
    }

    #[test]
    fn hundred_thousand_pods_take_less_than_2_mb() {
        let mut builder = UsageTableBuilder::default();
        for pod in 0..100_000 {
            builder.add(Subject::Pod { namespace: "shop", name: &format!("web-{pod}") }, usage(1, 1, 1));
        }
        let table = builder.finish();
        assert!(table.bytes() < 2_000_000, "{} bytes", table.bytes());
        assert_eq!(table.get(Subject::Pod { namespace: "shop", name: "web-99999" }), Some(usage(1, 1, 1)));
    }

    #[test]
    fn values_of_a_pod_beyond_the_packed_range_are_cut() {
        let mut builder = UsageTableBuilder::default();
        let pod = |name| Subject::Pod { namespace: "shop", name };
        builder.add(pod("large"), Usage { cpu_millis: i64::MAX, memory_bytes: i64::MAX, at: at(5000) });
        builder.add(pod("old"), Usage { cpu_millis: 1, memory_bytes: 1, at: at(0) });
        let table = builder.finish();
        let large = table.get(pod("large")).unwrap();
        assert_eq!(
            (large.cpu_millis, large.memory_bytes, large.at),
            ((1 << 22) - 1, ((1 << 32) - 1) << 10, at(5000))
        );
        assert_eq!(table.get(pod("old")), Some(usage(1, 1, 5000 - 1023)), "memory is rounded up to KiB");
    }

    #[test]
    fn usage_of_a_workload_is_the_sum_of_its_pods() {
        let mut builder = UsageTableBuilder::default();
        for (name, cpu) in [("web-1", 10), ("web-2", 20), ("db-0", 40)] {
            builder.add(Subject::Pod { namespace: "shop", name }, usage(cpu, 1, cpu));
        }
        let pods = [
            ("shop", "web-1", "deployment/web"),
            ("shop", "web-2", "deployment/web"),
            ("shop", "web-3", "deployment/web"),
            ("shop", "db-0", "statefulset/db"),
            ("test", "web-1", "deployment/web"),
        ];
        let table = builder.finish().with_workloads(pods);
        let workload = |namespace, r#type, name| table.get(Subject::Workload { namespace, r#type, name });
        assert_eq!(
            workload("shop", "deployment", "web"),
            Some(usage(30, 2, 10)),
            "the oldest measurement's time"
        );
        assert_eq!(workload("shop", "statefulset", "db"), Some(usage(40, 1, 40)));
        assert_eq!(workload("test", "deployment", "web"), None, "none of its pods is measured");
    }
}
