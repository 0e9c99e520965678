//! Identity providers: creates the adapters from the settings, and asks each provider for `config check`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use futures_util::future::join_all;
use pilothouse_core::{
    Cause, Error,
    name::ProviderId,
    provider::{Binding, Provider, ProviderPort},
};
use pilothouse_identity::{
    DnsResolver, EgressGuard, LdapDirectory, LdapSettings, OidcProvider, OidcSettings, ResolverLimits,
    SystemResolver,
};
use secrecy::SecretString;
use tokio::runtime::Handle;

use crate::{
    Fatal, error_message,
    runtime::SystemClock,
    secret_file::read_secret,
    settings::{LdapTable, OidcTable, Settings},
};

/// The configured providers.
pub(crate) struct IdentityProviders {
    pub(crate) providers: BTreeMap<ProviderId, Provider>,
    /// Binding of the id of each provider.
    pub(crate) bindings: Vec<Binding>,
}

/// Creates the adapters without connecting.
///
/// # Errors
/// `Fatal::Setting` when a secret or a file of CA certificates cannot be used.
pub(crate) fn providers(settings: &Settings) -> Result<IdentityProviders, Fatal> {
    let database = settings.database()?;
    let resolver = DnsResolver::new(Arc::new(SystemResolver), ResolverLimits::REGISTERED, Handle::current());
    let resolver = Arc::new(resolver);
    let guard = |url: &str| EgressGuard {
        rules: Arc::new(settings.egress_to_provider(&database, url)),
        resolver: resolver.clone(),
    };
    let mut all = IdentityProviders { providers: BTreeMap::new(), bindings: Vec::new() };
    for table in settings.oidc_providers() {
        let port = ProviderPort::Oidc(Arc::new(open_id(settings, table, guard(&table.issuer))?));
        all.add(&table.id, &table.label, table.trusts_second_factor, port, &table.issuer)?;
    }
    for table in settings.ldap_providers() {
        let port = ProviderPort::Ldap(Arc::new(directory(table, guard(&table.url))?));
        all.add(&table.id, &table.label, table.trusts_second_factor, port, &table.user_base)?;
    }
    Ok(all)
}

impl IdentityProviders {
    fn add(
        &mut self,
        id: &str,
        label: &str,
        trusts_second_factor: bool,
        port: ProviderPort,
        authority: &str,
    ) -> Result<(), Fatal> {
        let id = ProviderId::new(id).map_err(|reason| Error::invalid("id", reason))?;
        let provider = Provider { id: id.clone(), label: label.to_owned(), trusts_second_factor, port };
        let binding =
            Binding { provider: id.clone(), kind: provider.kind(), authority: authority.to_owned() };
        self.providers.insert(id, provider);
        self.bindings.push(binding);
        Ok(())
    }
}

/// Asks every provider: reads the configuration and keys of OIDC providers, binds to directories.
///
/// # Errors
/// `Fatal::Setting` with every provider that fails and the reason.
pub(crate) async fn check(settings: &Settings) -> Result<(), Fatal> {
    let all = providers(settings)?.providers;
    let checks = all.values().map(|provider| async move {
        let checked = match &provider.port {
            ProviderPort::Ldap(directory) => directory.check().await,
            ProviderPort::Oidc(port) => port.check().await,
        };
        checked.err().map(|error| unusable(provider.id.as_str(), &error))
    });
    let failures: Vec<_> = join_all(checks).await.into_iter().flatten().collect();
    if failures.is_empty() { Ok(()) } else { Err(Fatal::Setting(failures.join("; "))) }
}

/// Message with a provider and the reason of its failure.
fn unusable(id: &str, error: &Error) -> String {
    let reason = error.context.message.clone().unwrap_or_else(|| error_message(error));
    format!("the identity provider `{id}` cannot be used: {reason}")
}

fn open_id(settings: &Settings, table: &OidcTable, guard: EgressGuard) -> Result<OidcProvider, Fatal> {
    let key = |key: &str| format!("`{key}` of the provider `{}`", table.id);
    let adapter = OidcSettings {
        issuer: table.issuer.clone(),
        client_id: table.client_id.clone(),
        client_secret: secret(
            table.client_secret.as_ref(),
            table.client_secret_file.as_deref(),
            &key("client_secret_file"),
        )?,
        scopes: table.scopes.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
        username_claim: table.username_claim.clone(),
        groups_claim: table.groups_claim.clone(),
        userinfo: table.userinfo,
        redirect_uri: settings.redirect_uri(&table.id),
        post_logout_redirect_uri: settings.post_logout_redirect_uri(),
        ca: ca(table.ca_file.as_deref(), &key("ca_file"))?,
    };
    OidcProvider::new(adapter, guard, SystemClock::new())
        .map_err(|error| creation_error(&table.id, &error, &key("ca_file")))
}

fn directory(table: &LdapTable, guard: EgressGuard) -> Result<LdapDirectory, Fatal> {
    let key = |key: &str| format!("`{key}` of the provider `{}`", table.id);
    let adapter = LdapSettings {
        url: table.url.clone(),
        start_tls: table.start_tls,
        ca: ca(table.ca_file.as_deref(), &key("ca_file"))?,
        bind_dn: table.bind_dn.clone(),
        bind_password: secret(
            table.bind_password.as_ref(),
            table.bind_password_file.as_deref(),
            &key("bind_password_file"),
        )?,
        user_base: table.user_base.clone(),
        user_filter: table.user_filter.clone(),
        group_base: table.group_base.clone(),
        group_filter: table.group_filter.clone(),
        group_name: table.group_name.clone(),
    };
    LdapDirectory::new(adapter, guard, Handle::current())
        .map_err(|error| creation_error(&table.id, &error, &key("ca_file")))
}

/// The secret itself, or the one in the file: the settings have exactly one of them.
fn secret(value: Option<&SecretString>, file: Option<&Path>, setting: &str) -> Result<SecretString, Fatal> {
    match (value, file) {
        (Some(value), _) => Ok(value.clone()),
        (None, Some(file)) => read_secret(file, setting),
        (None, None) => Err(Fatal::Setting(format!("{setting} must be set"))),
    }
}

/// The text of a file of CA certificates.
fn ca(file: Option<&Path>, setting: &str) -> Result<Option<String>, Fatal> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| {
            Fatal::Setting(format!(
                "the file {} of {setting} cannot be read ({error}): use a PEM file of CA certificates",
                path.display()
            ))
        })
    };
    file.map(read).transpose()
}

/// Error of an adapter that could not be created.
fn creation_error(id: &str, error: &Error, ca_file: &str) -> Fatal {
    match error.cause {
        Cause::TlsUntrusted => Fatal::Setting(format!(
            "the file of {ca_file} contains no certificate: use a PEM file of CA certificates"
        )),
        _ => Fatal::Setting(unusable(id, error)),
    }
}
