//! Delivery rules over the in-memory trail: no database, no network.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures_util::FutureExt as _;
use pilothouse_core::{
    Cause, Error,
    access::{AccessRequest, Caller, Resource, Verb},
    audit::Cursor,
    coordinator::{LEASE, MockCoordinator},
    operation::{AuditWriter as _, Outcome},
    rng::MockRng,
    testing::{
        fake::{Fake, MemoryCoordinator},
        permit,
    },
};

use super::*;

/// A receiver that stores what it accepts.
#[derive(Default)]
struct MemoryReceiver {
    batches: Mutex<Vec<String>>,
    refusing: AtomicBool,
}

#[async_trait]
impl Receiver for MemoryReceiver {
    async fn send(&self, lines: Bytes) -> Result<(), DeliveryError> {
        if self.refusing.load(Ordering::SeqCst) {
            return Err(DeliveryError::Refused(StatusCode::SERVICE_UNAVAILABLE));
        }
        self.batches.lock().unwrap().push(String::from_utf8(lines.into()).unwrap());
        Ok(())
    }
}

impl MemoryReceiver {
    /// The sequence numbers of the entries of each batch since the previous call.
    fn received(&self) -> Vec<Vec<i64>> {
        let batches = std::mem::take(&mut *self.batches.lock().unwrap());
        batches.iter().map(|lines| lines.lines().filter_map(sequence).collect()).collect()
    }
}

/// The sequence number of an entry; `None` for a checkpoint.
fn sequence(line: &str) -> Option<i64> {
    let (number, _) = line.strip_prefix("{\"sequence\":")?.split_once(',')?;
    number.parse().ok()
}

#[derive(Default)]
struct Fixture {
    fake: Fake,
    receiver: Arc<MemoryReceiver>,
}

impl Fixture {
    fn with_entries(count: usize) -> Self {
        let fixture = Self::default();
        fixture.append(count);
        fixture
    }

    fn append(&self, count: usize) {
        for _ in 0..count {
            let access = AccessRequest::to(Verb::Login, Resource::Session);
            let operation = permit(&Caller::system(), access).operation().unwrap().clone();
            let outcome = Outcome::success(operation.created_at);
            self.fake.store.record(&operation, &outcome).now_or_never().unwrap().unwrap();
        }
    }

    /// The delivery task of a new replica.
    fn webhook(&self) -> Webhook {
        self.webhook_over(Arc::new(MemoryCoordinator::of(self.fake.store.clone())))
    }

    fn webhook_over(&self, coordinator: Arc<dyn Coordinator>) -> Webhook {
        Webhook {
            receiver: self.receiver.clone(),
            coordinator,
            trail: self.fake.store.clone(),
            clock: self.fake.runtime.clock.clone(),
            rng: self.fake.runtime.rng.clone(),
            failures: IntCounter::new("failures", "Failures.").unwrap(),
        }
    }
}

/// Makes attempts until nothing is left to deliver.
async fn deliver_all(webhook: &Webhook) {
    while webhook.step(&mut 0).await == Duration::ZERO {}
}

async fn cursor(webhook: &Webhook) -> Cursor {
    webhook.coordinator.cursor(RECEIVER).await.unwrap()
}

#[tokio::test]
async fn cursor_is_saved_only_after_the_receiver_accepts() {
    let fixture = Fixture::with_entries(3);
    let webhook = fixture.webhook();
    let mut failed = 0;
    fixture.receiver.refusing.store(true, Ordering::SeqCst);
    for failures in 1..=3_u32 {
        let pause = webhook.step(&mut failed).await;
        assert!(pause >= INITIAL_BACKOFF / 2, "{pause:?}");
        assert_eq!((failed, webhook.failures.get()), (failures, u64::from(failures)));
        assert_eq!(cursor(&webhook).await, Cursor::default());
    }
    fixture.receiver.refusing.store(false, Ordering::SeqCst);
    assert_eq!(webhook.step(&mut failed).await, Duration::ZERO, "more entries may follow");
    assert_eq!(failed, 0);
    assert_eq!(fixture.receiver.received(), [[1, 2, 3]]);
    assert_eq!(cursor(&webhook).await.sequence, 3);
    assert_eq!(webhook.step(&mut failed).await, POLL_INTERVAL);
    assert!(fixture.receiver.received().is_empty(), "nothing is delivered twice");
}

#[tokio::test]
async fn entries_arrive_in_order_in_bounded_batches() {
    let fixture = Fixture::with_entries(450);
    let webhook = fixture.webhook();
    deliver_all(&webhook).await;
    fixture.append(5);
    deliver_all(&webhook).await;
    let batches = fixture.receiver.received();
    assert!(batches.iter().all(|batch| batch.len() <= 200), "{batches:?}");
    assert!(batches.concat().into_iter().eq(1..=455));
}

#[tokio::test]
async fn another_replica_continues_at_the_cursor_after_the_lease_expires() {
    let fixture = Fixture::with_entries(3);
    let (one, two) = (fixture.webhook(), fixture.webhook());
    one.coordinator.take_lease(fixture.fake.runtime.clock.now()).await.unwrap();
    deliver_all(&one).await;
    fixture.append(2);
    assert_eq!(two.step(&mut 0).await, POLL_INTERVAL);
    assert_eq!(fixture.receiver.received(), [[1, 2, 3]]);
    fixture.fake.runtime.clock.advance(LEASE);
    deliver_all(&two).await;
    assert_eq!(fixture.receiver.received(), [[4, 5]]);
}

#[tokio::test]
async fn replica_that_lost_its_claim_pauses() {
    let fixture = Fixture::with_entries(3);
    let mut coordinator = MockCoordinator::new();
    coordinator.expect_claim_delivery().returning(|_, _| Ok(Some(Cursor::default())));
    coordinator.expect_save_cursor().once().returning(|_, _| Ok(false));
    let webhook = fixture.webhook_over(Arc::new(coordinator));
    assert_eq!(webhook.step(&mut 0).await, POLL_INTERVAL);
    assert_eq!(webhook.failures.get(), 0);
}

#[tokio::test]
async fn no_entry_is_delivered_without_the_claim() {
    let fixture = Fixture::with_entries(3);
    let mut coordinator = MockCoordinator::new();
    coordinator.expect_claim_delivery().returning(|_, _| Err(Error::new(Cause::StoreUnavailable)));
    let webhook = fixture.webhook_over(Arc::new(coordinator));
    webhook.step(&mut 0).await;
    assert_eq!(webhook.failures.get(), 1);
    assert!(fixture.receiver.received().is_empty());
}

#[test]
fn backoff_doubles_up_to_its_bound_with_jitter_in_the_upper_half() {
    let seconds = Duration::from_secs;
    for (random, fraction) in [(0, 2), (255, 1)] {
        let mut rng = MockRng::new();
        rng.expect_fill().returning(move |buffer| buffer.fill(random));
        let webhook = Webhook { rng: Arc::new(rng), ..Fixture::default().webhook() };
        let backoffs: Vec<_> = (1..=8).map(|failed| webhook.backoff(failed)).collect();
        assert_eq!(backoffs, [1, 2, 4, 8, 16, 32, 60, 60].map(|max| seconds(max) / fraction));
        assert_eq!(webhook.backoff(u32::MAX), seconds(60) / fraction);
    }
}
