//! Objects of any kind that a cluster serves, custom resources too: the kinds by the cluster's discovery, lists with the
//! columns that the cluster prints, and details.
//!
//! A kind comes only from the discovery of the cluster itself, never from a request. Secrets are refused.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{ListedScope, Listing};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    error::{Cause, Error, Reason, Result},
    gate::{Gate, Warning},
    ids::ClusterId,
    kind::Kind,
    mask::{MaskedFields, sees_masked_values_of},
    name::{Namespace, PathName},
    rows::ListQuery,
};

mod age;
mod detail;
mod owners;
mod query;
mod row;
mod served;
mod yaml;

pub use detail::{ManagedBy, ObjectDetail, ObjectParts};
pub use owners::FieldOwner;
pub use query::ObjectQuery;
pub(crate) use query::to_list_objects;
pub(crate) use row::digest_without_ages;
pub use row::{Column, ObjectRow, StoredObject, shown};
pub use served::{KindRow, ResourceName, ServedKind, ServedKinds};

/// Age of a cluster's discovery up to which its kinds are shown without asking again.
const RECENT: Duration = Duration::from_secs(30);
/// Age of a cluster's discovery up to which a kind that it does not name is taken as not served.
const FRESH: Duration = Duration::from_secs(1);
/// Ages of the discovery in which a kind is looked up: a name that the last one does not have may be new.
const FIRST_LOOK: &[Option<Duration>] = &[None, Some(FRESH)];
/// Ages of the discovery in which a kind is looked up again after the cluster answered that something does not exist:
/// the version in which the kind was found may be gone.
const SECOND_LOOK: &[Option<Duration>] = &[Some(RECENT)];

/// A page of a list of objects of one kind.
#[derive(Clone, Debug)]
pub struct ObjectListing {
    /// The columns of the cells.
    pub columns: Arc<[Column]>,
    /// The page. Its rows are [`ObjectRow`]s.
    pub listing: Listing,
}

/// A page of a list of objects of one kind, with the part of the request that the caller's rights reach.
#[derive(Clone, Debug)]
pub struct ObjectPage {
    /// The page.
    pub page: ObjectListing,
    /// The part of the request that it covers.
    pub scope: ListedScope,
}

/// Reference to an object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// The kind.
    pub resource: ResourceName,
    /// The namespace, if the kind is namespaced.
    pub namespace: Option<Namespace>,
    /// The name.
    pub name: PathName,
}

/// Port: reads objects of any kind. Their lists are also those of [`Inventory`](crate::inventory::Inventory), as
/// [`List::Objects`](crate::inventory::List::Objects) of the kind in the query.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ObjectApi: Send + Sync {
    /// Returns the kinds that the permit's cluster serves, from a discovery of at most this age. Without an age, an older
    /// one is returned while a new one is read for later calls.
    ///
    /// # Errors
    /// As every call to a cluster.
    async fn kinds(&self, permit: &Permit, max_age: Option<Duration>) -> Result<Arc<ServedKinds>>;

    /// Returns a page of the objects of a served kind, which is the permit's, in the permit's namespaces.
    ///
    /// # Errors
    /// As [`Inventory::page`](crate::inventory::Inventory::page); `KindNotServed` if the cluster does not serve the kind
    /// any more.
    async fn page(&self, permit: &Permit, served: &ServedKind, query: &ListQuery) -> Result<ObjectListing>;

    /// Returns an object of the permit's kind in the permit's namespace, not masked and without YAML; `None` if it does
    /// not exist.
    ///
    /// # Errors
    /// As [`ObjectDetail::assemble`]; `TooLarge`; and the errors of every call to a cluster.
    async fn get(&self, permit: &Permit, name: &PathName) -> Result<Option<ObjectDetail>>;
}

/// Use cases: reading objects of any kind.
#[derive(Clone)]
pub struct Objects {
    gate: Gate,
    api: Arc<dyn ObjectApi>,
    masked_fields: MaskedFields,
}

impl Objects {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn ObjectApi>) -> Self {
        Self { gate, api, masked_fields: MaskedFields::default() }
    }

    /// Sets the fields that are masked besides literal values of environment variables.
    #[must_use]
    pub fn with_masked_fields(self, masked_fields: MaskedFields) -> Self {
        Self { masked_fields, ..self }
    }

    /// Returns the kinds that a cluster serves, each in the version that the cluster prefers, and warnings about what may
    /// be missing. Takes any right in the cluster.
    ///
    /// # Errors
    /// As [`Gate::allow`] and [`ObjectApi::kinds`].
    pub async fn kinds(&self, caller: &Caller, cluster: ClusterId) -> Result<(Vec<KindRow>, Vec<Warning>)> {
        let permit = self.discovery_permit(caller, cluster).await?;
        let found = self.api.kinds(&permit, Some(RECENT)).await?;
        Ok((found.kinds.iter().map(KindRow::from).collect(), found.warnings.clone()))
    }

    /// Returns a page of objects, cut to the namespaces that the caller's rights reach.
    ///
    /// # Errors
    /// `KindNotServed`; `InvalidInput` for a namespace that is missing or not expected; otherwise as [`Gate::allow`] and
    /// [`ObjectApi::page`].
    pub async fn page(&self, caller: &Caller, query: &ObjectQuery) -> Result<ObjectPage> {
        let served = |ages: &'static [Option<Duration>]| {
            self.served(caller, query.cluster, &query.resource, "list", ages)
        };
        let found = served(FIRST_LOOK).await?;
        match self.page_of(caller, query, &found).await {
            Err(not_served) if not_served.cause == Cause::KindNotServed => {
                let again = served(SECOND_LOOK).await?;
                if again == found { Err(not_served) } else { self.page_of(caller, query, &again).await }
            }
            page => page,
        }
    }

    async fn page_of(
        &self,
        caller: &Caller,
        query: &ObjectQuery,
        (served, kind): &(ServedKind, Kind),
    ) -> Result<ObjectPage> {
        let query_of_kind = query.of_kind(*kind)?;
        let access = to_list_objects(&query_of_kind)?.in_cluster(query.cluster);
        let permit = self.gate.allow(caller, access).await?;
        let page = self.api.page(&permit, served, &query_of_kind).await?;
        Ok(ObjectPage { page, scope: ListedScope::of(&permit) })
    }

    /// The query of a watch of objects, for [`Watches`](crate::inventory::Watches).
    ///
    /// # Errors
    /// `KindNotServed`; `NotCached` for a kind that the cluster does not let watch; `InvalidInput` for a namespace that is
    /// missing or not expected; otherwise as [`Gate::allow`] and [`ObjectApi::kinds`].
    pub(crate) async fn watched(&self, caller: &Caller, query: &ObjectQuery) -> Result<ListQuery> {
        let look = self.served(caller, query.cluster, &query.resource, "list", FIRST_LOOK);
        let (served, kind) = look.await?;
        let query = query.of_kind(kind)?;
        if served.has_verb("watch") { Ok(query) } else { Err(Error::new(Cause::NotCached)) }
    }

    /// Returns an object with the events about it that the caller may list. Literal values of environment variables and
    /// the fields of [`Objects::with_masked_fields`] are masked for callers who may neither update the object nor run
    /// commands in its namespace.
    ///
    /// # Errors
    /// `SecretRefused`, `KindNotServed`, `NotFoundInCluster`; `InvalidInput` for a namespace that is missing or not
    /// expected; otherwise as [`Gate::allow`] and [`ObjectApi::get`].
    pub async fn detail(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        object: &ObjectRef,
    ) -> Result<ObjectDetail> {
        query::check(&object.resource)?;
        let served =
            |ages: &'static [Option<Duration>]| self.served(caller, cluster, &object.resource, "get", ages);
        let (_, kind) = served(FIRST_LOOK).await?;
        match self.detail_of(caller, cluster, object, kind).await {
            Err(not_found) if not_found.cause == Cause::NotFoundInCluster => {
                let (_, again) = served(SECOND_LOOK).await?;
                if again == kind {
                    Err(not_found)
                } else {
                    self.detail_of(caller, cluster, object, again).await
                }
            }
            detail => detail,
        }
    }

    async fn detail_of(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        ObjectRef { namespace, name, .. }: &ObjectRef,
        kind: Kind,
    ) -> Result<ObjectDetail> {
        let namespace = match (kind.info().namespaced, namespace) {
            (true, None) => return Err(Error::invalid("namespace", Reason::Required)),
            (false, Some(_)) => return Err(Error::invalid("namespace", Reason::Unknown)),
            (true, Some(namespace)) => Some(namespace.clone()),
            // a namespace belongs to itself
            (false, None) if kind == Kind::Namespace => {
                Some(Namespace::new(name.as_str()).map_err(|reason| Error::invalid("name", reason))?)
            }
            (false, None) => None,
        };
        let access =
            AccessRequest::to(Verb::Get, Resource::Kind(kind)).in_cluster(cluster).named(name.as_str());
        let access = match &namespace {
            Some(namespace) => access.in_namespace(namespace),
            None => access,
        };
        let permit = self.gate.allow(caller, access).await?;
        let found = self.api.get(&permit, name).await?.ok_or_else(|| permit.object_not_found())?;
        let sees_all = sees_masked_values_of(caller, kind, cluster, namespace.as_ref());
        Ok(found.finish((!sees_all).then_some(&self.masked_fields)))
    }

    /// The kind of this name, if the cluster serves it with this verb, by the first discovery of these ages that has it.
    async fn served(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        resource: &ResourceName,
        verb: &str,
        ages: &[Option<Duration>],
    ) -> Result<(ServedKind, Kind)> {
        let permit = self.discovery_permit(caller, cluster).await?;
        for max_age in ages {
            let kinds = self.api.kinds(&permit, *max_age).await?;
            if let Some(served) = kinds.find(resource).filter(|served| served.has_verb(verb))
                && let Some(kind) = served.to_kind()
            {
                return Ok((served.clone(), kind));
            }
        }
        Err(Error::new(Cause::KindNotServed).resource(resource.to_string()))
    }

    /// The permit to read what a cluster serves: any right in the cluster.
    async fn discovery_permit(&self, caller: &Caller, cluster: ClusterId) -> Result<Permit> {
        self.gate.allow(caller, AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(cluster)).await
    }
}
