//! Rules about a container.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Context, MANY_RESTARTS, REMEMBERED, SETTLED};
use crate::{
    diagnosis::{
        Finding, LogSource, Quote, Rule, Variant,
        objects::{ContainerSpec, ContainerStatus, EventObject, PodObject, Terminated},
        parse::{self, Probe, failed_probe},
    },
    rows::Level,
};

/// Time that a container has to become ready before it is a finding, where no failure of its probe is known.
pub(super) const START_TIME: SignedDuration = SignedDuration::from_secs(60);

/// Reasons of containers that wait for an image.
const IMAGE_REASONS: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];
/// Reasons of containers whose process could not be started.
const START_REASONS: [&str; 7] = [
    "RunContainerError",
    "CreateContainerError",
    "CreateContainerConfigError",
    "StartError",
    "ContainerCannotRun",
    "PostStartHookError",
    "PreCreateHookError",
];

/// A container of a pod with its status.
pub(super) struct Container<'a> {
    pod: &'a PodObject,
    spec: Option<&'a ContainerSpec>,
    status: &'a ContainerStatus,
    /// Whether it is an init container that must end before the containers start. A sidecar is none.
    is_init: bool,
}

/// A failed run of a container.
struct Failure<'a> {
    run: &'a Terminated,
    /// Time from which on the container runs again. `None`: it still fails.
    until: Option<Timestamp>,
}

impl<'a> Container<'a> {
    /// The containers of a pod that have a status, init containers first.
    pub(super) fn all(pod: &'a PodObject) -> Vec<Self> {
        let init = pod.status.init_container_statuses.iter().map(|status| {
            let spec = pod.spec.init_containers.iter().find(|spec| spec.name == status.name);
            let is_sidecar = spec.is_some_and(|spec| spec.restart_policy.as_deref() == Some("Always"));
            Self { pod, spec, status, is_init: !is_sidecar }
        });
        let regular = pod.status.container_statuses.iter().map(|status| {
            let spec = pod.spec.containers.iter().find(|spec| spec.name == status.name);
            Self { pod, spec, status, is_init: false }
        });
        init.chain(regular).collect()
    }

    pub(super) fn name(&self) -> &'a str {
        &self.status.name
    }

    /// Time since which it runs.
    pub(super) fn started_at(&self) -> Option<Timestamp> {
        self.status.state.running.as_ref().and_then(|running| running.started_at)
    }

    pub(super) fn is_running_and_not_ready(&self) -> bool {
        !self.is_init && self.status.state.running.is_some() && !self.status.ready
    }

    /// Reason and message of a waiting container.
    fn waiting(&self) -> Option<(&'a str, &'a str)> {
        self.status.state.waiting.as_ref().map(|waiting| (waiting.reason.as_str(), waiting.message.as_str()))
    }

    fn is_crash_looping(&self) -> bool {
        self.waiting().is_some_and(|(reason, _)| reason == "CrashLoopBackOff")
    }

    /// The last run that failed.
    fn failure(&self, context: &Context<'_>) -> Option<Failure<'a>> {
        let ContainerStatus { state, last_state, ready, restart_count, .. } = self.status;
        let has_failed =
            |run: &Terminated| run.exit_code != 0 || run.signal != 0 || run.reason == "OOMKilled";
        if let Some(run) = &state.terminated {
            return has_failed(run).then_some(Failure { run, until: None });
        }
        let run = last_state.terminated.as_ref()?;
        if !has_failed(run) && !self.is_crash_looping() {
            return None;
        }
        let Some(running) = &state.running else { return Some(Failure { run, until: None }) };
        let is_recent = context.is_within(run.finished_at, REMEMBERED);
        let keeps_failing = *restart_count >= MANY_RESTARTS && context.is_within(running.started_at, SETTLED);
        let is_starting = !ready && context.is_within(running.started_at, SETTLED);
        if keeps_failing || is_starting {
            return Some(Failure { run, until: None });
        }
        // a container that became unready long after a failure is not unready because of it
        (is_recent && *ready).then_some(Failure { run, until: running.started_at.or(run.finished_at) })
    }

    fn finding(&self, rule: Rule) -> Finding {
        let finding = Finding::new(rule, Level::Bad, self.pod.metadata.reference("Pod"));
        finding.fact("container", self.name())
    }

    /// A finding about a failed run. Of an init container, it is the rule `init` with the variant `init`.
    fn of_failure(&self, rule: Rule, init: Variant, failure: &Failure<'_>) -> Finding {
        let Failure { run, until } = failure;
        let finding = if self.is_init { self.finding(Rule::Init).variant(init) } else { self.finding(rule) };
        let finding = finding.since(run.finished_at).until(*until).fact("exit_code", run.exit_code);
        let reason = if run.reason.is_empty() { "Terminated" } else { &run.reason };
        let summary = match run.signal {
            0 => format!("{reason}, exit code {}", run.exit_code),
            signal => format!("{reason}, exit code {}, signal {signal}", run.exit_code),
        };
        let restarts = match self.status.restart_count {
            0 => String::new(),
            restarts => format!(", {restarts} restarts"),
        };
        let quotes = [format!("{summary}{restarts}"), run.message.clone()];
        finding.quotes(quotes.map(|text| Quote::new(self.source(), run.finished_at, &text)))
    }

    fn source(&self) -> String {
        format!("pod/{} container {}", self.pod.metadata.name, self.name())
    }

    fn event_quote(&self, event: &EventObject) -> Quote {
        Quote::new(format!("event pod/{}", self.pod.metadata.name), event.last_seen(), &event.message)
    }

    /// Whether an event is about this container. An event that names none is about all.
    fn is_of(&self, event: &EventObject) -> bool {
        event.container().is_none_or(|name| name == self.name())
    }
}

impl<'a> Context<'a> {
    pub(super) fn image_pull(&self, container: &Container<'a>) -> Option<Finding> {
        let (reason, message) = container.waiting().filter(|(reason, _)| IMAGE_REASONS.contains(reason))?;
        // up to Kubernetes 1.30, `Back-off pulling image` has no cause: the event has it
        let has_cause = |text: &str| parse::image_pull(reason, text).is_some();
        let event = self.newest_event(&container.pod.metadata, |event| {
            event.reason == "Failed" && container.is_of(event) && has_cause(&event.message)
        });
        let of_event = || event.and_then(|event| parse::image_pull(reason, &event.message));
        let variant = parse::image_pull(reason, message).or_else(of_event);
        let image = container.spec.map(|spec| spec.image.as_str()).unwrap_or_default();
        let secrets: Vec<_> =
            container.pod.spec.image_pull_secrets.iter().map(|secret| secret.name.as_str()).collect();
        let finding = container.finding(Rule::ImagePull).variant(variant);
        let finding = finding.since(container.pod.metadata.creation_timestamp).fact("image", image);
        let finding = finding.fact("pull_secrets", secrets.join(", "));
        let waiting = Quote::new(container.source(), None, message);
        let events = event.filter(|_| !has_cause(message)).map(|event| container.event_quote(event));
        Some(finding.quotes([waiting]).quotes(events))
    }

    /// A Secret, ConfigMap or key of the environment that does not exist.
    pub(super) fn missing(&self, container: &Container<'a>) -> Option<Finding> {
        let (_, message) =
            container.waiting().filter(|(reason, _)| *reason == "CreateContainerConfigError")?;
        let finding = self.of_missing(container.pod, parse::missing(message)?);
        let finding = finding.fact("container", container.name());
        let finding = finding.since(container.pod.metadata.creation_timestamp);
        Some(finding.quotes([Quote::new(container.source(), None, message)]))
    }

    /// The kernel killed the container because of its memory, also while it waits in `CrashLoopBackOff`. Exit code 137
    /// alone is not enough: every kill has it.
    pub(super) fn oom(&self, container: &Container<'a>) -> Option<Finding> {
        let failure = container.failure(self).filter(|failure| failure.run.reason == "OOMKilled")?;
        let limit = container.spec.and_then(|spec| spec.resources.limits.get("memory"));
        let limit = limit.and_then(Value::as_str).unwrap_or_default();
        let finding = container.of_failure(Rule::Oom, Variant::Oom, &failure).fact("limit", limit);
        let text = if limit.is_empty() { String::new() } else { format!("resources.limits.memory: {limit}") };
        Some(finding.quotes([Quote::new(container.source(), None, &text)]))
    }

    pub(super) fn liveness(&self, container: &Container<'a>) -> Option<Finding> {
        self.killed_by_probe(container, Probe::Liveness, Rule::Liveness)
    }

    pub(super) fn startup(&self, container: &Container<'a>) -> Option<Finding> {
        self.killed_by_probe(container, Probe::Startup, Rule::Startup)
    }

    /// The kubelet restarts the container because a probe fails: a run ended, and an event names the probe.
    fn killed_by_probe(&self, container: &Container<'a>, probe: Probe, rule: Rule) -> Option<Finding> {
        let is_failure = |event: &EventObject| {
            failed_probe(&event.reason, &event.message) == Some(probe) && container.is_of(event)
        };
        let event = self.newest_event(&container.pod.metadata, is_failure)?;
        // a process that ends in time after a TERM may exit with 0
        let run =
            container.status.last_state.terminated.as_ref().or(container.status.state.terminated.as_ref())?;
        let is_over = container.status.ready && !self.is_within(event.last_seen(), SETTLED);
        if is_over && !self.is_within(run.finished_at, REMEMBERED) {
            return None;
        }
        let until = container.started_at().filter(|_| is_over);
        let finding = container.of_failure(rule, Variant::Crash, &Failure { run, until });
        Some(finding.quotes([container.event_quote(event)]))
    }

    /// The command of the container cannot be started.
    pub(super) fn start_error(&self, container: &Container<'a>) -> Option<Finding> {
        if let Some((_, message)) = container.waiting().filter(|(reason, _)| START_REASONS.contains(reason)) {
            let finding = if container.is_init {
                container.finding(Rule::Init).variant(Variant::StartError)
            } else {
                container.finding(Rule::StartError)
            };
            let finding = finding.since(container.pod.metadata.creation_timestamp);
            return Some(finding.quotes([Quote::new(container.source(), None, message)]));
        }
        let failure = container.failure(self)?;
        let is_start = START_REASONS.contains(&failure.run.reason.as_str());
        is_start.then(|| container.of_failure(Rule::StartError, Variant::StartError, &failure))
    }

    /// The process of the container ends again and again.
    pub(super) fn crash(&self, container: &Container<'a>) -> Option<Finding> {
        let failure = container.failure(self)?;
        let mut finding = container.of_failure(Rule::Crash, Variant::Crash, &failure);
        if failure.run.message.is_empty() {
            finding.log = Some(LogSource {
                pod: container.pod.metadata.name.clone(),
                container: container.name().to_owned(),
                // the log of a container that has not been restarted is its current one
                previous: container.status.state.terminated.is_none(),
            });
        }
        Some(finding)
    }
}
