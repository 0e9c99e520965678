//! Tables of decisions: every rule of the contract on verbs, resources, roles, patterns, reach and time.

use std::sync::Arc;

use pilothouse_gate::{
    access::{AccessRequest, Caller, Resource, Verb},
    rights::{Ask, Decision, EffectiveGrant, Extent, GrantRef, RightVerb, Rights, Verdict, decide, explain},
};
use pilothouse_types::{
    ids::{ClusterId, GrantId},
    kind::Kind,
    name::Namespace,
    role::Role,
};
use serde_json::{Value, json};

use crate::world::{NOW, all, answer, ask, at, clusters, compile, grant};

/// Checks rows of right, cluster, namespaces and answer.
fn check(rights: &Rights, rows: &[(&str, i64, &str, &str)]) {
    for (right, cluster, namespaces, expected) in rows {
        let found = answer(rights, &ask(right, *cluster, namespaces));
        assert_eq!(found, *expected, "{right} in cluster {cluster}, namespaces {namespaces}");
    }
}

fn one(role: &str, clusters: Value, namespaces: Value) -> Rights {
    compile(&[grant(1, role, clusters, namespaces)])
}

#[test]
fn caller_without_grants_has_no_right_and_sees_no_cluster() {
    for grants in [vec![], vec![EffectiveGrant::preset(Role::None)]] {
        let rights = compile(&grants);
        for verb in RightVerb::ALL {
            let rights_of = |resource: &str| format!("{verb} {resource}");
            let (workloads, clusters) = (rights_of("workloads"), rights_of("clusters"));
            let (workloads, clusters) = (workloads.as_str(), clusters.as_str());
            check(&rights, &[(workloads, 1, "shop", "no"), (workloads, 1, "*", "no")]);
            check(&rights, &[(clusters, 1, "-", "no"), (clusters, 0, "-", "no")]);
        }
        check(&rights, &[("list namespaces", 1, "*", "no")]);
        assert!(!rights.sees(ClusterId(1)));
        assert_eq!(rights.visible_clusters().count(), 0);
    }
}

#[test]
fn presets_hold_in_every_cluster_and_namespace() {
    let viewer = compile(&[EffectiveGrant::preset(Role::Viewer)]);
    check(
        &viewer,
        &[
            ("list workloads", 1, "*", "*"),
            ("get secrets", 4, "kube-system", "kube-system"),
            ("list nodes", 1, "-", "-"),
            ("logs workloads", 1, "kube-system", "kube-system"),
            ("get clusters", 1, "-", "-"),
            ("reveal secrets", 1, "shop", "no"),
            ("exec workloads", 1, "shop", "no"),
            ("create clusters", 0, "-", "no"),
            ("list audit", 0, "-", "no"),
        ],
    );
    let ops = compile(&[EffectiveGrant::preset(Role::OpsAdmin)]);
    check(
        &ops,
        &[
            ("delete workloads", 1, "kube-system", "kube-system"),
            ("reveal secrets", 1, "*", "*"),
            ("update nodes", 1, "-", "-"),
            ("update platform", 2, "-", "-"),
            ("create clusters", 0, "-", "-"),
            ("delete clusters", 3, "-", "-"),
            ("list audit", 0, "-", "-"),
            ("list grants", 0, "-", "no"),
            ("list users", 0, "-", "no"),
            ("delete keys", 0, "-", "no"),
            ("list recordings", 1, "shop", "no"),
        ],
    );
    let super_admin = compile(&[EffectiveGrant::preset(Role::SuperAdmin)]);
    check(
        &super_admin,
        &[
            ("list users", 0, "-", "-"),
            ("create grants", 0, "-", "-"),
            ("update keys", 0, "-", "-"),
            ("exec workloads", 1, "kube-system", "kube-system"),
            ("exec workloads", 1, "*", "*"),
        ],
    );
}

#[test]
fn cluster_that_is_not_known_yet_has_the_grants_on_all_clusters() {
    let grants = || {
        let by_labels = grant(3, "viewer", json!({"labels": "environment=dev"}), Value::Null);
        let by_id = grant(2, "editor", json!({"ids": [9]}), json!(["shop"]));
        [grant(1, "viewer", all(), json!(["team-*"])), by_id, by_labels]
    };
    let rights = compile(&grants());
    check(
        &rights,
        &[
            ("list workloads", 9, "*", "set team-*"),
            ("list workloads", 9, "team-a", "team-a"),
            ("list workloads", 9, "shop", "no"),
            ("update config", 9, "shop", "no"),
            ("get clusters", 9, "-", "-"),
            ("list nodes", 9, "-", "no"),
        ],
    );
    assert!(rights.sees(ClusterId(9)) && !rights.reaches_cluster(ClusterId(9)));
    // the explanation is the gate's decision
    let caller = Caller::system().with_rights(Role::None, Arc::new(compile(&grants())));
    for namespace in ["team-a", "shop"] {
        let explanation = explain(&rights, &ask("list workloads", 9, namespace));
        let pods = AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod))
            .in_cluster(ClusterId(9))
            .in_namespace(&Namespace::new(namespace).expect("a name"));
        assert_eq!(explanation.decision.is_allowed(), caller.judge(&pods).is_ok(), "{namespace}");
        let verdict = if namespace == "shop" { Verdict::OtherNamespaces } else { Verdict::Allows };
        let verdicts: Vec<_> = explanation.grants.iter().map(|(_, verdict)| *verdict).collect();
        assert_eq!(verdicts, [verdict, Verdict::OtherCluster, Verdict::OtherCluster], "{namespace}");
    }
    let only_by_id = compile(&grants()[1..]);
    check(&only_by_id, &[("update config", 9, "shop", "no"), ("get clusters", 9, "-", "no")]);
}

#[test]
fn right_in_namespaces_cuts_lists_and_has_nothing_cluster_scoped() {
    let rights = one("admin", json!({"ids": [1]}), json!(["shop", "team-a-*"]));
    check(
        &rights,
        &[
            ("list workloads", 1, "shop", "shop"),
            ("list workloads", 1, "team-a-dev", "team-a-dev"),
            ("list workloads", 1, "team-a", "no"),
            ("list workloads", 1, "team-ab", "no"),
            ("list workloads", 1, "shop-2", "no"),
            ("list workloads", 1, "*", "set shop,team-a-*"),
            ("list workloads", 1, "shop,default", "set shop"),
            ("list workloads", 1, "team-a-dev,team-b-*", "set team-a-dev"),
            ("list workloads", 1, "team-b-*", "no"),
            ("list workloads", 1, "-", "no"),
            // another cluster, one that is not registered, and all
            ("list workloads", 2, "shop", "no"),
            ("list workloads", 9, "shop", "no"),
            ("list workloads", 0, "shop", "no"),
            // kinds without a namespace
            ("list nodes", 1, "-", "no"),
            ("list nodes", 1, "*", "no"),
            ("get volumes", 1, "-", "no"),
            ("get access", 1, "-", "no"),
            ("get access", 1, "shop", "shop"),
            ("create custom:example.org", 1, "shop", "shop"),
            ("create custom:example.org", 1, "-", "no"),
            // what `admin` has only with the reach cluster
            ("update quotas", 1, "shop", "no"),
            ("create access", 1, "shop", "no"),
            ("create platform", 1, "shop", "no"),
            ("get quotas", 1, "shop", "shop"),
        ],
    );
}

#[test]
fn star_leaves_out_kube_namespaces_which_must_be_named() {
    let star = one("editor", all(), json!(["*"]));
    check(
        &star,
        &[
            ("list workloads", 1, "*", "set *"),
            ("list workloads", 1, "kube", "kube"),
            ("list workloads", 1, "kube-system", "no"),
            ("create workloads", 1, "kube-system", "no"),
            ("list nodes", 1, "-", "no"),
        ],
    );
    let both = one("editor", all(), json!(["*", "kube-*"]));
    check(
        &both,
        &[
            ("list workloads", 1, "*", "*"),
            ("list workloads", 1, "kube-system", "kube-system"),
            // every namespace is not the reach cluster
            ("list nodes", 1, "-", "no"),
            ("list nodes", 1, "*", "no"),
            ("list platform", 1, "-", "no"),
        ],
    );
    let named = one("viewer", all(), json!(["kube-system"]));
    check(
        &named,
        &[
            ("list workloads", 1, "kube-system", "kube-system"),
            ("list workloads", 1, "kube-public", "no"),
            ("list workloads", 1, "*", "set kube-system"),
        ],
    );
}

#[test]
fn terminals_in_kube_namespaces_take_a_grant_that_names_them() {
    let ops = compile(&[EffectiveGrant::preset(Role::OpsAdmin)]);
    let named =
        compile(&[EffectiveGrant::preset(Role::OpsAdmin), grant(1, "operator", all(), json!(["kube-*"]))]);
    for verb in ["exec", "forward"] {
        let right = format!("{verb} workloads");
        let right = right.as_str();
        check(&ops, &[(right, 1, "shop", "shop"), (right, 1, "kube-system", "no"), (right, 1, "*", "set *")]);
        check(&named, &[(right, 1, "kube-system", "kube-system"), (right, 1, "*", "*")]);
    }
    check(&ops, &[("restart workloads", 1, "kube-system", "kube-system")]);
}

#[test]
fn namespace_is_judged_by_its_own_name_in_every_verb() {
    // Rancher PR#54050: a right in one project deleted any namespace
    let admin = one("admin", all(), json!(["team-a-*"]));
    check(
        &admin,
        &[
            ("create namespaces", 1, "team-a-dev", "team-a-dev"),
            ("delete namespaces", 1, "team-a-dev", "team-a-dev"),
            ("create namespaces", 1, "team-b-dev", "no"),
            ("delete namespaces", 1, "default", "no"),
            ("delete namespaces", 1, "kube-system", "no"),
            ("get namespaces", 1, "team-a-dev", "team-a-dev"),
            ("get namespaces", 1, "team-b-dev", "no"),
            ("list namespaces", 1, "*", "set team-a-*"),
            // Rancher CVE-2026-41052: labels of namespaces carry the Pod Security level
            ("update namespaces", 1, "team-a-dev", "no"),
            ("create namespaces", 1, "-", "no"),
        ],
    );
    let cluster = one("admin", json!({"ids": [1]}), Value::Null);
    check(
        &cluster,
        &[("update namespaces", 1, "team-a-dev", "team-a-dev"), ("list namespaces", 1, "*", "*")],
    );
    let editor = one("editor", all(), Value::Null);
    check(&editor, &[("create namespaces", 1, "shop", "no"), ("delete namespaces", 1, "shop", "no")]);
}

#[test]
fn any_right_shows_the_cluster_and_the_names_of_its_namespaces() {
    let rights = one("restart: workloads", json!({"labels": "team=shop"}), json!(["shop"]));
    check(
        &rights,
        &[
            ("restart workloads", 1, "shop", "shop"),
            ("get workloads", 1, "shop", "no"),
            ("list namespaces", 1, "*", "set shop"),
            ("list namespaces", 1, "other", "no"),
            ("get namespaces", 1, "shop", "no"),
            ("get clusters", 1, "-", "-"),
            ("list clusters", 3, "-", "-"),
            ("update clusters", 1, "-", "no"),
            ("get clusters", 2, "-", "no"),
        ],
    );
    assert_eq!(rights.visible_clusters().collect::<Vec<_>>(), [ClusterId(1), ClusterId(3)]);
    assert!(!rights.reaches_cluster(ClusterId(1)), "counts and identity of the cluster are left out");
    assert!(one("viewer", json!({"ids": [1]}), Value::Null).reaches_cluster(ClusterId(1)));
}

#[test]
fn grant_that_can_have_no_effect_shows_nothing() {
    // nodes have no namespace
    let rights = one("update: nodes", all(), json!(["shop"]));
    check(
        &rights,
        &[
            ("update nodes", 1, "-", "no"),
            ("update nodes", 1, "shop", "no"),
            ("list namespaces", 1, "*", "no"),
            ("get clusters", 1, "-", "no"),
        ],
    );
    assert!(!rights.sees(ClusterId(1)));
    // ids of deleted clusters reach nothing
    assert_eq!(one("viewer", json!({"ids": [9]}), Value::Null).visible_clusters().count(), 0);
}

#[test]
fn clusters_are_all_or_ids_or_labels() {
    let by_labels =
        one("viewer", json!({"labels": "environment in (dev,staging),team=shop"}), json!(["shop"]));
    let rows = |answers: [&'static str; 4]| {
        [1_i64, 2, 3, 4].map(|cluster| ("list workloads", cluster, "shop", answers[cluster as usize - 1]))
    };
    check(&by_labels, &rows(["shop", "no", "no", "no"]));
    check(
        &one("viewer", json!({"labels": "environment in (dev,staging)"}), json!(["shop"])),
        &rows(["shop", "shop", "no", "no"]),
    );
    check(&one("viewer", json!({"ids": [2, 4]}), json!(["shop"])), &rows(["no", "shop", "no", "shop"]));
    check(&one("viewer", all(), json!(["shop"])), &rows(["shop", "shop", "shop", "shop"]));
}

#[test]
fn what_concerns_all_clusters_takes_a_grant_on_all_clusters() {
    // a grant on each registered cluster is not one on all
    let registered = one("create list: clusters audit", json!({"ids": [1, 2, 3, 4]}), Value::Null);
    check(
        &registered,
        &[("create clusters", 0, "-", "no"), ("list audit", 0, "-", "no"), ("list audit", 1, "-", "-")],
    );
    let in_namespaces = one("create list: clusters audit", all(), json!(["*", "kube-*"]));
    check(
        &in_namespaces,
        &[
            ("create clusters", 0, "-", "no"),
            ("list audit", 0, "-", "no"),
            ("list audit", 1, "*", "*"),
            ("list audit", 1, "-", "no"),
        ],
    );
    let everything = one("create list: clusters audit", all(), Value::Null);
    check(&everything, &[("create clusters", 0, "-", "-"), ("list audit", 0, "-", "-")]);
}

#[test]
fn rights_of_several_grants_add_up() {
    let rights = compile(&[
        grant(1, "viewer", json!({"ids": [1]}), json!(["a", "b-*"])),
        grant(2, "list: workloads", json!({"labels": "team=shop"}), json!(["c", "b-x"])),
        grant(3, "editor", all(), json!(["a"])),
    ]);
    check(
        &rights,
        &[
            ("list workloads", 1, "*", "set a,c,b-*"),
            ("list workloads", 3, "*", "set a,b-x,c"),
            ("list workloads", 2, "*", "set a"),
            ("list config", 1, "*", "set a,b-*"),
            ("update config", 1, "*", "set a"),
            ("update config", 1, "b-x", "no"),
        ],
    );
}

#[test]
fn custom_groups_are_separate_and_custom_is_all_of_them() {
    let rights = compile(&[
        grant(1, "get: custom:a.example.org", all(), json!(["*"])),
        grant(2, "list: custom", all(), json!(["shop"])),
    ]);
    check(
        &rights,
        &[
            ("get custom:a.example.org", 1, "shop", "shop"),
            ("get custom:b.example.org", 1, "shop", "no"),
            ("get custom", 1, "shop", "no"),
            ("list custom:a.example.org", 1, "*", "set shop"),
            ("list custom:b.example.org", 1, "*", "set shop"),
            ("list custom", 1, "shop", "shop"),
            ("list platform", 1, "shop", "no"),
        ],
    );
}

#[test]
fn grant_holds_from_its_first_moment_to_before_its_end() {
    let mut timed = grant(1, "viewer", all(), json!(["shop"]));
    timed.from = at(NOW);
    timed.grant.until = Some(at(NOW + 10));
    let revoked = EffectiveGrant { revoked: true, ..timed.clone() };
    for (second, expected, next) in [
        (NOW - 1, "no", Some(NOW)),
        (NOW, "shop", Some(NOW + 10)),
        (NOW + 9, "shop", Some(NOW + 10)),
        (NOW + 10, "no", None),
        // the clock is set back
        (NOW + 5, "shop", Some(NOW + 10)),
    ] {
        let rights = Rights::compile(std::slice::from_ref(&timed), &clusters(), at(second));
        assert_eq!(answer(&rights, &ask("list workloads", 1, "shop")), expected, "{second}");
        assert_eq!(rights.next_change(), next.map(at), "{second}");
        assert_eq!(rights.sees(ClusterId(1)), expected != "no");
        let rights = Rights::compile(std::slice::from_ref(&revoked), &clusters(), at(second));
        assert_eq!(answer(&rights, &ask("list workloads", 1, "shop")), "no", "{second}");
        assert_eq!(rights.next_change(), None);
    }
    let endless = grant(2, "viewer", all(), json!(["shop"]));
    assert_eq!(compile(&[timed, endless]).next_change(), Some(at(NOW + 10)));
}

#[test]
fn refusal_names_the_missing_right() {
    let rights = one("viewer", json!({"ids": [1]}), json!(["shop"]));
    let missing = |ask: &Ask| match decide(&rights, ask) {
        Decision::Deny { missing } => missing,
        Decision::Allow { .. } => panic!("{ask:?} is allowed"),
    };
    let scale = ask("scale workloads", 1, "shop");
    let found = missing(&scale);
    assert_eq!((found.verb, &found.resource), (RightVerb::Scale, &scale.resource));
    assert_eq!((found.cluster, found.namespace), (Some(ClusterId(1)), Namespace::new("shop").ok()));
    for (right, cluster, namespaces) in
        [("list workloads", 2, "*"), ("list nodes", 1, "-"), ("list audit", 0, "-")]
    {
        let ask = ask(right, cluster, namespaces);
        let found = missing(&ask);
        assert_eq!((found.cluster, found.namespace), (ask.cluster, None), "{right}");
    }
}

#[test]
fn first_grant_that_gives_the_right_is_named() {
    let mut through_group = grant(3, "editor", all(), json!(["team-*"]));
    through_group.grant.via_group = Some("group:ldap:ops".to_owned());
    let rights = compile(&[
        through_group,
        grant(2, "viewer", all(), json!(["team-a"])),
        EffectiveGrant::preset(Role::Viewer),
    ]);
    let named = |right, namespaces| match decide(&rights, &ask(right, 1, namespaces)) {
        Decision::Allow { grant, .. } => (*grant).clone(),
        Decision::Deny { missing } => panic!("{missing:?}"),
    };
    let preset = GrantRef { id: None, role: "viewer".to_owned(), via_group: None, until: None };
    assert_eq!(named("list workloads", "team-a"), preset);
    let editor = named("update config", "team-a");
    assert_eq!((editor.id, editor.via_group.as_deref()), (Some(GrantId(3)), Some("group:ldap:ops")));
}

#[test]
fn explanation_tells_of_each_grant_why_it_does_not_allow() {
    let rights = compile(&[
        grant(1, "viewer", json!({"ids": [1]}), json!(["shop"])),
        grant(2, "operator", json!({"ids": [2]}), json!(["shop"])),
        grant(3, "operator", json!({"ids": [1]}), json!(["bank"])),
        grant(4, "operator", json!({"ids": [1]}), json!(["shop"])),
    ]);
    let explanation = explain(&rights, &ask("restart workloads", 1, "shop"));
    let verdicts: Vec<_> = explanation.grants.iter().map(|(grant, verdict)| (grant.id, *verdict)).collect();
    let expected = [Verdict::OtherRole, Verdict::OtherCluster, Verdict::OtherNamespaces, Verdict::Allows];
    assert_eq!(verdicts, [1, 2, 3, 4].map(|id| (Some(GrantId(id)), expected[id as usize - 1])));
    assert!(matches!(&explanation.decision, Decision::Allow { grant, .. } if grant.id == Some(GrantId(4))));
    let unscoped = explain(&rights, &ask("list nodes", 1, "-"));
    assert!(!unscoped.decision.is_allowed());
    assert_eq!(unscoped.grants[0].1, Verdict::OtherRole, "a grant of namespaces gives no right on nodes");
    let unscoped = explain(&rights, &ask("list access", 1, "-"));
    assert_eq!(unscoped.grants[0].1, Verdict::OtherNamespaces, "ClusterRoles take the reach cluster");
}

#[test]
fn grants_with_a_right_are_those_that_give_it_anywhere() {
    let rights = compile(&[
        grant(1, "list create: grants", json!({"ids": [1]}), json!(["shop"])),
        grant(2, "admin", all(), Value::Null),
        grant(3, "create: grants", json!({"ids": [9]}), Value::Null),
        grant(4, "delete: grants", all(), json!(["shop"])),
    ]);
    let resource = ask("list grants", 0, "-").resource;
    let ids = |verb| rights.grants_with(verb, &resource).filter_map(|grant| grant.id).collect::<Vec<_>>();
    assert_eq!(ids(RightVerb::Create), [GrantId(1), GrantId(3)]);
    assert_eq!(ids(RightVerb::List), [GrantId(1)]);
    assert_eq!(ids(RightVerb::Update), []);
}

#[test]
fn extent_is_all_some_or_none() {
    let resource = |text: &str| ask(&format!("list {text}"), 0, "-").resource;
    let ops = compile(&[EffectiveGrant::preset(Role::OpsAdmin)]);
    assert_eq!(ops.extent(RightVerb::Update, &resource("nodes")), Extent::All);
    assert_eq!(ops.extent(RightVerb::List, &resource("users")), Extent::None);
    let rights = one("viewer", json!({"ids": [1]}), json!(["shop"]));
    assert_eq!(rights.extent(RightVerb::List, &resource("workloads")), Extent::Some);
    assert_eq!(rights.extent(RightVerb::List, &resource("nodes")), Extent::None);
    assert_eq!(rights.extent(RightVerb::Exec, &resource("workloads")), Extent::None);
    let everywhere = one("viewer", all(), json!(["*"]));
    assert_eq!(everywhere.extent(RightVerb::List, &resource("workloads")), Extent::Some);
    let deleted = one("viewer", json!({"ids": [9]}), Value::Null);
    assert_eq!(deleted.extent(RightVerb::List, &resource("workloads")), Extent::None);
}
