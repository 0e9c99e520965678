//! CustomResourceDefinitions of a real cluster that come, change and go while their objects are listed and watched.

use std::sync::Arc;

use futures_util::{StreamExt, stream::BoxStream};
use pilothouse_core::{
    access::{AccessRequest, Caller, Resource},
    inventory::{
        ListEvent,
        objects::{ObjectApi, ObjectListing, ServedKind, ServedKinds},
    },
    testing,
};
use pilothouse_kube::CacheSettings;
use pilothouse_testbed::path_of;
use tokio::time::{Instant, sleep, timeout};

use super::{common::CLUSTER, *};

/// A definition of boats in a group of the test's own, in these versions, the last of which is stored.
fn definition(group: &str, versions: &[&str], columns: &[&str]) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let column = |name: &&str| json!({"name": name, "type": "string", "jsonPath": format!(".spec.{}", name.to_lowercase())});
    let columns: Vec<_> = columns.iter().map(column).collect();
    let version = |(at, name): (usize, &&str)| {
        json!({"name": name, "served": true, "storage": at + 1 == versions.len(), "schema": schema,
            "additionalPrinterColumns": columns})
    };
    let versions: Vec<_> = versions.iter().enumerate().map(version).collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("boats.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "versions": versions,
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"}},
    })
}

struct Cluster {
    adapter: KubeClusters,
    group: String,
    namespace: String,
}

impl Cluster {
    async fn kinds(&self) -> Arc<ServedKinds> {
        let access = AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(CLUSTER);
        let permit = testing::permit(&Caller::system(), access);
        self.adapter.kinds(&permit, Some(Duration::ZERO)).await.unwrap()
    }

    /// Waits until the boats are served in this version; in none: until they are served no more.
    async fn wait_for_version(&self, version: Option<&str>) -> Option<ServedKind> {
        let end = Instant::now() + TEST_TIMEOUT;
        loop {
            let kinds = self.kinds().await;
            let found = kinds.kinds.iter().find(|kind| kind.plural == "boats" && kind.group == self.group);
            if found.map(|kind| &*kind.version) == version {
                return found.cloned();
            }
            assert!(Instant::now() < end, "{version:?}, but {found:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn query(&self, served: &ServedKind) -> (Permit, ListQuery) {
        let kind = served.to_kind().unwrap();
        let permit = permit(Verb::List, kind, &self.namespace);
        let namespaces = NamespaceScope::One(common::namespace(&self.namespace));
        (permit, ListQuery { namespaces, kinds: vec![kind], ..ListQuery::default() })
    }

    async fn page(&self, served: &ServedKind) -> Result<ObjectListing> {
        let (permit, query) = self.query(served);
        ObjectApi::page(&self.adapter, &permit, served, &query).await
    }

    /// Waits until the boats have these columns and cells.
    async fn wait_for_cells(&self, served: &ServedKind, columns: &[&str], cells: &Value) {
        let end = Instant::now() + TEST_TIMEOUT;
        loop {
            let found = self.page(served).await.map(|page| {
                let names: Vec<_> = page.columns.iter().map(|column| column.name.clone()).collect();
                let rows = page.listing.rows.iter().map(|row| row.parse::<Value>().unwrap()["cells"].take());
                (names, Value::from_iter(rows))
            });
            if let Ok((names, rows)) = &found
                && names == columns
                && rows == cells
            {
                return;
            }
            assert!(Instant::now() < end, "{columns:?} {cells}, but {found:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn watch(&self, served: &ServedKind) -> BoxStream<'static, ListEvent> {
        let (permit, query) = self.query(served);
        self.adapter.watch(&permit, List::Objects, &query).await.unwrap().events
    }
}

/// Waits for the end of a watch.
async fn wait_for_end(mut events: BoxStream<'static, ListEvent>) {
    let end = async {
        loop {
            match events.next().await {
                Some(ListEvent::ConnectionChanged) => break,
                Some(ListEvent::Changes(_) | ListEvent::Freshness { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(TEST_TIMEOUT, end).await.unwrap();
}

#[tokio::test]
async fn definitions_that_come_change_and_go_are_noticed() {
    let (plane, _, admin, namespace) = fixture("definitions").await;
    let adapter =
        common::with_cache(admin_connection(plane), Deadlines::default(), CacheSettings::default()).0;
    let group = format!("{namespace}.day2.example.org");
    let cluster = Cluster { adapter, group, namespace };
    assert_eq!(cluster.wait_for_version(None).await, None, "the kinds without the definition");

    let first = definition(&cluster.group, &["v1"], &["Crew"]);
    admin.apply(&first).await.unwrap();
    let v1 = cluster.wait_for_version(Some("v1")).await.unwrap();
    assert!(v1.custom && v1.namespaced && v1.has_verb("watch"), "{v1:?}");
    let boat = |version: &str, spec: Value| {
        json!({"apiVersion": format!("{}/{version}", cluster.group), "kind": "Boat", "spec": spec,
            "metadata": {"name": "ship", "namespace": cluster.namespace}})
    };
    let ship = boat("v1", json!({"crew": "ann"}));
    let collection = format!("/apis/{}/v1/boats", cluster.group);
    admin.wait_until(&collection, |_| true, TEST_TIMEOUT).await.unwrap();
    admin.apply(&ship).await.unwrap();
    cluster.wait_for_cells(&v1, &["Name", "Crew"], &json!([["ship", "ann"]])).await;

    // a definition with another column: the list begins anew, and its watches end
    let events = cluster.watch(&v1).await;
    admin.apply(&definition(&cluster.group, &["v1"], &["Crew", "Port"])).await.unwrap();
    admin.apply(&boat("v1", json!({"crew": "ann", "port": "Vigo"}))).await.unwrap();
    cluster.wait_for_cells(&v1, &["Name", "Crew", "Port"], &json!([["ship", "ann", "Vigo"]])).await;
    wait_for_end(events).await;

    // a version that the cluster prefers: the list of the other one is dropped
    let events = cluster.watch(&v1).await;
    admin.apply(&definition(&cluster.group, &["v1", "v2"], &["Crew", "Port"])).await.unwrap();
    let v2 = cluster.wait_for_version(Some("v2")).await.unwrap();
    wait_for_end(events).await;
    cluster.wait_for_cells(&v2, &["Name", "Crew", "Port"], &json!([["ship", "ann", "Vigo"]])).await;

    let events = cluster.watch(&v2).await;
    admin.delete(&path_of(&first)).await.unwrap();
    cluster.wait_for_version(None).await;
    wait_for_end(events).await;
    let end = Instant::now() + TEST_TIMEOUT;
    // the API server answers for a deleted kind a little longer
    while !cluster.page(&v2).await.is_err_and(|error| error.cause == Cause::KindNotServed) {
        assert!(Instant::now() < end, "the kind is still served");
        cluster.kinds().await;
        sleep(Duration::from_millis(200)).await;
    }
    admin.delete(&format!("/api/v1/namespaces/{}", cluster.namespace)).await.unwrap();
}
