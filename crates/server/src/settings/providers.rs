//! Tables of the identity providers, `[[oidc]]` and `[[ldap]]`, and the checks of their values.

use std::{net::IpAddr, path::PathBuf};

use http::Uri;
use pilothouse_core::name::ProviderId;
use secrecy::SecretString;
use serde::Deserialize;

use super::table::{Setting, SettingType, settings};

settings! {
    /// An OIDC provider: a table `[[oidc]]`.
    OidcTable,
    /// The keys of `[[oidc]]`.
    OIDC:
    "Identity providers" {
        /// Id in usernames, grants and addresses: at most 32 of `a-z`, `0-9` and `-`, not `local`, `sa`, `cli` or `group`.
        /// It is bound to the issuer forever: another issuer needs another id.
        id: String = ProviderId, required "corp";
        /// Name on the sign-in page.
        label: String = Text, required "Example Corp";
        /// Issuer, exactly as the provider writes it: https, or http on loopback.
        issuer: String = Issuer, required "https://id.example.com/realms/corp";
        /// Id of the client that the provider registered for Pilothouse.
        client_id: String = Text, required "pilothouse";
        /// Secret of the client. Exactly one of it and `client_secret_file` is set.
        client_secret: Option<SecretString> = Password, example "the secret of the client";
        /// File of the secret, of mode 0600 or [mounted by Kubernetes](#keys-mounted-by-kubernetes). A final line break
        /// is removed.
        client_secret_file: Option<PathBuf> = Path, example "/etc/pilothouse/oidc-secret";
        /// Scopes of a sign-in, separated by spaces; `openid` is among them. With a scope that gives a refresh token
        /// (often `offline_access`), groups are read again every 10 minutes; without one, a session lasts an hour.
        scopes: String = Scopes, default "openid profile";
        /// Claim of the username.
        username_claim: String = Text, default "preferred_username";
        /// Claim of the groups: an array of texts, or one text.
        groups_claim: String = Text, default "groups";
        /// Read claims from the provider's userinfo endpoint too: for providers whose ID tokens lack the groups.
        userinfo: bool = Switch, default "false";
        /// Take a sign-in at this provider as a second factor, as old as its `auth_time`.
        trusts_second_factor: bool = Switch, default "false";
        /// Certificate authorities of the provider, a PEM file. Unset: the system's roots.
        ca_file: Option<PathBuf> = Path, example "/etc/pilothouse/oidc-ca.crt";
    }
}

settings! {
    /// A directory: a table `[[ldap]]`.
    LdapTable,
    /// The keys of `[[ldap]]`.
    LDAP:
    "Identity providers" {
        /// Id in usernames, grants and addresses, as that of an OIDC provider. It is bound to `user_base` forever.
        id: String = ProviderId, required "directory";
        /// Name on the sign-in page.
        label: String = Text, required "Example Directory";
        /// Address of the directory: `ldaps://host:port`, or `ldap://host:port` with `start_tls` or on loopback.
        url: String = LdapUrl, required "ldaps://ldap.example.com";
        /// Begin TLS on a connection to `ldap://` before anything else is sent.
        start_tls: bool = Switch, default "false";
        /// Certificate authorities of the directory, a PEM file. Unset: the system's roots.
        ca_file: Option<PathBuf> = Path, example "/etc/pilothouse/ldap-ca.crt";
        /// Entry that searches for users and groups.
        bind_dn: String = Text, required "cn=pilothouse,ou=services,dc=example,dc=com";
        /// Password of that entry. Exactly one of it and `bind_password_file` is set.
        bind_password: Option<SecretString> = Password, example "the password of bind_dn";
        /// File of the password, of mode 0600 or [mounted by Kubernetes](#keys-mounted-by-kubernetes). A final line
        /// break is removed.
        bind_password_file: Option<PathBuf> = Path, example "/etc/pilothouse/ldap-password";
        /// Entry below which users are searched.
        user_base: String = Text, required "ou=people,dc=example,dc=com";
        /// Filter that finds the entry of a user. `{username}` is the name that was typed, escaped.
        user_filter: String = LdapFilter { placeholder: "{username}" }, default "(uid={username})";
        /// Entry below which groups are searched.
        group_base: String = Text, required "ou=groups,dc=example,dc=com";
        /// Filter that finds the groups of an entry. `{dn}` is the name of the entry, escaped.
        group_filter: String = LdapFilter { placeholder: "{dn}" }, default "(member={dn})";
        /// Attribute of a group that grants name it by.
        group_name: String = Text, default "cn";
        /// Take a sign-in at this directory as a second factor.
        trusts_second_factor: bool = Switch, default "false";
    }
}

impl OidcTable {
    /// Checks keys that depend on each other. The error completes the sentence "the provider `id` …".
    pub(super) fn check_combinations(&self) -> Result<(), &'static str> {
        if self.client_secret.is_some() == self.client_secret_file.is_some() {
            Err("must have either client_secret or client_secret_file")
        } else {
            Ok(())
        }
    }
}

impl LdapTable {
    /// Checks keys that depend on each other. The error completes the sentence "the provider `id` …".
    pub(super) fn check_combinations(&self) -> Result<(), &'static str> {
        let url = self.url.parse::<Uri>().unwrap_or_default();
        let is_ldaps = url.scheme_str() == Some("ldaps");
        if self.bind_password.is_some() == self.bind_password_file.is_some() {
            Err("must have either bind_password or bind_password_file")
        } else if is_ldaps && self.start_tls {
            Err("must not have start_tls with an ldaps:// address, which begins with TLS")
        } else if !is_ldaps && !self.start_tls && !is_loopback(&url) {
            Err("must use TLS: set start_tls, or an ldaps:// address")
        } else {
            Ok(())
        }
    }
}

/// Whether a URL without a user has this form: `https`, or `http` on a loopback address. It may have a path, and a
/// query only with `query`.
pub(super) fn is_https_or_loopback(url: &str, query: bool) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let scheme = url.scheme_str();
    is_without_user(&url)
        && (query || url.query().is_none())
        && (scheme == Some("https") || scheme == Some("http") && is_loopback(&url))
}

/// Whether the text is the scheme and authority of a URL that [`is_https_or_loopback`], with at most a final slash.
pub(crate) fn is_origin(url: &str) -> bool {
    is_https_or_loopback(url, false) && url.parse::<Uri>().is_ok_and(|url| url.path() == "/")
}

/// Whether the text is the URL of an LDAP server.
pub(super) fn is_ldap_url(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|url| {
        let is_ldap = matches!(url.scheme_str(), Some("ldap" | "ldaps"));
        is_ldap && is_without_user(&url) && url.query().is_none() && matches!(url.path(), "" | "/")
    })
}

/// Whether the text is a filter in parentheses with this placeholder and no other.
pub(super) fn is_ldap_filter(filter: &str, placeholder: &str) -> bool {
    let open = filter.matches('(').count();
    filter.starts_with('(')
        && filter.ends_with(')')
        && open == filter.matches(')').count()
        && filter.contains(placeholder)
        && !filter.replace(placeholder, "").contains(['{', '}'])
}

/// Whether the text is an id that a provider may have.
pub(super) fn is_provider_id(id: &str) -> bool {
    ProviderId::new(id).is_ok()
}

fn is_without_user(url: &Uri) -> bool {
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    has_host && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
}

/// Whether the host of a URL is a loopback address or `localhost`.
pub(super) fn is_on_loopback(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|url| is_loopback(&url))
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
