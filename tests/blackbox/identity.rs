//! Identity: API tokens and service accounts, sessions of browsers, second factors, and users of identity providers.
//!
//! Keycloak is tested in `tests/identity`, with the same sign-in as the other OpenID provider.

mod directory;
mod factor;
mod openid;
pub(crate) mod secrecy;
mod sessions;
mod tokens;
