//! Confirmations: groups are read again while a person has a session, and people whom their provider does not know any
//! more lose their sessions.

use std::time::Duration;

use futures_util::future::join_all;
use secrecy::SecretString;

use super::{DueConfirmation, EndedSessions, Federation, Person, ProviderPort};
use crate::error::{Cause, Error, Result};

/// Time after which a person's groups are read again. With [`Federation::confirm_due`] run every 15 s, what a provider
/// says holds at most 10 minutes later.
pub const CONFIRMATION_INTERVAL: Duration = Duration::from_secs(9 * 60);

/// Time after the last confirmation during which API tokens of a federated user are accepted.
pub const CONFIRMATION_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What the provider says of a person.
enum Answer {
    Person(Person, Option<SecretString>),
    Gone,
}

impl Federation {
    /// Reads people again whose last confirmation is older than [`CONFIRMATION_INTERVAL`], at most `limit`, and returns
    /// their number. A provider that does not answer changes nothing: sessions live to their end with the groups that
    /// were read last.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn confirm_due(&self, limit: usize) -> Result<usize> {
        let now = self.sessions.clock.now();
        let due = self.store.claim_due(now - CONFIRMATION_INTERVAL, now, limit).await?;
        let confirmed = join_all(due.iter().map(|due| self.confirm(due))).await;
        confirmed.into_iter().collect::<Result<()>>()?;
        Ok(due.len())
    }

    async fn confirm(&self, due: &DueConfirmation) -> Result<()> {
        match self.ask(due).await {
            Ok(Answer::Person(person, refresh_token)) => {
                self.store.confirm(due, &person, refresh_token, self.sessions.clock.now()).await
            }
            Ok(Answer::Gone) => {
                let ended = due.session.map_or(EndedSessions::OfUser(due.user_id), EndedSessions::One);
                self.withdraw(due.username.as_str(), ended).await.map(drop)
            }
            // the next claim asks again
            Err(_) => Ok(()),
        }
    }

    /// Asks the provider of a person.
    ///
    /// # Errors
    /// `ProviderUnavailable` also for a provider that is not configured any more.
    async fn ask(&self, due: &DueConfirmation) -> Result<Answer> {
        let unavailable = || Error::new(Cause::ProviderUnavailable);
        let provider = self.providers.get(&due.provider).ok_or_else(unavailable)?;
        let person = match (&provider.port, &due.refresh_token) {
            (ProviderPort::Ldap(directory), _) => {
                directory.find(&due.subject).await.map(|person| person.map(|person| (person, None)))
            }
            (ProviderPort::Oidc(port), Some(refresh_token)) => port
                .renew(&due.subject, refresh_token)
                .await
                .map(|renewal| renewal.map(|renewal| (renewal.person, renewal.refresh_token))),
            (ProviderPort::Oidc(_), None) => Err(unavailable()),
        };
        match person {
            Ok(Some((person, refresh_token))) => Ok(Answer::Person(person, refresh_token)),
            // an answer without all groups, or that does not verify, gives no rights
            Ok(None) => Ok(Answer::Gone),
            Err(error) if matches!(error.cause, Cause::GroupsMissing | Cause::SignInRejected) => {
                Ok(Answer::Gone)
            }
            Err(error) => Err(error),
        }
    }
}
