//! A trail that others append to and sign while it is verified: whatever is read when, it is whole.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    audit::{
        ChainHash, Checkpoint, CheckpointSigner as _, CheckpointSink, Fault, Head, OperationId, Signatures,
        StoredCheckpoint, StoredEntry, StoredRow, TrailReader, Verdict, verify,
    },
    testing::fake::FakeSigner,
};
use proptest::{prelude::*, test_runner::Config};

use crate::copy::{Copy, EVERY};

/// A database and the file beside it, that go on by some transactions at each look, the file's lines one by one too.
#[derive(Clone)]
struct Live {
    history: Arc<Vec<Copy>>,
    now: Arc<AtomicUsize>,
    steps: Arc<Mutex<Vec<usize>>>,
}

impl Live {
    fn of(history: Vec<Copy>, from: usize, mut steps: Vec<usize>) -> Self {
        steps.reverse();
        Self { history: Arc::new(history), now: Arc::new(from.into()), steps: Arc::new(Mutex::new(steps)) }
    }

    /// What is there at this look.
    fn look(&self) -> &Copy {
        let step = self.steps.lock().unwrap().pop().unwrap_or_default();
        let now = self.now.fetch_add(step, Ordering::Relaxed) + step;
        &self.history[now.min(self.history.len() - 1)]
    }

    fn verdict(&self) -> Verdict {
        let signer = FakeSigner::default();
        let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
        block_on(verify(self, Some(self), signatures)).unwrap()
    }
}

#[async_trait]
impl TrailReader for Live {
    async fn head(&self) -> Result<(String, Head)> {
        self.look().head().await
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        self.look().entries(after, limit).await
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        self.look().intent(operation).await
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        self.look().rows(after, limit).await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        self.look().checkpoints(after, limit).await
    }

    async fn between(
        &self,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        Ok((None, None))
    }

    fn remembered(&self) -> Vec<Head> {
        let now = self.look();
        let signed = now.checkpoints.last().and_then(|stored| Checkpoint::parse(&stored.line));
        signed.map(|signed| signed.head()).into_iter().chain([now.head]).collect()
    }
}

impl CheckpointSink for Live {
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
        let (live, mut at) = (self.clone(), 0);
        Ok(Box::new(std::iter::from_fn(move || {
            let line = live.look().witness.get(at).cloned();
            at += 1;
            line.map(Ok)
        })))
    }

    fn last(&self) -> Result<Option<Checkpoint>> {
        Ok(self.look().witness.last().and_then(|line| Checkpoint::parse(line)))
    }

    fn keep(&self, _: &[String]) -> Result<()> {
        Ok(())
    }
}

/// The interleaving of the review: the database's checkpoints are read, then more are signed, then the file is read.
#[test]
fn a_checkpoint_signed_between_the_looks_at_the_database_and_at_the_file_is_not_removed() {
    let history = Copy::history();
    for from in 1..history.len() {
        for at in 0..8 {
            let mut steps = vec![0; at];
            steps.push(history.len());
            let verdict = Live::of(history.clone(), from, steps).verdict();
            assert_eq!(verdict.first_bad, None, "from {from}, all of it at look {at}");
        }
    }
}

#[test]
fn whatever_is_appended_and_signed_between_two_looks_the_trail_is_whole() {
    let history = Copy::history();
    let steps = prop::collection::vec(prop_oneof![3 => Just(0usize), 2 => 1..3usize, 1 => 3..30usize], 0..40);
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        cases: 500,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&(1..history.len(), steps), |(from, steps)| {
            let verdict = Live::of(history.clone(), from, steps).verdict();
            prop_assert_eq!(verdict.first_bad, None);
            Ok(())
        })
        .unwrap();
}

/// What this process remembers is compared, too: of a history that was written anew beside it, or cut.
#[test]
fn what_is_remembered_is_compared() {
    let history = Copy::history();
    let (before, after) = (&history[history.len() - 4], &history[history.len() - 1]);
    let found = |remembered: &Copy, there: &Copy| {
        // what is remembered is looked at first
        let verdict = Live::of(vec![remembered.clone(), there.clone()], 0, vec![0, 1]).verdict();
        verdict.first_bad.map(|bad| (bad.sequence, bad.fault))
    };
    assert_eq!(found(before, after), None);
    let mut another = before.clone();
    another.head.hash = ChainHash([9; 32]);
    assert_eq!(found(&another, after), Some((before.head.sequence, Fault::Rewritten)));
    assert_eq!(found(after, before), Some((before.head.sequence + 1, Fault::TailCut)));
}
