//! Fault-injection proxy in front of an API server: delays, drops, closes or throttles connections, or responds itself.
//!
//! TLS passes through unchanged, so a client sees the API server's own certificate. Only for [`Fault::Answer`] the
//! proxy terminates TLS itself, with a certificate of the same authority.

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
    http::Request,
    kubeconfig,
};

/// A fault that the proxy injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// Received bytes are held back, on existing and new connections, until the fault changes: a network that drops
    /// packets.
    Blackhole,
    /// Connections are closed, and new ones immediately.
    Reset,
    /// Bytes to the API server are delayed by `delay` ± `spread`.
    Slow {
        /// The mean delay.
        delay: Duration,
        /// The maximum deviation from `delay`.
        spread: Duration,
    },
    /// Throughput limit in bytes per second, for each direction of each connection.
    Throttle(u32),
    /// Every request gets a response with this HTTP status and a `Status` object; the API server does not receive it.
    Answer(u16),
}

/// A proxy in front of a control plane. Its tasks run on the runtime that started it and stop when this value is
/// dropped.
pub struct FaultProxy {
    address: SocketAddr,
    kubeconfig: String,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy without a fault, on a port chosen by the system.
    pub async fn before(plane: &ControlPlane) -> Result<Self> {
        let pair = plane.owned("start a fault proxy for it")?.authority.serving(ServingCertificate::Valid)?;
        let upstream = plane.server().trim_start_matches("https://");
        let upstream: SocketAddr = upstream
            .parse()
            .map_err(|_| Error::Program(format!("not an IP address and port: {upstream}")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("listening"))?;
        let address = listener.local_addr().map_err(io("listening"))?;
        let acceptor = acceptor(&pair.certificate, &pair.key)?;
        let (fault, faults) = watch::channel(Fault::None);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection =
                    ProxiedConnection { upstream, faults: faults.clone(), acceptor: acceptor.clone() };
                // the task ends at the latest when the sender of faults is dropped
                tokio::spawn(connection.run(client));
            }
        });
        let access = &plane.access;
        let kubeconfig = kubeconfig::write(&format!("https://{address}"), &access.ca_pem, &access.credential);
        Ok(Self { address, kubeconfig, fault, task })
    }

    /// The proxy's URL, for instance `https://127.0.0.1:20000`.
    pub fn server(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A cluster-admin kubeconfig that connects through the proxy.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig.clone()
    }

    /// Sets the fault, for existing and new connections.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A TLS acceptor with a certificate and its key, both PEM.
pub(crate) fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor> {
    let invalid = |error: &dyn std::fmt::Display| Error::Program(format!("the proxy's certificate: {error}"));
    let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| invalid(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| invalid(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .map_err(|error| invalid(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A connection through the proxy.
struct ProxiedConnection {
    upstream: SocketAddr,
    faults: watch::Receiver<Fault>,
    acceptor: TlsAcceptor,
}

impl ProxiedConnection {
    async fn run(mut self, client: TcpStream) {
        let Some(fault) = next_fault(&mut self.faults).await else { return };
        match fault {
            Fault::Reset => return,
            Fault::Answer(status) => {
                let response = async {
                    if let Ok(stream) = self.acceptor.accept(client).await {
                        let _ = respond(stream, status).await;
                    }
                };
                let end = until(self.faults.clone(), |fault| !matches!(fault, Fault::Answer(_)));
                tokio::select! { () = response => {}, () = end => {} }
                return;
            }
            Fault::None | Fault::Blackhole | Fault::Slow { .. } | Fault::Throttle(_) => {}
        }
        let Ok(server) = TcpStream::connect(self.upstream).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let upload = forward(from_client, to_server, self.faults.clone(), true);
        let download = forward(from_server, to_client, self.faults.clone(), false);
        let closes = |fault| matches!(fault, Fault::Reset | Fault::Answer(_));
        tokio::select! {
            _ = async { tokio::join!(upload, download) } => {}
            () = until(self.faults.clone(), closes) => {}
        }
    }
}

/// Waits while the fault is `Blackhole` and returns the next one; `None` when the proxy was dropped.
async fn next_fault(faults: &mut watch::Receiver<Fault>) -> Option<Fault> {
    let fault = faults.wait_for(|fault| *fault != Fault::Blackhole).await;
    fault.ok().map(|fault| *fault)
}

/// Returns when `matches_fault` is true for the fault, or the proxy was dropped.
async fn until(mut faults: watch::Receiver<Fault>, matches_fault: impl Fn(Fault) -> bool) {
    let _ = faults.wait_for(|fault| matches_fault(*fault)).await;
}

/// Forwards bytes in one direction, with the delay or the throughput limit of the fault.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<Fault>,
    to_server: bool,
) {
    let mut buffer = [0; 1 << 14];
    for n in 0_u32.. {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { break };
        let Some(fault) = next_fault(&mut faults).await else { break };
        match fault {
            Fault::Slow { delay, spread } if to_server => {
                // evenly distributed from -spread to +spread, and deterministic
                let more = 2 * spread * (n.wrapping_mul(37) % 101) / 100;
                sleep((delay + more).saturating_sub(spread)).await;
            }
            Fault::Throttle(bytes) => {
                sleep(Duration::from_secs(1) * count.try_into().unwrap_or(u32::MAX) / bytes.max(1)).await;
            }
            _ => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Responds to the first request of a connection.
async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: u16) -> std::io::Result<()> {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"by the fault proxy","reason":"","code":{status}}}"#
    );
    let request = Request::read(&mut stream).await?;
    request.respond(&mut stream, status, &[("retry-after", "1"), ("connection", "close")], &body).await?;
    stream.shutdown().await
}
