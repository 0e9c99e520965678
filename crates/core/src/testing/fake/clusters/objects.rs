//! Objects of any kind: those of the fake, printed with name and age.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{FakeClusters, lock, raw};
use crate::{
    access::Permit,
    error::{Error, Result},
    event::EventRow,
    ids::ClusterId,
    inventory::{
        Inventory, List,
        objects::{
            Column, ObjectApi, ObjectDetail, ObjectListing, ObjectParts, ServedKind, ServedKinds,
            StoredObject, shown,
        },
    },
    kind::{KINDS, Kind},
    name::PathName,
    object::parse,
    rows::{ListQuery, Row},
};

/// The time at which the fake prints ages.
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

impl FakeClusters {
    /// Serves a kind besides those of the table in every cluster, or one of the table otherwise than by default.
    pub fn serve(&self, kind: ServedKind) {
        lock(&self.served).push(kind);
    }

    pub(super) fn stored_objects(&self, cluster: ClusterId, kinds: &[Kind]) -> Result<Vec<Row>> {
        let objects = lock(&self.objects);
        let wanted = objects.iter().filter(|((of, kind, ..), _)| *of == cluster && kinds.contains(kind));
        let row = |kind: &Kind, object: &RawValue| {
            Row::of(&StoredObject::project(*kind, object, &Column::of_unprinted(), NOW)?)
        };
        wanted.map(|((_, kind, ..), object)| row(kind, &raw(object)?)).collect()
    }
}

/// Stored rows of these kinds, which are one, as shown.
pub(super) fn printed(kinds: &[Kind], rows: &[Row]) -> Result<Vec<Row>> {
    let kind = *kinds.first().ok_or_else(|| Error::internal("objects without a kind"))?;
    rows.iter().map(|row| shown(row, kind, &Column::of_unprinted(), NOW)).collect()
}

/// A kind of the table, as every cluster serves it.
fn of_table(kind: Kind) -> ServedKind {
    let info = kind.info();
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    ServedKind {
        group: info.group.to_owned(),
        version: info.version.to_owned(),
        plural: info.plural.to_owned(),
        kind: info.kind.to_owned(),
        namespaced: info.namespaced,
        verbs: texts(&["delete", "get", "list", "watch"]),
        ..ServedKind::default()
    }
}

#[async_trait]
impl ObjectApi for FakeClusters {
    async fn kinds(&self, permit: &Permit, _: Option<Duration>) -> Result<Arc<ServedKinds>> {
        self.call(permit, "kinds")?;
        let mut kinds = lock(&self.served).clone();
        let others = KINDS.iter().map(|kind| of_table(*kind));
        let others: Vec<_> = others
            .filter(|kind| !kinds.iter().any(|own| own.plural == kind.plural && own.group == kind.group))
            .collect();
        kinds.extend(others);
        Ok(Arc::new(ServedKinds { kinds, warnings: Vec::new() }))
    }

    async fn page(&self, permit: &Permit, _: &ServedKind, query: &ListQuery) -> Result<ObjectListing> {
        let listing = Inventory::page(self, permit, List::Objects, query).await?;
        Ok(ObjectListing { columns: Column::of_unprinted().into(), listing })
    }

    async fn get(&self, permit: &Permit, name: &PathName) -> Result<Option<ObjectDetail>> {
        self.call(permit, name.as_str())?;
        let kind = permit.kind()?;
        let namespace = if kind.info().namespaced { permit.namespace()?.to_string() } else { String::new() };
        let key = (permit.cluster()?, kind, namespace, name.to_string());
        let Some(object) = self.find(&key)? else { return Ok(None) };
        let event = |object: &RawValue| Ok(EventRow::project(parse(object)?));
        let (mut events, warning) = self.related(permit, Kind::Event, event)?;
        let info = kind.info();
        events.retain(|event| event.object.kind == info.kind && event.object.name == name.as_str());
        let parts = ObjectParts { object, events, warnings: warning.into_iter().collect() };
        ObjectDetail::assemble(kind, name.as_str(), parts, NOW).map(Some)
    }
}
