//! Why the API server refuses new pods.

use super::between;
use crate::diagnosis::Rule;

/// A refusal by admission control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule: quota, limit_range, pod_security or webhook.
    pub rule: Rule,
    /// What refuses: the name of the quota or webhook, the level of Pod Security. Empty for a LimitRange, which the
    /// message does not name.
    pub by: String,
}

/// Why new pods are refused, by the message of the condition `ReplicaFailure` or of an event `FailedCreate`. `None` if no
/// known admission plugin refuses them.
pub fn refusal(message: &str) -> Option<Refusal> {
    let of = |rule, by: &str| Some(Refusal { rule, by: by.trim().to_owned() });
    // what a webhook answers may contain any text, so webhooks are first
    if let Some(name) = between(message, "admission webhook \"", "\" denied the request") {
        return of(Rule::Webhook, name);
    }
    if let Some(name) = between(message, "failed calling webhook \"", "\"") {
        return of(Rule::Webhook, name);
    }
    if let Some(name) = between(message, "ValidatingAdmissionPolicy '", "'") {
        return of(Rule::Webhook, name);
    }
    // `exceeded quota: NAME, requested: …`, and `failed quota: NAME: must specify limits.cpu for: app`
    if let Some(name) =
        between(message, "exceeded quota: ", ",").or_else(|| between(message, "failed quota: ", ":"))
    {
        return of(Rule::Quota, name);
    }
    if let Some(level) = between(message, "violates PodSecurity \"", "\"") {
        return of(Rule::PodSecurity, level);
    }
    let of_limit_range = ["usage per Container is", "usage per Pod is", "max limit to request ratio per "];
    if of_limit_range.iter().any(|phrase| message.contains(phrase)) {
        return of(Rule::LimitRange, "");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_follows_from_the_message_of_the_api_server() {
        for (message, rule, by) in [
            (
                "pods \"web-5d\" is forbidden: exceeded quota: small, requested: cpu=500m, used: cpu=1, limited: cpu=1",
                Rule::Quota,
                "small",
            ),
            (
                "Error creating: pods \"web-5d\" is forbidden: failed quota: small: must specify limits.cpu for: app",
                Rule::Quota,
                "small",
            ),
            (
                "pods \"web-5d\" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi",
                Rule::LimitRange,
                "",
            ),
            (
                "pods \"web-5d\" is forbidden: cpu max limit to request ratio per Container is 1, but provided ratio is 2.000000",
                Rule::LimitRange,
                "",
            ),
            (
                "pods \"web-5d\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false",
                Rule::PodSecurity,
                "restricted:latest",
            ),
            (
                "admission webhook \"deny.example.com\" denied the request: exceeded quota: none, sorry",
                Rule::Webhook,
                "deny.example.com",
            ),
            (
                "Internal error occurred: failed calling webhook \"deny.example.com\": failed to call webhook: Post \
                 \"https://deny.shop.svc:443/\": dial tcp 10.0.0.9:443: connect: connection refused",
                Rule::Webhook,
                "deny.example.com",
            ),
            (
                "pods \"web-5d\" is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'all' denied request: no owner",
                Rule::Webhook,
                "owners",
            ),
        ] {
            assert_eq!(refusal(message), Some(Refusal { rule, by: by.to_owned() }), "{message}");
        }
        let other = "pods \"web-5d\" is forbidden: error looking up service account shop/web: serviceaccount \"web\" not found";
        assert_eq!(refusal(other), None);
    }
}
