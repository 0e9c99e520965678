//! Diagnosis of an object: why it does not work, by rules over its status, its events and the objects that belong to it
//! (contract-next.md, section 10; day2.md, section 9).
//!
//! [`collect()`] reads the [`Evidence`] through the port [`DiagnosisSource`]. [`examine`] is pure: it takes the evidence and
//! returns [`Finding`]s. The use case [`Diagnoses`] adds the last lines of logs, which take a right of their own.

use std::sync::Arc;

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    clock::Clock,
    error::{Cause, Result},
    gate::Gate,
    ids::ClusterId,
    kind::Kind,
    mask::sees_masked_values,
    name::{ContainerName, Namespace, ObjectName},
    pod::{LogOptions, PodApi},
    rights::{RightResource, RightVerb},
    usage::{KnownUsage, Subject, UsageApi},
};

mod collect;
mod evidence;
mod finding;
pub mod objects;
pub mod parse;
mod quote;
mod rule;
mod rules;
mod source;
mod step;

use finding::LogSource;

pub use collect::collect;
pub use evidence::{DiagnosedKind, DiagnosedObject, Evidence};
pub use finding::{Facts, Finding, ObjectRef};
pub use quote::{MAX_QUOTE_CHARS, Quote, clean};
pub use rule::{Rule, Variant};
pub use rules::examine;
#[cfg(any(test, feature = "testing"))]
pub use source::MockDiagnosisSource;
pub use source::{DiagnosisSource, Related, RelatedObject, Selection};
pub use step::{Action, Step, SuggestedCall};

/// The source of log lines, as named in [`Diagnosis::checked`].
const LOGS: &str = "logs";
/// Number of lines of a log in the evidence.
const LOG_LINES: u32 = 5;
/// Maximum number of logs that are read for one diagnosis.
const MAX_LOGS: usize = 3;
/// Number of characters from which a literal value of an environment variable is masked in quotes. Shorter ones are
/// ordinary words and numbers.
const MIN_MASKED_CHARS: usize = 8;

/// What was found about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The findings: those that hold before those that are over, the worst first.
    pub findings: Vec<Finding>,
    /// What was read: plural resource names, and `logs`.
    pub checked: Vec<&'static str>,
    /// What could not be read, so that a fault that only shows there is not found.
    pub unreadable: Vec<&'static str>,
}

/// Use case: diagnosis of an object.
#[derive(Clone)]
pub struct Diagnoses {
    gate: Gate,
    source: Arc<dyn DiagnosisSource>,
    pods: Arc<dyn PodApi>,
    usage: Option<Arc<dyn UsageApi>>,
    clock: Arc<dyn Clock>,
}

impl Diagnoses {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(
        gate: Gate,
        source: Arc<dyn DiagnosisSource>,
        pods: Arc<dyn PodApi>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { gate, source, pods, usage: None, clock }
    }

    /// Shows the usage of pods that lack memory.
    #[must_use]
    pub fn with_usage(self, usage: Arc<dyn UsageApi>) -> Self {
        Self { usage: Some(usage), ..self }
    }

    /// Diagnoses an object. Related objects are read by the caller's right to list their kind, and the last lines of logs
    /// by the right to read logs: what the caller may not read is named in [`Diagnosis::unreadable`]. Literal values of
    /// environment variables are masked in quotes as in details of the object.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `TooLarge`; and the errors of every call to a cluster.
    pub async fn diagnose(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        object: &DiagnosedObject,
    ) -> Result<Diagnosis> {
        let permit = self.gate.allow(caller, access(cluster, object)).await?;
        let collected = collect(&*self.source, &permit, &object.name).await?;
        let mut evidence = collected.ok_or_else(|| permit.object_not_found())?;
        let mut findings = examine(&evidence, self.clock.now());
        if let Some(namespace) = &object.namespace {
            self.add_usage(&permit, namespace, &mut findings).await;
            self.add_logs(caller, cluster, namespace, &mut findings, &mut evidence).await;
            // the values are those of pods, also where a Service or a claim is diagnosed
            if !sees_masked_values(caller, Kind::Pod, cluster, namespace) {
                let values = evidence.environment_values(MIN_MASKED_CHARS);
                let quotes = findings.iter_mut().flat_map(|finding| &mut finding.evidence);
                quotes.for_each(|quote| quote.mask(&values));
            }
        }
        Ok(Diagnosis { findings, checked: evidence.checked, unreadable: evidence.unreadable })
    }

    /// Adds the memory that pods used last to the findings that they lack memory. The pods were read under the permit.
    async fn add_usage(&self, permit: &Permit, namespace: &Namespace, findings: &mut [Finding]) {
        let lacks_memory = |finding: &&mut Finding| {
            finding.rule == Rule::Oom || (finding.rule == Rule::Init && finding.variant == Some(Variant::Oom))
        };
        let findings: Vec<_> = findings.iter_mut().filter(lacks_memory).collect();
        let Some(api) = self.usage.as_ref().filter(|_| !findings.is_empty()) else { return };
        let KnownUsage { table, .. } = api.known(permit).await;
        for finding in findings {
            let pod = finding.object.name.clone();
            let Some(usage) = table.get(Subject::Pod { namespace: namespace.as_str(), name: &pod }) else {
                continue;
            };
            let text = format!("memory in use: {} MiB", usage.memory_bytes / (1 << 20));
            finding.evidence.push(Quote::new(format!("pod/{pod} usage"), Some(usage.at), &text));
            finding.evidence.truncate(Finding::MAX_EVIDENCE);
        }
    }

    /// Adds the last lines of logs to the findings that have no better text. A log that cannot be read is no error.
    async fn add_logs(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        findings: &mut [Finding],
        evidence: &mut Evidence,
    ) {
        let may_read = caller.has_right(RightVerb::Logs, RightResource::Workloads, cluster, namespace);
        let with_log = findings.iter_mut().filter(|finding| finding.log.is_some()).take(MAX_LOGS);
        for finding in with_log {
            let Some(log) = finding.log.take() else { continue };
            let lines = if may_read { self.log_lines(caller, cluster, namespace, &log).await } else { None };
            evidence.record(LOGS, lines.is_some());
            let source = format!("log {}/{}", log.pod, log.container);
            let quotes = lines.into_iter().flatten().map(|line| Quote::new(source.clone(), None, &line));
            finding.evidence.extend(quotes.filter(|quote| !quote.text.is_empty()));
            finding.evidence.truncate(Finding::MAX_EVIDENCE);
        }
    }

    /// The last lines of a log, none if the container has no such log; `None` if it cannot be read.
    async fn log_lines(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        log: &LogSource,
    ) -> Option<Vec<String>> {
        let (pod, container) = (ObjectName::new(&log.pod).ok()?, ContainerName::new(&log.container).ok()?);
        let access = AccessRequest::to_object(Verb::Logs, Kind::Pod, cluster, namespace, pod.as_str());
        let permit = self.gate.allow(caller, access).await.ok()?;
        let options = LogOptions {
            container: Some(container),
            tail_lines: LOG_LINES,
            previous: log.previous,
            since_seconds: None,
            timestamps: false,
        };
        match self.pods.logs(&permit, &pod, &options).await {
            Ok(read) => Some(read.logs.lines().map(ToOwned::to_owned).collect()),
            Err(error) => {
                let has_none = matches!(error.cause, Cause::NotFoundInCluster | Cause::ContainerNotStarted);
                has_none.then(Vec::new)
            }
        }
    }
}

fn access(cluster: ClusterId, object: &DiagnosedObject) -> AccessRequest {
    let DiagnosedObject { kind, namespace, name } = object;
    let access = AccessRequest::to(Verb::Get, Resource::Kind(kind.kind())).in_cluster(cluster);
    let access = access.named(name.as_str());
    match namespace {
        Some(namespace) => access.in_namespace(namespace),
        None => access,
    }
}
