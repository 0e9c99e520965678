//! Fleet search and overview on the in-memory ports: each cluster has its own result, and no request waits for a
//! hanging cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Code,
    access::Caller,
    app::{App, AppSettings},
    ids::ClusterId,
    inventory::{ClusterResultStatus, FoundRow, List, SearchQuery, SearchResults},
    kind::Kind,
    testing::{
        fake::{Condition, Fake},
        new_cluster,
    },
};
use serde_json::json;

struct Fixture {
    fake: Fake,
    app: App,
    clusters: Vec<ClusterId>,
}

impl Fixture {
    /// A fixture with this many clusters, each with the pods `a`, `b` and `c` in `shop`, and one pod with a unique
    /// name.
    fn of(count: usize) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let register = |n: usize| {
            let cluster = new_cluster(&format!("cluster-{n}"));
            let id = block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id;
            for (name, phase) in
                [("a", "Running"), ("b", "Pending"), ("c", "Running"), (&*format!("only-{n}"), "Failed")]
            {
                let pod =
                    json!({"metadata": {"name": name, "namespace": "shop"}, "status": {"phase": phase}});
                fake.clusters.put(id, Kind::Pod, pod);
            }
            id
        };
        let clusters = (0..count).map(register).collect();
        Self { fake, app, clusters }
    }

    fn search(&self, pairs: &[(&str, &str)]) -> pilothouse_core::Result<SearchResults> {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        block_on(self.app.fleet.search(&Caller::system(), &SearchQuery::parse(&pairs)?))
    }
}

/// `name@cluster` of each row.
fn rows(found: &SearchResults) -> Vec<String> {
    let name = |FoundRow { cluster, row, .. }: &FoundRow| {
        format!("{}@{}", row.name(), found.clusters[*cluster].name)
    };
    found.rows.iter().map(name).collect()
}

#[test]
fn fleet_search_sorts_rows_of_all_clusters() {
    let fixture = Fixture::of(3);
    let pods = ("kind", "pods");
    let found = fixture.search(&[pods, ("q", "B")]).unwrap();
    assert_eq!(rows(&found), ["b@cluster-0", "b@cluster-1", "b@cluster-2"]);
    assert!(
        found.clusters.iter().all(|part| part.status == ClusterResultStatus::Ok && part.total == Some(1))
    );
    let found = fixture.search(&[pods, ("q", "o"), ("sort", "-name"), ("per_page", "2")]).unwrap();
    assert_eq!(rows(&found), ["only-2@cluster-2", "only-1@cluster-1"]);
    assert_eq!((found.pagination.total, found.pagination.pages), (3, 2));
    let found =
        fixture.search(&[pods, ("q", "o"), ("sort", "-name"), ("per_page", "2"), ("page", "2")]).unwrap();
    assert_eq!(rows(&found), ["only-0@cluster-0"]);
    let found = fixture.search(&[pods, ("q", "a"), ("namespace", "other")]).unwrap();
    assert_eq!(found.pagination.total, 0);
    let deep = fixture.search(&[pods, ("q", "a"), ("per_page", "500"), ("page", "21")]).unwrap_err();
    assert_eq!(deep.context.fields[0].name, "page");
}

#[test]
fn search_of_several_kinds_has_one_order() {
    let fixture = Fixture::of(2);
    for (cluster, created_at) in fixture.clusters.iter().zip(["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"])
    {
        let metadata = json!({"name": "a", "namespace": "shop", "creationTimestamp": created_at,
            "labels": {"app": "web"}});
        fixture.fake.clusters.put(*cluster, Kind::Service, json!({"metadata": metadata}));
        let node = json!({"metadata": {"name": "node-a"}});
        fixture.fake.clusters.put(*cluster, Kind::Node, node);
    }
    let found = |more: &[(&str, &str)]| {
        let results = fixture.search(&[&[("q", "a")][..], more].concat()).unwrap();
        let name = |found: &FoundRow| format!("{} {}", found.list.info().key, found.row.name());
        let names: Vec<_> = results.rows.iter().map(name).collect();
        assert_eq!(
            results.pagination.total,
            results.clusters.iter().filter_map(|part| part.total).sum::<u64>()
        );
        let numbers: Vec<_> = results.rows.iter().map(|found| found.cluster).collect();
        (names, numbers)
    };
    let both = ("kind", "services,pods");
    let pods_and_services = ["services a", "pods a", "services a", "pods a"];
    assert_eq!(found(&[both]), (pods_and_services.map(str::to_owned).to_vec(), vec![0, 0, 1, 1]));
    let (names, clusters) = found(&[both, ("sort", "created_at")]);
    assert_eq!(
        (names.join(","), clusters),
        ("services a,services a,pods a,pods a".to_owned(), vec![1, 0, 0, 1])
    );
    let (names, _) = found(&[both, ("sort", "-level")]);
    assert_eq!(names.join(","), "pods a,pods a,services a,services a", "services have no level");
    let (names, _) = found(&[both, ("level", "ok,bad")]);
    assert_eq!(names.join(","), "pods a,pods a");
    let (names, _) = found(&[both, ("label", "app=web")]);
    assert_eq!(names.join(","), "services a,services a");
    let (names, _) = found(&[("kind", "nodes,pods"), ("per_page", "1"), ("page", "2"), ("sort", "-name")]);
    assert_eq!(names.join(","), "nodes node-a");
}

#[test]
fn search_of_several_kinds_takes_only_shared_parameters() {
    let fixture = Fixture::of(1);
    let refused = |more: &[(&str, &str)]| {
        let error = fixture.search(&[&[("q", "a")][..], more].concat()).unwrap_err();
        let fields = error.context.fields.iter();
        fields.map(|field| format!("{}={}", field.name, field.reason)).collect::<Vec<_>>().join(" ")
    };
    let both = ("kind", "pods,services");
    let cases = [
        (vec![("kind", "")], "kind=required"),
        (vec![("kind", "pods,")], "kind=required"),
        (vec![("kind", "pods,pods")], "kind=duplicate"),
        (vec![("kind", "pods,users")], "kind=not_one_of"),
        (vec![both, ("status", "Running"), ("page", "0")], "status=unknown page=out_of_range"),
        (vec![both, ("type", "ClusterIP")], "type=unknown"),
        (vec![both, ("sort", "restarts")], "sort=not_one_of"),
        (vec![both, ("sort", "--name")], "sort=not_one_of"),
        (vec![both, ("level", "worst")], "level=not_one_of"),
        (vec![both, ("label", "a b")], "label=malformed"),
        (vec![("kind", "services,configmaps"), ("level", "bad")], "level=unknown"),
        (vec![("kind", "services,configmaps"), ("sort", "level")], "sort=not_one_of"),
        (vec![("kind", "pods,nodes"), ("namespace", "shop")], "namespace=unknown"),
    ];
    for (pairs, expected) in cases {
        assert_eq!(refused(&pairs), expected, "{pairs:?}");
    }
}

#[test]
fn pages_of_any_size_cover_the_whole_result() {
    let fixture = Fixture::of(4);
    let whole = rows(&fixture.search(&[("kind", "pods"), ("q", "-"), ("per_page", "500")]).unwrap());
    let all = rows(
        &fixture.search(&[("kind", "pods"), ("q", "n"), ("sort", "status"), ("per_page", "500")]).unwrap(),
    );
    assert_eq!((whole.len(), all.len()), (4, 4));
    for size in 1..5 {
        let mut read = Vec::new();
        for page in 1..=5 {
            let (size, page) = (size.to_string(), page.to_string());
            let query = [("kind", "pods"), ("q", "-"), ("per_page", &*size), ("page", &*page)];
            read.extend(rows(&fixture.search(&query).unwrap()));
        }
        assert_eq!(read, whole, "{size}");
    }
}

#[test]
fn hanging_failing_and_stale_clusters_do_not_affect_others() {
    let fixture = Fixture::of(4);
    let [_, hanging, failing, stale] = fixture.clusters[..] else { panic!("four clusters") };
    let as_of = "2026-01-01T00:00:00Z".parse().unwrap();
    fixture.fake.clusters.set(hanging, Condition::Hanging);
    fixture.fake.clusters.set(failing, Condition::Failing(Cause::ForbiddenByCluster));
    fixture.fake.clusters.set(stale, Condition::Cached { as_of, stale: true });
    let found = fixture.search(&[("kind", "pods"), ("q", "a")]).unwrap();
    assert_eq!(rows(&found), ["a@cluster-0", "a@cluster-3"]);
    assert_eq!(found.pagination.total, 2);
    let parts: Vec<_> =
        found.clusters.iter().map(|part| (part.status, part.error_code, part.total)).collect();
    let denied = Some(Code::PermissionDenied.as_str());
    assert_eq!(
        parts,
        [
            (ClusterResultStatus::Ok, None, Some(1)),
            (ClusterResultStatus::Pending, None, None),
            (ClusterResultStatus::Error, denied, None),
            (ClusterResultStatus::Stale, None, Some(1)),
        ]
    );
    assert_eq!(found.clusters[3].as_of, Some(as_of));

    let overview = block_on(fixture.app.fleet.overview(&Caller::system(), &[List::Pods])).unwrap();
    let pods = &overview.totals["pods"];
    assert_eq!((pods.total, pods.by_status["Running"], pods.by_status["Failed"]), (8, 4, 2));
    let statuses: Vec<_> = overview.clusters.iter().map(|cluster| cluster.status).collect();
    assert_eq!(
        statuses,
        [
            ClusterResultStatus::Ok,
            ClusterResultStatus::Pending,
            ClusterResultStatus::Error,
            ClusterResultStatus::Stale
        ]
    );
    assert!(overview.clusters[1].kinds.is_empty() && overview.clusters[3].stale);
}

#[test]
fn requests_to_a_hanging_cluster_are_limited() {
    let fixture = Fixture::of(2);
    fixture.fake.clusters.set(fixture.clusters[0], Condition::Hanging);
    fixture.fake.clusters.calls();
    for _ in 0..40 {
        let found = fixture.search(&[("kind", "pods"), ("q", "a")]).unwrap();
        assert_eq!(rows(&found), ["a@cluster-1"]);
    }
    assert_eq!(fixture.fake.clusters.calls().len(), 40 + 32, "at most 32 requests are in flight");
}

#[test]
fn overview_counts_all_kinds_with_a_status() {
    let fixture = Fixture::of(2);
    let overview = block_on(fixture.app.fleet.overview(&Caller::system(), &[])).unwrap();
    let kinds: Vec<_> = overview.totals.keys().map(String::as_str).collect();
    let expected =
        ["namespaces", "nodes", "persistent_volume_claims", "persistent_volumes", "pods", "workloads"];
    assert_eq!(kinds, expected);
    assert_eq!(overview.totals["pods"].total, 8);
    assert!(overview.clusters.iter().all(|cluster| cluster.kinds.len() == 6));
}
