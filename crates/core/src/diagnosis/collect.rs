//! Collects the evidence: which objects belong to the diagnosed one, and which of them have to be read.
//!
//! Pods that are ready and were not restarted need no events, so that a healthy deployment costs seven reads. Of many pods
//! that are not, the events of a few are read: they have the same cause, or the others show it once these are repaired.

use futures_util::future::try_join_all;
use futures_util::try_join;

use super::{
    Evidence, Variant,
    evidence::DiagnosedKind,
    objects::{
        AutoscalerObject, BudgetObject, ClaimObject, Condition, EventObject, NodeObject, PodObject,
        ServiceObject, SliceObject, WorkloadObject, equality_query,
    },
    parse,
    source::{DiagnosisSource, Related, RelatedObject, Selection},
};
use crate::{
    access::Permit,
    error::{Error, Result},
    kind::Kind,
    name::ObjectName,
};

/// Maximum number of pods, and of claims, whose events are read.
const MAX_EXAMINED: usize = 5;
/// Maximum number of claims, nodes or Services that are read by name.
const MAX_NAMED: usize = 20;
/// Maximum number of nodes of a cluster whose capacity is read.
const MAX_NODES: u32 = 50;
/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of the pods of a job with its name.
const JOB_NAME: &str = "job-name";

/// Collects the evidence about the permit's object; `None` if it does not exist.
///
/// # Errors
/// As [`DiagnosisSource::diagnosed_object`].
pub async fn collect(
    source: &dyn DiagnosisSource,
    permit: &Permit,
    name: &ObjectName,
) -> Result<Option<Evidence>> {
    let kind =
        DiagnosedKind::of(permit.kind()?).ok_or_else(|| Error::internal("a kind without a diagnosis"))?;
    let Some(object) = source.diagnosed_object(permit, name).await? else { return Ok(None) };
    let reader = Reader { source, permit };
    let mut evidence = match object {
        RelatedObject::Workload(workload) => reader.of_workload(kind, workload).await?,
        RelatedObject::Pod(pod) => {
            let mut evidence = Evidence::of(kind, pod.metadata.clone());
            evidence.pods.push(pod);
            evidence
        }
        RelatedObject::Service(service) => reader.of_service(kind, service).await?,
        RelatedObject::Ingress(ingress) => {
            let mut evidence = Evidence::of(kind, ingress.metadata.clone());
            evidence.ingress = Some(ingress);
            reader.add_backends(&mut evidence).await?;
            evidence
        }
        RelatedObject::Claim(claim) => {
            let mut evidence = Evidence::of(kind, claim.metadata.clone());
            let uses_claim = |pod: &PodObject| claim_names(pod).any(|used| used == claim.metadata.name);
            evidence.pods = reader.pods(&mut evidence, Selection::All, uses_claim).await?;
            evidence.claims.push(claim);
            evidence
        }
        RelatedObject::Node(node) => {
            let mut evidence = Evidence::of(kind, node.metadata.clone());
            evidence.nodes.push(node);
            evidence
        }
        _ => return Err(Error::internal("an object of another kind")),
    };
    evidence.record(kind.kind().info().plural, true);
    reader.add_claims_and_nodes(&mut evidence).await?;
    reader.add_events(&mut evidence, name).await?;
    Ok(Some(evidence))
}

/// Reads related objects, and records in the evidence what was read.
struct Reader<'a> {
    source: &'a dyn DiagnosisSource,
    permit: &'a Permit,
}

impl Reader<'_> {
    /// The objects of a kind, projected by `project`; empty if they cannot be read.
    async fn read<T>(
        &self,
        evidence: &mut Evidence,
        kind: Kind,
        selection: Selection,
        project: fn(RelatedObject) -> Option<T>,
    ) -> Result<Vec<T>> {
        let related = self.source.related_objects(self.permit, kind, &selection).await?;
        Ok(record(evidence, kind, related, project))
    }

    /// As [`Reader::read`], for the first [`MAX_NAMED`] of these names. With more, the kind counts as unreadable, so that
    /// an object that was not read is not taken for one that does not exist.
    async fn read_named<T>(
        &self,
        evidence: &mut Evidence,
        kind: Kind,
        mut names: Vec<ObjectName>,
        project: fn(RelatedObject) -> Option<T>,
    ) -> Result<Vec<T>> {
        let is_complete = names.len() <= MAX_NAMED;
        names.truncate(MAX_NAMED);
        let objects = self.read(evidence, kind, Selection::Names(names), project).await?;
        if !is_complete {
            evidence.record(kind.info().plural, false);
        }
        Ok(objects)
    }

    /// The objects of a kind; `None` without a kind or a selection.
    async fn read_if(&self, kind: Option<Kind>, selection: Option<Selection>) -> Result<Option<Related>> {
        match (kind, selection) {
            (Some(kind), Some(selection)) => {
                self.source.related_objects(self.permit, kind, &selection).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The pods that belong to the diagnosed object, by name.
    async fn pods(
        &self,
        evidence: &mut Evidence,
        selection: Selection,
        belongs: impl Fn(&PodObject) -> bool,
    ) -> Result<Vec<PodObject>> {
        let mut pods = self.read(evidence, Kind::Pod, selection, pod).await?;
        pods.retain(belongs);
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }

    async fn of_workload(&self, kind: DiagnosedKind, workload: WorkloadObject) -> Result<Evidence> {
        let mut evidence = Evidence::of(kind, workload.metadata.clone());
        let own = workload.metadata.uid.clone();
        let selection = workload.spec.selector.query().map(Selection::Labels);
        let controlled_kind = match kind.kind() {
            Kind::Deployment => Some(Kind::ReplicaSet),
            Kind::CronJob => Some(Kind::Job),
            _ => None,
        };
        // jobs have no label of their cron job
        let (of_controlled, of_pods) = match kind.kind() {
            Kind::CronJob => (Some(Selection::All), Some(Selection::Labels(JOB_NAME.to_owned()))),
            _ => (selection.clone(), selection),
        };
        let scales = matches!(kind.kind(), Kind::Deployment | Kind::StatefulSet)
            .then_some(Kind::HorizontalPodAutoscaler);
        let is_steady = !matches!(kind.kind(), Kind::Job | Kind::CronJob);
        let budgets = is_steady.then_some(Kind::PodDisruptionBudget);
        let (controlled, pods, autoscalers, budgets) = try_join!(
            self.read_if(controlled_kind, of_controlled),
            self.read_if(Some(Kind::Pod), of_pods),
            self.read_if(scales, Some(Selection::All)),
            self.read_if(budgets, Some(Selection::All)),
        )?;
        let is_unreadable = matches!(controlled, Some(Related::Unreadable));
        let mut controlled = controlled.map_or_else(Vec::new, |related| {
            record(&mut evidence, controlled_kind.unwrap_or(Kind::ReplicaSet), related, self::workload)
        });
        controlled.retain(|object| object.metadata.controller_uid() == Some(own.as_str()));
        controlled.sort_by_key(|one| std::cmp::Reverse(one.metadata.creation_timestamp));
        let mut owners: Vec<_> = controlled.iter().map(|object| object.metadata.uid.clone()).collect();
        // of a cron job, only the newest job counts
        if kind.kind() == Kind::CronJob {
            owners.truncate(1);
        }
        let mut pods = pods.map_or_else(Vec::new, |related| record(&mut evidence, Kind::Pod, related, pod));
        pods.retain(|pod: &PodObject| match (pod.metadata.controller_uid(), controlled_kind) {
            (Some(_), Some(_)) if is_unreadable => kind.kind() == Kind::Deployment,
            (Some(uid), Some(_)) => owners.iter().any(|owner| owner == uid),
            (uid, None) => uid == Some(own.as_str()),
            (None, _) => false,
        });
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        // a ReplicaSet of an earlier revision is to have no pods
        controlled.retain(|object| kind.kind() == Kind::CronJob || object.spec.replicas != Some(0));
        if let Some(related) = autoscalers {
            let mut autoscalers = record(&mut evidence, Kind::HorizontalPodAutoscaler, related, autoscaler);
            autoscalers.retain(|autoscaler| {
                let target = &autoscaler.spec.scale_target_ref;
                target.kind == kind.kind().info().kind && target.name == workload.metadata.name
            });
            evidence.autoscalers = autoscalers;
        }
        if let Some(related) = budgets {
            evidence.budgets = record(&mut evidence, Kind::PodDisruptionBudget, related, budget);
        }
        (evidence.controlled, evidence.pods, evidence.workload) = (controlled, pods, Some(workload));
        Ok(evidence)
    }

    async fn of_service(&self, kind: DiagnosedKind, service: ServiceObject) -> Result<Evidence> {
        let mut evidence = Evidence::of(kind, service.metadata.clone());
        if let Some(query) = equality_query(&service.spec.selector) {
            evidence.pods = self.pods(&mut evidence, Selection::Labels(query), |_| true).await?;
        }
        evidence.services.push(service);
        let query = format!("{SERVICE_NAME}={}", evidence.object.name);
        evidence.slices =
            self.read(&mut evidence, Kind::EndpointSlice, Selection::Labels(query), slice).await?;
        Ok(evidence)
    }

    /// The Services of an Ingress, and their slices.
    async fn add_backends(&self, evidence: &mut Evidence) -> Result<()> {
        let Some(ingress) = &evidence.ingress else { return Ok(()) };
        let rules = ingress.spec.rules.iter().flat_map(|rule| &rule.http.paths).map(|path| &path.backend);
        let backends = ingress.spec.default_backend.iter().chain(rules);
        let names = names(
            backends.filter_map(|backend| backend.service.as_ref()).map(|service| service.name.as_str()),
        );
        if names.is_empty() {
            return Ok(());
        }
        let texts: Vec<_> = names.iter().take(MAX_NAMED).map(ObjectName::as_str).collect();
        let query = format!("{SERVICE_NAME} in ({})", texts.join(","));
        evidence.services = self.read_named(evidence, Kind::Service, names, service).await?;
        evidence.slices = self.read(evidence, Kind::EndpointSlice, Selection::Labels(query), slice).await?;
        Ok(())
    }

    /// The claims and nodes of pods that are not ready.
    async fn add_claims_and_nodes(&self, evidence: &mut Evidence) -> Result<()> {
        let reads_pods = !matches!(evidence.kind.kind(), Kind::Service | Kind::Ingress | Kind::Node);
        if !reads_pods {
            return Ok(());
        }
        let unready: Vec<_> = evidence.pods.iter().filter(|pod| !is_settled(pod)).collect();
        let pending = unready.iter().filter(|pod| pod.status.phase == "Pending");
        let claims = names(pending.flat_map(|pod| claim_names(pod)));
        let nodes = names(unready.iter().filter_map(|pod| pod.spec.node_name.as_deref()));
        let needs_capacity = unready.iter().any(|pod| lacks_capacity(pod));
        if !claims.is_empty() && evidence.claims.is_empty() {
            evidence.claims = self.read_named(evidence, Kind::PersistentVolumeClaim, claims, claim).await?;
        }
        if !is_covered(self.permit, Kind::Node) {
            return Ok(());
        }
        if needs_capacity {
            evidence.nodes = self.read(evidence, Kind::Node, Selection::All, node).await?;
        } else if !nodes.is_empty() {
            evidence.nodes = self.read_named(evidence, Kind::Node, nodes, node).await?;
        }
        Ok(())
    }

    /// The events about the diagnosed object, its controllers, and the pods and claims that are not as wanted.
    async fn add_events(&self, evidence: &mut Evidence, name: &ObjectName) -> Result<()> {
        let selections = if evidence.kind.kind() == Kind::Node {
            vec![Selection::AboutNode(name.clone())]
        } else {
            let controlled = evidence.controlled.iter().take(1).map(|object| &object.metadata);
            let mut pods: Vec<_> = evidence.pods.iter().filter(|pod| !is_settled(pod)).collect();
            pods.sort_by_key(|pod| is_ready(pod));
            let pods = pods.into_iter().take(MAX_EXAMINED).map(|pod| &pod.metadata);
            let claims = evidence.claims.iter().filter(|claim| claim.status.phase != "Bound");
            let claims = claims.take(MAX_EXAMINED).map(|claim| &claim.metadata);
            let objects = [&evidence.object].into_iter().chain(controlled).chain(pods).chain(claims);
            let uids = objects.map(|object| object.uid.as_str()).filter(|uid| !uid.is_empty());
            let mut uids: Vec<_> = uids.map(ToOwned::to_owned).collect();
            uids.sort_unstable();
            uids.dedup();
            uids.into_iter().map(Selection::AboutUid).collect()
        };
        let reads = selections
            .iter()
            .map(|selection| self.source.related_objects(self.permit, Kind::Event, selection));
        for related in try_join_all(reads).await? {
            let events = record(evidence, Kind::Event, related, event);
            evidence.events.extend(events);
        }
        Ok(())
    }
}

/// Records whether a kind was read, and projects its objects.
fn record<T>(
    evidence: &mut Evidence,
    kind: Kind,
    related: Related,
    project: fn(RelatedObject) -> Option<T>,
) -> Vec<T> {
    match related {
        Related::Read(objects) => {
            evidence.record(kind.info().plural, true);
            objects.into_iter().filter_map(project).collect()
        }
        Related::Unreadable => {
            evidence.record(kind.info().plural, false);
            Vec::new()
        }
    }
}

/// Declares functions that take the object of one kind.
macro_rules! projections {
    ($($name:ident: $variant:ident -> $type:ty;)*) => {$(
        fn $name(object: RelatedObject) -> Option<$type> {
            match object {
                RelatedObject::$variant(object) => Some(object),
                _ => None,
            }
        }
    )*};
}

projections! {
    workload: Workload -> WorkloadObject;
    pod: Pod -> PodObject;
    claim: Claim -> ClaimObject;
    node: Node -> NodeObject;
    service: Service -> ServiceObject;
    slice: Slice -> SliceObject;
    autoscaler: Autoscaler -> AutoscalerObject;
    budget: Budget -> BudgetObject;
    event: Event -> EventObject;
}

/// Valid names without repetitions.
fn names<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<ObjectName> {
    let mut names: Vec<_> = texts.filter_map(|text| ObjectName::new(text).ok()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn claim_names(pod: &PodObject) -> impl Iterator<Item = &str> {
    let claims = pod.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.map(|claim| claim.claim_name.as_str())
}

fn is_covered(permit: &Permit, kind: Kind) -> bool {
    permit.covers(kind).is_ok()
}

fn is_ready(pod: &PodObject) -> bool {
    Condition::find(&pod.status.conditions, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Whether a pod has ended well, or is ready and was never restarted.
fn is_settled(pod: &PodObject) -> bool {
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    let is_deleted = pod.metadata.deletion_timestamp.is_some();
    let never_restarted = statuses.map(|status| status.restart_count).sum::<i64>() == 0;
    pod.status.phase == "Succeeded" || (is_ready(pod) && never_restarted && !is_deleted)
}

/// Whether a pod is not scheduled because nodes lack CPU or memory, in a cluster whose nodes are few enough to be read.
fn lacks_capacity(pod: &PodObject) -> bool {
    let condition = Condition::find(&pod.status.conditions, "PodScheduled");
    let parsed = condition.and_then(|condition| parse::unschedulable(&condition.message));
    parsed.is_some_and(|parsed| {
        let is_capacity = matches!(parsed.variant(), Some(Variant::Cpu | Variant::Memory));
        is_capacity && parsed.nodes <= MAX_NODES
    })
}
