//! Audit webhook: a receiver that accepts, refuses, redirects, hangs, closes connections or does not run, and a server
//! that is killed during deliveries.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use pilothouse_core::operation::{Entry, Status};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use crate::{
    metrics,
    support::{Client, Install, PASSWORD, eventually, postgres},
};

const SECRET: &str = "a secret of the receiver";
const MANUAL: &str = include_str!("../../docs/operate.md");

/// The behaviour of the receiver.
#[derive(Clone, Debug, PartialEq)]
enum Behaviour {
    Accept,
    Refuse,
    /// Redirects to this URL.
    Redirect(String),
    /// Reads the request, and does not respond.
    Hang,
    /// Reads the request, and closes the connection.
    Break,
}

/// A received request, and whether it was accepted.
#[derive(Clone, Debug)]
struct Delivery {
    head: String,
    body: String,
    accepted: bool,
}

impl Delivery {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(header, _)| header.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

#[derive(Clone)]
struct Receiver {
    behaviour: Arc<Mutex<Behaviour>>,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
}

impl Receiver {
    fn new() -> Self {
        Self { behaviour: Arc::new(Mutex::new(Behaviour::Accept)), deliveries: Arc::default() }
    }

    /// Listens at this address, or at a free one, until the task is aborted.
    async fn listen(&self, at: Option<SocketAddr>, tls: Option<TlsAcceptor>) -> (SocketAddr, JoinHandle<()>) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener =
            eventually("the address is free", async || TcpListener::bind(at.unwrap_or(any)).await.ok()).await;
        let (address, receiver) = (listener.local_addr().unwrap(), self.clone());
        let accept = async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (receiver, tls) = (receiver.clone(), tls.clone());
                tokio::spawn(async move {
                    // a client may disconnect at any time
                    let _ = match tls {
                        None => receiver.serve(socket).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(socket) => receiver.serve(socket).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        };
        (address, tokio::spawn(accept))
    }

    async fn serve(&self, socket: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut socket = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if socket.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let delivery = Delivery { head, body: String::new(), accepted: false };
        let mut body = vec![0; delivery.header("content-length").parse().unwrap()];
        socket.read_exact(&mut body).await?;
        let behaviour = self.behaviour();
        let body = String::from_utf8(body).unwrap();
        self.deliveries.lock().unwrap().push(Delivery {
            body,
            accepted: behaviour == Behaviour::Accept,
            ..delivery
        });
        let response = match behaviour {
            Behaviour::Accept => "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(),
            Behaviour::Refuse => {
                "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    .to_owned()
            }
            Behaviour::Redirect(to) => {
                format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
            }
            Behaviour::Hang => return std::future::pending().await,
            Behaviour::Break => return Ok(()),
        };
        socket.write_all(response.as_bytes()).await?;
        socket.flush().await
    }

    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap().clone()
    }

    fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap().clone()
    }

    /// Changes the behaviour; returns after the next attempt.
    async fn set_behaviour(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
        let before = self.deliveries().len();
        eventually("the next attempt arrives", async || (self.deliveries().len() > before).then_some(()))
            .await;
    }

    /// The accepted entries by sequence; panics if one is missing, or was repeated with other contents.
    fn entries(&self) -> BTreeMap<u64, String> {
        let mut entries = BTreeMap::new();
        for delivery in self.deliveries().iter().filter(|delivery| delivery.accepted) {
            assert!(delivery.body.ends_with('\n'));
            for line in delivery.body.lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                let Some(sequence) = value["sequence"].as_u64() else {
                    assert!(value["checkpoint"].is_string(), "{line}");
                    continue;
                };
                assert!(sequence <= entries.len() as u64 + 1, "{sequence} after {}", entries.len());
                let first_line = entries.entry(sequence).or_insert_with(|| line.to_owned());
                assert_eq!(first_line, line);
            }
        }
        entries
    }

    fn checkpoints(&self) -> Vec<String> {
        let accepted = self.deliveries().into_iter().filter(|delivery| delivery.accepted);
        let lines =
            accepted.flat_map(|delivery| delivery.body.lines().map(str::to_owned).collect::<Vec<_>>());
        let mut checkpoints: Vec<_> = lines.filter(|line| line.starts_with("{\"checkpoint\":")).collect();
        checkpoints.dedup();
        checkpoints
    }

    /// Waits until the receiver has all entries that the trail has now.
    async fn wait_for_all(&self, admin: &Client) {
        let head = admin.get("/api/k8s/audit/verify").await.data()["head"]["sequence"].as_u64().unwrap();
        eventually("all entries are delivered", async || (self.entries().len() as u64 >= head).then_some(()))
            .await;
    }
}

fn with_webhook(install: Install, scheme: &str, address: SocketAddr) -> Install {
    let install =
        install.set("AUDIT_WEBHOOK_URL", format!("{scheme}://localhost:{}/audit?of=us", address.port()));
    install.set("AUDIT_WEBHOOK_SECRET", SECRET).set("METRICS_LISTEN", "127.0.0.1:0").set("LOG_FORMAT", "json")
}

/// Creates some operations.
async fn create_operations(admin: &Client, name: &str) {
    let id = admin.add_user(name, "viewer").await;
    admin.post("/api/auth/users/update", json!({"id": id, "display_name": name})).await.data();
}

/// Verifies a delivery with the program of the manual.
fn is_signed(delivery: &Delivery, secret: &str) -> bool {
    let (_, after) = MANUAL.split_once("```python\n").expect("the manual's program");
    let program = after.split_once("\n```").unwrap().0;
    let run = format!(
        "{program}\n\nimport sys\nsys.exit(0 if verify_signature({secret:?}, sys.argv[1], sys.stdin.buffer.read()) else 3)"
    );
    let mut command = Command::new("python3");
    command.args(["-c", &run, delivery.header("pilothouse-signature")]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed");
    child.stdin.take().unwrap().write_all(delivery.body.as_bytes()).unwrap();
    match child.wait().unwrap().code() {
        Some(0) => true,
        Some(3) => false,
        other => panic!("{other:?}: {run}"),
    }
}

#[tokio::test]
async fn webhook_delivers_every_entry_despite_receiver_faults_and_kills() {
    let receiver = Receiver::new();
    let (address, listening) = receiver.listen(None, None).await;
    let server = with_webhook(Install::new(), "http", address).start().await;
    let admin = server.admin().await;
    create_operations(&admin, "ann").await;
    receiver.wait_for_all(&admin).await;
    let first = receiver.deliveries()[0].clone();
    assert!(first.head.starts_with("POST /audit?of=us HTTP/1.1\r\n"), "{}", first.head);
    assert_eq!(first.header("content-type"), "application/x-ndjson");
    assert!(is_signed(&first, SECRET));
    assert!(!is_signed(&first, "another secret of a receiver"));
    assert!(!is_signed(
        &Delivery { body: first.body.replacen("create", "delete", 1), ..first.clone() },
        SECRET
    ));
    let old = first.header("pilothouse-signature").replacen("t=1", "t=0", 1);
    let head = format!("POST / HTTP/1.1\r\npilothouse-signature: {old}\r\n\r\n");
    assert!(!is_signed(&Delivery { head, ..first }, SECRET), "the timestamp is signed");

    // operations continue during each behaviour; the redirect target receives no request
    let redirect_target = Receiver::new();
    let (redirect_address, _) = redirect_target.listen(None, None).await;
    for (n, behaviour) in [
        Behaviour::Refuse,
        Behaviour::Redirect(format!("http://{redirect_address}/")),
        Behaviour::Break,
        Behaviour::Hang,
    ]
    .into_iter()
    .enumerate()
    {
        *receiver.behaviour.lock().unwrap() = behaviour.clone();
        create_operations(&admin, &format!("bob-{n}")).await;
        receiver.set_behaviour(behaviour).await;
    }
    assert!(redirect_target.deliveries().is_empty(), "a redirect is not followed");
    assert!(metrics::sum_of(&server, "pilothouse_audit_webhook_failures_total").await >= 3.0);
    assert!(metrics::sum_of(&server, "pilothouse_audit_webhook_lag").await >= 1.0);
    assert_eq!(admin.get("/readyz").await.status, 200, "a receiver does not affect readiness");

    // the server is killed while the receiver hangs; then the receiver is gone
    let install = server.kill().await;
    listening.abort();
    let server = install.start().await;
    let admin = server.admin().await;
    create_operations(&admin, "cyd").await;
    eventually("an attempt failed", async || {
        (metrics::sum_of(&server, "pilothouse_audit_webhook_failures_total").await >= 1.0).then_some(())
    })
    .await;
    let server = server.kill().await.start().await;
    *receiver.behaviour.lock().unwrap() = Behaviour::Accept;
    let (_, listening) = receiver.listen(Some(address), None).await;
    let admin = server.admin().await;
    create_operations(&admin, "dora").await;
    receiver.wait_for_all(&admin).await;
    eventually("the lag is 0", async || {
        (metrics::sum_of(&server, "pilothouse_audit_webhook_lag").await == 0.0).then_some(())
    })
    .await;
    listening.abort();

    // the delivered entries equal an export
    let export = admin.get("/api/k8s/audit/export").await.text;
    let delivered = receiver.entries();
    let exported: Vec<_> = export.lines().filter(|line| line.starts_with("{\"sequence\":")).collect();
    assert!(exported.len() > 15, "{} entries", exported.len());
    for (delivered, exported) in delivered.values().zip(&exported) {
        assert_eq!(delivered, exported);
    }
    assert!(receiver.checkpoints().iter().all(|line| export.contains(line.as_str())));
    assert!(!receiver.checkpoints().is_empty(), "checkpoints are delivered");
    let install = server.stop().await;
    assert!(!install.log().contains(SECRET) && !install.log().contains("of=us"), "{}", install.log());
    for (path, bytes) in install.data() {
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{}", path.display());
    }

    // accepted entries may be pruned here, and the remaining ones are delivered
    let now = Timestamp::now().to_string();
    let output = install.run(&["audit", "prune", "--before", &now]);
    let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
    let removed = output_text
        .trim()
        .strip_prefix("removed ")
        .and_then(|output_text| output_text.strip_suffix(" entries"));
    let removed: usize = removed.unwrap_or_else(|| panic!("{output:?}")).parse().unwrap();
    assert!(removed > 0 && removed <= receiver.entries().len(), "{removed} of {}", receiver.entries().len());
    let (_, _listening) = receiver.listen(Some(address), None).await;
    let server = install.start().await;
    let admin = server.admin().await;
    receiver.wait_for_all(&admin).await;
    let verdict = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!((&verdict["valid"], &verdict["removed"]), (&json!(true), &json!(removed)), "{verdict}");
}

#[tokio::test]
async fn webhook_delivers_each_step_of_a_request_for_rights() {
    let receiver = Receiver::new();
    let (address, _) = receiver.listen(None, None).await;
    let server = with_webhook(Install::new(), "http", address).start().await;
    let admin = server.admin().await;
    admin.add_user("ann", "none").await;
    let ann = server.client().sign_in("ann", PASSWORD).await;
    let mut expected = Vec::new();
    for (client, username, step) in
        [(&admin, "admin", "approve"), (&admin, "admin", "deny"), (&ann, "ann", "withdraw")]
    {
        let new = json!({
            "role": "editor", "clusters": {"all": true}, "namespaces": ["shop"], "duration_seconds": 60,
            "reason": "release 4.2",
        });
        let request = ann.post("/api/access/requests", new).await.data()["request"].take();
        let id = request["id"].to_string();
        expected.push((
            "request".to_owned(),
            "ann".to_owned(),
            "editor".to_owned(),
            "release 4.2".to_owned(),
        ));
        let decision = json!({"id": request["id"], "reason": format!("to {step}")});
        client.post(&format!("/api/access/requests/{step}"), decision).await.data();
        expected.push((step.to_owned(), username.to_owned(), id, format!("to {step}")));
    }
    receiver.wait_for_all(&admin).await;
    let delivered = receiver.entries().into_values().filter_map(|line| {
        let line: Value = serde_json::from_str(&line).unwrap();
        let Entry::Complete { operation, outcome } = serde_json::from_str(line["entry"].as_str()?).unwrap()
        else {
            return None;
        };
        let is_request = operation.resource_type == "request" && outcome.status == Status::Success;
        let reason = operation.reason?;
        is_request.then_some((operation.operation_type, operation.username, operation.resource_name?, reason))
    });
    assert_eq!(delivered.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn webhook_delivers_only_to_a_trusted_receiver() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let receiver = Receiver::new();
    let (address, _) = receiver.listen(None, Some(Arc::new(config).into())).await;
    let server = with_webhook(Install::new(), "https", address).start().await;
    eventually("a delivery failed", async || {
        (metrics::sum_of(&server, "pilothouse_audit_webhook_failures_total").await >= 1.0).then_some(())
    })
    .await;
    assert!(receiver.deliveries().is_empty(), "nothing is sent to an untrusted receiver");

    let install = server.stop().await;
    let ca = install.file("receiver.crt");
    let install = install.set("AUDIT_WEBHOOK_CA_FILE", ca.display().to_string());
    let output = install.run(&["config", "check"]);
    assert_eq!(output.status.code(), Some(2), "the file is missing");
    fs::write(&ca, certificate.pem()).unwrap();
    let server = install.start().await;
    receiver.wait_for_all(&server.admin().await).await;
}

#[tokio::test]
async fn one_of_two_replicas_delivers_and_the_other_takes_over() {
    let Some(postgres) = postgres() else { return };
    let receiver = Receiver::new();
    let (address, _) = receiver.listen(None, None).await;
    let first =
        with_webhook(Install::on_postgres(&postgres.database().unwrap()), "http", address).start().await;
    let second = first.install.replica().start().await;
    let admin = first.admin().await;
    for n in 0..5 {
        create_operations(&admin, &format!("user-{n}")).await;
    }
    receiver.wait_for_all(&admin).await;
    let lines = receiver.deliveries().into_iter().flat_map(|delivery| {
        let entries = delivery.body.lines().filter(|line| line.starts_with("{\"sequence\":"));
        entries.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(
        lines.count(),
        receiver.entries().len(),
        "no entry is delivered twice while both replicas run"
    );
    first.kill().await;
    let admin = second.client().sign_in("admin", PASSWORD).await;
    create_operations(&admin, "after").await;
    receiver.wait_for_all(&admin).await;
}
