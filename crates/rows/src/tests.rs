use std::cmp::Reverse;

use pilothouse_types::{
    name::Namespace,
    namespaces::{NamespacePattern, NamespaceScope, NamespaceSet},
};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::*;

#[derive(Clone, Debug, Serialize)]
struct SampleRow {
    name: String,
    namespace: String,
    size: Option<i64>,
}

impl ListRow for SampleRow {
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

#[test]
fn null_sorts_last_and_ties_sort_by_namespace_and_name() {
    let sample = |namespace: &str, name: &str, size| SampleRow {
        name: name.into(),
        namespace: namespace.into(),
        size,
    };
    let samples = [
        sample("b", "x", Some(1)),
        sample("a", "y", Some(1)),
        sample("a", "x", None),
        sample("a", "z", Some(2)),
    ];
    let order = |descending| -> Vec<_> {
        let query = ListQuery { sort: Some(Sort { field: 1, descending }), ..ListQuery::default() };
        let rows = samples.iter().map(|sample| Row::of(sample).unwrap()).collect();
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
    let rows = vec![Row::of(&sample_row()).unwrap()];
    let query = ListQuery { page: u64::MAX, per_page: 500, ..ListQuery::default() };
    let (page, pagination) = select(rows, &query);
    assert!(page.is_empty());
    assert_eq!((pagination.total, pagination.pages), (1, 1));
    assert_eq!(Pagination::of(&ListQuery::default(), 0).pages, 0);
    assert_eq!(Pagination::of(&ListQuery::default(), 21).pages, 2);
}

fn sample_row() -> SampleRow {
    SampleRow { name: "Web".into(), namespace: "a".into(), size: None }
}

#[test]
fn row_json_equals_the_serialised_type() {
    let row = Row::of(&sample_row()).unwrap();
    let json: serde_json::Value = serde_json::from_str(row.json()).unwrap();
    assert_eq!(json, json!({"name": "Web", "namespace": "a", "size": null}));
}

#[derive(Serialize)]
struct LateRow {
    name: String,
}

impl ListRow for LateRow {
    const FIELDS: &'static [Field<Self>] =
        &[Field::new("name", |row| Cell::text(&*row.name)), Field::late("usage_cpu")];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

#[test]
fn pages_are_sorted_by_a_late_field_and_search_results_are_not() {
    let spec = QuerySpec::local(fields_of::<LateRow>, "");
    let pairs = |name: &str, value: &str| {
        vec![(name.to_owned(), value.to_owned()), ("sort".to_owned(), "-usage_cpu".to_owned())]
    };
    let page = ListQuery::parse_page(&spec, &pairs("search", "web")).unwrap();
    assert_eq!(page.sort, Some(Sort { field: 1, descending: true }));
    let refused = ListQuery::parse_search(&spec, &pairs("q", "web")).unwrap_err();
    assert_eq!(refused.context.fields[0].name, "sort");
    assert_eq!(fields_of::<LateRow>().iter().map(|field| field.late).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn query_is_cut_to_the_permitted_namespaces() {
    let one = |name: &str| NamespaceScope::One(Namespace::new(name).unwrap());
    let team = NamespaceScope::Set(NamespaceSet::new([NamespacePattern::parse("team-*").unwrap()]));
    let cases = [
        (NamespaceScope::All, NamespaceScope::All, NamespaceScope::All),
        (one("x"), NamespaceScope::All, one("x")),
        (NamespaceScope::All, one("x"), one("x")),
        (NamespaceScope::All, team.clone(), team.clone()),
        (one("team-a"), team.clone(), one("team-a")),
        (one("x"), team.clone(), team),
        (one("x"), one("y"), one("y")),
        (NamespaceScope::All, NamespaceScope::Unscoped, NamespaceScope::Unscoped),
    ];
    for (asked, permitted, expected) in cases {
        let query = ListQuery { namespaces: asked, page: 2, ..ListQuery::default() };
        let cut = query.within(&permitted);
        assert_eq!((&cut.namespaces, cut.page), (&expected, 2), "{query:?} within {permitted:?}");
    }
}

proptest! {
    /// The concatenated pages of any query equal the result of filtering and sorting with plain iterators.
    #[test]
    fn concatenated_pages_equal_filtered_and_sorted_rows(
        samples in prop::collection::vec(("[abAB]{1,3}", "[xy]", prop::option::of(0i64..4)), 0..40),
        search in prop::option::of("[ab]{1,2}"),
        scope in 0..4usize,
        size in prop::option::of(0i64..4),
        descending in any::<bool>(),
        per_page in 1u64..7,
    ) {
        let mut samples: Vec<_> =
            samples.into_iter().map(|(name, namespace, size)| SampleRow { name, namespace, size }).collect();
        samples.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        samples.dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
        let set = |patterns: &[&str]| {
            NamespaceScope::Set(NamespaceSet::new(patterns.iter().map(|text| NamespacePattern::parse(text).unwrap())))
        };
        let (namespaces, in_scope): (_, &[&str]) = match scope {
            0 => (NamespaceScope::All, &["x", "y"]),
            1 => (NamespaceScope::One(Namespace::new("x").unwrap()), &["x"]),
            2 => (set(&["y", "z-*"]), &["y"]),
            _ => (NamespaceScope::Unscoped, &[]),
        };
        let mut expected: Vec<_> = samples.iter()
            .filter(|sample| in_scope.contains(&&*sample.namespace))
            .filter(|sample| search.as_ref().is_none_or(|search| sample.name.to_lowercase().contains(search.as_str())))
            .filter(|sample| size.is_none_or(|size| sample.size == Some(size)))
            .collect();
        if descending {
            expected.sort_by_key(|sample| (sample.size.is_none(), Reverse(sample.size)));
        } else {
            expected.sort_by_key(|sample| (sample.size.is_none(), sample.size));
        }
        let expected: Vec<_> = expected.iter().map(|sample| (sample.namespace.clone(), sample.name.clone())).collect();

        let mut found = Vec::new();
        let mut rows: Vec<_> = samples.iter().map(|sample| Row::of(sample).unwrap()).collect();
        rows.reverse();
        for page in 1.. {
            let query = ListQuery {
                page, per_page, namespaces: namespaces.clone(), search: search.clone(),
                sort: Some(Sort { field: 1, descending }),
                filters: size.iter().map(|size| (1, vec![size.to_string()])).collect(),
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
