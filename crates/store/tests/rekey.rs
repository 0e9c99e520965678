//! Master key rotation while stores are in use, on each database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use common::{FINGERPRINT, FakeKeyring, TestDatabase, cluster, seed_of, sign_in, verdict_under};
use futures_util::future::join_all;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Permit, Principal, Resource, Verb},
    audit::{AuditMaintenance as _, CheckpointSigner as _, KeyRotation},
    cluster::{ClusterRegistry as _, Connections as _},
    connection::Credential,
    coordinator::Coordinator as _,
    idempotency::{
        Claim, End, IdempotencyKey, IdempotencyStore as _, NewClaim, Progress, Reply, RequestDigest,
    },
    ids::{ClusterId, UserId},
    name::ProviderId,
    provider::{ConfirmationClaim, Liveness, ProviderKind},
    rng::uuid_v7,
    testing::contract::StorePorts,
};
use pilothouse_store::{OpenError, Store, StoreDeps};
use secrecy::{ExposeSecret as _, SecretString};

const NEXT: &str = "fingerprint of the next key";

/// A database with several stores, each with its own keyring.
struct Fixture {
    db: TestDatabase,
}

impl Fixture {
    async fn opened(&self, keys: &[&str]) -> (Store, StorePorts, Arc<FakeKeyring>) {
        let keyring = FakeKeyring::of(keys);
        let store = self.try_open(keyring.clone()).await.unwrap();
        (store.clone(), StorePorts::over(Arc::new(store)), keyring)
    }

    async fn try_open(&self, keyring: Arc<FakeKeyring>) -> Result<Store, OpenError> {
        Store::open(&self.db.database, StoreDeps { keyring, ..self.db.deps.clone() }).await
    }

    fn now(&self) -> Timestamp {
        self.db.deps.clock.now()
    }

    fn claim(&self, key: &str) -> NewClaim {
        let at = self.now();
        NewClaim {
            id: uuid_v7(at, &*self.db.deps.rng),
            owner: Principal::User(UserId(1)),
            key: IdempotencyKey::new(key).unwrap(),
            request: RequestDigest([7; 32]),
            request_id: None,
            at,
            expires_at: at + std::time::Duration::from_secs(3600),
        }
    }

    /// Stores a cluster, an answered idempotency claim, and a user of an identity provider with this name.
    async fn fill(&self, store: &Store, ports: &StorePorts, name: &str) -> Result<ClusterId> {
        let token = Credential::Token(SecretString::from(format!("token of {name}")));
        let access = AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name);
        let made = store.create(&ports.permit(access), cluster(ports, name, token)).await?;
        let claim = self.claim(name);
        store.claim(&claim).await?;
        let reply = Reply { status: 200, body: format!("answer to {name}").into_bytes() };
        store.end(claim.id, &End::Answered(reply)).await?;
        sign_in(ports, &*self.db.deps.rng, name).await?;
        Ok(made.id)
    }

    /// Asserts that all stored values can be opened.
    async fn assert_opens(&self, store: &Store, filled: &[(ClusterId, String)]) {
        let ports = StorePorts::over(Arc::new(store.clone()));
        let now = self.now();
        let claim = ConfirmationClaim {
            provider: ProviderId::new("corp").unwrap(),
            kind: ProviderKind::Oidc,
            before: now + std::time::Duration::from_secs(1),
            live: Liveness { at: now, used_after: now - std::time::Duration::from_secs(1800) },
            limit: usize::MAX,
        };
        let due = ports.federation.claim_due(claim).await.unwrap();
        for (_, name) in filled {
            let due = due.iter().find(|due| due.subject == *name).expect("the refresh token opens");
            let refresh_token = due.refresh_token.as_ref().unwrap().expose_secret();
            assert_eq!(refresh_token, format!("refresh token of {name}"));
            let factor = ports.second_factors.find(due.user_id).await.unwrap().unwrap();
            assert_eq!(factor.seed.bytes(), seed_of(name).bytes());
        }
        for (id, name) in filled {
            let stored = store.connection(*id).await.unwrap().unwrap();
            let Credential::Token(token) = stored.connection.credential else { panic!("a token") };
            assert_eq!(token.expose_secret(), format!("token of {name}"));
            let Claim::Taken(earlier) = store.claim(&self.claim(name)).await.unwrap() else {
                panic!("the claim of {name} is missing")
            };
            let Progress::Answered(reply) = earlier.progress else { panic!("{:?}", earlier.progress) };
            assert_eq!(reply.body, format!("answer to {name}").as_bytes());
        }
    }
}

fn rekey(ports: &StorePorts) -> Permit {
    let [before, after] = [FINGERPRINT, NEXT].map(|key| FakeKeyring::signer(key).public_key());
    ports.permit(KeyRotation::access(&before, &after))
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    TestDatabase::all().into_iter().map(|db| Fixture { db })
}

#[tokio::test(flavor = "multi_thread")]
async fn values_open_at_every_step_of_a_rotation() {
    for fixture in fixtures() {
        let (store, ports, keyring) = fixture.opened(&[FINGERPRINT]).await;
        store.take_lease(fixture.now()).await.unwrap();
        let mut filled = Vec::new();
        for n in 0..70 {
            let name = format!("cluster-{n}");
            filled.push((fixture.fill(&store, &ports, &name).await.unwrap(), name));
        }

        let (rekeying, rekey_ports, _) = fixture.opened(&[FINGERPRINT, NEXT]).await;
        rekeying.begin_rekey(NEXT).await.unwrap();
        rekeying.begin_rekey(NEXT).await.unwrap();
        let other = rekeying.begin_rekey("a third one").await.unwrap_err();
        assert_eq!(other.cause, Cause::Modified);
        let refused = fixture.try_open(FakeKeyring::of(&[FINGERPRINT])).await.unwrap_err();
        assert!(matches!(refused, OpenError::NoNextKey), "{refused}");

        // the lease of the running server records whether it has the key
        store.renew_lease(fixture.now()).await.unwrap();
        assert_eq!(rekeying.servers_without_key(NEXT, fixture.now()).await.unwrap(), 1);
        keyring.add(NEXT);
        store.renew_lease(fixture.now()).await.unwrap();
        assert_eq!(rekeying.servers_without_key(NEXT, fixture.now()).await.unwrap(), 0);

        let mut batches = 0;
        while rekeying.reseal(NEXT).await.unwrap() > 0 {
            batches += 1;
            fixture.assert_opens(&store, &filled).await;
            let name = format!("meanwhile-{batches}");
            filled.push((fixture.fill(&store, &ports, &name).await.unwrap(), name));
            assert!(batches < 99, "resealing ends");
            if batches > 2 {
                break;
            }
        }
        assert!(batches > 1, "more than one batch");
        rekeying.finish_rekey(&rekey(&rekey_ports), NEXT).await.unwrap();
        fixture.assert_opens(&store, &filled).await;
        // the running server seals and signs with the new key
        filled.push((fixture.fill(&store, &ports, "after").await.unwrap(), "after".to_owned()));
        store.checkpoint(std::time::Duration::ZERO).await.unwrap();

        let refused = fixture.try_open(FakeKeyring::of(&[FINGERPRINT])).await.unwrap_err();
        assert!(matches!(refused, OpenError::OtherKey), "{refused}");
        let (reopened, ..) = fixture.opened(&[NEXT]).await;
        fixture.assert_opens(&reopened, &filled).await;
        assert!(reopened.begin_rekey("a third one").await.is_ok(), "the rotation has ended");

        // the trail contains the rotation and is valid for the active key
        let verdict = verdict_under(&reopened, NEXT).await;
        assert!(verdict.valid, "{verdict:?}");
        assert!(verdict.checkpoints >= 2, "{verdict:?}");
        let verdict = verdict_under(&reopened, FINGERPRINT).await;
        assert!(!verdict.valid, "the previous key does not verify the trail");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrently_sealed_values_all_use_the_new_key() {
    for fixture in fixtures() {
        let (first, first_ports, _) = fixture.opened(&[FINGERPRINT, NEXT]).await;
        let (second, second_ports, _) = fixture.opened(&[FINGERPRINT, NEXT]).await;
        first.begin_rekey(NEXT).await.unwrap();
        let finished = AtomicBool::new(false);
        let fill = async |worker: usize, store: &Store, ports: &StorePorts| {
            let mut filled = Vec::new();
            let (mut iterations_after, mut tries) = (0, 0);
            // continues for a few iterations after the rotation
            while iterations_after < 3 {
                iterations_after += usize::from(finished.load(Ordering::Acquire));
                let name = format!("{worker}-{tries}");
                match fixture.fill(store, ports, &name).await {
                    Ok(id) => filled.push((id, name)),
                    // many writers of one SQLite file may time out
                    Err(error) => assert_eq!(error.cause, Cause::StoreUnavailable, "{error}"),
                }
                tries += 1;
            }
            filled
        };
        let workers = (0..6).map(|worker| match worker % 2 {
            0 => fill(worker, &first, &first_ports),
            _ => fill(worker, &second, &second_ports),
        });
        let rekeying = async {
            // a step of the rotation may time out like the other writers
            let expect_unavailable =
                |error: &Error| assert_eq!(error.cause, Cause::StoreUnavailable, "{error}");
            for _ in 0..5 {
                while let Err(error) = first.reseal(NEXT).await {
                    expect_unavailable(&error);
                }
            }
            while let Err(error) = first.finish_rekey(&rekey(&first_ports), NEXT).await {
                expect_unavailable(&error);
            }
            finished.store(true, Ordering::Release);
        };
        let (filled, ()) = futures_util::join!(join_all(workers), rekeying);
        let (reopened, ..) = fixture.opened(&[NEXT]).await;
        let filled: Vec<_> = filled.into_iter().flatten().collect();
        assert!(filled.len() >= 6, "{} stored", filled.len());
        fixture.assert_opens(&reopened, &filled).await;
        let verdict = verdict_under(&reopened, NEXT).await;
        assert!(verdict.valid, "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_without_the_new_key_fails_until_it_has_it() {
    for fixture in fixtures() {
        let (late, late_ports, keyring) = fixture.opened(&[FINGERPRINT]).await;
        fixture.fill(&late, &late_ports, "before").await.unwrap();
        let (rekeying, ports, _) = fixture.opened(&[FINGERPRINT, NEXT]).await;
        rekeying.begin_rekey(NEXT).await.unwrap();
        while rekeying.reseal(NEXT).await.unwrap() > 0 {}
        rekeying.finish_rekey(&rekey(&ports), NEXT).await.unwrap();

        let refused = fixture.fill(&late, &late_ports, "meanwhile").await.unwrap_err();
        assert_eq!(refused.cause, Cause::StoreUnavailable);
        assert_eq!(late.ping().await.unwrap_err().cause, Cause::StoreUnavailable);
        let (id, name) = (ClusterId(1), "before".to_owned());
        assert!(late.connection(id).await.is_err(), "the value does not open with the old key");
        keyring.add(NEXT);
        late.ping().await.unwrap();
        fixture.assert_opens(&late, &[(id, name)]).await;
        fixture.fill(&late, &late_ports, "afterwards").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_does_not_open_stops_the_rotation() {
    for fixture in fixtures() {
        let (store, ports, _) = fixture.opened(&[FINGERPRINT, NEXT]).await;
        fixture.fill(&store, &ports, "swapped").await.unwrap();
        fixture.fill(&store, &ports, "other").await.unwrap();
        let swap = "UPDATE clusters SET credential = (SELECT credential FROM clusters WHERE name = 'other') \
            WHERE name = 'swapped'";
        fixture.db.execute(swap).await.unwrap();
        store.begin_rekey(NEXT).await.unwrap();
        let stopped = store.reseal(NEXT).await.unwrap_err().to_string();
        assert!(stopped.contains("clusters.credential of "), "{stopped}");
        let stopped = store.finish_rekey(&rekey(&ports), NEXT).await.unwrap_err().to_string();
        assert!(stopped.contains("clusters.credential of "), "{stopped}");
        let found = Store::fingerprints(&fixture.db.database, &fixture.db.deps.runtime).await.unwrap();
        assert_eq!(found.unwrap().active, FINGERPRINT, "the key is unchanged");
    }
}
