//! A new master key beside stores that work, on each database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use common::{FINGERPRINT, Place, Ring, cluster, verdict_under};
use futures_util::future::join_all;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Permit, Resource, Verb},
    audit::{AuditTrail as _, CheckpointSigner as _, KeyRotation},
    clock::uuid_v7,
    cluster::{ClusterId, ClusterRegistry as _, Connections as _, Credential},
    idempotency::{
        Claim, End, IdempotencyKey, IdempotencyStore as _, NewClaim, Progress, Reply, RequestDigest,
    },
    testing::contract::StorePorts,
    user::UserId,
};
use pilothouse_store::{OpenError, Store, StoreDeps};
use secrecy::{ExposeSecret as _, SecretString};

const NEXT: &str = "fingerprint of the next key";

/// A database with stores on it that each hold their own keys.
struct Scene {
    place: Place,
}

impl Scene {
    async fn opened(&self, keys: &[&str]) -> (Store, StorePorts, Arc<Ring>) {
        let ring = Ring::of(keys);
        let store = self.try_open(ring.clone()).await.unwrap();
        (store.clone(), StorePorts::over(Arc::new(store)), ring)
    }

    async fn try_open(&self, ring: Arc<Ring>) -> Result<Store, OpenError> {
        Store::open(&self.place.database, StoreDeps { keyring: ring, ..self.place.deps.clone() }).await
    }

    fn now(&self) -> Timestamp {
        self.place.deps.clock.now()
    }

    fn claim(&self, key: &str) -> NewClaim {
        let at = self.now();
        NewClaim {
            id: uuid_v7(at, &*self.place.deps.rng),
            user: UserId(1),
            key: IdempotencyKey::new(key).unwrap(),
            request: RequestDigest([7; 32]),
            request_id: None,
            at,
            expires_at: at + std::time::Duration::from_secs(3600),
        }
    }

    /// A cluster and an answered claim of this name.
    async fn fill(&self, store: &Store, ports: &StorePorts, name: &str) -> Result<ClusterId> {
        let token = Credential::Token(SecretString::from(format!("token of {name}")));
        let access = AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster(name);
        let made = store.create(&ports.permit(access), cluster(ports, name, token)).await?;
        let claim = self.claim(name);
        store.claim(&claim).await?;
        let reply = Reply { status: 200, body: format!("answer to {name}").into_bytes() };
        store.end(claim.id, &End::Answered(reply)).await?;
        Ok(made.id)
    }

    /// What was filled opens, each as its own.
    async fn opens(&self, store: &Store, filled: &[(ClusterId, String)]) {
        for (id, name) in filled {
            let stored = store.connection(*id).await.unwrap().unwrap();
            let Credential::Token(token) = stored.connection.credential else { panic!("a token") };
            assert_eq!(token.expose_secret(), format!("token of {name}"));
            let Claim::Taken(earlier) = store.claim(&self.claim(name)).await.unwrap() else {
                panic!("{name} was forgotten")
            };
            let Progress::Answered(reply) = earlier.progress else { panic!("{:?}", earlier.progress) };
            assert_eq!(reply.body, format!("answer to {name}").as_bytes());
        }
    }
}

fn rekey(ports: &StorePorts) -> Permit {
    let [before, after] = [FINGERPRINT, NEXT].map(|key| Ring::signer(key).public_key());
    ports.permit(KeyRotation::access(&before, &after))
}

fn scenes() -> impl Iterator<Item = Scene> {
    Place::all().into_iter().map(|place| Scene { place })
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_sealed_anew_in_pieces_and_opens_at_every_moment() {
    for scene in scenes() {
        let (store, ports, ring) = scene.opened(&[FINGERPRINT]).await;
        store.take_lease(scene.now()).await.unwrap();
        let mut filled = Vec::new();
        for n in 0..70 {
            let name = format!("cluster-{n}");
            filled.push((scene.fill(&store, &ports, &name).await.unwrap(), name));
        }

        let (rekeying, rekey_ports, _) = scene.opened(&[FINGERPRINT, NEXT]).await;
        rekeying.begin_rekey(NEXT).await.unwrap();
        rekeying.begin_rekey(NEXT).await.unwrap();
        let other = rekeying.begin_rekey("a third one").await.unwrap_err();
        assert_eq!(other.cause, Cause::Modified);
        let refused = scene.try_open(Ring::of(&[FINGERPRINT])).await.unwrap_err();
        assert!(matches!(refused, OpenError::NoNextKey), "{refused}");

        // the server that runs says whether it has the key
        store.renew_lease(scene.now()).await.unwrap();
        assert_eq!(rekeying.without_next_key(NEXT, scene.now()).await.unwrap(), 1);
        ring.add(NEXT);
        store.renew_lease(scene.now()).await.unwrap();
        assert_eq!(rekeying.without_next_key(NEXT, scene.now()).await.unwrap(), 0);

        let mut pieces = 0;
        while rekeying.reseal(NEXT).await.unwrap() > 0 {
            pieces += 1;
            scene.opens(&store, &filled).await;
            let name = format!("meanwhile-{pieces}");
            filled.push((scene.fill(&store, &ports, &name).await.unwrap(), name));
            assert!(pieces < 99, "it ends");
            if pieces > 2 {
                break;
            }
        }
        assert!(pieces > 1, "in pieces");
        rekeying.finish_rekey(&rekey(&rekey_ports), NEXT).await.unwrap();
        scene.opens(&store, &filled).await;
        // and goes on, with the new key
        filled.push((scene.fill(&store, &ports, "after").await.unwrap(), "after".to_owned()));
        store.checkpoint(std::time::Duration::ZERO).await.unwrap();

        let refused = scene.try_open(Ring::of(&[FINGERPRINT])).await.unwrap_err();
        assert!(matches!(refused, OpenError::OtherKey), "{refused}");
        let (alone, ..) = scene.opened(&[NEXT]).await;
        scene.opens(&alone, &filled).await;
        assert!(alone.begin_rekey("a third one").await.is_ok(), "it is over");

        // the trail knows of it, and is whole for whoever trusts the key in use
        let verdict = verdict_under(&alone, NEXT).await;
        assert!(verdict.valid, "{verdict:?}");
        assert!(verdict.checkpoints >= 2, "{verdict:?}");
        let verdict = verdict_under(&alone, FINGERPRINT).await;
        assert!(!verdict.valid, "the key before signs no more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_many_seal_meanwhile_is_left_under_the_old_key() {
    for scene in scenes() {
        let (first, first_ports, _) = scene.opened(&[FINGERPRINT, NEXT]).await;
        let (second, second_ports, _) = scene.opened(&[FINGERPRINT, NEXT]).await;
        first.begin_rekey(NEXT).await.unwrap();
        let over = AtomicBool::new(false);
        let fill = async |worker: usize, store: &Store, ports: &StorePorts| {
            let mut filled = Vec::new();
            let (mut beyond, mut tries) = (0, 0);
            // some more after the change
            while beyond < 3 {
                beyond += usize::from(over.load(Ordering::Acquire));
                let name = format!("{worker}-{tries}");
                match scene.fill(store, ports, &name).await {
                    Ok(id) => filled.push((id, name)),
                    // so many on one SQLite file may wait too long for each other
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
            // it may have to wait as the others do
            let waits = |error: &Error| assert_eq!(error.cause, Cause::StoreUnavailable, "{error}");
            for _ in 0..5 {
                while let Err(error) = first.reseal(NEXT).await {
                    waits(&error);
                }
            }
            while let Err(error) = first.finish_rekey(&rekey(&first_ports), NEXT).await {
                waits(&error);
            }
            over.store(true, Ordering::Release);
        };
        let (filled, ()) = futures_util::join!(join_all(workers), rekeying);
        let (alone, ..) = scene.opened(&[NEXT]).await;
        let filled: Vec<_> = filled.into_iter().flatten().collect();
        assert!(filled.len() >= 6, "{} were filled", filled.len());
        scene.opens(&alone, &filled).await;
        let verdict = verdict_under(&alone, NEXT).await;
        assert!(verdict.valid, "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_new_key_refuses_until_it_has_it() {
    for scene in scenes() {
        let (late, late_ports, ring) = scene.opened(&[FINGERPRINT]).await;
        scene.fill(&late, &late_ports, "before").await.unwrap();
        let (rekeying, ports, _) = scene.opened(&[FINGERPRINT, NEXT]).await;
        rekeying.begin_rekey(NEXT).await.unwrap();
        while rekeying.reseal(NEXT).await.unwrap() > 0 {}
        rekeying.finish_rekey(&rekey(&ports), NEXT).await.unwrap();

        let refused = scene.fill(&late, &late_ports, "meanwhile").await.unwrap_err();
        assert_eq!(refused.cause, Cause::StoreUnavailable);
        assert_eq!(late.ping().await.unwrap_err().cause, Cause::StoreUnavailable);
        let (id, name) = (ClusterId(1), "before".to_owned());
        assert!(late.connection(id).await.is_err(), "not garbage");
        ring.add(NEXT);
        late.ping().await.unwrap();
        scene.opens(&late, &[(id, name)]).await;
        scene.fill(&late, &late_ports, "afterwards").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_open_stops_it_and_is_named() {
    for scene in scenes() {
        let (store, ports, _) = scene.opened(&[FINGERPRINT, NEXT]).await;
        scene.fill(&store, &ports, "swapped").await.unwrap();
        scene.fill(&store, &ports, "other").await.unwrap();
        let swap = "UPDATE clusters SET credential = (SELECT credential FROM clusters WHERE name = 'other') \
            WHERE name = 'swapped'";
        scene.place.execute(swap).await.unwrap();
        store.begin_rekey(NEXT).await.unwrap();
        let stopped = store.reseal(NEXT).await.unwrap_err().to_string();
        assert!(stopped.contains("clusters.credential of "), "{stopped}");
        let stopped = store.finish_rekey(&rekey(&ports), NEXT).await.unwrap_err().to_string();
        assert!(stopped.contains("clusters.credential of "), "{stopped}");
        let found = Store::fingerprints(&scene.place.database, &scene.place.deps.runtime).await.unwrap();
        assert_eq!(found.unwrap().current, FINGERPRINT, "nothing has changed");
    }
}
