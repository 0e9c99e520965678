//! Laws that hold for all grants.

use pilothouse_gate::rights::{
    Ask, ClusterLabels, Decision, EffectiveGrant, Given, GrantState, Labels, Rights, Verdict, decide,
    explain, includes,
};
use pilothouse_types::{ids::ClusterId, namespaces::NamespaceScope};
use proptest::{prelude::*, sample};

use crate::world::{NAMES, NOW, QUESTIONS, at, cases, clusters, effective, raw_grant, raw_grants};

/// Whether a scope contains all of another: nothing is lost.
fn contains_all(scope: &NamespaceScope, other: &NamespaceScope) -> bool {
    (scope.contains(None) || !other.contains(None))
        && NAMES.iter().all(|name| scope.contains(Some(name)) || !other.contains(Some(name)))
}

fn allowed_scope(rights: &Rights, ask: &Ask) -> Option<NamespaceScope> {
    match decide(rights, ask) {
        Decision::Allow { scope, .. } => Some(scope),
        Decision::Deny { .. } => None,
    }
}

/// The registered clusters and one more, whose labels match grants.
fn and_another(environment: &str) -> ClusterLabels {
    let labels = Labels::from([("environment".to_owned(), environment.to_owned())]);
    let mut all = clusters();
    all.insert(ClusterId(9), labels);
    all
}

/// What a grant gives.
fn content(grant: &EffectiveGrant) -> Given<'_> {
    Given { rules: &grant.rules, clusters: &grant.clusters, reach: &grant.reach, until: grant.grant.until }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases().div_ceil(4)))]

    #[test]
    fn more_grants_never_allow_less(grants in raw_grants(), other in raw_grant()) {
        let grants = effective(&grants);
        let more: Vec<_> = grants.iter().cloned().chain([other.effective(100)]).collect();
        let fewer = Rights::compile(&grants, &clusters(), at(NOW));
        let more = Rights::compile(&more, &clusters(), at(NOW));
        for ask in &*QUESTIONS {
            if let Some(scope) = allowed_scope(&fewer, ask) {
                let wider = allowed_scope(&more, ask);
                prop_assert!(wider.is_some_and(|wider| contains_all(&wider, &scope)), "{:?}", ask);
            }
        }
    }

    #[test]
    fn order_of_the_grants_does_not_matter(
        (grants, shuffled) in raw_grants().prop_map(|grants| effective(&grants)).prop_flat_map(|grants| {
            (Just(grants.clone()), Just(grants).prop_shuffle())
        }),
    ) {
        let rights = Rights::compile(&grants, &clusters(), at(NOW));
        let other = Rights::compile(&shuffled, &clusters(), at(NOW));
        prop_assert_eq!(rights.next_change(), other.next_change());
        for ask in &*QUESTIONS {
            prop_assert_eq!(explain(&rights, ask), explain(&other, ask));
        }
    }

    #[test]
    fn explanation_and_decision_agree(grants in raw_grants()) {
        let rights = Rights::compile(&effective(&grants), &clusters(), at(NOW));
        for ask in &*QUESTIONS {
            let explanation = explain(&rights, ask);
            prop_assert_eq!(&explanation.decision, &decide(&rights, ask));
            let first = explanation.grants.iter().find(|(_, verdict)| *verdict == Verdict::Allows);
            let named = match &explanation.decision {
                Decision::Allow { grant, .. } => Some(grant),
                Decision::Deny { .. } => None,
            };
            prop_assert_eq!(first.map(|(grant, _)| grant), named, "{:?}", ask);
        }
    }

    /// A grant that the giver's rights include adds nothing to them: in no cluster, also of those registered later, and
    /// until its end.
    #[test]
    fn included_grant_adds_no_right(
        grants in raw_grants(),
        mut given in raw_grant(),
        index in any::<sample::Index>(),
        (same_rules, same_clusters, same_patterns) in any::<(bool, bool, bool)>(),
        environment in sample::select(vec!["dev", "staging", "prod"]),
    ) {
        if !grants.is_empty() {
            let held = index.get(&grants);
            given.rules = if same_rules { held.rules.clone() } else { given.rules };
            given.clusters = if same_clusters { held.clusters.clone() } else { given.clusters };
            given.patterns = if same_patterns { held.patterns.clone() } else { given.patterns };
        }
        let (grants, given) = (effective(&grants), given.effective(100));
        let rights = Rights::compile(&grants, &clusters(), at(NOW));
        if includes(&rights, &content(&given)).is_ok() {
            let with: Vec<_> = grants.iter().cloned().chain([given]).collect();
            let labels = and_another(environment);
            for second in [NOW, NOW + 1, NOW + 9] {
                let before = Rights::compile(&grants, &labels, at(second));
                let after = Rights::compile(&with, &labels, at(second));
                for ask in &*QUESTIONS {
                    prop_assert_eq!(allowed_scope(&after, ask), allowed_scope(&before, ask), "{:?}", ask);
                }
            }
        }
    }

    #[test]
    fn grant_includes_itself(grant in raw_grant()) {
        let grant = EffectiveGrant { from: at(0), revoked: false, ..grant.effective(1) };
        if grant.state(at(NOW)) == GrantState::Active {
            let rights = Rights::compile(std::slice::from_ref(&grant), &and_another("dev"), at(NOW));
            prop_assert_eq!(includes(&rights, &content(&grant)), Ok(()));
        }
    }
}
