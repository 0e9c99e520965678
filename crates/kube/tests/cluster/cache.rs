//! Cached lists against a real API server: after any change to objects, watches or the server, a cached list equals an
//! uncached list.

use pilothouse_core::{inventory::LISTS, namespaces::NamespaceScope, rows::ListScope};
use pilothouse_kube::CacheSettings;
use pilothouse_testbed::{Component, Signal};
use tokio::time::{Instant, sleep};

use super::*;

/// An adapter with the list cache and one without.
struct Pair {
    cached: KubeClusters,
    uncached: KubeClusters,
}

impl Pair {
    fn of(plane: &ControlPlane) -> Self {
        let (cached, _) =
            common::with_cache(admin_connection(plane), Deadlines::default(), CacheSettings::default());
        Self { cached, uncached: clusters(admin_connection(plane), Deadlines::default()).0 }
    }

    /// Compares every list of cluster objects that requires no owner; namespaced lists in one namespace.
    async fn compare_all(&self, namespace: &str) {
        for info in LISTS.iter().filter(|info| info.scope != ListScope::Local && info.owner.is_none()) {
            for kinds in [info.kinds].into_iter().chain(info.more_kinds.chunks(1)) {
                self.compare(info.list, kinds, namespace).await;
            }
        }
    }

    async fn compare(&self, list: List, kinds: &[Kind], namespace: &str) {
        let namespaces = match list.info().scope {
            ListScope::Namespaced => NamespaceScope::One(common::namespace(namespace)),
            _ => NamespaceScope::All,
        };
        let query = ListQuery { namespaces, kinds: kinds.to_vec(), per_page: 500, ..ListQuery::default() };
        let permit = match list.info().scope {
            ListScope::Namespaced => permit(Verb::List, list.info().kinds[0], namespace),
            _ => permit_all(Verb::List, list.info().kinds[0]),
        };
        let end = Instant::now() + TEST_TIMEOUT;
        loop {
            // other tests change cluster-scoped objects concurrently, so the comparison is repeated until it matches
            let cached = self.cached.page(&permit, list, &query).await;
            let uncached = self.uncached.page(&permit, list, &query).await;
            if let (Ok(cached), Ok(uncached)) = (&cached, &uncached)
                && !cached.stale
                && (&cached.rows, cached.pagination) == (&uncached.rows, uncached.pagination)
            {
                assert_eq!(cached.warnings, uncached.warnings);
                return;
            }
            assert!(Instant::now() < end, "{list:?}: cached {cached:#?}, uncached {uncached:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn cached_lists_equal_uncached_lists() {
    let (plane, _, admin, namespace) = fixture("cached").await;
    let pair = Pair::of(plane);
    for object in samples::samples(&namespace) {
        admin.apply(&object).await.unwrap();
    }
    pair.compare_all(&namespace).await;
    // again after changes of every kind, which arrive as watch events
    let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    admin
        .patch(&deployment, &json!({"spec": {"replicas": 3}, "metadata": {"labels": {"changed": "yes"}}}))
        .await
        .unwrap();
    admin.apply(&samples::config_map(&namespace, "late")).await.unwrap();
    let deleted = samples::config_map(&namespace, "gone");
    admin.apply(&deleted).await.unwrap();
    admin.delete(&pilothouse_testbed::path_of(&deleted)).await.unwrap();
    let mut quota = samples::resource_quota(&namespace, "limits");
    quota["spec"] = json!({"hard": {"count/configmaps": "17"}});
    admin.apply(&quota).await.unwrap();
    pair.compare_all(&namespace).await;
    let stats = pair.cached.list_cache_stats();
    assert!(
        stats
            .iter()
            .all(|list| (list.fills, list.failures) == (list.clusters as u64, 0) || list.list == "workloads"),
        "{stats:#?}"
    );
}

#[tokio::test]
async fn cached_rows_are_correct_after_each_server_fault() {
    let plane = ControlPlane::builder().controllers(false).start().await.unwrap();
    let admin = plane.client();
    let pair = Pair::of(&plane);
    let compare = async || pair.compare(List::ConfigMaps, &[Kind::ConfigMap], "default").await;
    let change = async |name: &str| drop(admin.apply(&samples::config_map("default", name)).await.unwrap());
    let query = ListQuery {
        namespaces: NamespaceScope::One(common::namespace("default")),
        kinds: vec![Kind::ConfigMap],
        ..ListQuery::default()
    };
    let permit = permit(Verb::List, Kind::ConfigMap, "default");
    change("first").await;
    compare().await;

    // API server hangs: the list stays readable and becomes stale
    plane.signal(Component::ApiServer, Signal::Stop).unwrap();
    let end = Instant::now() + Duration::from_secs(31);
    loop {
        let listing = pair.cached.page(&permit, List::ConfigMaps, &query).await.unwrap();
        assert!(names(&listing).contains(&"first"));
        if listing.stale {
            break;
        }
        assert!(Instant::now() < end, "the list becomes stale");
        sleep(Duration::from_millis(200)).await;
    }
    plane.signal(Component::ApiServer, Signal::Cont).unwrap();
    change("after-hanging").await;
    compare().await;

    // API server restarts
    plane.restart(Component::ApiServer).await.unwrap();
    change("after-restart").await;
    compare().await;
    assert!(pair.cached.list_cache_stats().iter().all(|list| list.stale == 0));

    // etcd is restored from a snapshot: later writes are lost, and versions go backwards
    let data = plane.dir().unwrap().join("etcd");
    let snapshot = plane.dir().unwrap().join("snapshot");
    plane.signal(Component::Etcd, Signal::Kill).unwrap();
    copy(&data, &snapshot);
    plane.restart(Component::Etcd).await.unwrap();
    for n in 0..20 {
        change(&format!("lost-{n}")).await;
    }
    compare().await;
    plane.signal(Component::Etcd, Signal::Kill).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&snapshot, &data);
    plane.restart(Component::Etcd).await.unwrap();
    plane.restart(Component::ApiServer).await.unwrap();
    change("after-restore").await;
    compare().await;
    let listing = pair.cached.page(&permit, List::ConfigMaps, &query).await.unwrap();
    assert!(names(&listing).contains(&"after-restore") && !names(&listing).contains(&"lost-1"));
    plane.stop().await.unwrap();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}
