//! DNS rebinding: a test name server returns another address from one lookup to the next. The test runs itself again in
//! its own network namespace with its own `resolv.conf`.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use pilothouse_testbed::{Folder, REQUIRE_NODE};
use serde_json::json;

use crate::support::{Client, Install, StubApiServer};

/// Environment variable that is set in the namespace, to the folder in which the test creates the file [`RAN`].
const INSIDE: &str = "PILOTHOUSE_TEST_IN_NAMESPACE";
const RAN: &str = "ran";
/// Exit status of the script if it cannot set up the namespace.
const NO_NAMESPACE: i32 = 77;
/// Sets up the namespace and runs the test `$3` of the binary `$2` in it. The namespace ends with the test.
const SCRIPT: &str = r#"
{
    mount --bind "$1/resolv.conf" /etc/resolv.conf &&
    mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf &&
    ip link set lo up &&
    for address in 10.77.0.1 169.254.169.254; do ip address add "$address/32" dev lo || exit 77; done
} || exit 77
exec "$2" --exact "$3" --nocapture
"#;

/// The address of the cluster, which is allowed.
const ALLOWED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Addresses in this namespace that are refused: a cloud's metadata service, and loopback.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORT: u16 = 6443;

/// Returns true in the namespace. Outside, runs the test there; skips it with a message if there is no namespace, and
/// fails if `PILOTHOUSE_TEST_REQUIRE_NODE` is set.
fn runs_in_namespace(test: &str) -> bool {
    if let Some(folder) = env::var_os(INSIDE) {
        fs::write(Path::new(&folder).join(RAN), "").unwrap();
        return true;
    }
    let folder = Folder::create().expect("a temporary folder");
    fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    fs::write(folder.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let run = |user: &[&str]| {
        let mut arguments: Vec<OsString> = ["--net", "--mount"].iter().chain(user).map(Into::into).collect();
        arguments.extend(["sh", "-c", SCRIPT, "sh"].map(Into::into));
        arguments.extend([folder.path().into(), env::current_exe().unwrap().into(), test.into()]);
        Command::new("unshare").args(arguments).env(INSIDE, folder.path()).status()
    };
    let result = match run(&["--user", "--map-root-user"]) {
        // without user namespaces: as root
        Ok(status) if matches!(status.code(), Some(1 | NO_NAMESPACE)) => run(&[]),
        result => result,
    };
    match result {
        Ok(status) if status.success() => {
            assert!(folder.path().join(RAN).exists(), "the test {test} did not run");
            return false;
        }
        Ok(status) if status.code() != Some(NO_NAMESPACE) && status.code() != Some(1) => {
            panic!("{test} in its namespace: {:?}, signal {:?}", status.code(), status.signal())
        }
        _ => {}
    }
    assert!(env::var_os(REQUIRE_NODE).is_none_or(|value| value.is_empty()), "no network namespace here");
    eprintln!("SKIPPED {test}: it needs a network namespace (unshare, iproute2, root or user namespaces)");
    false
}

/// A response of the name server.
#[derive(Clone)]
enum Record {
    A(Vec<Ipv4Addr>),
    /// A CNAME; the response also contains the address of the target.
    Alias(&'static str, Ipv4Addr),
}

/// Name server that returns the records of a name in turn, one per query for an IPv4 address, with a TTL of 0 s.
struct NameServer {
    queries: Arc<Mutex<HashMap<String, usize>>>,
}

impl NameServer {
    fn start(zone: HashMap<&'static str, Vec<Record>>, loopback_name: &'static str) -> Self {
        let socket = UdpSocket::bind((LOOPBACK, 53)).expect("port 53 is free");
        let queries = Arc::<Mutex<HashMap<String, usize>>>::default();
        let thread_queries = queries.clone();
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                let Some((name, kind, end)) = parse_question(&packet[..length]) else { continue };
                let mut queries = thread_queries.lock().unwrap();
                let count = queries.entry(name.clone()).or_default();
                let records = zone.get(name.as_str()).filter(|_| kind == 1);
                let record = records.map(|records| records[*count % records.len()].clone());
                *count += usize::from(kind == 1);
                let loopback_6 = kind == 28 && name == loopback_name;
                let _ = socket.send_to(&reply(&packet[..end], record, loopback_6), peer);
            }
        });
        Self { queries }
    }

    /// The number of address queries for a name.
    fn queries(&self, name: &str) -> usize {
        self.queries.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

/// The name and type of a question, and the offset of its end.
fn parse_question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = packet.get(at..at + 2)?;
    Some((labels.join("."), u16::from_be_bytes([kind[0], kind[1]]), at + 4))
}

fn reply(question: &[u8], record: Option<Record>, loopback_6: bool) -> Vec<u8> {
    /// Appends a record: owner, type, class IN, TTL 0 s, data.
    fn add(reply: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
        reply.extend_from_slice(owner);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
        reply.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend_from_slice(data);
    }
    // compression pointer to the name in the question
    const QUESTION_NAME: &[u8] = &[0xc0, 12];
    let mut responses = Vec::new();
    let mut count: u16 = 0;
    match record {
        Some(Record::A(addresses)) => {
            for address in addresses {
                add(&mut responses, QUESTION_NAME, 1, &address.octets());
                count += 1;
            }
        }
        Some(Record::Alias(target, address)) => {
            let labels =
                target.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
            let target: Vec<u8> = labels.chain([0]).collect();
            add(&mut responses, QUESTION_NAME, 5, &target);
            add(&mut responses, &target, 1, &address.octets());
            count += 2;
        }
        None if loopback_6 => {
            add(&mut responses, QUESTION_NAME, 28, &std::net::Ipv6Addr::LOCALHOST.octets());
            count += 1;
        }
        None => {}
    }
    // header: no error, recursion available
    let mut reply = [&question[..2], &[0x81, 0x80, 0, 1], &count.to_be_bytes(), &[0, 0, 0, 0]].concat();
    reply.extend_from_slice(&question[12..]);
    reply.extend_from_slice(&responses);
    reply
}

async fn register(admin: &Client, name: &str, ca: &str) -> i64 {
    let body = json!({
        "name": name, "auth_type": "token", "token": "a-token", "api_server": format!("https://{name}:{PORT}"),
        "ca_certificate": ca, "skip_test": true,
    });
    admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().expect("a cluster id")
}

#[tokio::test]
async fn rebinding_name_server_never_leads_to_a_forbidden_address() {
    if !runs_in_namespace("dns::rebinding_name_server_never_leads_to_a_forbidden_address") {
        return;
    }
    let a = |address| Record::A(vec![address]);
    let zone = [
        ("rebinds.test", vec![a(ALLOWED), a(METADATA)]),
        ("returns.test", vec![a(LOOPBACK), a(ALLOWED), a(ALLOWED)]),
        (
            "alias.test",
            vec![Record::Alias("a.elsewhere.test", ALLOWED), Record::Alias("b.elsewhere.test", METADATA)],
        ),
        ("mixed.test", vec![Record::A(vec![ALLOWED, METADATA]), Record::A(vec![LOOPBACK, ALLOWED])]),
        ("six.test", vec![a(ALLOWED)]),
    ];
    let names: Vec<_> = zone.iter().map(|(name, _)| *name).collect();
    let name_server = NameServer::start(zone.into(), "six.test");
    let cluster = StubApiServer::start((ALLOWED, PORT), &names);
    let forbidden = [METADATA, LOOPBACK].map(|ip| {
        let listener = TcpListener::bind((ip, PORT)).expect("a free port in this namespace");
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let server = Install::on_sqlite().unset("EGRESS_ALLOW_LOOPBACK").start().await;
    let admin = server.admin().await;
    for name in names {
        let id = register(&admin, name, &cluster.ca).await;
        let (queries_before, requests_before) = (name_server.queries(name), cluster.request_count(name));
        let mut refused = 0;
        for call in 0..12 {
            let response = if call % 2 == 0 {
                admin.post("/api/k8s/clusters/test", json!({"id": id})).await
            } else {
                let body = json!({"cluster_id": id, "namespace": "shop", "name": "settings", "data": {}});
                admin.post("/api/k8s/configmaps", body).await
            };
            if response.body["success"] == false {
                assert_eq!(response.body["context"]["cause"], "egress_denied", "{name}: {}", response.text);
                refused += 1;
            }
        }
        assert!(refused > 0, "{name}");
        assert!(name_server.queries(name) >= queries_before + 12, "{name}: each request resolves the name");
        let always_refused = ["mixed.test", "six.test"].contains(&name);
        assert_eq!(cluster.request_count(name) == requests_before, always_refused, "{name}");
    }
    for listener in forbidden {
        let accepted = listener.accept().map(drop);
        assert_eq!(
            accepted.unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{listener:?}: no connection"
        );
    }
}
