//! Once, whatever happens between.

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
    clock::Computation,
    testing::fake::{Fake, FakeRuntime, MemoryStore, ThreadSpawner},
};

/// Work that counts how often it was done.
#[derive(Clone, Default)]
struct Work(Arc<AtomicU32>);

impl Work {
    async fn ends<T>(self, result: Result<T>) -> Result<T> {
        self.0.fetch_add(1, Ordering::SeqCst);
        result
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Tasks on threads, whose pauses are a tenth as long: a busy machine does not use up all patience.
struct Hurried(ThreadSpawner);

#[async_trait]
impl Spawner for Hurried {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        let (wake, woken) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            std::thread::sleep(duration / 10);
            drop(wake);
        });
        let _ = woken.await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        self.0.compute(work).await
    }
}

struct Desk {
    idempotency: Idempotency,
    runtime: FakeRuntime,
    store: Arc<MemoryStore>,
}

impl Desk {
    fn new() -> Self {
        let Fake { runtime, store, .. } = Fake::default();
        let idempotency =
            Idempotency { spawner: Arc::new(Hurried(ThreadSpawner)), ..over(store.clone(), &runtime) };
        Self { idempotency, runtime, store }
    }

    async fn call(
        &self,
        key: &str,
        work: impl Future<Output = Result<u32>> + Send + 'static,
    ) -> Result<Execution<u32>> {
        self.idempotency.execute(&ann(), IdempotencyKey::new(key).unwrap(), digest(1), work, written).await
    }
}

fn over(store: Arc<dyn IdempotencyStore>, runtime: &FakeRuntime) -> Idempotency {
    let FakeRuntime { clock, rng, spawner } = runtime.clone();
    Idempotency { store, clock, rng, spawner }
}

fn ann() -> Caller {
    let mut ann = Caller { user_id: Some(UserId(7)), ..Caller::system() };
    ann.origin.request_id = Some("request-1".to_owned());
    ann
}

fn digest(replicas: u32) -> RequestDigest {
    RequestDigest::of("POST /scale", Some(Role::OpsAdmin), json!({"replicas": replicas}))
}

/// What is answered: the number, or the cause.
fn written(result: &Result<u32>) -> Option<Reply> {
    Some(match result {
        Ok(number) => Reply { status: 200, body: number.to_string().into() },
        Err(error) => Reply { status: 503, body: error.cause.as_str().into() },
    })
}

fn repeated(status: u16, body: &str) -> Result<Execution<u32>> {
    Ok(Execution::Replayed(Reply { status, body: body.into() }))
}

#[test]
fn a_success_is_repeated_not_done_again() {
    let (desk, work) = (Desk::new(), Work::default());
    assert_eq!(block_on(desk.call("key", work.clone().ends(Ok(5)))), Ok(Execution::Executed(5)));
    assert_eq!(block_on(desk.call("key", work.clone().ends(Ok(6)))), repeated(200, "5"));
    assert_eq!(block_on(desk.call("other", work.clone().ends(Ok(6)))), Ok(Execution::Executed(6)));
    assert_eq!(work.count(), 2);
    desk.runtime.clock.advance(RETENTION);
    assert_eq!(block_on(desk.call("key", work.ends(Ok(7)))), Ok(Execution::Executed(7)), "a day later");
}

#[test]
fn what_was_refused_may_be_tried_again_and_what_leaves_doubt_may_not() {
    for &cause in Cause::ALL {
        let (desk, work) = (Desk::new(), Work::default());
        let error = Error::new(cause);
        assert_eq!(block_on(desk.call("key", work.clone().ends(Err(error.clone())))), Err(error));
        let again = block_on(desk.call("key", work.clone().ends(Ok(5))));
        if cause.outcome_unknown() {
            assert_eq!((again, work.count()), (repeated(503, cause.as_str()), 1), "{cause:?}");
        } else {
            assert_eq!((again, work.count()), (Ok(Execution::Executed(5)), 2), "{cause:?}");
        }
    }
}

#[test]
fn another_request_under_the_key_is_a_conflict_that_names_the_first() {
    let (desk, work) = (Desk::new(), Work::default());
    block_on(desk.call("key", work.clone().ends(Ok(5)))).unwrap();
    let key = IdempotencyKey::new("key").unwrap();
    let ann = ann();
    let other = desk.idempotency.execute(&ann, key.clone(), digest(2), work.clone().ends(Ok(6)), written);
    let error = block_on(other).unwrap_err();
    assert_eq!(
        (error.cause, error.context.name.as_deref()),
        (Cause::IdempotencyKeyReused, Some("request-1"))
    );
    let bob = Caller { user_id: Some(UserId(8)), ..ann };
    let other = desk.idempotency.execute(&bob, key, digest(2), work.clone().ends(Ok(6)), written);
    assert_eq!(block_on(other), Ok(Execution::Executed(6)), "each user has keys of their own");
    assert_eq!(work.count(), 2);
}

#[test]
fn an_answer_lost_with_its_process_is_never_made_up_for() {
    let (desk, work) = (Desk::new(), Work::default());
    let hangs = std::future::pending::<Result<u32>>();
    let mut first = Box::pin(desk.call("key", hangs));
    assert!(block_on(async { futures_util::poll!(&mut first) }).is_pending());
    drop(first);
    while desk.store.claims() == 0 {
        std::thread::yield_now();
    }
    desk.store.lose_answers();
    let error = block_on(desk.call("key", work.clone().ends(Ok(5)))).unwrap_err();
    assert_eq!(error.cause, Cause::IdempotencyOutcomeUnknown);
    assert_eq!((error.context.name.as_deref(), work.count()), (Some("request-1"), 0));
}

#[test]
fn a_caller_that_hangs_up_finds_its_answer() {
    let (desk, work) = (Desk::new(), Work::default());
    let (release, released) = oneshot::channel::<()>();
    let (started, starts) = mpsc::channel();
    let mut first = Box::pin(desk.call("key", async move {
        started.send(()).expect("the test listens");
        released.await.expect("released");
        Ok(5)
    }));
    assert!(block_on(async { futures_util::poll!(&mut first) }).is_pending());
    starts.recv().expect("the work runs");
    drop(first);
    let again = std::thread::scope(|threads| {
        let waits = threads.spawn(|| block_on(desk.call("key", work.clone().ends(Ok(6)))));
        release.send(()).expect("the work still waits");
        waits.join().unwrap()
    });
    assert_eq!((again, work.count()), (repeated(200, "5"), 0));
}

#[test]
fn a_repetition_does_not_wait_for_ever() {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().returning(|claim| {
        let (request, request_id) = (claim.request, claim.request_id.clone());
        Ok(Claim::Taken(Earlier { request, request_id, progress: Progress::Running }))
    });
    let mut spawner = crate::clock::MockSpawner::new();
    let slept = Arc::new(Mutex::new(Duration::ZERO));
    let sum = slept.clone();
    spawner.expect_sleep().returning(move |pause| *sum.lock().unwrap() += pause);
    spawner.expect_spawn().returning(|task| {
        std::thread::spawn(|| block_on(task));
    });
    let idempotency =
        Idempotency { spawner: Arc::new(spawner), ..over(Arc::new(store), &FakeRuntime::default()) };
    let key = IdempotencyKey::new("key").unwrap();
    let work = Work::default();
    let error =
        block_on(idempotency.execute(&ann(), key, digest(1), work.clone().ends(Ok(5)), written)).unwrap_err();
    assert_eq!((error.cause, work.count()), (Cause::IdempotencyInProgress, 0));
    let slept = *slept.lock().unwrap();
    assert!((WAIT_TIMEOUT..WAIT_TIMEOUT + PAUSES.1).contains(&slept), "{slept:?}");
}

#[test]
fn without_a_durable_claim_nothing_is_done() {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().once().returning(|_| Err(Error::new(Cause::StoreUnavailable)));
    let idempotency = over(Arc::new(store), &FakeRuntime::default());
    let (key, work) = (IdempotencyKey::new("key").unwrap(), Work::default());
    let error =
        block_on(idempotency.execute(&ann(), key, digest(1), work.clone().ends(Ok(5)), written)).unwrap_err();
    assert_eq!((error.cause, work.count()), (Cause::StoreUnavailable, 0));
}

#[test]
fn an_answer_that_cannot_be_kept_at_once_is_given_and_kept_later() {
    let (broken, (tell, told)) = (AtomicBool::new(true), mpsc::channel());
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().returning(|_| Ok(Claim::Made { live: 1 }));
    store.expect_end().times(2).returning(move |_, end| {
        if broken.swap(false, Ordering::SeqCst) {
            return Err(Error::new(Cause::StoreUnavailable));
        }
        tell.send(end.clone()).expect("the test listens");
        Ok(())
    });
    let idempotency = over(Arc::new(store), &FakeRuntime::default());
    let key = IdempotencyKey::new("key").unwrap();
    let done = block_on(idempotency.execute(&ann(), key, digest(1), Work::default().ends(Ok(5)), written));
    assert_eq!(done, Ok(Execution::Executed(5)));
    assert_eq!(told.recv().unwrap(), kept(written(&Ok(5))));
}

/// How a claim ends when `work` and `reply` go so.
fn end_of(
    live: u64,
    work: impl Future<Output = Result<u32>> + Send + 'static,
    reply: fn(&Result<u32>) -> Option<Reply>,
) -> (Result<Execution<u32>>, End) {
    let (tell, told) = mpsc::channel();
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().once().returning(move |_| Ok(Claim::Made { live }));
    store.expect_end().once().returning(move |_, end| {
        tell.send(end.clone()).expect("the test listens");
        Ok(())
    });
    let idempotency = over(Arc::new(store), &FakeRuntime::default());
    let key = IdempotencyKey::new("key").unwrap();
    (block_on(idempotency.execute(&ann(), key, digest(1), work, reply)), told.recv().unwrap())
}

#[test]
fn a_panic_leaves_doubt() {
    let (result, end) = end_of(1, async { panic!("a defect") }, written);
    assert_eq!((result.unwrap_err().cause, end), (Cause::Internal, End::Unknown));
}

#[test]
fn an_answer_too_large_to_keep_is_unknown_later() {
    let reply = |_: &_| Some(Reply { status: 200, body: vec![b'x'; LARGEST + 1] });
    assert_eq!(end_of(1, Work::default().ends(Ok(5)), reply), (Ok(Execution::Executed(5)), End::Unknown));
}

#[test]
fn a_user_has_so_many_keys_and_no_more() {
    let work = Work::default();
    let (result, end) = end_of(MOST, work.clone().ends(Ok(5)), written);
    assert_eq!((result, end), (Ok(Execution::Executed(5)), kept(written(&Ok(5)))));
    let (result, end) = end_of(MOST + 1, work.clone().ends(Ok(5)), written);
    assert_eq!((result.unwrap_err().cause, end), (Cause::TooManyIdempotencyKeys, End::NotDone));
    assert_eq!(work.count(), 1);
}

#[test]
fn keys_by_table() {
    let longest = "k".repeat(IdempotencyKey::LONGEST);
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
fn a_request_is_known_again_by_what_it_says() {
    let body = |text: &str| serde_json::from_str(text).unwrap();
    let of = |route, role, text| RequestDigest::of(route, Some(role), body(text));
    let first = of("POST /a", Role::OpsAdmin, r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#);
    assert_eq!(first, of("POST /a", Role::OpsAdmin, r#" { "b": "\u0063", "a": {"y": [1, 2], "x": 1} } "#));
    for other in [
        of("POST /b", Role::OpsAdmin, r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#),
        of("POST /a", Role::SuperAdmin, r#"{"a":{"x":1,"y":[1,2]},"b":"c"}"#),
        of("POST /a", Role::OpsAdmin, r#"{"a":{"x":1,"y":[2,1]},"b":"c"}"#),
        of("POST /a", Role::OpsAdmin, r#"{"a":{"x":1,"y":[1,2]},"b":null}"#),
        of("POST /a", Role::OpsAdmin, r#"{"a":{"x":1,"y":[1,2]}}"#),
    ] {
        assert_ne!(first, other);
    }
    assert_eq!(format!("{first:?}"), "RequestDigest(…)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Calls at once under a few keys, some of which are refused: each key's work is done once for each time that it
    /// is not refused, at most, and all get the one answer.
    #[test]
    fn of_many_at_once_one_is_done(keys in proptest::collection::vec(0..3_usize, 1..12), refusals in 0..4_u32) {
        let desk = Desk::new();
        let done: [Work; 3] = Default::default();
        let refuse = Arc::new(AtomicU32::new(refusals));
        let calls = keys.iter().map(|&key| {
            let (work, refuse) = (done[key].clone(), refuse.clone());
            desk.call(["a", "b", "c"][key], async move {
                let refused = refuse.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if refused.is_ok() { Err(Error::new(Cause::NotFoundInCluster)) } else { work.ends(Ok(5)).await }
            })
        });
        let answers = block_on(join_all(calls));
        for answer in &answers {
            match answer {
                Ok(Execution::Executed(5)) => {}
                Ok(Execution::Replayed(reply)) => prop_assert_eq!(Some(reply.clone()), written(&Ok(5))),
                Err(error) => prop_assert_eq!(error.cause, Cause::NotFoundInCluster),
                Ok(other) => prop_assert!(false, "{:?}", other),
            }
        }
        for (key, work) in done.iter().enumerate() {
            let of_key = || answers.iter().zip(&keys).filter(|(_, of)| **of == key).map(|(answer, _)| answer);
            let fresh = of_key().filter(|answer| matches!(answer, Ok(Execution::Executed(_)))).count();
            let any = of_key().any(|answer| answer.is_ok());
            prop_assert_eq!((work.count(), fresh), (u32::from(any), usize::from(any)));
        }
    }
}
