//! Permit: the proof of authorisation that ports require.

use std::sync::Arc;

use pilothouse_types::{
    error::{Cause, Error, Result},
    ids::{ClusterId, OperationId},
    kind::Kind,
    name::{Namespace, NamespaceScope},
};

use super::{AccessRequest, Resource, Verb, related};
use crate::operation::Operation;

/// Permit for one authorised operation. Adapters take cluster, kind and namespaces from the permit, so that a handler
/// can neither skip the check nor use the permit for another object. The constructor is private to this crate:
///
/// ```compile_fail,E0624
/// use pilothouse_gate::access::{AccessRequest, Permit, Resource, Verb};
///
/// Permit::new(AccessRequest::to(Verb::Get, Resource::Database), None);
/// ```
#[derive(Clone, Debug)]
pub struct Permit {
    access: AccessRequest,
    operation: Option<Arc<Operation>>,
}

impl Permit {
    /// Creates a permit. Called by the gate after its check, and by the feature `testing`.
    pub(crate) fn new(access: AccessRequest, operation: Option<Operation>) -> Self {
        Self { access, operation: operation.map(Arc::new) }
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

    /// The permitted namespaces.
    pub fn namespaces(&self) -> &NamespaceScope {
        &self.access.namespaces
    }

    /// The single permitted namespace.
    ///
    /// # Errors
    /// `Internal` when the permit is for all namespaces.
    pub fn namespace(&self) -> Result<&Namespace> {
        match &self.access.namespaces {
            NamespaceScope::One(namespace) => Ok(namespace),
            NamespaceScope::All => Err(Error::internal("the permit names no namespace")),
        }
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

    /// Checks that objects of `kind` may be read under this permit: the kind itself or one related to it.
    ///
    /// # Errors
    /// `Internal` when the permit does not cover the kind.
    pub fn covers(&self, kind: Kind) -> Result<()> {
        let own = self.access.resource == Resource::Kind(kind);
        if own || related(self.access.verb, self.access.resource).contains(&kind) {
            Ok(())
        } else {
            Err(Error::internal(format!("the permit does not cover {kind}")))
        }
    }

    /// Derives the system permit under which the shared list cache lists this kind: read-only, in the same cluster, in
    /// all namespaces. Each reader's own permit decides which of the cached objects are returned. For the list cache
    /// only (`kube/src/cache.rs`): rows read under this permit must never be returned without a check of the reader's
    /// permit.
    ///
    /// # Errors
    /// `Internal` when the permit does not cover the kind, or is not a permit to list.
    pub fn for_cache(&self, kind: Kind) -> Result<Self> {
        self.covers(kind)?;
        if self.access.verb != Verb::List {
            return Err(Error::internal("the cache needs a permit to list"));
        }
        Ok(Self::new(AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(self.cluster()?), None))
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
