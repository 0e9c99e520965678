//! [`ObjectApi`]: objects of any kind. Their lists are cached and watched like those of any other list; a kind that the
//! API server does not let watch is read at each request.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::StatusCode;
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    event::EventRow,
    gate::Warning,
    inventory::{
        List,
        objects::{ObjectApi, ObjectDetail, ObjectListing, ObjectParts, ServedKind, ServedKinds},
    },
    kind::Kind,
    name::{ObjectName, PathName},
    namespaces::NamespaceScope,
    object::parse,
    rows::ListQuery,
};
use serde_json::value::RawValue;

use crate::{
    KubeClusters,
    cache::CacheResult,
    client::ClusterClient,
    list::{self, Size},
    projection::Projection,
    request::Call,
    workload::{MAX_EVENTS, MAX_MANIFEST_BYTES, MetadataOnly, TREE_FACTOR},
};

#[async_trait]
impl ObjectApi for KubeClusters {
    async fn kinds(&self, permit: &Permit, max_age: Option<Duration>) -> Result<Arc<ServedKinds>> {
        self.served_kinds(permit, max_age).await
    }

    async fn page(&self, permit: &Permit, served: &ServedKind, query: &ListQuery) -> Result<ObjectListing> {
        let query = query.within(permit.namespaces());
        let page = self.objects_page(permit, served, &query).await?;
        if page.listing.warnings.iter().any(|warning| matches!(warning, Warning::NotServed(_))) {
            // the next request looks again, also for a definition that is back
            let (transport, kind) = (self.transport(permit).await?, permit.kind()?);
            transport.discovery().expire();
            if let Some(cache) = &self.cache {
                cache.retain_objects(&transport, |other| other != kind);
            }
            return Err(Error::new(Cause::KindNotServed).resource(kind.resource_name()));
        }
        Ok(page)
    }

    async fn get(&self, permit: &Permit, name: &PathName) -> Result<Option<ObjectDetail>> {
        let kind = permit.kind()?;
        let namespace = if kind.info().namespaced { Some(permit.namespace()?) } else { None };
        let client = self.client(permit, self.deadlines().read).await?;
        client.meter().begin(format!("details of {kind} {namespace:?} {name}"))?;
        let read_object = |object: &RawValue| {
            if object.get().len() > MAX_MANIFEST_BYTES {
                return Err(Error::new(Cause::TooLarge));
            }
            Ok((parse::<MetadataOnly>(object)?.metadata.uid, object.to_owned()))
        };
        let call = Call::get_any(kind, namespace, name)?;
        let Some((uid, object)) = client.find_object(&call, read_object).await? else { return Ok(None) };
        let bytes = object.get().len();
        let mut tree = client.meter().reserve();
        tree.add(bytes * TREE_FACTOR)?;
        let (events, warnings) = loop {
            let read = events_about(&client, kind, name, &uid).await;
            if !client.restart(read.as_ref().err().map(|error| error.cause)).await? {
                break read?;
            }
        };
        let parts = ObjectParts { object, events, warnings };
        let (name, now) = (name.to_string(), self.now());
        client.run_job(bytes, move || ObjectDetail::assemble(kind, &name, parts, now)).await?.map(Some)
    }
}

impl KubeClusters {
    /// A page from the cache where possible, otherwise from the cluster.
    async fn objects_page(
        &self,
        permit: &Permit,
        served: &ServedKind,
        query: &ListQuery,
    ) -> Result<ObjectListing> {
        let cache = self.cache.as_ref().filter(|_| served.has_verb("watch"));
        let Some(cache) = cache else { return self.read_objects(permit, query).await };
        let transport = self.transport(permit).await?;
        match cache.objects(permit, &transport, query).await? {
            CacheResult::Hit(page) => Ok(page),
            CacheResult::Miss(warning, cached) => match (self.read_objects(permit, query).await, cached) {
                (Ok(mut page), _) => {
                    page.listing.warnings.extend(warning);
                    Ok(page)
                }
                // rows from before a write are better than none, and are marked stale
                (Err(_), Some(mut cached)) => {
                    cached.listing.stale = true;
                    Ok(cached)
                }
                (Err(error), None) => Err(error),
            },
        }
    }

    async fn read_objects(&self, permit: &Permit, query: &ListQuery) -> Result<ObjectListing> {
        let projection = Projection::new(List::Objects.info(), &query.kinds, &self.clock)?;
        let listing = self.read_projected(permit, List::Objects, query, &projection).await?;
        Ok(ObjectListing { columns: projection.columns(), listing })
    }
}

/// The events about the permit's object that the caller may list, and a warning if they or a part of them may not be
/// read.
async fn events_about(
    client: &ClusterClient<'_>,
    kind: Kind,
    name: &PathName,
    uid: &str,
) -> Result<(Vec<EventRow>, Vec<Warning>)> {
    let unreadable = || vec![Warning::Unreadable(Kind::Event.info().plural)];
    // there are no events about events; a uid is part of a selector, in which other characters have a meaning
    let has_events = kind.info().plural != Kind::Event.info().plural
        && !uid.is_empty()
        && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !has_events {
        return Ok((Vec::new(), Vec::new()));
    }
    let permit = client.permit();
    let Some(scope) = permit.namespaces_of(Kind::Event)? else { return Ok((Vec::new(), unreadable())) };
    let about = match ObjectName::new(name.as_str()) {
        // in the events of a kubelet, the name of the node is its uid
        Ok(name) if kind == Kind::Node => format!("involvedObject.kind=Node,involvedObject.name={name}"),
        _ => format!("involvedObject.uid={uid}"),
    };
    let selection = ListParams::default().fields(&about).limit(MAX_EVENTS);
    let row = |object: &RawValue| Ok(Some(About(EventRow::project(parse(object)?))));
    match list::first(client, Kind::Event, scope, &selection, row).await {
        Ok(events) => {
            let events = events.into_iter().map(|About(event)| event);
            // under a permit for a set of namespaces, those of all were read
            let events = events.filter(|event| is_within(scope, event)).collect();
            let warnings = if permit.is_complete_for(Kind::Event) { Vec::new() } else { unreadable() };
            Ok((events, warnings))
        }
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => Ok((Vec::new(), unreadable())),
        Err(failure) => Err(failure.into()),
    }
}

fn is_within(scope: &NamespaceScope, event: &EventRow) -> bool {
    scope.contains(Some(&event.namespace))
}

/// An event about an object.
struct About(EventRow);

impl Size for About {
    fn size(&self) -> usize {
        let EventRow { name, namespace, reason, message, object, .. } = &self.0;
        let texts = [name, namespace, reason, message, &object.kind, &object.name];
        size_of::<Self>() + texts.into_iter().map(String::len).sum::<usize>()
    }
}
