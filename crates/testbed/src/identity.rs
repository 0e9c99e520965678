//! Identity servers for tests: OpenLDAP's slapd, the OpenID provider `oidc-provider` for Node.js, and Keycloak. All three
//! have the same users: `mei`, in the group `shop-dev`, and `tom`, in no group.
//!
//! Their programs are downloaded once into the cache directory and verified by digest (`tests/identity/digests`,
//! `tests/identity/package-lock.json`).

use std::{env, path::PathBuf};

use crate::{
    REQUIRE_IDENTITY,
    binaries::log_line,
    error::{Error, Result},
};

mod keycloak;
mod oidc_provider;
mod parts;
mod process;
mod slapd;

pub use self::{keycloak::Keycloak, oidc_provider::OidcProvider, slapd::Slapd};

/// Client id of Pilothouse at the OpenID providers.
pub const CLIENT_ID: &str = "pilothouse";
/// Client secret of Pilothouse at the OpenID providers. Its characters are the same in a form and in a header.
const CLIENT_SECRET: &str = "client-secret-of-the-test-bed";
/// Users and their groups.
const USERS: [(&str, &[&str]); 2] = [("mei", &["shop-dev"]), ("tom", &[])];

/// The password of a user of the identity servers.
pub fn password_of(user: &str) -> String {
    format!("password of {user}")
}

/// Downloads the programs of all identity servers, unless the cache has them.
///
/// # Errors
/// [`Error::IdentityUnavailable`] if a program that downloads them is missing or fails, [`Error::Program`] if a file is
/// not pinned or has another digest.
pub fn download_identity_servers() -> Result<()> {
    parts::slapd()?;
    parts::oidc_provider()?;
    parts::keycloak().map(drop)
}

/// An OpenID provider that serves HTTPS on loopback and has Pilothouse as a client.
pub trait OidcServer {
    /// The issuer, without a slash at its end.
    fn issuer(&self) -> String;

    /// The PEM file with the certificate of the authority that signed the provider's certificate.
    fn ca_file(&self) -> PathBuf;

    /// The client secret of Pilothouse, with the client id [`CLIENT_ID`].
    fn client_secret(&self) -> &'static str {
        CLIENT_SECRET
    }

    /// Ends the sessions of a user. The provider has sent its back-channel logout when this returns.
    fn end_sessions(&self, user: &str) -> impl Future<Output = Result<()>>;

    /// Removes a user from a group. The provider sends nothing.
    fn leave_group(&self, user: &str, group: &str) -> impl Future<Output = Result<()>>;

    /// Removes a user. The provider sends nothing.
    fn remove_user(&self, user: &str) -> impl Future<Output = Result<()>>;

    /// Ends the provider's process.
    fn stop(&self);

    /// Starts the provider again, at the same address. Its sessions and changes of users are lost.
    fn start(&self) -> Result<()>;
}

/// If this machine cannot run the server, prints a message and returns `None`, so that the test can be skipped. With
/// `PILOTHOUSE_TEST_REQUIRE_IDENTITY` set, that is an error.
fn or_skip<T>(started: Result<T>) -> Result<Option<T>> {
    match started {
        Err(error @ Error::IdentityUnavailable(_)) => {
            if env::var_os(REQUIRE_IDENTITY).is_some_and(|value| !value.is_empty()) {
                return Err(error);
            }
            log_line(&format!("SKIPPED: requires an identity server: {error}"));
            Ok(None)
        }
        started => started.map(Some),
    }
}
