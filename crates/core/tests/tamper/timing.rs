//! Verification of a trail that grows and is signed meanwhile: it is valid, whatever the order of the reads.

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
        ChainHash, Checkpoint, CheckpointSigner as _, CheckpointSink, Fault, Head, Signatures,
        StoredCheckpoint, StoredEntry, StoredRow, TrailReader, Verdict, verify,
    },
    ids::OperationId,
    testing::fake::FakeSigner,
};
use proptest::{prelude::*, test_runner::Config};

use crate::copy::{EVERY, TrailCopy};

/// A database and its checkpoint file. Both advance by some transactions at each read, also between lines of the
/// file.
#[derive(Clone)]
struct GrowingTrail {
    history: Arc<Vec<TrailCopy>>,
    now: Arc<AtomicUsize>,
    steps: Arc<Mutex<Vec<usize>>>,
}

impl GrowingTrail {
    fn of(history: Vec<TrailCopy>, from: usize, mut steps: Vec<usize>) -> Self {
        steps.reverse();
        Self { history: Arc::new(history), now: Arc::new(from.into()), steps: Arc::new(Mutex::new(steps)) }
    }

    /// The state at this read.
    fn read_state(&self) -> &TrailCopy {
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
impl TrailReader for GrowingTrail {
    async fn head(&self) -> Result<(String, Head)> {
        self.read_state().head().await
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        self.read_state().entries(after, limit).await
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        self.read_state().intent(operation).await
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        self.read_state().rows(after, limit).await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        self.read_state().checkpoints(after, limit).await
    }

    async fn between(
        &self,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        Ok((None, None))
    }

    fn verified_heads(&self) -> Vec<Head> {
        let now = self.read_state();
        let signed = now.checkpoints.last().and_then(|stored| Checkpoint::parse(&stored.line));
        signed.map(|signed| signed.head()).into_iter().chain([now.head]).collect()
    }
}

impl CheckpointSink for GrowingTrail {
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
        let (live, mut at) = (self.clone(), 0);
        Ok(Box::new(std::iter::from_fn(move || {
            let line = live.read_state().sink_lines.get(at).cloned();
            at += 1;
            line.map(Ok)
        })))
    }

    fn last(&self) -> Result<Option<Checkpoint>> {
        Ok(self.read_state().sink_lines.last().and_then(|line| Checkpoint::parse(line)))
    }

    fn store(&self, _: &[String]) -> Result<()> {
        Ok(())
    }
}

/// Regression test: the checkpoints in the database are read, further checkpoints are signed, then the file is read.
#[test]
fn checkpoint_signed_between_two_reads_is_not_reported_as_removed() {
    let history = TrailCopy::history();
    for from in 1..history.len() {
        for at in 0..8 {
            let mut steps = vec![0; at];
            steps.push(history.len());
            let verdict = GrowingTrail::of(history.clone(), from, steps).verdict();
            assert_eq!(verdict.first_bad, None, "from {from}, all of it at read {at}");
        }
    }
}

#[test]
fn trail_that_grows_between_reads_is_valid() {
    let history = TrailCopy::history();
    let steps = prop::collection::vec(prop_oneof![3 => Just(0usize), 2 => 1..3usize, 1 => 3..30usize], 0..40);
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        cases: 500,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&(1..history.len(), steps), |(from, steps)| {
            let verdict = GrowingTrail::of(history.clone(), from, steps).verdict();
            prop_assert_eq!(verdict.first_bad, None);
            Ok(())
        })
        .unwrap();
}

/// The trail is compared with the heads that the process has verified, which detects a rewritten or truncated history.
#[test]
fn trail_is_compared_with_heads_verified_before() {
    let history = TrailCopy::history();
    let (before, after) = (&history[history.len() - 4], &history[history.len() - 1]);
    let found = |verified: &TrailCopy, current: &TrailCopy| {
        // the verified heads are read first
        let verdict = GrowingTrail::of(vec![verified.clone(), current.clone()], 0, vec![0, 1]).verdict();
        verdict.first_bad.map(|bad| (bad.sequence, bad.fault))
    };
    assert_eq!(found(before, after), None);
    let mut another = before.clone();
    another.head.hash = ChainHash([9; 32]);
    assert_eq!(found(&another, after), Some((before.head.sequence, Fault::Rewritten)));
    assert_eq!(found(after, before), Some((before.head.sequence + 1, Fault::TailCut)));
}
