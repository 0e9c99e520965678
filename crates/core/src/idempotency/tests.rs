//! Tests of idempotent requests under failures and concurrency.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
    mpsc,
};

use futures_channel::oneshot;
use futures_executor::block_on;
use futures_util::future::{BoxFuture, join_all};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    ids::{ServiceAccountId, UserId},
    spawn::Computation,
    testing::fake::{Fake, FakeRuntime, MemoryStore, ThreadSpawner},
};

/// Work that counts its executions.
#[derive(Clone, Default)]
struct Work(Arc<AtomicU32>);

impl Work {
    async fn returns<T>(self, result: Result<T>) -> Result<T> {
        self.0.fetch_add(1, Ordering::SeqCst);
        result
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Spawner whose sleeps take a tenth of the time, so that [`WAIT_TIMEOUT`] is not exceeded on a slow machine.
struct FastSleepSpawner(ThreadSpawner);

#[async_trait]
impl Spawner for FastSleepSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        let (sender, receiver) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            std::thread::sleep(duration / 10);
            drop(sender);
        });
        let _ = receiver.await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        self.0.compute(work).await
    }
}

struct Fixture {
    idempotency: Idempotency,
    runtime: FakeRuntime,
    store: Arc<MemoryStore>,
}

impl Fixture {
    fn new() -> Self {
        let Fake { runtime, store, .. } = Fake::default();
        let idempotency = Idempotency {
            spawner: Arc::new(FastSleepSpawner(ThreadSpawner)),
            ..idempotency_over(store.clone(), &runtime)
        };
        Self { idempotency, runtime, store }
    }

    async fn call(
        &self,
        key: &str,
        work: impl Future<Output = Result<u32>> + Send + 'static,
    ) -> Result<Execution<u32>> {
        self.idempotency
            .execute(&caller(), IdempotencyKey::new(key).unwrap(), digest(1), work, reply_to)
            .await
    }
}

fn idempotency_over(store: Arc<dyn IdempotencyStore>, runtime: &FakeRuntime) -> Idempotency {
    let FakeRuntime { clock, rng, spawner } = runtime.clone();
    Idempotency { store, clock, rng, spawner }
}

fn caller() -> Caller {
    let mut caller = Caller { user_id: Some(UserId(7)), ..Caller::system() };
    caller.origin.request_id = Some("request-1".to_owned());
    caller
}

fn digest(replicas: u32) -> RequestDigest {
    RequestDigest::of("POST /scale", "ops_admin", None, json!({"replicas": replicas}))
}

/// Response to a result: the number, or the cause.
fn reply_to(result: &Result<u32>) -> Option<Reply> {
    Some(match result {
        Ok(number) => Reply { status: 200, body: number.to_string().into() },
        Err(error) => Reply { status: 503, body: error.cause.as_str().into() },
    })
}

fn replayed(status: u16, body: &str) -> Result<Execution<u32>> {
    Ok(Execution::Replayed(Reply { status, body: body.into() }))
}

#[test]
fn success_is_replayed_and_not_executed_again() {
    let (fixture, work) = (Fixture::new(), Work::default());
    assert_eq!(block_on(fixture.call("key", work.clone().returns(Ok(5)))), Ok(Execution::Executed(5)));
    assert_eq!(block_on(fixture.call("key", work.clone().returns(Ok(6)))), replayed(200, "5"));
    assert_eq!(block_on(fixture.call("other", work.clone().returns(Ok(6)))), Ok(Execution::Executed(6)));
    assert_eq!(work.count(), 2);
    fixture.runtime.clock.advance(RETENTION);
    assert_eq!(block_on(fixture.call("key", work.returns(Ok(7)))), Ok(Execution::Executed(7)), "a day later");
}

#[test]
fn refusal_can_be_retried_and_unknown_outcome_is_replayed() {
    let unknown = [
        Cause::UnexpectedAnswer,
        Cause::FailingCluster,
        Cause::ConnectionLost,
        Cause::DeadlineExceeded,
        Cause::Internal,
    ];
    for &cause in Cause::ALL {
        let (fixture, work) = (Fixture::new(), Work::default());
        let error = Error::new(cause);
        assert_eq!(block_on(fixture.call("key", work.clone().returns(Err(error.clone())))), Err(error));
        let second = block_on(fixture.call("key", work.clone().returns(Ok(5))));
        if unknown.contains(&cause) {
            assert_eq!((second, work.count()), (replayed(503, cause.as_str()), 1), "{cause:?}");
        } else {
            assert_eq!((second, work.count()), (Ok(Execution::Executed(5)), 2), "{cause:?}");
        }
    }
}

#[test]
fn other_request_with_same_key_is_a_conflict_naming_the_first() {
    let (fixture, work) = (Fixture::new(), Work::default());
    block_on(fixture.call("key", work.clone().returns(Ok(5)))).unwrap();
    let key = IdempotencyKey::new("key").unwrap();
    let caller = caller();
    let other =
        fixture.idempotency.execute(&caller, key.clone(), digest(2), work.clone().returns(Ok(6)), reply_to);
    let error = block_on(other).unwrap_err();
    assert_eq!(
        (error.cause, error.context.name.as_deref()),
        (Cause::IdempotencyKeyReused, Some("request-1"))
    );
    let bob = Caller { user_id: Some(UserId(8)), ..caller };
    let other =
        fixture.idempotency.execute(&bob, key.clone(), digest(2), work.clone().returns(Ok(6)), reply_to);
    assert_eq!(block_on(other), Ok(Execution::Executed(6)), "keys are per user");
    let bot = Caller { user_id: None, service_account: Some(ServiceAccountId(8)), ..bob };
    let other = fixture.idempotency.execute(&bot, key, digest(2), work.clone().returns(Ok(7)), reply_to);
    assert_eq!(block_on(other), Ok(Execution::Executed(7)), "a service account has keys of its own");
    assert_eq!(work.count(), 3);
}

#[test]
fn claim_of_an_ended_process_has_unknown_outcome() {
    let (fixture, work) = (Fixture::new(), Work::default());
    let never_ends = std::future::pending::<Result<u32>>();
    let mut first = Box::pin(fixture.call("key", never_ends));
    assert!(block_on(async { futures_util::poll!(&mut first) }).is_pending());
    drop(first);
    while fixture.store.claims() == 0 {
        std::thread::yield_now();
    }
    fixture.store.lose_replies();
    let error = block_on(fixture.call("key", work.clone().returns(Ok(5)))).unwrap_err();
    assert_eq!(error.cause, Cause::IdempotencyOutcomeUnknown);
    assert_eq!((error.context.name.as_deref(), work.count()), (Some("request-1"), 0));
}

#[test]
fn disconnected_caller_receives_its_reply_on_retry() {
    let (fixture, work) = (Fixture::new(), Work::default());
    let (release, released) = oneshot::channel::<()>();
    let (start_sender, start_signal) = mpsc::channel();
    let mut first = Box::pin(fixture.call("key", async move {
        start_sender.send(()).expect("receiver is alive");
        released.await.expect("work is released");
        Ok(5)
    }));
    assert!(block_on(async { futures_util::poll!(&mut first) }).is_pending());
    start_signal.recv().expect("work started");
    drop(first);
    let second = std::thread::scope(|threads| {
        let waiting = threads.spawn(|| block_on(fixture.call("key", work.clone().returns(Ok(6)))));
        release.send(()).expect("work is waiting");
        waiting.join().unwrap()
    });
    assert_eq!((second, work.count()), (replayed(200, "5"), 0));
}

#[test]
fn repeated_request_stops_waiting_after_the_timeout() {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().returning(|claim| {
        let (request, request_id) = (claim.request, claim.request_id.clone());
        Ok(Claim::Taken(Earlier { request, request_id, progress: Progress::Running }))
    });
    let mut spawner = crate::spawn::MockSpawner::new();
    let total_sleep = Arc::new(Mutex::new(Duration::ZERO));
    let sum = total_sleep.clone();
    spawner.expect_sleep().returning(move |pause| *sum.lock().unwrap() += pause);
    spawner.expect_spawn().returning(|task| {
        std::thread::spawn(|| block_on(task));
    });
    let idempotency = Idempotency {
        spawner: Arc::new(spawner),
        ..idempotency_over(Arc::new(store), &FakeRuntime::default())
    };
    let key = IdempotencyKey::new("key").unwrap();
    let work = Work::default();
    let error =
        block_on(idempotency.execute(&caller(), key, digest(1), work.clone().returns(Ok(5)), reply_to))
            .unwrap_err();
    assert_eq!((error.cause, work.count()), (Cause::IdempotencyInProgress, 0));
    let total_sleep = *total_sleep.lock().unwrap();
    assert!((WAIT_TIMEOUT..WAIT_TIMEOUT + POLL_INTERVALS.1).contains(&total_sleep), "{total_sleep:?}");
}

#[test]
fn work_does_not_run_without_a_durable_claim() {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().once().returning(|_| Err(Error::new(Cause::StoreUnavailable)));
    let idempotency = idempotency_over(Arc::new(store), &FakeRuntime::default());
    let (key, work) = (IdempotencyKey::new("key").unwrap(), Work::default());
    let error =
        block_on(idempotency.execute(&caller(), key, digest(1), work.clone().returns(Ok(5)), reply_to))
            .unwrap_err();
    assert_eq!((error.cause, work.count()), (Cause::StoreUnavailable, 0));
}

#[test]
fn reply_that_cannot_be_stored_is_returned_and_stored_later() {
    let (broken, (sender, receiver)) = (AtomicBool::new(true), mpsc::channel());
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().returning(|_| Ok(Claim::Made { live: 1 }));
    store.expect_end().times(2).returning(move |_, end| {
        if broken.swap(false, Ordering::SeqCst) {
            return Err(Error::new(Cause::StoreUnavailable));
        }
        sender.send(end.clone()).expect("receiver is alive");
        Ok(())
    });
    let idempotency = idempotency_over(Arc::new(store), &FakeRuntime::default());
    let key = IdempotencyKey::new("key").unwrap();
    let result =
        block_on(idempotency.execute(&caller(), key, digest(1), Work::default().returns(Ok(5)), reply_to));
    assert_eq!(result, Ok(Execution::Executed(5)));
    assert_eq!(receiver.recv().unwrap(), end_with_reply(reply_to(&Ok(5))));
}

/// Result and end of a claim for this work and reply.
fn end_of(
    live: u64,
    work: impl Future<Output = Result<u32>> + Send + 'static,
    reply: fn(&Result<u32>) -> Option<Reply>,
) -> (Result<Execution<u32>>, End) {
    let (sender, receiver) = mpsc::channel();
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().once().returning(move |_| Ok(Claim::Made { live }));
    store.expect_end().once().returning(move |_, end| {
        sender.send(end.clone()).expect("receiver is alive");
        Ok(())
    });
    let idempotency = idempotency_over(Arc::new(store), &FakeRuntime::default());
    let key = IdempotencyKey::new("key").unwrap();
    (block_on(idempotency.execute(&caller(), key, digest(1), work, reply)), receiver.recv().unwrap())
}

#[test]
fn panic_ends_with_unknown_outcome() {
    let (result, end) = end_of(1, async { panic!("a defect") }, reply_to);
    assert_eq!((result.unwrap_err().cause, end), (Cause::Internal, End::Unknown));
}

#[test]
fn reply_too_large_to_store_ends_with_unknown_outcome() {
    let reply = |_: &_| Some(Reply { status: 200, body: vec![b'x'; MAX_REPLY_BYTES + 1] });
    assert_eq!(end_of(1, Work::default().returns(Ok(5)), reply), (Ok(Execution::Executed(5)), End::Unknown));
}

#[test]
fn number_of_keys_per_user_is_limited() {
    let work = Work::default();
    let (result, end) = end_of(MAX_KEYS, work.clone().returns(Ok(5)), reply_to);
    assert_eq!((result, end), (Ok(Execution::Executed(5)), end_with_reply(reply_to(&Ok(5)))));
    let (result, end) = end_of(MAX_KEYS + 1, work.clone().returns(Ok(5)), reply_to);
    assert_eq!((result.unwrap_err().cause, end), (Cause::TooManyIdempotencyKeys, End::NotDone));
    assert_eq!(work.count(), 1);
}

#[test]
fn keys_are_visible_ascii_of_limited_length() {
    let longest = "k".repeat(IdempotencyKey::MAX_LENGTH);
    for good in ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", "\"quoted\"", "!~", &longest] {
        assert_eq!(IdempotencyKey::new(good).unwrap().as_str(), good);
    }
    let too_long = format!("{longest}k");
    for (bad, reason) in [
        ("", Reason::Required),
        (too_long.as_str(), Reason::TooLong),
        ("a b", Reason::Malformed),
        ("a\tb", Reason::Malformed),
        ("ключ", Reason::Malformed),
        ("a\u{7f}", Reason::Malformed),
    ] {
        assert_eq!(IdempotencyKey::new(bad), Err(reason), "{bad:?}");
    }
}

#[test]
fn request_digest_ignores_formatting_and_covers_content() {
    let body = |text: &str| serde_json::from_str(text).unwrap();
    let with = |token, text| RequestDigest::of("POST /a", "ops_admin", token, body(text));
    let of = |route, right, text| RequestDigest::of(route, right, None, body(text));
    let first = of("POST /a", "ops_admin", r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#);
    assert_eq!(first, of("POST /a", "ops_admin", r#" { "b": "\u0063", "a": {"y": [1, 2], "x": 1} } "#));
    for other in [
        of("POST /b", "ops_admin", r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#),
        of("POST /a", "super_admin", r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#),
        of("POST /a", "ops_admin", r#"{"a":{"x":1,"y":[2,1]},"b":"c"}"#),
        of("POST /a", "ops_admin", r#"{"a":{"x":1,"y":[1,2]},"b":null}"#),
        of("POST /a", "ops_admin", r#"{"a":{"x":1,"y":[1,2]}}"#),
        with(Some(TokenId(1)), r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#),
    ] {
        assert_ne!(first, other);
    }
    assert_eq!(format!("{first:?}"), "RequestDigest(…)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Concurrent requests with a few keys, some of which are refused: the work of each key is executed at most once,
    /// not counting refused attempts, and all other requests with that key receive the same reply.
    #[test]
    fn one_of_concurrent_requests_with_a_key_executes(
        keys in proptest::collection::vec(0..3_usize, 1..12),
        refusals in 0..4_u32,
    ) {
        let fixture = Fixture::new();
        let work_by_key: [Work; 3] = Default::default();
        let refuse = Arc::new(AtomicU32::new(refusals));
        let calls = keys.iter().map(|&key| {
            let (work, refuse) = (work_by_key[key].clone(), refuse.clone());
            fixture.call(["a", "b", "c"][key], async move {
                let refused = refuse.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if refused.is_ok() { Err(Error::new(Cause::NotFoundInCluster)) } else { work.returns(Ok(5)).await }
            })
        });
        let results = block_on(join_all(calls));
        for result in &results {
            match result {
                Ok(Execution::Executed(5)) => {}
                Ok(Execution::Replayed(reply)) => prop_assert_eq!(Some(reply.clone()), reply_to(&Ok(5))),
                Err(error) => prop_assert_eq!(error.cause, Cause::NotFoundInCluster),
                Ok(other) => prop_assert!(false, "{:?}", other),
            }
        }
        for (key, work) in work_by_key.iter().enumerate() {
            let results_of_key = || results.iter().zip(&keys).filter(|(_, of)| **of == key).map(|(result, _)| result);
            let executed = results_of_key().filter(|result| matches!(result, Ok(Execution::Executed(_)))).count();
            let any_ok = results_of_key().any(std::result::Result::is_ok);
            prop_assert_eq!((work.count(), executed), (u32::from(any_ok), usize::from(any_ok)));
        }
    }
}
