//! [`Inventory`]: from kept lists where they can be, else from the cluster.

use async_trait::async_trait;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::Warning,
    inventory::{Counts, Inventory, List, ListQuery, Listing, Table, Watched, select},
    name::NamespaceScope,
};

use crate::{KubeClusters, direct, kept::Reading};

impl KubeClusters {
    async fn direct(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        let visit = self.visit(permit, self.deadlines().read).await?;
        let as_of = self.now();
        let (mut rows, warnings) = direct::rows(&visit, list.info(), permit.namespaces(), query).await?;
        rows.sort_by(|a, b| a.total_order(b, None));
        let (rows, pagination) = select(rows, query);
        Ok(Listing { rows, pagination, as_of, stale: false, warnings })
    }
}

#[async_trait]
impl Inventory for KubeClusters {
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        let narrowed;
        let query = match permit.namespaces() {
            NamespaceScope::One(one) if query.namespaces != *permit.namespaces() => {
                narrowed = ListQuery { namespaces: NamespaceScope::One(one.clone()), ..query.clone() };
                &narrowed
            }
            _ => query,
        };
        let Some(kept) = &self.kept else { return self.direct(permit, list, query).await };
        let stack = self.stack(permit).await?;
        match kept.page(permit, &stack, list, query).await? {
            Reading::Kept(listing) => Ok(listing),
            Reading::Direct(warning, known) => match (self.direct(permit, list, query).await, known) {
                (Ok(listing), _) => Ok(with(listing, warning)),
                // what was known before the change is more than nothing, and says that it is not current
                (Err(_), Some(known)) => Ok(Listing { stale: true, ..known }),
                (Err(error), None) => Err(error),
            },
        }
    }

    async fn count(&self, permit: &Permit, list: List) -> Result<Counts> {
        if let Some(kept) = &self.kept
            && let Reading::Kept(counts) = kept.count(permit, &self.stack(permit).await?, list).await?
        {
            return Ok(counts);
        }
        let query = ListQuery {
            namespaces: permit.namespaces().clone(),
            kinds: list.info().kinds.to_vec(),
            per_page: u64::MAX,
            ..ListQuery::default()
        };
        let Listing { rows, as_of, stale, .. } = self.direct(permit, list, &query).await?;
        let (table, _) = Table::new(list.info()).refilled(0, rows);
        Ok(Counts::of(&table, as_of, stale))
    }

    async fn watch(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Watched> {
        match &self.kept {
            Some(kept) => kept.watch(permit, &self.stack(permit).await?, list, query).await,
            None => Err(Error::new(Cause::NotKept)),
        }
    }
}

fn with(mut listing: Listing, warning: Option<Warning>) -> Listing {
    listing.warnings.extend(warning);
    listing
}
