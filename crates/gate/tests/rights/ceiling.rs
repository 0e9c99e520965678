//! Rights of API tokens: those of the owner, cut by the ceiling.

use std::sync::Arc;

use pilothouse_gate::rights::{
    Ask, Ceiling, Decision, EffectiveGrant, Extent, RightResource, RightVerb, Rights, RoleName, RoleRules,
    decide,
};
use pilothouse_types::{ids::ClusterId, namespaces::NamespaceScope, role::Role};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{
    NAMES, NOW, QUESTIONS, all, answer, ask, at, cases, clusters, clusters_of, compile, effective, grant,
    raw_grant, raw_grants, reach_of, rules,
};

/// A ceiling; without a role if the text is empty.
fn ceiling(role: &str, clusters: Value, namespaces: Value) -> EffectiveGrant {
    let (name, rules) = match role {
        "" => (None, RoleRules::default()),
        role => (Some(RoleName::new("ceiling").expect("a name")), rules(role)),
    };
    let ceiling = Ceiling { role: name, clusters: clusters_of(clusters), reach: reach_of(namespaces) };
    ceiling.as_grant(Arc::new(rules))
}

fn cut(grants: &[EffectiveGrant], ceiling: &EffectiveGrant) -> Rights {
    Rights::compile_within(grants, Some(ceiling), &clusters(), at(NOW))
}

fn check(rights: &Rights, rows: &[(&str, i64, &str, &str)]) {
    for (right, cluster, namespaces, expected) in rows {
        let found = answer(rights, &ask(right, *cluster, namespaces));
        assert_eq!(found, *expected, "{right} in cluster {cluster}, namespaces {namespaces}");
    }
}

#[test]
fn default_ceiling_narrows_nothing() {
    let nothing = Ceiling::default().as_grant(Arc::default());
    for role in Role::ALL {
        let grants = [EffectiveGrant::preset(role)];
        let (owner, token) = (compile(&grants), cut(&grants, &nothing));
        for ask in &*QUESTIONS {
            assert_eq!(answer(&token, ask), answer(&owner, ask), "{role:?} {ask:?}");
        }
    }
    assert_eq!(
        serde_json::to_value(Ceiling::default()).expect("JSON"),
        json!({"role": null, "clusters": {"all": true}, "namespaces": null})
    );
}

#[test]
fn role_of_the_ceiling_cuts_the_verbs() {
    let admin = [EffectiveGrant::preset(Role::SuperAdmin)];
    let token = cut(&admin, &ceiling("viewer", all(), Value::Null));
    check(
        &token,
        &[
            ("list workloads", 1, "*", "*"),
            ("list nodes", 1, "-", "-"),
            ("scale workloads", 1, "shop", "no"),
            ("reveal secrets", 1, "shop", "no"),
            ("list users", 0, "-", "no"),
            ("create clusters", 0, "-", "no"),
            ("get clusters", 1, "-", "-"),
        ],
    );
    assert_eq!(token.extent(RightVerb::List, &RightResource::Users), Extent::None);
    // a terminal in a namespace kube-* takes a grant that names it, and a ceiling that names it
    let operator = cut(&admin, &ceiling("operator", all(), Value::Null));
    check(&operator, &[("exec workloads", 1, "shop", "shop"), ("exec workloads", 1, "kube-system", "no")]);
    let named = cut(&admin, &ceiling("operator", all(), json!(["kube-system"])));
    check(
        &named,
        &[("exec workloads", 1, "kube-system", "kube-system"), ("exec workloads", 1, "shop", "no")],
    );
    let ops = [EffectiveGrant::preset(Role::OpsAdmin)];
    let named = cut(&ops, &ceiling("operator", all(), json!(["kube-system"])));
    check(
        &named,
        &[("exec workloads", 1, "kube-system", "no"), ("list workloads", 1, "kube-system", "kube-system")],
    );
}

#[test]
fn ceiling_with_a_deleted_role_leaves_no_right() {
    let role = Some(RoleName::new("deleted").expect("a name"));
    let deleted = Ceiling { role, ..Ceiling::default() }.as_grant(Arc::default());
    let token = cut(&[EffectiveGrant::preset(Role::SuperAdmin)], &deleted);
    assert!(!token.sees(ClusterId(1)) && !token.sees(ClusterId(9)));
    check(
        &token,
        &[("list workloads", 1, "*", "no"), ("list users", 0, "-", "no"), ("get clusters", 1, "-", "no")],
    );
}

#[test]
fn clusters_and_namespaces_of_the_ceiling_cut_the_scope() {
    let viewer = [EffectiveGrant::preset(Role::Viewer)];
    let token = cut(&viewer, &ceiling("", json!({"labels": "team=shop"}), json!(["team-*", "kube-system"])));
    check(
        &token,
        &[
            ("list workloads", 1, "*", "set kube-system,team-*"),
            ("list workloads", 3, "team-a", "team-a"),
            ("list workloads", 1, "shop", "no"),
            ("list workloads", 2, "team-a", "no"),
            ("list workloads", 9, "team-a", "no"),
            ("list nodes", 1, "-", "no"),
            ("list workloads", 0, "*", "no"),
        ],
    );
    assert!(token.sees(ClusterId(1)) && !token.sees(ClusterId(2)) && !token.reaches_cluster(ClusterId(1)));
    let by_id = cut(&viewer, &ceiling("", json!({"ids": [2]}), Value::Null));
    check(
        &by_id,
        &[("list nodes", 2, "-", "-"), ("list nodes", 1, "-", "no"), ("list workloads", 0, "*", "no")],
    );

    // the scope of the owner is cut as well: by labels, and by ids
    let editor = [grant(1, "editor", json!({"labels": "environment=dev"}), json!(["a-*", "b"]))];
    let token = cut(&editor, &ceiling("admin", json!({"labels": "team=shop"}), json!(["a-b", "b", "c"])));
    check(
        &token,
        &[
            ("update config", 1, "*", "set a-b,b"),
            ("update config", 3, "b", "no"),
            ("update config", 1, "c", "no"),
            ("reveal secrets", 1, "b", "no"),
        ],
    );
    let disjoint = cut(&editor, &ceiling("", all(), json!(["c"])));
    assert!(!disjoint.sees(ClusterId(1)));
    // the owner's right without a namespace is not lost to a ceiling without namespaces, nor kept by one with them
    let nodes = [grant(1, "update: nodes; list: custom", all(), Value::Null)];
    check(&cut(&nodes, &ceiling("", all(), Value::Null)), &[("update nodes", 1, "-", "-")]);
    let token = cut(&nodes, &ceiling("list: custom:a.example.org", all(), json!(["*"])));
    check(
        &token,
        &[
            ("update nodes", 1, "-", "no"),
            ("list custom:a.example.org", 1, "a", "a"),
            ("list custom:a.example.org", 1, "-", "no"),
            ("list custom:b.example.org", 1, "a", "no"),
            ("list custom", 1, "a", "no"),
        ],
    );
}

/// Whether the decision allows a namespace, or the absence of one.
fn allows(rights: &Rights, ask: &Ask, namespace: Option<&str>) -> bool {
    match decide(rights, ask) {
        Decision::Allow { scope, .. } => scope.contains(namespace),
        Decision::Deny { .. } => false,
    }
}

/// Any right gives these, so a token of a ceiling that has nothing in common with its owner's rights lacks them.
fn is_implied(ask: &Ask) -> bool {
    matches!(
        (ask.verb, &ask.resource),
        (RightVerb::List, RightResource::Namespaces)
            | (RightVerb::List | RightVerb::Get, RightResource::Clusters)
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases().div_ceil(4)))]

    /// A token never has more than its owner, nor than its ceiling as a grant; and it has what both have.
    #[test]
    fn token_has_the_common_rights_of_owner_and_ceiling(
        grants in raw_grants(),
        limit in raw_grant(),
        has_role in any::<bool>(),
    ) {
        let grants = effective(&grants);
        let limit = limit.effective(100);
        let role = has_role.then(|| RoleName::new("ceiling").expect("a name"));
        let limit = Ceiling { role, clusters: limit.clusters, reach: limit.reach }.as_grant(limit.rules);
        let owner = compile(&grants);
        let alone = compile(std::slice::from_ref(&limit));
        let token = cut(&grants, &limit);
        prop_assert_eq!(token.next_change(), owner.next_change());
        for ask in &*QUESTIONS {
            let places = match &ask.namespaces {
                NamespaceScope::Unscoped => vec![None],
                _ => NAMES.iter().copied().map(Some).collect(),
            };
            for place in places {
                let [by_owner, by_ceiling, by_token] =
                    [&owner, &alone, &token].map(|rights| allows(rights, ask, place));
                prop_assert!(!by_token || (by_owner && by_ceiling), "{:?} {:?}", ask, place);
                prop_assert!(by_token || !(by_owner && by_ceiling) || is_implied(ask), "{:?} {:?}", ask, place);
            }
        }
        for id in [1, 2, 3, 4, 9].map(ClusterId) {
            prop_assert!(!token.sees(id) || (owner.sees(id) && alone.sees(id)));
            prop_assert!(!token.reaches_cluster(id) || (owner.reaches_cluster(id) && alone.reaches_cluster(id)));
        }
    }
}
