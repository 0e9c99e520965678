//! Kept lists against a real API server: whatever happens to objects, to the watch or to the server, they end up as a
//! direct list says.

use pilothouse_core::{
    inventory::{LISTS, ListScope},
    name::NamespaceScope,
};
use pilothouse_kube::CacheSettings;
use pilothouse_testbed::{Component, Signal};
use tokio::time::{Instant, sleep};

use super::*;

/// The adapter that keeps lists, and the one that reads them each time.
struct Pair {
    kept: KubeClusters,
    direct: KubeClusters,
}

impl Pair {
    fn of(plane: &ControlPlane) -> Self {
        let (kept, _) =
            common::with_cache(admin_connection(plane), Deadlines::default(), CacheSettings::default());
        Self { kept, direct: clusters(admin_connection(plane), Deadlines::default()).0 }
    }

    /// Every list of a cluster's objects that has no owner, of one namespace where there are any.
    async fn agree(&self, namespace: &str) {
        for info in LISTS.iter().filter(|info| info.scope != ListScope::Ours && info.owner.is_none()) {
            for kinds in [info.kinds].into_iter().chain(info.more_kinds.chunks(1)) {
                self.agree_on(info.list, kinds, namespace).await;
            }
        }
    }

    async fn agree_on(&self, list: List, kinds: &[Kind], namespace: &str) {
        let namespaces = match list.info().scope {
            ListScope::Namespaced => NamespaceScope::One(common::namespace(namespace)),
            _ => NamespaceScope::All,
        };
        let query = ListQuery { namespaces, kinds: kinds.to_vec(), per_page: 500, ..ListQuery::default() };
        let permit = match list.info().scope {
            ListScope::Namespaced => permit(Verb::List, list.info().kinds[0], namespace),
            _ => permit_all(Verb::List, list.info().kinds[0]),
        };
        let end = Instant::now() + PATIENCE;
        loop {
            // other tests change what has no namespace meanwhile; sooner or later there is a quiet moment
            let kept = self.kept.page(&permit, list, &query).await;
            let direct = self.direct.page(&permit, list, &query).await;
            if let (Ok(kept), Ok(direct)) = (&kept, &direct)
                && !kept.stale
                && (&kept.rows, kept.pagination) == (&direct.rows, direct.pagination)
            {
                assert_eq!(kept.warnings, direct.warnings);
                return;
            }
            assert!(Instant::now() < end, "{list:?}: kept {kept:#?}, direct {direct:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn every_list_is_as_a_direct_one_says() {
    let (plane, _, admin, namespace) = place("kept").await;
    let pair = Pair::of(plane);
    for object in samples::samples(&namespace) {
        admin.apply(&object).await.unwrap();
    }
    pair.agree(&namespace).await;
    // and again after changes of every sort, which the watches tell of
    let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    admin
        .patch(&deployment, &json!({"spec": {"replicas": 3}, "metadata": {"labels": {"changed": "yes"}}}))
        .await
        .unwrap();
    admin.apply(&samples::config_map(&namespace, "late")).await.unwrap();
    let gone = samples::config_map(&namespace, "gone");
    admin.apply(&gone).await.unwrap();
    admin.delete(&pilothouse_testbed::path_of(&gone)).await.unwrap();
    let mut quota = samples::resource_quota(&namespace, "limits");
    quota["spec"] = json!({"hard": {"count/configmaps": "17"}});
    admin.apply(&quota).await.unwrap();
    pair.agree(&namespace).await;
    let figures = pair.kept.list_cache_stats();
    assert!(
        figures.iter().all(|of| (of.fills, of.failures) == (of.clusters as u64, 0) || of.list == "workloads"),
        "{figures:#?}"
    );
}

#[tokio::test]
async fn after_each_fault_of_the_server_the_rows_are_true_again() {
    let plane = ControlPlane::builder().controllers(false).start().await.unwrap();
    let admin = plane.client();
    let pair = Pair::of(&plane);
    let list = async || pair.agree_on(List::ConfigMaps, &[Kind::ConfigMap], "default").await;
    let change = async |name: &str| drop(admin.apply(&samples::config_map("default", name)).await.unwrap());
    let query = ListQuery {
        namespaces: NamespaceScope::One(common::namespace("default")),
        kinds: vec![Kind::ConfigMap],
        ..ListQuery::default()
    };
    let permit = permit(Verb::List, Kind::ConfigMap, "default");
    change("first").await;
    list().await;

    // hanging: readable, and soon known to be old
    plane.signal(Component::ApiServer, Signal::Stop).unwrap();
    let end = Instant::now() + Duration::from_secs(31);
    loop {
        let listing = pair.kept.page(&permit, List::ConfigMaps, &query).await.unwrap();
        assert!(names(&listing).contains(&"first"));
        if listing.stale {
            break;
        }
        assert!(Instant::now() < end, "a silent watch is noticed");
        sleep(Duration::from_millis(200)).await;
    }
    plane.signal(Component::ApiServer, Signal::Cont).unwrap();
    change("after-hanging").await;
    list().await;

    // gone and back
    plane.restart(Component::ApiServer).await.unwrap();
    change("after-restart").await;
    list().await;
    assert!(pair.kept.list_cache_stats().iter().all(|of| of.stale == 0));

    // put back from a snapshot: what came after it never was, and versions go backwards
    let data = plane.dir().unwrap().join("etcd");
    let snapshot = plane.dir().unwrap().join("snapshot");
    plane.signal(Component::Etcd, Signal::Kill).unwrap();
    copy(&data, &snapshot);
    plane.restart(Component::Etcd).await.unwrap();
    for n in 0..20 {
        change(&format!("never-was-{n}")).await;
    }
    list().await;
    plane.signal(Component::Etcd, Signal::Kill).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&snapshot, &data);
    plane.restart(Component::Etcd).await.unwrap();
    plane.restart(Component::ApiServer).await.unwrap();
    change("after-restore").await;
    list().await;
    let listing = pair.kept.page(&permit, List::ConfigMaps, &query).await.unwrap();
    assert!(names(&listing).contains(&"after-restore") && !names(&listing).contains(&"never-was-1"));
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
