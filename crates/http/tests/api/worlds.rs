//! Non-interference of random rights: pairs of installations that differ only outside the grants of a caller answer
//! every read alike, byte for byte. `PILOTHOUSE_TEST_WORLDS` sets the number of pairs (`just rights`).

use std::sync::Arc;

use actix_web::test::TestRequest;
use pilothouse_core::{
    Cause,
    access::Caller,
    clock::Clock as _,
    cluster::{ClusterChange, NewCluster},
    grant::{GrantRecord, NewRequest, RoleRecord},
    ids::{ClusterId, UserId},
    kind::Kind,
    name::{Namespace, ObjectName},
    object::Labels,
    rights::{RoleName, RoleRules, Subject},
    role::Role,
    testing::{
        env_number,
        fake::{Condition, Fake, FakeRng, FakeRuntime},
        new_cluster,
    },
    workload::{Replicas, WorkloadRef, WorkloadType},
};
use pilothouse_http::{HttpSettings, NoopObserver};
use proptest::{prelude::*, sample, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::{
    non_interference::{is_live, seen, send, sign_in, targets},
    table::lines,
    test_app::{Credentials, Ready, Reply, TestApp, seed},
};

const NAMESPACES: [&str; 5] = ["shop", "team-a", "bank", "vault", "kube-system"];

/// What every pair is asked, besides random targets.
const TARGETS: [&str; 12] = [
    "/api/access/grants",
    "/api/access/requests",
    "/api/access/who?verb=list&resource=workloads&cluster_id={cluster}&namespace=shop",
    "/api/k8s/audit/operations",
    "/api/k8s/clusters",
    "/api/k8s/live?sub=kind%3Dpods%26cluster_id%3D{cluster}%26namespace%3D*%26page%3D1",
    "/api/k8s/overview?kind=pods",
    "/api/k8s/pods/logs/stream?cluster_id={cluster}&namespace=shop&pod_name=web-0",
    "/api/k8s/problems",
    "/api/k8s/search?kind=pods&q=web",
    "/api/k8s/watch?kind=pods&cluster_id={cluster}&namespace=*",
    "/api/k8s/workloads/logs/stream?cluster_id={cluster}&namespace=shop&type=deployment&name=web",
];

/// Paths of POST requests that read.
const POSTS: [&str; 3] = ["/api/access/requests", "/api/k8s/clusters/test", "/api/k8s/secrets/reveal"];

/// A grant to the caller.
#[derive(Clone, Debug)]
struct Held {
    /// A built-in role, `first-aid` (list workloads) or `lister` (list grants).
    role: &'static str,
    /// `demo`, `second` or `both` by ids, `label` (those of demo) or `all`.
    clusters: &'static str,
    /// Patterns; `None`: the whole cluster.
    namespaces: Option<&'static [&'static str]>,
}

impl Held {
    /// Whether the grant contains a namespace of a cluster, or what has no namespace.
    fn contains(&self, cluster: usize, namespace: Option<&str>) -> bool {
        let in_cluster = match self.clusters {
            "demo" | "label" => cluster == 0,
            "second" => cluster == 1,
            "both" => cluster < 2,
            _ => true,
        };
        let matches = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some("") => !name.starts_with("kube-"),
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        in_cluster
            && match (self.namespaces, namespace) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(patterns), Some(name)) => patterns.iter().any(|pattern| matches(pattern, name)),
            }
    }
}

/// A pair of installations, and what they are asked. Clusters are 0 (demo), 1 (second) and 2: another one, which has
/// another name in each installation unless a grant is on all clusters.
#[derive(Clone, Debug)]
struct Plan {
    grants: Vec<Held>,
    /// For each installation and each place (cluster and namespace), whether objects that the caller may not read are
    /// there.
    filled: [Vec<bool>; 2],
    /// For each installation, the place where another user acts.
    acts: [sample::Index; 2],
    /// The target, the body of a POST, and the cluster for `{cluster}`.
    asked: Vec<(String, Option<String>, usize)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    const ANY: &[&str] = &["*"];
    let patterns: [Option<&'static [&'static str]>; 5] =
        [None, Some(&["shop"]), Some(&["shop", "team-*"]), Some(&["bank", "kube-*"]), Some(ANY)];
    let roles = sample::select(vec!["viewer", "editor", "admin", "first-aid", "lister"]);
    let clusters = sample::select(vec!["demo", "second", "both", "label", "all"]);
    let held =
        (roles, clusters, sample::select(patterns.to_vec())).prop_map(|(role, clusters, namespaces)| {
            // whoever has the whole of all clusters sees all users act
            let namespaces = namespaces.or((clusters == "all").then_some(ANY));
            Held { role, clusters, namespaces }
        });
    let filled = || prop::collection::vec(any::<bool>(), 3 * NAMESPACES.len());
    let gets = prop::collection::vec((sample::select(targets()), Just(None::<String>), 0..3_usize), 8);
    let posts = lines().into_iter().filter(|line| line.method == "POST" && POSTS.contains(&&*line.path));
    let posts: Vec<_> = posts.map(|line| (line.path, Some(line.input))).collect();
    let posts = (sample::select(posts), 0..3_usize).prop_map(|((path, body), cluster)| (path, body, cluster));
    let asked = (gets, prop::collection::vec(posts, 3), 0..3_usize).prop_map(|(gets, posts, cluster)| {
        let always = TARGETS.iter().map(|target| ((*target).to_owned(), None, cluster));
        always.chain(gets).chain(posts).collect::<Vec<_>>()
    });
    (
        prop::collection::vec(held, 1..5),
        [filled(), filled()],
        [any::<sample::Index>(), any::<sample::Index>()],
        asked,
    )
        .prop_map(|(grants, filled, acts, asked)| Plan { grants, filled, acts, asked })
}

impl Plan {
    /// The roles of the grants that contain a place.
    fn roles(&self, cluster: usize, namespace: Option<&str>) -> Vec<&'static str> {
        let held = self.grants.iter().filter(|held| held.contains(cluster, namespace));
        held.map(|held| held.role).collect()
    }

    /// All places: each namespace of each cluster.
    fn places() -> impl Iterator<Item = (usize, &'static str)> {
        (0..3).flat_map(|cluster| NAMESPACES.map(|namespace| (cluster, namespace)))
    }

    /// The places that no grant contains.
    fn outside(&self) -> Vec<(usize, &'static str)> {
        Self::places()
            .filter(|(cluster, namespace)| self.roles(*cluster, Some(*namespace)).is_empty())
            .collect()
    }
}

/// One of two installations.
struct World {
    api: TestApp,
    clusters: [ClusterId; 3],
    ann: Credentials,
    target: i64,
}

impl World {
    /// The installation `n` (0 or 1) of a plan. The same number of rows is made in both: ids count all rows.
    async fn new(plan: &Plan, n: usize) -> Self {
        let rng = Arc::new(FakeRng::starting_at(1));
        let fake = Fake { runtime: FakeRuntime { rng, ..FakeRuntime::default() }, ..Fake::default() };
        let api = TestApp::over(fake, HttpSettings::default(), Ready::Yes, Arc::new(NoopObserver)).await;
        let word = ["first", "another"][n];
        let is_hidden = plan.grants.iter().all(|held| held.clusters != "all");
        let clusters = register(&api, if is_hidden { word } else { "third" }).await;
        give(&api, plan, clusters).await;
        fill(&api.fake, plan, clusters, n, word);
        if is_hidden {
            let as_of = api.fake.runtime.clock.now();
            let conditions =
                [Condition::Failing(Cause::Unreachable), Condition::Cached { as_of, stale: true }];
            api.fake.clusters.set(clusters[2], conditions[n]);
        }
        let outside = plan.outside();
        if !outside.is_empty() {
            let (cluster, namespace) = *plan.acts[n].get(&outside);
            act(&api, &format!("user-{word}"), clusters[cluster], namespace).await;
        }
        let ann = sign_in(&api, "ann").await;
        let target = api.user("target").await;
        Self { api, clusters, ann, target }
    }

    async fn ask(
        &self,
        credentials: &Credentials,
        (target, body, cluster): &(String, Option<String>, usize),
        etag: Option<&str>,
    ) -> Reply {
        let replaced = |text: &str| {
            let text = text.replace("{cluster}", &self.clusters[*cluster].to_string());
            let text = text.replace("{hidden}", &self.clusters[2].to_string()).replace("{absent}", "999999");
            text.replace("{user}", &self.target.to_string())
        };
        let request = match body {
            None => TestRequest::get(),
            Some(body) => {
                let request = TestRequest::post().set_payload(replaced(body));
                request.insert_header(("content-type", "application/json"))
            }
        };
        let request = request.uri(&replaced(target)).insert_header(("accept-encoding", "gzip"));
        let etag = etag.map(|etag| ("if-none-match", etag.to_owned())).into_iter();
        send(&self.api, credentials, etag.fold(request, TestRequest::insert_header)).await
    }
}

/// Labels the cluster demo, and registers two more.
async fn register(api: &TestApp, name: &str) -> [ClusterId; 3] {
    let (demo, system) = (ClusterId(api.cluster), Caller::system());
    let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let change = ClusterChange { labels: Some(labels("environment", "dev")), ..ClusterChange::default() };
    api.app.clusters.update(&system, demo, change).await.unwrap();
    let second = api.app.clusters.create(&system, new_cluster("second")).await.unwrap().value.id;
    let third =
        NewCluster { labels: labels("team", name), description: name.to_owned(), ..new_cluster(name) };
    let third = api.app.clusters.create(&system, third).await.unwrap().value.id;
    [demo, second, third]
}

/// Creates ann and her grants.
async fn give(api: &TestApp, plan: &Plan, [demo, second, _]: [ClusterId; 3]) {
    api.create_user("ann", Role::None).await;
    api.own_role().await;
    let rules = serde_json::from_value(json!([{"verbs": ["list"], "resources": ["grants"]}])).unwrap();
    let lister = RoleRecord {
        name: RoleName::new("lister").unwrap(),
        description: String::new(),
        rules: RoleRules::new(rules).unwrap(),
    };
    api.app.grants.create_role(&Caller::system(), lister).await.unwrap();
    for held in &plan.grants {
        let clusters = match held.clusters {
            "demo" => json!({"ids": [demo]}),
            "second" => json!({"ids": [second]}),
            "both" => json!({"ids": [demo, second]}),
            "label" => json!({"labels": "environment=dev"}),
            _ => json!({"all": true}),
        };
        let ann = UserId(api.user("ann").await);
        let record = grant(ann, held.role, clusters, json!(held.namespaces));
        api.app.grants.create(&Caller::system(), record).await.unwrap();
    }
}

fn grant(user: UserId, role: &str, clusters: Value, namespaces: Value) -> GrantRecord {
    GrantRecord {
        subject: Subject::User(user),
        role: RoleName::new(role).unwrap(),
        clusters: serde_json::from_value(clusters).unwrap(),
        reach: serde_json::from_value(namespaces).unwrap(),
        from: None,
        until: None,
        reason: None,
    }
}

/// Puts the same objects where ann may read them, and others elsewhere.
fn fill(fake: &Fake, plan: &Plan, clusters: [ClusterId; 3], n: usize, word: &str) {
    let put = |cluster: usize, kind: Kind, namespace: Option<&str>| {
        let mut metadata = json!({"name": word});
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        fake.clusters.put(clusters[cluster], kind, json!({"metadata": metadata}));
    };
    for ((cluster, namespace), filled) in Plan::places().zip(&plan.filled[n]) {
        let roles = plan.roles(cluster, Some(namespace));
        if !roles.is_empty() || *filled {
            seed(fake, clusters[cluster], namespace);
        }
        let reads = |role: &str| ["viewer", "editor", "admin"].contains(&role);
        if !*filled || roles.iter().any(|role| reads(role)) {
            continue;
        }
        // of these kinds, `first-aid` and `lister` read nothing
        for kind in [Kind::ConfigMap, Kind::Secret, Kind::Service, Kind::Event, Kind::ResourceQuota] {
            put(cluster, kind, Some(namespace));
        }
        if !roles.contains(&"first-aid") {
            put(cluster, Kind::Pod, Some(namespace));
            put(cluster, Kind::Deployment, Some(namespace));
        }
    }
    for cluster in 0..3 {
        if plan.roles(cluster, None).is_empty() {
            for kind in [Kind::Node, Kind::PersistentVolume, Kind::StorageClass] {
                put(cluster, kind, None);
            }
        }
    }
}

/// What another user does: signs in, gets a grant, asks for one, and changes a workload.
async fn act(api: &TestApp, username: &str, cluster: ClusterId, namespace: &str) {
    api.create_user(username, Role::None).await;
    sign_in(api, username).await;
    let user = UserId(api.user(username).await);
    let record = grant(user, "viewer", json!({"ids": [cluster]}), json!([namespace]));
    let asked = NewRequest {
        role: record.role.clone(),
        clusters: record.clusters.clone(),
        reach: record.reach.clone(),
        duration_seconds: 3600,
        reason: "maintenance".to_owned(),
    };
    api.app.grants.create(&Caller::system(), record).await.unwrap();
    let other = Caller { user_id: Some(user), username: username.to_owned(), ..Caller::system() };
    api.app.grants.request(&other, asked).await.unwrap();
    seed(&api.fake, cluster, namespace);
    let web = WorkloadRef {
        namespace: Namespace::new(namespace).unwrap(),
        kind: WorkloadType::Deployment,
        name: ObjectName::new("web").unwrap(),
    };
    let replicas = Replicas::try_from(3_i64).unwrap();
    api.app.workloads.scale(&other, cluster, &web, replicas).await.unwrap();
}

#[actix_web::test]
async fn what_is_outside_random_rights_changes_no_response() {
    let mut runner = TestRunner::default();
    for _ in 0..env_number("PILOTHOUSE_TEST_WORLDS", 30) {
        let plan = plan().new_tree(&mut runner).unwrap().current();
        let [one, other] = [World::new(&plan, 0).await, World::new(&plan, 1).await];
        for asked in &plan.asked {
            let mut etag: Option<String> = None;
            for _ in 0..2 {
                let reply = one.ask(&one.ann, asked, etag.as_deref()).await;
                let same = other.ask(&other.ann, asked, etag.as_deref()).await;
                if !is_live(&reply) {
                    assert_eq!(reply.text, same.text, "{asked:?} {plan:?}");
                }
                assert_eq!(seen(&reply), seen(&same), "{asked:?} {plan:?}");
                let Some(tag) = reply.header("etag") else { break };
                etag = Some(tag.to_owned());
            }
        }
        if !plan.outside().is_empty() {
            let users = ("/api/auth/users".to_owned(), None, 0);
            let admins = [sign_in(&one.api, "super").await, sign_in(&other.api, "super").await];
            let replies =
                [one.ask(&admins[0], &users, None).await, other.ask(&admins[1], &users, None).await];
            assert_ne!(replies[0].text, replies[1].text, "a super admin tells the installations apart");
        }
    }
}
