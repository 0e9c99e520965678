use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::{
    inventory::{Field, ListRow, fields_of, select},
    name::Namespace,
};

/// Small enough that names, values and ties collide all the time.
#[derive(Clone, Debug, Serialize)]
struct Thing {
    name: String,
    namespace: String,
    status: Option<&'static str>,
    size: Option<i64>,
    ready: bool,
}

impl ListRow for Thing {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::filtered("status", Filter::Any, |row: &Self| row.status.map_or(Cell::Null, Cell::text))
            .counted(),
        Field::filtered("size", Filter::Number, |row| Cell::from(row.size)),
        Field::filtered("ready", Filter::OneOf(&["true", "false"]), |row| Cell::from(row.ready)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }

    fn search_terms(&self) -> Vec<&str> {
        self.status.into_iter().collect()
    }
}

fn thing() -> impl Strategy<Value = Thing> {
    let status = prop::option::of(prop::sample::select(&["on", "Off", "Größe \"x\"\n"][..]));
    ("[abA]{1,2}", "[xy]", status, prop::option::of(-1i64..3), any::<bool>())
        .prop_map(|(name, namespace, status, size, ready)| Thing { name, namespace, status, size, ready })
}

/// What a watch does to a table.
#[derive(Clone, Debug)]
enum Step {
    /// An object of a source has these sizes, a row each; none is its end.
    Object(Source, Thing, Vec<i64>),
    /// A source is read anew.
    Refill(Source, Vec<Thing>),
    /// Somebody asks.
    Ask(ListQuery),
}

fn step() -> impl Strategy<Value = Step> {
    let object = (0..2u8, thing(), prop::collection::vec(0i64..3, 0..3));
    prop_oneof![
        6 => object.prop_map(|(source, thing, sizes)| Step::Object(source, thing, sizes)),
        1 => (0..2u8, prop::collection::vec(thing(), 0..12)).prop_map(|(source, things)| Step::Refill(source, things)),
        3 => query().prop_map(Step::Ask),
    ]
}

fn query() -> impl Strategy<Value = ListQuery> {
    let sort = prop::option::of((0..4usize, any::<bool>()))
        .prop_map(|sort| sort.map(|(field, descending)| Sort { field, descending }));
    let filter = prop_oneof![
        prop::sample::select(&["on", "Off", "off", "1"][..]).prop_map(|value| (1, value.to_owned())),
        prop::sample::select(&["0", "-1", "2", "on"][..]).prop_map(|value| (2, value.to_owned())),
        prop::sample::select(&["true", "false"][..]).prop_map(|value| (3, value.to_owned())),
    ];
    let search = prop::option::of(prop::sample::select(&["a", "ab", "o", "größe", "\n"][..]));
    let filters = prop::collection::vec(filter, 0..2);
    (sort, filters, search, any::<bool>(), 1..4u64, prop::sample::select(&[1u64, 3, 100][..])).prop_map(
        |(sort, filters, search, one, page, per_page)| ListQuery {
            sort,
            filters,
            search: search.map(str::to_owned),
            namespaces: match one {
                true => NamespaceScope::One(Namespace::new("x").unwrap()),
                false => NamespaceScope::All,
            },
            page,
            per_page,
            ..ListQuery::default()
        },
    )
}

/// What the table should hold, kept plainly: the source and the row.
type Plain = Vec<(Source, Row)>;

fn ask(table: &mut Table, query: &ListQuery) -> (Vec<Row>, Pagination) {
    if let Some(page) = table.page(query) {
        return page;
    }
    let prepared = table.build_index(query);
    table.keep(prepared);
    table.page(query).expect("prepared")
}

/// What the changes make of the rows that somebody had seen.
fn told(seen: &mut Vec<Row>, changes: &[Change]) {
    let mut forget = |row: &Row| {
        let at = seen.iter().position(|seen| seen == row).expect("only what was there goes");
        seen.swap_remove(at);
    };
    for change in changes {
        if let Change::Removed(old) | Change::Changed(old, _) = change {
            forget(old);
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
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever comes and goes, and whatever is asked in between: the same rows, order and total as the plain way; the
    /// same counts; and who was told of every change knows the same rows.
    #[test]
    fn a_table_answers_as_the_reference_does(steps in prop::collection::vec(step(), 1..60), last in query()) {
        let mut table = Table::of(&fields_of::<Thing>());
        let (mut plain, mut seen) = (Plain::new(), Vec::new());
        for step in steps.into_iter().chain([Step::Ask(last)]) {
            match step {
                Step::Object(source, thing, sizes) => {
                    let rows: Vec<_> = sizes
                        .into_iter()
                        .map(|size| Row::of(&Thing { size: Some(size), ..thing.clone() }).unwrap())
                        .collect();
                    let its = |row: &Row| (row.namespace(), row.name()) == (Some(&*thing.namespace), &*thing.name);
                    plain.retain(|(of, row)| *of != source || !its(row));
                    plain.extend(rows.iter().map(|row| (source, row.clone())));
                    told(&mut seen, &table.apply(source, (Some(&thing.namespace), &thing.name), rows));
                }
                Step::Refill(source, things) => {
                    let rows: Vec<_> = things.iter().map(|thing| Row::of(thing).unwrap()).collect();
                    plain.retain(|(of, _)| *of != source);
                    plain.extend(rows.iter().map(|row| (source, row.clone())));
                    let (refilled, changes) = table.replace_all(source, rows);
                    table = refilled;
                    told(&mut seen, &changes);
                }
                Step::Ask(query) => {
                    let rows = sorted(plain.iter().map(|(_, row)| row.clone()));
                    prop_assert_eq!(ask(&mut table, &query), select(rows, &query), "{:?}", query);
                }
            }
            prop_assert_eq!(table.len(), plain.len());
            for status in ["on", "Off"] {
                let counted = plain.iter().filter(|(_, row)| row.text(1) == Some(status)).count();
                prop_assert_eq!(table.counted_by("status", status), counted as u64);
            }
        }
        let kept: Vec<_> = table.rows().cloned().collect();
        prop_assert_eq!(&sorted(seen), &kept);
        prop_assert_eq!(&sorted(plain.into_iter().map(|(_, row)| row)), &kept);
        let in_x: Vec<_> = table.rows_in("x").cloned().collect();
        prop_assert_eq!(in_x, kept.into_iter().filter(|row| row.namespace() == Some("x")).collect::<Vec<_>>());
    }
}

fn many(count: usize) -> Table {
    let rows = (0..count).map(|n| {
        let name = format!("web-{n:06}-{}", ["even", "odd"][n % 2]);
        let thing =
            Thing { name, namespace: format!("ns-{}", n % 7), status: Some("on"), size: None, ready: true };
        Row::of(&thing).unwrap()
    });
    Table::of(&fields_of::<Thing>()).replace_all(0, rows.collect()).0
}

#[test]
fn names_of_rows_that_are_gone_are_not_kept_for_ever() {
    let mut table = many(3000);
    let search = ListQuery { search: Some("odd".to_owned()), ..ListQuery::default() };
    assert_eq!(ask(&mut table, &search).1.total, 1500);
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
    assert_eq!(ask(&mut table, &search).1.total, 0);
}

#[test]
fn a_row_takes_little_more_than_its_json() {
    let table = many(2000);
    let json: usize = table.rows().map(|row| row.json().len()).sum();
    let more = (table.bytes() - json) / table.len();
    assert!(more <= 150, "{more} bytes a row besides its JSON");
}

#[test]
fn only_so_many_orders_are_kept() {
    let mut table = many(10);
    for field in 0..4 {
        for descending in [false, true] {
            let query = ListQuery { sort: Some(Sort { field, descending }), ..ListQuery::default() };
            ask(&mut table, &query);
        }
    }
    assert!(table.orders.len() <= MOST_ORDERS + 1);
    assert!(table.page(&ListQuery::default()).is_some(), "the first order stays");
}
