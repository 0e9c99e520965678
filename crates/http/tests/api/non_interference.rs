//! Non-interference: two installations that differ only outside a caller's rights answer every GET alike, byte for
//! byte. Clock, ids and random numbers are the same in both.

use std::{collections::BTreeSet, sync::Arc};

use actix_web::test::TestRequest;
use jiff::Timestamp;
use pilothouse_core::{
    Cause,
    access::Caller,
    clock::Clock as _,
    cluster::{ClusterChange, NewCluster},
    grant::GrantRecord,
    ids::{ClusterId, UserId},
    inventory::{LISTS, List, ListEvent},
    kind::{self, Kind},
    name::{Namespace, ObjectName},
    object::Labels,
    rights::{RoleName, Subject},
    role::Role,
    rows::{Change, ListScope, Row},
    testing::{
        fake::{Condition, Fake, FakeRng, FakeRuntime},
        new_cluster,
    },
    usage::{KnownUsage, Subject as Measured, Usage, UsageTableBuilder},
    workload::{Replicas, WorkloadRef, WorkloadType},
};
use pilothouse_http::{HttpSettings, NoopObserver, endpoints};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    table::lines,
    test_app::{Credentials, PASSWORD, Ready, Reply, TestApp, seed},
};

/// Rights of the caller ann: none; viewer in the namespace `shop` of the cluster `demo`; admin in `shop` and `team-*`
/// of it; editor in `shop` of the clusters with a label; admin in `demo` with the reach `cluster`; an own role with
/// `list workloads` in `shop`.
const KINDS: [&str; 6] = ["none", "name", "prefix", "label", "whole", "narrow"];

/// One of two installations.
struct World {
    api: TestApp,
    /// A cluster outside the rights.
    hidden: ClusterId,
    ann: Credentials,
}

impl World {
    /// Both worlds of a kind of rights.
    async fn both(kind: &str) -> [Self; 2] {
        [Self::new(kind, 0).await, Self::new(kind, 1).await]
    }

    /// The world `n` (0 or 1). The same number of rows is made in both: ids count all rows.
    async fn new(kind: &str, n: usize) -> Self {
        let rng = Arc::new(FakeRng::starting_at(1));
        let fake = Fake { runtime: FakeRuntime { rng, ..FakeRuntime::default() }, ..Fake::default() };
        let settings = HttpSettings::default();
        let api = TestApp::over(fake, settings, Ready::Yes, Arc::new(NoopObserver)).await;
        api.create_user("ann", Role::None).await;
        give(&api, kind).await;

        let word = ["bank", "vault"][n];
        let labels = Labels::from([("team".to_owned(), word.to_owned())]);
        let name = format!("hidden-{word}");
        let cluster = NewCluster { labels, description: word.to_owned(), ..new_cluster(&name) };
        let hidden = api.app.clusters.create(&Caller::system(), cluster).await.unwrap().value.id;
        let mut outside = vec![hidden];
        seed(&api.fake, hidden, word);
        if kind != "whole" {
            let demo = ClusterId(api.cluster);
            fill(&api.fake, demo, word, n);
            outside.push(demo);
        }
        if kind == "narrow" {
            for other in [Kind::ConfigMap, Kind::Secret, Kind::Service, Kind::Ingress, Kind::ResourceQuota] {
                let metadata = json!({"name": word, "namespace": "shop"});
                api.fake.clusters.put(ClusterId(api.cluster), other, json!({"metadata": metadata}));
            }
        }
        act(&api, word, [Role::Viewer, Role::SuperAdmin][n], &outside).await;
        let as_of = api.fake.runtime.clock.now();
        let conditions = [Condition::Failing(Cause::Unreachable), Condition::Cached { as_of, stale: true }];
        api.fake.clusters.set(hidden, conditions[n]);
        let ann = sign_in(&api, "ann").await;
        Self { api, hidden, ann }
    }

    async fn get(&self, credentials: &Credentials, target: &str, etag: Option<&str>) -> Reply {
        let target = target.replace("{cluster}", &self.api.cluster.to_string());
        let target = target.replace("{hidden}", &self.hidden.to_string()).replace("{absent}", "999999");
        let target = target.replace("{user}", &self.api.user("target").await.to_string());
        let request = TestRequest::get().uri(&target).insert_header(("accept-encoding", "gzip"));
        let etag = etag.map(|etag| ("if-none-match", etag.to_owned())).into_iter();
        send(&self.api, credentials, etag.fold(request, TestRequest::insert_header)).await
    }
}

/// Gives ann rights of this kind.
async fn give(api: &TestApp, kind: &str) {
    let demo = json!({"ids": [api.cluster]});
    let labels = Labels::from([("environment".to_owned(), "dev".to_owned())]);
    let change = ClusterChange { labels: Some(labels), ..ClusterChange::default() };
    api.app.clusters.update(&Caller::system(), ClusterId(api.cluster), change).await.unwrap();
    let own_role = api.own_role().await;
    let (role, clusters, namespaces) = match kind {
        "none" => return,
        "name" => ("viewer", demo, json!(["shop"])),
        "prefix" => ("admin", demo, json!(["shop", "team-*"])),
        "label" => ("editor", json!({"labels": "environment=dev"}), json!(["shop"])),
        "whole" => ("admin", demo, Value::Null),
        "narrow" => (own_role, demo, json!(["shop"])),
        kind => panic!("{kind} is not a kind of rights"),
    };
    let record = GrantRecord {
        subject: Subject::User(UserId(api.user("ann").await)),
        role: RoleName::new(role).unwrap(),
        clusters: serde_json::from_value(clusters).unwrap(),
        reach: serde_json::from_value(namespaces).unwrap(),
        from: None,
        until: None,
        reason: None,
    };
    api.app.grants.create(&Caller::system(), record).await.unwrap();
}

/// Puts objects outside the namespaces of ann into a cluster: other ones, and another number of them, in each world.
fn fill(fake: &Fake, cluster: ClusterId, word: &str, n: usize) {
    seed(fake, cluster, word);
    for i in 0..=n {
        let name = format!("{word}-{i}");
        let metadata = json!({"name": name});
        for kind in [Kind::Node, Kind::PersistentVolume, Kind::StorageClass] {
            fake.clusters.put(cluster, kind, json!({"metadata": metadata}));
        }
        for namespace in [word, "kube-system"] {
            let metadata = json!({"name": name, "namespace": namespace});
            for kind in [Kind::Pod, Kind::Event, Kind::ResourceQuota, Kind::PersistentVolumeClaim] {
                fake.clusters.put(cluster, kind, json!({"metadata": metadata}));
            }
        }
    }
    measure(fake, cluster, word, n);
}

/// Measures the pod inside the rights alike, and what is outside differently in each world.
fn measure(fake: &Fake, cluster: ClusterId, word: &str, n: usize) {
    let mut table = UsageTableBuilder::default();
    let mut add = |subject: Measured<'_>, cpu_millis, second| {
        let at = Timestamp::from_second(second).unwrap();
        table.add(subject, Usage { cpu_millis, memory_bytes: 1024, at });
    };
    add(Measured::Pod { namespace: "shop", name: "web-0" }, 5, 1_767_225_600);
    for i in 0..=n {
        let name = format!("{word}-{i}");
        add(Measured::Node { name: &name }, 100, 1_767_225_610);
        for namespace in [word, "kube-system"] {
            add(Measured::Pod { namespace, name: &name }, 7, 1_767_225_610 + i64::try_from(i).unwrap());
        }
        add(Measured::Workload { namespace: word, r#type: "deployment", name: &name }, 14, 1_767_225_610);
    }
    fake.clusters.measure(cluster, KnownUsage { table: Arc::new(table.finish()), warning: None });
}

/// What another user does: signs in, gets a grant, asks for one, and changes workloads in these clusters.
async fn act(api: &TestApp, word: &str, role: Role, clusters: &[ClusterId]) {
    let username = format!("other-{word}");
    api.create_user(&username, role).await;
    sign_in(api, &username).await;
    api.grant(&username).await;
    api.access_request(&username).await;
    let user_id = Some(UserId(api.user(&username).await));
    let other = Caller { user_id, username, ..Caller::system() };
    for cluster in clusters {
        let web = WorkloadRef {
            namespace: Namespace::new(word).unwrap(),
            kind: WorkloadType::Deployment,
            name: ObjectName::new("web").unwrap(),
        };
        let replicas = Replicas::try_from(3_i64).unwrap();
        api.app.workloads.scale(&other, *cluster, &web, replicas).await.unwrap();
    }
}

/// Sends a request with the same id in both worlds: rows of the trail contain it.
pub(crate) async fn send(api: &TestApp, credentials: &Credentials, request: TestRequest) -> Reply {
    let request = request.peer_addr("192.0.2.7:4711".parse().unwrap());
    let request = request.insert_header(("x-request-id", "the-same"));
    let headers = credentials.headers().into_iter();
    api.send(headers.fold(request, TestRequest::insert_header)).await
}

pub(crate) async fn sign_in(api: &TestApp, username: &str) -> Credentials {
    let body = json!({"username": username, "password": PASSWORD}).to_string();
    let request = TestRequest::post().uri("/api/auth/login").set_payload(body);
    let request = request.insert_header(("content-type", "application/json"));
    let data = send(api, &Credentials::default(), request).await.data();
    let text = |key: &str| data[key].as_str().map(str::to_owned);
    Credentials { bearer: text("access_token"), cookie: text("session_id") }
}

/// Every GET of `access.txt`, with variants of it that ask for what is outside, and every kind of object in every way
/// to read all of its objects.
pub(crate) fn targets() -> Vec<String> {
    let mut targets = Vec::new();
    for line in lines().into_iter().filter(|line| line.method == "GET") {
        let mut inputs = vec![line.input.clone()];
        if line.input.contains("=shop") || line.input.contains("%3Dshop") {
            let within = |namespace: &str| {
                let input = line.input.replace("=shop", &format!("={namespace}"));
                // in the query of a watch of a live stream
                input.replace("%3Dshop", &format!("%3D{namespace}").replace('&', "%26").replace('=', "%3D"))
            };
            inputs.extend(["bank", "vault", "kube-system", "*"].map(within));
            inputs.push(within("*&per_page=1&page=2&sort=-name"));
        }
        if line.input.contains("{cluster}") {
            inputs.push(line.input.replace("{cluster}", "{hidden}"));
        }
        let target = |input: String| {
            if input.is_empty() { line.path.clone() } else { format!("{}?{input}", line.path) }
        };
        targets.extend(inputs.into_iter().map(target));
    }
    for info in LISTS.iter().filter(|info| info.project.is_some()) {
        let key = info.key;
        targets.push(format!("/api/k8s/search?kind={key}&q=a"));
        targets.push(format!("/api/k8s/overview?kind={key}"));
        targets.push(format!("/api/k8s/watch?kind={key}&cluster_id={{cluster}}"));
        targets.push(format!("/api/k8s/watch?kind={key}&cluster_id={{cluster}}&namespace=*"));
        if info.usage.is_some() {
            let scope = if info.scope == ListScope::Cluster { "" } else { "&namespace=*" };
            targets.push(format!("{}?cluster_id={{cluster}}{scope}&sort=-usage_cpu", info.path));
        }
    }
    for kind in kind::KINDS.iter().filter(|kind| **kind != Kind::Secret) {
        let resource = kind.resource_name();
        let scope = if kind.info().namespaced { "&namespace=*" } else { "" };
        for path in ["/api/k8s/objects", "/api/k8s/watch"] {
            targets.push(format!("{path}?cluster_id={{cluster}}&resource={resource}{scope}"));
        }
    }
    targets
}

/// Names and values of headers.
type Headers = BTreeSet<(String, Vec<u8>)>;

/// Status, headers and body of a response. The events of a live stream are sorted: which of two watches is first depends
/// on time.
pub(crate) fn seen(reply: &Reply) -> (u16, Headers, Vec<&[u8]>) {
    let headers = reply.headers.iter().filter(|(name, _)| name.as_str() != "date");
    let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut body: Vec<&[u8]> = if is_live(reply) {
        reply.text.split("\n\n").map(str::as_bytes).collect()
    } else {
        vec![reply.bytes.as_slice()]
    };
    body.sort_unstable();
    (reply.status.as_u16(), headers.collect(), body)
}

/// Whether the response is a live stream of several watches.
pub(crate) fn is_live(reply: &Reply) -> bool {
    reply.text.contains("data: {\"sub\":")
}

#[test]
fn every_route_that_reads_is_asked() {
    let path = |target: String| target.split('?').next().unwrap().to_owned();
    let asked: BTreeSet<_> = targets().into_iter().map(path).collect();
    let gets = endpoints().into_iter().filter(|(method, _)| method == "GET");
    let gets: BTreeSet<_> = gets.map(|(_, path)| path.to_owned()).collect();
    assert_eq!(asked, gets);
}

#[actix_web::test]
async fn what_is_outside_the_rights_changes_no_response() {
    for kind in KINDS {
        let [one, other] = World::both(kind).await;
        for target in targets() {
            let mut etag: Option<String> = None;
            // the second time with the tag of the first world, which is also that of the other
            for _ in 0..2 {
                let reply = one.get(&one.ann, &target, etag.as_deref()).await;
                let same = other.get(&other.ann, &target, etag.as_deref()).await;
                if !is_live(&reply) {
                    assert_eq!(reply.text, same.text, "{kind}: {target}");
                }
                assert_eq!(seen(&reply), seen(&same), "{kind}: {target}");
                let Some(tag) = reply.header("etag") else { break };
                etag = Some(tag.to_owned());
            }
        }
    }
}

/// The test above compares something: what differs is shown to those who may see it.
#[actix_web::test]
async fn a_super_admin_tells_the_worlds_apart() {
    let [one, other] = World::both("name").await;
    let admins = [sign_in(&one.api, "super").await, sign_in(&other.api, "super").await];
    for target in [
        "/api/auth/users",
        "/api/access/requests",
        "/api/k8s/clusters",
        "/api/k8s/pods?cluster_id={cluster}&namespace=*",
        "/api/k8s/namespaces?cluster_id={cluster}",
        "/api/k8s/search?kind=pods&q=a",
        "/api/k8s/audit/operations",
        "/api/k8s/watch?kind=pods&cluster_id={cluster}&namespace=*",
    ] {
        let reply = one.get(&admins[0], target, None).await;
        let different = other.get(&admins[1], target, None).await;
        assert_eq!((reply.status.as_u16(), different.status.as_u16()), (200, 200), "{target}");
        assert_ne!(reply.text, different.text, "{target}");
        let reply = one.get(&one.ann, target, None).await;
        let same = other.get(&other.ann, target, None).await;
        assert_eq!(reply.text, same.text, "{target}");
    }
}

/// The row of a pod.
fn pod(namespace: &str, name: &str, phase: &str) -> Row {
    let metadata = json!({"name": name, "namespace": namespace});
    let object = to_raw_value(&json!({"metadata": metadata, "status": {"phase": phase}})).unwrap();
    List::Pods.info().project.unwrap()(Kind::Pod, &object).unwrap().remove(0)
}

#[actix_web::test]
async fn changes_outside_the_rights_are_in_no_stream() {
    for kind in ["name", "prefix", "label", "narrow"] {
        let worlds = World::both(kind).await;
        let mut streams = Vec::new();
        for (n, world) in worlds.iter().enumerate() {
            let events = world.api.fake.clusters.next_watch();
            for namespace in ["bank", "kube-system", "vault", "shop"] {
                let (before, after) = (pod(namespace, "new", "Pending"), pod(namespace, "new", "Running"));
                let changes = [
                    Change::Added(before.clone()),
                    Change::Changed(before, after.clone()),
                    Change::Removed(after),
                ];
                // in the first world, nothing changes outside
                if n == 1 || namespace == "shop" {
                    events.unbounded_send(ListEvent::Changes(changes.to_vec().into())).unwrap();
                }
            }
            drop(events);
            let target = "/api/k8s/watch?kind=pods&cluster_id={cluster}&namespace=*";
            streams.push(world.get(&world.ann, target, None).await);
        }
        let changed = |text: &str| text.matches("\"new\"").count();
        assert_eq!(changed(&streams[0].text), 3, "{kind}: {}", streams[0].text);
        assert_eq!(streams[0].text, streams[1].text, "{kind}");
    }
}
