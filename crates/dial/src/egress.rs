//! Egress rules: which addresses a cluster or an identity provider may have. Private networks are allowed, because
//! clusters run there. Denied are this machine, link-local addresses, Pilothouse's own sockets, and cloud metadata
//! services, which return credentials to any client. An operator may restrict clusters to a list of networks.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
};

use http::Uri;
use ipnet::{IpNet, Ipv6Net};
use serde::Deserialize;

/// Cloud metadata services outside the link-local ranges.
const METADATA_SERVICES: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)), // Scaleway
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google Cloud
];

/// IPv6 networks that contain no cluster.
const DENIED_IPV6_NETWORKS: [Ipv6Net; 5] = [
    // `::a.b.c.d` is deprecated (RFC 4291, 2.5.5.1)
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96),
    // Teredo embeds an IPv4 address and is switched off everywhere (RFC 4380)
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    // local-use NAT64: the position of the IPv4 address depends on the translator (RFC 8215, RFC 6052 2.2)
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    // AWS services: metadata, pod identity, time, DNS
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    // site-local, which older kernels treat like link-local (RFC 3879)
    Ipv6Net::new_assert(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
];

/// Rules for the addresses of clusters.
#[derive(Clone, Debug, Default)]
pub struct EgressRules {
    /// Whether a cluster may be on this machine's loopback interface: for tests and the demo.
    pub allow_loopback: bool,
    /// The only networks in which a cluster may be. `None`: all networks. Some addresses are denied in either case.
    pub allow_networks: Option<Networks>,
    /// Own sockets, such as the listeners and the database: always denied.
    pub own: Vec<OwnSocket>,
}

/// A list of networks as an operator writes it, not empty: `10.0.0.0/8, 192.0.2.7, fd12:3456::/32`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Networks(Vec<IpNet>);

impl FromStr for Networks {
    type Err = NotNetworks;

    fn from_str(text: &str) -> Result<Self, NotNetworks> {
        let network = |part: &str| part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        let networks: Result<_, _> = text.split(',').map(|part| network(part.trim())).collect();
        networks.map(Self).map_err(|_| NotNetworks)
    }
}

impl From<Networks> for Vec<IpNet> {
    fn from(networks: Networks) -> Self {
        networks.0
    }
}

impl TryFrom<String> for Networks {
    type Error = NotNetworks;

    fn try_from(text: String) -> Result<Self, NotNetworks> {
        text.parse()
    }
}

/// Error of parsing a list of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNetworks;

impl fmt::Display for NotNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a list of networks: write networks such as 10.0.0.0/8, fd12:3456::/32")
    }
}

impl std::error::Error for NotNetworks {}

/// A socket of Pilothouse itself or of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnSocket {
    /// IP address or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl From<SocketAddr> for OwnSocket {
    fn from(socket: SocketAddr) -> Self {
        Self { host: socket.ip().to_string(), port: socket.port() }
    }
}

impl EgressRules {
    /// Whether a connection to this address is allowed, regardless of the port.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let is_listed =
            |networks: &Networks| networks.0.iter().any(|network| network.contains(&effective_address(ip)));
        [ip, effective_address(ip)].into_iter().all(|ip| self.passes_fixed_rules(ip))
            && self.allow_networks.as_ref().is_none_or(is_listed)
    }

    fn passes_fixed_rules(&self, ip: IpAddr) -> bool {
        let denied = match ip {
            _ if ip.is_loopback() => !self.allow_loopback,
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => {
                v6.is_unicast_link_local() || DENIED_IPV6_NETWORKS.iter().any(|network| network.contains(&v6))
            }
        };
        !(denied || ip.is_multicast() || METADATA_SERVICES.contains(&ip))
    }

    /// Whether the host of an `https://` URL is allowed, as far as that is decidable without resolving a name.
    pub fn allows_host(&self, server: &str) -> bool {
        let uri = Uri::try_from(server).unwrap_or_default();
        let (host, port) = host_and_port(&uri);
        let host = host.trim_end_matches('.');
        let is_localhost = host == "localhost" || host.ends_with(".localhost");
        if let Ok(ip) = host.parse() {
            let literal = |own: &OwnSocket| Some(SocketAddr::new(own.host.parse().ok()?, own.port));
            let own: Vec<_> = self.own.iter().filter_map(literal).collect();
            self.allows(ip) && !matches_any(SocketAddr::new(ip, port), &own)
        } else {
            let named = |own: &OwnSocket| own.port == port && own.host.eq_ignore_ascii_case(host);
            (self.allow_loopback || !is_localhost) && !self.own.iter().any(named)
        }
    }
}

/// Host, without brackets, and port of a URI.
pub fn host_and_port(uri: &Uri) -> (&str, u16) {
    (uri.host().unwrap_or_default().trim_matches(['[', ']']), uri.port_u16().unwrap_or(443))
}

/// Whether a socket is one of `own`. A listener on one address of this machine may listen on all of them, so any local
/// address matches.
pub fn matches_any(socket: SocketAddr, own: &[SocketAddr]) -> bool {
    let ip = effective_address(socket.ip());
    let same = |own: &SocketAddr| {
        let own_ip = effective_address(own.ip());
        own.port() == socket.port() && (own_ip == ip || is_local(own_ip) && is_local(ip))
    };
    own.iter().any(same)
}

/// Whether an address is this machine's: only such an address can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// The address that packets reach: the embedded IPv4 address of an IPv6 transition address.
fn effective_address(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low), // v4-mapped
        [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low), // v4-translated, RFC 2765
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64, RFC 6052
        [0x2002, high, low, ..] => embedded(high, low),            // 6to4
        [.., 0 | 0x200, 0x5efe, high, low] => embedded(high, low), // ISATAP, RFC 5214
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lenient() -> EgressRules {
        EgressRules { allow_loopback: true, ..EgressRules::default() }
    }

    #[test]
    fn hosts_are_checked_without_resolving_names() {
        let (strict, lenient) = (EgressRules::default(), lenient());
        for host in [
            "https://127.0.0.1:1",
            "https://localhost",
            "https://localhost.:1",
            "https://a.localhost:6443",
            "https://[::1]:1",
        ] {
            assert_eq!((strict.allows_host(host), lenient.allows_host(host)), (false, true), "{host}");
        }
        assert!(
            !lenient.allows_host("https://169.254.169.254")
                && !lenient.allows_host("https://[::ffff:a9fe:a9fe]")
        );
        assert!(
            strict.allows_host("https://10.0.0.1:6443/k8s") && strict.allows_host("https://k8s.example.com")
        );
    }

    #[test]
    fn special_addresses_are_denied_in_every_notation() {
        let (always, loopback, denied) = (true, false, false);
        let cases: &[(&str, bool, bool)] = &[
            // address, by default, with loopback allowed
            ("10.0.0.1", always, true),
            ("172.16.0.1", always, true),
            ("192.168.1.1", always, true),
            ("100.64.0.1", always, true),
            ("203.0.113.7", always, true),
            ("2001:db8::1", always, true),
            ("fd12:3456::1", always, true),
            ("64:ff9b::a00:1", always, true),
            ("::ffff:10.0.0.1", always, true),
            ("127.0.0.1", loopback, true),
            ("127.8.8.8", loopback, true),
            ("::1", loopback, true),
            ("::ffff:127.0.0.1", loopback, true),
            ("::ffff:0:127.0.0.1", loopback, true),
            ("64:ff9b::7f00:1", loopback, true),
            ("2002:7f00:1::", loopback, true),
            ("2001:db8::5efe:127.0.0.1", loopback, true),
            ("0.0.0.0", denied, false),
            ("0.1.2.3", denied, false),
            ("::", denied, false),
            ("::2", denied, false),
            ("::127.0.0.1", denied, false),
            ("::ffff:0.0.0.0", denied, false),
            ("169.254.169.254", denied, false),
            ("169.254.170.2", denied, false),
            ("::ffff:169.254.169.254", denied, false),
            ("::ffff:a9fe:a9fe", denied, false),
            ("::ffff:0:a9fe:a9fe", denied, false),
            ("::a9fe:a9fe", denied, false),
            ("64:ff9b::a9fe:a9fe", denied, false),
            ("64:ff9b:1::a9fe:a9fe", denied, false),
            ("64:ff9b:1:a9fe:a9:fe00::", denied, false),
            ("2002:a9fe:a9fe::1", denied, false),
            ("2001:0:a9fe:a9fe::1", denied, false),
            ("2001:db8::200:5efe:a9fe:a9fe", denied, false),
            ("fe80::1", denied, false),
            ("fe80::5efe:10.0.0.1", denied, false),
            ("fec0::1", denied, false),
            ("fd00:ec2::254", denied, false),
            ("fd00:ec2::23", denied, false),
            ("fd00:42::42", denied, false),
            ("fd20:ce::254", denied, false),
            ("100.100.100.200", denied, false),
            ("168.63.129.16", denied, false),
            ("192.0.0.192", denied, false),
            ("224.0.0.1", denied, false),
            ("::ffff:224.0.0.1", denied, false),
            ("ff02::1", denied, false),
            ("255.255.255.255", denied, false),
        ];
        for &(text, by_default, with_loopback) in cases {
            let ip = text.parse().unwrap();
            assert_eq!(EgressRules::default().allows(ip), by_default, "{text}");
            assert_eq!(lenient().allows(ip), with_loopback, "{text} with loopback allowed");
        }
    }

    #[test]
    fn allow_networks_restricts_and_never_extends() {
        let networks = "10.0.0.0/8, 192.0.2.7,fd12:3456::/32,0.0.0.0/1 , fe80::/10, 169.254.0.0/16";
        let within = EgressRules { allow_networks: Some(networks.parse().unwrap()), ..lenient() };
        for ip in
            ["10.255.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "192.0.2.7", "fd12:3456::1", "127.0.0.1"]
        {
            assert!(within.allows(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["192.0.2.8", "203.0.113.7", "fd12:3457::1", "::1", "169.254.169.254", "fe80::1", "0.0.0.1"]
        {
            assert!(!within.allows(ip.parse().unwrap()), "{ip}");
        }
        let strict =
            EgressRules { allow_networks: Some("127.0.0.0/8".parse().unwrap()), ..Default::default() };
        assert!(!strict.allows("127.0.0.1".parse().unwrap()), "loopback needs allow_loopback");
        for text in ["", ",", "10.0.0.0/8,", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/8 fd00::/8"] {
            assert_eq!(text.parse::<Networks>(), Err(NotNetworks), "{text}");
        }
    }

    #[test]
    fn own_sockets_are_denied_under_any_local_address() {
        let own = |socket: &str| OwnSocket::from(socket.parse::<SocketAddr>().unwrap());
        let database = OwnSocket { host: "db.example.com".into(), port: 5432 };
        let rules = EgressRules { own: vec![own("127.0.0.1:8080"), own("[::]:9090"), database], ..lenient() };
        for server in [
            "https://127.0.0.1:8080",
            "https://127.0.0.1:8080/path",
            "https://127.8.8.8:8080",
            "https://[::1]:8080",
            "https://[::ffff:127.0.0.1]:8080",
            "https://127.0.0.1:9090",
            "https://[64:ff9b::7f00:1]:9090",
            "https://db.example.com:5432",
            "https://db.example.com.:5432",
            "https://DB.example.com:5432",
        ] {
            assert!(!rules.allows_host(server), "{server}");
        }
        for server in ["https://127.0.0.1:8081", "https://203.0.113.7:8080", "https://db.example.com:6443"] {
            assert!(rules.allows_host(server), "{server}");
        }
    }
}
