//! Permit: the proof of authorisation that ports require.

use std::sync::Arc;

use pilothouse_types::{
    error::{Cause, Error, Result},
    ids::{ClusterId, OperationId},
    kind::Kind,
    name::Namespace,
    namespaces::NamespaceScope,
};

use super::{AccessRequest, Allowed, Resource, Verb, created, judge::RelatedKind, related};
use crate::{
    operation::Operation,
    rights::{RightResource, resource_of_kind},
};

/// Permit for one authorised operation. Adapters take cluster, kind and namespaces from the permit, so that a handler
/// can neither skip the check nor use the permit for another object. The constructor is private to this crate:
///
/// ```compile_fail,E0624
/// use pilothouse_gate::access::{AccessRequest, Permit, Resource, Verb};
///
/// Permit::new(AccessRequest::to(Verb::Get, Resource::Database), todo!(), None);
/// ```
#[derive(Clone, Debug)]
pub struct Permit {
    access: AccessRequest,
    allowed: Arc<Allowed>,
    operation: Option<Arc<Operation>>,
}

impl Permit {
    /// Creates a permit. Called by the gate after its check, and by the feature `testing`.
    pub(crate) fn new(access: AccessRequest, allowed: Allowed, operation: Option<Operation>) -> Self {
        Self { access, allowed: Arc::new(allowed), operation: operation.map(Arc::new) }
    }

    /// Creates the permit of the server itself for a whole request, not decided by the rights of a caller.
    pub(crate) fn of_server(access: AccessRequest, operation: Option<Operation>) -> Self {
        let allowed = Allowed::whole(&access);
        Self::new(access, allowed, operation)
    }

    /// The permitted verb.
    pub fn verb(&self) -> Verb {
        self.access.verb
    }

    /// The permitted resource.
    pub fn resource(&self) -> Resource {
        self.access.resource
    }

    /// The registered cluster.
    ///
    /// # Errors
    /// `Internal` when the permit has no cluster: the caller passed a wrong permit.
    pub fn cluster(&self) -> Result<ClusterId> {
        self.access.cluster.ok_or_else(|| Error::internal("the permit names no cluster"))
    }

    /// The permitted namespaces: the part of the requested ones that the caller's rights reach.
    pub fn namespaces(&self) -> &NamespaceScope {
        &self.allowed.namespaces
    }

    /// Whether the permitted namespaces are all that were requested.
    pub fn is_complete(&self) -> bool {
        self.allowed.complete
    }

    /// The single permitted namespace.
    ///
    /// # Errors
    /// `Internal` when the permit is not for one namespace.
    pub fn namespace(&self) -> Result<&Namespace> {
        let one = self.allowed.namespaces.one();
        one.ok_or_else(|| Error::internal("the permit names no namespace"))
    }

    /// The permitted kind.
    ///
    /// # Errors
    /// `Internal` when the permit has no kind.
    pub fn kind(&self) -> Result<Kind> {
        match self.access.resource {
            Resource::Kind(kind) => Ok(kind),
            _ => Err(Error::internal("the permit names no kind")),
        }
    }

    /// Creates the error for the permit's object when it does not exist in the cluster.
    pub fn object_not_found(&self) -> Error {
        let mut error = Error::new(Cause::NotFoundInCluster).resource(self.access.resource.as_str());
        error.context.namespace = self.namespace().ok().map(ToString::to_string);
        error.context.name.clone_from(&self.access.name);
        error
    }

    /// Checks that the permit is about objects of `kind`: the kind itself, the kind that the change creates, or one related
    /// to it. What may be read of a related kind is in [`Permit::namespaces_of`].
    ///
    /// # Errors
    /// `Internal` when the permit does not cover the kind.
    pub fn covers(&self, kind: Kind) -> Result<()> {
        if self.is_of(kind) || related(self.access.verb, self.access.resource).contains(&kind) {
            Ok(())
        } else {
            Err(Error::internal(format!("the permit does not cover {kind}")))
        }
    }

    /// The namespaces in which objects of `kind` may be read under this permit. For the permit's own kind, its own
    /// namespaces. For a related kind, those of the request in which the caller may list that kind; under a permit for
    /// an object that belongs to no namespace, such as a node, of all namespaces. `None` if the caller may list the
    /// related kind in none of them: an adapter then leaves it out, with the warning `unreadable`.
    ///
    /// # Errors
    /// As [`Permit::covers`].
    pub fn namespaces_of(&self, kind: Kind) -> Result<Option<&NamespaceScope>> {
        self.covers(kind)?;
        if self.is_of(kind) {
            return Ok(Some(&self.allowed.namespaces));
        }
        Ok(self.related_kind(kind).and_then(|related| related.namespaces.as_ref()))
    }

    /// Whether all objects of a related kind may be read that are about the permitted ones. Otherwise what an adapter
    /// reads of it is a part, to be marked with the warning `unreadable`.
    pub fn is_complete_for(&self, kind: Kind) -> bool {
        self.is_of(kind) || self.related_kind(kind).is_some_and(|related| related.complete)
    }

    fn is_of(&self, kind: Kind) -> bool {
        let AccessRequest { verb, resource, .. } = self.access;
        resource == Resource::Kind(kind) || created(verb, resource) == Some(kind)
    }

    fn related_kind(&self, kind: Kind) -> Option<&RelatedKind> {
        self.allowed.related.iter().find(|related| related.kind == kind)
    }

    /// Derives the system permit under which the shared list cache lists this kind: read-only, in the same cluster, in
    /// all namespaces, whatever the caller may list. Each reader's own permit decides which of the cached objects are
    /// returned. For the list cache only (`kube/src/cache.rs`): rows read under this permit must never be returned
    /// without a check of the reader's permit.
    ///
    /// A permit to read the logs of pods is enough for the list of pods: whoever may read all logs of a namespace may
    /// know which pods write them.
    ///
    /// # Errors
    /// `Internal` when the permit does not cover the kind, or is neither a permit to list nor one to read logs.
    pub fn for_cache(&self, kind: Kind) -> Result<Self> {
        self.covers(kind)?;
        if !matches!(self.access.verb, Verb::List | Verb::Logs) {
            return Err(Error::internal("the cache needs a permit to list"));
        }
        let access = AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(self.cluster()?);
        Ok(Self::of_server(access.within(NamespaceScope::All), None))
    }

    /// Derives the system permit under which usage of CPU and memory is polled: to list nodes, or pods in all namespaces,
    /// in the same cluster. From a permit to list or get nodes, or pods or workloads. For the poller of usage only
    /// (`kube/src/usage.rs`): what it reads is looked up by objects that a reader's own permit covers.
    ///
    /// # Errors
    /// `Internal` when the permit is for another verb or kind.
    pub fn for_usage(&self) -> Result<Self> {
        let kind = match (self.access.verb, self.access.resource) {
            (Verb::List | Verb::Get, Resource::Kind(Kind::Node)) => Kind::Node,
            (Verb::List | Verb::Get, Resource::Kind(kind))
                if resource_of_kind(kind, false) == RightResource::Workloads =>
            {
                Kind::Pod
            }
            _ => return Err(Error::internal("usage needs a permit to read nodes, pods or workloads")),
        };
        let access = AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(self.cluster()?);
        Ok(Self::of_server(access.within(NamespaceScope::All), None))
    }

    /// The recorded operation. None for plain reads.
    pub fn operation(&self) -> Option<&Operation> {
        self.operation.as_deref()
    }

    /// Operation id, sent to the cluster as `Audit-ID`.
    pub fn operation_id(&self) -> Option<OperationId> {
        self.operation.as_ref().map(|operation| operation.id)
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_types::namespaces::{NamespacePattern, NamespaceSet};

    use super::*;

    fn permit(verb: Verb, kind: Kind, namespaces: Option<NamespaceScope>) -> Permit {
        let access = AccessRequest::to(verb, Resource::Kind(kind)).in_cluster(ClusterId(1));
        let access = match namespaces {
            Some(namespaces) => access.within(namespaces),
            None => access,
        };
        Permit::of_server(access, None)
    }

    #[test]
    fn request_without_namespaces_permits_no_namespace() {
        let unscoped = Some(&NamespaceScope::Unscoped);
        let pods = permit(Verb::List, Kind::Pod, None);
        assert_eq!(pods.namespaces_of(Kind::Pod).unwrap(), unscoped);
        assert!(pods.namespace().is_err());
        let workload = permit(Verb::Get, Kind::Deployment, None);
        assert_eq!(workload.namespaces_of(Kind::Pod).unwrap(), unscoped);
        let namespaces = permit(Verb::List, Kind::Namespace, None);
        assert_eq!(namespaces.namespaces_of(Kind::ResourceQuota).unwrap(), unscoped);
    }

    #[test]
    fn run_of_a_cron_job_permits_the_job_in_the_same_namespace() {
        let shop = NamespaceScope::One(Namespace::new("shop").unwrap());
        let access = AccessRequest::to(Verb::Run, Resource::Kind(Kind::CronJob)).in_cluster(ClusterId(1));
        let access = access.within(shop.clone());
        let mut allowed = Allowed::whole(&access);
        // the right to list jobs is not needed
        allowed.related.clear();
        let run = Permit::new(access, allowed, None);
        assert_eq!(run.namespaces_of(Kind::Job).unwrap(), Some(&shop));
        assert!(run.namespaces_of(Kind::Pod).is_err());
        assert!(permit(Verb::Suspend, Kind::CronJob, Some(shop)).namespaces_of(Kind::Job).is_err());
    }

    #[test]
    fn cache_takes_permits_to_list_and_to_read_logs() {
        let namespace = NamespaceScope::Set(NamespaceSet::new([NamespacePattern::parse("shop").unwrap()]));
        for verb in [Verb::List, Verb::Logs] {
            let pods = permit(verb, Kind::Pod, Some(namespace.clone()));
            let for_cache = pods.for_cache(Kind::Pod).unwrap();
            assert_eq!((for_cache.verb(), for_cache.operation_id()), (Verb::List, None));
            assert!(pods.for_cache(Kind::Secret).is_err(), "{verb:?}");
        }
        for verb in [Verb::Get, Verb::Update, Verb::Delete] {
            assert!(
                permit(verb, Kind::Pod, Some(namespace.clone())).for_cache(Kind::Pod).is_err(),
                "{verb:?}"
            );
        }
    }

    #[test]
    fn related_kind_without_a_right_is_covered_but_not_readable() {
        let access = AccessRequest::to(Verb::List, Resource::Kind(Kind::Node)).in_cluster(ClusterId(1));
        let mut allowed = Allowed::whole(&access);
        for related in &mut allowed.related {
            (related.namespaces, related.complete) = (None, false);
        }
        let nodes = Permit::new(access, allowed, None);
        assert_eq!(nodes.namespaces_of(Kind::Pod).unwrap(), None);
        assert!(nodes.is_complete_for(Kind::Node) && !nodes.is_complete_for(Kind::Pod));
        let for_cache = nodes.for_cache(Kind::Pod).unwrap();
        assert_eq!(
            for_cache.namespaces_of(Kind::Pod).unwrap(),
            Some(&NamespaceScope::All),
            "the cache is filled for all callers"
        );
    }

    #[test]
    fn permit_to_poll_usage_is_for_nodes_or_pods() {
        let derived = |verb, kind| permit(verb, kind, None).for_usage().and_then(|permit| permit.kind());
        assert_eq!(derived(Verb::List, Kind::Node).unwrap(), Kind::Node);
        for (verb, kind) in
            [(Verb::Get, Kind::Pod), (Verb::List, Kind::Deployment), (Verb::List, Kind::CronJob)]
        {
            assert_eq!(derived(verb, kind).unwrap(), Kind::Pod);
        }
        for (verb, kind) in [(Verb::List, Kind::Secret), (Verb::Delete, Kind::Pod), (Verb::Logs, Kind::Pod)] {
            assert!(derived(verb, kind).is_err(), "{verb:?} {kind}");
        }
    }

    #[test]
    fn related_kinds_have_the_scope_of_the_permit_or_all_namespaces() {
        let nodes = permit(Verb::List, Kind::Node, None);
        assert_eq!(nodes.namespaces_of(Kind::Node).unwrap(), Some(&NamespaceScope::Unscoped));
        assert_eq!(nodes.namespaces_of(Kind::Pod).unwrap(), Some(&NamespaceScope::All));
        assert!(nodes.namespaces_of(Kind::Secret).is_err());
        let set = NamespaceScope::Set(NamespaceSet::new([NamespacePattern::parse("team-*").unwrap()]));
        let namespaces = permit(Verb::List, Kind::Namespace, Some(set.clone()));
        assert_eq!(namespaces.namespaces_of(Kind::ResourceQuota).unwrap(), Some(&set));
        assert!(namespaces.namespace().is_err());
        assert_eq!(
            namespaces.for_cache(Kind::ResourceQuota).unwrap().namespaces(),
            &NamespaceScope::All,
            "the cache holds all namespaces"
        );
    }
}
