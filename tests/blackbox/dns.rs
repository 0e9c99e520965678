//! A name server of ours that gives a name another address from one lookup to the next (DNS rebinding). The
//! test runs itself again in a network namespace of its own, with its own `resolv.conf`.

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

use crate::support::{Client, Install, PlainCluster};

/// Set in a test that runs in its namespace, to the folder that it is to leave [`RAN`] in.
const INSIDE: &str = "PILOTHOUSE_TEST_IN_NAMESPACE";
const RAN: &str = "ran";
/// What the script ends with when the namespace cannot be set up.
const NO_NAMESPACE: i32 = 77;
/// Sets the namespace up and runs `$2`, a test named `$3`, in it. Nothing of it outlives the test.
const SCRIPT: &str = r#"
{
    mount --bind "$1/resolv.conf" /etc/resolv.conf &&
    mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf &&
    ip link set lo up &&
    for address in 10.77.0.1 169.254.169.254; do ip address add "$address/32" dev lo || exit 77; done
} || exit 77
exec "$2" --exact "$3" --nocapture
"#;

/// The cluster's address, which is allowed.
const ALLOWED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Addresses of this namespace that are refused: a cloud's metadata service, loopback.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORT: u16 = 6443;

/// Whether this is the test in its namespace. Else it is run there, or skipped aloud where there can be none, unless
/// `PILOTHOUSE_TEST_REQUIRE_NODE` is set.
fn is_inside(test: &str) -> bool {
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
    let ended = match run(&["--user", "--map-root-user"]) {
        // without user namespaces, as root
        Ok(status) if matches!(status.code(), Some(1 | NO_NAMESPACE)) => run(&[]),
        ended => ended,
    };
    match ended {
        Ok(status) if status.success() => {
            assert!(folder.path().join(RAN).exists(), "there is no test {test}");
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

/// What the name server says.
#[derive(Clone)]
enum Record {
    A(Vec<Ipv4Addr>),
    /// Another name for this one; its address is in the same answer.
    Alias(&'static str, Ipv4Addr),
}

/// Answers for names by turns, one query for an IPv4 address after the other, with a lifetime of 0 s.
struct NameServer {
    queries: Arc<Mutex<HashMap<String, usize>>>,
}

impl NameServer {
    fn start(zone: HashMap<&'static str, Vec<Record>>, six: &'static str) -> Self {
        let socket = UdpSocket::bind((LOOPBACK, 53)).expect("the port of name servers");
        let queries = Arc::<Mutex<HashMap<String, usize>>>::default();
        let counted = queries.clone();
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                let Some((name, kind, end)) = question(&packet[..length]) else { continue };
                let mut queries = counted.lock().unwrap();
                let count = queries.entry(name.clone()).or_default();
                let records = zone.get(name.as_str()).filter(|_| kind == 1);
                let record = records.map(|records| records[*count % records.len()].clone());
                *count += usize::from(kind == 1);
                let loopback_6 = kind == 28 && name == six;
                let _ = socket.send_to(&reply(&packet[..end], record, loopback_6), peer);
            }
        });
        Self { queries }
    }

    /// How often it was asked for an address of this name.
    fn queries(&self, name: &str) -> usize {
        self.queries.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

/// The name asked for, the type, and where the question ends.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
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
    /// A record: its owner, its type, class IN, a lifetime of 0 s, its data.
    fn add(reply: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
        reply.extend_from_slice(owner);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
        reply.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend_from_slice(data);
    }
    // the name of the question
    const ASKED: &[u8] = &[0xc0, 12];
    let mut answers = Vec::new();
    let mut count: u16 = 0;
    match record {
        Some(Record::A(addresses)) => {
            for address in addresses {
                add(&mut answers, ASKED, 1, &address.octets());
                count += 1;
            }
        }
        Some(Record::Alias(target, address)) => {
            let labels =
                target.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
            let target: Vec<u8> = labels.chain([0]).collect();
            add(&mut answers, ASKED, 5, &target);
            add(&mut answers, &target, 1, &address.octets());
            count += 2;
        }
        None if loopback_6 => {
            add(&mut answers, ASKED, 28, &std::net::Ipv6Addr::LOCALHOST.octets());
            count += 1;
        }
        None => {}
    }
    // an answer without an error, recursion available
    let mut reply = [&question[..2], &[0x81, 0x80, 0, 1], &count.to_be_bytes(), &[0, 0, 0, 0]].concat();
    reply.extend_from_slice(&question[12..]);
    reply.extend_from_slice(&answers);
    reply
}

async fn register(admin: &Client, name: &str, ca: &str) -> i64 {
    let body = json!({
        "name": name, "auth_type": "token", "token": "a-token", "api_server": format!("https://{name}:{PORT}"),
        "ca_certificate": ca, "skip_test": true,
    });
    admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().expect("an id")
}

#[tokio::test]
async fn nothing_is_ever_sent_to_a_forbidden_address_whatever_the_name_server_says_next() {
    if !is_inside("dns::nothing_is_ever_sent_to_a_forbidden_address_whatever_the_name_server_says_next") {
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
    let cluster = PlainCluster::start((ALLOWED, PORT), &names);
    let forbidden = [METADATA, LOOPBACK].map(|ip| {
        let listener = TcpListener::bind((ip, PORT)).expect("an address of this namespace");
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let server = Install::on_sqlite().unset("EGRESS_ALLOW_LOOPBACK").start().await;
    let admin = server.admin().await;
    for name in names {
        let id = register(&admin, name, &cluster.ca).await;
        let (asked, heard) = (name_server.queries(name), cluster.heard(name));
        let mut refused = 0;
        for call in 0..12 {
            let answer = match call % 2 {
                0 => admin.post("/api/k8s/clusters/test", json!({"id": id})).await,
                _ => {
                    let body = json!({"cluster_id": id, "namespace": "shop", "name": "settings", "data": {}});
                    admin.post("/api/k8s/configmaps", body).await
                }
            };
            if answer.body["success"] == false {
                assert_eq!(answer.body["context"]["cause"], "egress_denied", "{name}: {}", answer.text);
                refused += 1;
            }
        }
        assert!(refused > 0, "{name}");
        assert!(name_server.queries(name) >= asked + 12, "{name}: every call looks it up");
        let always_refused = ["mixed.test", "six.test"].contains(&name);
        assert_eq!(cluster.heard(name) == heard, always_refused, "{name}");
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
