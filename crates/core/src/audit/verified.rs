//! Verified state of a trail, as seen by one process that appends to it. The process signs only entries that follow
//! from the last checkpoint that it made or verified, and from the last entry that it appended or verified itself.

use std::{iter::Peekable, vec};

use jiff::Timestamp;

use super::{Checkpoint, Head, LastCheckpoint, SignatureVerifier, StoredCheckpoint, TrailKeys, TrailStart};

/// Verified state of a trail. The error of each comparison is one sentence that describes the mismatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTrail {
    trail: String,
    head: Head,
    signed: Option<Checkpoint>,
    /// Entries to sign in addition to the last one: every [`Checkpoint::EVERY`] entries after the last checkpoint. Not
    /// empty after a period in which nothing was signed.
    overdue: Vec<Head>,
}

/// Reason why a trail is not signed, in one sentence.
type Mismatch = String;

/// Parameters of checkpoint verification.
#[derive(Clone, Copy)]
pub struct Trusted<'a> {
    /// Keys that have signed the trail.
    pub keys: &'a TrailKeys,
    /// Signature verifier.
    pub verifier: &'a dyn SignatureVerifier,
}

impl Trusted<'_> {
    fn is_signed(self, checkpoint: &Checkpoint, trail: &str) -> bool {
        checkpoint.trail == trail && checkpoint.is_signed_by(self.keys.of(checkpoint.sequence), self.verifier)
    }

    fn stored(self, stored: &StoredCheckpoint, trail: &str) -> Result<Checkpoint, Mismatch> {
        let valid = Checkpoint::parse(&stored.line)
            .filter(|read| read.sequence == stored.sequence && self.is_signed(read, trail));
        valid.ok_or_else(|| {
            format!("the checkpoint of entry {} is not signed by a key of this trail", stored.sequence)
        })
    }
}

impl VerifiedTrail {
    /// Initial state of a process, for a trail that ends with `head`: the newer of the last checkpoint in the database
    /// and the last one outside it.
    ///
    /// # Errors
    /// When there is neither, one of them is not signed by a key of this trail, or the trail ends before one of them.
    pub fn begin(
        trail: &str,
        head: Head,
        stored: Option<&StoredCheckpoint>,
        external: Option<Checkpoint>,
        trusted: Trusted<'_>,
    ) -> Result<Self, Mismatch> {
        // an empty trail has no defect; a checkpoint of another trail outside the database is left to verification
        if head == Head::NONE && stored.is_none() {
            return Ok(Self { trail: trail.to_owned(), head, signed: None, overdue: Vec::new() });
        }
        let stored = stored.map(|stored| trusted.stored(stored, trail)).transpose()?;
        // an older checkpoint adds nothing, and its key may no longer be known
        let external = external
            .filter(|external| stored.as_ref().is_none_or(|stored| external.sequence >= stored.sequence));
        if let Some(external) = external.as_ref().filter(|external| !trusted.is_signed(external, trail)) {
            return Err(format!(
                "the last checkpoint outside the database, of entry {}, is not signed by a key of this trail",
                external.sequence
            ));
        }
        let newest = match (stored, external) {
            (Some(stored), Some(external))
                if stored.sequence == external.sequence && stored.hash != external.hash =>
            {
                return Err(format!(
                    "the checkpoint of entry {} differs from the one outside the database",
                    external.sequence
                ));
            }
            (Some(stored), Some(external)) if external.sequence > stored.sequence => external,
            (Some(newest), _) | (None, Some(newest)) => newest,
            (None, None) => {
                return Err(
                    "it has entries but no checkpoint, neither in the database nor outside it".to_owned()
                );
            }
        };
        if newest.sequence > head.sequence {
            return Err(truncated(head, newest.sequence));
        }
        Ok(Self { trail: trail.to_owned(), head: newest.head(), signed: Some(newest), overdue: Vec::new() })
    }

    /// Returns the same state, or none when retention removed its head, according to the trail start.
    #[must_use]
    pub fn since(self, trail_start: Option<&str>, trusted: Trusted<'_>) -> Option<Self> {
        let start = trail_start
            .and_then(|line| TrailStart::read(line, &self.trail, trusted.keys, trusted.verifier).ok())
            .map_or(0, |start| start.head().sequence);
        (self.head.sequence >= start).then_some(self)
    }

    /// Trail id.
    pub fn trail(&self) -> &str {
        &self.trail
    }

    /// Last verified entry.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Last entry known to be signed; none before the first checkpoint.
    pub fn signed(&self) -> Option<Head> {
        self.signed.as_ref().map(Checkpoint::head)
    }

    /// Verified entries to sign in addition to the last one, in order.
    pub fn overdue(&self) -> &[Head] {
        &self.overdue
    }

    /// Last known checkpoint.
    pub fn last_checkpoint(&self) -> LastCheckpoint {
        let none = LastCheckpoint { sequence: 0, time: Timestamp::UNIX_EPOCH };
        let last = self.signed.as_ref();
        last.map_or(none, |last| LastCheckpoint { sequence: last.sequence, time: last.time })
    }

    /// State after this process appended entries up to `head`, and signed them with this checkpoint, if any.
    #[must_use]
    pub fn grown(self, head: Head, signed: Option<Checkpoint>) -> Self {
        let overdue = if signed.is_some() { Vec::new() } else { self.overdue };
        Self { head, signed: signed.or(self.signed), overdue, ..self }
    }

    /// Whether this state is at least as recent as `other`.
    pub fn covers(&self, other: &Self) -> bool {
        let position = |verified: &Self| (verified.head.sequence, verified.last_checkpoint().sequence);
        position(self) >= position(other)
    }

    /// Begins to verify entries appended since; `checkpoints` are those in the database after the last known one, in
    /// order. Another process may have signed an entry before the last verified one: then the entries after the last
    /// known checkpoint are read again, and must lead to the last verified entry.
    ///
    /// # Errors
    /// When the trail id differs, or a checkpoint does not match the verified state.
    pub fn following<'a>(
        self,
        trail: &str,
        checkpoints: Vec<StoredCheckpoint>,
        trusted: Trusted<'a>,
    ) -> Result<TrailFollower<'a>, Mismatch> {
        if self.trail != trail {
            return Err(format!("its id is {trail}, but the verified trail has the id {}", self.trail));
        }
        let mut verified = self;
        let signed_before =
            checkpoints.first().is_some_and(|checkpoint| checkpoint.sequence < verified.head.sequence);
        let recheck = signed_before.then_some(verified.head);
        if signed_before {
            verified.head = verified.signed().unwrap_or(Head::NONE);
            verified.overdue.clear();
        }
        let checkpoints = checkpoints.into_iter().peekable();
        let mut follower = TrailFollower { verified, recheck, checkpoints, trusted };
        follower.compare()?;
        Ok(follower)
    }
}

/// Mismatch of a trail that ends with `head`, before the entry `verified`.
fn truncated(head: Head, verified: i64) -> Mismatch {
    format!(
        "it ends with entry {}, but entry {verified} existed: it was truncated, or an older database was restored",
        head.sequence
    )
}

/// Verifies entries appended by other processes and extends the verified state.
pub struct TrailFollower<'a> {
    verified: VerifiedTrail,
    /// Entry that was verified before and is read again.
    recheck: Option<Head>,
    checkpoints: Peekable<vec::IntoIter<StoredCheckpoint>>,
    trusted: Trusted<'a>,
}

impl TrailFollower<'_> {
    /// Sequence number of the last verified entry.
    pub const fn last(&self) -> i64 {
        self.verified.head.sequence
    }

    /// Verifies the next entry.
    ///
    /// # Errors
    /// When it is not the next entry, or does not match the signed chain.
    pub fn entry(&mut self, sequence: i64, text: &str) -> Result<(), Mismatch> {
        if sequence != self.last() + 1 {
            return Err(format!("entry {} is missing", self.last() + 1));
        }
        self.verified.head = self.verified.head.then(text);
        let current = self.verified.head;
        if let Some(recheck) = self.recheck.take_if(|recheck| recheck.sequence == current.sequence)
            && recheck != current
        {
            return Err(format!("an entry up to {} was changed", current.sequence));
        }
        self.compare()?;
        let signed = self.verified.overdue.last().copied().or(self.verified.signed());
        if current.sequence - signed.map_or(0, |signed| signed.sequence) >= Checkpoint::EVERY {
            self.verified.overdue.push(current);
        }
        Ok(())
    }

    /// Compares the verified head with the checkpoints in the database up to it.
    fn compare(&mut self) -> Result<(), Mismatch> {
        let current = self.verified.head;
        while let Some(stored) = self.checkpoints.next_if(|stored| stored.sequence <= current.sequence) {
            let checkpoint = self.trusted.stored(&stored, &self.verified.trail)?;
            if checkpoint.head() != current {
                return Err(format!(
                    "an entry up to {} was changed: another chain was signed",
                    stored.sequence
                ));
            }
            self.verified.signed = Some(checkpoint);
            self.verified.overdue.clear();
        }
        Ok(())
    }

    /// The verified state of a trail that ends with `head`.
    ///
    /// # Errors
    /// When the verified entries do not end with `head`.
    pub fn end(self, head: Head) -> Result<VerifiedTrail, Mismatch> {
        let verified = self.recheck.map_or(self.last(), |recheck| recheck.sequence);
        if head.sequence < verified {
            return Err(truncated(head, verified));
        }
        if head != self.verified.head {
            return Err(format!(
                "the hash of its last entry, {}, does not follow from entry {}: entries were changed",
                head.sequence,
                self.last()
            ));
        }
        Ok(self.verified)
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

    fn with_trusted<T>(work: impl FnOnce(Trusted<'_>) -> T) -> T {
        let signer = FakeSigner::default();
        let keys = TrailKeys::new(TRAIL, signer.public_key(), Vec::new(), &signer).unwrap();
        work(Trusted { keys: &keys, verifier: &signer })
    }

    #[test]
    fn initial_state_is_the_newest_checkpoint_signed_by_a_trail_key() {
        let [at_2, at_5] = [2, 5].map(|count| signed_by(FakeSigner::default(), head(count)));
        let by_another = signed_by(FakeSigner::of(Hex([9; 32])), head(5));
        let of_another_trail = Checkpoint { trail: "another".to_owned(), ..at_5.clone() };
        let begin = |count, in_database: Option<&Checkpoint>, external: Option<&Checkpoint>| {
            let in_database = in_database.map(stored);
            with_trusted(|trusted| {
                VerifiedTrail::begin(TRAIL, head(count), in_database.as_ref(), external.cloned(), trusted)
            })
            .map(|verified| verified.head().sequence)
            .ok()
        };
        assert_eq!(begin(0, None, None), Some(0));
        assert_eq!(
            begin(0, None, Some(&of_another_trail)),
            Some(0),
            "another trail's checkpoint is left to verification"
        );
        assert_eq!(begin(7, None, None), None, "entries without a checkpoint");
        assert_eq!(begin(7, Some(&at_5), None), Some(5));
        assert_eq!(begin(7, Some(&at_2), Some(&at_5)), Some(5));
        assert_eq!(begin(7, Some(&at_5), Some(&at_2)), Some(5));
        assert_eq!(begin(7, None, Some(&at_5)), Some(5));
        assert_eq!(begin(4, Some(&at_2), Some(&at_5)), None, "truncated");
        assert_eq!(begin(0, Some(&at_2), None), None, "truncated to nothing");
        assert_eq!(begin(7, Some(&by_another), None), None);
        assert_eq!(begin(7, Some(&at_5), Some(&by_another)), None);
        let older = signed_by(FakeSigner::of(Hex([9; 32])), head(2));
        assert_eq!(begin(7, Some(&at_5), Some(&older)), Some(5), "older checkpoint of an unknown key");
        assert_eq!(begin(7, Some(&at_5), Some(&of_another_trail)), None);
    }

    #[test]
    fn only_a_signed_trail_start_discards_the_verified_state() {
        let verified =
            || VerifiedTrail { trail: TRAIL.to_owned(), head: head(3), signed: None, overdue: Vec::new() };
        let by = |signer: FakeSigner, count| {
            let through = signed_by(FakeSigner::default(), head(count));
            TrailStart::after(&through, &signer, Timestamp::UNIX_EPOCH).line().unwrap()
        };
        let is_retained = |line: Option<String>| {
            with_trusted(|trusted| verified().since(line.as_deref(), trusted)).is_some()
        };
        assert!(is_retained(None));
        assert!(is_retained(Some(by(FakeSigner::default(), 3))));
        assert!(!is_retained(Some(by(FakeSigner::default(), 4))));
        assert!(is_retained(Some(by(FakeSigner::of(Hex([9; 32])), 4))), "start signed by another key");
        assert!(
            is_retained(Some(signed_by(FakeSigner::default(), head(4)).line().unwrap())),
            "a checkpoint is no trail start"
        );
    }

    #[test]
    fn only_entries_that_follow_are_verified() {
        let verified = VerifiedTrail {
            trail: TRAIL.to_owned(),
            head: head(3),
            signed: Some(signed_by(FakeSigner::default(), head(2))),
            overdue: Vec::new(),
        };
        let follow = |trail: &str, checkpoints: Vec<StoredCheckpoint>, texts: &[(i64, &str)], end: Head| {
            with_trusted(|trusted| {
                let mut follower = verified.clone().following(trail, checkpoints, trusted)?;
                for (sequence, text) in texts {
                    follower.entry(*sequence, text)?;
                }
                follower.end(end)
            })
        };
        let both = [(4, "entry 3"), (5, "entry 4")];
        assert_eq!(follow(TRAIL, Vec::new(), &[], head(3)).unwrap(), verified);
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
    fn checkpoint_before_the_last_verified_entry_is_accepted() {
        let verified = VerifiedTrail {
            trail: TRAIL.to_owned(),
            head: head(4),
            signed: Some(signed_by(FakeSigner::default(), head(1))),
            overdue: Vec::new(),
        };
        let follow = |from: i64, texts: &[&str], end: Head| {
            let checkpoint = stored(&signed_by(FakeSigner::default(), head(3)));
            with_trusted(|trusted| {
                let mut follower = verified.clone().following(TRAIL, vec![checkpoint], trusted)?;
                assert_eq!(follower.last(), from, "entries after the last known checkpoint are read again");
                for (sequence, text) in (from + 1..).zip(texts) {
                    follower.entry(sequence, text)?;
                }
                follower.end(end)
            })
        };
        let grown = follow(1, &["entry 1", "entry 2", "entry 3", "entry 4"], head(5)).unwrap();
        assert_eq!((grown.head(), grown.last_checkpoint().sequence), (head(5), 3));
        // the signed entry is unchanged, the verified entry after it was changed
        let changed = head(3).then("changed");
        follow(1, &["entry 1", "entry 2", "changed"], changed).unwrap_err();
        follow(1, &["entry 1", "entry 2", "changed", "entry 4"], changed.then("entry 4")).unwrap_err();
        // the end was truncated
        follow(1, &["entry 1", "entry 2"], head(3)).unwrap_err();
    }

    #[test]
    fn overdue_entries_are_signed_at_each_interval() {
        let verified =
            VerifiedTrail { trail: TRAIL.to_owned(), head: Head::NONE, signed: None, overdue: Vec::new() };
        let count = 2 * Checkpoint::EVERY + 5;
        let grown = with_trusted(|trusted| {
            let mut follower = verified.following(TRAIL, Vec::new(), trusted)?;
            for sequence in 1..=count {
                follower.entry(sequence, &format!("entry {}", sequence - 1))?;
            }
            follower.end(head(count))
        })
        .unwrap();
        let overdue: Vec<_> = grown.overdue().iter().map(|head| head.sequence).collect();
        assert_eq!(overdue, [Checkpoint::EVERY, 2 * Checkpoint::EVERY]);
        let signed = signed_by(FakeSigner::default(), head(count));
        assert!(grown.grown(head(count), Some(signed)).overdue().is_empty());
    }
}
