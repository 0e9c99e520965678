//! A naive evaluator: nested loops over the raw grants, with texts in place of sets and masks. The compiled rights must
//! agree with it on every question.

use pilothouse_gate::rights::{
    Ask, ClusterLabels, Decision, Labels, RightResource, Rights, Verdict, decide, explain,
};
use pilothouse_types::namespaces::NamespaceScope;
use proptest::prelude::*;

use crate::world::{
    NAMES, NOW, QUESTIONS, RawClusters, RawGrant, at, cases, clusters, effective, raw_grants,
};

/// Resources whose rights take the reach `cluster`.
const CLUSTER_SCOPED: [&str; 6] = ["nodes", "volumes", "clusters", "users", "tokens", "keys"];

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => !name.starts_with("kube-"),
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

fn is_active(grant: &RawGrant) -> bool {
    !grant.revoked && grant.from <= NOW && grant.until.is_none_or(|until| NOW < until)
}

/// `cluster` is a registered cluster with its labels. `None` for another one, which may have been registered a moment
/// ago, and for what concerns all clusters.
fn contains_cluster(grant: &RawGrant, cluster: Option<(i64, &Labels)>) -> bool {
    match (&grant.clusters, cluster) {
        (RawClusters::All, _) => true,
        (_, None) => false,
        (RawClusters::Ids(ids), Some((id, _))) => ids.contains(&id),
        (RawClusters::Labels(terms), Some((_, labels))) => {
            terms.iter().all(|(key, values)| values.iter().any(|value| labels.get(key) == Some(value)))
        }
    }
}

/// The rights that the role of a grant gives with its reach: pairs of verb and resource.
fn pairs(grant: &RawGrant) -> Vec<(String, String)> {
    let (rules, reach_is_cluster) = (&grant.rules, grant.patterns.is_none());
    let more = if reach_is_cluster { rules.rules_with_reach_cluster() } else { &[] };
    let mut pairs = Vec::new();
    for rule in rules.rules().iter().chain(more) {
        for resource in rule.resources.iter().map(ToString::to_string) {
            if reach_is_cluster || !CLUSTER_SCOPED.contains(&&*resource) {
                pairs.extend(rule.verbs.iter().map(|verb| (verb.to_string(), resource.clone())));
            }
        }
    }
    pairs
}

/// A raw grant with the pairs of its role.
struct Known<'a> {
    raw: &'a RawGrant,
    pairs: Vec<(String, String)>,
}

impl Known<'_> {
    fn has_right(&self, verb: &str, resource: &str) -> bool {
        let implied = matches!((verb, resource), ("list", "namespaces") | ("list" | "get", "clusters"));
        let included = |own: &str| own == resource || (own == "custom" && resource.starts_with("custom:"));
        self.pairs.iter().any(|(own_verb, own)| own_verb == verb && included(own))
            || (implied && !self.pairs.is_empty())
    }

    /// Whether the grant, which has the right, has it in a namespace, or without one.
    fn reaches(&self, verb: &str, namespace: Option<&str>) -> bool {
        let terminal = matches!(verb, "exec" | "forward");
        match (&self.raw.patterns, namespace) {
            (None, Some(name)) if terminal && name.starts_with("kube-") => {
                self.pairs.iter().any(|(_, resource)| resource == "users")
            }
            (None, _) => true,
            (Some(patterns), Some(name)) => patterns.iter().any(|pattern| matches(pattern, name)),
            (Some(_), None) => false,
        }
    }
}

/// The grants that give the right somewhere in the cluster of the question.
fn giving<'a>(grants: &'a [Known<'a>], ask: &Ask, labels: &ClusterLabels) -> Vec<&'a Known<'a>> {
    let cluster = ask.cluster.and_then(|id| labels.get(&id).map(|labels| (id.0, labels)));
    let (verb, resource) = (ask.verb.as_str(), ask.resource.to_string());
    let gives = |grant: &&Known<'_>| {
        is_active(grant.raw) && contains_cluster(grant.raw, cluster) && grant.has_right(verb, &resource)
    };
    grants.iter().filter(gives).collect()
}

fn check(
    grants: &[Known<'_>],
    rights: &Rights,
    ask: &Ask,
    labels: &ClusterLabels,
) -> Result<(), TestCaseError> {
    let giving = giving(grants, ask, labels);
    let verb = ask.verb.as_str();
    let allowed = |namespace: Option<&str>| giving.iter().any(|grant| grant.reaches(verb, namespace));
    let decision = decide(rights, ask);
    let explanation = explain(rights, ask);
    let explained = explanation.grants.iter().any(|(_, verdict)| *verdict == Verdict::Allows);
    prop_assert_eq!(&explanation.decision, &decision, "{:?}", ask);
    prop_assert_eq!(explained, decision.is_allowed(), "{:?}", ask);
    let scope = match &decision {
        Decision::Allow { scope, .. } => Some(scope),
        Decision::Deny { .. } => None,
    };
    let reads_cluster_row = ask.resource == RightResource::Clusters && matches!(verb, "list" | "get");
    match &ask.namespaces {
        asked if reads_cluster_row => {
            prop_assert_eq!(scope, (!giving.is_empty()).then_some(asked), "{:?}", ask);
        }
        NamespaceScope::Unscoped => {
            prop_assert_eq!(scope, allowed(None).then_some(&NamespaceScope::Unscoped), "{:?}", ask);
        }
        NamespaceScope::One(name) => {
            prop_assert_eq!(scope, allowed(Some(name.as_str())).then_some(&ask.namespaces), "{:?}", ask);
        }
        asked @ (NamespaceScope::All | NamespaceScope::Set(_)) => {
            let mut complete = true;
            for name in NAMES {
                let expected = asked.contains(Some(name)) && allowed(Some(name));
                let found = scope.is_some_and(|scope| scope.contains(Some(name)));
                prop_assert_eq!(found, expected, "{} in {:?}", name, ask);
                complete &= expected;
            }
            prop_assert_eq!(scope == Some(&NamespaceScope::All), complete, "{:?}", ask);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn compiled_rights_agree_with_nested_loops_over_the_grants(grants in raw_grants()) {
        let labels = clusters();
        let rights = Rights::compile(&effective(&grants), &labels, at(NOW));
        let known = |raw| Known { raw, pairs: pairs(raw) };
        let grants: Vec<_> = grants.iter().map(known).collect();
        for ask in &*QUESTIONS {
            check(&grants, &rights, ask, &labels)?;
        }
    }
}
