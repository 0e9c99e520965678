//! The tables of `docs/access.md` state what the code does.

use std::collections::BTreeSet;

use pilothouse_gate::rights::{
    BuiltInRole, DerivedPower, Reach, RightResource, RightVerb, RoleRule, RoleRules, Verbs, derived_power,
};
use pilothouse_types::{ids::ClusterId, namespaces::NamespacePattern};
use serde_json::json;

use crate::world::{answer, ask, compile, grant};

const PAGE: &str = include_str!("../../../../docs/access.md");

fn text(verbs: Verbs) -> String {
    if verbs.is_empty() {
        return "–".to_owned();
    }
    verbs.iter().map(|verb| verb.to_string()).collect::<Vec<_>>().join(" ")
}

/// A row has the verbs that each role adds to the role before it; the last cell those of `admin` with the reach
/// `cluster`.
#[test]
fn table_of_roles_has_every_resource_with_the_verbs_of_each_role() {
    for resource in RightResource::OF_CLUSTERS.into_iter().chain(RightResource::OWN) {
        let mut cells = vec![format!("`{resource}`")];
        let mut before = Verbs::NONE;
        let columns =
            BuiltInRole::ALL.into_iter().map(|role| (role, false)).chain([(BuiltInRole::Admin, true)]);
        for (role, reach_is_cluster) in columns {
            let verbs = role.rules().verbs(&resource, reach_is_cluster);
            assert_eq!(verbs.intersect(before), before, "{role:?} contains the role before it");
            let added: Vec<_> = verbs.iter().filter(|verb| !before.contains(*verb)).collect();
            cells.push(text(Verbs::of(&added)));
            before = verbs;
        }
        let row = format!("| {} |", cells.join(" | "));
        assert!(PAGE.lines().any(|line| line == row), "docs/access.md has no row {row}");
    }
}

/// Row of the table of derived power.
struct Derived {
    verbs: Vec<RightVerb>,
    resource: RightResource,
    /// Whether the row is about namespaces `kube-*`.
    in_kube: bool,
    warning: Option<&'static str>,
}

impl Derived {
    /// Parses a row: verbs and a resource in backticks, the power, the warning.
    fn parse(row: &'static str) -> Self {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [rights, _, warning] = &*cells else { panic!("{row} has three cells") };
        let names = || rights.split('`').skip(1).step_by(2);
        Self {
            verbs: names().filter_map(RightVerb::parse).collect(),
            resource: names().find_map(|name| RightResource::parse(name).ok()).expect(row),
            in_kube: rights.ends_with("in a namespace `kube-*`"),
            warning: warning.strip_prefix('`').map(|warning| warning.trim_end_matches('`')),
        }
    }
}

/// Every single right, in namespaces, in namespaces `kube-*` and with the reach `cluster`, has exactly the warnings of
/// the table.
#[test]
fn table_of_derived_power_has_the_warnings_of_every_right() {
    let section = PAGE.split("## Derived power\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).map(Derived::parse).collect();
    assert!(rows.len() >= 10, "the table has {} rows", rows.len());
    let namespaces = |pattern| Reach::try_from(vec![NamespacePattern::parse(pattern).unwrap()]).unwrap();
    let reaches = [namespaces("shop-*"), namespaces("kube-*"), Reach::Cluster];
    for resource in RightResource::OF_CLUSTERS.into_iter().chain(RightResource::OWN) {
        for verb in resource.verbs().iter() {
            let rule = RoleRule { verbs: Verbs::of(&[verb]), resources: vec![resource.clone()] };
            let rules = RoleRules::new(vec![rule]).unwrap();
            for reach in &reaches {
                let holds = *reach == Reach::Cluster || !resource.is_cluster_scoped();
                let reaches_kube = reach.namespaces(verb).contains("kube-system");
                let applies = |row: &&Derived| {
                    holds
                        && row.resource == resource
                        && row.verbs.contains(&verb)
                        && (!row.in_kube || reaches_kube)
                };
                let expected: BTreeSet<_> =
                    rows.iter().filter(applies).filter_map(|row| row.warning).collect();
                let power = derived_power(&rules, reach).into_iter().map(DerivedPower::as_str);
                assert_eq!(power.collect::<BTreeSet<_>>(), expected, "{verb} {resource} in {reach:?}");
            }
        }
    }
}

/// Clusters 1 to 3 are dev, staging and prod.
#[test]
fn team_of_the_example_has_the_rights_of_its_table() {
    let first_aid = "list get: workloads config network storage events quotas; logs restart: workloads";
    let in_environment = |id, role, environment| {
        grant(id, role, json!({"labels": format!("environment={environment}")}), json!(["shop-*"]))
    };
    let team = [
        in_environment(1, "admin", "dev"),
        in_environment(2, "editor", "staging"),
        in_environment(3, first_aid, "prod"),
    ];
    let rights = compile(&team);
    let rows = [
        ("list workloads", "*", ["set shop-*", "set shop-*", "set shop-*"]),
        ("list workloads", "bank-web", ["no", "no", "no"]),
        ("create namespaces", "shop-test", ["shop-test", "no", "no"]),
        ("reveal secrets", "shop-web", ["shop-web", "no", "no"]),
        ("list secrets", "shop-web", ["shop-web", "shop-web", "no"]),
        ("scale workloads", "shop-web", ["shop-web", "shop-web", "no"]),
        ("restart workloads", "shop-web", ["shop-web", "shop-web", "shop-web"]),
        ("exec workloads", "shop-web", ["shop-web", "shop-web", "no"]),
        ("list nodes", "-", ["no", "no", "no"]),
    ];
    for (right, namespaces, expected) in rows {
        let found = [1, 2, 3].map(|cluster| answer(&rights, &ask(right, cluster, namespaces)));
        assert_eq!(found, expected, "{right} in {namespaces}");
    }
    assert!(!rights.sees(ClusterId(4)));
    let with_request = [&team[..], &[grant(4, "editor", json!({"ids": [3]}), json!(["shop-web"]))]].concat();
    let rights = compile(&with_request);
    assert_eq!(answer(&rights, &ask("update workloads", 3, "shop-web")), "shop-web");
    assert_eq!(answer(&rights, &ask("update workloads", 3, "shop-api")), "no");
}
