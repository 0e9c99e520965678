//! Evidence: the objects that the rules examine.

use std::fmt;

use serde::Deserialize;

use super::{
    ObjectRef,
    objects::{
        AutoscalerObject, BudgetObject, ClaimObject, EventObject, IngressObject, NodeObject, ObjectMetadata,
        PodObject, ServiceObject, SliceObject, WorkloadObject,
    },
};
use crate::{
    error::Reason,
    kind::Kind,
    name::{Namespace, ObjectName},
};

/// A kind whose objects can be diagnosed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DiagnosedKind(Kind);

impl DiagnosedKind {
    /// All such kinds.
    pub const ALL: [Self; 10] = [
        Self(Kind::Deployment),
        Self(Kind::StatefulSet),
        Self(Kind::DaemonSet),
        Self(Kind::Job),
        Self(Kind::CronJob),
        Self(Kind::Pod),
        Self(Kind::Service),
        Self(Kind::Ingress),
        Self(Kind::PersistentVolumeClaim),
        Self(Kind::Node),
    ];

    /// The diagnosed kind of a Kubernetes kind; `None` if it has no diagnosis.
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|this| this.0 == kind)
    }

    /// The Kubernetes kind.
    pub const fn kind(self) -> Kind {
        self.0
    }

    /// Parses the name in requests: the kind in lower case.
    ///
    /// # Errors
    /// [`Reason::NotOneOf`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        Self::ALL.into_iter().find(|this| this.as_str() == text).ok_or(Reason::NotOneOf)
    }

    /// The name in requests.
    pub const fn as_str(self) -> &'static str {
        self.0.info().singular
    }
}

impl TryFrom<String> for DiagnosedKind {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for DiagnosedKind {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::ALL.map(Self::as_str)))
            .description(Some("The kind of the object, in lower case."))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for DiagnosedKind {}

impl fmt::Display for DiagnosedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object to diagnose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnosedObject {
    /// Its kind.
    pub kind: DiagnosedKind,
    /// Its namespace; `None` exactly for a node.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: ObjectName,
}

/// What the rules examine: the diagnosed object, and the objects and events that belong to it.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The kind of the diagnosed object.
    pub kind: DiagnosedKind,
    /// Metadata of the diagnosed object.
    pub object: ObjectMetadata,
    /// The diagnosed object, if it is a workload.
    pub workload: Option<WorkloadObject>,
    /// ReplicaSets of a deployment that are to have pods, and jobs of a cron job, newest first.
    pub controlled: Vec<WorkloadObject>,
    /// The pods of a workload or Service, those that use a claim, or the diagnosed pod.
    pub pods: Vec<PodObject>,
    /// Claims of the pods, or the diagnosed claim.
    pub claims: Vec<ClaimObject>,
    /// Nodes of the pods, or the diagnosed node. For pods that no node fits, all nodes.
    pub nodes: Vec<NodeObject>,
    /// The diagnosed Service, or the Services of an Ingress.
    pub services: Vec<ServiceObject>,
    /// EndpointSlices of the Services.
    pub slices: Vec<SliceObject>,
    /// The diagnosed Ingress.
    pub ingress: Option<IngressObject>,
    /// Autoscalers of the workload.
    pub autoscalers: Vec<AutoscalerObject>,
    /// PodDisruptionBudgets of the namespace.
    pub budgets: Vec<BudgetObject>,
    /// Events about these objects.
    pub events: Vec<EventObject>,
    /// What was read: plural resource names, and `logs`.
    pub checked: Vec<&'static str>,
    /// What neither the caller's rights nor the credential allow to read, or could not be read.
    pub unreadable: Vec<&'static str>,
}

impl Evidence {
    /// Evidence about an object of this kind, which has only its metadata.
    pub fn of(kind: DiagnosedKind, object: ObjectMetadata) -> Self {
        Self {
            kind,
            object,
            workload: None,
            controlled: Vec::new(),
            pods: Vec::new(),
            claims: Vec::new(),
            nodes: Vec::new(),
            services: Vec::new(),
            slices: Vec::new(),
            ingress: None,
            autoscalers: Vec::new(),
            budgets: Vec::new(),
            events: Vec::new(),
            checked: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// A reference to the diagnosed object.
    pub fn reference(&self) -> ObjectRef {
        self.object.reference(self.kind.kind().info().kind)
    }

    /// Records that a source was read, or could not be. A source of which a part could not be read is unreadable.
    pub fn record(&mut self, source: &'static str, is_readable: bool) {
        if self.unreadable.contains(&source) {
            return;
        }
        self.checked.retain(|checked| *checked != source);
        let sources = if is_readable { &mut self.checked } else { &mut self.unreadable };
        sources.push(source);
    }

    /// The literal values of environment variables of the pods, and their lines, that have at least `min_chars` characters.
    pub(super) fn environment_values(&self, min_chars: usize) -> Vec<String> {
        let containers =
            self.pods.iter().flat_map(|pod| pod.spec.containers.iter().chain(&pod.spec.init_containers));
        let values = containers.flat_map(|container| &container.env).map(|variable| variable.value.as_str());
        let values = values.flat_map(|value| value.lines().chain([value]));
        let values = values.filter(|value| value.chars().count() >= min_chars);
        let mut values: Vec<_> = values.map(str::to_owned).collect();
        // a value that contains another one is masked first
        values.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        values
    }

    /// The events about an object. An object without a uid has none, so that a namesake's events are not taken for its
    /// own.
    pub(super) fn events_of<'a>(
        &'a self,
        object: &'a ObjectMetadata,
    ) -> impl Iterator<Item = &'a EventObject> {
        let is_about =
            move |event: &&EventObject| !object.uid.is_empty() && event.involved_object.uid == object.uid;
        self.events.iter().filter(is_about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_parse_by_their_names() {
        for kind in DiagnosedKind::ALL {
            assert_eq!(DiagnosedKind::parse(kind.as_str()), Ok(kind));
        }
        for text in ["secret", "Deployment", "replicaset", ""] {
            assert_eq!(DiagnosedKind::parse(text), Err(Reason::NotOneOf), "{text}");
        }
    }

    #[test]
    fn events_of_a_namesake_are_not_taken() {
        let event = |uid: &str| {
            let object = serde_json::json!({"involvedObject": {"name": "web", "uid": uid}});
            serde_json::from_value::<EventObject>(object).unwrap()
        };
        let web =
            ObjectMetadata { name: "web".to_owned(), uid: "new".to_owned(), ..ObjectMetadata::default() };
        let mut evidence = Evidence::of(DiagnosedKind(Kind::Pod), web.clone());
        evidence.events = vec![event("old"), event("new"), event("")];
        assert_eq!(evidence.events_of(&web).count(), 1);
        let unknown = ObjectMetadata { uid: String::new(), ..web };
        assert_eq!(evidence.events_of(&unknown).count(), 0);
    }
}
