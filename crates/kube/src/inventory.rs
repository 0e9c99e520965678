//! [`Inventory`]: lists from the cache where possible, otherwise from the cluster.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::Warning,
    inventory::{Counts, Inventory, List, ListEvent, Listing, ObjectKey, WatchSnapshot, rows_named},
    rows::{Aging, ListQuery, Row, select},
};

use crate::{KubeClusters, cache::CacheResult, projection::Projection, uncached};

impl KubeClusters {
    async fn read_uncached(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        let projection = Projection::new(list.info(), &query.kinds, &self.clock)?;
        self.read_projected(permit, list, query, &projection).await
    }

    /// As [`KubeClusters::read_uncached`], with a projection whose columns are known afterwards.
    pub(crate) async fn read_projected(
        &self,
        permit: &Permit,
        list: List,
        query: &ListQuery,
        projection: &Projection,
    ) -> Result<Listing> {
        let client = self.client(permit, self.deadlines().read).await?;
        let scope = permit.namespaces();
        client.meter().begin(format!("{list:?} {scope:?} {:?} {:?}", query.kinds, query.owner))?;
        let (as_of, (rows, warnings)) = loop {
            let as_of = self.now();
            let read = uncached::rows(&client, list.info(), projection, query).await;
            if !client.restart(read.as_ref().err().map(|error| error.cause)).await? {
                break (as_of, read?);
            }
        };
        let aging = Aging::of(&(list.info().fields)());
        let mut rows: Vec<_> = rows.into_iter().map(|row| aging.advance(row, as_of)).collect();
        rows.sort_by(|a, b| a.total_order(b, None));
        let (rows, pagination) = select(rows, query);
        let rows = projection.shown(rows)?;
        Ok(Listing { rows, pagination, as_of, stale: false, warnings })
    }
}

#[async_trait]
impl Inventory for KubeClusters {
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        let query = query.within(permit.namespaces());
        let Some(cache) = &self.cache else { return self.read_uncached(permit, list, &query).await };
        let transport = self.transport(permit).await?;
        match cache.page(permit, &transport, list, &query).await? {
            CacheResult::Hit(listing) => Ok(listing),
            CacheResult::Miss(warning, cached) => {
                match (self.read_uncached(permit, list, &query).await, cached) {
                    (Ok(listing), _) => Ok(with_warning(listing, warning)),
                    // rows from before the write are better than none, and are marked stale
                    (Err(_), Some(cached)) => Ok(Listing { stale: true, ..cached }),
                    (Err(error), None) => Err(error),
                }
            }
        }
    }

    async fn count(&self, permit: &Permit, list: List) -> Result<Counts> {
        if let Some(cache) = &self.cache
            && let CacheResult::Hit(counts) =
                cache.count(permit, &self.transport(permit).await?, list).await?
        {
            return Ok(counts);
        }
        let listing = self.read_uncached(permit, list, &Counts::query(permit, list)).await?;
        Ok(Counts::of_listing(list, listing))
    }

    async fn find(&self, permit: &Permit, list: List, objects: &[ObjectKey]) -> Result<Vec<Row>> {
        if let Some(cache) = &self.cache
            && let CacheResult::Hit(rows) =
                cache.find(permit, &self.transport(permit).await?, list, objects).await?
        {
            return Ok(rows);
        }
        let listing = self.read_uncached(permit, list, &Counts::query(permit, list)).await?;
        Ok(rows_named(listing.rows, objects))
    }

    async fn watch(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<WatchSnapshot> {
        match &self.cache {
            Some(cache) => {
                let query = query.within(permit.namespaces());
                cache.watch(permit, &self.transport(permit).await?, list, &query).await
            }
            None => Err(Error::new(Cause::NotCached)),
        }
    }

    async fn changes(
        &self,
        permit: &Permit,
        list: List,
        query: &ListQuery,
    ) -> Result<BoxStream<'static, ListEvent>> {
        match &self.cache {
            Some(cache) => {
                let query = query.within(permit.namespaces());
                cache.changes(permit, &self.transport(permit).await?, list, &query).await
            }
            None => Err(Error::new(Cause::NotCached)),
        }
    }
}

fn with_warning(mut listing: Listing, warning: Option<Warning>) -> Listing {
    listing.warnings.extend(warning);
    listing
}
