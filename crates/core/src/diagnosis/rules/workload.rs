//! Rules about workloads: refused pods, failed jobs, missed schedules, stuck rollouts.

use jiff::Timestamp;

use super::{Context, REMEMBERED};
use crate::{
    diagnosis::{
        Finding, ObjectRef, Quote, Rule, Variant,
        objects::{Condition, ObjectMetadata, WorkloadObject},
        parse::{self, Refusal},
    },
    kind::Kind,
    rows::Level,
    schedule,
};

impl<'a> Context<'a> {
    /// The findings of the diagnosed workload.
    pub(super) fn of_workload(&self) -> Vec<Finding> {
        let Some(workload) = &self.evidence.workload else { return Vec::new() };
        let mut findings: Vec<_> =
            self.stuck_deletion(self.kind().info().kind, &workload.metadata, None).into_iter().collect();
        findings.extend(self.refused(workload));
        match self.kind() {
            Kind::Job => findings.extend(self.of_job(workload)),
            Kind::CronJob => {
                // jobs that are refused are the cause of a missed start
                let is_refused = !findings.is_empty();
                let of_cron_job = self.of_cron_job(workload).into_iter();
                findings.extend(of_cron_job.filter(|finding| !is_refused || finding.rule != Rule::Cron));
            }
            _ => findings.extend(self.of_pods()),
        }
        let explains = findings.iter().any(|finding| finding.until.is_none());
        findings.extend(self.stuck_rollout(workload).filter(|_| !explains));
        findings.extend(self.of_autoscalers());
        findings.extend(self.of_budgets());
        findings
    }

    fn kind(&self) -> Kind {
        self.evidence.kind.kind()
    }

    /// The API server refuses new pods of the workload.
    fn refused(&self, workload: &'a WorkloadObject) -> Option<Finding> {
        let controllers = || [workload].into_iter().chain(&self.evidence.controlled);
        let of_condition = |controller: &'a WorkloadObject| {
            let condition = Condition::find(&controller.status.conditions, "ReplicaFailure")?;
            let is_refused = condition.status == "True" && condition.reason == "FailedCreate";
            is_refused.then(|| (&controller.metadata, &*condition.message, condition.last_transition_time))
        };
        let of_event = |controller: &'a WorkloadObject| {
            let event = self.newest_event(&controller.metadata, |event| event.reason == "FailedCreate")?;
            // the back-off of controllers is at most 17 minutes
            let is_new = self.is_within(event.last_seen(), REMEMBERED);
            is_new.then(|| (&controller.metadata, &*event.message, event.last_seen()))
        };
        let of_conditions = controllers().find_map(of_condition);
        let lacks_pods = self.lacks_pods(workload);
        // a cron job whose newest job has ended does not lack pods, and creates no more jobs
        let is_later = |at: Option<Timestamp>| {
            let newest = self.evidence.controlled.first().and_then(|job| job.metadata.creation_timestamp);
            at.zip(newest).is_some_and(|(at, newest)| at > newest)
        };
        let creates_none = |controller: &ObjectMetadata, at| {
            self.kind() == Kind::CronJob && controller.uid == workload.metadata.uid && is_later(at)
        };
        let of_events = || {
            let found = controllers().find_map(of_event);
            found.filter(|&(controller, _, at)| lacks_pods || creates_none(controller, at))
        };
        let (controller, message, at) = of_conditions.or_else(of_events)?;
        Some(self.of_refusal(controller, message, at))
    }

    fn of_refusal(&self, controller: &ObjectMetadata, message: &str, at: Option<Timestamp>) -> Finding {
        let (rule, by) = match parse::refusal(message) {
            Some(Refusal { rule, by }) => (rule, by),
            None => (Rule::Rollout, String::new()),
        };
        let finding = Finding::new(rule, Level::Bad, self.evidence.reference()).since(at);
        let kind = match self.kind() {
            _ if controller.uid == self.evidence.object.uid => self.evidence.kind.as_str(),
            Kind::CronJob => "job",
            _ => "replicaset",
        };
        let source = format!("{kind}/{}", controller.name);
        finding.fact("by", by).quotes([Quote::new(source, at, message)])
    }

    /// Whether the workload has fewer pods than wanted.
    fn lacks_pods(&self, workload: &WorkloadObject) -> bool {
        let (spec, status) = (&workload.spec, &workload.status);
        match self.kind() {
            Kind::DaemonSet => status.current_number_scheduled < status.desired_number_scheduled,
            Kind::Job => self.evidence.pods.is_empty() && !spec.suspend && !has_ended(workload),
            Kind::CronJob => {
                let is_over = self.evidence.controlled.first().is_some_and(has_ended);
                self.evidence.pods.is_empty() && !spec.suspend && !is_over
            }
            _ => status.replicas < spec.replicas.unwrap_or(1),
        }
    }

    /// A job that failed, otherwise what its pods lack. The pods of a failed job are its evidence: they failed once and
    /// are not started again.
    fn of_job(&self, job: &'a WorkloadObject) -> Vec<Finding> {
        if let Some(finding) = self.failed_job(job) {
            return vec![finding];
        }
        if job.spec.suspend || has_ended(job) { Vec::new() } else { self.of_pods() }
    }

    fn failed_job(&self, job: &'a WorkloadObject) -> Option<Finding> {
        let failed = |kind| {
            Condition::find(&job.status.conditions, kind).filter(|condition| condition.status == "True")
        };
        let condition = failed("Failed").or_else(|| failed("FailureTarget"))?;
        let variant = match condition.reason.as_str() {
            "BackoffLimitExceeded" => Some(Variant::BackoffLimit),
            "DeadlineExceeded" => Some(Variant::Deadline),
            _ => None,
        };
        let object = ObjectRef::new("Job", job.metadata.namespace.as_deref(), &job.metadata.name);
        let at = condition.last_transition_time;
        let quote =
            Quote::new(format!("job/{} {}", job.metadata.name, condition.kind), at, &condition.message);
        let finding = Finding::new(Rule::Job, Level::Bad, object).variant(variant).since(at).quotes([quote]);
        let is_own = |uid: Option<&str>| uid == Some(job.metadata.uid.as_str());
        let pods = self.evidence.pods.iter().filter(|pod| is_own(pod.metadata.controller_uid()));
        let of_pod = pods.filter_map(|pod| self.of_pod(pod)).max_by_key(|finding| finding.since);
        Some(match of_pod {
            Some(of_pod) => {
                let pod = of_pod.object.name.clone();
                let log = of_pod.log.clone();
                let finding = finding.quotes(of_pod.evidence).fact("pod", pod);
                Finding { log, ..finding }
            }
            None => finding,
        })
    }

    /// The newest finished job of a cron job, if it failed, or its missed starts.
    fn of_cron_job(&self, cron_job: &'a WorkloadObject) -> Vec<Finding> {
        if cron_job.spec.suspend {
            return Vec::new();
        }
        let is_trouble =
            |reason: &str| ["MissSchedule", "TooManyMissedTimes", "UnparseableSchedule"].contains(&reason);
        let event = self.newest_event(&cron_job.metadata, |event| is_trouble(&event.reason));
        let event = event.filter(|event| self.is_within(event.last_seen(), REMEMBERED));
        let missed = event.map(|event| {
            let finding = Finding::new(Rule::Cron, Level::Warn, self.evidence.reference());
            let source = format!("event cronjob/{}", cron_job.metadata.name);
            let quote = Quote::new(source, event.last_seen(), &event.message);
            let is_missed = event.reason != "UnparseableSchedule";
            let finding = finding.variant(is_missed.then_some(Variant::Missed));
            finding.since(event.last_seen()).quotes([quote])
        });
        let missed = missed.or_else(|| self.overdue(cron_job));
        let newest = self.evidence.controlled.first();
        let of_job = newest.map(|job| self.of_job(job)).unwrap_or_default();
        missed.into_iter().chain(of_job).collect()
    }

    /// A start that is overdue, without an event about it: events are deleted after an hour.
    fn overdue(&self, cron_job: &WorkloadObject) -> Option<Finding> {
        let WorkloadObject { metadata, spec, status } = cron_job;
        let is_active = status.active.as_array().is_some_and(|jobs| !jobs.is_empty());
        if is_active && spec.concurrency_policy.as_deref() == Some("Forbid") {
            return None;
        }
        let expression = spec.schedule.as_deref()?;
        let last = status.last_schedule_time.or(metadata.creation_timestamp)?;
        let missed_from = schedule::missed_from(expression, spec.time_zone.as_deref(), last)?;
        if missed_from > self.now {
            return None;
        }
        let started = status.last_schedule_time.map_or_else(|| "never".to_owned(), |at| at.to_string());
        let text = format!("schedule {expression}, last start {started}");
        let quote = Quote::new(format!("cronjob/{} status", metadata.name), status.last_schedule_time, &text);
        let finding = Finding::new(Rule::Cron, Level::Warn, self.evidence.reference());
        Some(finding.variant(Variant::Missed).since(Some(missed_from)).quotes([quote]))
    }

    /// A deployment whose rollout passed its deadline.
    fn stuck_rollout(&self, workload: &WorkloadObject) -> Option<Finding> {
        let condition = Condition::find(&workload.status.conditions, "Progressing")?;
        let is_stuck = condition.status == "False" && condition.reason == "ProgressDeadlineExceeded";
        if !is_stuck || workload.spec.paused {
            return None;
        }
        let at = condition.last_transition_time;
        let finding = Finding::new(Rule::Rollout, Level::Bad, self.evidence.reference()).since(at);
        let source = format!("{}/{} Progressing", self.evidence.kind, workload.metadata.name);
        Some(finding.quotes([Quote::new(source, at, &condition.message)]))
    }
}

/// Whether a job is complete or failed.
fn has_ended(job: &WorkloadObject) -> bool {
    let is_end = |condition: &Condition| ["Complete", "Failed"].contains(&condition.kind.as_str());
    job.status.conditions.iter().any(|condition| is_end(condition) && condition.status == "True")
}
