//! A new master key signs with another key. The trail says so itself: the operation `rekey` names the key that signed
//! before it and the one that signs from it on. Beside the entry lies a signature of the new key over the entry's hash, made
//! in the transaction that appends the entry. Nothing else stands in for that signature: a checkpoint says what the trail
//! was, not that another key may have signed before it.

use serde::{Deserialize, Serialize};

use super::{
    ChainHash, CheckpointSigner, Defect, Entry, Fault, Head, PublicKey, Signature, SignatureVerifier, Status,
    TrailReader,
};
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::{Error, Result},
};

/// Where another key takes over, signed by it. Its line in JSON has these fields in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRotation {
    /// Which trail.
    pub trail: String,
    /// The entry that says so, the first one that the new key signs.
    pub sequence: i64,
    /// The hash of that entry, and so of all before it.
    pub hash: ChainHash,
    /// The key that signed what comes before it.
    pub previous: PublicKey,
    /// The key that signs from it on.
    pub next: PublicKey,
    /// By `next`, over `KeyRotation::message`.
    pub signature: Signature,
}

impl KeyRotation {
    /// The first line of what is signed.
    const PURPOSE: &str = "pilothouse audit handover 1";

    /// The change of the master key, as the trail is to tell it.
    pub fn access(previous: &PublicKey, next: &PublicKey) -> AccessRequest {
        AccessRequest::to(Verb::Rekey, Resource::MasterKey)
            .with("previous_public_key", previous.to_string())
            .with("public_key", next.to_string())
    }

    /// Signs with the new key that it takes over from `previous` at the entry `head`.
    pub fn sign(next: &dyn CheckpointSigner, trail: &str, head: Head, previous: PublicKey) -> Self {
        let Head { sequence, hash } = head;
        let mut handover = Self {
            trail: trail.to_owned(),
            sequence,
            hash,
            previous,
            next: next.public_key(),
            signature: crate::hex::Hex([0; 64]),
        };
        handover.signature = next.sign(&handover.message());
        handover
    }

    /// Whether the key that takes over has signed it.
    pub fn is_signed(&self, verifier: &dyn SignatureVerifier) -> bool {
        verifier.verifies(&self.next, &self.message(), &self.signature)
    }

    /// The bytes that are signed: a line for the purpose, and one for each field.
    fn message(&self) -> Vec<u8> {
        let Self { trail, sequence, hash, previous, next, .. } = self;
        format!("{}\n{trail}\n{sequence}\n{hash}\n{previous}\n{next}\n", Self::PURPOSE).into_bytes()
    }

    /// The line that is stored.
    ///
    /// # Errors
    /// `Internal`, should it not serialise.
    pub fn line(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("handover: {error}")))
    }

    /// Reads a line; none when it is not exactly as [`KeyRotation::line`] writes it.
    pub fn parse(line: &str) -> Option<Self> {
        let handover: Self = serde_json::from_str(line).ok()?;
        (handover.line().ok()? == line).then_some(handover)
    }

    /// The keys that an entry names, the previous one and the next one; none when it is about something else, or about a
    /// change that was not made.
    pub(super) fn said_by(entry: &Entry) -> Option<(PublicKey, PublicKey)> {
        let Entry::Complete { operation, outcome } = entry else { return None };
        let is_ours = operation.operation_type == Verb::Rekey.as_str()
            && operation.resource_type == Resource::MasterKey.as_str()
            && outcome.status == Status::Success;
        let key = |name: &str| operation.params.get(name)?.as_str()?.parse().ok();
        is_ours.then_some(())?;
        Some((key("previous_public_key")?, key("public_key")?))
    }
}

/// The keys that have signed a trail. Of these only the last one is trusted from outside; each other one is trusted because
/// the one after it has signed the handover.
#[derive(Clone, Debug)]
pub struct TrailKeys {
    current: PublicKey,
    handovers: Vec<KeyRotation>,
}

impl TrailKeys {
    /// The key that signs now, and where other keys signed before it, in any order.
    ///
    /// # Errors
    /// The handover that is of another trail, or that the key after it has not signed.
    pub fn new(
        trail: &str,
        current: PublicKey,
        mut handovers: Vec<KeyRotation>,
        verifier: &dyn SignatureVerifier,
    ) -> std::result::Result<Self, Defect> {
        handovers.sort_by_key(|handover| handover.sequence);
        let mut next = current;
        for handover in handovers.iter().rev() {
            let forged = |details: &str| Defect::at(handover.sequence, Fault::CheckpointForged, details);
            if handover.trail != trail {
                return Err(forged("a key rotation belongs to another trail"));
            }
            if handover.next != next || !handover.is_signed(verifier) {
                return Err(forged("a key rotation is not signed by the new key"));
            }
            next = handover.previous;
        }
        if let Some(pair) = handovers.windows(2).find(|pair| pair[0].sequence == pair[1].sequence) {
            let details = "two key rotations have the same entry";
            return Err(Defect::at(pair[0].sequence, Fault::CheckpointForged, details));
        }
        Ok(Self { current, handovers })
    }

    /// As [`TrailKeys::new`], from lines as [`KeyRotation::line`] writes them.
    ///
    /// # Errors
    /// As [`TrailKeys::new`]; a line that is of another form.
    pub fn of_lines(
        trail: &str,
        current: PublicKey,
        lines: &[String],
        verifier: &dyn SignatureVerifier,
    ) -> std::result::Result<Self, Defect> {
        let forged =
            || Defect::at(1, Fault::CheckpointForged, "a stored key rotation is not in the canonical form");
        let handovers = lines.iter().map(|line| KeyRotation::parse(line).ok_or_else(forged));
        Self::new(trail, current, handovers.collect::<std::result::Result<_, _>>()?, verifier)
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
        let lines = reader.handovers().await?;
        Self::of_lines(trail, current, &lines, verifier).map_err(|defect| defect.into_error())
    }

    /// Who signs what covers this entry.
    pub fn of(&self, sequence: i64) -> &PublicKey {
        let after = self.handovers.iter().find(|handover| handover.sequence > sequence);
        after.map_or(&self.current, |handover| &handover.previous)
    }

    /// Every key, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &PublicKey> {
        self.since(i64::MIN)
    }

    /// Who signs what covers this entry, or has signed since.
    pub(crate) fn since(&self, sequence: i64) -> impl Iterator<Item = &PublicKey> {
        let later = self.handovers.iter().filter(move |handover| handover.sequence > sequence);
        later.map(|handover| &handover.previous).chain([&self.current])
    }

    /// Where the keys changed.
    pub fn handovers(&self) -> &[KeyRotation] {
        &self.handovers
    }

    /// Whether the entry `head` says of keys what was signed for it: of one that says nothing, nothing.
    pub(crate) fn expects(&self, head: Head, said: Option<(PublicKey, PublicKey)>) -> bool {
        match (self.handovers.iter().find(|handover| handover.sequence == head.sequence), said) {
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

    fn handover(sequence: i64, n: u8) -> KeyRotation {
        KeyRotation::sign(&FakeSigner::of(key(n + 1)), "trail", head(sequence), key(n))
    }

    fn keys(current: u8, handovers: Vec<KeyRotation>) -> std::result::Result<TrailKeys, Defect> {
        TrailKeys::new("trail", key(current), handovers, &FakeSigner::default())
    }

    #[test]
    fn each_key_signs_up_to_where_the_next_one_takes_over() {
        let keys = keys(3, vec![handover(20, 2), handover(10, 1)]).unwrap();
        for (sequence, expected) in [(1, 1), (9, 1), (10, 2), (19, 2), (20, 3), (99, 3)] {
            assert_eq!(keys.of(sequence), &key(expected), "{sequence}");
        }
        assert!(keys.all().eq(&[key(1), key(2), key(3)]));
        let said = |n: u8| Some((key(n), key(n + 1)));
        assert!(keys.expects(head(10), said(1)) && keys.expects(head(11), None));
        assert!(!keys.expects(head(10), None), "the entry does not say so");
        assert!(!keys.expects(head(11), said(1)), "it is not signed");
        assert!(!keys.expects(head(20), Some((key(2), key(9)))), "to another key");
        assert!(!keys.expects(Head { hash: ChainHash([6; 32]), ..head(20) }, said(2)), "another entry");
    }

    #[test]
    fn only_the_new_key_signs_that_it_takes_over() {
        assert!(keys(2, vec![handover(10, 1)]).is_ok());
        let signed = handover(10, 1);
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
        // by the key before, or by the key in use where it is not the next one
        let by_previous = KeyRotation {
            next: key(2),
            ..KeyRotation::sign(&FakeSigner::of(key(1)), "trail", head(10), key(1))
        };
        assert!(keys(2, vec![by_previous]).is_err());
        assert!(keys(3, vec![handover(10, 1)]).is_err(), "the chain of keys has a gap");
        assert!(keys(3, vec![handover(10, 1), handover(10, 2)]).is_err(), "at one entry");
        // a signature for another purpose is none
        let line = signed.line().unwrap();
        assert_eq!(KeyRotation::parse(&line), Some(signed));
        assert_eq!(KeyRotation::parse(&format!(" {line}")), None);
    }
}
