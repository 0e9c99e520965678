//! Tests of the adapter with an LDAP server that sends correct or false data, fails or hangs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod server;

use std::{sync::Arc, time::Duration};

use pilothouse_core::{
    Cause,
    error::Reason,
    provider::{Directory as _, PasswordCheck, Person},
};
use pilothouse_identity::{
    DnsResolver, EgressGuard, EgressRules, LdapDirectory, LdapSettings, ResolverLimits, SystemResolver,
};
use server::{Behaviour, Entry, Server, element, message, result};
use tokio::runtime::Handle;

const SEARCHER: &str = "cn=search,dc=example";
const MEI: &str = "uid=mei,ou=people,dc=example";

fn entries() -> Vec<Entry> {
    vec![
        Entry::new(SEARCHER, Some("canary-search"), &[]),
        Entry::new("ou=people,dc=example", None, &[]),
        Entry::new(
            MEI,
            Some("canary-mei"),
            &[("uid", "mei"), ("entryUUID", "6f0c"), ("displayName", "Mei 梅"), ("mail", "mei@example.com")],
        ),
        Entry::new(
            "uid=ben,ou=people,dc=example",
            Some("ben-password"),
            &[("uid", "ben"), ("entryUUID", "77aa")],
        ),
        Entry::new("cn=shop,ou=groups,dc=example", None, &[("cn", "shop"), ("member", MEI)]),
        Entry::new(
            "cn=dev,ou=groups,dc=example",
            None,
            &[("cn", "dev"), ("member", "cn=shop,ou=groups,dc=example")],
        ),
        Entry::new(
            "cn=ops,ou=groups,dc=example",
            None,
            &[("cn", "ops"), ("member", "uid=ben,ou=people,dc=example")],
        ),
    ]
}

fn settings(url: &str) -> LdapSettings {
    LdapSettings {
        url: url.to_owned(),
        start_tls: false,
        ca: None,
        bind_dn: SEARCHER.to_owned(),
        bind_password: "canary-search".into(),
        user_base: "ou=people,dc=example".to_owned(),
        user_filter: "(uid={username})".to_owned(),
        group_base: "ou=groups,dc=example".to_owned(),
        group_filter: "(member={dn})".to_owned(),
        group_name: "cn".to_owned(),
    }
}

fn directory(settings: LdapSettings) -> Result<LdapDirectory, pilothouse_core::Error> {
    let resolver = DnsResolver::new(Arc::new(SystemResolver), ResolverLimits::REGISTERED, Handle::current());
    let rules = EgressRules { allow_loopback: true, ..EgressRules::default() };
    let guard = EgressGuard { rules: Arc::new(rules), resolver: Arc::new(resolver) };
    LdapDirectory::new(settings, guard, Handle::current())
}

async fn started() -> (Server, LdapDirectory) {
    let server = Server::start(entries()).await;
    let directory = directory(settings(&server.url)).unwrap();
    (server, directory)
}

async fn sign_in(directory: &LdapDirectory, username: &str, password: &str) -> Result<Option<Person>, Cause> {
    match directory.sign_in(username, &password.into()).await {
        Ok(PasswordCheck::Right(person)) => Ok(Some(person)),
        Ok(PasswordCheck::Wrong { .. }) => Ok(None),
        Err(error) => Err(error.cause),
    }
}

#[tokio::test]
async fn person_signs_in_with_nested_groups() {
    let (server, directory) = started().await;
    let person = sign_in(&directory, "Mei", "canary-mei").await.unwrap().unwrap();
    assert_eq!((person.subject(), person.name(), person.display_name()), ("uuid:6f0c", "mei", "Mei 梅"));
    assert_eq!(person.groups().iter().collect::<Vec<_>>(), ["dev", "shop"]);
    assert_eq!(directory.find("uuid:6f0c").await.unwrap(), Some(person));
    directory.check().await.unwrap();
    server.change(|entries| entries.retain(|entry| entry.dn != MEI));
    assert_eq!(directory.find("uuid:6f0c").await.unwrap(), None);
}

#[tokio::test]
async fn wrong_and_unknown_cost_the_same_binds() {
    let (server, directory) = started().await;
    for (username, password) in [("mei", "wrong"), ("nobody", "wrong"), ("nobody", "canary-mei")] {
        assert_eq!(sign_in(&directory, username, password).await, Ok(None), "{username}");
        let binds = server.binds();
        assert_eq!(binds.len(), 2, "{binds:?}");
        assert_eq!(binds[0].0, SEARCHER);
    }
}

#[tokio::test]
async fn wrong_password_names_the_person_it_was_tried_for() {
    let server = Server::start(entries()).await;
    let user_filter = "(|(uid={username})(mail={username}))".to_owned();
    let directory = directory(LdapSettings { user_filter, ..settings(&server.url) }).unwrap();
    for (username, name) in [("mei", Some("mei")), ("MEI@example.com", Some("mei")), ("nobody", None)] {
        let checked = directory.sign_in(username, &"wrong".into()).await.unwrap();
        assert_eq!(checked, PasswordCheck::Wrong { name: name.map(str::to_owned) }, "{username}");
    }
    assert!(sign_in(&directory, "mei@example.com", "canary-mei").await.unwrap().is_some());
}

#[tokio::test]
async fn empty_password_is_refused_before_any_bind() {
    let (server, directory) = started().await;
    server.behave(Behaviour::AnonymousBinds);
    for (username, password) in [("mei", ""), ("", "canary-mei"), ("", "")] {
        assert_eq!(sign_in(&directory, username, password).await, Ok(None));
    }
    assert!(server.binds().is_empty());
}

#[tokio::test]
async fn names_are_no_filters() {
    let (_server, directory) = started().await;
    let parts = [
        "*",
        "mei*",
        "*)(uid=*",
        "mei)(|(uid=*",
        "\\6dei",
        "mei\0",
        ")(",
        "(",
        ")",
        "\\",
        "&",
        "|",
        "!",
        "=*",
    ];
    let mut tried = 0;
    for first in parts {
        for second in parts {
            let name = format!("{first}{second}");
            assert_eq!(sign_in(&directory, &name, "canary-mei").await, Ok(None), "{name:?}");
            tried += 1;
        }
    }
    assert_eq!(tried, 196);
    for name in ["{dn}", "{username}", "mei)(objectClass=*", "*)(objectClass=*))(&(uid=mei"] {
        assert_eq!(sign_in(&directory, name, "canary-mei").await, Ok(None), "{name:?}");
    }
}

#[tokio::test]
async fn several_and_disabled_people_are_nobody() {
    let (server, directory) = started().await;
    for (attribute, value) in [("userAccountControl", "514"), ("nsAccountLock", "TRUE")] {
        server.change(|people| {
            *people = entries();
            people[2].attributes.push((attribute.to_owned(), value.to_owned()));
        });
        assert_eq!(sign_in(&directory, "mei", "canary-mei").await, Ok(None), "{attribute}");
        assert_eq!(directory.find("uuid:6f0c").await.unwrap(), None, "{attribute}");
    }
    server.change(|people| {
        *people = entries();
        people.push(Entry::new(
            "uid=mei,ou=more,ou=people,dc=example",
            Some("canary-mei"),
            &[("uid", "mei")],
        ));
    });
    assert_eq!(sign_in(&directory, "mei", "canary-mei").await, Ok(None), "two entries");
}

#[tokio::test]
async fn incomplete_groups_are_an_error() {
    let (server, directory) = started().await;
    // deeper than five levels
    server.change(|entries| {
        for level in 0..7 {
            let member =
                if level == 0 { MEI.to_owned() } else { format!("cn=g{},ou=groups,dc=example", level - 1) };
            let (dn, name) = (format!("cn=g{level},ou=groups,dc=example"), format!("g{level}"));
            entries.push(Entry::new(&dn, None, &[("cn", name.as_str()), ("member", member.as_str())]));
        }
    });
    assert_eq!(sign_in(&directory, "mei", "canary-mei").await, Err(Cause::GroupsMissing));
    server.change(|people| {
        *people = entries();
        people.push(Entry::new("cn=x,ou=groups,dc=example", None, &[("member", MEI)]));
    });
    assert_eq!(sign_in(&directory, "mei", "canary-mei").await, Err(Cause::GroupsMissing), "without a name");
    server.change(|people| {
        *people = entries();
        for n in 0..501 {
            let (dn, name) = (format!("cn=n{n},ou=groups,dc=example"), format!("n{n}"));
            people.push(Entry::new(&dn, None, &[("cn", name.as_str()), ("member", MEI)]));
        }
    });
    assert_eq!(sign_in(&directory, "mei", "canary-mei").await, Err(Cause::GroupsMissing), "too many");
    // groups that contain each other end
    server.change(|people| {
        *people = entries();
        people.push(Entry::new(
            "cn=loop,ou=groups,dc=example",
            None,
            &[
                ("cn", "loop"),
                ("member", "cn=dev,ou=groups,dc=example"),
                ("member", "cn=loop,ou=groups,dc=example"),
            ],
        ));
    });
    let person = sign_in(&directory, "mei", "canary-mei").await.unwrap().unwrap();
    assert_eq!(person.groups().len(), 3);
}

#[tokio::test]
async fn failing_servers_are_unavailable() {
    let (server, directory) = started().await;
    let cases: [(&str, Behaviour); 15] = [
        ("closed", Behaviour::Closes),
        ("busy", Behaviour::Binds(51)),
        ("wants TLS", Behaviour::Binds(13)),
        ("search account refused", Behaviour::Binds(49)),
        ("no LDAP", Behaviour::Searches(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ("indefinite length", Behaviour::Searches(|_| b"\x30\x80\x02\x01\x02\x65\x00\x00\x00".to_vec())),
        ("2 GiB", Behaviour::Searches(|_| b"\x30\x84\x7f\xff\xff\xff".to_vec())),
        ("a request", Behaviour::Searches(|id| message(id, &element(0x63, b"")))),
        ("no entry", Behaviour::Searches(|id| message(id, &element(0x64, b"")))),
        (
            "name that is no text",
            Behaviour::Searches(|id| {
                let entry = [element(0x04, b"\xff\xfe"), element(0x30, b"")].concat();
                [message(id, &element(0x64, &entry)), message(id, &result(0x65, 0))].concat()
            }),
        ),
        (
            "deep nesting",
            Behaviour::Searches(|id| {
                let mut nested = Vec::new();
                for _ in 0..5000 {
                    nested = element(0x30, &nested);
                }
                message(id, &element(0x64, &nested))
            }),
        ),
        ("response to a bind", Behaviour::Searches(|id| message(id, &result(0x61, 0)))),
        ("referral", Behaviour::Searches(|id| message(id, &result(0x65, 10)))),
        ("operations error", Behaviour::Searches(|id| message(id, &result(0x65, 1)))),
        ("empty result", Behaviour::Searches(|id| message(id, &element(0x65, b"")))),
    ];
    for (name, behaviour) in cases {
        server.behave(behaviour);
        let refused = sign_in(&directory, "mei", "canary-mei").await;
        assert_eq!(refused, Err(Cause::ProviderUnavailable), "{name}");
        server.behave(Behaviour::Honest);
        assert!(sign_in(&directory, "mei", "canary-mei").await.unwrap().is_some(), "after: {name}");
    }
}

#[tokio::test]
async fn hanging_server_is_given_up() {
    let (server, directory) = started().await;
    server.behave(Behaviour::Hangs);
    let given_up =
        tokio::time::timeout(Duration::from_secs(7), sign_in(&directory, "mei", "canary-mei")).await;
    assert_eq!(given_up.expect("within 5 s"), Err(Cause::ProviderUnavailable));
}

#[tokio::test]
async fn sign_ins_at_once_are_limited() {
    let (server, directory) = started().await;
    server.behave(Behaviour::Hangs);
    let directory = Arc::new(directory);
    let logins: Vec<_> = (0..48)
        .map(|_| {
            let directory = directory.clone();
            tokio::spawn(async move { sign_in(&directory, "mei", "canary-mei").await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(server.connections(), 32, "the others wait");
    for login in logins {
        let refused = login.await.unwrap().unwrap_err();
        assert!(matches!(refused, Cause::ProviderUnavailable | Cause::Overloaded), "{refused:?}");
    }
    server.behave(Behaviour::Honest);
    assert!(sign_in(&directory, "mei", "canary-mei").await.unwrap().is_some());
}

#[tokio::test]
async fn password_is_not_sent_to_a_server_that_refuses_tls() {
    let server = Server::start(entries()).await;
    let directory = directory(LdapSettings { start_tls: true, ..settings(&server.url) }).unwrap();
    assert_eq!(sign_in(&directory, "mei", "canary-mei").await, Err(Cause::ProviderUnavailable));
    assert!(server.binds().is_empty());
}

#[tokio::test]
async fn malformed_settings_are_named() {
    let base = || settings("ldap://127.0.0.1:1");
    let cases = [
        ("url", Reason::Malformed, settings("ldap://ldap.example.com")),
        ("url", Reason::Malformed, settings("https://ldap.example.com")),
        ("user_filter", Reason::Malformed, LdapSettings { user_filter: "(uid=mei)".to_owned(), ..base() }),
        (
            "user_filter",
            Reason::Malformed,
            LdapSettings { user_filter: "uid={username}".to_owned() + ")", ..base() },
        ),
        (
            "group_filter",
            Reason::Malformed,
            LdapSettings { group_filter: "(member={username})".to_owned(), ..base() },
        ),
        ("bind_password", Reason::Required, LdapSettings { bind_password: "".into(), ..base() }),
    ];
    for (field, reason, settings) in cases {
        let error = directory(settings).err().unwrap();
        assert_eq!((&*error.context.fields[0].name, error.context.fields[0].reason), (field, reason));
    }
    assert!(!format!("{:?}", base()).contains("canary"));
}
