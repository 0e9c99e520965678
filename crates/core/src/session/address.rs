//! Client address, normalised as a throttle key for logins.

use std::net::IpAddr;

/// An IPv4 address, or an IPv6 /64 network: one customer usually has a whole /64 and could otherwise use a new
/// address for each attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(String);

impl ClientAddress {
    /// Creates the key of a client's IP address. IPv4 addresses in IPv6 notation (`::ffff:10.0.0.1`) count as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        })
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_addresses_have_one_key() {
        let of = |text: &str| ClientAddress::of(text.parse().unwrap());
        assert_eq!(of("10.0.0.1").as_str(), "10.0.0.1");
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("2001:db8::1").as_str(), "2001:db8:0:0::/64");
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
