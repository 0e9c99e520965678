use std::cmp::Reverse;

use proptest::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::*;
use crate::{
    kind::KINDS,
    name::{Namespace, NamespaceScope},
};

#[derive(Clone, Debug, Serialize)]
struct Thing {
    name: String,
    namespace: String,
    size: Option<i64>,
}

impl ListRow for Thing {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::filtered("size", Filter::Number, |row| Cell::from(row.size)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn refused(list: List, given: &[(&str, &str)]) -> Vec<(String, &'static str)> {
    let error = ListQuery::parse(list, &pairs(given)).expect_err("the query is refused");
    error.context.fields.into_iter().map(|field| (field.name, field.reason.as_str())).collect()
}

#[test]
fn every_list_has_one_entry_and_a_sortable_default_sort() {
    for info in LISTS {
        assert!(std::ptr::eq(info.list.info(), info));
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
fn query_parameters_by_table() {
    let pods = [("cluster_id", "1"), ("namespace", "*")];
    let with = |more: &[(&'static str, &'static str)]| -> Vec<(&'static str, &'static str)> {
        [&pods[..], more].concat()
    };
    assert!(ListQuery::parse(List::Pods, &pairs(&pods)).is_ok());
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
    assert_eq!(ListQuery::parse(List::Endpoints, &pairs(&named)).unwrap().owner.unwrap().as_str(), "web");
    assert_eq!(refused(List::Services, &named), [("name".to_owned(), "unknown")]);
}

#[test]
fn type_parameter_selects_the_kinds() {
    let kinds = |more: &[(&str, &str)]| {
        let given = [&[("cluster_id", "1"), ("namespace", "a")], more].concat();
        ListQuery::parse(List::Workloads, &pairs(&given)).unwrap().kinds
    };
    assert_eq!(kinds(&[]), [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet]);
    assert_eq!(kinds(&[("type", "cronjob")]), [Kind::CronJob]);
}

#[test]
fn null_sorts_last_and_ties_sort_by_namespace_and_name() {
    let thing =
        |namespace: &str, name: &str, size| Thing { name: name.into(), namespace: namespace.into(), size };
    let things =
        [thing("b", "x", Some(1)), thing("a", "y", Some(1)), thing("a", "x", None), thing("a", "z", Some(2))];
    let order = |descending| -> Vec<_> {
        let query = ListQuery { sort: Some(Sort { field: 1, descending }), ..ListQuery::default() };
        let rows = things.iter().map(|thing| Row::of(thing).unwrap()).collect();
        select(rows, &query)
            .0
            .iter()
            .map(|row| format!("{}/{}", row.namespace().unwrap(), row.name()))
            .collect()
    };
    assert_eq!(order(false), ["a/y", "b/x", "a/z", "a/x"]);
    assert_eq!(order(true), ["a/z", "a/y", "b/x", "a/x"]);
}

#[test]
fn page_beyond_the_end_is_empty_with_the_total() {
    let rows = vec![Row::of(&json_thing()).unwrap()];
    let query = ListQuery { page: u64::MAX, per_page: 500, ..ListQuery::default() };
    let (page, pagination) = select(rows, &query);
    assert!(page.is_empty());
    assert_eq!((pagination.total, pagination.pages), (1, 1));
    assert_eq!(Pagination::of(&ListQuery::default(), 0).pages, 0);
    assert_eq!(Pagination::of(&ListQuery::default(), 21).pages, 2);
}

fn json_thing() -> Thing {
    Thing { name: "Web".into(), namespace: "a".into(), size: None }
}

#[test]
fn row_json_equals_the_serialised_type() {
    let row = Row::of(&json_thing()).unwrap();
    let json: serde_json::Value = serde_json::from_str(row.json()).unwrap();
    assert_eq!(json, json!({"name": "Web", "namespace": "a", "size": null}));
}

proptest! {
    /// The concatenated pages of any query equal the result of filtering and sorting with plain iterators.
    #[test]
    fn concatenated_pages_equal_filtered_and_sorted_rows(
        things in prop::collection::vec(("[abAB]{1,3}", "[xy]", prop::option::of(0i64..4)), 0..40),
        search in prop::option::of("[ab]{1,2}"),
        one in any::<bool>(),
        size in prop::option::of(0i64..4),
        descending in any::<bool>(),
        per_page in 1u64..7,
    ) {
        let mut things: Vec<_> = things.into_iter().map(|(name, namespace, size)| Thing { name, namespace, size }).collect();
        things.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        things.dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
        let namespaces = if one { NamespaceScope::One(Namespace::new("x").unwrap()) } else { NamespaceScope::All };
        let mut expected: Vec<_> = things.iter()
            .filter(|thing| !one || thing.namespace == "x")
            .filter(|thing| search.as_ref().is_none_or(|search| thing.name.to_lowercase().contains(search.as_str())))
            .filter(|thing| size.is_none_or(|size| thing.size == Some(size)))
            .collect();
        if descending {
            expected.sort_by_key(|thing| (thing.size.is_none(), Reverse(thing.size)));
        } else {
            expected.sort_by_key(|thing| (thing.size.is_none(), thing.size));
        }
        let expected: Vec<_> = expected.iter().map(|thing| (thing.namespace.clone(), thing.name.clone())).collect();

        let mut found = Vec::new();
        let mut rows: Vec<_> = things.iter().map(|thing| Row::of(thing).unwrap()).collect();
        rows.reverse();
        for page in 1.. {
            let query = ListQuery {
                page, per_page, namespaces: namespaces.clone(), search: search.clone(),
                sort: Some(Sort { field: 1, descending }),
                filters: size.iter().map(|size| (1, size.to_string())).collect(),
                ..ListQuery::default()
            };
            let (rows, pagination) = select(rows.clone(), &query);
            prop_assert_eq!(pagination.total, expected.len() as u64);
            prop_assert_eq!(pagination.pages, (expected.len() as u64).div_ceil(per_page));
            if rows.is_empty() { break; }
            found.extend(rows.iter().map(|row| (row.namespace().unwrap().to_owned(), row.name().to_owned())));
        }
        prop_assert_eq!(found, expected);
    }
}
