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
        Admission, Binding, DueConfirmation, EndedSessions, MAX_PENDING_LOGINS_OF_ADDRESS, PendingLogin,
        Person, ProviderKind, ProviderSession,
    },
    rights::Subject,
    role::Role,
    session::{ClientAddress, SecretHash, Session, SessionRecord},
    user::{User, UserPatch, Username},
};

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
        let permit = self.permit(AccessRequest::to(Verb::Revoke, Resource::Session).named("corp"));
        self.federation.withdraw(&permit, ended, self.now()).await.unwrap()
    }

    async fn due(&self) -> Vec<DueConfirmation> {
        let (now, limit) = (self.now(), 10);
        self.federation.claim_due(now - Duration::from_secs(540), now, limit).await.unwrap()
    }

    async fn is_live(&self, cookie: SecretHash) -> bool {
        self.sessions.find(cookie).await.unwrap().is_some()
    }

    /// Names of the groups through which the user has grants.
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

    assert!(ports.due().await.is_empty(), "just confirmed");
    ports.runtime.clock.advance(Duration::from_secs(600));
    let due = ports.due().await;
    let [due] = &*due else { panic!("{due:?}") };
    assert_eq!((due.user_id, due.session, &*due.subject), (user.id, Some(session.id), "1"));
    assert_eq!(due.refresh_token.as_ref().unwrap().expose_secret(), "refresh-1");
    assert!(ports.due().await.is_empty(), "claimed");

    let now = person("1", "mei", &["ops", "dev"]);
    ports.federation.confirm(due, &now, Some("refresh-2".into()), ports.now()).await.unwrap();
    assert_eq!(ports.groups(&user).await, 2);
    assert_ne!(ports.sessions.find(cookie).await.unwrap().unwrap().rights, stamp);
    assert_eq!(ports.federation.confirmed_at(user.id).await.unwrap(), Some(ports.now()));
    ports.runtime.clock.advance(Duration::from_secs(600));
    assert_eq!(ports.due().await[0].refresh_token.as_ref().unwrap().expose_secret(), "refresh-2");

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
    let claimed = join_all((0..8).map(|_| ports.due())).await;
    let claimed: Vec<_> = claimed.iter().flatten().collect();
    assert_eq!(claimed.len(), 1, "once for each person with a session: {claimed:?}");
    assert_eq!((claimed[0].user_id, claimed[0].session), (users[0].id, None));
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
    let named = |subject: Option<&str>, sid: Option<&str>| EndedSessions::Named {
        provider: corp(),
        subject: subject.map(str::to_owned),
        sid: sid.map(str::to_owned),
    };
    assert_eq!(ports.withdraw(named(Some("2"), Some("s1"))).await, 0, "another person's session");
    assert_eq!(ports.withdraw(named(None, None)).await, 0);
    assert_eq!(ports.withdraw(named(None, Some("s1"))).await, 1);
    assert!(ports.federation.confirmed_at(ann.id).await.unwrap().is_some(), "another session is left");
    assert_eq!(ports.withdraw(named(Some("2"), None)).await, 2);
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
    let (jti, until) = (ports.secret(), ports.now() + Duration::from_secs(240));
    let corp = corp();
    let used = join_all((0..8).map(|_| ports.federation.first_use(&corp, jti, until))).await;
    assert_eq!(used.into_iter().filter(|used| *used.as_ref().unwrap()).count(), 1);
    let other = ProviderId::new("other").unwrap();
    assert!(ports.federation.first_use(&other, jti, until).await.unwrap(), "ids are of a provider");
}
