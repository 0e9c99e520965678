use super::*;
use crate::{
    kind::{KINDS, Kind},
    rights::resource_of_kind,
    rows::ListScope,
    testing,
};

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn refused(list: List, given: &[(&str, &str)]) -> Vec<(String, &'static str)> {
    let error = list.parse_page(&pairs(given)).expect_err("the query is refused");
    error.context.fields.into_iter().map(|field| (field.name, field.reason.as_str())).collect()
}

#[test]
fn every_list_has_one_entry_and_a_sortable_default_sort() {
    assert_eq!(List::Objects.info().list, List::Objects);
    for info in LISTS {
        assert!(std::ptr::eq(info.list.info(), info));
        assert_ne!(info.list, List::Objects, "objects of any kind are not in the table");
        assert_eq!(LISTS.iter().filter(|other| other.path == info.path).count(), 1);
        assert_eq!(info.project.is_some(), info.scope != ListScope::Local, "{}", info.key);
        let fields = (info.fields)();
        let default = info.default_sort.trim_start_matches('-');
        assert!(default.is_empty() || fields.iter().any(|field| field.sorts && field.name == default));
        let declared = info.kinds.iter().all(|kind| KINDS.contains(kind));
        assert!(
            declared
                && info
                    .kinds
                    .iter()
                    .all(|kind| kind.info().namespaced == (info.scope == ListScope::Namespaced))
        );
    }
}

#[test]
fn lists_of_cluster_scoped_objects_are_requested_in_no_namespace() {
    for info in LISTS.iter().filter(|info| info.scope != ListScope::Local) {
        let permit = testing::permit(&Caller::system(), to_list(info.list, &NamespaceScope::All));
        let expected = match info.list {
            List::Nodes | List::PersistentVolumes | List::StorageClasses => NamespaceScope::Unscoped,
            _ => NamespaceScope::All,
        };
        assert_eq!(*permit.namespaces(), expected, "{}", info.key);
    }
}

/// The owner of a list and further kinds of it are read by the right to the list.
#[test]
fn every_kind_that_a_list_shows_takes_the_same_right() {
    for info in LISTS.iter().filter(|info| info.scope != ListScope::Local) {
        let right = resource_of_kind(info.kinds[0], false);
        let owner = info.owner.map(|owner| owner.kind);
        for kind in info.kinds.iter().chain(info.more_kinds).chain(&owner) {
            assert_eq!(resource_of_kind(*kind, false), right, "{}: {kind}", info.key);
        }
    }
}

#[test]
fn refused_query_parameters_are_named_with_a_reason() {
    let pods = [("cluster_id", "1"), ("namespace", "*")];
    let with = |more: &[(&'static str, &'static str)]| -> Vec<(&'static str, &'static str)> {
        [&pods[..], more].concat()
    };
    assert!(List::Pods.parse_page(&pairs(&pods)).is_ok());
    type Pairs = &'static [(&'static str, &'static str)];
    let cases: &[(Pairs, Pairs)] = &[
        (&[], &[("cluster_id", "required"), ("namespace", "required")]),
        (&[("cluster_id", ""), ("namespace", "")], &[("cluster_id", "required"), ("namespace", "required")]),
        (
            &[("cluster_id", "x"), ("namespace", "a/b")],
            &[("cluster_id", "invalid_type"), ("namespace", "invalid_name")],
        ),
        (&[("cluster_id", "-1"), ("namespace", "*")], &[("cluster_id", "out_of_range")]),
        (&[("cluster_id", "99999999999999999999"), ("namespace", "*")], &[("cluster_id", "out_of_range")]),
    ];
    for (given, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(name, reason)| ((*name).to_owned(), *reason)).collect();
        assert_eq!(refused(List::Pods, given), expected, "{given:?}");
    }
    let one = [
        ("page", "0", "out_of_range"),
        ("page", "1.5", "invalid_type"),
        ("page", " 1", "invalid_type"),
        ("page", "+1", "invalid_type"),
        ("per_page", "501", "out_of_range"),
        ("per_page", "-1", "out_of_range"),
        ("per_page", "", "required"),
        ("sort", "labels", "not_one_of"),
        ("sort", "--name", "not_one_of"),
        ("sort", "workload", "not_one_of"),
        ("node", "", "required"),
        ("workload", "web", "malformed"),
        ("workload", "deployment/", "malformed"),
        ("workload", "a/b/c", "malformed"),
        ("search", "a\nb", "malformed"),
        ("type", "deployment", "unknown"),
        ("Page", "1", "unknown"),
        ("cluster_id", "2", "duplicate"),
    ];
    for (name, value, reason) in one {
        assert_eq!(
            refused(List::Pods, &with(&[(name, value)])),
            [(name.to_owned(), reason)],
            "{name}={value:?}"
        );
    }
    assert_eq!(refused(List::Namespaces, &pods), [("namespace".to_owned(), "unknown")]);
    assert_eq!(refused(List::Clusters, &pods[..1]), [("cluster_id".to_owned(), "unknown")]);
    assert_eq!(refused(List::Workloads, &with(&[("type", "pod")])), [("type".to_owned(), "not_one_of")]);
}

#[test]
fn list_with_owner_requires_the_owner_name() {
    let service = [("cluster_id", "1"), ("namespace", "*")];
    assert_eq!(refused(List::Endpoints, &service), [("name".to_owned(), "required")]);
    for (name, reason) in [("", "required"), ("a/b", "invalid_name"), ("a,b", "invalid_name")] {
        let given = [&service[..], &[("name", name)]].concat();
        assert_eq!(refused(List::Endpoints, &given), [("name".to_owned(), reason)], "{name:?}");
    }
    let named = [&service[..], &[("name", "web")]].concat();
    assert_eq!(List::Endpoints.parse_page(&pairs(&named)).unwrap().owner.unwrap().as_str(), "web");
    assert_eq!(refused(List::Services, &named), [("name".to_owned(), "unknown")]);
}

#[test]
fn type_parameter_selects_the_kinds() {
    let kinds = |more: &[(&str, &str)]| {
        let given = [&[("cluster_id", "1"), ("namespace", "a")], more].concat();
        List::Workloads.parse_page(&pairs(&given)).unwrap().kinds
    };
    assert_eq!(kinds(&[]), [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet]);
    assert_eq!(kinds(&[("type", "cronjob")]), [Kind::CronJob]);
}
