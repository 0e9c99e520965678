//! A proxy before an API server that can be told to misbehave: slow, silent, cut, narrow, or answering for it.
//!
//! Bytes pass as they come, TLS and all, so a client sees the API server's own certificate. Only to answer for it
//! ([`Fault::Answer`]) the proxy ends the TLS itself, with a certificate of the same authority.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{
    ControlPlane, ServingCertificate,
    error::{Error, Result, io},
    kubeconfig,
};

/// What the proxy does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// What arrives is kept, on old connections and new ones, until there is another fault or none: a network that swallows
    /// packets.
    Swallow,
    /// Connections are closed, new ones at once.
    Cut,
    /// What goes to the API server waits so long first, more or less by up to `spread`.
    Slow {
        /// How long.
        delay: Duration,
        /// By how much that differs.
        spread: Duration,
    },
    /// Only so many bytes pass in a second, in each direction of each connection.
    Narrow(u32),
    /// Every request is answered with this status, as an API server words it; the API server does not learn of it.
    Answer(u16),
}

/// A proxy before a control plane, for the runtime that started it; ends with this value.
pub struct FaultProxy {
    address: SocketAddr,
    kubeconfig: String,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// A proxy without a fault, on a port of its own.
    pub async fn before(plane: &ControlPlane) -> Result<Self> {
        let pair = plane.owned("answer for it")?.authority.serving(ServingCertificate::Valid)?;
        let upstream = plane.server().trim_start_matches("https://");
        let upstream: SocketAddr = upstream.parse().map_err(|_| Error::Program(format!("{upstream}?")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("listening"))?;
        let address = listener.local_addr().map_err(io("listening"))?;
        let acceptor = acceptor(&pair.certificate, &pair.key)?;
        let (fault, faults) = watch::channel(Fault::None);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let way = Way { upstream, faults: faults.clone(), acceptor: acceptor.clone() };
                // ends with the fault's sender at the latest
                tokio::spawn(way.carry(client));
            }
        });
        let access = &plane.access;
        let kubeconfig = kubeconfig::write(&format!("https://{address}"), &access.ca_pem, &access.credential);
        Ok(Self { address, kubeconfig, fault, task })
    }

    /// Its address, for instance `https://127.0.0.1:20000`.
    pub fn server(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A kubeconfig with all rights whose way leads through it.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig.clone()
    }

    /// From now on it does this.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends TLS with a certificate and its key, both PEM.
pub(crate) fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor> {
    let wrong = |error: &dyn std::fmt::Display| Error::Program(format!("the proxy's certificate: {error}"));
    let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .map_err(|error| wrong(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// One connection's way.
struct Way {
    upstream: SocketAddr,
    faults: watch::Receiver<Fault>,
    acceptor: TlsAcceptor,
}

impl Way {
    async fn carry(mut self, client: TcpStream) {
        let Some(fault) = past_silence(&mut self.faults).await else { return };
        match fault {
            Fault::Cut => return,
            Fault::Answer(status) => {
                let answered = async {
                    if let Ok(stream) = self.acceptor.accept(client).await {
                        let _ = answer(stream, status).await;
                    }
                };
                let end = until(self.faults.clone(), |fault| !matches!(fault, Fault::Answer(_)));
                tokio::select! { () = answered => {}, () = end => {} }
                return;
            }
            Fault::None | Fault::Swallow | Fault::Slow { .. } | Fault::Narrow(_) => {}
        }
        let Ok(server) = TcpStream::connect(self.upstream).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let there = pump(from_client, to_server, self.faults.clone(), true);
        let back = pump(from_server, to_client, self.faults.clone(), false);
        let ends = |fault| matches!(fault, Fault::Cut | Fault::Answer(_));
        tokio::select! {
            _ = async { tokio::join!(there, back) } => {}
            () = until(self.faults.clone(), ends) => {}
        }
    }
}

/// The fault, as soon as it is not silence; none when the proxy is gone.
async fn past_silence(faults: &mut watch::Receiver<Fault>) -> Option<Fault> {
    let fault = faults.wait_for(|fault| *fault != Fault::Swallow).await;
    fault.ok().map(|fault| *fault)
}

/// Returns when there is such a fault, or the proxy is gone.
async fn until(mut faults: watch::Receiver<Fault>, is_it: impl Fn(Fault) -> bool) {
    let _ = faults.wait_for(|fault| is_it(*fault)).await;
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<Fault>,
    to_server: bool,
) {
    let mut buffer = [0; 1 << 14];
    for turn in 0_u32.. {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { break };
        let Some(fault) = past_silence(&mut faults).await else { break };
        match fault {
            Fault::Slow { delay, spread } if to_server => {
                // from -spread to +spread, evenly and always the same
                let more = 2 * spread * (turn.wrapping_mul(37) % 101) / 100;
                sleep((delay + more).saturating_sub(spread)).await;
            }
            Fault::Narrow(bytes) => {
                sleep(Duration::from_secs(1) * count.try_into().unwrap_or(u32::MAX) / bytes.max(1)).await
            }
            _ => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Answers the first request of a connection.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: u16) -> std::io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let ended = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).to_ascii_lowercase();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        (body.len() >= length.unwrap_or(0)).then_some(())
    };
    while ended(&request).is_none() {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"by the fault proxy","reason":"","code":{status}}}"#
    );
    let head = format!(
        "HTTP/1.1 {status} Fault\r\ncontent-type: application/json\r\nretry-after: 1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
