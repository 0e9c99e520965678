//! Networks from which an API token is accepted.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::Reason;

/// Networks from which a token is accepted. Empty: all. In JSON a list of texts: `["10.0.0.0/8", "192.0.2.7"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Maximum number of networks of a token.
    pub const MAX: usize = 20;

    /// Parses networks: CIDR notation, or a single address. Bits of an address outside its network are cleared.
    ///
    /// # Errors
    /// [`Reason::TooLong`] above [`Networks::MAX`]; [`Reason::Malformed`].
    pub fn parse(texts: &[impl AsRef<str>]) -> Result<Self, Reason> {
        if texts.len() > Self::MAX {
            return Err(Reason::TooLong);
        }
        let network = |text: &str| {
            let single = || text.parse::<IpAddr>().map(IpNet::from);
            let network = text.parse::<IpNet>().or_else(|_| single()).map_err(|_| Reason::Malformed)?;
            Ok(canonical(network).trunc())
        };
        texts.iter().map(|text| network(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a request from this address is accepted. A request without a known address is accepted only if all
    /// networks are.
    pub fn contain(&self, ip: Option<IpAddr>) -> bool {
        let contain = |ip: IpAddr| self.0.iter().any(|network| network.contains(&ip.to_canonical()));
        self.0.is_empty() || ip.is_some_and(contain)
    }

    /// The networks as texts.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// An IPv4 network in IPv6 notation (`::ffff:10.0.0.0/104`) as IPv4.
fn canonical(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(96)) {
        (IpAddr::V4(v4), Some(length)) if network.addr().is_ipv6() => {
            IpNet::new(IpAddr::V4(v4), length).unwrap_or(network)
        }
        _ => network,
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = Reason;
    fn try_from(texts: Vec<String>) -> Result<Self, Reason> {
        Self::parse(&texts)
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.texts())
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_matched_in_any_notation() {
        let networks =
            Networks::parse(&["10.1.2.3/8", "192.0.2.7", "2001:db8::/32", "::ffff:172.16.0.0/108"]).unwrap();
        assert_eq!(networks.to_string(), "10.0.0.0/8,192.0.2.7/32,2001:db8::/32,172.16.0.0/12");
        let contain = |ip: &str| networks.contain(Some(ip.parse().unwrap()));
        for ip in
            ["10.255.0.1", "::ffff:10.0.0.1", "192.0.2.7", "2001:db8:1::1", "172.31.0.1", "::ffff:172.16.0.1"]
        {
            assert!(contain(ip), "{ip}");
        }
        for ip in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "172.32.0.1", "::10.0.0.1"] {
            assert!(!contain(ip), "{ip}");
        }
        assert!(!networks.contain(None), "an unknown address is in no network");
        assert!(Networks::default().contain(None) && Networks::default().contain("192.0.2.1".parse().ok()));
    }

    #[test]
    fn networks_are_parsed_strictly_and_printed() {
        for text in
            ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.0/8,10.0.0.1", " 10.0.0.1", "10.0.0.0/-1"]
        {
            assert_eq!(Networks::parse(&[text]), Err(Reason::Malformed), "{text:?}");
        }
        let many = |n| vec!["192.0.2.1"; n];
        assert!(Networks::parse(&many(Networks::MAX)).is_ok());
        assert_eq!(Networks::parse(&many(Networks::MAX + 1)), Err(Reason::TooLong));
        let json = r#"["10.0.0.0/8","192.0.2.7/32"]"#;
        let networks: Networks = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&networks).unwrap(), json);
        assert_eq!(Networks::parse(&networks.texts()), Ok(networks));
    }
}
