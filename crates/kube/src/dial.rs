//! The way to a cluster's socket: resolve, hold every answer against the egress rules, connect to a checked address.
//! There is no second lookup, so a name cannot change its addresses between check and connect (DNS rebinding).

use std::{error::Error as StdError, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use pilothouse_core::Cause;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    dns::DnsResolver,
    egress::{EgressRules, is_one_of, target},
};

/// How long resolving a name and connecting may take together: after it nobody is there.
const CONNECT: Duration = Duration::from_secs(3);
/// How long all may take, the TLS handshake too: somebody is there who does not answer.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
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

/// Who says where a connection may go.
#[derive(Clone)]
pub(crate) struct EgressGuard {
    pub(crate) rules: Arc<EgressRules>,
    pub(crate) names: Arc<DnsResolver>,
}

impl EgressGuard {
    /// Every address of `uri`'s host, each of which may be connected to.
    ///
    /// # Errors
    /// `EgressDenied` when any is refused; `Unreachable` when there is none.
    async fn addresses(&self, uri: &Uri) -> Result<Vec<SocketAddr>, NotConnected> {
        let (host, port) = target(uri);
        let addresses = self.resolve(host, port).await?;
        if addresses.is_empty() {
            return Err(unreachable(&"the host name has no address"));
        }
        let allowed = addresses.iter().all(|address| self.rules.allows(address.ip()));
        if !allowed || self.is_ours(&addresses, port).await {
            return Err(NotConnected(Cause::EgressDenied));
        }
        Ok(addresses)
    }

    /// Whether any of these is a socket of ours. A name of ours that nobody can resolve may be any of them.
    async fn is_ours(&self, addresses: &[SocketAddr], port: u16) -> bool {
        for own in self.rules.own.iter().filter(|own| own.port == port) {
            match self.resolve(&own.host, port).await {
                Ok(own) if !addresses.iter().any(|address| is_one_of(*address, &own)) => {}
                _ => return true,
            }
        }
        false
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NotConnected> {
        let ips = match host.parse() {
            Ok(ip) => vec![ip],
            Err(_) => self.names.resolve(host).await.map_err(|error| NotConnected(error.cause))?,
        };
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

fn unreachable(error: &dyn fmt::Display) -> NotConnected {
    tracing::debug!(%error, "cannot connect to the cluster");
    NotConnected(Cause::Unreachable)
}

/// Opens a connection to the host of `uri`.
///
/// # Errors
/// `EgressDenied` when any address of the host is refused; else `Unreachable`.
pub(crate) async fn dial(uri: Uri, guard: &EgressGuard) -> Result<TokioIo<TcpStream>, NotConnected> {
    timeout(CONNECT, dial_each(uri, guard)).await.unwrap_or_else(|elapsed| Err(unreachable(&elapsed)))
}

async fn dial_each(uri: Uri, guard: &EgressGuard) -> Result<TokioIo<TcpStream>, NotConnected> {
    let addresses = guard.addresses(&uri).await?;
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
    use std::{collections::HashMap, net::IpAddr, sync::Mutex};

    use async_trait::async_trait;
    use tokio::{net::TcpListener, runtime::Handle};

    use super::*;
    use crate::{
        dns::{Resolver, ResolverLimits, SystemResolver},
        egress::OwnSocket,
    };

    /// Names with the answers they get, one lookup after the other; the last one stays.
    #[derive(Debug, Default)]
    struct Zone(Mutex<HashMap<&'static str, Vec<Vec<&'static str>>>>);

    impl Zone {
        fn new<const N: usize>(names: [(&'static str, Vec<Vec<&'static str>>); N]) -> Arc<Self> {
            Arc::new(Self(Mutex::new(names.into())))
        }
    }

    #[async_trait]
    impl Resolver for Zone {
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

    async fn refused_by(resolver: Arc<dyn Resolver>, url: &str, rules: EgressRules) -> Option<Cause> {
        let names = Arc::new(DnsResolver::new(resolver, ResolverLimits::REGISTERED, Handle::current()));
        let guard = EgressGuard { rules: Arc::new(rules), names };
        dial(url.parse().unwrap(), &guard).await.err().map(|NotConnected(cause)| cause)
    }

    async fn refusal(url: &str, rules: EgressRules) -> Option<Cause> {
        refused_by(Arc::new(SystemResolver), url, rules).await
    }

    #[tokio::test]
    async fn every_way_to_write_loopback_is_refused_before_a_connection_is_made() {
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
            assert_eq!(refusal(&url, EgressRules::default()).await, Some(Cause::EgressDenied), "{host}");
        }
        assert_eq!(refusal(&format!("https://127.0.0.1:{port}"), lenient()).await, None);
        assert_eq!(refusal(&format!("https://0:{port}"), lenient()).await, Some(Cause::EgressDenied));
        assert_eq!(refusal("https://169.254.169.254", lenient()).await, Some(Cause::EgressDenied));
        drop(listener);
    }

    #[tokio::test]
    async fn a_name_is_what_it_resolves_to_and_one_bad_address_of_many_is_enough() {
        let names = Zone::new([
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
        let all: Vec<_> = names.0.lock().unwrap().keys().copied().collect();
        for name in all {
            for url in [format!("https://{name}"), format!("https://{name}.:6443")] {
                let refused = refused_by(names.clone(), &url, EgressRules::default()).await;
                assert_eq!(refused, Some(Cause::EgressDenied), "{url}");
            }
        }
        let nobody = refused_by(names.clone(), "https://nobody.example.com", EgressRules::default()).await;
        assert_eq!(nobody, Some(Cause::Unreachable));
    }

    /// DNS rebinding: what was checked is what is connected to; the second answer is never asked for.
    #[tokio::test]
    async fn a_name_is_resolved_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://rebinding.example.com:{}", listener.local_addr().unwrap().port());
        let good_then_bad =
            || Zone::new([("rebinding.example.com", vec![vec!["127.0.0.1"], vec!["0.0.0.0"]])]);
        assert_eq!(refused_by(good_then_bad(), &url, lenient()).await, None);
        let names = good_then_bad();
        refused_by(names.clone(), &url, lenient()).await;
        assert_eq!(refused_by(names, &url, lenient()).await, Some(Cause::EgressDenied), "each dial anew");
    }

    #[tokio::test]
    async fn nothing_of_ours_is_connected_to_by_whatever_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let port = own.port();
        let names = Zone::new([
            ("us.example.com", vec![vec!["127.0.0.1"]]),
            ("db.example.com", vec![vec!["203.0.113.7", "127.0.0.1"]]),
            ("other.example.com", vec![vec!["127.0.0.1"]]),
        ]);
        let refused = async |owns: OwnSocket, url: &str| {
            refused_by(names.clone(), url, EgressRules { own: vec![owns], ..lenient() }).await
        };
        let database = || OwnSocket { host: "db.example.com".into(), port };
        for host in ["127.0.0.1", "127.9.9.9", "[::1]", "us.example.com", "other.example.com"] {
            let url = format!("https://{host}:{port}");
            assert_eq!(refused(own.into(), &url).await, Some(Cause::EgressDenied), "{host}");
            assert_eq!(refused(database(), &url).await, Some(Cause::EgressDenied), "{host}");
        }
        let url = format!("https://127.0.0.1:{port}");
        let nobody_knows = OwnSocket { host: "gone.example.com".into(), port };
        assert_eq!(refused(nobody_knows, &url).await, Some(Cause::EgressDenied));
        let another_port = OwnSocket { host: "gone.example.com".into(), port: 1 };
        assert_eq!(refused(another_port, &url).await, None);
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(refusal(&url, lenient()).await, Some(Cause::Unreachable));
        assert_eq!(
            refusal("https://no-such-host.invalid", EgressRules::default()).await,
            Some(Cause::Unreachable)
        );
    }
}
