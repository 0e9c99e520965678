//! A new master key signs with another key. The trail says so itself: the operation `rekey` names the key that signed
//! before it and the one that signs from it on. The entry is bound by a checkpoint of its own that the new key has signed,
//! made in the same transaction; so whoever trusts the new key trusts the entry, and by it the key before.

use serde::{Deserialize, Serialize};

use super::{Entry, PublicKey, Status, StoredEntry, TrailReader};
use crate::{
    access::{Access, Resource, Verb},
    error::Result,
};

/// Where another key takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The entry that says so, the first one that the new key signs.
    pub sequence: i64,
    /// Who signed what comes before it.
    pub previous: PublicKey,
    /// Who signs from it on.
    pub next: PublicKey,
}

impl Handover {
    /// The change of the master key, as the trail is to tell it.
    pub fn access(previous: &PublicKey, next: &PublicKey) -> Access {
        Access::to(Verb::Rekey, Resource::MasterKey)
            .with("previous_public_key", previous.to_string())
            .with("public_key", next.to_string())
    }

    /// What an entry says of keys; none when it is about something else, or of a change that was not made.
    pub fn of(sequence: i64, entry: &Entry) -> Option<Self> {
        let Entry::Complete { operation, outcome } = entry else { return None };
        let is_ours = operation.operation_type == Verb::Rekey.as_str()
            && operation.resource_type == Resource::MasterKey.as_str()
            && outcome.status == Status::Success;
        let key = |name: &str| operation.params.get(name)?.as_str()?.parse().ok();
        is_ours.then_some(())?;
        Some(Self { sequence, previous: key("previous_public_key")?, next: key("public_key")? })
    }

    fn read(stored: &StoredEntry) -> Option<Self> {
        Self::of(stored.sequence, &serde_json::from_str(&stored.text).ok()?)
    }
}

/// The keys that have signed a trail. Of these only the last one is trusted; what the others are is a claim until the
/// entries that make it are reached.
#[derive(Clone, Debug)]
pub struct TrailKeys {
    current: PublicKey,
    handovers: Vec<Handover>,
}

impl TrailKeys {
    /// The key that signs now, and what is said of those before it, in any order.
    pub fn new(current: PublicKey, mut handovers: Vec<Handover>) -> Self {
        handovers.sort_by_key(|handover| handover.sequence);
        Self { current, handovers }
    }

    /// As the trail behind `reader` claims them.
    ///
    /// # Errors
    /// As [`TrailReader`].
    pub async fn claimed(reader: &dyn TrailReader, current: PublicKey) -> Result<Self> {
        Ok(Self::new(current, reader.rekeys().await?.iter().filter_map(Handover::read).collect()))
    }

    /// Who signs what covers this entry.
    pub fn of(&self, sequence: i64) -> &PublicKey {
        let after = self.handovers.iter().find(|handover| handover.sequence > sequence);
        after.map_or(&self.current, |handover| &handover.previous)
    }

    /// Who signs what covers this entry, or has signed since.
    pub(crate) fn since(&self, sequence: i64) -> impl Iterator<Item = &PublicKey> {
        let later = self.handovers.iter().filter(move |handover| handover.sequence > sequence);
        later.map(|handover| &handover.previous).chain([&self.current])
    }

    /// Where the keys changed.
    pub fn handovers(&self) -> &[Handover] {
        &self.handovers
    }

    /// Whether what an entry says of keys is what was expected of it: of one that says nothing, nothing.
    pub(crate) fn expects(&self, sequence: i64, said: Option<Handover>) -> bool {
        let claimed = self.handovers.iter().find(|handover| handover.sequence == sequence);
        claimed.copied() == said && said.is_none_or(|said| said.next == *self.of(sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::Hex;

    #[test]
    fn each_key_signs_up_to_where_the_next_one_takes_over() {
        let key = |n: u8| Hex([n; 32]);
        let handover = |sequence, n| Handover { sequence, previous: key(n), next: key(n + 1) };
        let keys = TrailKeys::new(key(3), vec![handover(20, 2), handover(10, 1)]);
        for (sequence, expected) in [(1, 1), (9, 1), (10, 2), (19, 2), (20, 3), (99, 3)] {
            assert_eq!(keys.of(sequence), &key(expected), "{sequence}");
        }
        assert!(keys.expects(10, Some(handover(10, 1))) && keys.expects(11, None));
        assert!(!keys.expects(10, None), "it was claimed");
        assert!(!keys.expects(11, Some(handover(11, 1))), "it was not claimed");
        assert!(!keys.expects(20, Some(Handover { next: key(9), ..handover(20, 2) })), "to another key");
    }
}
