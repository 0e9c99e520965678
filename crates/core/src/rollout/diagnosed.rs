//! Progress of a rollout with the findings of the diagnosis.

use jiff::Timestamp;

use crate::{
    diagnosis::{Finding, Rule},
    ids::ClusterId,
    rows::Level,
    workload::{Progress, RolloutState},
};

/// Progress of a rollout, with what the diagnosis of the workload finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The cluster of the workload.
    pub cluster: ClusterId,
    /// Progress. Its state is `stuck` also if one of the reasons keeps pods from running.
    pub progress: Progress,
    /// The findings, also of a rollout that is complete.
    pub reasons: Vec<Finding>,
    /// Sources that the diagnosis could not read.
    pub unreadable: Vec<&'static str>,
}

impl Rollout {
    /// Kubernetes calls a rollout complete once its pods were available for a moment, also if they fail afterwards
    /// (day2.md, finding 18). It is stuck while a finding holds that keeps pods from running.
    pub(super) fn of(
        cluster: ClusterId,
        mut progress: Progress,
        reasons: Vec<Finding>,
        unreadable: Vec<&'static str>,
    ) -> Self {
        let since = |finding: &Finding| blocks(finding).then_some(finding.since);
        let blocking: Vec<Option<Timestamp>> = reasons.iter().filter_map(since).collect();
        let runs = matches!(progress.state, RolloutState::Complete | RolloutState::Progressing);
        if runs && !blocking.is_empty() {
            progress.state = RolloutState::Stuck;
            progress.since = blocking.into_iter().flatten().min();
        }
        Self { cluster, progress, reasons, unreadable }
    }
}

/// Whether a finding keeps pods of the workload from running. Faults of what is before the pods or limits them do not.
fn blocks(finding: &Finding) -> bool {
    let is_of_pods = !matches!(finding.rule, Rule::Service | Rule::Ingress | Rule::Hpa | Rule::Pdb);
    is_of_pods && finding.until.is_none() && finding.severity == Level::Bad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::ObjectRef,
        workload::{WaitingPods, WaitsFor},
    };

    const OLDER: &str = "2026-01-01T00:40:00Z";
    const NEWER: &str = "2026-01-01T00:50:00Z";

    fn progress(state: RolloutState) -> Progress {
        let since = Some("2026-01-01T00:00:00Z".parse().unwrap());
        let waiting = Some(WaitingPods { r#for: WaitsFor::Partition, pods: 1 });
        Progress { state, since, updated: 2, available: 3, wanted: 3, waiting }
    }

    fn finding(rule: Rule, severity: Level, since: &str, until: Option<&str>) -> Finding {
        let object = ObjectRef::new("Pod", Some("shop"), "web-1");
        let mut finding = Finding::new(rule, severity, object);
        finding.since = since.parse().ok();
        finding.until = until.map(|text| text.parse().unwrap());
        finding
    }

    fn state(state: RolloutState, reasons: Vec<Finding>) -> (RolloutState, Option<String>) {
        let Progress { state, since, .. } =
            Rollout::of(ClusterId(1), progress(state), reasons, vec![]).progress;
        (state, since.map(|at| at.to_string()))
    }

    #[test]
    fn rolled_out_workload_whose_pods_fail_is_stuck() {
        let failures = || {
            vec![
                finding(Rule::Crash, Level::Bad, NEWER, None),
                finding(Rule::Oom, Level::Bad, OLDER, None),
                finding(Rule::NotReady, Level::Warn, "2026-01-01T00:10:00Z", None),
            ]
        };
        for of in [RolloutState::Complete, RolloutState::Progressing] {
            assert_eq!(state(of, failures()), (RolloutState::Stuck, Some(OLDER.to_owned())));
        }
        for of in [RolloutState::Paused, RolloutState::Failed, RolloutState::Stuck] {
            assert_eq!(state(of, failures()), (of, Some("2026-01-01T00:00:00Z".to_owned())));
        }
    }

    #[test]
    fn findings_that_are_over_or_not_of_pods_do_not_make_a_rollout_stuck() {
        for harmless in [
            finding(Rule::Crash, Level::Bad, OLDER, Some(NEWER)),
            finding(Rule::NotReady, Level::Warn, OLDER, None),
            finding(Rule::Service, Level::Bad, OLDER, None),
            finding(Rule::Pdb, Level::Bad, OLDER, None),
        ] {
            let (found, _) = state(RolloutState::Complete, vec![harmless.clone()]);
            assert_eq!(found, RolloutState::Complete, "{harmless:?}");
        }
    }
}
