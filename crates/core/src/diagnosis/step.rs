//! Next steps: what an operator does about a finding, by rule and variant.

use std::collections::BTreeMap;

use super::{Rule, Variant};

/// Declares [`Action`] with its keys in the message catalogs.
macro_rules! actions {
    ($($variant:ident = $text:literal,)*) => {
        /// Action of a step. Its string form is the key of its text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the texts in the message catalogs describe the actions")]
        pub enum Action { $($variant,)* }

        impl Action {
            /// All actions.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The key of the text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

actions! {
    CheckImage = "check_image",
    AddPullSecret = "add_pull_secret",
    CheckRegistry = "check_registry",
    WaitForRegistry = "wait_for_registry",
    CreateSecret = "create_secret",
    CreateConfigMap = "create_configmap",
    AddKey = "add_key",
    RaiseMemory = "raise_memory",
    CheckProbe = "check_probe",
    FixCommand = "fix_command",
    ReadPreviousLog = "read_previous_log",
    ReadLog = "read_log",
    UndoRollout = "undo_rollout",
    FreeCapacity = "free_capacity",
    LowerRequests = "lower_requests",
    FixNodeSelector = "fix_node_selector",
    AddToleration = "add_toleration",
    FixAffinity = "fix_affinity",
    CheckVolume = "check_volume",
    ChooseStorageClass = "choose_storage_class",
    ProvideVolume = "provide_volume",
    UseClaim = "use_claim",
    DetachVolume = "detach_volume",
    RaiseQuota = "raise_quota",
    MeetLimitRange = "meet_limit_range",
    MeetPodSecurity = "meet_pod_security",
    CheckWebhook = "check_webhook",
    RerunJob = "rerun_job",
    RaiseDeadline = "raise_deadline",
    CheckSchedule = "check_schedule",
    CheckNode = "check_node",
    FreeNode = "free_node",
    CheckFinalizers = "check_finalizers",
    DiagnosePods = "diagnose_pods",
    FixSelector = "fix_selector",
    FixPort = "fix_port",
    CreateBackend = "create_backend",
    CheckMetrics = "check_metrics",
    RaiseMaximum = "raise_maximum",
    RelaxBudget = "relax_budget",
    ReadEvents = "read_events",
}

/// A call of Pilothouse's API that a step suggests. The cluster is added by the HTTP layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuggestedCall {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// Query parameters, or fields of the body, that are known. The caller adds the others.
    pub params: BTreeMap<&'static str, String>,
}

/// A step: what to do about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// The call that does it, if one does.
    pub call: Option<SuggestedCall>,
}

/// The actions for a finding, in the order in which they are tried.
pub(super) const fn actions(rule: Rule, variant: Option<Variant>) -> &'static [Action] {
    use Action as A;
    match (rule, variant) {
        (Rule::ImagePull, Some(Variant::Auth)) => &[A::AddPullSecret, A::CheckImage, A::UndoRollout],
        (Rule::ImagePull, Some(Variant::Unreachable)) => &[A::CheckRegistry, A::CheckImage, A::UndoRollout],
        (Rule::ImagePull, Some(Variant::Rate)) => &[A::WaitForRegistry, A::AddPullSecret],
        (Rule::ImagePull, _) => &[A::CheckImage, A::UndoRollout],
        (Rule::MissingSecret, _) => &[A::CreateSecret, A::UndoRollout],
        (Rule::MissingConfigMap, _) => &[A::CreateConfigMap, A::UndoRollout],
        (Rule::MissingKey, _) => &[A::AddKey, A::UndoRollout],
        (Rule::Oom, _) => &[A::RaiseMemory, A::ReadPreviousLog, A::UndoRollout],
        (Rule::Liveness | Rule::Startup, _) => &[A::CheckProbe, A::ReadPreviousLog, A::UndoRollout],
        (Rule::NotReady, _) => &[A::CheckProbe, A::ReadLog, A::UndoRollout],
        (Rule::StartError, _) => &[A::FixCommand, A::UndoRollout],
        (Rule::Crash, _) => &[A::ReadPreviousLog, A::UndoRollout],
        (Rule::Init, Some(Variant::Oom)) => &[A::RaiseMemory, A::ReadPreviousLog, A::UndoRollout],
        (Rule::Init, Some(Variant::StartError)) => &[A::FixCommand, A::UndoRollout],
        (Rule::Init, _) => &[A::ReadPreviousLog, A::UndoRollout],
        (Rule::Unschedulable, Some(Variant::Selector)) => &[A::FixNodeSelector, A::UndoRollout],
        (Rule::Unschedulable, Some(Variant::Taint)) => &[A::AddToleration, A::FreeCapacity],
        (Rule::Unschedulable, Some(Variant::Affinity)) => &[A::FixAffinity, A::UndoRollout],
        (Rule::Unschedulable, Some(Variant::Volume)) => &[A::CheckVolume],
        (Rule::Unschedulable, _) => &[A::LowerRequests, A::FreeCapacity],
        (Rule::Pvc, Some(Variant::ClassMissing)) => &[A::ChooseStorageClass],
        (Rule::Pvc, Some(Variant::WaitsForConsumer)) => &[A::UseClaim],
        (Rule::Pvc, Some(Variant::Attach)) => &[A::DetachVolume, A::CheckNode],
        (Rule::Pvc, _) => &[A::ProvideVolume],
        (Rule::Quota, _) => &[A::RaiseQuota, A::LowerRequests],
        (Rule::LimitRange, _) => &[A::MeetLimitRange],
        (Rule::PodSecurity, _) => &[A::MeetPodSecurity],
        (Rule::Webhook, _) => &[A::CheckWebhook],
        (Rule::Job, Some(Variant::Deadline)) => &[A::RaiseDeadline, A::ReadLog, A::RerunJob],
        (Rule::Job, _) => &[A::ReadLog, A::RerunJob],
        (Rule::Cron, _) => &[A::CheckSchedule],
        (Rule::Node, Some(Variant::Pressure)) => &[A::FreeNode],
        (Rule::Node, _) => &[A::CheckNode],
        (Rule::StuckTerminating, Some(Variant::Finalizers)) => &[A::CheckFinalizers],
        (Rule::StuckTerminating, _) => &[A::CheckNode],
        (Rule::Service, Some(Variant::Selector)) => &[A::FixSelector],
        (Rule::Service, Some(Variant::PortName)) => &[A::FixPort],
        (Rule::Service, _) => &[A::DiagnosePods],
        (Rule::Ingress, _) => &[A::CreateBackend],
        (Rule::Hpa, Some(Variant::AtMax)) => &[A::RaiseMaximum],
        (Rule::Hpa, _) => &[A::CheckMetrics],
        (Rule::Pdb, _) => &[A::RelaxBudget],
        (Rule::Rollout, _) => &[A::ReadEvents, A::UndoRollout],
        (Rule::Cluster, _) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_belongs_to_a_rule_and_every_rule_of_a_diagnosis_has_one() {
        let all = || {
            Rule::ALL.iter().flat_map(|&rule| {
                let variants = rule.variants().iter().copied().map(Some).chain([None]);
                variants.map(move |variant| (rule, actions(rule, variant)))
            })
        };
        for action in Action::ALL {
            assert!(all().any(|(_, actions)| actions.contains(action)), "{action:?}");
        }
        for (rule, actions) in all() {
            assert_eq!(actions.is_empty(), rule == Rule::Cluster, "{rule}");
        }
    }
}
