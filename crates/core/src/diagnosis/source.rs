//! Port that reads the objects of a diagnosis.

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::objects::{
    AutoscalerObject, BudgetObject, ClaimObject, EventObject, IngressObject, NodeObject, PodObject,
    ServiceObject, SliceObject, WorkloadObject,
};
use crate::{
    access::Permit,
    error::{Error, Result},
    kind::Kind,
    name::ObjectName,
    object::parse,
};

/// Which objects of a kind are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of the permit's namespaces.
    All,
    /// Those with labels that match a selector in the notation of `kubectl --selector`.
    Labels(String),
    /// Those of these names. A name without an object is left out.
    Names(Vec<ObjectName>),
    /// Events about the object of this uid.
    AboutUid(String),
    /// Events about the node of this name. Events of a kubelet have the name of the node as its uid.
    AboutNode(ObjectName),
}

/// Objects of a kind.
#[derive(Clone, Debug)]
pub enum Related {
    /// The objects, all of them.
    Read(Vec<RelatedObject>),
    /// Neither the caller's rights nor the credential allow to read all of them, or the cluster did not answer.
    Unreadable,
}

/// The fields of an object that the rules examine.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of the kinds")]
pub enum RelatedObject {
    Workload(WorkloadObject),
    Pod(PodObject),
    Claim(ClaimObject),
    Node(NodeObject),
    Service(ServiceObject),
    Slice(SliceObject),
    Ingress(IngressObject),
    Autoscaler(AutoscalerObject),
    Budget(BudgetObject),
    Event(EventObject),
}

impl RelatedObject {
    /// Projects an object of a kind.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object does not have the expected shape; `Internal` for a kind that no rule examines.
    pub fn project(kind: Kind, object: &RawValue) -> Result<Self> {
        match kind {
            Kind::Deployment
            | Kind::StatefulSet
            | Kind::DaemonSet
            | Kind::ReplicaSet
            | Kind::Job
            | Kind::CronJob => parse(object).map(Self::Workload),
            Kind::Pod => parse(object).map(Self::Pod),
            Kind::PersistentVolumeClaim => parse(object).map(Self::Claim),
            Kind::Node => parse(object).map(Self::Node),
            Kind::Service => parse(object).map(Self::Service),
            Kind::EndpointSlice => parse(object).map(Self::Slice),
            Kind::Ingress => parse(object).map(Self::Ingress),
            Kind::HorizontalPodAutoscaler => parse(object).map(Self::Autoscaler),
            Kind::PodDisruptionBudget => parse(object).map(Self::Budget),
            Kind::Event => parse(object).map(Self::Event),
            other => Err(Error::internal(format!("a diagnosis reads no {other}"))),
        }
    }
}

/// Port: reads objects for a diagnosis in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait DiagnosisSource: Send + Sync {
    /// Reads the permit's object of this name; `None` if it does not exist.
    ///
    /// # Errors
    /// `TooLarge`; and the errors of every call to a cluster.
    async fn diagnosed_object(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RelatedObject>>;

    /// Reads objects of a kind related to the permit's object.
    ///
    /// # Errors
    /// `Internal` if the permit does not cover the kind. A kind that cannot be read is [`Related::Unreadable`].
    async fn related_objects(&self, permit: &Permit, kind: Kind, selection: &Selection) -> Result<Related>;
}
