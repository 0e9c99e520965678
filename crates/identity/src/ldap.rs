//! LDAP directories: search, then bind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use ldap3::{LdapResult, Scope, SearchEntry, SearchOptions, ldap_escape};
use pilothouse_core::{
    Cause, Error, Result,
    error::Reason,
    provider::{Directory, PasswordCheck, Person},
};
use pilothouse_dial::dial::EgressGuard;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use self::{
    connection::{Address, Connection, connect},
    entry::Wanted,
};
use crate::{tls::Tls, unavailable};

mod ber;
mod connection;
mod entry;

/// Timeout of a sign-in or a look-up, with all its connections and requests.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of sign-ins and look-ups at once. Any client can begin a sign-in, and each sign-in has up to two
/// connections: without a maximum, unauthenticated clients could use up the connections of the directory. At 100 ms
/// each, 32 at once are 320 per second.
const MAX_CONCURRENT: usize = 32;
/// Maximum number of groups of a person, nested ones included.
const MAX_GROUPS: usize = 500;
/// Maximum depth of groups in groups.
const MAX_NESTING: usize = 5;
/// Number of entries in one search for the groups that contain them.
const MEMBERS_PER_SEARCH: usize = 50;

/// Settings of a directory. The `Debug` output contains no secret.
#[derive(Clone, Debug)]
pub struct LdapSettings {
    /// Address: `ldaps://host` or `ldap://host`, with a port if it is another than 636 or 389.
    pub url: String,
    /// Whether to begin with StartTLS. Without it, `ldap://` is accepted towards loopback only.
    pub start_tls: bool,
    /// Certificates of the authorities to trust, as PEM; those of the platform if `None`.
    pub ca: Option<String>,
    /// Name of the account that searches.
    pub bind_dn: String,
    /// Its password.
    pub bind_password: SecretString,
    /// Entry below which people are.
    pub user_base: String,
    /// Filter of a person, with `{username}` for the name that is entered.
    pub user_filter: String,
    /// Entry below which groups are. Empty: users have no groups.
    pub group_base: String,
    /// Filter of the groups of an entry, with `{dn}` for its name.
    pub group_filter: String,
    /// Attribute with the name of a group.
    pub group_name: String,
}

/// An LDAP directory.
pub struct LdapDirectory {
    inner: Arc<Inner>,
    /// Permits of running operations.
    running: Arc<Semaphore>,
    runtime: Handle,
}

struct Inner {
    settings: LdapSettings,
    address: Address,
    guard: EgressGuard,
    tls: Tls,
}

impl LdapDirectory {
    /// Creates the adapter, without connecting. Connections run on `runtime`.
    ///
    /// # Errors
    /// `InvalidInput` naming the setting that is malformed; `TlsUntrusted` when `ca` has no certificate.
    pub fn new(settings: LdapSettings, guard: EgressGuard, runtime: Handle) -> Result<Self> {
        let malformed = |field: &str| Error::invalid(field, Reason::Malformed);
        let address = Address::parse(&settings.url, settings.start_tls).ok_or_else(|| malformed("url"))?;
        let filters = [
            ("user_filter", &settings.user_filter, "{username}"),
            ("group_filter", &settings.group_filter, "{dn}"),
        ];
        for (field, filter, place) in filters {
            if !filter.contains(place) || ldap3::parse_filter(filter.replace(place, "x")).is_err() {
                return Err(malformed(field));
            }
        }
        // the filter of `find` has `*` there, which only a comparison with = accepts
        if ldap3::parse_filter(settings.user_filter.replace("{username}", "*")).is_err() {
            return Err(malformed("user_filter").message(
                "user_filter must compare with {username} by = alone, as in (uid={username}), because people are \
                 read again later with (uid=*); it must not have :=, >=, <= or ~= there, nor * beside it",
            ));
        }
        if settings.bind_password.expose_secret().is_empty() {
            // a bind without a password is anonymous
            return Err(Error::invalid("bind_password", Reason::Required));
        }
        let tls = Tls::new(settings.ca.as_deref())?;
        let inner = Arc::new(Inner { settings, address, guard, tls });
        Ok(Self { inner, running: Arc::new(Semaphore::new(MAX_CONCURRENT)), runtime })
    }

    /// Runs an operation within the timeout, in a separate task, because the library panics on unexpected answers. The
    /// timeout includes the time for which the operation waits for other operations. A call that is dropped while it
    /// waits starts no operation.
    ///
    /// # Errors
    /// `Overloaded` if it cannot begin in time; `ProviderUnavailable` if it does not end in time; the errors of the
    /// operation.
    async fn run<T, F>(&self, operation: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let operation = operation(self.inner.clone());
        let deadline = Instant::now() + TIMEOUT;
        let Ok(permit) = timeout_at(deadline, self.running.clone().acquire_owned()).await else {
            return Err(Error::new(Cause::Overloaded).retry_after(TIMEOUT));
        };
        let permit = permit.map_err(|_| Error::internal("the semaphore of a directory is closed"))?;
        let task = self.runtime.spawn(async move {
            let _running = permit;
            timeout_at(deadline, operation).await
        });
        match task.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unavailable("the directory did not answer in time")),
            Err(_) => Err(unavailable("the answer of the directory is malformed")),
        }
    }
}

#[async_trait]
impl Directory for LdapDirectory {
    async fn sign_in(&self, username: &str, password: &SecretString) -> Result<PasswordCheck> {
        // before any connection: a bind without a password succeeds as an anonymous bind
        if password.expose_secret().is_empty() || username.is_empty() {
            return Ok(PasswordCheck::Wrong { name: None });
        }
        let (username, password) = (username.to_owned(), password.clone());
        self.run(|directory| async move { directory.sign_in(&username, &password).await }).await
    }

    async fn find(&self, subject: &str) -> Result<Option<Person>> {
        let Some(wanted) = Wanted::of(subject) else { return Ok(None) };
        let subject = subject.to_owned();
        let found = self.run(|directory| async move { directory.find(&wanted).await }).await?;
        Ok(found.filter(|person| person.subject() == subject))
    }

    async fn check(&self) -> Result<()> {
        self.run(|directory| async move {
            let mut search = directory.search_connection().await?;
            let base = &directory.settings.user_base;
            let found = directory.people(&mut search, Scope::Base, base, "(objectClass=*)").await?;
            if found.is_empty() {
                return Err(unavailable("the directory has no entry user_base"));
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    async fn sign_in(&self, username: &str, password: &SecretString) -> Result<PasswordCheck> {
        let LdapSettings { user_base, user_filter, .. } = &self.settings;
        let mut search = self.search_connection().await?;
        let filter = user_filter.replace("{username}", &ldap_escape(username));
        let found = self.people(&mut search, Scope::Subtree, user_base, &filter).await?;
        let entry = only(found);
        // an unknown name causes one bind, as a known name does, so that the time of the response is the same
        let unknown = format!("cn=pilothouse-unknown,{user_base}");
        let dn = entry.as_ref().map_or(&unknown, |entry| &entry.dn);
        let is_right = self.has_password(dn, password).await?;
        match entry {
            Some(entry) if is_right && !entry::is_disabled(&entry) => {
                self.person(&mut search, &entry).await.map(PasswordCheck::Right)
            }
            entry => Ok(PasswordCheck::Wrong { name: entry.as_ref().map(entry::name) }),
        }
    }

    async fn find(&self, wanted: &Wanted) -> Result<Option<Person>> {
        let mut search = self.search_connection().await?;
        // a person who does not match the filter of people may no longer sign in
        let anybody = self.settings.user_filter.replace("{username}", "*");
        let found = match wanted {
            Wanted::Filter(filter) => {
                let filter = format!("(&{filter}{anybody})");
                self.people(&mut search, Scope::Subtree, &self.settings.user_base, &filter).await?
            }
            Wanted::Dn(dn) => self.people(&mut search, Scope::Base, dn, &anybody).await?,
        };
        match only(found).filter(|entry| !entry::is_disabled(entry)) {
            Some(entry) => self.person(&mut search, &entry).await.map(Some),
            None => Ok(None),
        }
    }

    /// A connection of the account that searches.
    async fn search_connection(&self) -> Result<Connection> {
        let mut connection = connect(&self.address, &self.guard, &self.tls).await?;
        let LdapSettings { bind_dn, bind_password, .. } = &self.settings;
        let bound = connection.ldap.simple_bind(bind_dn, bind_password.expose_secret()).await;
        match bound.map_err(|_| unavailable("the directory ended the connection"))?.rc {
            0 => Ok(connection),
            _ => Err(unavailable("the directory refuses bind_dn or bind_password")),
        }
    }

    /// Whether a bind succeeds, over a connection of its own.
    async fn has_password(&self, dn: &str, password: &SecretString) -> Result<bool> {
        let mut connection = connect(&self.address, &self.guard, &self.tls).await?;
        let bound = connection.ldap.simple_bind(dn, password.expose_secret()).await;
        match bound.map_err(|_| unavailable("the directory ended the connection"))?.rc {
            0 => Ok(true),
            // constraintViolation, noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials,
            // insufficientAccessRights, unwillingToPerform: wrong, unknown, locked, expired
            19 | 32 | 34 | 48 | 49 | 50 | 53 => Ok(false),
            _ => Err(unavailable("the directory cannot check passwords")),
        }
    }

    /// The people that match, at most two.
    async fn people(
        &self,
        connection: &mut Connection,
        scope: Scope,
        base: &str,
        filter: &str,
    ) -> Result<Vec<SearchEntry>> {
        let options = SearchOptions::new().sizelimit(2);
        let ldap = connection.ldap.with_search_options(options);
        let answer = ldap.search(base, scope, filter, entry::ATTRIBUTES.map(str::to_owned).to_vec()).await;
        let answer = answer.map_err(|_| unavailable("the directory cannot search"))?;
        let (entries, LdapResult { rc, .. }) = (answer.0, answer.1);
        match rc {
            // success; sizeLimitExceeded: more than two
            0 | 4 => Ok(entries.into_iter().map(SearchEntry::construct).collect()),
            // noSuchObject
            32 if scope == Scope::Base => Ok(Vec::new()),
            32 => Err(unavailable("the directory has no entry user_base")),
            _ => Err(unavailable("the directory cannot search people")),
        }
    }

    async fn person(&self, search: &mut Connection, entry: &SearchEntry) -> Result<Person> {
        let groups = self.groups(search, &entry.dn).await?;
        Person::new(entry::subject(entry), entry::name(entry), entry::text(entry, "displayName"), groups)
    }

    /// Names of the groups of an entry, and of the groups of these.
    async fn groups(&self, search: &mut Connection, dn: &str) -> Result<Vec<String>> {
        let missing = || Error::new(Cause::GroupsMissing);
        let mut names = BTreeMap::new();
        let mut members = vec![dn.to_owned()];
        if self.settings.group_base.is_empty() {
            return Ok(Vec::new());
        }
        for _ in 0..=MAX_NESTING {
            let mut found = Vec::new();
            for members in members.chunks(MEMBERS_PER_SEARCH) {
                found.extend(self.groups_with(search, members).await?);
            }
            members.clear();
            for group in found {
                let name = entry::text(&group, &self.settings.group_name).ok_or_else(missing)?;
                if names.insert(group.dn.to_lowercase(), name).is_none() {
                    members.push(group.dn);
                }
            }
            if names.len() > MAX_GROUPS {
                return Err(missing());
            }
            if members.is_empty() {
                return Ok(names.into_values().collect());
            }
        }
        Err(missing())
    }

    /// The groups that contain one of these entries.
    async fn groups_with(&self, search: &mut Connection, members: &[String]) -> Result<Vec<SearchEntry>> {
        let LdapSettings { group_base, group_filter, group_name, .. } = &self.settings;
        let filters = members.iter().map(|dn| group_filter.replace("{dn}", &ldap_escape(&**dn)));
        let filter = format!("(|{})", filters.collect::<String>());
        let answer = search.ldap.search(group_base, Scope::Subtree, &filter, vec![group_name.clone()]).await;
        let answer = answer.map_err(|_| unavailable("the directory cannot search"))?;
        match answer.1.rc {
            0 => Ok(answer.0.into_iter().map(SearchEntry::construct).collect()),
            // timeLimitExceeded, sizeLimitExceeded, adminLimitExceeded: a part of the groups
            3 | 4 | 11 => Err(Error::new(Cause::GroupsMissing)),
            32 => Err(unavailable("the directory has no entry group_base")),
            _ => Err(unavailable("the directory cannot search groups")),
        }
    }
}

/// The entry, if there is exactly one.
fn only(entries: Vec<SearchEntry>) -> Option<SearchEntry> {
    let [entry] = <[SearchEntry; 1]>::try_from(entries).ok()?;
    Some(entry)
}

#[cfg(test)]
mod tests {
    use pilothouse_dial::{
        dns::{DnsResolver, ResolverLimits, SystemResolver},
        egress::EgressRules,
    };

    use super::*;

    fn directory(user_filter: &str) -> Result<LdapDirectory> {
        let settings = LdapSettings {
            url: "ldap://127.0.0.1:1".to_owned(),
            start_tls: false,
            ca: None,
            bind_dn: "cn=search".to_owned(),
            bind_password: "a password".into(),
            user_base: "ou=people".to_owned(),
            user_filter: user_filter.to_owned(),
            group_base: String::new(),
            group_filter: "(member={dn})".to_owned(),
            group_name: "cn".to_owned(),
        };
        let runtime = Handle::current();
        let resolver =
            DnsResolver::new(Arc::new(SystemResolver), ResolverLimits::REGISTERED, runtime.clone());
        let guard = EgressGuard { rules: Arc::new(EgressRules::default()), resolver: Arc::new(resolver) };
        LdapDirectory::new(settings, guard, runtime)
    }

    #[tokio::test]
    async fn operation_that_cannot_begin_in_time_is_refused() {
        let directory = directory("(uid={username})").unwrap();
        let all = u32::try_from(MAX_CONCURRENT).unwrap();
        let running = directory.running.clone().acquire_many_owned(all).await.unwrap();
        let refused = directory.sign_in("mei", &"a password".into()).await.unwrap_err();
        assert_eq!((refused.cause, refused.context.retry_after), (Cause::Overloaded, Some(TIMEOUT)));
        drop(running);
        // nothing listens there
        let refused = directory.sign_in("mei", &"a password".into()).await.unwrap_err();
        assert_eq!(refused.cause, Cause::ProviderUnavailable);
    }

    #[tokio::test]
    async fn filter_that_finds_nobody_again_is_refused_by_name() {
        for filter in ["(uid={username})", "(&(objectClass=user)(|(uid={username})(mail={username})))"] {
            assert!(directory(filter).is_ok(), "{filter}");
        }
        for filter in [
            "(uid:caseExactMatch:={username})",
            "(&(objectClass=user)(uid:={username}))",
            "(uid>={username})",
            "(uid~={username})",
            "(uid={username}*)",
        ] {
            let error = directory(filter).err().unwrap();
            assert_eq!((error.cause, &*error.context.fields[0].name), (Cause::InvalidInput, "user_filter"));
            assert!(error.context.message.as_deref().unwrap().contains("by = alone"), "{filter}");
        }
    }
}
