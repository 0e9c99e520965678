//! Nobody gives more than they have: verbs, resources, clusters, reach and time.

use pilothouse_gate::rights::{
    EffectiveGrant, Given, Missing, RightResource, RightVerb, Rights, covers, includes,
};
use pilothouse_types::{ids::ClusterId, role::Role};
use serde_json::{Value, json};

use crate::world::{NOW, all, at, clusters_of, compile, grant, reach_of, rules};

fn missing(
    rights: &Rights,
    role: &str,
    clusters: Value,
    namespaces: Value,
    until: Option<i64>,
) -> Option<Missing> {
    let given = Given {
        rules: &rules(role),
        clusters: &clusters_of(clusters),
        reach: &reach_of(namespaces),
        until: until.map(at),
    };
    includes(rights, &given).err()
}

/// Whether the rights include a grant without end.
fn may_give(rights: &Rights, role: &str, clusters: Value, namespaces: Value) -> bool {
    missing(rights, role, clusters, namespaces, None).is_none()
}

fn one(role: &str, clusters: Value, namespaces: Value) -> Rights {
    compile(&[grant(1, role, clusters, namespaces)])
}

#[test]
fn super_admin_may_give_every_role_everywhere() {
    let rights = compile(&[EffectiveGrant::preset(Role::SuperAdmin)]);
    for role in ["viewer", "operator", "editor", "admin", "list create: grants recordings", "create: custom"]
    {
        for namespaces in [Value::Null, json!(["*"]), json!(["kube-system"])] {
            for clusters in [all(), json!({"ids": [1, 9]}), json!({"labels": "a in (b,c)"})] {
                assert!(may_give(&rights, role, clusters, namespaces.clone()), "{role} in {namespaces}");
            }
        }
    }
}

#[test]
fn verbs_and_resources_must_be_held() {
    let rights = one("editor", all(), json!(["*"]));
    for (role, allowed) in [
        ("viewer", true),
        ("operator", true),
        ("editor", true),
        ("admin", false),
        ("update: config", true),
        ("update: quotas", false),
        ("reveal: secrets", false),
        ("list: audit", false),
        ("create: grants", false),
        ("list: custom:example.org", true),
        ("update: custom:example.org", false),
    ] {
        assert_eq!(may_give(&rights, role, all(), json!(["*"])), allowed, "{role}");
    }
    let group = one("list: custom:a.example.org", all(), json!(["*"]));
    assert!(may_give(&group, "list: custom:a.example.org", all(), json!(["*"])));
    assert!(!may_give(&group, "list: custom:b.example.org", all(), json!(["*"])));
    assert!(!may_give(&group, "list: custom", all(), json!(["*"])));
    let found = missing(&rights, "list: config; reveal: secrets", json!({"ids": [2]}), json!(["*"]), None);
    let found = found.expect("reveal is missing");
    assert_eq!((found.verb, found.resource), (RightVerb::Reveal, RightResource::Secrets));
    assert_eq!(found.cluster, Some(ClusterId(2)));
}

#[test]
fn reach_must_lie_within() {
    let rights = one("viewer", all(), json!(["team-a-*", "shop"]));
    for (namespaces, allowed) in [
        (json!(["team-a-*"]), true),
        (json!(["team-a-dev", "shop"]), true),
        (json!(["team-a-dev-*"]), true),
        (json!(["team-*"]), false),
        (json!(["shop", "bank"]), false),
        (json!(["*"]), false),
        (json!(["kube-system"]), false),
        (Value::Null, false),
    ] {
        assert_eq!(may_give(&rights, "viewer", all(), namespaces.clone()), allowed, "{namespaces}");
    }
    let every_namespace = one("viewer", all(), json!(["*", "kube-*"]));
    assert!(may_give(&every_namespace, "viewer", all(), json!(["*", "kube-*"])));
    assert!(!may_give(&every_namespace, "viewer", all(), Value::Null), "nodes are in no namespace");
    let cluster = one("viewer", all(), Value::Null);
    assert!(may_give(&cluster, "viewer", all(), Value::Null));
    assert!(may_give(&cluster, "viewer", all(), json!(["*", "kube-system"])));
}

#[test]
fn admin_of_namespaces_gives_no_admin_of_the_cluster() {
    let namespaced = one("admin", json!({"ids": [1]}), json!(["team-a-*"]));
    assert!(may_give(&namespaced, "admin", json!({"ids": [1]}), json!(["team-a-*"])));
    assert!(!may_give(&namespaced, "admin", json!({"ids": [1]}), Value::Null));
    assert!(!may_give(&namespaced, "update: quotas", json!({"ids": [1]}), json!(["team-a-*"])));
    assert!(!may_give(&namespaced, "update: namespaces", json!({"ids": [1]}), json!(["team-a-*"])));
    let cluster = one("admin", json!({"ids": [1]}), Value::Null);
    assert!(may_give(&cluster, "update: quotas namespaces access", json!({"ids": [1]}), json!(["team-a-*"])));
}

#[test]
fn terminals_in_kube_namespaces_are_given_only_by_who_has_them() {
    let ops = compile(&[EffectiveGrant::preset(Role::OpsAdmin)]);
    assert!(may_give(&ops, "operator", all(), json!(["*"])));
    assert!(may_give(&ops, "admin", all(), Value::Null));
    assert!(may_give(&ops, "viewer", all(), json!(["kube-system"])));
    assert!(!may_give(&ops, "operator", all(), json!(["kube-system"])));
}

#[test]
fn clusters_must_lie_within() {
    let cases = [
        (all(), json!({"ids": [1, 9]}), true),
        (all(), json!({"labels": "a=b"}), true),
        (json!({"ids": [1, 2]}), json!({"ids": [1]}), true),
        (json!({"ids": [1, 2]}), json!({"ids": [1, 3]}), false),
        (json!({"ids": [1, 2, 3, 4]}), all(), false),
        (json!({"ids": [1]}), json!({"labels": "environment=dev,team=shop"}), false),
        (json!({"labels": "environment in (dev,staging)"}), json!({"labels": "environment=dev"}), true),
        (
            json!({"labels": "environment in (dev,staging)"}),
            json!({"labels": "environment=dev,team=x"}),
            true,
        ),
        (json!({"labels": "environment=dev,team=shop"}), json!({"labels": "environment=dev"}), false),
        (json!({"labels": "environment=dev"}), json!({"labels": "environment in (dev,prod)"}), false),
        (json!({"labels": "environment in (dev,staging)"}), json!({"ids": [1, 2]}), true),
        (json!({"labels": "environment in (dev,staging)"}), json!({"ids": [1, 3]}), false),
        (json!({"labels": "environment in (dev,staging)"}), json!({"ids": [9]}), false),
        (json!({"labels": "environment in (dev,staging)"}), all(), false),
    ];
    for (held, given, allowed) in cases {
        let rights = one("viewer", held.clone(), json!(["*"]));
        assert_eq!(
            may_give(&rights, "viewer", given.clone(), json!(["*"])),
            allowed,
            "{held} includes {given}"
        );
    }
}

#[test]
fn grants_count_together() {
    let rights = compile(&[
        grant(1, "viewer", json!({"labels": "environment=dev"}), json!(["a"])),
        grant(2, "viewer", json!({"labels": "environment=staging"}), json!(["a", "b"])),
        grant(3, "restart: workloads", json!({"ids": [1]}), json!(["a", "b"])),
        grant(4, "viewer", json!({"ids": [1]}), json!(["b"])),
    ]);
    let both = || json!({"labels": "environment in (dev,staging)"});
    assert!(may_give(&rights, "viewer", both(), json!(["a"])));
    assert!(!may_give(&rights, "viewer", both(), json!(["a", "b"])));
    assert!(may_give(&rights, "viewer", json!({"ids": [1, 2]}), json!(["a", "b"])));
    assert!(may_give(&rights, "list: config; restart: workloads", json!({"ids": [1]}), json!(["a", "b"])));
    assert!(!may_give(&rights, "restart: workloads", json!({"ids": [1, 2]}), json!(["a"])));
}

#[test]
fn end_must_not_be_later() {
    let mut timed = grant(1, "viewer", all(), json!(["*"]));
    timed.grant.until = Some(at(NOW + 100));
    let rights = compile(&[timed.clone()]);
    let may = |until| missing(&rights, "viewer", all(), json!(["shop"]), until).is_none();
    assert!(may(Some(NOW + 99)));
    assert!(may(Some(NOW + 100)));
    assert!(!may(Some(NOW + 101)));
    assert!(!may(None), "no end is later than every end");
    let future = EffectiveGrant { from: at(NOW + 1), ..grant(2, "viewer", all(), json!(["*"])) };
    assert!(!may_give(&compile(&[future]), "viewer", all(), json!(["shop"])), "held now, not in future");
    let revoked = EffectiveGrant { revoked: true, ..timed };
    assert!(!may_give(&compile(&[revoked]), "viewer", all(), json!(["shop"])));
}

#[test]
fn right_to_grant_must_cover_the_whole_scope() {
    let rights = one("list delete: grants; get: config", json!({"ids": [1, 2]}), json!(["team-a-*"]));
    let has = |right: (RightVerb, &RightResource), clusters: Value, namespaces: Value| {
        covers(&rights, right, &clusters_of(clusters), &reach_of(namespaces), at(NOW)).is_ok()
    };
    let delete = (RightVerb::Delete, &RightResource::Grants);
    assert!(has(delete, json!({"ids": [1]}), json!(["team-a-dev"])));
    assert!(!has(delete, json!({"ids": [1, 3]}), json!(["team-a-dev"])), "a part of the clusters");
    assert!(!has(delete, json!({"ids": [1]}), json!(["team-a-dev", "shop"])), "a part of the namespaces");
    assert!(!has(delete, json!({"ids": [1]}), Value::Null));
    assert!(!has(delete, all(), json!(["team-a-dev"])));
    assert!(!has((RightVerb::Create, &RightResource::Grants), json!({"ids": [1]}), json!(["team-a-dev"])));
    assert!(!has((RightVerb::List, &RightResource::Nodes), json!({"ids": [1]}), json!(["team-a-dev"])));
}
