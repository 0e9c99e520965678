//! Confirmer: reads the groups of users of identity providers again while they have sessions. Replicas share the work:
//! each claims the users who are due.

use std::time::Duration;

use pilothouse_core::provider::Federation;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Interval of polling for users who are due.
const POLL_INTERVAL: Duration = Duration::from_secs(15);

/// Number of users whom a provider is asked for at the same time.
const BATCH: usize = 64;

/// The confirmer.
pub(crate) struct Confirmer {
    pub(crate) federation: Federation,
}

impl Confirmer {
    /// Reads every user who is due, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.confirm_due(&stop).await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the users who are due now. A full batch is followed by another one.
    async fn confirm_due(&self, stop: &CancellationToken) {
        loop {
            match self.federation.confirm_due(BATCH).await {
                Ok(BATCH) if !stop.is_cancelled() => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(
                        %error, "cannot store what identity providers answer: check the database; retried every 15 seconds"
                    );
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pilothouse_core::{
        access::Origin,
        app::{App, AppSettings},
        name::ProviderId,
        provider::{
            Binding, LdapLogin, MockDirectory, PasswordCheck, Person, Provider, ProviderKind, ProviderPort,
        },
        testing::fake::Fake,
    };

    use super::*;

    #[tokio::test]
    async fn every_due_user_is_read_again_once() {
        // more than one batch
        const USERS: usize = BATCH + 1;
        let mut directory = MockDirectory::new();
        directory.expect_sign_in().returning(|name, _| {
            let person = Person::new(name, name, None, ["shop-dev".to_owned()]).unwrap();
            Ok(PasswordCheck::Right(person))
        });
        directory.expect_find().times(USERS).returning(|_| Ok(None));
        let id = ProviderId::new("corp").unwrap();
        let provider = Provider {
            id: id.clone(),
            label: "Corp".to_owned(),
            trusts_second_factor: false,
            port: ProviderPort::Ldap(Arc::new(directory)),
        };
        let fake = Fake { providers: [(id.clone(), provider)].into(), ..Fake::default() };
        let app = App::new(fake.ports(), AppSettings::default());
        let binding =
            Binding { provider: id, kind: ProviderKind::Ldap, authority: "ou=people,dc=corp".to_owned() };
        app.federation.bind(&binding).await.unwrap();
        for n in 0..USERS {
            let login = LdapLogin {
                provider: "corp".to_owned(),
                username: format!("user-{n}"),
                password: "a password".into(),
                code: None,
                user_agent: None,
                origin: Origin::default(),
            };
            app.federation.ldap_login(login).await.unwrap();
        }
        let confirmer = Confirmer { federation: app.federation.clone() };
        let stop = CancellationToken::new();
        confirmer.confirm_due(&stop).await;
        fake.runtime.clock.advance(Duration::from_secs(600));
        for _ in 0..2 {
            // the directory does not know them any more, so that they have no sessions and are not due again
            confirmer.confirm_due(&stop).await;
        }
    }
}
