//! Columns and kind of a printed list. All rows of a list have the same columns, so a list whose columns change begins
//! anew. A list whose kind is served no more ends.

use super::Reflector;
use crate::{discovery, error::Failure, list, uncached};

impl Reflector {
    /// Reads the columns again after a watch that the server ended early, as it does when a definition is changed: the
    /// next watch may have no event that would declare them. If they cannot be read, they count as unchanged.
    pub(super) async fn declare_columns(&self) {
        let Some(printed) = self.projection.printed() else { return };
        let declared = async {
            let client = self.client(self.deadline)?;
            list::declare_columns(&client, self.kind, printed).await
        };
        if let Err(Failure { error, .. }) = declared.await {
            tracing::debug!(kind = %self.kind, %error, "cannot read the columns of a cached list");
        }
    }

    /// Removes the list from the cache if its columns have changed: the next read begins another list. Returns whether
    /// they have.
    pub(super) fn forget_if_changed(&self) -> bool {
        let is_changed = self.projection.printed().is_some_and(|printed| printed.is_changed());
        if is_changed && let Some(cache) = self.cache.upgrade() {
            cache.forget(&self.store);
        }
        is_changed
    }

    /// Reads what the cluster serves after a 404, if that is not known since recently. If the kind is gone, or the
    /// cluster prefers another version of it, the list is removed from the cache, and its watches end. A 404 alone proves
    /// neither: a proxy may send it.
    pub(super) async fn remove_if_not_served(&self, failure: &Failure) {
        if self.projection.printed().is_none() || !uncached::is_not_served(failure, self.kind) {
            return;
        }
        let (transport, cache) = (&self.store.transport, self.cache.upgrade());
        let source =
            discovery::Source { permit: &self.permit, timeout: self.deadline, observer: &self.observer };
        let kinds = discovery::refresh(transport, cache.as_deref(), discovery::RECENT, source).await;
        if let Err(error) = kinds {
            tracing::debug!(kind = %self.kind, %error, "cannot read the kinds that a cluster serves");
        }
    }
}
