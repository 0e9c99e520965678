//! Confirmations: the groups of a person are read again while the person has a session. The sessions of a person who no
//! longer exists at the provider end.

use std::time::Duration;

use futures_util::future::join_all;
use secrecy::SecretString;

use super::{ConfirmationClaim, DueConfirmation, EndedSessions, Federation, Person, Provider, ProviderPort};
use crate::{
    error::{Cause, Error, Result},
    name::ProviderId,
};

/// Time after which a person's groups are read again. With [`Federation::confirm_due`] run every 15 s, a change at a
/// provider applies at most 10 minutes later.
pub const CONFIRMATION_INTERVAL: Duration = Duration::from_secs(9 * 60);

/// Time after which a provider that did not answer for a person is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Time after the last confirmation during which API tokens of a federated user are accepted.
pub const CONFIRMATION_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Answer of the provider about a person.
enum Answer {
    Person(Person, Option<SecretString>),
    Gone,
}

impl Federation {
    /// Reads people of a provider again whose last confirmation is older than [`CONFIRMATION_INTERVAL`], at most
    /// `limit`, and returns their number. A provider that does not answer changes nothing: sessions live to their end
    /// with the groups that were read last. It is asked again after a minute.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `StoreUnavailable`.
    pub async fn confirm_due(&self, provider: &ProviderId, limit: usize) -> Result<usize> {
        let unknown = || Error::new(Cause::NotFound).resource("provider").name(provider.as_str());
        let provider = self.providers.get(provider).ok_or_else(unknown)?;
        let live = self.liveness();
        let claim = ConfirmationClaim {
            provider: provider.id.clone(),
            kind: provider.kind(),
            before: live.at - CONFIRMATION_INTERVAL,
            live,
            limit,
        };
        let due = self.store.claim_due(claim).await?;
        let count = due.len();
        let answered = join_all(due.iter().map(|due| self.confirm(provider, due))).await;
        let unanswered: Vec<_> = due
            .into_iter()
            .zip(&answered)
            .filter(|(_, answered)| !matches!(answered, Ok(true)))
            .map(|(due, _)| due)
            .collect();
        if !unanswered.is_empty() {
            let visited_at = self.sessions.clock.now() - CONFIRMATION_INTERVAL + RETRY_INTERVAL;
            self.store.release(&unanswered, visited_at).await?;
        }
        answered.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(count)
    }

    /// Reads a person again. Returns whether the provider answered.
    async fn confirm(&self, provider: &Provider, due: &DueConfirmation) -> Result<bool> {
        match ask(provider, due).await {
            Ok(Answer::Person(person, refresh_token)) => {
                self.store.confirm(due, &person, refresh_token, self.sessions.clock.now()).await?;
            }
            Ok(Answer::Gone) => {
                let ended = due.session.map_or(EndedSessions::OfUser(due.user_id), EndedSessions::One);
                self.withdraw(due.username.as_str(), ended).await?;
            }
            Err(_) => return Ok(false),
        }
        Ok(true)
    }
}

/// Asks the provider of a person.
///
/// # Errors
/// `ProviderUnavailable`.
async fn ask(provider: &Provider, due: &DueConfirmation) -> Result<Answer> {
    let person = match (&provider.port, &due.refresh_token) {
        (ProviderPort::Ldap(directory), _) => {
            directory.find(&due.subject).await.map(|person| person.map(|person| (person, None)))
        }
        (ProviderPort::Oidc(port), Some(refresh_token)) => port
            .renew(&due.subject, refresh_token)
            .await
            .map(|renewal| renewal.map(|renewal| (renewal.person, renewal.refresh_token))),
        (ProviderPort::Oidc(_), None) => Err(Error::new(Cause::ProviderUnavailable)),
    };
    match person {
        Ok(Some((person, refresh_token))) => Ok(Answer::Person(person, refresh_token)),
        // an answer without all groups, or that does not verify, gives no rights
        Ok(None) => Ok(Answer::Gone),
        Err(error) if matches!(error.cause, Cause::GroupsMissing | Cause::SignInRejected) => Ok(Answer::Gone),
        Err(error) => Err(error),
    }
}
