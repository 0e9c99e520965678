//! Faulty API server: responds over TLS in ways that no correct API server does. Used by `just faults`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    ServingCertificate,
    certificates::Authority,
    error::{Error, Result, io},
    fault_proxy::acceptor,
    http::Request,
    kubeconfig::{self, Credential},
};

/// Kind of faulty responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFault {
    /// Every chunk of a list has a `continue` token, without end.
    Endless,
    /// A response is sent byte by byte, a watch sends one object every 2.5 s, and neither ends.
    Trickle,
    /// Every chunk of a list has 30 MB.
    LargeChunks,
}

/// A faulty API server. Its tasks run on the runtime that started it and stop when this value is dropped.
pub struct FaultyServer {
    address: SocketAddr,
    ca: String,
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl FaultyServer {
    /// Starts the server on a port chosen by the system.
    pub async fn start(fault: ResponseFault) -> Result<Self> {
        let authority = Authority::new("faulty server")?;
        let pair = authority.serving(ServingCertificate::Valid)?;
        let acceptor = acceptor(&pair.certificate, &pair.key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("listening"))?;
        let address = listener.local_addr().map_err(io("listening"))?;
        let sent = Arc::new(AtomicU64::new(0));
        let responses = Arc::new(Responses { fault, items: items(fault), sent: sent.clone() });
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, acceptor.clone(), responses.clone()));
            }
        });
        Ok(Self { address, ca: authority.pem(), sent, task })
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self) -> String {
        let token = Credential::Token("faulty".into());
        kubeconfig::write(&format!("https://{}", self.address), &self.ca, &token)
    }

    /// The server's URL, for instance `https://127.0.0.1:20000`.
    pub fn server(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of the server's authority, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Number of body bytes sent to all clients.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The faulty responses and the number of bytes sent.
struct Responses {
    fault: ResponseFault,
    /// The objects of each chunk.
    items: String,
    sent: Arc<AtomicU64>,
}

/// 500 objects, of 2 KB or of 60 KB each.
fn items(fault: ResponseFault) -> String {
    let label = "x".repeat(if fault == ResponseFault::LargeChunks { 60_000 } else { 1_800 });
    let item = |n: usize| {
        format!(
            r#"{{"metadata":{{"name":"pod-{n}","namespace":"default","uid":"u{n}","labels":{{"large":"{label}"}},"ownerReferences":[{{"kind":"ReplicaSet","name":"web-1","uid":"r1","controller":true}}]}}}}"#
        )
    };
    (0..500).map(item).collect::<Vec<_>>().join(",")
}

async fn serve(client: TcpStream, acceptor: TlsAcceptor, responses: Arc<Responses>) {
    let Ok(mut stream) = acceptor.accept(client).await else { return };
    // an error means that the client disconnected
    let _ = responses.serve_connection(&mut stream).await;
}

impl Responses {
    async fn serve_connection(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        for count in 0_u64.. {
            let target = Request::read(stream).await?.target;
            let is_watch = target.contains("watch=");
            match self.fault {
                _ if target.starts_with("/version") => {
                    self.send_response(stream, 200, r#"{"gitVersion":"v1.37.2"}"#).await?;
                }
                ResponseFault::Endless | ResponseFault::LargeChunks if is_watch => {
                    let status = r#"{"kind":"Status","status":"Failure","reason":"Forbidden","code":403,"message":"no"}"#;
                    self.send_response(stream, 403, status).await?;
                }
                ResponseFault::Endless | ResponseFault::LargeChunks => {
                    let next = if self.fault == ResponseFault::Endless {
                        format!("c{count}")
                    } else {
                        String::new()
                    };
                    let head = format!(r#"{{"kind":"PodList","metadata":{{"continue":"{next}"}},"items":["#);
                    self.send_response(stream, 200, &format!("{head}{}]}}", self.items)).await?;
                }
                ResponseFault::Trickle => self.send_slowly(stream, is_watch).await?,
            }
        }
        Ok(())
    }

    async fn send_response(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        status: u16,
        body: &str,
    ) -> std::io::Result<()> {
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        for part in body.as_bytes().chunks(1 << 16) {
            stream.write_all(part).await?;
            self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        stream.flush().await
    }

    async fn send_slowly(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        is_watch: bool,
    ) -> std::io::Result<()> {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for n in 0_u64.. {
            let (part, pause) = if is_watch {
                let object = format!(r#"{{"metadata":{{"name":"p{n}","resourceVersion":"2"}}}}"#);
                (format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"), Duration::from_millis(2_500))
            } else {
                (" ".to_owned(), Duration::from_millis(50))
            };
            stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await?;
            stream.flush().await?;
            self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            sleep(pause).await;
        }
        Ok(())
    }
}

/// Plain client as a control: lists pods over one connection and discards `bytes` bytes in total, evenly over `time`.
pub async fn read_plainly(server: &FaultyServer, bytes: u64, time: Duration) -> Result<()> {
    let failed = |error: reqwest::Error| Error::Program(format!("a plain client: {error}"));
    let authority = reqwest::Certificate::from_pem(server.ca.as_bytes()).map_err(failed)?;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().map_err(failed)?;
    let start = tokio::time::Instant::now();
    let mut read = 0_u64;
    while read < bytes && start.elapsed() < time {
        let response = client.get(format!("{}/api/v1/pods?limit=500", server.server())).send().await;
        let Ok(mut response) = response else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len() as u64;
            if read >= bytes || start.elapsed() >= time {
                break;
            }
            // pace: sleep until the time at which this many bytes are due
            let due = time.mul_f64(read as f64 / bytes as f64);
            sleep(due.saturating_sub(start.elapsed())).await;
        }
    }
    Ok(())
}
