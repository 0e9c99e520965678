//! Window: a stream of one page of a list. The page is read again after a change anywhere in the list, at most once a
//! second, and sent if it differs from the one that was sent last. So a change outside the page costs one read of the
//! cached list a second, whatever their number, and nothing on the network.

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, select},
    stream::{BoxStream, StreamExt, unfold},
};

use super::{ListStreamEvent, WatchEvent, WatchEvents};
use crate::{
    access::Permit,
    error::Result,
    gate::Warning,
    inventory::{
        Inventory, List, ListEvent, ListedScope, Listing, PageWithUsage, objects::digest_without_ages,
    },
    rows::{Digest, ListQuery, Pagination, Row},
    spawn::Spawner,
    streams::{StreamEnd, StreamEvent},
    usage::{Usage, UsageApi},
};

/// Minimum time between two reads of a page.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which the page of a list with joined fields, or with usage, is read again without a change: its events are
/// not those of the joined list, and usage is no part of a row.
const UNCHANGED_INTERVAL: Duration = Duration::from_secs(10);

/// Reads the page of a window.
pub(super) struct Pages {
    pub(super) inventory: Arc<dyn Inventory>,
    pub(super) usage: Option<Arc<dyn UsageApi>>,
    pub(super) spawner: Arc<dyn Spawner>,
    pub(super) permit: Permit,
    pub(super) list: List,
    pub(super) query: ListQuery,
}

/// A watched page.
pub(super) struct Window {
    pages: Pages,
    events: BoxStream<'static, ListEvent>,
    /// The page that was sent last.
    sent: Option<Content>,
}

/// What two pages are compared by: everything but what advances while the rows stay the same, which is `as_of` and the
/// ages in cells of objects.
#[derive(PartialEq)]
struct Content {
    rows: Vec<Digest>,
    usage: Vec<Option<Usage>>,
    pagination: Pagination,
    stale: bool,
    warnings: Vec<Warning>,
}

impl Pages {
    async fn read(&self) -> Result<PageWithUsage> {
        let Self { inventory, usage, spawner, permit, list, query } = self;
        PageWithUsage::read(&**inventory, usage.as_deref(), &**spawner, permit, *list, query).await
    }

    /// The events of the list from now on.
    async fn changes(&self) -> Result<BoxStream<'static, ListEvent>> {
        self.inventory.changes(&self.permit, self.list, &self.query).await
    }

    /// Whether the page may change without an event of the list.
    fn changes_unnoticed(&self) -> bool {
        let info = self.list.info();
        info.join.is_some() || (info.usage.is_some() && self.usage.is_some())
    }
}

impl Window {
    /// Begins to watch a list.
    ///
    /// # Errors
    /// As [`Inventory::changes`].
    pub(super) async fn open(pages: Pages) -> Result<Self> {
        // before the first read of the page, so that no change is missed
        let events = pages.changes().await?;
        Ok(Self { pages, events, sent: None })
    }

    /// The events of the watch, up to its end.
    pub(super) fn events(self) -> WatchEvents {
        let next = |window: Option<Self>| async move { Some(window?.next().await) };
        unfold(Some(self), next).boxed()
    }

    /// The next event; without a window after the end.
    async fn next(mut self) -> (ListStreamEvent, Option<Self>) {
        loop {
            if self.sent.is_some()
                && let Err(end) = self.wait().await
            {
                return (StreamEvent::End(end), None);
            }
            let page = match self.pages.read().await {
                Ok(page) => page,
                Err(error) => return (StreamEvent::End(StreamEnd::Failed(error)), None),
            };
            let content = Content::of(self.pages.list, &page);
            if self.sent.as_ref() != Some(&content) {
                self.sent = Some(content);
                let PageWithUsage { listing, usage } = page;
                let Listing { rows, pagination, as_of, stale, warnings } = listing;
                let scope = ListedScope::of(&self.pages.permit);
                let window = WatchEvent::Window { rows, usage, pagination, as_of, stale, scope, warnings };
                return (StreamEvent::Next(window), Some(self));
            }
        }
    }

    /// Waits until the page has to be read again.
    async fn wait(&mut self) -> Result<(), StreamEnd> {
        self.pages.spawner.sleep(MIN_INTERVAL).await;
        let mut is_changed = false;
        // one read is enough for all changes up to now
        while let Some(event) = self.events.next().now_or_never() {
            self.accept(event).await?;
            is_changed = true;
        }
        if is_changed {
            return Ok(());
        }
        let Self { pages, events, .. } = self;
        let event = if pages.changes_unnoticed() {
            match select(events.next(), pages.spawner.sleep(UNCHANGED_INTERVAL)).await {
                Either::Left((event, _)) => event,
                Either::Right(_) => return Ok(()),
            }
        } else {
            events.next().await
        };
        self.accept(event).await
    }

    /// Accepts an event of the list. After events that were missed, the window goes on with those from now on.
    async fn accept(&mut self, event: Option<ListEvent>) -> Result<(), StreamEnd> {
        match event {
            Some(ListEvent::Changes(_) | ListEvent::Freshness { .. }) => {}
            Some(ListEvent::Lagged) => {
                self.events = self.pages.changes().await?;
            }
            Some(ListEvent::ConnectionChanged) | None => return Err(StreamEnd::ConnectionChanged),
        }
        Ok(())
    }
}

impl Content {
    fn of(list: List, PageWithUsage { listing: page, usage }: &PageWithUsage) -> Self {
        let digest: fn(&Row) -> Digest =
            if list == List::Objects { digest_without_ages } else { Row::digest };
        Self {
            rows: page.rows.iter().map(digest).collect(),
            usage: usage.clone(),
            pagination: page.pagination,
            stale: page.stale,
            warnings: page.warnings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::{
        inventory::objects::{Column, StoredObject, shown},
        kind::Kind,
    };

    /// A page with a boat of this crew, as shown this time after its creation.
    fn page(crew: &str, age_seconds: i64) -> PageWithUsage {
        let column = |name: &str, r#type: &str| Column {
            name: name.to_owned(),
            r#type: r#type.to_owned(),
            priority: 0,
        };
        let columns = [column("Crew", "string"), column("Age", "date")];
        let created = Timestamp::from_second(1_700_000_000).unwrap();
        let metadata = json!({"name": "ship", "creationTimestamp": created.to_string()});
        let boat = json!({"cells": [crew, "0s"], "object": {"metadata": metadata}});
        let stored = StoredObject::project(Kind::Pod, &to_raw_value(&boat).unwrap(), &columns, created);
        let now = Timestamp::from_second(1_700_000_000 + age_seconds).unwrap();
        let row = shown(&Row::of(&stored.unwrap()).unwrap(), Kind::Pod, &columns, now).unwrap();
        let pagination = Pagination { page: 1, per_page: 20, total: 1, pages: 1 };
        let listing = Listing { rows: vec![row], pagination, as_of: now, stale: false, warnings: Vec::new() };
        PageWithUsage { listing, usage: Vec::new() }
    }

    #[test]
    fn page_of_objects_is_the_same_while_only_ages_change() {
        let content = |page: &PageWithUsage| Content::of(List::Objects, page);
        let (now, later) = (page("ann", 1), page("ann", 61));
        assert_ne!(now.listing.rows[0].json(), later.listing.rows[0].json());
        assert!(content(&now) == content(&later));
        assert!(content(&now) != content(&page("eve", 1)));
    }
}
