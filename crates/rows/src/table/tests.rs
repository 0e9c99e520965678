use pilothouse_types::{name::Namespace, namespaces::NamespacePattern, testing::env_number};
use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::{AgingLevel, Cell, Field, Filter, LabelSelector, Level, ListRow, NextLevel, fields_of, select};

/// Row type with few distinct names and values, so that collisions and ties are frequent.
#[derive(Clone, Debug, Serialize)]
struct SampleRow {
    name: String,
    namespace: Option<String>,
    status: Option<&'static str>,
    size: Option<i64>,
    ready: bool,
    level: Level,
    reason: Option<&'static str>,
    labels: BTreeMap<String, &'static str>,
    #[serde(skip)]
    next: Option<NextLevel>,
}

impl SampleRow {
    fn new(name: String, namespace: Option<String>) -> Self {
        Self {
            name,
            namespace,
            status: None,
            size: None,
            ready: false,
            level: Level::Ok,
            reason: None,
            labels: BTreeMap::new(),
            next: None,
        }
    }
}

impl ListRow for SampleRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::filtered("status", Filter::Any, |row: &Self| row.status.map_or(Cell::Null, Cell::text))
            .counted(),
        Field::filtered("size", Filter::Number, |row| Cell::from(row.size)),
        Field::filtered("ready", Filter::OneOf(&["true", "false"]), |row| Cell::from(row.ready)),
        Field::internal("initial", |row: &Self| Cell::text(&row.name[..1])).counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row: &Self| row.reason.map_or(Cell::Null, Cell::text)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    fn search_terms(&self) -> Vec<&str> {
        self.status.into_iter().collect()
    }

    fn next_level(&self) -> Option<NextLevel> {
        self.next
    }
}

fn sample_row() -> impl Strategy<Value = SampleRow> {
    let status = prop::option::of(prop::sample::select(&["on", "Off", "Größe \"x\"\n"][..]));
    let namespace = prop::option::weighted(0.9, "[xy]|x-[ab]|kube-a");
    let reason = prop::option::of(prop::sample::select(&["on", "a\"b", "level"][..]));
    let next = prop::option::weighted(0.3, (0..MAX_SECOND, level()));
    let labels = prop::collection::btree_map("app|level", prop::sample::select(&["warn", "x"][..]), 0..3);
    let texts = ("[abA]{1,2}", namespace, status);
    (texts, prop::option::of(-1i64..3), any::<bool>(), level(), reason, labels, next).prop_map(
        |((name, namespace, status), size, ready, level, reason, labels, next)| {
            let next = next.map(|(second, level)| NextLevel { at: at(second), level });
            SampleRow { name, namespace, status, size, ready, level, reason, labels, next }
        },
    )
}

/// Last second at which a level changes.
const MAX_SECOND: i64 = 8;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(&Level::ALL[..])
}

/// Operation on a table.
#[derive(Clone, Debug)]
enum Step {
    /// Sets the rows of an object of a source, one row per size. No sizes: the object is deleted.
    Object(Source, SampleRow, Vec<i64>),
    /// Replaces all rows of a source.
    ReplaceAll(Source, Vec<SampleRow>),
    /// Changes the levels whose time has come.
    Age(i64),
    /// Runs a query.
    Query(ListQuery),
}

fn step() -> impl Strategy<Value = Step> {
    let object = (0..2u8, sample_row(), prop::collection::vec(0i64..3, 0..3));
    prop_oneof![
        6 => object.prop_map(|(source, sample, sizes)| Step::Object(source, sample, sizes)),
        1 => (0..2u8, prop::collection::vec(sample_row(), 0..12))
            .prop_map(|(source, samples)| Step::ReplaceAll(source, samples)),
        1 => (0..MAX_SECOND).prop_map(Step::Age),
        3 => query().prop_map(Step::Query),
    ]
}

fn set(patterns: &[&str]) -> NamespaceScope {
    NamespaceScope::Set(NamespaceSet::new(patterns.iter().map(|text| NamespacePattern::parse(text).unwrap())))
}

fn scope() -> impl Strategy<Value = NamespaceScope> {
    let pattern = prop::sample::select(&["x", "y", "x-a", "x-*", "kube-*", "kube-a", "z", "*"][..]);
    prop_oneof![
        2 => Just(NamespaceScope::All),
        1 => Just(NamespaceScope::Unscoped),
        2 => prop::sample::select(&["x", "x-a", "z"][..])
            .prop_map(|name| NamespaceScope::One(Namespace::new(name).unwrap())),
        4 => prop::collection::vec(pattern, 0..4).prop_map(|patterns| set(&patterns)),
    ]
}

fn query() -> impl Strategy<Value = ListQuery> {
    let sort = prop::option::of((0..7usize, any::<bool>()))
        .prop_map(|sort| sort.map(|(field, descending)| Sort { field, descending }));
    let filter = prop_oneof![
        values(1, &["on", "Off", "off", "1"]),
        values(2, &["0", "-1", "2", "on"]),
        values(3, &["true", "false"]),
        values(5, Level::NAMES),
    ];
    let selector = prop::sample::select(&["app", "app=x", "level in (warn,x),!app", "reason"][..]);
    let labels = prop::option::weighted(0.3, selector.prop_map(|text| LabelSelector::parse(text).unwrap()));
    let search = prop::option::of(prop::sample::select(&["a", "ab", "o", "größe", "\n"][..]));
    let filters = prop::collection::vec(filter, 0..2);
    (sort, filters, labels, search, scope(), 1..4u64, prop::sample::select(&[1u64, 3, 100][..])).prop_map(
        |(sort, filters, labels, search, namespaces, page, per_page)| ListQuery {
            sort,
            filters,
            labels,
            search: search.map(str::to_owned),
            namespaces,
            page,
            per_page,
            ..ListQuery::default()
        },
    )
}

/// A filter by one or two values of a field.
fn values(field: usize, of: &'static [&'static str]) -> impl Strategy<Value = (usize, Vec<String>)> {
    let values = prop::collection::vec(prop::sample::select(of).prop_map(str::to_owned), 1..3);
    values.prop_map(move |values| (field, values))
}

/// Whether a scope contains a row, by the texts of its patterns.
fn contains(scope: &NamespaceScope, row: &Row) -> bool {
    let matches = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some("") => !name.starts_with("kube-"),
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    match (scope, row.namespace()) {
        (NamespaceScope::All, _) | (NamespaceScope::Unscoped, None) => true,
        (NamespaceScope::One(one), Some(name)) => one.as_str() == name,
        (NamespaceScope::Set(set), Some(name)) => {
            set.patterns().iter().any(|pattern| matches(&pattern.to_string(), name))
        }
        (NamespaceScope::Unscoped, Some(_)) | (NamespaceScope::One(_) | NamespaceScope::Set(_), None) => {
            false
        }
    }
}

/// Reference model of a query: `select` over the rows of its namespaces.
fn select_within(mut rows: Vec<Row>, query: &ListQuery) -> (Vec<Row>, Pagination) {
    rows.retain(|row| contains(&query.namespaces, row));
    select(rows, &ListQuery { namespaces: NamespaceScope::All, ..query.clone() })
}

/// Number of cases of the test below, which asks `PILOTHOUSE_TEST_QUERIES` (`just rights`) queries of a set or of one
/// namespace. A case asks ten queries on average, and six of these.
fn cases() -> u32 {
    env_number("PILOTHOUSE_TEST_QUERIES", 2_000).div_ceil(5)
}

/// Reference model of the table: source and row.
type Model = Vec<(Source, Row)>;

fn query_page(table: &mut Table, query: &ListQuery) -> (Vec<Row>, Pagination) {
    if let Some(page) = table.page(query) {
        return page;
    }
    let indexes = table.build_index(query);
    table.add_indexes(indexes);
    table.page(query).expect("the index was built")
}

/// Applies reported changes to the rows that a watcher has seen.
fn apply_changes(seen: &mut Vec<Row>, changes: &[Change]) {
    let mut remove = |row: &Row| {
        let index = seen.iter().position(|seen| seen == row).expect("a removed row exists");
        seen.swap_remove(index);
    };
    for change in changes {
        if let Change::Removed(old) | Change::Changed(old, _) = change {
            remove(old);
        }
    }
    for change in changes {
        if let Change::Added(new) | Change::Changed(_, new) = change {
            seen.push(new.clone());
        }
    }
}

fn sorted(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|a, b| a.total_order(b, None));
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// After any sequence of operations, queries return the same rows, order and total as `select`, the counts are
    /// equal, and the reported changes yield the same rows: all of them, and those of a scope.
    #[test]
    fn table_returns_the_same_results_as_select(
        steps in prop::collection::vec(step(), 1..60),
        last in query(),
        scope in scope(),
    ) {
        let mut table = Table::new(&fields_of::<SampleRow>());
        let (mut model, mut seen, mut watched) = (Model::new(), Vec::new(), Vec::new());
        let mut watch = |changes: Vec<Change>| {
            apply_changes(&mut seen, &changes);
            let of_scope = changes.into_iter().filter(|change| contains(&scope, change.row()));
            apply_changes(&mut watched, &of_scope.collect::<Vec<_>>());
        };
        for step in steps.into_iter().chain([Step::Query(last)]) {
            match step {
                Step::Object(source, sample, sizes) => {
                    let rows: Vec<_> = sizes
                        .into_iter()
                        .map(|size| Row::of(&SampleRow { size: Some(size), ..sample.clone() }).unwrap())
                        .collect();
                    let same_object =
                        |row: &Row| (row.namespace(), row.name()) == (sample.namespace(), sample.name());
                    model.retain(|(other, row)| *other != source || !same_object(row));
                    model.extend(rows.iter().map(|row| (source, row.clone())));
                    watch(table.apply(source, (sample.namespace(), sample.name()), rows));
                }
                Step::ReplaceAll(source, samples) => {
                    let rows: Vec<_> = samples.iter().map(|sample| Row::of(sample).unwrap()).collect();
                    model.retain(|(other, _)| *other != source);
                    model.extend(rows.iter().map(|row| (source, row.clone())));
                    let (replaced, changes) = table.replace_all(source, rows);
                    table = replaced;
                    watch(changes);
                }
                Step::Age(second) => {
                    let aging = table.aging();
                    for (_, row) in &mut model {
                        *row = aging.advance(row.clone(), at(second));
                    }
                    let earliest = model.iter().filter_map(|(_, row)| row.next_level()).map(|next| next.at).min();
                    watch(table.age(at(second), usize::MAX));
                    prop_assert_eq!(table.level_changes_at(), earliest);
                    prop_assert!(earliest.is_none_or(|earliest| earliest > at(second)));
                }
                Step::Query(query) => {
                    let rows = sorted(model.iter().map(|(_, row)| row.clone()));
                    prop_assert_eq!(query_page(&mut table, &query), select_within(rows, &query), "{:?}", query);
                }
            }
            prop_assert_eq!(table.len(), model.len());
            let in_scope = || model.iter().filter(|(_, row)| contains(&scope, row));
            prop_assert_eq!(table.count_in(&scope), in_scope().count() as u64);
            for (name, field) in [("status", 1), ("initial", 4)] {
                let mut tally = BTreeMap::<&str, u64>::new();
                for value in in_scope().filter_map(|(_, row)| row.text(field)) {
                    *tally.entry(value).or_default() += 1;
                }
                for value in ["on", "Off", "a"] {
                    let counted = tally.get(value).copied().unwrap_or_default();
                    prop_assert_eq!(table.counted_by(name, value, &scope), counted);
                }
                prop_assert_eq!(table.tally(name, &scope), tally);
            }
        }
        let rows: Vec<_> = table.rows().cloned().collect();
        prop_assert_eq!(&sorted(seen), &rows);
        let of_scope = ListQuery { namespaces: scope, per_page: u64::MAX, ..ListQuery::default() };
        prop_assert_eq!(sorted(watched), select_within(rows.clone(), &of_scope).0);
        prop_assert_eq!(&sorted(model.into_iter().map(|(_, row)| row)), &rows);
        let in_x: Vec<_> = table.rows_in("x").cloned().collect();
        prop_assert_eq!(in_x, rows.into_iter().filter(|row| row.namespace() == Some("x")).collect::<Vec<_>>());
    }
}

/// A table with this number of rows.
fn table_of(count: usize) -> Table {
    let rows = (0..count).map(|n| {
        let name = format!("web-{n:06}-{}", ["even", "odd"][n % 2]);
        let sample = SampleRow::new(name, Some(format!("ns-{}", n % 7)));
        Row::of(&SampleRow { status: Some("on"), ready: true, ..sample }).unwrap()
    });
    Table::new(&fields_of::<SampleRow>()).replace_all(0, rows.collect()).0
}

#[test]
fn name_index_frees_memory_of_removed_rows() {
    let mut table = table_of(3000);
    let search = ListQuery { search: Some("odd".to_owned()), ..ListQuery::default() };
    assert_eq!(query_page(&mut table, &search).1.total, 1500);
    let full = table.bytes();
    for round in 0..5 {
        for n in 0..3000 {
            let (namespace, name) =
                (format!("ns-{}", n % 7), format!("web-{n:06}-{}", ["even", "odd"][n % 2]));
            let old = table.rows_in(&namespace).find(|row| row.name() == name).cloned();
            table.apply(0, (Some(&namespace), &name), Vec::new());
            if round < 4 {
                table.apply(0, (Some(&namespace), &name), old.into_iter().collect());
            }
        }
        assert!(table.bytes() <= 2 * full, "round {round}");
    }
    assert!(table.is_empty());
    assert_eq!(query_page(&mut table, &search).1.total, 0);
}

#[test]
fn table_overhead_is_at_most_160_bytes_per_row() {
    let table = table_of(2000);
    let json: usize = table.rows().map(|row| row.json().len()).sum();
    let overhead = (table.bytes() - json) / table.len();
    assert!(overhead <= 160, "{overhead} bytes per row besides its JSON");
}

#[test]
fn number_of_sort_orders_is_limited() {
    let mut table = table_of(10);
    for field in 0..4 {
        for descending in [false, true] {
            let query = ListQuery { sort: Some(Sort { field, descending }), ..ListQuery::default() };
            query_page(&mut table, &query);
        }
    }
    assert!(table.orders.len() <= MAX_ORDERS + 1);
    assert!(table.page(&ListQuery::default()).is_some(), "the order by namespace and name is kept");
}

#[test]
fn number_of_views_is_limited_and_views_evict_no_order() {
    let mut table = table_of(70);
    let sort = Some(Sort { field: 0, descending: true });
    let sorted = ListQuery { sort, ..ListQuery::default() };
    query_page(&mut table, &sorted);
    for n in 0..10 {
        let namespaces = set(&[&format!("ns-{}", n % 7), &format!("ns-{}", (n / 7 + n + 1) % 7)]);
        query_page(&mut table, &ListQuery { namespaces, ..sorted.clone() });
    }
    assert_eq!(table.orders.len(), 2 + MAX_ORDERS);
    assert!(table.page(&sorted).is_some(), "the sort order of all rows is kept");
    let other = ListQuery { namespaces: set(&["ns-0"]), ..ListQuery::default() };
    assert!(table.page(&other).is_some(), "the order by namespace and name needs no view");
    let all = ListQuery { namespaces: set(&["ns-*"]), ..sorted };
    assert!(table.page(&all).is_some(), "a set of all rows needs no view");
}

#[test]
fn level_changes_with_age_and_an_ok_row_has_no_reason() {
    let sample = SampleRow::new("web".to_owned(), Some("shop".to_owned()));
    let labels = BTreeMap::from([("level".to_owned(), "warn"), ("reason".to_owned(), "x")]);
    let warn = |next: AgingLevel| SampleRow {
        level: next.level,
        next: next.next,
        reason: Some("OOM\"Killed"),
        labels: labels.clone(),
        ..sample.clone()
    };
    let cases = [
        (AgingLevel::until(Level::Warn, Some(at(60)), Level::Ok), Level::Ok, None),
        (AgingLevel::until(Level::Progress, Some(at(60)), Level::Warn), Level::Warn, Some("OOM\"Killed")),
    ];
    for (aging, level, reason) in cases {
        let mut table = Table::new(&fields_of::<SampleRow>());
        let row = Row::of(&warn(aging)).unwrap();
        table.apply(0, (Some("shop"), "web"), vec![row.clone()]);
        assert_eq!((table.level_changes_at(), table.age(at(59), 1)), (Some(at(60)), vec![]));
        let expected = SampleRow { level, reason, next: None, ..warn(aging) };
        let expected = Row::of(&expected).unwrap();
        assert_eq!(table.age(at(60), 1), [Change::Changed(row, expected.clone())]);
        assert_eq!((table.level_changes_at(), table.age(at(9999), 1)), (None, vec![]));
        let filter = (5, vec![level.as_str().to_owned()]);
        let query = ListQuery { filters: vec![filter], ..ListQuery::default() };
        assert_eq!(query_page(&mut table, &query).0, [expected]);
    }
}

#[test]
fn many_search_hits_are_cut_by_the_namespaces() {
    let mut table = table_of(3000);
    let rows: Vec<_> = table.rows().cloned().collect();
    for namespaces in [set(&["ns-1", "ns-3", "ns-9"]), NamespaceScope::One(Namespace::new("ns-2").unwrap())] {
        for sort in [None, Some(Sort { field: 0, descending: true })] {
            let query = ListQuery {
                namespaces: namespaces.clone(),
                search: Some("odd".to_owned()),
                sort,
                page: 3,
                ..ListQuery::default()
            };
            assert_eq!(query_page(&mut table, &query), select(rows.clone(), &query), "{query:?}");
        }
    }
}

#[test]
fn row_of_another_namespace_is_in_the_views_of_that_namespace() {
    let mut table = table_of(7);
    let sort = Some(Sort { field: 0, descending: false });
    let pages =
        ["ns-0", "ns-1"].map(|name| ListQuery { namespaces: set(&[name]), sort, ..ListQuery::default() });
    for query in &pages {
        assert_eq!(query_page(&mut table, query).1.total, 1);
    }
    let old = table.rows_in("ns-0").next().unwrap().clone();
    let moved = SampleRow::new(old.name().to_owned(), Some("ns-1".to_owned()));
    table.apply(0, (old.namespace(), old.name()), vec![Row::of(&moved).unwrap()]);
    let totals = pages.map(|query| query_page(&mut table, &query).1.total);
    assert_eq!(totals, [0, 2]);
}
