//! Adapter for identity providers: implements the core's ports to OpenID providers ([`OidcProvider`]) and LDAP
//! directories ([`LdapDirectory`]).
//!
//! All connections go through the guarded dialer, which applies the egress rules to the configured address and to every
//! address that a provider's configuration names. TLS is required except on loopback, redirects are not followed, and
//! time and size of every answer are limited. An error never contains text of a provider or a library.

mod http_client;
mod ldap;
mod oidc;
mod tls;

pub use ldap::{LdapDirectory, LdapSettings};
pub use oidc::{OidcProvider, OidcSettings};
pub use pilothouse_dial::{
    dial::EgressGuard,
    dns::{DnsResolver, Resolver, ResolverLimits, SystemResolver},
    egress::{EgressRules, OwnSocket},
};

use pilothouse_core::{Cause, Error};

/// The provider cannot be used. `what` is a fixed text, for logs and the check of the settings.
fn unavailable(what: &'static str) -> Error {
    tracing::debug!(what, "an identity provider cannot be used");
    Error::new(Cause::ProviderUnavailable).message(what)
}

/// Whether a host is this machine's loopback interface by its name alone: only there may a provider lack TLS.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
