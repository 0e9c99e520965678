//! Fuzz tests of the parsers in core.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;

use pilothouse_core::{
    audit::{Checkpoint, OperationQuery},
    cluster::ClusterName,
    connection::{ApiServer, Credential},
    inventory::LISTS,
    kubeconfig::Kubeconfig,
    name::{ContainerName, Namespace, ObjectName},
    operation::Entry,
    rights::Ceiling,
    token::{Networks, TokenKind, TokenSecret},
    user::Username,
};
use pilothouse_fuzz::fuzz;
use secrecy::ExposeSecret;

#[test]
fn fuzz_kubeconfig() {
    let dictionary = [
        "exec: {command: sh}",
        "tokenFile: /etc/passwd",
        "auth-provider: {name: gcp}",
        "proxy-url: 'http://p'",
        "as: root",
        "&a",
        "*a",
        "<<: *a",
        "---\n",
        "!!binary ",
        "? ",
        "contexts:",
        "clusters:",
        "users:",
        "current-context: c",
        "server: 'https://k'",
        "token: ",
    ];
    fuzz("kubeconfig", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        match Kubeconfig::connection(&text, None, None) {
            Ok(connection) => {
                // a parsed connection is in normalised form
                let server = connection.server.as_str();
                assert_eq!(ApiServer::new(server).as_ref().map(ApiServer::as_str), Ok(server));
                match &connection.credential {
                    Credential::Token(token) => {
                        let token = token.expose_secret();
                        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
                    }
                    Credential::Certificate { chain, key } => {
                        assert!(
                            chain.contains("-----BEGIN CERTIFICATE-----") && !key.expose_secret().is_empty()
                        );
                    }
                }
            }
            Err(error) => {
                let message = format!("{error} {error:?}");
                assert!(!message.contains("canary"), "{message}");
            }
        }
    });
}

#[test]
fn fuzz_api_tokens() {
    let dictionary =
        ["php_", "phs_", "0", "z", "::ffff:", "/0", "/32", "/128", "\n", "null", "[\"*\"]", "{\"ids\":[1]}"];
    fuzz("api_tokens", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        if let Some(secret) = TokenSecret::parse(&text) {
            assert_eq!(secret.secret().expose_secret(), &*text);
            assert!(text.len() == 40 && TokenKind::of(&text).is_some());
        }
        let lines: Vec<_> = text.lines().collect();
        if let Ok(networks) = Networks::parse(&lines) {
            assert_eq!(Networks::parse(&networks.texts()), Ok(networks));
        }
        if let Ok(ceiling) = serde_json::from_str::<Ceiling>(&text) {
            let printed = serde_json::to_string(&ceiling).unwrap();
            assert_eq!(serde_json::from_str::<Ceiling>(&printed).unwrap(), ceiling);
        }
    });
}

#[test]
fn fuzz_names() {
    let dictionary =
        ["..", "/", "%2f", "://", "@", "https://", "[::1]", ":443", "ａ", "İ", "ß", "\u{301}", "\u{1F88}"];
    fuzz("names", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        let is_segment = |name: &str| {
            !name.is_empty()
                && name != "."
                && name != ".."
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:~".contains(&byte))
        };
        for name in [
            Namespace::new(&*text).map(|name| name.as_str().to_owned()),
            ContainerName::new(&*text).map(|name| name.as_str().to_owned()),
            ObjectName::new(&*text).map(|name| name.as_str().to_owned()),
        ]
        .into_iter()
        .flatten()
        {
            assert_eq!(name, *text, "a name is accepted unchanged or refused");
            assert!(is_segment(&name), "{name:?} is not a path segment");
        }
        // normalisation is idempotent
        if let Ok(name) = Username::new(&text) {
            assert_eq!(Username::new(name.as_str()).as_ref(), Ok(&name));
            assert!(
                name.as_str()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            );
        }
        if let Ok(name) = ClusterName::new(&text) {
            let reparsed = ClusterName::new(name.as_str()).expect("valid name");
            assert_eq!((reparsed.as_str(), reparsed.key()), (name.as_str(), name.key()));
        }
        if let Ok(server) = ApiServer::new(&text) {
            let reparsed = ApiServer::new(server.as_str()).expect("valid address");
            assert_eq!(reparsed, server);
            assert!(
                !server.as_str()["https://".len()..].contains([' ', '@', '?', '#', '\\', '%']),
                "{server}"
            );
        }
    });
}

/// Signed and hashed entries have one canonical text. Parsing the text returns the same entry, and serialising that
/// entry returns the same text.
#[test]
fn fuzz_audit_entries() {
    let dictionary = [
        "\"entry\":\"intent\"",
        "\"outcome\"",
        "\"operation\":{",
        "\\ud800",
        "\\u00e9",
        "\u{e9}",
        "{",
        "[",
        "1.0",
    ];
    let (inputs, entries) = (Cell::new(0_u64), Cell::new(0_u64));
    fuzz("audit_entries", &dictionary, |input| {
        inputs.set(inputs.get() + 1);
        if let Ok(entry) = serde_json::from_slice::<Entry>(input) {
            entries.set(entries.get() + 1);
            let text = entry.canonical().unwrap();
            let reparsed: Entry = serde_json::from_str(&text).expect(&text);
            assert_eq!(reparsed, entry, "{text}");
            assert_eq!(reparsed.canonical().unwrap(), text);
            assert!(!text.contains('\n'), "an entry is one line of an export");
        }
        let text = String::from_utf8_lossy(input);
        if let Some(checkpoint) = Checkpoint::parse(&text) {
            assert_eq!(checkpoint.line().unwrap(), text, "only the canonical form is accepted");
        }
    });
    let (inputs, entries) = (inputs.get(), entries.get());
    assert!(entries * 100 > inputs, "too few of {inputs} inputs are valid entries: {entries}");
}

#[test]
fn fuzz_list_queries() {
    let dictionary = [
        "page=",
        "per_page=",
        "search=",
        "sort=-",
        "status=",
        "namespace=*",
        "type=",
        "cluster_id=",
        "from=",
        "to=",
        "before=",
        "&",
        "=",
        "500",
        "501",
        "2026-01-01T00:00:00Z",
    ];
    fuzz("list_queries", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        let pairs: Vec<_> = text
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for info in LISTS {
            match info.list.parse_page(&pairs) {
                Ok(query) => {
                    assert!(query.page >= 1 && (1..=500).contains(&query.per_page), "{query:?}");
                    let fields = (info.fields)();
                    assert!(query.sort.is_none_or(|sort| fields[sort.field].sorts), "{query:?}");
                    assert!(query.filters.iter().all(|(field, _)| *field < fields.len()), "{query:?}");
                    assert!(!query.kinds.is_empty() || info.kinds.is_empty(), "{query:?}");
                }
                Err(error) => assert!(!error.context.fields.is_empty(), "the error names the field"),
            }
        }
        if let Err(error) = OperationQuery::parse(&pairs) {
            assert!(!error.context.fields.is_empty(), "the error names the field");
        }
    });
}
