//! Connection to a cluster: the API server's address and the credential, and the checks of their text forms.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};

mod server;

pub use server::ApiServer;

/// The form in which the credential was supplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthType {
    /// A bearer token.
    Token,
    /// A kubeconfig, of which only server, CA and one credential are stored.
    Kubeconfig,
}

impl AuthType {
    /// The value in rows and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Kubeconfig => "kubeconfig",
        }
    }
}

/// The credential that Pilothouse presents to a cluster. It has no `Serialize`; its `Debug` output contains only the
/// type.
#[derive(Clone)]
pub enum Credential {
    /// A bearer token.
    Token(SecretString),
    /// A client certificate.
    Certificate {
        /// The chain, PEM.
        chain: String,
        /// The private key, PEM.
        key: SecretString,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Certificate { .. } => "Certificate(…)",
        })
    }
}

/// Connection parameters of a cluster.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The API server's address.
    pub server: ApiServer,
    /// Trusted CA certificates, PEM; the system's roots if `None`.
    pub ca: Option<String>,
    /// The name that the server's certificate must contain, if not the server's host.
    pub tls_server_name: Option<String>,
    /// Whether any certificate is accepted.
    pub insecure_skip_tls_verify: bool,
    /// The credential that Pilothouse presents.
    pub credential: Credential,
}

/// A stored connection. Its version changes with the connection, so a client of another version is never reused.
#[derive(Clone, Debug)]
pub struct StoredConnection {
    /// The connection.
    pub connection: Connection,
    /// Increases with every change and is never reused, even if the database lost its last commits.
    pub version: i64,
}

/// Checks that a token is valid in a header: visible ASCII, at most 16 KiB. Removes surrounding white space.
pub(crate) fn check_token(field: &str, token: &SecretString) -> Result<SecretString> {
    let token = token.expose_secret().trim();
    match token.len() {
        0 => Err(Error::invalid(field, Reason::Required)),
        1..=16_384 if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(token.into()),
        1..=16_384 => Err(Error::invalid(field, Reason::Malformed)),
        _ => Err(Error::invalid(field, Reason::TooLong)),
    }
}

/// Checks that a text contains at least one PEM certificate and has at most 256 KiB. The adapter parses it in full.
pub(crate) fn check_pem(field: &str, pem: String) -> Result<String> {
    check_pem_text(field, &pem).map(|()| pem)
}

/// As [`check_pem`], for a borrowed text.
pub(crate) fn check_pem_text(field: &str, pem: &str) -> Result<()> {
    if pem.len() > 256 << 10 {
        Err(Error::invalid(field, Reason::TooLong))
    } else if !pem.contains("-----BEGIN CERTIFICATE-----") || !pem.contains("-----END CERTIFICATE-----") {
        Err(Error::invalid(field, Reason::Malformed))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_debug_output_has_no_secret() {
        let token = Credential::Token(SecretString::from("canary-token"));
        let pair =
            Credential::Certificate { chain: "canary-chain".into(), key: SecretString::from("canary-key") };
        assert!(!format!("{token:?}{pair:?}").contains("canary"));
    }
}
