//! Confirmer: reads the groups of users of identity providers again while they have sessions. Replicas share the work:
//! each claims the users who are due.

use std::time::Duration;

use futures_util::future::join_all;
use pilothouse_core::{name::ProviderId, provider::Federation};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Interval of polling for users who are due.
const POLL_INTERVAL: Duration = Duration::from_secs(15);

/// Number of users for whom a provider is asked at the same time.
const BATCH: usize = 64;

/// The confirmer.
pub(crate) struct Confirmer {
    pub(crate) federation: Federation,
}

impl Confirmer {
    /// Reads every user who is due, until `stop`. A provider that does not answer does not delay others.
    pub(crate) async fn run(self, stop: CancellationToken) {
        join_all(self.federation.provider_ids().map(|provider| self.poll(provider, &stop))).await;
    }

    /// Reads every user of a provider who is due, until `stop`.
    async fn poll(&self, provider: &ProviderId, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.confirm_due(provider, stop).await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the users of a provider who are due now. A full batch is followed by another one.
    async fn confirm_due(&self, provider: &ProviderId, stop: &CancellationToken) {
        loop {
            match self.federation.confirm_due(provider, BATCH).await {
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
    use std::{future::pending, sync::Arc};

    use async_trait::async_trait;
    use pilothouse_core::{
        Result,
        access::Origin,
        app::{App, AppSettings},
        provider::{
            Binding, Directory, LdapLogin, MockDirectory, PasswordCheck, Person, Provider, ProviderKind,
            ProviderPort,
        },
        testing::fake::Fake,
    };
    use secrecy::SecretString;

    use super::*;

    /// A directory that accepts every sign-in and does not answer later reads.
    struct Hanging;

    #[async_trait]
    impl Directory for Hanging {
        async fn sign_in(&self, username: &str, _: &SecretString) -> Result<PasswordCheck> {
            Person::new(username, username, None, []).map(PasswordCheck::Right)
        }

        async fn find(&self, _: &str) -> Result<Option<Person>> {
            pending().await
        }

        async fn check(&self) -> Result<()> {
            Ok(())
        }
    }

    /// A directory that accepts every sign-in.
    fn directory() -> MockDirectory {
        let mut directory = MockDirectory::new();
        directory.expect_sign_in().returning(|name, _| {
            let person = Person::new(name, name, None, ["shop-dev".to_owned()]).unwrap();
            Ok(PasswordCheck::Right(person))
        });
        directory
    }

    fn id(provider: &str) -> ProviderId {
        ProviderId::new(provider).unwrap()
    }

    async fn app(directories: &[(&str, Arc<dyn Directory>)]) -> (Fake, App) {
        let mut fake = Fake::default();
        for (name, directory) in directories {
            let provider = Provider {
                id: id(name),
                label: (*name).to_owned(),
                trusts_second_factor: false,
                port: ProviderPort::Ldap(directory.clone()),
            };
            fake.providers.insert(id(name), provider);
        }
        let app = App::new(fake.ports(), AppSettings::default());
        for (name, _) in directories {
            let authority = format!("ou=people,dc={name}");
            let binding = Binding { provider: id(name), kind: ProviderKind::Ldap, authority };
            app.federation.bind(&binding).await.unwrap();
        }
        (fake, app)
    }

    async fn sign_in(app: &App, provider: &str, username: String) {
        let login = LdapLogin {
            provider: provider.to_owned(),
            username,
            password: "a password".into(),
            code: None,
            user_agent: None,
            origin: Origin::default(),
        };
        app.federation.ldap_login(login).await.unwrap();
    }

    #[tokio::test]
    async fn every_due_user_is_read_again_once() {
        // more than one batch
        const USERS: usize = BATCH + 1;
        let mut directory = directory();
        directory.expect_find().times(USERS).returning(|_| Ok(None));
        let directory: Arc<dyn Directory> = Arc::new(directory);
        let (fake, app) = app(&[("corp", directory)]).await;
        for n in 0..USERS {
            sign_in(&app, "corp", format!("user-{n}")).await;
        }
        let confirmer = Confirmer { federation: app.federation.clone() };
        let stop = CancellationToken::new();
        confirmer.confirm_due(&id("corp"), &stop).await;
        fake.runtime.clock.advance(Duration::from_secs(600));
        for _ in 0..2 {
            // the users no longer exist in the directory, so that they have no sessions and are not due again
            confirmer.confirm_due(&id("corp"), &stop).await;
        }
    }

    #[tokio::test]
    async fn provider_that_hangs_delays_no_other() {
        let all_read = CancellationToken::new();
        let mut directory = directory();
        let (done, mut count) = (all_read.clone(), 0);
        directory.expect_find().returning(move |_| {
            count += 1;
            if count == BATCH {
                done.cancel();
            }
            Ok(None)
        });
        let hanging: Arc<dyn Directory> = Arc::new(Hanging);
        let directory: Arc<dyn Directory> = Arc::new(directory);
        let (fake, app) = app(&[("away", hanging), ("corp", directory)]).await;
        // first in a batch of all providers
        sign_in(&app, "away", "mei".to_owned()).await;
        for n in 0..BATCH {
            sign_in(&app, "corp", format!("user-{n}")).await;
        }
        fake.runtime.clock.advance(Duration::from_secs(600));
        let confirmer = Confirmer { federation: app.federation.clone() };
        let running = tokio::spawn(confirmer.run(CancellationToken::new()));
        tokio::time::timeout(Duration::from_secs(10), all_read.cancelled()).await.expect("corp is read");
        running.abort();
    }
}
