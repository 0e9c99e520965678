//! Guarded dialer: resolves a host name, checks every address against the egress rules, and connects to a checked
//! address. There is no second lookup, so a name cannot change its addresses between check and connect (DNS rebinding).

use std::{error::Error as StdError, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use pilothouse_core::Cause;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    dns::DnsResolver,
    egress::{EgressRules, host_and_port, matches_any},
};

/// Timeout of resolving a name and connecting together; after it the server is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of connecting with the TLS handshake; after it the server is reachable but does not respond.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest connect timeout per address, so that a dead address does not use up the time of the others.
const MIN_TIMEOUT_PER_ADDRESS: Duration = Duration::from_millis(500);
/// Time after which a dead peer is detected, on idle connections too.
const DEAD_PEER_TIMEOUT: Duration = Duration::from_secs(15);

/// Failure to connect. Carries no text of a library, which may quote certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotConnected(pub Cause);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl StdError for NotConnected {}

/// Resolves host names and enforces the egress rules.
#[derive(Clone)]
pub struct EgressGuard {
    /// The egress rules.
    pub rules: Arc<EgressRules>,
    /// Resolver of host names.
    pub resolver: Arc<DnsResolver>,
}

impl EgressGuard {
    /// All addresses of `uri`'s host, each allowed.
    ///
    /// # Errors
    /// `EgressDenied` when an address is denied; `Unreachable` when there is none.
    async fn addresses(&self, uri: &Uri) -> Result<Vec<SocketAddr>, NotConnected> {
        let (host, port) = host_and_port(uri);
        let addresses = self.resolve(host, port).await?;
        if addresses.is_empty() {
            return Err(unreachable(&"the host name has no address"));
        }
        let allowed = addresses.iter().all(|address| self.rules.allows(address.ip()));
        if !allowed || self.is_own_socket(&addresses, port).await {
            return Err(NotConnected(Cause::EgressDenied));
        }
        Ok(addresses)
    }

    /// Whether one of these addresses is an own socket. An own name that cannot be resolved counts as a match.
    async fn is_own_socket(&self, addresses: &[SocketAddr], port: u16) -> bool {
        for own in self.rules.own.iter().filter(|own| own.port == port) {
            match self.resolve(&own.host, port).await {
                Ok(own) if !addresses.iter().any(|address| matches_any(*address, &own)) => {}
                _ => return true,
            }
        }
        false
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NotConnected> {
        let ips = match host.parse() {
            Ok(ip) => vec![ip],
            Err(_) => self.resolver.resolve(host).await.map_err(|error| NotConnected(error.cause))?,
        };
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

fn unreachable(error: &dyn fmt::Display) -> NotConnected {
    tracing::debug!(%error, "cannot connect");
    NotConnected(Cause::Unreachable)
}

/// Connects to the host of `uri`.
///
/// # Errors
/// `EgressDenied` when an address of the host is denied; otherwise `Unreachable`.
pub async fn dial(uri: Uri, guard: &EgressGuard) -> Result<TokioIo<TcpStream>, NotConnected> {
    timeout(CONNECT_TIMEOUT, dial_each(uri, guard)).await.unwrap_or_else(|elapsed| Err(unreachable(&elapsed)))
}

async fn dial_each(uri: Uri, guard: &EgressGuard) -> Result<TokioIo<TcpStream>, NotConnected> {
    let addresses = guard.addresses(&uri).await?;
    let timeout_per_address = (CONNECT_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1))
        .max(MIN_TIMEOUT_PER_ADDRESS);
    let mut failure = NotConnected(Cause::Unreachable);
    for address in addresses {
        match timeout(timeout_per_address, connect(address)).await {
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
        &TcpKeepalive::new().with_time(DEAD_PEER_TIMEOUT * 2 / 3).with_interval(DEAD_PEER_TIMEOUT / 3),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_PEER_TIMEOUT))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::IpAddr, sync::Mutex};

    use async_trait::async_trait;
    use tokio::{net::TcpListener, runtime::Handle};

    use super::*;
    use crate::{
        dns::{Resolver, ResolverLimits, SystemResolver},
        egress::OwnSocket,
    };

    /// Resolver stub: each name has a list of answers, one per lookup; the last one repeats.
    #[derive(Debug, Default)]
    struct StubResolver(Mutex<HashMap<&'static str, Vec<Vec<&'static str>>>>);

    impl StubResolver {
        fn new<const N: usize>(names: [(&'static str, Vec<Vec<&'static str>>); N]) -> Arc<Self> {
            Arc::new(Self(Mutex::new(names.into())))
        }
    }

    #[async_trait]
    impl Resolver for StubResolver {
        async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            let mut names = self.0.lock().unwrap();
            let answers =
                names.get_mut(name.trim_end_matches('.')).ok_or_else(|| io::Error::other("no such name"))?;
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            Ok(answer.into_iter().map(|ip| ip.parse().unwrap()).collect())
        }
    }

    fn lenient() -> EgressRules {
        EgressRules { allow_loopback: true, ..EgressRules::default() }
    }

    async fn dial_error_with(resolver: Arc<dyn Resolver>, url: &str, rules: EgressRules) -> Option<Cause> {
        let resolver = Arc::new(DnsResolver::new(resolver, ResolverLimits::REGISTERED, Handle::current()));
        let guard = EgressGuard { rules: Arc::new(rules), resolver };
        dial(url.parse().unwrap(), &guard).await.err().map(|NotConnected(cause)| cause)
    }

    async fn dial_error(url: &str, rules: EgressRules) -> Option<Cause> {
        dial_error_with(Arc::new(SystemResolver), url, rules).await
    }

    #[tokio::test]
    async fn every_notation_of_loopback_is_denied_before_connecting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in [
            "127.0.0.1",
            "localhost",
            "LOCALHOST",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "0x7f000001",
            "0x7f.1",
            "0",
        ] {
            let url = format!("https://{host}:{port}");
            assert_eq!(dial_error(&url, EgressRules::default()).await, Some(Cause::EgressDenied), "{host}");
        }
        assert_eq!(dial_error(&format!("https://127.0.0.1:{port}"), lenient()).await, None);
        assert_eq!(dial_error(&format!("https://0:{port}"), lenient()).await, Some(Cause::EgressDenied));
        assert_eq!(dial_error("https://169.254.169.254", lenient()).await, Some(Cause::EgressDenied));
        drop(listener);
    }

    #[tokio::test]
    async fn name_with_one_denied_address_is_denied() {
        let resolver = StubResolver::new([
            ("metadata.google.internal", vec![vec!["169.254.169.254"]]),
            ("instance-data.ec2.internal", vec![vec!["fd00:ec2::254"]]),
            ("mapped.example.com", vec![vec!["::ffff:169.254.169.254"]]),
            ("here.example.com", vec![vec!["127.0.0.1"]]),
            ("here6.example.com", vec![vec!["::1"]]),
            ("any.example.com", vec![vec!["0.0.0.0"]]),
            ("link.example.com", vec![vec!["fe80::1"]]),
            ("group.example.com", vec![vec!["224.0.0.1"]]),
            ("one-of-many.example.com", vec![vec!["203.0.113.7", "10.0.0.1", "169.254.169.254"]]),
        ]);
        let all: Vec<_> = resolver.0.lock().unwrap().keys().copied().collect();
        for name in all {
            for url in [format!("https://{name}"), format!("https://{name}.:6443")] {
                let refused = dial_error_with(resolver.clone(), &url, EgressRules::default()).await;
                assert_eq!(refused, Some(Cause::EgressDenied), "{url}");
            }
        }
        let missing =
            dial_error_with(resolver.clone(), "https://missing.example.com", EgressRules::default()).await;
        assert_eq!(missing, Some(Cause::Unreachable));
    }

    /// DNS rebinding: the dialer connects to the checked addresses and does not resolve again.
    #[tokio::test]
    async fn name_is_resolved_once_per_dial() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://rebinding.example.com:{}", listener.local_addr().unwrap().port());
        let allowed_then_denied =
            || StubResolver::new([("rebinding.example.com", vec![vec!["127.0.0.1"], vec!["0.0.0.0"]])]);
        assert_eq!(dial_error_with(allowed_then_denied(), &url, lenient()).await, None);
        let resolver = allowed_then_denied();
        dial_error_with(resolver.clone(), &url, lenient()).await;
        assert_eq!(
            dial_error_with(resolver, &url, lenient()).await,
            Some(Cause::EgressDenied),
            "each dial resolves again"
        );
    }

    #[tokio::test]
    async fn own_sockets_are_denied_under_any_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let port = own.port();
        let resolver = StubResolver::new([
            ("us.example.com", vec![vec!["127.0.0.1"]]),
            ("db.example.com", vec![vec!["203.0.113.7", "127.0.0.1"]]),
            ("other.example.com", vec![vec!["127.0.0.1"]]),
        ]);
        let refused = async |owns: OwnSocket, url: &str| {
            dial_error_with(resolver.clone(), url, EgressRules { own: vec![owns], ..lenient() }).await
        };
        let database = || OwnSocket { host: "db.example.com".into(), port };
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "us.example.com", "other.example.com"] {
            let url = format!("https://{host}:{port}");
            assert_eq!(refused(own.into(), &url).await, Some(Cause::EgressDenied), "{host}");
            assert_eq!(refused(database(), &url).await, Some(Cause::EgressDenied), "{host}");
        }
        let url = format!("https://127.0.0.1:{port}");
        let unresolvable = OwnSocket { host: "gone.example.com".into(), port };
        assert_eq!(refused(unresolvable, &url).await, Some(Cause::EgressDenied));
        let another_port = OwnSocket { host: "gone.example.com".into(), port: 1 };
        assert_eq!(refused(another_port, &url).await, None);
    }

    #[tokio::test]
    async fn closed_port_and_unknown_host_are_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(dial_error(&url, lenient()).await, Some(Cause::Unreachable));
        assert_eq!(
            dial_error("https://no-such-host.invalid", EgressRules::default()).await,
            Some(Cause::Unreachable)
        );
    }
}
