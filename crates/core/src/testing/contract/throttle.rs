use std::time::Duration;

use futures_util::future::join_all;

use jiff::Timestamp;

use super::StorePorts;
use crate::{
    role::Role,
    session::{ClientAddress, SessionRecord, ThrottleKey},
    user::{User, Username},
};

fn account(name: &str) -> ThrottleKey {
    ThrottleKey::account(&Username::new(name).unwrap())
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) async fn pauses_start_at_the_limit_and_grow(ports: &StorePorts) {
    let key = account("admin");
    let mut at = ports.now();
    let blocked = async |at| ports.throttle.blocked_for(std::slice::from_ref(&key), at).await.unwrap();
    for failure in 1..=7 {
        assert_eq!(blocked(at).await, None, "before failure {failure}");
        ports.throttle.failed(std::slice::from_ref(&key), at).await.unwrap();
        let pause = key.pause(failure);
        assert_eq!(blocked(at).await, pause, "after failure {failure}");
        if let Some(pause) = pause {
            assert_eq!(blocked(at + seconds(1)).await, Some(pause - seconds(1)));
            at += pause;
        }
    }
    assert_eq!(ports.throttle.blocked_for(&[account("other")], at).await.unwrap(), None);
    assert_eq!(ports.throttle.blocked_for(&[], at).await.unwrap(), None);
}

pub(super) async fn failures_expire_after_the_window(ports: &StorePorts) {
    let key = [account("admin")];
    let start = ports.now();
    for _ in 0..4 {
        ports.throttle.failed(&key, start).await.unwrap();
    }
    let next = start + ThrottleKey::WINDOW;
    for _ in 0..4 {
        ports.throttle.failed(&key, next).await.unwrap();
    }
    assert_eq!(ports.throttle.blocked_for(&key, next).await.unwrap(), None, "four in each window");
    ports.throttle.failed(&key, next + seconds(1)).await.unwrap();
    assert_eq!(ports.throttle.blocked_for(&key, next + seconds(1)).await.unwrap(), Some(seconds(30)));
}

pub(super) async fn longest_pause_of_all_keys_applies(ports: &StorePorts) {
    let (one, two) = (account("one"), ThrottleKey { key: "address:192.0.2.1".to_owned(), limit: 5 });
    for _ in 0..5 {
        ports.throttle.failed(&[one.clone(), two.clone()], ports.now()).await.unwrap();
    }
    ports.throttle.failed(std::slice::from_ref(&two), ports.now()).await.unwrap();
    let blocked = async |keys: &[ThrottleKey]| ports.throttle.blocked_for(keys, ports.now()).await.unwrap();
    assert_eq!(blocked(std::slice::from_ref(&one)).await, Some(seconds(30)));
    assert_eq!(blocked(&[one, two]).await, Some(seconds(60)));
}

pub(super) async fn concurrent_failures_are_all_counted(ports: &StorePorts) {
    let key = [account("admin")];
    join_all((0..7).map(|_| ports.throttle.failed(&key, ports.now())))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    assert_eq!(ports.throttle.blocked_for(&key, ports.now()).await.unwrap(), key[0].pause(7));
}

pub(super) async fn one_refusal_per_minute_is_reported(ports: &StorePorts) {
    let key = account("admin");
    let refused = async |after| ports.throttle.refused(&key, ports.now() + seconds(after)).await.unwrap();
    assert_eq!(refused(0).await, Some(0), "no earlier refusals");
    assert_eq!(refused(1).await, None);
    assert_eq!(refused(59).await, None);
    assert_eq!(refused(60).await, Some(3), "three refusals in the previous minute");
    assert_eq!(refused(61).await, None);
    assert_eq!(refused(180).await, Some(2));
    assert_eq!(ports.throttle.refused(&account("other"), ports.now()).await.unwrap(), Some(0));
}

pub(super) async fn login_resets_only_its_own_counter(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (own, other) = ([ThrottleKey::account(&user.username)], [account("other")]);
    for _ in 0..5 {
        ports.throttle.failed(&own, ports.now()).await.unwrap();
        ports.throttle.failed(&other, ports.now()).await.unwrap();
    }
    login(ports, &user, "192.0.2.1", ports.now(), None).await;
    assert!(ports.throttle.blocked_for(&own, ports.now()).await.unwrap().is_some(), "login with no key");
    login(ports, &user, "192.0.2.1", ports.now(), Some(own[0].clone())).await;
    assert_eq!(ports.throttle.blocked_for(&own, ports.now()).await.unwrap(), None);
    assert!(ports.throttle.blocked_for(&other, ports.now()).await.unwrap().is_some());
    ports.throttle.failed(&own, ports.now()).await.unwrap();
    assert_eq!(ports.throttle.blocked_for(&own, ports.now()).await.unwrap(), None, "count restarts at one");
}

fn address(ip: &str) -> ClientAddress {
    ClientAddress::of(ip.parse().unwrap())
}

/// Opens a session, as after a successful login.
async fn login(ports: &StorePorts, user: &User, ip: &str, at: Timestamp, throttle_key: Option<ThrottleKey>) {
    let record = SessionRecord {
        user_id: user.id,
        cookie: ports.secret(),
        refresh: ports.secret(),
        source_ip: Some(ip.parse().unwrap()),
        user_agent: None,
        at,
        expires_at: at + seconds(3600),
        authenticated_at: at,
        factor_at: None,
        throttle_key,
    };
    let verified = ports.users.credentials(&user.username).await.unwrap().unwrap().1;
    ports.sessions.open(&ports.people(), record, &verified).await.unwrap();
}

pub(super) async fn address_is_known_after_login(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let (ann, bob) = (ports.user("ann", Role::Viewer).await, ports.user("bob", Role::Viewer).await);
    let is_known = async |name: &Username, ip: &str, since| {
        ports.throttle.is_known_address(name, &address(ip), since).await.unwrap()
    };
    let before = ports.now() - seconds(1);
    assert!(!is_known(&ann.username, "192.0.2.1", before).await);
    login(ports, &ann, "192.0.2.1", ports.now(), None).await;
    login(ports, &ann, "2001:db8::1", ports.now(), None).await;
    assert!(is_known(&ann.username, "192.0.2.1", before).await);
    assert!(is_known(&ann.username, "2001:db8::2", before).await, "same /64 network");
    assert!(!is_known(&ann.username, "192.0.2.2", before).await, "another address");
    assert!(!is_known(&bob.username, "192.0.2.1", before).await, "another user");
    assert!(!is_known(&Username::new("nobody").unwrap(), "192.0.2.1", before).await);
    assert!(!is_known(&ann.username, "192.0.2.1", ports.now()).await, "login is too old");
    login(ports, &ann, "192.0.2.1", ports.now() + seconds(60), None).await;
    assert!(is_known(&ann.username, "192.0.2.1", ports.now()).await, "the newest login counts");

    // known addresses are deleted with the user
    ports.users.delete(&ports.people(), ann.id).await.unwrap();
    assert!(!is_known(&ann.username, "192.0.2.1", before).await);
    let recreated = ports.user("ann", Role::Viewer).await;
    assert!(!is_known(&recreated.username, "192.0.2.1", before).await);
}

pub(super) async fn known_addresses_per_user_are_limited(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let other = ports.user("other", Role::Viewer).await;
    login(ports, &other, "192.0.2.1", ports.now(), None).await;
    let ip = |n: u32| format!("192.0.2.{n}");
    let many = 2 * ThrottleKey::ADDRESSES;
    for n in 1..=many {
        login(ports, &user, &ip(n), ports.now() + seconds(n.into()), None).await;
    }
    let before = ports.now() - seconds(1);
    for n in 1..=many {
        let known = ports.throttle.is_known_address(&user.username, &address(&ip(n)), before).await.unwrap();
        assert_eq!(known, n > many - ThrottleKey::ADDRESSES, "address {n}");
    }
    assert!(ports.throttle.is_known_address(&other.username, &address("192.0.2.1"), before).await.unwrap());
}

pub(super) async fn failures_of_many_names_evict_no_counter(ports: &StorePorts) {
    let key = [account("admin")];
    for _ in 0..5 {
        ports.throttle.failed(&key, ports.now()).await.unwrap();
    }
    let others: Vec<_> = (0..500).map(|n| account(&format!("user-{n}"))).collect();
    for keys in others.chunks(100) {
        ports.throttle.failed(keys, ports.now() + seconds(1)).await.unwrap();
    }
    let blocked = async |at| ports.throttle.blocked_for(&key, at).await.unwrap();
    assert_eq!(blocked(ports.now() + seconds(1)).await, Some(seconds(29)));
    // a counter expires only after the window
    let later = ports.now() + ThrottleKey::WINDOW - seconds(1);
    ports.throttle.failed(&others[..1], later).await.unwrap();
    ports.throttle.failed(&key, later).await.unwrap();
    assert_eq!(blocked(later).await, key[0].pause(6));
}
