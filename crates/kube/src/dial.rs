//! The way to a cluster's socket: resolve, hold every answer against the egress rules, connect to a checked address.
//! There is no second lookup, so a name cannot change its mind between check and connect.

use std::{error::Error as StdError, fmt, io, net::SocketAddr, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use pilothouse_core::Cause;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::egress::EgressRules;

/// How long resolving, connecting and the TLS handshake may take together.
pub(crate) const CONNECT: Duration = Duration::from_secs(3);
/// What each of several addresses gets at least, so that a dead one does not use up the others' time.
const EACH: Duration = Duration::from_millis(500);
/// A peer that is gone is noticed within about this time, on idle connections too.
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Why there is no connection. Holds no text of a library's, which may quote certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotConnected(pub(crate) Cause);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl StdError for NotConnected {}

/// Opens a connection to the host of `uri`.
///
/// # Errors
/// `EgressDenied` when any address of the host is refused; else `Unreachable`.
pub(crate) async fn dial(uri: Uri, rules: EgressRules) -> Result<TokioIo<TcpStream>, NotConnected> {
    let unreachable = |error: &dyn fmt::Display| {
        tracing::debug!(%error, "no connection to the cluster");
        NotConnected(Cause::Unreachable)
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let addresses = lookup_host((host, uri.port_u16().unwrap_or(443))).await.map_err(|e| unreachable(&e))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    if addresses.is_empty() {
        return Err(unreachable(&"the name has no address"));
    }
    if !addresses.iter().all(|address| rules.allows(address.ip())) {
        return Err(NotConnected(Cause::EgressDenied));
    }
    let share = (CONNECT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1)).max(EACH);
    let mut failure = NotConnected(Cause::Unreachable);
    for address in addresses {
        match timeout(share, connect(address)).await {
            Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
            Ok(Err(error)) => failure = unreachable(&error),
            Err(elapsed) => failure = unreachable(&elapsed),
        }
    }
    Err(failure)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(DEAD_AFTER * 2 / 3).with_interval(DEAD_AFTER / 3),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn refusal(url: &str, rules: EgressRules) -> Option<Cause> {
        dial(url.parse().unwrap(), rules).await.err().map(|NotConnected(cause)| cause)
    }

    #[tokio::test]
    async fn every_way_to_write_loopback_is_refused_before_a_connection_is_made() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "2130706433",
            "127.1",
            "0x7f000001",
            "0",
        ] {
            let url = format!("https://{host}:{port}");
            assert_eq!(refusal(&url, EgressRules::default()).await, Some(Cause::EgressDenied), "{host}");
        }
        let allowed = EgressRules { allow_loopback: true };
        assert_eq!(refusal(&format!("https://127.0.0.1:{port}"), allowed).await, None);
        assert_eq!(refusal(&format!("https://0:{port}"), allowed).await, Some(Cause::EgressDenied));
        assert_eq!(refusal("https://169.254.169.254", allowed).await, Some(Cause::EgressDenied));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(refusal(&url, EgressRules { allow_loopback: true }).await, Some(Cause::Unreachable));
        assert_eq!(
            refusal("https://no-such-host.invalid", EgressRules::default()).await,
            Some(Cause::Unreachable)
        );
    }
}
