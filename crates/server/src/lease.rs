//! Lease task: renews the lease of this process, and closes pending operations of processes whose lease expired.

use std::{sync::Arc, time::Duration};

use pilothouse_core::{
    Result,
    audit::Audit,
    clock::Clock,
    coordinator::{Coordinator, LEASE},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Interval of lease renewals: a third of the lease.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(LEASE.as_secs() / 3);

/// The lease task.
pub(crate) struct LeaseKeeper {
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) audit: Audit,
    pub(crate) clock: Arc<dyn Clock>,
}

impl LeaseKeeper {
    /// Renews the lease until `end`, then ends it. Cancel `end` after the last operation of this process has finished.
    pub(crate) async fn run(self, end: CancellationToken) {
        let mut ticks = tokio::time::interval(RENEWAL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.renew().await,
                () = end.cancelled() => break,
            }
        }
        if let Err(error) = self.coordinator.end_lease().await {
            tracing::warn!(%error, "cannot release the lease; it will expire");
        }
    }

    /// Renews the lease, and then closes orphans. A process that cannot renew its lease closes none, because
    /// other processes may still run.
    async fn renew(&self) {
        if let Err(error) = self.coordinator.renew_lease(self.clock.now()).await {
            tracing::warn!(%error, "cannot renew the lease: check the database; retried at the next renewal");
            return;
        }
        if let Err(error) = close_orphans(&self.audit).await {
            tracing::warn!(
                %error,
                "cannot close the pending operations of ended processes: check the database; retried at the next renewal"
            );
        }
    }
}

/// Closes pending operations of processes whose lease expired, and logs their number.
///
/// # Errors
/// `AuditUnavailable`.
pub(crate) async fn close_orphans(audit: &Audit) -> Result<()> {
    let closed = audit.close_orphans().await?;
    if closed > 0 {
        tracing::warn!(closed, "closed pending operations of ended processes as unknown");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pilothouse_core::{
        Cause, Error,
        access::{AccessRequest, Caller, Resource, Verb},
        app::{App, AppSettings},
        coordinator::MockCoordinator,
        kind::Kind,
        operation::{AuditWriter as _, Status},
        testing::{
            fake::{Fake, MemoryCoordinator},
            permit,
        },
    };

    use super::*;

    fn keeper(fake: &Fake, coordinator: Arc<dyn Coordinator>) -> LeaseKeeper {
        let audit = App::new(fake.ports(), AppSettings::default()).audit;
        LeaseKeeper { coordinator, audit, clock: fake.runtime.clock.clone() }
    }

    #[tokio::test]
    async fn orphans_are_closed_only_after_the_lease_is_renewed() {
        let fake = Fake::default();
        let access = AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("web");
        fake.store.begin(permit(&Caller::system(), access).operation().unwrap()).await.unwrap();
        let status = || fake.store.all_operations()[0].status;

        let mut unavailable = MockCoordinator::new();
        unavailable.expect_renew_lease().returning(|_| Err(Error::new(Cause::StoreUnavailable)));
        keeper(&fake, Arc::new(unavailable)).renew().await;
        assert_eq!(status(), Status::Pending);

        keeper(&fake, Arc::new(MemoryCoordinator::of(fake.store.clone()))).renew().await;
        assert_eq!(status(), Status::Unknown);
    }

    #[tokio::test]
    async fn lease_is_held_while_the_task_runs_and_then_released() {
        let fake = Fake::default();
        let replica = || Arc::new(MemoryCoordinator::of(fake.store.clone()));
        let (one, two) = (replica(), replica());
        let other_may_deliver =
            async || two.claim_delivery("webhook", fake.runtime.clock.now()).await.unwrap().is_some();
        let keeper = keeper(&fake, one.clone());
        keeper.renew().await;
        one.claim_delivery("webhook", fake.runtime.clock.now()).await.unwrap();
        assert!(!other_may_deliver().await);
        let end = CancellationToken::new();
        end.cancel();
        keeper.run(end).await;
        assert!(other_may_deliver().await);
    }
}
