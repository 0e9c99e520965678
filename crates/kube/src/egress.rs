//! Which addresses a cluster may have. Clusters legitimately live on private networks, so those are allowed; what is
//! refused is this machine, its link, and the metadata services of clouds, which hand out credentials to whoever asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

/// Metadata services that lie outside the link-local ranges.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google Cloud
];

/// The rules for addresses of clusters.
#[derive(Clone, Copy, Debug, Default)]
pub struct EgressRules {
    /// Whether a cluster may be on this machine's loopback: for tests and the demo.
    pub allow_loopback: bool,
}

impl EgressRules {
    /// Whether a connection to this address may be made.
    pub fn allows(self, ip: IpAddr) -> bool {
        let ip = reached(ip);
        if ip.is_loopback() {
            return self.allow_loopback;
        }
        let special = match ip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
            // `::a.b.c.d` is deprecated (RFC 4291 2.5.5.1) and no cluster's address
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..6] == [0; 6],
        };
        !(special || ip.is_unspecified() || ip.is_multicast() || METADATA.contains(&ip))
    }
}

impl EgressRules {
    /// Whether the host of `https://…` may be connected to, as far as that can be told without resolving a name.
    pub(crate) fn allows_host(self, server: &str) -> bool {
        let uri = Uri::try_from(server).unwrap_or_default();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.');
        let is_localhost = host == "localhost" || host.ends_with(".localhost");
        match host.parse() {
            Ok(ip) => self.allows(ip),
            Err(_) => self.allow_loopback || !is_localhost,
        }
    }
}

/// The address that packets end up at: the IPv4 one where an IPv6 address only wraps it.
fn reached(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low), // v4-mapped
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64, RFC 6052
        [0x64, 0xff9b, 1, .., high, low] => embedded(high, low),   // NAT64 of local use, RFC 8215
        [0x2002, high, low, ..] => embedded(high, low),            // 6to4
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_judged_without_resolving_them() {
        let (strict, lenient) = (EgressRules::default(), EgressRules { allow_loopback: true });
        for host in
            ["https://127.0.0.1:1", "https://localhost", "https://a.localhost:6443", "https://[::1]:1"]
        {
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
    fn addresses_by_table() {
        let (always, loopback, never) = (true, false, false);
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
            ("64:ff9b::7f00:1", loopback, true),
            ("2002:7f00:1::", loopback, true),
            ("0.0.0.0", never, false),
            ("0.1.2.3", never, false),
            ("::", never, false),
            ("::ffff:0.0.0.0", never, false),
            ("169.254.169.254", never, false),
            ("::ffff:169.254.169.254", never, false),
            ("::ffff:a9fe:a9fe", never, false),
            ("::a9fe:a9fe", never, false),
            ("64:ff9b::a9fe:a9fe", never, false),
            ("64:ff9b:1::a9fe:a9fe", never, false),
            ("2002:a9fe:a9fe::1", never, false),
            ("fe80::1", never, false),
            ("fd00:ec2::254", never, false),
            ("fd20:ce::254", never, false),
            ("100.100.100.200", never, false),
            ("168.63.129.16", never, false),
            ("192.0.0.192", never, false),
            ("224.0.0.1", never, false),
            ("ff02::1", never, false),
            ("255.255.255.255", never, false),
        ];
        for &(text, by_default, with_loopback) in cases {
            let ip = text.parse().unwrap();
            assert_eq!(EgressRules::default().allows(ip), by_default, "{text}");
            assert_eq!(
                EgressRules { allow_loopback: true }.allows(ip),
                with_loopback,
                "{text} with loopback allowed"
            );
        }
    }
}
