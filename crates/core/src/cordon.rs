//! Cordoning of nodes: a cordoned node gets no new pods.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    change_reason::ChangeReason,
    error::Result,
    gate::{Changed, Gate},
    ids::ClusterId,
    kind::Kind,
    name::ObjectName,
    node::NodeRow,
};

/// Port: changes nodes of the permit's cluster.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait NodeApi: Send + Sync {
    /// Cordons or uncordons a node. With the warning `Unchanged` if it already is as requested. The number of pods in the
    /// row is null.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `Modified` if the node is changed or replaced between read and write; and the errors of every
    /// call to a cluster.
    async fn cordon_node(
        &self,
        permit: &Permit,
        name: &ObjectName,
        unschedulable: bool,
    ) -> Result<Changed<NodeRow>>;
}

/// Use cases: cordoning and uncordoning nodes.
#[derive(Clone)]
pub struct Nodes {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn NodeApi>,
}

impl Nodes {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn NodeApi>) -> Self {
        Self { gate, api }
    }

    /// Cordons a node, or uncordons it.
    ///
    /// # Errors
    /// As [`Gate::change`] and [`NodeApi::cordon_node`].
    pub async fn cordon(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        name: &ObjectName,
        unschedulable: bool,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<NodeRow>> {
        let verb = if unschedulable { Verb::Cordon } else { Verb::Uncordon };
        let access = AccessRequest::to(verb, Resource::Kind(Kind::Node)).in_cluster(cluster);
        let (api, name) = (self.api.clone(), name.clone());
        let access = access.named(name.as_str()).because(reason);
        let work = async move |permit: Permit| api.cordon_node(&permit, &name, unschedulable).await;
        self.gate.change(caller, access, work).await
    }
}
