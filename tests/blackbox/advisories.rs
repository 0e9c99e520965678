//! Reproduces advisories of comparable products against the built binary. Checks that each line of docs/advisories.md
//! names an existing test or gives a reason.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::json;

use crate::support::{Canaries, ECHO_STATUSES, EchoServer, PASSWORD, Server};

const LIST: &str = include_str!("../../docs/advisories.md");

/// All identifiers that the list must contain.
const ADVISORIES: [&str; 96] = [
    "CVE-2023-22463",
    "CVE-2026-125370",
    "CVE-2023-22478",
    "CVE-2025-62714",
    "ks-devops#596",
    "CVE-2023-22479",
    "CVE-2023-37916",
    "CVE-2023-37917",
    "CVE-2024-46528",
    "CVE-2018-18264",
    "CVE-2025-14269",
    "CVE-2021-36782",
    "CVE-2023-22649",
    "CVE-2024-58269",
    "CVE-2024-8365",
    "CVE-2025-62705",
    "CVE-2025-62513",
    "CVE-2021-31999",
    "CVE-2021-36776",
    "CVE-2021-25320",
    "CVE-2025-54468",
    "CVE-2026-88811",
    "CVE-2026-44945",
    "CVE-2019-13209",
    "CVE-2026-88804",
    "CVE-2019-11202",
    "CVE-2023-32199",
    "CVE-2023-22650",
    "CVE-2019-6287",
    "CVE-2025-23391",
    "CVE-2024-58260",
    "CVE-2025-23388",
    "CVE-2024-58259",
    "CVE-2025-6203",
    "CVE-2023-32198",
    "CVE-2025-67601",
    "CVE-2024-52280",
    "CVE-2024-22424",
    "CVE-2022-29165",
    "CVE-2023-22482",
    "CVE-2021-26921",
    "CVE-2023-40025",
    "CVE-2024-41666",
    "CVE-2020-8827",
    "CVE-2024-21652",
    "CVE-2024-21662",
    "CVE-2025-6004",
    "CVE-2020-11576",
    "CVE-2025-6011",
    "CVE-2025-54999",
    "CVE-2022-41354",
    "CVE-2024-36106",
    "CVE-2023-40029",
    "CVE-2025-23216",
    "CVE-2026-42880",
    "CVE-2026-45737",
    "CVE-2025-55190",
    "CVE-2024-21661",
    "CVE-2025-55191",
    "CVE-2025-59531",
    "CVE-2025-59537",
    "CVE-2025-59538",
    "CVE-2022-31016",
    "CVE-2019-11253",
    "CVE-2026-44882",
    "CVE-2026-44883",
    "CVE-2024-33662",
    "CVE-2018-12678",
    "CVE-2026-44885",
    "CVE-2024-6538",
    "CVE-2026-32828",
    "CVE-2026-44936",
    "CVE-2022-39383",
    "CVE-2019-11250",
    "CVE-2020-8565",
    "CVE-2020-8559",
    "CVE-2018-1002105",
    "CVE-2022-3162",
    "CVE-2022-45933",
    "GHSA-8h6m-wv39-239m",
    "CVE-2023-46254",
    "GHSA-c85r-fwc7-45vc",
    "CVE-2019-14436",
    "CVE-2022-31247",
    "GHSA-64jq-m7rq-768h",
    "CVE-2023-23947",
    "CVE-2026-41052",
    "rancher#54050",
    "rancher#17286",
    "rancher#30862",
    "rancher#55383",
    "kubestellar#5406",
    "kubestellar#7381",
    "paralus#201",
    "kubernetes#110850",
    "LibreChat#12187",
];
/// A line of the table: its number, advisories, and the tests that cover them, or the reason for none.
struct Line<'a> {
    number: usize,
    advisories: Vec<&'a str>,
    tests: Vec<(&'a str, &'a str)>,
    reason: &'a str,
}

fn lines() -> Vec<Line<'static>> {
    let rows = LIST.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let lines = rows.filter_map(|cells| {
        let number = cells[0].parse().ok()?;
        assert_eq!(cells.len(), 4, "{cells:?}");
        let is_id = |word: &&str| ["CVE-", "GHSA-", "#"].into_iter().any(|part| word.contains(part));
        let advisories = cells[1].split([' ', ',']).filter(is_id).collect();
        let tests =
            cells[3].split('`').skip(1).step_by(2).map(|test| test.split_once(": ").expect(test)).collect();
        Some(Line { number, advisories, tests, reason: cells[3] })
    });
    lines.collect()
}

#[test]
fn every_advisory_has_an_existing_test_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lines = lines();
    let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
    assert_eq!(numbers, (1..=55).collect::<Vec<_>>());
    let listed: BTreeSet<_> = lines.iter().flat_map(|line| line.advisories.iter().copied()).collect();
    let expected: BTreeSet<_> = ADVISORIES.into_iter().collect();
    assert_eq!(listed, expected);
    let mut named = BTreeSet::new();
    for line in &lines {
        for (file, test) in &line.tests {
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {test}(")), "{}: {file} does not contain {test}", line.number);
            named.insert(*test);
        }
        assert!(!line.tests.is_empty() || line.reason.starts_with("Not here: "), "{}", line.number);
    }
    // conversely, the list names each test with this prefix
    let files = [
        "crates/core/tests/advisories.rs",
        "crates/crypto/tests/advisories.rs",
        "crates/http/tests/api/advisories.rs",
        "crates/http/tests/api/advisories_data.rs",
        "crates/kube/tests/hostile/advisories.rs",
        "tests/blackbox/advisories.rs",
    ];
    for file in files {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let functions = text.lines().map(|line| line.trim_start_matches("async "));
        let tests = functions.filter_map(|line| line.strip_prefix("fn cve_")?.split('(').next());
        for test in tests {
            assert!(named.contains(format!("cve_{test}").as_str()), "the list does not name cve_{test}");
        }
    }
}

/// Rancher: headers of the client (`Impersonate-User`, or any that `Connection` named) were forwarded to the cluster.
#[tokio::test]
async fn cve_2021_36776_client_headers_are_not_forwarded_to_the_cluster() {
    let echo = EchoServer::start();
    echo.respond_with(ECHO_STATUSES[0]);
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let hostile = json!({"name": "hostile", "auth_type": "token", "api_server": echo.address, "token": "canary-token",
        "ca_certificate": echo.ca, "skip_test": true});
    let id = &admin.post("/api/k8s/clusters", hostile).await.data()["cluster"]["id"];
    let session = admin.session.clone().unwrap();
    for (name, value) in [
        ("impersonate-user", "canary-somebody"),
        ("impersonate-group", "canary-somebody"),
        ("connection", "authorization, canary-somebody"),
        ("x-remote-user", "canary-somebody"),
        ("x-forwarded-for", "canary-somebody"),
        ("accept", "canary/somebody"),
        ("user-agent", "canary-somebody"),
    ] {
        let request = reqwest::Client::builder().no_proxy().build().unwrap();
        let query = format!("cluster_id={id}&namespace=default&pod_name=web");
        let url = format!("{}/api/k8s/pods/logs?{query}", server.address);
        let request = request.get(url).bearer_auth(&session.access_token).header(name, value);
        request.header("cookie", format!("session_id={}", session.session_id)).send().await.unwrap();
    }
    assert!(echo.request_count() >= 7);
    let heads = echo.requests_to("/");
    assert!(!heads.contains("canary-somebody") && !heads.contains("canary/somebody"), "{heads}");
    assert_eq!(
        heads.matches("authorization: Bearer canary-token").count(),
        echo.request_count(),
        "each request carries the stored token"
    );
}

/// Kuboard and others: the default admin had a known password, or each start created it again.
#[tokio::test]
async fn cve_2019_11202_deleted_first_admin_is_not_created_again() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let user = json!({"username": "second", "password": PASSWORD, "role": "super_admin"});
    admin.post("/api/auth/users", user).await.data();
    let second = server.client().sign_in("second", PASSWORD).await;
    let users = second.rows("/api/auth/users", "users").await;
    let first = users.iter().find(|user| user["username"] == "admin").unwrap()["id"].clone();
    second.post("/api/auth/users/delete", json!({"id": first})).await.data();
    // restart with ADMIN_PASSWORD, the password of the deleted admin, and then without
    let server = server.stop().await.start().await;
    server.client().try_sign_in("admin", PASSWORD).await.refused("AUTHENTICATION_ERROR");
    let server = server.stop().await.unset("ADMIN_PASSWORD").start().await;
    assert!(!server.install.file("initial-admin-password").exists());
    let second = server.client().sign_in("second", PASSWORD).await;
    assert_eq!(second.rows("/api/auth/users", "users").await.len(), 1);
}

/// KubePi: the binary contained the signing key. Here it contains no key of an install.
#[tokio::test]
async fn cve_2023_22463_binary_contains_no_key() {
    let server = Server::fresh().await;
    let key = fs::read_to_string(server.install.file("master.key")).unwrap().trim().to_owned();
    let foreign = Server::fresh().await;
    let (session, other) = (server.admin().await.session.unwrap(), foreign.admin().await.session.unwrap());
    let binary = fs::read(env!("CARGO_BIN_EXE_pilothouse")).unwrap();
    let canaries = Canaries::new(&[("the master key", key.into_bytes())]);
    assert_eq!(canaries.find_uncompressed(&binary), Vec::<String>::new());
    let mut client = server.client();
    client.session = Some(session);
    client.get("/api/auth/me").await.data();
    client.session.as_mut().unwrap().access_token = other.access_token;
    client.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
}
