use super::*;
use crate::{
    kind::{KINDS, Kind},
    rights::resource_of_kind,
    rows::{Filter, Level, ListScope},
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
        ("status", "Running,", "required"),
        ("status", ",", "required"),
        ("workload", "deployment/web,web", "malformed"),
        ("level", "bad,worse", "not_one_of"),
        ("level", "", "required"),
        ("label", "", "required"),
        ("label", "app web", "malformed"),
        ("reason", "OOMKilled", "unknown"),
        ("fault", "x", "unknown"),
        ("sort", "fault", "not_one_of"),
    ];
    for (name, value, reason) in one {
        assert_eq!(
            refused(List::Pods, &with(&[(name, value)])),
            [(name.to_owned(), reason)],
            "{name}={value:?}"
        );
    }
    let many = vec!["Running"; 21].join(",");
    let [cluster, namespace] = pods;
    assert_eq!(
        refused(List::Pods, &[cluster, namespace, ("status", many.as_str())]),
        [("status".to_owned(), "too_long")]
    );
    let long = "a".repeat(1025);
    assert_eq!(
        refused(List::Pods, &[cluster, namespace, ("label", long.as_str())]),
        [("label".to_owned(), "too_long")]
    );
    assert_eq!(refused(List::Clusters, &[("label", "app")]), [("label".to_owned(), "unknown")]);
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
    assert_eq!(
        kinds(&[("type", "daemonset,deployment,daemonset")]),
        [Kind::Deployment, Kind::DaemonSet],
        "each kind is read once"
    );
    for several in ["job,cronjob", "deployment,job", "deployment,pod", "job,"] {
        let given = [("cluster_id", "1"), ("namespace", "a"), ("type", several)];
        assert_eq!(refused(List::Workloads, &given).len(), 1, "{several}");
    }
}

#[test]
fn filter_selects_rows_with_one_of_its_values() {
    let row = |name: &str, phase: &str, app: &str| {
        let pod = serde_json::json!({"metadata": {"name": name, "namespace": "a", "labels": {"app": app}}, "status": {"phase": phase}});
        let raw = serde_json::value::to_raw_value(&pod).unwrap();
        (List::Pods.info().project.unwrap())(Kind::Pod, &raw).unwrap().remove(0)
    };
    let rows = [row("a", "Failed", "web"), row("b", "Unknown", "api"), row("c", "Succeeded", "web")];
    let names = |more: &[(&str, &str)]| -> Vec<_> {
        let given = [&[("cluster_id", "1"), ("namespace", "*")], more].concat();
        let query = List::Pods.parse_page(&pairs(&given)).unwrap();
        rows.iter().filter(|row| row.matches(&query)).map(|row| row.name().to_owned()).collect()
    };
    assert_eq!(names(&[("status", "Failed,Unknown")]), ["a", "b"]);
    assert_eq!(names(&[("level", "idle,bad")]), ["a", "c"]);
    assert_eq!(names(&[("label", "app=web"), ("level", "bad")]), ["a"]);
    assert_eq!(names(&[("label", "app notin (web)")]), ["b"]);
}

/// Every row of a cluster's object has a uid, and every row with a status a level. Both precede the labels, in which any key
/// may occur.
#[test]
fn every_row_of_a_cluster_has_a_uid_and_every_status_a_level() {
    for info in LISTS.iter().filter(|info| info.scope != ListScope::Local) {
        let fields = (info.fields)();
        let has = |name: &str| fields.iter().any(|field| field.name == name);
        assert!(has("uid"), "{}", info.key);
        assert_eq!(has(LEVEL), has(STATUS) || info.list == List::Events, "{}", info.key);
        assert_eq!(has("reason"), has(LEVEL), "{}", info.key);
        assert!(
            fields.iter().all(|field| field.name != LEVEL || field.filter == Filter::OneOf(Level::NAMES))
        );
    }
}
