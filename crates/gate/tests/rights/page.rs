//! The tables of `docs/access.md` state what the code does.

use pilothouse_gate::rights::{BuiltInRole, RightResource, Verbs};

const PAGE: &str = include_str!("../../../../docs/access.md");

fn text(verbs: Verbs) -> String {
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
