//! Messages of the API server and the kubelet that the adapter matches, where the status, reason and causes of a
//! response do not distinguish two cases. These texts are not part of the Kubernetes API: the tests below list the
//! texts of each version.

/// User name of a client whose credential the API server did not accept, where anonymous requests are enabled.
pub(crate) const ANONYMOUS_USER: &str = "system:anonymous";

/// Whether the quota admission plugin refused an object (403, reason `Forbidden` as for missing permissions).
pub(crate) fn is_quota_exceeded(message: &str) -> bool {
    message.contains("exceeded quota")
}

/// Whether a new object has the name of one that is being deleted (409, reason `AlreadyExists` as for other objects).
pub(crate) fn is_being_deleted(message: &str) -> bool {
    message.starts_with("object is being deleted")
}

/// Whether a JSON patch was not applied, because one of its conditions does not hold or a path does not exist (422,
/// reason `Invalid` as for an object that validation rejects).
pub(crate) fn is_patch_not_applied(message: &str) -> bool {
    message == "the server rejected our request due to an error in our request"
}

/// The message without the copy of the whole patched object that the API server quotes if it cannot decode it.
pub(crate) fn without_patched_object(message: &str) -> &str {
    match message.split_once("patch: Invalid value: ") {
        Some((_, quoted)) => quoted.rsplit_once("strict decoding error: ").map_or("", |(_, fields)| fields),
        None => message,
    }
}

/// Whether the server has no such path (404, reason `NotFound` as for a missing object).
pub(crate) fn is_unknown_path(message: &str) -> bool {
    message == "the server could not find the requested resource"
}

/// Whether an eviction was refused because several PodDisruptionBudgets select the pod (500 without a reason).
pub(crate) fn has_several_budgets(message: &str) -> bool {
    message.contains("more than one PodDisruptionBudget")
}

/// Whether the anonymous user lacks the permission (403).
pub(crate) fn refuses_anonymous_user(message: &str) -> bool {
    message.contains(ANONYMOUS_USER)
}

/// Whether a container has no previous log (400, as every failure to read a log).
pub(crate) fn has_no_previous_log(message: &str) -> bool {
    message.contains("previous terminated container")
}

/// Whether a container has no log because it has not started (400, as every failure to read a log).
pub(crate) fn is_waiting_to_start(message: &str) -> bool {
    message.contains("waiting to start")
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;

    /// Minor versions of Kubernetes 1 whose texts are checked.
    const VERSIONS: RangeInclusive<u32> = 30..=37;

    type Matcher = fn(&str) -> bool;

    const CASES: [(&str, Matcher); 8] = [
        ("quota exceeded", is_quota_exceeded),
        ("being deleted", is_being_deleted),
        ("patch not applied", is_patch_not_applied),
        ("unknown path", is_unknown_path),
        ("several budgets", has_several_budgets),
        ("anonymous user", refuses_anonymous_user),
        ("no previous log", has_no_previous_log),
        ("waiting to start", is_waiting_to_start),
    ];

    /// Case (empty: none), minor versions, text. All texts are made from the format strings in the named Go files,
    /// which are the same in the release branches 1.30 to 1.36 of kubernetes/apiserver and in 1.37.2, and those of the
    /// kubelet in 1.30.1, 1.31.14, 1.32.13, 1.33.13, 1.34.9, 1.35.6, 1.36.3 (as vendored by OpenShift) and 1.37.2.
    /// "Seen" names the cluster test that fails when the control plane of the test bed sends a text that does not
    /// match.
    const TEXTS: &[(&str, RangeInclusive<u32>, &str)] = &[
        // apiserver/pkg/admission/plugin/resourcequota/controller.go; seen: tests/cluster/objects.rs
        (
            "quota exceeded",
            30..=37,
            "configmaps \"one\" is forbidden: exceeded quota: limits, requested: count/configmaps=1, \
             used: count/configmaps=1, limited: count/configmaps=1",
        ),
        // apiserver/pkg/registry/generic/registry/store.go; from the format only
        ("being deleted", 30..=37, "object is being deleted: namespaces \"shop\" already exists"),
        // apimachinery/pkg/api/errors/errors.go; seen: tests/cluster/rollouts.rs
        ("patch not applied", 30..=37, "the server rejected our request due to an error in our request"),
        // apimachinery/pkg/api/errors/errors.go; from the format only
        ("unknown path", 30..=37, "the server could not find the requested resource"),
        // kubernetes/pkg/registry/core/pod/storage/eviction.go; seen: tests/cluster/small_changes.rs
        (
            "several budgets",
            30..=37,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ),
        // apiserver/pkg/endpoints/handlers/responsewriters/errors.go; from the format only
        (
            "anonymous user",
            30..=37,
            "selfsubjectreviews.authentication.k8s.io is forbidden: User \"system:anonymous\" cannot create \
             resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        // kubernetes/pkg/kubelet/kubelet_pods.go; seen: tests/cluster/workloads.rs, where the test bed has a node
        ("no previous log", 30..=37, "previous terminated container \"web\" in pod \"web-1\" not found"),
        // kubernetes/pkg/kubelet/kubelet_pods.go; from the formats only
        (
            "waiting to start",
            30..=37,
            "container \"web\" in pod \"web-1\" is waiting to start: image can't be pulled",
        ),
        (
            "waiting to start",
            30..=37,
            "container \"web\" in pod \"web-1\" is waiting to start: trying and failing to pull image",
        ),
        (
            "waiting to start",
            30..=37,
            "container \"web\" in pod \"web-1\" is waiting to start: PodInitializing",
        ),
        ("waiting to start", 30..=37, "container \"web\" in pod \"web-1\" is waiting to start - no logs yet"),
        // texts with the same status and reason that match no case
        ("", 30..=37, "namespaces \"shop\" already exists"),
        (
            "",
            30..=37,
            "pods is forbidden: User \"reader\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
        ),
        ("", 30..=37, "container \"web\" in pod \"web-1\" is not available"),
        ("", 30..=37, "container \"web\" in pod \"web-1\" is terminated"),
    ];

    #[test]
    fn every_text_matches_its_case_only() {
        for (case, _, text) in TEXTS {
            let matched: Vec<_> =
                CASES.iter().filter(|(_, matches)| matches(text)).map(|(name, _)| *name).collect();
            let expected: Vec<_> = Some(*case).filter(|case| !case.is_empty()).into_iter().collect();
            assert_eq!(matched, expected, "{text}");
        }
    }

    /// Texts as `applyPatchToCurrentObject` in apiserver/pkg/endpoints/handlers/patch.go makes them.
    #[test]
    fn patched_object_is_not_passed_on() {
        let quoted = |end: &str| {
            format!(" \"\" is invalid: patch: Invalid value: \"{{canary strict decoding error: x}}\": {end}")
        };
        let strict = quoted("strict decoding error: unknown field \"spec.x\"");
        assert_eq!(without_patched_object(&strict), "unknown field \"spec.x\"");
        let unreadable =
            " \"\" is invalid: patch: Invalid value: \"{canary}\": json: cannot unmarshal string";
        assert_eq!(without_patched_object(unreadable), "");
        let other = "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1";
        assert_eq!(without_patched_object(other), other);
    }

    #[test]
    fn every_case_has_a_text_of_every_version() {
        for minor in VERSIONS {
            for (name, _) in CASES {
                let has_text =
                    TEXTS.iter().any(|(case, versions, _)| *case == name && versions.contains(&minor));
                assert!(has_text, "{name} in Kubernetes 1.{minor}");
            }
        }
    }
}
