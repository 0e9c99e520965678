//! What a process that appends to a trail knows of it, and what it signs by that: only what follows from the last checkpoint
//! that it made or verified, and from the last entry that it appended or verified itself.

use std::{iter::Peekable, vec};

use jiff::Timestamp;

use super::{Checkpoint, Head, LastCheckpoint, SignatureVerifier, StoredCheckpoint, TrailKeys, TrailStart};

/// What is known of a trail. That it does not follow from it is told in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTrail {
    trail: String,
    head: Head,
    signed: Option<Checkpoint>,
    /// Entries to sign besides the last one: every [`Checkpoint::EVERY`] after the last checkpoint. There are some after a time
    /// in which nothing was signed.
    overdue: Vec<Head>,
}

/// Why a trail is not signed, in one sentence.
type Unsound = String;

/// By what checkpoints are verified.
#[derive(Clone, Copy)]
pub struct Trusted<'a> {
    /// The keys that have signed the trail.
    pub keys: &'a TrailKeys,
    /// How.
    pub verifier: &'a dyn SignatureVerifier,
}

impl Trusted<'_> {
    fn is_ours(self, checkpoint: &Checkpoint, trail: &str) -> bool {
        checkpoint.trail == trail && checkpoint.is_signed_by(self.keys.of(checkpoint.sequence), self.verifier)
    }

    fn stored(self, stored: &StoredCheckpoint, trail: &str) -> Result<Checkpoint, Unsound> {
        let ours = Checkpoint::parse(&stored.line)
            .filter(|read| read.sequence == stored.sequence && self.is_ours(read, trail));
        ours.ok_or_else(|| {
            format!("the checkpoint of entry {} is not signed by a key of this trail", stored.sequence)
        })
    }
}

impl VerifiedTrail {
    /// What a process knows that has just begun, of a trail that ends with `head`: the newest of the last checkpoint in the
    /// database and the last one that is kept elsewhere.
    ///
    /// # Errors
    /// When neither is there, one of them is not ours, or the trail ends before one.
    pub fn begin(
        trail: &str,
        head: Head,
        stored: Option<&StoredCheckpoint>,
        kept: Option<Checkpoint>,
        trusted: Trusted<'_>,
    ) -> Result<Self, Unsound> {
        // of a trail that has no entry yet nothing can be wrong, but what another one left elsewhere
        if head == Head::NONE && stored.is_none() {
            return Ok(Self { trail: trail.to_owned(), head, signed: None, overdue: Vec::new() });
        }
        let stored = stored.map(|stored| trusted.stored(stored, trail)).transpose()?;
        // an older one adds nothing, and its key may be known no more
        let kept = kept.filter(|kept| stored.as_ref().is_none_or(|stored| kept.sequence >= stored.sequence));
        if let Some(kept) = kept.as_ref().filter(|kept| !trusted.is_ours(kept, trail)) {
            return Err(format!(
                "the last checkpoint outside the database, of entry {}, is not signed by a key of this trail",
                kept.sequence
            ));
        }
        let newest = match (stored, kept) {
            (Some(stored), Some(kept)) if stored.sequence == kept.sequence && stored.hash != kept.hash => {
                return Err(format!(
                    "the checkpoint of entry {} differs from the one outside the database",
                    kept.sequence
                ));
            }
            (Some(stored), Some(kept)) if kept.sequence > stored.sequence => kept,
            (Some(newest), _) | (None, Some(newest)) => newest,
            (None, None) => {
                return Err(
                    "it has entries but no checkpoint, neither in the database nor outside it".to_owned()
                );
            }
        };
        if newest.sequence > head.sequence {
            return Err(cut(head, newest.sequence));
        }
        Ok(Self { trail: trail.to_owned(), head: newest.head(), signed: Some(newest), overdue: Vec::new() })
    }

    /// The same; none when retention has removed what is known, which its word of where the trail begins now says.
    #[must_use]
    pub fn since(self, beginning: Option<&str>, trusted: Trusted<'_>) -> Option<Self> {
        let begins = beginning
            .and_then(|line| TrailStart::read(line, &self.trail, trusted.keys, trusted.verifier).ok())
            .map_or(0, |beginning| beginning.head().sequence);
        (self.head.sequence >= begins).then_some(self)
    }

    /// The trail's id.
    pub fn trail(&self) -> &str {
        &self.trail
    }

    /// The last entry that is known to follow from all before it.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// The last entry that is known to be signed; none before the first checkpoint.
    pub fn signed(&self) -> Option<Head> {
        self.signed.as_ref().map(Checkpoint::head)
    }

    /// The verified entries that have to be signed besides the last one, in order.
    pub fn overdue(&self) -> &[Head] {
        &self.overdue
    }

    /// The last checkpoint that is known.
    pub fn last_checkpoint(&self) -> LastCheckpoint {
        let none = LastCheckpoint { sequence: 0, time: Timestamp::UNIX_EPOCH };
        let last = self.signed.as_ref();
        last.map_or(none, |last| LastCheckpoint { sequence: last.sequence, time: last.time })
    }

    /// After entries were appended by this process, and signed with this checkpoint if any.
    #[must_use]
    pub fn grown(self, head: Head, signed: Option<Checkpoint>) -> Self {
        let overdue = if signed.is_some() { Vec::new() } else { self.overdue };
        Self { head, signed: signed.or(self.signed), overdue, ..self }
    }

    /// Whether this is at least as much as `other` is.
    pub fn covers(&self, other: &Self) -> bool {
        let extent = |known: &Self| (known.head.sequence, known.last_checkpoint().sequence);
        extent(self) >= extent(other)
    }

    /// Begins to look at what was appended since; `checkpoints` are those in the database since the last one known, in order.
    /// Another process may have signed an entry before the last one known here: then the entries since the last known
    /// checkpoint are read again, and must lead to the last known entry.
    ///
    /// # Errors
    /// When the trail is another one, or a checkpoint does not fit to what is known already.
    pub fn following<'a>(
        self,
        trail: &str,
        checkpoints: Vec<StoredCheckpoint>,
        trusted: Trusted<'a>,
    ) -> Result<TrailFollower<'a>, Unsound> {
        if self.trail != trail {
            return Err(format!("its id is {trail}, but the verified trail has the id {}", self.trail));
        }
        let mut known = self;
        let signed_before =
            checkpoints.first().is_some_and(|checkpoint| checkpoint.sequence < known.head.sequence);
        let passes = signed_before.then_some(known.head);
        if signed_before {
            known.head = known.signed().unwrap_or(Head::NONE);
            known.overdue.clear();
        }
        let checkpoints = checkpoints.into_iter().peekable();
        let mut following = TrailFollower { known, passes, checkpoints, trusted };
        following.compare()?;
        Ok(following)
    }
}

fn cut(head: Head, known: i64) -> Unsound {
    format!(
        "it ends with entry {}, but entry {known} existed: it was truncated, or an older database was restored",
        head.sequence
    )
}

/// What is known, as it grows by what others appended.
pub struct TrailFollower<'a> {
    known: VerifiedTrail,
    /// The entry that was known before and is read again.
    passes: Option<Head>,
    checkpoints: Peekable<vec::IntoIter<StoredCheckpoint>>,
    trusted: Trusted<'a>,
}

impl TrailFollower<'_> {
    /// The last entry that was taken.
    pub const fn last(&self) -> i64 {
        self.known.head.sequence
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// When it is not the next one, or does not lead to what was signed.
    pub fn entry(&mut self, sequence: i64, text: &str) -> Result<(), Unsound> {
        if sequence != self.last() + 1 {
            return Err(format!("entry {} is missing", self.last() + 1));
        }
        self.known.head = self.known.head.then(text);
        let here = self.known.head;
        if let Some(passes) = self.passes.take_if(|passes| passes.sequence == here.sequence)
            && passes != here
        {
            return Err(format!("an entry up to {} was changed", here.sequence));
        }
        self.compare()?;
        let signed = self.known.overdue.last().copied().or(self.known.signed());
        if here.sequence - signed.map_or(0, |signed| signed.sequence) >= Checkpoint::EVERY {
            self.known.overdue.push(here);
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), Unsound> {
        let here = self.known.head;
        while let Some(stored) = self.checkpoints.next_if(|stored| stored.sequence <= here.sequence) {
            let checkpoint = self.trusted.stored(&stored, &self.known.trail)?;
            if checkpoint.head() != here {
                return Err(format!(
                    "an entry up to {} was changed: another chain was signed",
                    stored.sequence
                ));
            }
            self.known.signed = Some(checkpoint);
            self.known.overdue.clear();
        }
        Ok(())
    }

    /// What is known of a trail that ends with `head`.
    ///
    /// # Errors
    /// When it does not end so.
    pub fn end(self, head: Head) -> Result<VerifiedTrail, Unsound> {
        let known = self.passes.map_or(self.last(), |passes| passes.sequence);
        if head.sequence < known {
            return Err(cut(head, known));
        }
        if head != self.known.head {
            return Err(format!(
                "the hash of its last entry, {}, does not follow from entry {}: entries were changed",
                head.sequence,
                self.last()
            ));
        }
        Ok(self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{ChainHash, CheckpointSigner as _},
        hex::Hex,
        testing::fake::FakeSigner,
    };

    const TRAIL: &str = "trail";

    fn head(count: i64) -> Head {
        (0..count).fold(Head::NONE, |head, n| head.then(&format!("entry {n}")))
    }

    fn signed_by(signer: FakeSigner, head: Head) -> Checkpoint {
        Checkpoint::sign(&signer, TRAIL, head, Timestamp::UNIX_EPOCH)
    }

    fn stored(checkpoint: &Checkpoint) -> StoredCheckpoint {
        StoredCheckpoint { sequence: checkpoint.sequence, line: checkpoint.line().unwrap() }
    }

    fn with<T>(work: impl FnOnce(Trusted<'_>) -> T) -> T {
        let signer = FakeSigner::default();
        let keys = TrailKeys::new(TRAIL, signer.public_key(), Vec::new(), &signer).unwrap();
        work(Trusted { keys: &keys, verifier: &signer })
    }

    #[test]
    fn a_process_begins_with_the_newest_checkpoint_of_ours() {
        let [at_2, at_5] = [2, 5].map(|count| signed_by(FakeSigner::default(), head(count)));
        let by_another = signed_by(FakeSigner::of(Hex([9; 32])), head(5));
        let elsewhere = Checkpoint { trail: "another".to_owned(), ..at_5.clone() };
        let begin = |count, in_database: Option<&Checkpoint>, kept: Option<&Checkpoint>| {
            let in_database = in_database.map(stored);
            with(|trusted| {
                VerifiedTrail::begin(TRAIL, head(count), in_database.as_ref(), kept.cloned(), trusted)
            })
            .map(|known| known.head().sequence)
            .ok()
        };
        assert_eq!(begin(0, None, None), Some(0));
        assert_eq!(
            begin(0, None, Some(&elsewhere)),
            Some(0),
            "what another trail left is verification's to tell"
        );
        assert_eq!(begin(7, None, None), None, "entries without a checkpoint");
        assert_eq!(begin(7, Some(&at_5), None), Some(5));
        assert_eq!(begin(7, Some(&at_2), Some(&at_5)), Some(5));
        assert_eq!(begin(7, Some(&at_5), Some(&at_2)), Some(5));
        assert_eq!(begin(7, None, Some(&at_5)), Some(5));
        assert_eq!(begin(4, Some(&at_2), Some(&at_5)), None, "cut");
        assert_eq!(begin(0, Some(&at_2), None), None, "cut to nothing");
        assert_eq!(begin(7, Some(&by_another), None), None);
        assert_eq!(begin(7, Some(&at_5), Some(&by_another)), None);
        let older = signed_by(FakeSigner::of(Hex([9; 32])), head(2));
        assert_eq!(begin(7, Some(&at_5), Some(&older)), Some(5), "of a key that retention has forgotten");
        assert_eq!(begin(7, Some(&at_5), Some(&elsewhere)), None);
    }

    #[test]
    fn only_our_word_says_that_what_is_known_was_removed() {
        let known =
            || VerifiedTrail { trail: TRAIL.to_owned(), head: head(3), signed: None, overdue: Vec::new() };
        let by = |signer: FakeSigner, count| {
            let through = signed_by(FakeSigner::default(), head(count));
            TrailStart::after(&through, &signer, Timestamp::UNIX_EPOCH).line().unwrap()
        };
        let is_left =
            |line: Option<String>| with(|trusted| known().since(line.as_deref(), trusted)).is_some();
        assert!(is_left(None));
        assert!(is_left(Some(by(FakeSigner::default(), 3))));
        assert!(!is_left(Some(by(FakeSigner::default(), 4))));
        assert!(is_left(Some(by(FakeSigner::of(Hex([9; 32])), 4))), "somebody's word");
        assert!(
            is_left(Some(signed_by(FakeSigner::default(), head(4)).line().unwrap())),
            "a checkpoint is no such word"
        );
    }

    #[test]
    fn only_what_follows_is_known() {
        let known = VerifiedTrail {
            trail: TRAIL.to_owned(),
            head: head(3),
            signed: Some(signed_by(FakeSigner::default(), head(2))),
            overdue: Vec::new(),
        };
        let follow = |trail: &str, checkpoints: Vec<StoredCheckpoint>, texts: &[(i64, &str)], end: Head| {
            with(|trusted| {
                let mut following = known.clone().following(trail, checkpoints, trusted)?;
                for (sequence, text) in texts {
                    following.entry(*sequence, text)?;
                }
                following.end(end)
            })
        };
        let both = [(4, "entry 3"), (5, "entry 4")];
        assert_eq!(follow(TRAIL, Vec::new(), &[], head(3)).unwrap(), known);
        let grown = follow(TRAIL, Vec::new(), &both, head(5)).unwrap();
        assert_eq!((grown.head(), grown.last_checkpoint().sequence), (head(5), 2));
        for at in [3, 4, 5] {
            let checkpoint = signed_by(FakeSigner::default(), head(at));
            let grown = follow(TRAIL, vec![stored(&checkpoint)], &both, head(5)).unwrap();
            assert_eq!(grown.last_checkpoint().sequence, at);
        }
        let other = Head { hash: ChainHash([1; 32]), ..head(5) };
        follow("another", Vec::new(), &both, head(5)).unwrap_err();
        follow(TRAIL, Vec::new(), &[], head(2)).unwrap_err();
        follow(TRAIL, Vec::new(), &[], head(5)).unwrap_err();
        follow(TRAIL, Vec::new(), &both[..1], head(5)).unwrap_err();
        follow(TRAIL, Vec::new(), &both[1..], head(5)).unwrap_err();
        follow(TRAIL, Vec::new(), &both, other).unwrap_err();
        follow(TRAIL, Vec::new(), &[(4, "entry 3"), (5, "changed")], head(5)).unwrap_err();
        for forged in [
            signed_by(FakeSigner::of(Hex([9; 32])), head(4)),
            signed_by(FakeSigner::default(), Head { sequence: 4, ..other }),
        ] {
            follow(TRAIL, vec![stored(&forged)], &both, head(5)).unwrap_err();
        }
    }

    #[test]
    fn a_checkpoint_before_the_last_known_entry_is_followed() {
        let known = VerifiedTrail {
            trail: TRAIL.to_owned(),
            head: head(4),
            signed: Some(signed_by(FakeSigner::default(), head(1))),
            overdue: Vec::new(),
        };
        let follow = |from: i64, texts: &[&str], end: Head| {
            let checkpoint = stored(&signed_by(FakeSigner::default(), head(3)));
            with(|trusted| {
                let mut following = known.clone().following(TRAIL, vec![checkpoint], trusted)?;
                assert_eq!(following.last(), from, "entries since the last known checkpoint are read again");
                for (sequence, text) in (from + 1..).zip(texts) {
                    following.entry(sequence, text)?;
                }
                following.end(end)
            })
        };
        let grown = follow(1, &["entry 1", "entry 2", "entry 3", "entry 4"], head(5)).unwrap();
        assert_eq!((grown.head(), grown.last_checkpoint().sequence), (head(5), 3));
        // the signed entry is the same, the known one after it was changed
        let changed = head(3).then("changed");
        follow(1, &["entry 1", "entry 2", "changed"], changed).unwrap_err();
        follow(1, &["entry 1", "entry 2", "changed", "entry 4"], changed.then("entry 4")).unwrap_err();
        // the end was cut
        follow(1, &["entry 1", "entry 2"], head(3)).unwrap_err();
    }

    #[test]
    fn entries_that_were_not_signed_in_time_are_signed_at_each_interval() {
        let known =
            VerifiedTrail { trail: TRAIL.to_owned(), head: Head::NONE, signed: None, overdue: Vec::new() };
        let count = 2 * Checkpoint::EVERY + 5;
        let grown = with(|trusted| {
            let mut following = known.following(TRAIL, Vec::new(), trusted)?;
            for sequence in 1..=count {
                following.entry(sequence, &format!("entry {}", sequence - 1))?;
            }
            following.end(head(count))
        })
        .unwrap();
        let overdue: Vec<_> = grown.overdue().iter().map(|head| head.sequence).collect();
        assert_eq!(overdue, [Checkpoint::EVERY, 2 * Checkpoint::EVERY]);
        let signed = signed_by(FakeSigner::default(), head(count));
        assert!(grown.grown(head(count), Some(signed)).overdue().is_empty());
    }
}
