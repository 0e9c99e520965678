use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::StorePorts;
use crate::{
    access::Principal,
    idempotency::{Claim, Earlier, End, IdempotencyKey, NewClaim, Progress, Reply, RequestDigest},
    ids::{ServiceAccountId, UserId},
    rng::uuid_v7,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl StorePorts {
    /// A claim with a new id, for a request that is named after its key.
    fn new_claim(&self, user: i64, key: &str, at: Timestamp) -> NewClaim {
        self.new_claim_of(Principal::User(UserId(user)), key, at)
    }

    fn new_claim_of(&self, owner: Principal, key: &str, at: Timestamp) -> NewClaim {
        NewClaim {
            id: uuid_v7(at, &*self.runtime.rng),
            owner,
            key: IdempotencyKey::new(key).unwrap(),
            request: RequestDigest([7; 32]),
            request_id: Some(format!("by-{key}")),
            at,
            expires_at: at + DAY,
        }
    }

    /// Claims a key now. Returns the claim and the result.
    async fn claim(&self, user: i64, key: &str) -> (NewClaim, Claim) {
        let claim = self.new_claim(user, key, self.now());
        let made = self.idempotency.claim(&claim).await.unwrap();
        (claim, made)
    }
}

fn taken(claim: &NewClaim, progress: Progress) -> Claim {
    Claim::Taken(Earlier { request: claim.request, request_id: claim.request_id.clone(), progress })
}

fn reply() -> Reply {
    Reply { status: 504, body: "{\"success\": false, \"message\": \"超时\"}\n\0".into() }
}

pub(super) async fn one_of_concurrent_claims_is_made(ports: &StorePorts) {
    let claims = join_all((0..16).map(|_| ports.claim(1, "key"))).await;
    let made: Vec<_> = claims.iter().filter(|(_, made)| matches!(made, Claim::Made { .. })).collect();
    let [(first, Claim::Made { live: 1 })] = made.as_slice() else { panic!("{made:?}") };
    let others = claims.iter().filter(|(claim, _)| claim.id != first.id);
    others.for_each(|(_, other)| assert_eq!(*other, taken(first, Progress::Running)));
}

pub(super) async fn stored_reply_is_byte_identical(ports: &StorePorts) {
    let (first, _) = ports.claim(1, "key").await;
    ports.idempotency.end(first.id, &End::Answered(reply())).await.unwrap();
    let mut other = ports.new_claim(1, "key", ports.now());
    (other.request, other.request_id) = (RequestDigest([8; 32]), None);
    let earlier = ports.idempotency.claim(&other).await.unwrap();
    assert_eq!(earlier, taken(&first, Progress::Answered(reply())), "reports the first claim");
}

pub(super) async fn change_not_applied_releases_the_key(ports: &StorePorts) {
    let (first, _) = ports.claim(1, "key").await;
    ports.idempotency.end(first.id, &End::NotDone).await.unwrap();
    let (second, made) = ports.claim(1, "key").await;
    assert_eq!(made, Claim::Made { live: 1 });
    for end in [End::NotDone, End::Unknown, End::Answered(reply())] {
        ports.idempotency.end(first.id, &end).await.unwrap();
        assert_eq!(
            ports.claim(1, "key").await.1,
            taken(&second, Progress::Running),
            "the first claim no longer exists"
        );
    }
}

pub(super) async fn unknown_outcome_is_reported(ports: &StorePorts) {
    let (first, _) = ports.claim(1, "key").await;
    ports.idempotency.end(first.id, &End::Unknown).await.unwrap();
    assert_eq!(ports.claim(1, "key").await.1, taken(&first, Progress::Unknown));
}

pub(super) async fn keys_are_per_owner_and_case_sensitive(ports: &StorePorts) {
    assert_eq!(ports.claim(1, "key").await.1, Claim::Made { live: 1 });
    assert_eq!(ports.claim(2, "key").await.1, Claim::Made { live: 1 });
    let of_account = Principal::ServiceAccount(ServiceAccountId(1));
    let claim = ports.new_claim_of(of_account, "key", ports.now());
    assert_eq!(
        ports.idempotency.claim(&claim).await.unwrap(),
        Claim::Made { live: 1 },
        "no user has this id"
    );
    assert_eq!(ports.claim(1, "Key").await.1, Claim::Made { live: 2 }, "keys are case-sensitive");
    assert_eq!(ports.claim(1, "other").await.1, Claim::Made { live: 3 });
}

pub(super) async fn keys_expire(ports: &StorePorts) {
    let (first, _) = ports.claim(1, "key").await;
    ports.claim(1, "other").await;
    ports.idempotency.end(first.id, &End::Answered(reply())).await.unwrap();
    let before_expiry = ports.now() + DAY - Duration::from_micros(1);
    let claim = ports.new_claim(1, "key", before_expiry);
    assert_eq!(ports.idempotency.claim(&claim).await.unwrap(), taken(&first, Progress::Answered(reply())));
    let claim = ports.new_claim(1, "key", ports.now() + DAY);
    let made = ports.idempotency.claim(&claim).await.unwrap();
    assert_eq!(made, Claim::Made { live: 1 }, "the other key expired too");
    let duplicate = ports.new_claim(1, "key", ports.now() + DAY);
    assert_eq!(ports.idempotency.claim(&duplicate).await.unwrap(), taken(&claim, Progress::Running));
}
