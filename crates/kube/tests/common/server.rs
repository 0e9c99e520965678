//! Programmable HTTPS server: sends the replies that a test defines, malformed ones included, and records the requests.

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

/// A recorded request.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRequest {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Header names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// A reply to a request.
pub(crate) enum Reply {
    /// A complete response: HTTP status, additional headers, body.
    Body(u16, Vec<(&'static str, String)>, String),
    /// Raw bytes, then a disconnect.
    Raw(&'static str),
    /// 200 with an endless body.
    Endless,
    /// 200 with a partial body, then a disconnect.
    Partial,
    /// 200 with a streamed body; the head is sent with the first part.
    Stream(UnboundedReceiver<BodyPart>),
    /// No response.
    NoResponse,
    /// A disconnect.
    Disconnect,
}

/// A part of a streamed body.
pub(crate) enum BodyPart {
    Bytes(Vec<u8>),
    /// End of the body.
    End,
    /// A disconnect.
    Disconnect,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::Body(status, Vec::new(), body.to_string())
    }

    /// An error response of an API server.
    pub(crate) fn status(code: u16, reason: &str, message: &str, details: Value) -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": message, "details": details, "metadata": {}});
        Self::json(code, &status)
    }
}

/// The certificate of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerCert {
    Valid,
    Expired,
    OtherName,
    OtherAuthority,
}

/// The server. Stops when dropped.
pub(crate) struct FakeServer {
    /// `https://127.0.0.1:port`.
    pub(crate) address: String,
    /// Certificate of the CA that issued a valid server certificate, as PEM.
    pub(crate) ca: String,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    connections: Arc<ConnectionCounts>,
    task: JoinHandle<()>,
}

/// Numbers of accepted and of open connections.
#[derive(Default)]
struct ConnectionCounts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// Counts a connection as open until dropped.
struct OpenConnection(Arc<ConnectionCounts>);

impl OpenConnection {
    fn new(connections: &Arc<ConnectionCounts>) -> Self {
        connections.accepted.fetch_add(1, Ordering::SeqCst);
        connections.open.fetch_add(1, Ordering::SeqCst);
        Self(connections.clone())
    }
}

impl Drop for OpenConnection {
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
    /// Starts a server; `reply` also receives the number of earlier requests.
    pub(crate) async fn start(
        reply: impl Fn(&RecordedRequest, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with_certificate(ServerCert::Valid, reply).await
    }

    pub(crate) async fn with_certificate(
        certificate: ServerCert,
        reply: impl Fn(&RecordedRequest, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (ca, config) = certificates(certificate);
        let (reply, acceptor) = (Arc::new(reply), TlsAcceptor::from(Arc::new(config)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<RecordedRequest>>>::default();
        let recorded = requests.clone();
        let connections = Arc::<ConnectionCounts>::default();
        let counts = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, reply, recorded) = (acceptor.clone(), reply.clone(), recorded.clone());
                let open = OpenConnection::new(&counts);
                tokio::spawn(async move {
                    let _open = open;
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    while let Some(request) = read(&mut stream).await {
                        let before = {
                            let mut recorded = recorded.lock().unwrap();
                            recorded.push(request.clone());
                            recorded.len() - 1
                        };
                        if !write(&mut stream, reply(&request, before)).await {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, ca, requests, connections, task }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// Number of accepted connections.
    pub(crate) fn accepted(&self) -> usize {
        self.connections.accepted.load(Ordering::SeqCst)
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.connections.open.load(Ordering::SeqCst)
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<RecordedRequest> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut fields = lines.next()?.split(' ');
    let (method, target) = (fields.next()?.to_owned(), fields.next()?.to_owned());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(RecordedRequest { method, target, headers, body: String::from_utf8(body).unwrap() })
}

/// Sends a reply; returns whether the connection stays open.
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
        Reply::Partial => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{").await;
            let _ = stream.shutdown().await;
            false
        }
        Reply::Stream(mut parts) => {
            let mut head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            loop {
                // a client that disconnects closes the test's sender
                let next = tokio::select! {
                    next = parts.recv() => next,
                    _ = stream.read_u8() => None,
                };
                let text = match next {
                    // empty bytes mean the head alone: an empty chunk would end the body
                    Some(BodyPart::Bytes(bytes)) if bytes.is_empty() => head.as_bytes().to_vec(),
                    Some(BodyPart::Bytes(bytes)) => {
                        let mut chunk = format!("{head}{:x}\r\n", bytes.len()).into_bytes();
                        chunk.extend_from_slice(&bytes);
                        chunk.extend_from_slice(b"\r\n");
                        chunk
                    }
                    Some(BodyPart::End) => {
                        let end = format!("{head}0\r\n\r\n");
                        return stream.write_all(end.as_bytes()).await.is_ok()
                            && stream.flush().await.is_ok();
                    }
                    Some(BodyPart::Disconnect) | None => return false,
                };
                head = "";
                if stream.write_all(&text).await.is_err() || stream.flush().await.is_err() {
                    return false;
                }
            }
        }
        Reply::NoResponse => std::future::pending().await,
        Reply::Disconnect => {
            let _ = stream.shutdown().await;
            false
        }
    }
}

fn certificates(certificate: ServerCert) -> (String, ServerConfig) {
    let authority = authority("test authority");
    let names = if certificate == ServerCert::OtherName { ["elsewhere.invalid"] } else { ["127.0.0.1"] };
    let mut params = CertificateParams::new(names.map(ToOwned::to_owned)).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = if certificate == ServerCert::Expired {
        date_time_ymd(2020, 2, 1)
    } else {
        date_time_ymd(2120, 1, 1)
    };
    let key = KeyPair::generate().unwrap();
    let signed = match certificate {
        ServerCert::OtherAuthority => params.signed_by(&key, &self::authority("another authority")),
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
