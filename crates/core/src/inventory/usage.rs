//! Usage of CPU and memory on the pages of lists: which object's usage a row shows, and pages sorted by usage. The usage
//! is no part of a stored row, so that a measurement is never a change of a row.

use std::cmp::Reverse;

use super::{Inventory, List, ListInfo, Listing};
use crate::{
    access::Permit,
    error::Result,
    pod::{PodRow, WORKLOAD},
    rows::{FieldInfo, ListQuery, ListRow, Pagination, Row},
    spawn::{Spawner, computed},
    usage::{KnownUsage, Subject, Usage, UsageApi, UsageTable},
    workload::{TYPE, WorkloadRow},
};

/// Number of rows above which a page sorted by usage is computed outside the threads that serve requests.
const MAX_INLINE_ROWS: usize = 1_000;

/// A page of a list, with the usage of its rows.
#[derive(Clone, Debug)]
pub(super) struct PageWithUsage {
    /// The page. The usage in its rows is null.
    pub(super) listing: Listing,
    /// The usage of each row, in the same order. Empty if none is known, or the list has no usage.
    pub(super) usage: Vec<Option<Usage>>,
}

impl PageWithUsage {
    /// Reads a page. `usage` is `None` where no usage is available.
    ///
    /// # Errors
    /// As [`Inventory::page`]; `Overloaded` if too many pages are sorted by usage at once.
    pub(super) async fn read(
        inventory: &dyn Inventory,
        usage: Option<&dyn UsageApi>,
        spawner: &dyn Spawner,
        permit: &Permit,
        list: List,
        query: &ListQuery,
    ) -> Result<Self> {
        let info = list.info();
        let (Some(of), Some(api)) = (info.usage, usage) else {
            return Ok(Self { listing: inventory.page(permit, list, query).await?, usage: Vec::new() });
        };
        let KnownUsage { table, warning } = api.known(permit).await;
        let mut page = match Order::of(info, query) {
            Some(order) if !table.is_empty() => {
                let all = ListQuery { page: 1, per_page: u64::MAX, sort: None, ..query.clone() };
                let listing = inventory.page(permit, list, &all).await?;
                let query = query.clone();
                let is_large = listing.rows.len() > MAX_INLINE_ROWS;
                let sort = move || Ok(sorted(listing, &query, order, |row| table.get(of(row))));
                if is_large { computed(spawner, sort).await? } else { sort()? }
            }
            _ => {
                let listing = inventory.page(permit, list, query).await?;
                let is_known = !table.is_empty();
                let usage = listing.rows.iter().filter(|_| is_known).map(|row| table.get(of(row))).collect();
                Self { listing, usage }
            }
        };
        page.listing.warnings.extend(warning);
        Ok(page)
    }
}

/// Order by usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    by_memory: bool,
    descending: bool,
}

impl Order {
    /// The order of a query, if it is by usage.
    fn of(info: &ListInfo, query: &ListQuery) -> Option<Self> {
        let sort = query.sort?;
        let FieldInfo { name, late, .. } = *(info.fields)().get(sort.field)?;
        late.then_some(Self { by_memory: name == "usage_memory", descending: sort.descending })
    }
}

/// The page that a query requests of all matching rows, which are sorted by namespace and name. Rows without usage come
/// last in both directions.
fn sorted(
    all: Listing,
    query: &ListQuery,
    Order { by_memory, descending }: Order,
    usage_of: impl Fn(&Row) -> Option<Usage>,
) -> PageWithUsage {
    let pagination = Pagination::of(query, all.rows.len() as u64);
    let mut rows: Vec<(Option<Usage>, Row)> = all.rows.into_iter().map(|row| (usage_of(&row), row)).collect();
    let value = |usage: &Usage| if by_memory { usage.memory_bytes } else { usage.cpu_millis };
    if descending {
        rows.sort_by_key(|(usage, _)| (usage.is_none(), usage.as_ref().map(|usage| Reverse(value(usage)))));
    } else {
        rows.sort_by_key(|(usage, _)| (usage.is_none(), usage.as_ref().map(value)));
    }
    let page = rows.into_iter().skip(query.offset()).take(query.limit());
    let (usage, rows) = page.unzip();
    PageWithUsage { listing: Listing { rows, pagination, ..all }, usage }
}

/// The node that a row shows.
pub(super) fn of_node(row: &Row) -> Subject<'_> {
    Subject::Node { name: row.name() }
}

/// The pod that a row shows.
pub(super) fn of_pod(row: &Row) -> Subject<'_> {
    Subject::Pod { namespace: row.namespace().unwrap_or_default(), name: row.name() }
}

/// The workload that a row shows.
pub(super) fn of_workload(row: &Row) -> Subject<'_> {
    Subject::Workload {
        namespace: row.namespace().unwrap_or_default(),
        r#type: field::<WorkloadRow>(TYPE).and_then(|field| row.text(field)).unwrap_or_default(),
        name: row.name(),
    }
}

/// Adds the usage of workloads to a table of pods, by the workloads in these rows of the list [`List::Pods`].
pub fn with_workloads(usage: UsageTable, pods: &[Row]) -> UsageTable {
    let Some(workload) = field::<PodRow>(WORKLOAD) else { return usage };
    usage.with_workloads(
        pods.iter().filter_map(|row| Some((row.namespace()?, row.name(), row.text(workload)?))),
    )
}

/// Index of a field.
fn field<R: ListRow>(name: &str) -> Option<usize> {
    R::FIELDS.iter().position(|field| field.name() == name)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::{inventory::LISTS, kind::Kind, usage::UsageTableBuilder};

    fn row(list: List, kind: Kind, object: &Value) -> Row {
        let project = list.info().project.unwrap();
        project(kind, &to_raw_value(object).unwrap()).unwrap().remove(0)
    }

    fn pod(name: &str, owner: &Value) -> Row {
        let metadata = json!({"name": name, "namespace": "shop", "ownerReferences": [owner],
            "labels": {"pod-template-hash": "5d9f"}});
        row(List::Pods, Kind::Pod, &json!({"metadata": metadata}))
    }

    fn usage(cpu_millis: i64, memory_bytes: i64) -> Usage {
        Usage { cpu_millis, memory_bytes, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn rows_with_usage_end_with_it_and_are_sorted_by_it() {
        for info in LISTS.iter().filter(|info| info.project.is_some()) {
            let fields = (info.fields)();
            let late: Vec<_> = fields.iter().filter(|field| field.late).map(|field| field.name).collect();
            let Some(of) = info.usage else {
                assert!(late.is_empty(), "{}", info.key);
                continue;
            };
            assert_eq!(late, ["usage_cpu", "usage_memory"], "{}", info.key);
            for kind in info.kinds.iter().chain(info.more_kinds) {
                let row = row(info.list, *kind, &json!({"metadata": {"name": "x", "namespace": "shop"}}));
                assert!(row.json().ends_with(",\"usage\":null}"), "{}", row.json());
                let namespace = "shop";
                let expected = match info.list {
                    List::Nodes => Subject::Node { name: "x" },
                    List::Pods => Subject::Pod { namespace, name: "x" },
                    _ => Subject::Workload { namespace, r#type: kind.info().singular, name: "x" },
                };
                assert_eq!(of(&row), expected);
            }
        }
    }

    #[test]
    fn workloads_have_the_usage_of_the_pods_that_their_rows_name() {
        let owner = json!({"kind": "ReplicaSet", "name": "web-5d9f", "controller": true});
        let pods = [pod("web-1", &owner), pod("web-2", &owner), pod("alone", &json!({}))];
        let mut builder = UsageTableBuilder::default();
        for (name, cpu) in [("web-1", 1), ("web-2", 2), ("alone", 4)] {
            builder.add(Subject::Pod { namespace: "shop", name }, usage(cpu, 1024));
        }
        let table = with_workloads(builder.finish(), &pods);
        let web = row(
            List::Workloads,
            Kind::Deployment,
            &json!({"metadata": {"name": "web", "namespace": "shop"}}),
        );
        assert_eq!(table.get(of_workload(&web)), Some(usage(3, 2048)));
    }

    #[test]
    fn page_sorted_by_usage_has_rows_without_usage_last() {
        let rows: Vec<_> = ["a", "b", "c", "d"].map(|name| pod(name, &json!({}))).into();
        let known = |row: &Row| match row.name() {
            "a" => Some(usage(5, 1)),
            "c" => Some(usage(7, 1)),
            "d" => Some(usage(5, 3)),
            _ => None,
        };
        let names = |by_memory, descending, page| -> Vec<String> {
            let listing = Listing {
                rows: rows.clone(),
                pagination: Pagination::default(),
                as_of: Timestamp::UNIX_EPOCH,
                stale: false,
                warnings: Vec::new(),
            };
            let query = ListQuery { page, per_page: 3, ..ListQuery::default() };
            let page = sorted(listing, &query, Order { by_memory, descending }, known);
            assert_eq!(page.listing.pagination.total, 4);
            let shown: Vec<_> = page.listing.rows.iter().map(known).collect();
            assert_eq!(page.usage, shown);
            page.listing.rows.iter().map(|row| row.name().to_owned()).collect()
        };
        assert_eq!(names(false, false, 1), ["a", "d", "c"]);
        assert_eq!(names(false, false, 2), ["b"]);
        assert_eq!(names(false, true, 1), ["c", "a", "d"]);
        assert_eq!(names(true, true, 1), ["d", "a", "c"]);
        assert_eq!(names(true, true, 2), ["b"]);
    }
}
