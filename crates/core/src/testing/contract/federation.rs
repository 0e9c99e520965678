use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::{StorePorts, grants::record};
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::Cause,
    name::ProviderId,
    provider::{
        Admission, Binding, ConfirmationClaim, DueConfirmation, EndedSessions, Liveness, LogoutToken,
        MAX_PENDING_LOGINS_OF_ADDRESS, PendingLogin, Person, ProviderKind, ProviderSession,
    },
    rights::Subject,
    role::Role,
    session::{ClientAddress, SecretHash, Session, SessionRecord},
    user::{User, UserPatch, Username},
};

/// Idle timeout of the sessions.
const IDLE: Duration = Duration::from_secs(1800);

fn corp() -> ProviderId {
    ProviderId::new("corp").unwrap()
}

pub(super) fn person(subject: &str, name: &str, groups: &[&str]) -> Person {
    let groups = groups.iter().map(|group| (*group).to_owned());
    Person::new(subject, name, Some(format!("{name} 先生")), groups).unwrap()
}

fn admission(person: Person, at: Timestamp) -> Admission {
    Admission {
        provider: corp(),
        username: Username::federated(&corp(), person.name()),
        other_username: Username::federated(&corp(), &format!("{}-{}", person.name(), person.subject())),
        person,
        at,
    }
}

impl StorePorts {
    pub(super) async fn bind_corp(&self, kind: ProviderKind) {
        let binding = Binding { provider: corp(), kind, authority: "https://id.example.com".to_owned() };
        assert!(self.federation.bind(&binding).await.unwrap());
    }

    pub(super) async fn admit(&self, person: Person) -> User {
        self.federation.admit(&self.people(), admission(person, self.now())).await.unwrap()
    }

    async fn sign_in(&self, user: &User, sid: &str, refresh_token: Option<&str>) -> (Session, SecretHash) {
        let cookie = self.secret();
        let record = SessionRecord {
            user_id: user.id,
            cookie,
            refresh: self.secret(),
            source_ip: None,
            user_agent: None,
            at: self.now(),
            expires_at: self.now() + Duration::from_secs(8 * 3600),
            authenticated_at: self.now(),
            factor_at: None,
            throttle_key: None,
        };
        let origin = ProviderSession {
            provider: corp(),
            sid: Some(sid.to_owned()),
            refresh_token: refresh_token.map(Into::into),
            factor_at: None,
        };
        let permit = self.permit(AccessRequest::to(Verb::Login, Resource::Session).named("corp"));
        (self.federation.open(&permit, record, origin).await.unwrap(), cookie)
    }

    pub(super) async fn withdraw(&self, ended: EndedSessions) -> usize {
        self.withdraw_once(ended).await.expect("a new logout token")
    }

    async fn withdraw_once(&self, ended: EndedSessions) -> Option<usize> {
        let permit = self.permit(AccessRequest::to(Verb::Revoke, Resource::Session).named("corp"));
        self.federation.withdraw(&permit, ended, self.liveness()).await.unwrap()
    }

    /// Sessions that a new logout token names.
    fn named(&self, subject: Option<&str>, sid: Option<&str>) -> EndedSessions {
        EndedSessions::Named {
            provider: corp(),
            subject: subject.map(str::to_owned),
            sid: sid.map(str::to_owned),
            token: LogoutToken { jti: self.secret(), valid_until: self.now() + Duration::from_secs(240) },
        }
    }

    fn liveness(&self) -> Liveness {
        Liveness { at: self.now(), used_after: self.now() - IDLE }
    }

    async fn due(&self, kind: ProviderKind) -> Vec<DueConfirmation> {
        let live = self.liveness();
        let before = live.at - Duration::from_secs(540);
        let claim = ConfirmationClaim { provider: corp(), kind, before, live, limit: 10 };
        self.federation.claim_due(claim).await.unwrap()
    }

    async fn confirmed_at(&self, user: &User) -> Option<Timestamp> {
        self.federation.confirmed_at(user.id).await.unwrap()
    }

    async fn is_live(&self, cookie: SecretHash) -> bool {
        self.sessions.find(cookie).await.unwrap().is_some()
    }

    /// Number of grants that the user has.
    async fn groups(&self, user: &User) -> usize {
        self.rights.rights(&[Subject::User(user.id)], self.now()).await.unwrap().grants.len()
    }
}

pub(super) async fn provider_is_bound_for_ever(ports: &StorePorts) {
    let binding = |kind, authority: &str| Binding { provider: corp(), kind, authority: authority.to_owned() };
    let first = binding(ProviderKind::Oidc, "https://id.example.com");
    assert!(ports.federation.bind(&first).await.unwrap());
    assert!(ports.federation.bind(&first).await.unwrap(), "the same again");
    for other in [
        binding(ProviderKind::Oidc, "https://id.example.com/"),
        binding(ProviderKind::Ldap, "https://id.example.com"),
    ] {
        assert!(!ports.federation.bind(&other).await.unwrap(), "{other:?}");
    }
}

pub(super) async fn pending_login_is_taken_once_by_its_browser(ports: &StorePorts) {
    let [state, browser, other] = [ports.secret(), ports.secret(), ports.secret()];
    let pending = PendingLogin {
        provider: corp(),
        state,
        browser,
        to: "/clusters".to_owned(),
        address: None,
        at: ports.now(),
        expires_at: ports.now() + Duration::from_secs(600),
    };
    let take = async |provider: &ProviderId, browser, at| {
        ports.federation.take(provider, state, browser, at).await.unwrap()
    };
    ports.federation.begin(pending.clone()).await.unwrap();
    assert_eq!(take(&corp(), other, ports.now()).await, None, "another browser");
    assert_eq!(take(&ProviderId::new("other").unwrap(), browser, ports.now()).await, None);
    let corp = corp();
    let taken = join_all((0..8).map(|_| take(&corp, browser, ports.now()))).await;
    assert_eq!(taken.iter().flatten().collect::<Vec<_>>(), ["/clusters"]);

    ports.federation.begin(pending.clone()).await.unwrap();
    assert_eq!(take(&corp, browser, pending.expires_at).await, None, "expired");
}

pub(super) async fn pending_logins_of_an_address_are_limited(ports: &StorePorts) {
    let states: Vec<_> = (0..=MAX_PENDING_LOGINS_OF_ADDRESS).map(|_| ports.secret()).collect();
    let browser = ports.secret();
    for state in &states {
        ports.runtime.clock.advance(Duration::from_millis(1));
        let pending = PendingLogin {
            provider: corp(),
            state: *state,
            browser,
            to: "/".to_owned(),
            address: Some(ClientAddress::of("192.0.2.1".parse().unwrap())),
            at: ports.now(),
            expires_at: ports.now() + Duration::from_secs(600),
        };
        ports.federation.begin(pending).await.unwrap();
    }
    let mut taken = Vec::new();
    for state in states {
        taken.push(ports.federation.take(&corp(), state, browser, ports.now()).await.unwrap().is_some());
    }
    assert!(!taken[0], "the oldest was replaced");
    assert!(taken[1..].iter().all(|taken| *taken));
}

pub(super) async fn person_is_one_user_by_provider_and_subject(ports: &StorePorts) {
    let rows = ports.operations().await.len();
    let mei = ports.admit(person("1", "Mei", &["ops"])).await;
    assert_eq!((mei.username.as_str(), mei.role, mei.disabled), ("corp:mei", Role::None, false));
    assert_eq!(ports.operations().await.len(), rows + 1);
    assert!(ports.users.list().await.unwrap().contains(&mei));
    let user_of = async |subject: &str| ports.federation.user_of(&corp(), subject).await.unwrap();
    assert_eq!((user_of("1").await, user_of("2").await), (Some(mei.clone()), None));
    assert!(ports.users.credentials(&mei.username).await.unwrap().is_none(), "without a password");

    let renamed = ports.admit(person("1", "mei2", &["ops"])).await;
    assert_eq!((renamed.id, renamed.username.as_str()), (mei.id, "corp:mei"));
    assert_eq!(renamed.display_name, "mei2 先生");
    let namesake = ports.admit(person("2", "mei", &[])).await;
    assert_eq!(namesake.username.as_str(), "corp:mei-2");
    assert_ne!(namesake.id, mei.id);
    assert_eq!(ports.operations().await.len(), rows + 2, "only a new user is a row");

    let people = (0..8).map(|_| ports.admit(person("3", "ann", &[])));
    let ids: Vec<_> = join_all(people).await.into_iter().map(|user| user.id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "concurrent sign-ins");
}

pub(super) async fn groups_give_rights_while_confirmed(ports: &StorePorts) {
    ports.bind_corp(ProviderKind::Oidc).await;
    for group in ["ops", "dev"] {
        ports.grant(record(Subject::group("corp", group).unwrap())).await.unwrap();
    }
    ports.grant(record(Subject::group("other", "ops").unwrap())).await.unwrap();
    let user = ports.admit(person("1", "mei", &["ops"])).await;
    let (session, cookie) = ports.sign_in(&user, "s1", Some("refresh-1")).await;
    assert_eq!(ports.groups(&user).await, 1);
    let stamp = ports.sessions.find(cookie).await.unwrap().unwrap().rights;

    assert!(ports.due(ProviderKind::Oidc).await.is_empty(), "just confirmed");
    ports.runtime.clock.advance(Duration::from_secs(600));
    let due = ports.due(ProviderKind::Oidc).await;
    let [due] = &*due else { panic!("{due:?}") };
    assert_eq!((due.user_id, due.session, &*due.subject), (user.id, Some(session.id), "1"));
    assert_eq!(due.refresh_token.as_ref().unwrap().expose_secret(), "refresh-1");
    assert!(ports.due(ProviderKind::Oidc).await.is_empty(), "claimed");

    let now = person("1", "mei", &["ops", "dev"]);
    ports.federation.confirm(due, &now, Some("refresh-2".into()), ports.now()).await.unwrap();
    assert_eq!(ports.groups(&user).await, 2);
    assert_ne!(ports.sessions.find(cookie).await.unwrap().unwrap().rights, stamp);
    assert_eq!(ports.federation.confirmed_at(user.id).await.unwrap(), Some(ports.now()));
    ports.runtime.clock.advance(Duration::from_secs(600));
    let due = ports.due(ProviderKind::Oidc).await;
    assert_eq!(due[0].refresh_token.as_ref().unwrap().expose_secret(), "refresh-2");

    assert_eq!(ports.withdraw(EndedSessions::One(session.id)).await, 1);
    assert_eq!(ports.groups(&user).await, 0);
    assert_eq!(ports.federation.confirmed_at(user.id).await.unwrap(), None);
    assert!(!ports.is_live(cookie).await);
}

pub(super) async fn one_replica_claims_a_confirmation(ports: &StorePorts) {
    ports.bind_corp(ProviderKind::Ldap).await;
    let users = [ports.admit(person("1", "ann", &[])).await, ports.admit(person("2", "ben", &[])).await];
    ports.sign_in(&users[0], "s1", None).await;
    ports.sign_in(&users[0], "s2", None).await;
    ports.runtime.clock.advance(Duration::from_secs(600));
    let claimed = join_all((0..8).map(|_| ports.due(ProviderKind::Ldap))).await;
    let claimed: Vec<_> = claimed.iter().flatten().collect();
    assert_eq!(claimed.len(), 1, "once for each person with a session: {claimed:?}");
    assert_eq!((claimed[0].user_id, claimed[0].session), (users[0].id, None));
}

pub(super) async fn released_confirmation_is_due_again(ports: &StorePorts) {
    let user = ports.admit(person("1", "ann", &[])).await;
    ports.sign_in(&user, "s1", Some("refresh-1")).await;
    ports.runtime.clock.advance(Duration::from_secs(600));
    for kind in [ProviderKind::Oidc, ProviderKind::Ldap] {
        let due = ports.due(kind).await;
        assert_eq!(due.len(), 1, "{kind:?}");
        let in_a_minute = ports.now() - Duration::from_secs(540) + Duration::from_secs(60);
        ports.federation.release(&due, in_a_minute).await.unwrap();
        ports.runtime.clock.advance(Duration::from_secs(60));
        assert!(ports.due(kind).await.is_empty(), "{kind:?}");
        ports.runtime.clock.advance(Duration::from_secs(1));
        assert_eq!(ports.due(kind).await.len(), 1, "{kind:?}");
    }
}

/// A provider may answer a request after it has ended the session.
pub(super) async fn confirmation_after_the_end_of_its_session_changes_nothing(ports: &StorePorts) {
    let users = [ports.admit(person("1", "ann", &[])).await, ports.admit(person("2", "ben", &[])).await];
    ports.grant(record(Subject::group("corp", "ops").unwrap())).await.unwrap();
    let (own, _) = ports.sign_in(&users[0], "s1", Some("refresh-1")).await;
    ports.sign_in(&users[1], "s2", Some("refresh-2")).await;
    let signed_in_at = ports.now();
    ports.runtime.clock.advance(Duration::from_secs(600));
    let due = [ports.due(ProviderKind::Oidc).await, ports.due(ProviderKind::Ldap).await];
    assert_eq!(due.each_ref().map(Vec::len), [2, 2]);
    assert!(ports.sessions.end(&ports.people(), own.id).await.unwrap());
    ports.withdraw(ports.named(Some("2"), None)).await;
    for due in due.iter().flatten() {
        if due.session.is_some() || due.user_id == users[1].id {
            let answer = person(&due.subject, "name", &["ops"]);
            ports.federation.confirm(due, &answer, Some("refresh-3".into()), ports.now()).await.unwrap();
        }
    }
    assert_eq!(ports.confirmed_at(&users[0]).await, Some(signed_in_at), "ended by the user");
    assert_eq!(ports.confirmed_at(&users[1]).await, None, "ended by the provider");
    for user in &users {
        assert_eq!(ports.groups(user).await, 0);
    }
}

pub(super) async fn idle_session_is_not_live_for_its_provider(ports: &StorePorts) {
    let user = ports.admit(person("1", "ann", &[])).await;
    ports.sign_in(&user, "s1", Some("refresh-1")).await;
    ports.runtime.clock.advance(IDLE - Duration::from_secs(1));
    for kind in [ProviderKind::Oidc, ProviderKind::Ldap] {
        assert_eq!(ports.due(kind).await.len(), 1, "{kind:?}");
    }
    ports.runtime.clock.advance(Duration::from_secs(600));
    for kind in [ProviderKind::Oidc, ProviderKind::Ldap] {
        assert!(ports.due(kind).await.is_empty(), "{kind:?}");
    }
    ports.sign_in(&user, "s2", None).await;
    assert_eq!(ports.withdraw(ports.named(None, Some("s2"))).await, 1);
    assert_eq!(ports.confirmed_at(&user).await, None, "the session s1 is over");
}

pub(super) async fn own_logout_keeps_the_confirmation(ports: &StorePorts) {
    let (ann, ben) = (ports.admit(person("1", "ann", &[])).await, ports.admit(person("2", "ben", &[])).await);
    let (session, _) = ports.sign_in(&ann, "s1", None).await;
    ports.sign_in(&ben, "s2", None).await;
    assert!(ports.sessions.end(&ports.people(), session.id).await.unwrap());
    assert_eq!(ports.withdraw(ports.named(Some("1"), Some("s1"))).await, 0);
    assert!(ports.confirmed_at(&ann).await.is_some(), "the user has ended the session");
    assert_eq!(ports.withdraw(ports.named(Some("1"), None)).await, 0);
    assert_eq!(ports.confirmed_at(&ann).await, None, "the provider names the person");
    ports.runtime.clock.advance(IDLE);
    assert_eq!(ports.withdraw(ports.named(Some("2"), Some("s2"))).await, 1);
    assert_eq!(ports.confirmed_at(&ben).await, None, "an idle session");
}

pub(super) async fn provider_ends_the_sessions_that_it_names(ports: &StorePorts) {
    ports.bind_corp(ProviderKind::Oidc).await;
    let (ann, ben) = (ports.admit(person("1", "ann", &[])).await, ports.admit(person("2", "ben", &[])).await);
    let mut cookies = Vec::new();
    for (user, sid) in [(&ann, "s1"), (&ann, "s2"), (&ben, "s3"), (&ben, "s4")] {
        cookies.push(ports.sign_in(user, sid, None).await.1);
    }
    let local = ports.user("local", Role::Viewer).await;
    cookies.push(ports.session(&local).await.1);
    assert_eq!(ports.withdraw(ports.named(Some("2"), Some("s1"))).await, 0, "another person's session");
    assert_eq!(ports.withdraw(ports.named(None, None)).await, 0);
    assert_eq!(ports.withdraw(ports.named(None, Some("s1"))).await, 1);
    assert!(ports.confirmed_at(&ann).await.is_some(), "another session is left");
    assert_eq!(ports.withdraw(ports.named(Some("2"), None)).await, 2);
    let mut live = Vec::new();
    for cookie in cookies {
        live.push(ports.is_live(cookie).await);
    }
    assert_eq!(live, [false, true, false, false, true]);
}

pub(super) async fn session_opens_only_for_an_enabled_user_of_the_provider(ports: &StorePorts) {
    let user = ports.admit(person("1", "ann", &[])).await;
    let (session, _) = ports.sign_in(&user, "s1", None).await;
    assert_eq!(ports.federation.provider_of(session.id).await.unwrap(), Some(corp()));
    let local = ports.user("local", Role::Viewer).await;
    let (local_session, ..) = ports.session(&local).await;
    assert_eq!(ports.federation.provider_of(local_session.id).await.unwrap(), None);

    let disabled = UserPatch { disabled: Some(true), ..UserPatch::default() };
    ports.users.update(&ports.people(), user.id, disabled, ports.now()).await.unwrap();
    for user in [user.id, local.id] {
        let record = SessionRecord {
            user_id: user,
            cookie: ports.secret(),
            refresh: ports.secret(),
            source_ip: None,
            user_agent: None,
            at: ports.now(),
            expires_at: ports.now() + Duration::from_secs(3600),
            authenticated_at: ports.now(),
            factor_at: None,
            throttle_key: None,
        };
        let origin = ProviderSession { provider: corp(), sid: None, refresh_token: None, factor_at: None };
        let permit = ports.permit(AccessRequest::to(Verb::Login, Resource::Session).named("corp"));
        let refused = ports.federation.open(&permit, record, origin).await;
        assert_eq!(refused.unwrap_err().cause, Cause::BadCredentials);
    }
}

pub(super) async fn logout_token_is_used_once(ports: &StorePorts) {
    let user = ports.admit(person("1", "ann", &[])).await;
    ports.sign_in(&user, "s1", None).await;
    let ended = ports.named(Some("1"), None);
    let withdrawn = join_all((0..8).map(|_| ports.withdraw_once(ended.clone()))).await;
    assert_eq!(withdrawn.into_iter().flatten().collect::<Vec<_>>(), [1]);
    ports.sign_in(&user, "s2", None).await;
    assert_eq!(ports.withdraw_once(ended.clone()).await, None, "used before");
    let EndedSessions::Named { token, .. } = ended else { panic!("a logout token") };
    let provider = ProviderId::new("other").unwrap();
    let of_another = EndedSessions::Named { provider, subject: Some("1".to_owned()), sid: None, token };
    assert_eq!(ports.withdraw_once(of_another).await, Some(0), "ids are of a provider");
}
