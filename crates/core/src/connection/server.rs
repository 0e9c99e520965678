//! API server address.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::error::Reason;

/// API server URL: `https://host[:port][/path]`, without user info, query or fragment. Host in lower case, no
/// trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiServer(String);

impl ApiServer {
    /// Checks and normalises an address.
    ///
    /// # Errors
    /// [`Reason::Required`], [`Reason::TooLong`], [`Reason::Malformed`].
    pub fn new(text: &str) -> Result<Self, Reason> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Reason::Required);
        }
        if text.len() > 512 {
            return Err(Reason::TooLong);
        }
        let scheme = text
            .get(..8)
            .filter(|scheme| scheme.eq_ignore_ascii_case("https://"))
            .ok_or(Reason::Malformed)?;
        let rest = &text[scheme.len()..];
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = host(authority)?;
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/');
        let is_valid_path = path.bytes().all(unreserved)
            && !path.contains("//")
            && !path.split('/').any(|s| s == "." || s == "..");
        if !is_valid_path {
            return Err(Reason::Malformed);
        }
        Ok(Self(format!("https://{host}{}", path.trim_end_matches('/'))))
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Host and optional port, normalised.
fn host(authority: &str) -> Result<String, Reason> {
    let (name, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (literal, port) = rest.split_once(']').ok_or(Reason::Malformed)?;
        let ip: std::net::Ipv6Addr = literal.parse().map_err(|_| Reason::Malformed)?;
        (format!("[{ip}]"), port.strip_prefix(':').or(if port.is_empty() { Some("443") } else { None }))
    } else {
        let (name, port) = authority.split_once(':').unwrap_or((authority, "443"));
        let name = name.to_ascii_lowercase();
        let is_valid_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // a last label of digits marks an IP address (RFC 1123 2.1), which must be complete: no 2130706433, no
        // 127.1
        let numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()) || label.starts_with("0x"));
        let is_valid_name = name.len() <= 253
            && name.split('.').all(is_valid_label)
            && (!numeric || name.parse::<IpAddr>().is_ok());
        if !is_valid_name {
            return Err(Reason::Malformed);
        }
        (name, Some(port))
    };
    let port = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit())).ok_or(Reason::Malformed)?;
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(Reason::Malformed),
        Ok(443) => Ok(name),
        Ok(port) => Ok(format!("{name}:{port}")),
    }
}

impl TryFrom<String> for ApiServer {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::new(&text)
    }
}

impl From<ApiServer> for String {
    fn from(server: ApiServer) -> Self {
        server.0
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_address_is_a_normalised_https_url() {
        let valid = [
            ("https://k8s.example.com:6443", "https://k8s.example.com:6443"),
            (" HTTPS://K8S.Example.com/ ", "https://k8s.example.com"),
            ("https://10.0.0.1:443/k8s/clusters/c-1", "https://10.0.0.1/k8s/clusters/c-1"),
            ("https://[2001:DB8::1]:6443", "https://[2001:db8::1]:6443"),
        ];
        for (text, expected) in valid {
            assert_eq!(ApiServer::new(text).as_ref().map(ApiServer::as_str), Ok(expected));
        }
        let invalid = [
            "http://a",
            "ftp://a",
            "a:6443",
            "https://",
            "https:///x",
            "https://u@a",
            "https://u:p@a",
            "https://a?x=1",
            "https://a#b",
            "https://a:0",
            "https://a:65536",
            "https://a:x",
            "https://a b",
            "https://a/..",
            "https://a//b",
            "https://a/%2e",
            "https://[::1",
            "https://[::1]x",
            "https://2130706433",
            "https://127.1",
            "https://0x7f000001",
            "https://-a",
            "https://a..b",
            "https://ä",
            "https://a\n",
            "https://a\\b",
        ];
        for text in invalid {
            let expected = if text == "https://a\n" { Ok(()) } else { Err(Reason::Malformed) };
            assert_eq!(ApiServer::new(text).map(drop), expected, "{text:?}");
        }
    }
}
