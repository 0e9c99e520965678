//! An HTTPS server that answers as a test says, however wrong, and writes down what it was asked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc::UnboundedReceiver,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What is answered.
pub(crate) enum Reply {
    /// A status, more headers, a body.
    Body(u16, Vec<(&'static str, String)>, String),
    /// Bytes as they are; then the connection ends.
    Raw(&'static str),
    /// 200, and a body without end.
    Endless,
    /// 200, half a body, the end of the connection.
    Half,
    /// 200, and what a test sends while it lasts; not even the head before there is something.
    Following(UnboundedReceiver<Sent>),
    /// Nothing, ever.
    Silence,
    /// The end of the connection.
    Close,
}

/// A part of a body that is followed.
pub(crate) enum Sent {
    Bytes(Vec<u8>),
    /// The end of the body.
    End,
    /// The end of the connection.
    Break,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::Body(status, Vec::new(), body.to_string())
    }

    /// A refusal as an API server writes it.
    pub(crate) fn status(code: u16, reason: &str, message: &str, details: Value) -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": message, "details": details, "metadata": {}});
        Self::json(code, &status)
    }
}

/// Which certificate it shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    Valid,
    Expired,
    OtherName,
    OtherAuthority,
}

pub(crate) struct FakeServer {
    /// `https://127.0.0.1:port`.
    pub(crate) address: String,
    /// Whom to trust, PEM.
    pub(crate) ca: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Connected>,
    task: JoinHandle<()>,
}

/// Connections that were accepted, and those of them that are open: a side that only waits to write does not notice the
/// end of one.
#[derive(Default)]
struct Connected {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<Connected>);

impl Open {
    fn new(connections: &Arc<Connected>) -> Self {
        connections.accepted.fetch_add(1, Ordering::SeqCst);
        connections.open.fetch_add(1, Ordering::SeqCst);
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeServer {
    /// Starts one; `reply` also gets how many requests came before.
    pub(crate) async fn start(reply: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::showing(Shows::Valid, reply).await
    }

    pub(crate) async fn showing(
        shows: Shows,
        reply: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (ca, config) = certificates(shows);
        let (reply, acceptor) = (Arc::new(reply), TlsAcceptor::from(Arc::new(config)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let seen = asked.clone();
        let connections = Arc::<Connected>::default();
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, reply, seen) = (acceptor.clone(), reply.clone(), seen.clone());
                let open = Open::new(&counted);
                tokio::spawn(async move {
                    let _open = open;
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    while let Some(request) = read(&mut stream).await {
                        let before = {
                            let mut seen = seen.lock().unwrap();
                            seen.push(request.clone());
                            seen.len() - 1
                        };
                        if !write(&mut stream, reply(&request, before)).await {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, ca, asked, connections, task }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.connections.accepted.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub(crate) fn open(&self) -> usize {
        self.connections.open.load(Ordering::SeqCst)
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { method, target, headers, body: String::from_utf8(body).unwrap() })
}

/// Whether the connection goes on.
async fn write(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), reply: Reply) -> bool {
    match reply {
        Reply::Body(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.is_ok()
                && stream.flush().await.is_ok()
        }
        Reply::Raw(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            false
        }
        Reply::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            false
        }
        Reply::Half => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{").await;
            let _ = stream.shutdown().await;
            false
        }
        Reply::Following(mut sent) => {
            let mut head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            loop {
                // a client that goes closes the connection; then the test's sender is closed, too
                let next = tokio::select! {
                    next = sent.recv() => next,
                    _ = stream.read_u8() => None,
                };
                let text = match next {
                    // an empty chunk would be the end: this is the head alone
                    Some(Sent::Bytes(bytes)) if bytes.is_empty() => head.as_bytes().to_vec(),
                    Some(Sent::Bytes(bytes)) => {
                        let mut chunk = format!("{head}{:x}\r\n", bytes.len()).into_bytes();
                        chunk.extend_from_slice(&bytes);
                        chunk.extend_from_slice(b"\r\n");
                        chunk
                    }
                    Some(Sent::End) => format!("{head}0\r\n\r\n").into_bytes(),
                    Some(Sent::Break) | None => return false,
                };
                head = "";
                if stream.write_all(&text).await.is_err() || stream.flush().await.is_err() {
                    return false;
                }
            }
        }
        Reply::Silence => std::future::pending().await,
        Reply::Close => {
            let _ = stream.shutdown().await;
            false
        }
    }
}

fn certificates(shows: Shows) -> (String, ServerConfig) {
    let authority = authority("test authority");
    let names = if shows == Shows::OtherName { ["elsewhere.invalid"] } else { ["127.0.0.1"] };
    let mut params = CertificateParams::new(names.map(ToOwned::to_owned)).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after =
        if shows == Shows::Expired { date_time_ymd(2020, 2, 1) } else { date_time_ymd(2120, 1, 1) };
    let key = KeyPair::generate().unwrap();
    let signed = match shows {
        Shows::OtherAuthority => params.signed_by(&key, &self::authority("another authority")),
        _ => params.signed_by(&key, &authority),
    };
    let chain = vec![CertificateDer::from(signed.unwrap().der().to_vec())];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (authority.pem(), config)
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = date_time_ymd(2120, 6, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
