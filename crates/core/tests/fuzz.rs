//! Fuzz tests of the parsers in core.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;

use pilothouse_core::{
    audit::{Checkpoint, OperationQuery},
    cluster::ClusterName,
    connection::{ApiServer, Credential},
    diagnosis::{MAX_QUOTE_CHARS, clean, parse},
    inventory::{LISTS, SearchQuery},
    kubeconfig::Kubeconfig,
    name::{ContainerName, Namespace, ObjectName},
    operation::Entry,
    problem::ProblemQuery,
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
        "kind=pods,services",
        "q=a",
        "label=app in (web,",
        "!app,",
        "notin",
        "level=bad,warn",
        "rule=",
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
        let errors = [
            OperationQuery::parse(&pairs).err(),
            SearchQuery::parse(&pairs).err(),
            ProblemQuery::parse(&pairs).err(),
        ];
        for error in errors.into_iter().flatten() {
            assert!(!error.context.fields.is_empty(), "the error names the field");
        }
    });
}

/// Messages of the cluster: the parsers find only what the message contains, and a quote contains no credential.
#[test]
fn fuzz_diagnosis_messages() {
    let dictionary = [
        "0/3 nodes are available: ",
        "1 Insufficient cpu",
        "node(s) had untolerated taint {a: b}",
        ". preemption: ",
        "secret \"a\" not found",
        "couldn't find key a in ConfigMap ",
        "exceeded quota: a,",
        "admission webhook \"a\" denied the request",
        "storageclass.storage.k8s.io \"a\" not found",
        "401 Unauthorized",
        "Liveness probe failed: ",
        "https://a:b@",
        "password=",
        "Bearer ",
        "-----BEGIN PRIVATE KEY-----",
        "sha256:",
    ];
    fuzz("diagnosis_messages", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        if let Some(parsed) = parse::unschedulable(&text) {
            assert!(parsed.obstacles.iter().all(|obstacle| text.contains(&obstacle.text)));
            assert!(parsed.variant().is_none() || !parsed.obstacles.is_empty());
        }
        match parse::missing(&text) {
            Some(parse::Missing::Secret(name) | parse::Missing::ConfigMap(name)) => {
                assert!(!name.is_empty() && text.contains(&name));
            }
            Some(parse::Missing::Key { key, name, .. }) => {
                assert!(text.contains(&key) && text.contains(&name));
            }
            None => {}
        }
        if let Some(refusal) = parse::refusal(&text) {
            assert!(text.contains(&refusal.by));
        }
        for reason in ["Unhealthy", "Killing", "ProvisioningFailed", "FailedMount", "ErrImagePull"] {
            let _ = parse::failed_probe(reason, &text);
            let _ = parse::attach_trouble(reason, &text);
            let _ = parse::image_pull(reason, &text);
            let class = parse::claim_trouble(reason, &text).map(|trouble| trouble.class);
            assert!(class.is_none_or(|class| text.contains(&class)));
        }
        for credential in ["", "password=canary", "https://a:canary@host/", "Bearer canary-canary"] {
            let quote = clean(&format!("{text} {credential}"));
            assert!(quote.chars().count() <= MAX_QUOTE_CHARS, "{quote}");
            assert!(!quote.chars().any(char::is_control), "{quote:?}");
            assert!(credential.is_empty() || text.contains("canary") || !quote.contains("canary"), "{quote}");
        }
    });
}
