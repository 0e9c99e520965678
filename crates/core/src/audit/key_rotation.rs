//! Key rotation: a new master key has a new signing key. The operation `rekey` in the trail names the previous and the
//! next public key. The transaction that appends its entry also stores a signature of the next key over the entry's
//! hash. Nothing else replaces that signature: a checkpoint proves the state of the trail, not that another key was
//! allowed to sign before.

use serde::{Deserialize, Serialize};

use super::{
    ChainHash, CheckpointSigner, Defect, Fault, Head, PublicKey, Signature, SignatureVerifier, TrailReader,
};
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::{Error, Result},
    operation::{Entry, Status},
};

/// Key rotation, signed by the next key. Its JSON line has these fields in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRotation {
    /// Trail id.
    pub trail: String,
    /// Entry that records the rotation, the first one that the next key signs.
    pub sequence: i64,
    /// Chain hash of that entry, which covers all entries before it.
    pub hash: ChainHash,
    /// Key that signed the earlier entries.
    pub previous: PublicKey,
    /// Key that signs from this entry on.
    pub next: PublicKey,
    /// Signature of `next` over `KeyRotation::message`.
    pub signature: Signature,
}

impl KeyRotation {
    /// Purpose string: the first line of the signed message.
    const PURPOSE: &str = "pilothouse audit handover 1";

    /// The operation of the key rotation, as recorded in the trail.
    pub fn access(previous: &PublicKey, next: &PublicKey) -> AccessRequest {
        AccessRequest::to(Verb::Rekey, Resource::MasterKey)
            .with("previous_public_key", previous.to_string())
            .with("public_key", next.to_string())
    }

    /// Creates a rotation in which `next` replaces `previous` from the entry `head` on, signed by `next`.
    pub fn sign(next: &dyn CheckpointSigner, trail: &str, head: Head, previous: PublicKey) -> Self {
        let Head { sequence, hash } = head;
        let mut rotation = Self {
            trail: trail.to_owned(),
            sequence,
            hash,
            previous,
            next: next.public_key(),
            signature: crate::hex::Hex([0; 64]),
        };
        rotation.signature = next.sign(&rotation.message());
        rotation
    }

    /// Whether the next key signed this rotation.
    pub fn is_signed(&self, verifier: &dyn SignatureVerifier) -> bool {
        verifier.verifies(&self.next, &self.message(), &self.signature)
    }

    /// The signed message: a line for the purpose, and one for each field.
    fn message(&self) -> Vec<u8> {
        let Self { trail, sequence, hash, previous, next, .. } = self;
        format!("{}\n{trail}\n{sequence}\n{hash}\n{previous}\n{next}\n", Self::PURPOSE).into_bytes()
    }

    /// The line that is stored.
    ///
    /// # Errors
    /// `Internal` if the rotation cannot be serialised.
    pub fn line(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("key rotation: {error}")))
    }

    /// Parses a line. Returns none unless the line is exactly as [`KeyRotation::line`] writes it.
    pub fn parse(line: &str) -> Option<Self> {
        let rotation: Self = serde_json::from_str(line).ok()?;
        (rotation.line().ok()? == line).then_some(rotation)
    }

    /// The previous and the next key that an entry records; none if it records another operation, or a key rotation
    /// that did not succeed.
    pub(super) fn recorded_in(entry: &Entry) -> Option<(PublicKey, PublicKey)> {
        let Entry::Complete { operation, outcome } = entry else { return None };
        let is_rekey = operation.operation_type == Verb::Rekey.as_str()
            && operation.resource_type == Resource::MasterKey.as_str()
            && outcome.status == Status::Success;
        let key = |name: &str| operation.params.get(name)?.as_str()?.parse().ok();
        is_rekey.then_some(())?;
        Some((key("previous_public_key")?, key("public_key")?))
    }
}

/// Keys that have signed a trail. Only the current key is trusted from outside the trail; each earlier key is trusted
/// because the key after it signed the rotation.
#[derive(Clone, Debug)]
pub struct TrailKeys {
    current: PublicKey,
    key_rotations: Vec<KeyRotation>,
}

impl TrailKeys {
    /// Verifies the chain of rotations that leads to the current key. The rotations may be in any order.
    ///
    /// # Errors
    /// A defect if a rotation belongs to another trail, is not signed by the key after it, or has the same entry as
    /// another rotation.
    pub fn new(
        trail: &str,
        current: PublicKey,
        mut key_rotations: Vec<KeyRotation>,
        verifier: &dyn SignatureVerifier,
    ) -> std::result::Result<Self, Defect> {
        key_rotations.sort_by_key(|rotation| rotation.sequence);
        let mut next = current;
        for rotation in key_rotations.iter().rev() {
            let forged = |details: &str| Defect::at(rotation.sequence, Fault::CheckpointForged, details);
            if rotation.trail != trail {
                return Err(forged("a key rotation belongs to another trail"));
            }
            if rotation.next != next || !rotation.is_signed(verifier) {
                return Err(forged("a key rotation is not signed by the new key"));
            }
            next = rotation.previous;
        }
        if let Some(pair) = key_rotations.windows(2).find(|pair| pair[0].sequence == pair[1].sequence) {
            let details = "two key rotations have the same entry";
            return Err(Defect::at(pair[0].sequence, Fault::CheckpointForged, details));
        }
        Ok(Self { current, key_rotations })
    }

    /// As [`TrailKeys::new`], from lines written by [`KeyRotation::line`].
    ///
    /// # Errors
    /// As [`TrailKeys::new`]; also a defect if a line is not in the canonical form.
    pub fn of_lines(
        trail: &str,
        current: PublicKey,
        lines: &[String],
        verifier: &dyn SignatureVerifier,
    ) -> std::result::Result<Self, Defect> {
        let forged =
            || Defect::at(1, Fault::CheckpointForged, "a stored key rotation is not in the canonical form");
        let key_rotations = lines.iter().map(|line| KeyRotation::parse(line).ok_or_else(forged));
        Self::new(trail, current, key_rotations.collect::<std::result::Result<_, _>>()?, verifier)
    }

    /// The keys of the trail behind `reader`.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Internal` where [`TrailKeys::new`] finds a defect.
    pub async fn read(
        reader: &dyn TrailReader,
        trail: &str,
        current: PublicKey,
        verifier: &dyn SignatureVerifier,
    ) -> Result<Self> {
        let lines = reader.key_rotations().await?;
        Self::of_lines(trail, current, &lines, verifier).map_err(super::defect::Defect::into_error)
    }

    /// The key that signs checkpoints of this entry.
    pub fn of(&self, sequence: i64) -> &PublicKey {
        let after = self.key_rotations.iter().find(|rotation| rotation.sequence > sequence);
        after.map_or(&self.current, |rotation| &rotation.previous)
    }

    /// All keys, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &PublicKey> {
        self.since(i64::MIN)
    }

    /// The key that signs checkpoints of this entry, and all later keys.
    pub(crate) fn since(&self, sequence: i64) -> impl Iterator<Item = &PublicKey> {
        let later = self.key_rotations.iter().filter(move |rotation| rotation.sequence > sequence);
        later.map(|rotation| &rotation.previous).chain([&self.current])
    }

    /// All rotations, in order.
    pub fn key_rotations(&self) -> &[KeyRotation] {
        &self.key_rotations
    }

    /// Whether the keys recorded in the entry `head` match the rotation signed for it. An entry that records no
    /// rotation must have none.
    pub(crate) fn matches_entry(&self, head: Head, recorded: Option<(PublicKey, PublicKey)>) -> bool {
        match (self.key_rotations.iter().find(|rotation| rotation.sequence == head.sequence), recorded) {
            (None, None) => true,
            (Some(signed), Some((previous, next))) => {
                (signed.previous, signed.next, signed.hash) == (previous, next, head.hash)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hex::Hex, testing::fake::FakeSigner};

    fn key(n: u8) -> PublicKey {
        Hex([n; 32])
    }

    fn head(sequence: i64) -> Head {
        Head { sequence, hash: ChainHash([5; 32]) }
    }

    fn rotation(sequence: i64, n: u8) -> KeyRotation {
        KeyRotation::sign(&FakeSigner::of(key(n + 1)), "trail", head(sequence), key(n))
    }

    fn keys(current: u8, key_rotations: Vec<KeyRotation>) -> std::result::Result<TrailKeys, Defect> {
        TrailKeys::new("trail", key(current), key_rotations, &FakeSigner::default())
    }

    #[test]
    fn each_key_signs_until_the_next_rotation() {
        let keys = keys(3, vec![rotation(20, 2), rotation(10, 1)]).unwrap();
        for (sequence, expected) in [(1, 1), (9, 1), (10, 2), (19, 2), (20, 3), (99, 3)] {
            assert_eq!(keys.of(sequence), &key(expected), "{sequence}");
        }
        assert!(keys.all().eq(&[key(1), key(2), key(3)]));
        let recorded = |n: u8| Some((key(n), key(n + 1)));
        assert!(keys.matches_entry(head(10), recorded(1)) && keys.matches_entry(head(11), None));
        assert!(!keys.matches_entry(head(10), None), "the entry records no rotation");
        assert!(!keys.matches_entry(head(11), recorded(1)), "no rotation is signed for this entry");
        assert!(!keys.matches_entry(head(20), Some((key(2), key(9)))), "another next key");
        assert!(
            !keys.matches_entry(Head { hash: ChainHash([6; 32]), ..head(20) }, recorded(2)),
            "another entry"
        );
    }

    #[test]
    fn key_rotation_must_be_signed_by_the_next_key() {
        assert!(keys(2, vec![rotation(10, 1)]).is_ok());
        let signed = rotation(10, 1);
        for forged in [
            KeyRotation { trail: "other".to_owned(), ..signed.clone() },
            KeyRotation { sequence: 11, ..signed.clone() },
            KeyRotation { hash: ChainHash([6; 32]), ..signed.clone() },
            KeyRotation { previous: key(9), ..signed.clone() },
            KeyRotation { next: key(9), ..signed.clone() },
            KeyRotation { signature: Hex([0; 64]), ..signed.clone() },
        ] {
            assert!(keys(2, vec![forged.clone()]).is_err(), "{forged:?}");
        }
        // signed by the previous key, or by the current key where it is not the next one
        let by_previous = KeyRotation {
            next: key(2),
            ..KeyRotation::sign(&FakeSigner::of(key(1)), "trail", head(10), key(1))
        };
        assert!(keys(2, vec![by_previous]).is_err());
        assert!(keys(3, vec![rotation(10, 1)]).is_err(), "the chain of keys has a gap");
        assert!(keys(3, vec![rotation(10, 1), rotation(10, 2)]).is_err(), "two rotations at one entry");
        // only the canonical line is parsed
        let line = signed.line().unwrap();
        assert_eq!(KeyRotation::parse(&line), Some(signed));
        assert_eq!(KeyRotation::parse(&format!(" {line}")), None);
    }
}
