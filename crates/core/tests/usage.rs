//! Usage of CPU and memory on pages, and over time, on the in-memory ports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use futures_executor::block_on;
use futures_util::StreamExt;
use jiff::Timestamp;
use pilothouse_core::{
    Cause,
    access::Caller,
    app::{App, AppSettings},
    gate::Warning,
    ids::{ClusterId, UserId},
    inventory::{List, ListPage, SearchQuery, WatchEvent, WatchQuery},
    kind::Kind,
    name::{Namespace, ObjectName},
    role::Role,
    streams::StreamEvent,
    testing::{fake::Fake, new_cluster},
    usage::{KnownUsage, Measured, Subject, Usage, UsageHistory, UsageTableBuilder},
};
use serde_json::json;

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

fn caller(role: Role) -> Caller {
    Caller { user_id: Some(UserId(7)), username: "ann".into(), ..Caller::system().with_role(role) }
}

fn usage(cpu_millis: i64, at: Timestamp) -> Usage {
    Usage { cpu_millis, memory_bytes: 1024, at }
}

fn pairs(cluster: ClusterId, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = [("cluster_id".to_owned(), cluster.to_string())];
    own.into_iter()
        .chain(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        .collect()
}

impl Fixture {
    /// A fixture with the pods `a`, `b`, `c` and the node `n1`, of which all but `b` are measured.
    fn new(warning: Option<Warning>) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
        for name in ["a", "b", "c"] {
            fake.clusters.put(cluster, Kind::Pod, json!({"metadata": {"name": name, "namespace": "shop"}}));
        }
        fake.clusters.put(cluster, Kind::Node, json!({"metadata": {"name": "n1"}}));
        let fixture = Self { fake, app, cluster };
        fixture.measure(&[("a", 5), ("c", 9)], warning);
        fixture
    }

    /// Measures these pods, and the node.
    fn measure(&self, pods: &[(&str, i64)], warning: Option<Warning>) {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut table = UsageTableBuilder::default();
        for &(name, cpu) in pods {
            table.add(Subject::Pod { namespace: "shop", name }, usage(cpu, at));
        }
        table.add(Subject::Node { name: "n1" }, usage(100, at));
        self.fake.clusters.measure(self.cluster, KnownUsage { table: Arc::new(table.finish()), warning });
    }

    fn page(&self, list: List, more: &[(&str, &str)]) -> ListPage {
        let query = list.parse_page(&pairs(self.cluster, more)).unwrap();
        block_on(self.app.lists.page(&caller(Role::Viewer), self.cluster, list, &query)).unwrap()
    }
}

/// Name and CPU of each row.
fn shown(page: &ListPage) -> Vec<(&str, Option<i64>)> {
    assert_eq!(page.listing.rows.len(), page.usage.len());
    let rows = page.listing.rows.iter().zip(&page.usage);
    rows.map(|(row, usage)| (row.name(), usage.map(|usage| usage.cpu_millis))).collect()
}

#[test]
fn pages_show_usage_and_are_sorted_by_it() {
    let fixture = Fixture::new(None);
    let shop = ("namespace", "shop");
    assert_eq!(shown(&fixture.page(List::Pods, &[shop])), [("a", Some(5)), ("b", None), ("c", Some(9))]);
    let sorted = fixture.page(List::Pods, &[shop, ("sort", "-usage_cpu"), ("per_page", "2")]);
    assert_eq!(shown(&sorted), [("c", Some(9)), ("a", Some(5))]);
    assert_eq!((sorted.listing.pagination.total, sorted.listing.pagination.pages), (3, 2));
    let second = fixture.page(List::Pods, &[shop, ("sort", "-usage_cpu"), ("per_page", "2"), ("page", "2")]);
    assert_eq!(shown(&second), [("b", None)]);
    assert_eq!(shown(&fixture.page(List::Nodes, &[])), [("n1", Some(100))]);
    assert!(fixture.page(List::Events, &[shop]).usage.is_empty());
}

#[test]
fn absent_api_is_one_warning_and_no_error() {
    let fixture = Fixture::new(Some(Warning::NotServed("metrics.k8s.io")));
    let known = KnownUsage { warning: Some(Warning::NotServed("metrics.k8s.io")), ..KnownUsage::default() };
    fixture.fake.clusters.measure(fixture.cluster, known);
    for sort in ["name", "usage_memory"] {
        let page = fixture.page(List::Pods, &[("namespace", "shop"), ("sort", sort)]);
        assert_eq!(page.listing.warnings, [Warning::NotServed("metrics.k8s.io")]);
        assert_eq!((page.listing.rows.len(), page.usage.len()), (3, 0));
    }
}

#[test]
fn search_and_watch_of_rows_have_no_usage() {
    let fixture = Fixture::new(None);
    let search = |sort: &str| {
        let pairs = [("kind", "pods"), ("q", "a"), ("sort", sort)];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        SearchQuery::parse(&pairs)
    };
    assert_eq!(search("usage_cpu").unwrap_err().context.fields[0].name, "sort");
    let query = search("name").unwrap();
    let found = block_on(fixture.app.fleet.search(&caller(Role::Viewer), &query)).unwrap();
    assert!(found.rows[0].row.json().ends_with("\"usage\":null}"));

    let query =
        WatchQuery::parse(&pairs(fixture.cluster, &[("kind", "pods"), ("namespace", "shop")])).unwrap();
    let mut stream = block_on(fixture.app.watches.watch(&Caller::system(), query)).unwrap();
    let Some(StreamEvent::Next(WatchEvent::Rows(rows))) = block_on(stream.next()) else { panic!("no rows") };
    assert!(rows.iter().all(|(_, row)| row.json().ends_with("\"usage\":null}")));
}

#[test]
fn window_is_sent_again_after_a_measurement() {
    let fixture = Fixture::new(None);
    let _events = fixture.fake.clusters.next_watch();
    let more = [("kind", "pods"), ("namespace", "shop"), ("sort", "-usage_cpu"), ("per_page", "2")];
    let query = WatchQuery::parse(&pairs(fixture.cluster, &more)).unwrap();
    let mut stream = block_on(fixture.app.watches.watch(&Caller::system(), query)).unwrap();
    let mut next = || match block_on(stream.next()) {
        Some(StreamEvent::Next(WatchEvent::Window { rows, usage, pagination, .. })) => {
            assert_eq!((rows.len(), usage.len(), pagination.total), (2, 2, 3));
            let names = rows.iter().map(|row| row.name().to_owned());
            names.zip(usage.iter().map(|usage| usage.map(|usage| usage.cpu_millis))).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(next(), [("c".to_owned(), Some(9)), ("a".to_owned(), Some(5))]);
    // no row changes
    fixture.measure(&[("a", 5), ("c", 3)], None);
    assert_eq!(next(), [("a".to_owned(), Some(5)), ("c".to_owned(), Some(3))]);
    fixture.measure(&[], None);
    assert_eq!(next(), [("a".to_owned(), None), ("b".to_owned(), None)]);
}

#[test]
fn series_is_of_an_existing_object_and_of_the_last_minutes() {
    let fixture = Fixture::new(None);
    let measured = |namespace: Option<&str>, name: &str| Measured {
        namespace: namespace.map(|namespace| Namespace::new(namespace).unwrap()),
        name: ObjectName::new(name).unwrap(),
    };
    let read = |role, measured: &Measured, minutes| {
        let caller = caller(role);
        let series = fixture.app.usage.series(&caller, fixture.cluster, measured, minutes);
        block_on(series).map(|(series, _)| series.points.len()).map_err(|error| error.cause)
    };
    let (pod, node) = (measured(Some("shop"), "a"), measured(None, "n1"));
    assert_eq!((read(Role::Viewer, &pod, 60), read(Role::Viewer, &node, 60)), (Ok(1), Ok(1)));
    assert_eq!(read(Role::Viewer, &measured(Some("shop"), "none"), 60), Err(Cause::NotFoundInCluster));
    assert_eq!(read(Role::None, &pod, 60), Err(Cause::NotFound));
    fixture.fake.runtime.clock.advance(Duration::from_secs(120));
    assert_eq!((read(Role::Viewer, &pod, 3), read(Role::Viewer, &pod, 1)), (Ok(1), Ok(0)));
    assert_eq!(UsageHistory::MAX_MINUTES, 60);
}
