//! Use cases on the in-memory ports for a caller whose rights are grants: lists, searches, counts, streams, clusters and
//! audit rows contain only what the rights reach.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::StreamExt;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Caller, Origin, Permit, Resource, Verb},
    app::{App, AppSettings},
    audit::OperationQuery,
    clock::Clock as _,
    cluster::{
        ClusterChange, ClusterPatch, ClusterProbe, ClusterRegistry, CredentialInput, NewCluster, Permission,
        ProbeTarget, Probed,
    },
    connection::Connection,
    gate::Warning,
    grant::{GrantRecord, GrantRegistry, RoleRecord},
    ids::{ClusterId, GrantId, UserId},
    inventory::{List, ListPage, ListStream, SearchQuery, WatchQuery},
    kind::Kind,
    name::{Namespace, ObjectName},
    object::Labels,
    pod::{Follow, FollowStart, LogStream},
    rights::{RoleName, RoleRules, Subject},
    role::Role,
    rollout::Rollout,
    rows::{ListQuery, Row},
    session::{Activity, Login},
    streams::{EventStream, StreamEvent},
    testing::{fake::Fake, new_cluster, permit},
    user::{NewPassword, NewUser, Username},
    workload::{Replicas, WorkloadRef, WorkloadType},
    workload_log::{ContainerChoice, WorkloadLogEvent, WorkloadLogQuery, WorkloadLogStart},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

/// Three clusters with pods in three namespaces each, and the user `ann` of the role `none`.
struct Fixture {
    fake: Fake,
    app: App,
    clusters: Vec<ClusterId>,
    ann: Subject,
    tokens: pilothouse_core::session::Tokens,
}

impl Fixture {
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let clusters = ["one", "two", "three"].map(|name| {
            let labels = Labels::from([("environment".to_owned(), name.to_owned())]);
            let cluster = NewCluster { labels, ..new_cluster(name) };
            let id = block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id;
            for namespace in ["shop", "team-a", "team-b"] {
                let metadata = json!({"name": "web", "namespace": namespace});
                let status = json!({"phase": "Running"});
                fake.clusters.put(id, Kind::Pod, json!({"metadata": metadata, "status": status}));
                fake.clusters.put(
                    id,
                    Kind::Deployment,
                    json!({"metadata": metadata, "spec": {"replicas": 1}}),
                );
                fake.clusters.put(id, Kind::Namespace, json!({"metadata": {"name": namespace}}));
            }
            fake.clusters.put(id, Kind::Node, json!({"metadata": {"name": "node"}}));
            id
        });
        let user = NewUser {
            username: Username::new("ann").unwrap(),
            password: NewPassword::new(&PASSWORD.into()).unwrap(),
            role: Role::None,
            display_name: None,
        };
        let user = block_on(app.users.create(&Caller::system(), user)).unwrap();
        let login = Login {
            username: "ann".to_owned(),
            password: PASSWORD.into(),
            code: None,
            user_agent: None,
            origin: Origin::default(),
        };
        let (tokens, _) = block_on(app.sessions.login(login)).unwrap();
        fake.clusters.calls();
        Self { fake, app, clusters: clusters.to_vec(), ann: Subject::User(user.id), tokens }
    }

    /// Grants ann a role, as another replica does: this process finds out by the rights stamp.
    fn grant(&self, role: &str, clusters: Value, namespaces: Value) -> GrantId {
        self.grant_until(None, role, clusters, namespaces)
    }

    /// As [`Fixture::grant`], with an end.
    fn grant_until(
        &self,
        until: Option<Timestamp>,
        role: &str,
        clusters: Value,
        namespaces: Value,
    ) -> GrantId {
        let record = GrantRecord {
            subject: self.ann.clone(),
            role: RoleName::new(role).unwrap(),
            clusters: serde_json::from_value(clusters).unwrap(),
            reach: serde_json::from_value(namespaces).unwrap(),
            from: None,
            until,
            reason: None,
        };
        let permit = permit(&Caller::system(), AccessRequest::to(Verb::Create, Resource::NewCluster));
        let grant = block_on(GrantRegistry::create(&*self.fake.store, &permit, record, None)).unwrap();
        self.fake.runtime.clock.advance(Duration::from_secs(1));
        grant.id
    }

    /// Grants ann an own role with these rules in the first cluster.
    fn grant_rules(&self, role: &str, rules: Value, namespaces: Value) -> GrantId {
        let record = RoleRecord {
            name: RoleName::new(role).unwrap(),
            description: String::new(),
            rules: RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap(),
        };
        block_on(self.app.grants.create_role(&Caller::system(), record)).unwrap();
        self.grant(role, json!({"ids": [self.clusters[0]]}), namespaces)
    }

    fn revoke(&self, id: GrantId) {
        let permit = permit(&Caller::system(), AccessRequest::to(Verb::Revoke, Resource::NewCluster));
        block_on(GrantRegistry::revoke(&*self.fake.store, &permit, id)).unwrap();
        self.fake.runtime.clock.advance(Duration::from_secs(1));
    }

    /// Ann, as her next request arrives.
    fn ann(&self) -> Caller {
        let (bearer, cookie) =
            (self.tokens.access_token.expose_secret(), self.tokens.session_id.expose_secret());
        let signed_in = self.app.sessions.authenticate(bearer, cookie, Origin::default(), Activity::User);
        block_on(signed_in).unwrap().caller
    }

    fn list(&self, list: List, cluster: ClusterId, namespace: Option<&str>) -> Result<ListPage> {
        let pairs = [("cluster_id", Some(cluster.to_string())), ("namespace", namespace.map(str::to_owned))];
        let pairs: Vec<_> =
            pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let query = list.parse_page(&pairs)?;
        block_on(self.app.lists.page(&self.ann(), cluster, list, &query))
    }

    /// Watches the pods of a namespace, or of all.
    fn watch(&self, cluster: ClusterId, namespace: &str) -> ListStream {
        let id = cluster.to_string();
        let pairs = [("kind", "pods"), ("cluster_id", &*id), ("namespace", namespace)];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        block_on(self.app.watches.watch(&self.ann(), WatchQuery::parse(&pairs).unwrap())).unwrap()
    }

    /// Follows the log of the pod `web`.
    fn follow(&self, cluster: ClusterId, namespace: &str) -> LogStream {
        let start = FollowStart::Newest { lines: 100, since_seconds: None };
        let follow = Follow { container: None, start, timestamps: false };
        let (namespace, pod) = (Namespace::new(namespace).unwrap(), ObjectName::new("web").unwrap());
        block_on(self.app.pods.follow(&self.ann(), cluster, &namespace, &pod, &follow)).unwrap()
    }

    /// Namespaces and names of the pods in a list, and whether the list is complete.
    fn pods(&self, cluster: ClusterId, namespace: &str) -> Result<(Vec<String>, bool), Cause> {
        let page = self.list(List::Pods, cluster, Some(namespace)).map_err(|error| error.cause)?;
        let name = |row: &Row| format!("{}/{}", row.namespace().unwrap(), row.name());
        assert_eq!(page.listing.pagination.total, page.listing.rows.len() as u64);
        Ok((page.listing.rows.iter().map(name).collect(), page.scope.complete))
    }
}

fn team() -> Value {
    json!(["team-*"])
}

fn scale(namespace: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: Namespace::new(namespace).unwrap(),
        kind: WorkloadType::Deployment,
        name: ObjectName::new("web").unwrap(),
    }
}

#[test]
fn lists_are_cut_to_the_namespaces_of_the_grants() {
    let fixture = Fixture::new();
    let [one, two, _] = fixture.clusters[..] else { panic!("three clusters") };
    fixture.grant("viewer", json!({"ids": [one]}), team());
    assert_eq!(fixture.pods(one, "*"), Ok((vec!["team-a/web".into(), "team-b/web".into()], false)));
    assert_eq!(fixture.pods(one, "team-a"), Ok((vec!["team-a/web".into()], true)));
    let scope = fixture.list(List::Pods, one, Some("*")).unwrap().scope;
    assert_eq!(scope.namespaces, Some(vec!["team-*".to_owned()]));
    fixture.fake.clusters.calls();

    // a namespace outside the rights, whether it exists or not
    for namespace in ["shop", "none"] {
        let error = fixture.list(List::Pods, one, Some(namespace)).unwrap_err();
        assert_eq!(error.cause, Cause::RoleTooLow, "{namespace}");
        let missing = error.context.missing.unwrap();
        assert_eq!((&*missing.verb, &*missing.resource), ("list", "workloads"));
        assert_eq!((missing.cluster_id, missing.namespace.as_deref()), (Some(one), Some(namespace)));
    }
    assert_eq!(fixture.list(List::Nodes, one, None).unwrap_err().cause, Cause::RoleTooLow);
    // a cluster outside the rights is refused as one that does not exist
    let refused = |id| {
        let error = fixture.list(List::Pods, id, Some("*")).unwrap_err();
        assert_eq!(error.context.name.as_deref(), Some(&*id.to_string()));
        Error { context: Box::default(), ..error }
    };
    assert_eq!(refused(two), refused(ClusterId(99)));
    assert!(fixture.fake.clusters.calls().is_empty(), "a refused request was sent to a cluster");

    let namespaces = fixture.list(List::Namespaces, one, None).unwrap();
    let names: Vec<_> = namespaces.listing.rows.iter().map(Row::name).collect();
    assert_eq!((names, namespaces.scope.complete), (vec!["team-a", "team-b"], false));
}

#[test]
fn related_rows_take_the_right_to_list_their_kind() {
    let fixture = Fixture::new();
    let one = fixture.clusters[0];
    let owner = json!([{"kind": "ReplicaSet", "name": "web-5f", "controller": true}]);
    let labels = json!({"pod-template-hash": "5f"});
    let metadata =
        json!({"name": "web-5f-x", "namespace": "shop", "labels": labels, "ownerReferences": owner});
    fixture.fake.clusters.put(
        one,
        Kind::Pod,
        json!({"metadata": metadata, "spec": {"nodeName": "node"}, "status": {"phase": "Running"}}),
    );
    let metadata = json!({"name": "scaled", "namespace": "shop"});
    let about = json!({"kind": "Deployment", "name": "web"});
    fixture.fake.clusters.put(one, Kind::Event, json!({"metadata": metadata, "involvedObject": about}));
    let quota = json!({"metadata": {"name": "quota", "namespace": "shop"}, "spec": {"hard": {"pods": "5"}}});
    fixture.fake.clusters.put(one, Kind::ResourceQuota, quota);
    let unreadable =
        |kinds: &[&'static str]| kinds.iter().copied().map(Warning::Unreadable).collect::<Vec<_>>();

    for (name, rules, pods, events, left_out) in [
        ("get-only", json!([{"verbs": ["get"], "resources": ["workloads"]}]), 0, 0, &["pods", "events"][..]),
        ("workloads", json!([{"verbs": ["list", "get"], "resources": ["workloads"]}]), 1, 0, &["events"]),
        (
            "with-events",
            json!([
                {"verbs": ["get"], "resources": ["workloads"]}, {"verbs": ["list"], "resources": ["events"]}
            ]),
            0,
            1,
            &["pods"],
        ),
        ("all", json!([{"verbs": ["list", "get"], "resources": ["workloads", "events"]}]), 1, 1, &[]),
    ] {
        let grant = fixture.grant_rules(name, rules, json!(["shop"]));
        let detail = block_on(fixture.app.workloads.detail(&fixture.ann(), one, &scale("shop"))).unwrap();
        assert_eq!((detail.pods.len(), detail.events.len()), (pods, events), "{name}");
        assert_eq!(detail.warnings, unreadable(left_out), "{name}");
        fixture.revoke(grant);
    }

    // the joined field of the row in a list, and the warning
    let joined = |list: List, field: &str| {
        let listing = fixture.list(list, one, None).unwrap().listing;
        let row = listing.rows.iter().find(|row| ["node", "shop"].contains(&row.name())).unwrap();
        (row.parse::<Value>().unwrap()[field].clone(), listing.warnings)
    };
    let lists = |resources: &str| json!([{"verbs": ["list"], "resources": [resources]}]);
    fixture.grant_rules("nodes", lists("nodes"), Value::Null);
    assert_eq!(joined(List::Nodes, "pods"), (Value::Null, unreadable(&["pods"])));
    assert_eq!(joined(List::Namespaces, "resource_quota"), (Value::Null, unreadable(&["resourcequotas"])));
    let grant = fixture.grant_rules("pods", lists("workloads"), json!(["team-a"]));
    assert_eq!(joined(List::Nodes, "pods"), (json!(0), unreadable(&["pods"])), "those of one namespace");
    fixture.revoke(grant);
    fixture.grant_rules("every-pod", lists("workloads"), Value::Null);
    assert_eq!(joined(List::Nodes, "pods"), (json!(1), Vec::new()));
    fixture.grant_rules("quotas", lists("quotas"), Value::Null);
    let (quota, warnings) = joined(List::Namespaces, "resource_quota");
    assert!(quota.is_object() && warnings.is_empty(), "{quota} {warnings:?}");
}

#[test]
fn grants_hold_from_the_next_request_and_until_they_are_revoked() {
    let fixture = Fixture::new();
    let one = fixture.clusters[0];
    assert_eq!(fixture.pods(one, "team-a"), Err(Cause::NotFound));
    let grant = fixture.grant("editor", json!({"labels": "environment in (one,four)"}), team());
    let change = |namespace: &str| {
        let replicas = Replicas::try_from(3_i64).unwrap();
        block_on(fixture.app.workloads.scale(&fixture.ann(), one, &scale(namespace), replicas)).map(drop)
    };
    assert_eq!(change("team-a"), Ok(()));
    let row = fixture.fake.store.entries().into_iter().rev().find_map(|entry| match entry {
        pilothouse_core::operation::Entry::Intent { operation } => Some(operation),
        _ => None,
    });
    assert_eq!(row.unwrap().grant_id, Some(grant), "the audit entry names the grant");
    let listed = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(listed.grant_id, Some(grant), "the list of operations names the grant");
    assert_eq!(change("shop").unwrap_err().cause, Cause::RoleTooLow);
    fixture.revoke(grant);
    assert_eq!(change("team-a").unwrap_err().cause, Cause::NotFound);
    let refused = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!((refused.cluster_id, refused.cluster_name), (Some(one), None), "the name is not shown");
}

#[test]
fn searches_and_counts_are_cut_in_each_cluster() {
    let fixture = Fixture::new();
    let [one, two, three] = fixture.clusters[..] else { panic!("three clusters") };
    let search = || {
        let pairs = [("kind", "pods"), ("q", "web")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        block_on(fixture.app.fleet.search(&fixture.ann(), &SearchQuery::parse(&pairs).unwrap())).unwrap()
    };
    let nothing = search();
    assert!(nothing.rows.is_empty() && nothing.clusters.is_empty(), "no cluster is visible");
    fixture.grant("viewer", json!({"ids": [one]}), team());
    fixture.grant("viewer", json!({"ids": [three]}), Value::Null);
    let found = search();
    let parts: Vec<_> = found.clusters.iter().map(|part| (part.id, part.total, part.complete)).collect();
    assert_eq!(parts, [(one, Some(2), false), (three, Some(3), true)]);
    assert_eq!((found.pagination.total, found.rows.len()), (5, 5));

    let overview = block_on(fixture.app.fleet.overview(&fixture.ann(), &[])).unwrap();
    let counts =
        |cluster: usize, kind: &str| overview.clusters[cluster].kinds.get(kind).map(|kind| kind.total);
    assert_eq!(overview.clusters.iter().map(|part| part.id).collect::<Vec<_>>(), [one, three]);
    assert_eq!((counts(0, "pods"), counts(0, "nodes"), counts(0, "namespaces")), (Some(2), None, Some(2)));
    assert_eq!((counts(1, "pods"), counts(1, "nodes")), (Some(3), Some(1)));
    assert_eq!([overview.clusters[0].complete, overview.clusters[1].complete], [false, true]);
    assert_eq!((overview.totals["pods"].total, overview.totals["nodes"].total), (5, 1));
    assert!(found.clusters.iter().all(|part| part.id != two));
}

#[test]
fn clusters_without_a_right_are_absent_and_others_without_counts() {
    let fixture = Fixture::new();
    let [one, two, _] = fixture.clusters[..] else { panic!("three clusters") };
    let listed = || {
        let (rows, pagination) =
            block_on(fixture.app.clusters.list(&fixture.ann(), &ListQuery::default())).unwrap();
        assert_eq!(pagination.total, rows.len() as u64);
        rows.iter().map(|row| row.parse::<Value>().unwrap()).collect::<Vec<_>>()
    };
    assert!(listed().is_empty());
    let grant = fixture.grant("viewer", json!({"ids": [one]}), team());
    let rows = listed();
    assert_eq!((rows.len(), &rows[0]["name"], &rows[0]["node_count"]), (1, &json!("one"), &Value::Null));
    let status = block_on(fixture.app.clusters.status(&fixture.ann(), one)).unwrap();
    assert_eq!((status.nodes, status.identity, status.cluster.pod_count), (None, None, None));
    assert!(status.latency_ms.is_some() && status.certificates.is_empty());
    let test = block_on(fixture.app.clusters.test(&fixture.ann(), one)).unwrap();
    assert_eq!((test.node_count, test.identity), (None, None));
    for id in [two, ClusterId(99)] {
        assert_eq!(
            block_on(fixture.app.clusters.status(&fixture.ann(), id)).unwrap_err().cause,
            Cause::NotFound
        );
        assert_eq!(
            block_on(fixture.app.clusters.test(&fixture.ann(), id)).unwrap_err().cause,
            Cause::NotFound
        );
    }
    fixture.revoke(grant);
    fixture.grant("viewer", json!({"ids": [one]}), Value::Null);
    assert_eq!(listed()[0]["node_count"], json!(1));
    let status = block_on(fixture.app.clusters.status(&fixture.ann(), one)).unwrap();
    assert_eq!(status.identity.as_deref(), Some("admin"));
}

#[test]
fn operations_are_those_of_the_caller_and_of_audited_namespaces() {
    let fixture = Fixture::new();
    let [one, two, _] = fixture.clusters[..] else { panic!("three clusters") };
    for (cluster, namespace) in [(one, "team-a"), (one, "shop"), (two, "team-a")] {
        let replicas = Replicas::try_from(2_i64).unwrap();
        block_on(fixture.app.workloads.scale(&Caller::system(), cluster, &scale(namespace), replicas))
            .unwrap();
    }
    let scaled = || {
        let query = OperationQuery::parse(&[("operation_type".to_owned(), "scale".to_owned())]).unwrap();
        let page = block_on(fixture.app.audit.operations(&fixture.ann(), query)).unwrap();
        let place =
            |row: pilothouse_core::audit::OperationRow| (row.cluster_id.unwrap(), row.namespace.unwrap());
        page.logs.into_iter().map(place).collect::<Vec<_>>()
    };
    fixture.grant("viewer", json!({"all": true}), Value::Null);
    assert!(scaled().is_empty(), "a viewer sees their own operations");
    fixture.grant("admin", json!({"ids": [one]}), team());
    assert_eq!(scaled(), [(one, "team-a".to_owned())]);
    let ann = fixture.ann();
    let verify = block_on(fixture.app.audit.verify(&ann));
    assert_eq!(verify.unwrap_err().cause, Cause::RoleTooLow, "the trail is verified as a whole");
}

/// The reason for which a stream ends.
fn end<T>(stream: &mut EventStream<T>) -> &'static str {
    loop {
        if let StreamEvent::End(end) = block_on(stream.next()).unwrap() {
            break end.reason();
        }
    }
}

#[test]
fn list_stream_ends_when_the_grant_is_revoked() {
    let fixture = Fixture::new();
    let one = fixture.clusters[0];
    let grant = fixture.grant("viewer", json!({"ids": [one]}), team());
    let other = fixture.grant("viewer", json!({"ids": [one]}), json!(["shop"]));
    let _events = [fixture.fake.clusters.next_watch(), fixture.fake.clusters.next_watch()];
    let mut streams = [fixture.watch(one, "*"), fixture.watch(one, "team-a")];
    fixture.revoke(other);
    // only the scope of the first stream has changed
    assert_eq!(end(&mut streams[0]), "rights_changed");
    fixture.revoke(grant);
    assert_eq!(end(&mut streams[1]), "rights_changed");
}

#[test]
fn list_stream_of_all_namespaces_ends_when_another_grant_begins_or_ends() {
    let fixture = Fixture::new();
    let (one, clock) = (fixture.clusters[0], &fixture.fake.runtime.clock);
    fixture.grant("viewer", json!({"ids": [one]}), team());
    let _events = [(); 3].map(|()| fixture.fake.clusters.next_watch());
    let mut narrow = fixture.watch(one, "*");
    let mut same = fixture.watch(one, "team-a");
    let until = clock.now() + Duration::from_secs(60);
    fixture.grant_until(Some(until), "viewer", json!({"ids": [one]}), json!(["shop"]));
    assert_eq!(end(&mut narrow), "rights_changed", "the client connects again and gets more namespaces");

    let mut wide = fixture.watch(one, "*");
    assert!(matches!(block_on(wide.next()), Some(StreamEvent::Next(_))));
    clock.advance(Duration::from_secs(60));
    assert_eq!(end(&mut wide), "rights_changed");
    // a stream whose scope is the same sees both: it ends with the cluster
    block_on(fixture.app.clusters.delete(&Caller::system(), one)).unwrap();
    assert_eq!(end(&mut same), "not_found");
}

#[test]
fn log_stream_ends_when_its_grant_is_revoked_or_ends() {
    let fixture = Fixture::new();
    let (one, clock) = (fixture.clusters[0], &fixture.fake.runtime.clock);
    let grant = fixture.grant("viewer", json!({"ids": [one]}), team());
    let until = clock.now() + Duration::from_secs(60);
    fixture.grant_until(Some(until), "viewer", json!({"ids": [one]}), json!(["shop"]));
    let logs = [fixture.fake.clusters.next_log(), fixture.fake.clusters.next_log()];
    let mut streams = [fixture.follow(one, "team-a"), fixture.follow(one, "shop")];
    fixture.revoke(grant);
    assert_eq!(end(&mut streams[0]), "rights_changed");
    logs[1].unbounded_send(Ok(b"2026-01-01T00:00:00Z line\n".to_vec())).unwrap();
    assert!(matches!(block_on(streams[1].next()), Some(StreamEvent::Next(_))), "the other grant holds");
    clock.advance(Duration::from_secs(60));
    assert_eq!(end(&mut streams[1]), "rights_changed");
}

#[test]
fn logs_of_a_workload_take_only_the_right_to_read_logs() {
    let fixture = Fixture::new();
    let [one, two, _] = fixture.clusters[..] else { panic!("three clusters") };
    let owner = json!([{"kind": "ReplicaSet", "name": "web-5f", "controller": true}]);
    for namespace in ["shop", "team-a"] {
        let labels = json!({"pod-template-hash": "5f"});
        let metadata =
            json!({"name": "web-5f-x", "namespace": namespace, "labels": labels, "ownerReferences": owner});
        fixture.fake.clusters.put(one, Kind::Pod, json!({"metadata": metadata}));
    }
    let rules = json!([{"verbs": ["logs"], "resources": ["workloads"]}]);
    let grant = fixture.grant_rules("log-reader", rules, json!(["shop"]));
    assert_eq!(fixture.pods(one, "shop"), Err(Cause::RoleTooLow), "no right to list");
    fixture.fake.clusters.calls();
    let follow = |clusters: &[ClusterId], namespace: &str| {
        let query = WorkloadLogQuery {
            clusters: clusters.to_vec(),
            workload: scale(namespace),
            containers: ContainerChoice::Default,
            start: WorkloadLogStart::Newest { lines: 100, since_seconds: None },
            previous: false,
            filter: None,
        };
        block_on(fixture.app.workload_logs.follow(&fixture.ann(), query))
    };
    let cause =
        |clusters: &[ClusterId], namespace: &str| follow(clusters, namespace).err().map(|error| error.cause);
    assert_eq!(cause(&[one], "team-a"), Some(Cause::RoleTooLow));
    assert_eq!(cause(&[one, two], "shop"), Some(Cause::NotFound), "each cluster takes the right");
    assert!(fixture.fake.clusters.calls().is_empty(), "a refused request was sent to a cluster");

    let _events = fixture.fake.clusters.next_watch();
    let log = fixture.fake.clusters.next_log();
    let mut stream = follow(&[one], "shop").unwrap();
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z line\n".to_vec())).unwrap();
    let lines = loop {
        match block_on(stream.next()).unwrap() {
            StreamEvent::Next(WorkloadLogEvent::Lines(lines)) => break lines,
            StreamEvent::Next(WorkloadLogEvent::Source(_)) => {}
            StreamEvent::End(end) => panic!("{}", end.reason()),
        }
    };
    assert_eq!((&*lines[0].source.pod, &*lines[0].text), ("web-5f-x", "line"));
    fixture.revoke(grant);
    assert_eq!(end(&mut stream), "rights_changed");
}

/// A deployment `web` in `shop` whose pod crashes.
fn put_crashing(fixture: &Fixture, cluster: ClusterId) {
    let metadata = |name: &str, uid: &str, owner: Value| json!({"name": name, "namespace": "shop", "uid": uid, "labels": {"app": "web"}, "ownerReferences": owner});
    let owner = |kind: &str, uid: &str| json!([{"kind": kind, "name": "x", "uid": uid, "controller": true}]);
    let put = |kind: Kind, object: Value| fixture.fake.clusters.put(cluster, kind, object);
    let selector = json!({"matchLabels": {"app": "web"}});
    let spec = json!({"replicas": 1, "selector": selector});
    put(Kind::Deployment, json!({"metadata": metadata("web", "d", json!([])), "spec": spec}));
    let set = metadata("web-1", "r", owner("Deployment", "d"));
    put(Kind::ReplicaSet, json!({"metadata": set, "spec": {"replicas": 1}}));
    let ended = json!({"terminated": {"reason": "Error", "exitCode": 1, "message": ""}});
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": ""}}, "lastState": ended}]});
    let pod = metadata("web-1-a", "p", owner("ReplicaSet", "r"));
    put(Kind::Pod, json!({"metadata": pod, "spec": {"containers": [{"name": "app"}]}, "status": status}));
}

#[test]
fn watched_rollout_shows_no_log_after_the_right_to_logs_is_lost() {
    let fixture = Fixture::new();
    let one = fixture.clusters[0];
    put_crashing(&fixture, one);
    let rules = |verbs: &[&str]| json!([{"verbs": verbs, "resources": ["workloads"]}]);
    fixture.grant_rules("reader", rules(&["get", "list"]), json!(["shop"]));
    let logs = fixture.grant_rules("log-reader", rules(&["logs"]), json!(["shop"]));
    let has_log = |rollout: &Rollout| {
        let mut quotes = rollout.reasons.iter().flat_map(|finding| &finding.evidence);
        quotes.any(|quote| quote.source.starts_with("log "))
    };
    let signals = fixture.fake.clusters.next_rollout();
    let mut stream = block_on(fixture.app.rollouts.watch(&fixture.ann(), one, &scale("shop"))).unwrap();
    let mut next = || match block_on(stream.next()).unwrap() {
        StreamEvent::Next(rollout) => rollout,
        StreamEvent::End(end) => panic!("{}", end.reason()),
    };
    let first = next();
    assert!(has_log(&first) && !first.unreadable.contains(&"logs"), "{first:?}");
    fixture.revoke(logs);
    // the workload has not changed, so it is diagnosed at the fifth signal
    for _ in 0..5 {
        signals.unbounded_send(()).unwrap();
    }
    // without an event, the stream ends
    drop(signals);
    let second = next();
    assert!(!has_log(&second) && second.unreadable.contains(&"logs"), "{second:?}");
}

#[test]
fn labels_that_change_a_grant_take_the_right_to_give_it() {
    let fixture = Fixture::new();
    let one = fixture.clusters[0];
    let grant = fixture.grant("viewer", json!({"labels": "environment=four"}), team());
    let relabel = |caller: &Caller, environment: &str| {
        let labels = Labels::from([("environment".to_owned(), environment.to_owned())]);
        let change = ClusterChange { labels: Some(labels), ..ClusterChange::default() };
        block_on(fixture.app.clusters.update(caller, one, change)).map(drop)
    };
    let ops = Caller { user_id: Some(UserId(70)), ..Caller::system().with_role(Role::OpsAdmin) };
    let refused = relabel(&ops, "four").unwrap_err();
    assert_eq!((refused.cause, refused.context.required_role), (Cause::RoleTooLow, Some(Role::SuperAdmin)));
    let missing = refused.context.missing.unwrap();
    assert_eq!((&*missing.verb, &*missing.resource, missing.cluster_id), ("create", "grants", Some(one)));
    assert_eq!(fixture.pods(one, "team-a"), Err(Cause::NotFound));
    assert_eq!(relabel(&ops, "five"), Ok(()), "no grant is by this label");

    assert_eq!(relabel(&Caller::system(), "four"), Ok(()));
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(row.details, Some(format!("grants=[{grant}]")), "the audit row names the grants");
    assert!(fixture.pods(one, "team-a").is_ok(), "the grant reaches the cluster");
    assert_eq!(relabel(&ops, "five").unwrap_err().cause, Cause::RoleTooLow, "nor may it be taken away");

    let labels = Labels::from([("environment".to_owned(), "four".to_owned())]);
    let new =
        |labels| block_on(fixture.app.clusters.create(&ops, NewCluster { labels, ..new_cluster("new") }));
    assert_eq!(new(labels).map(drop).unwrap_err().cause, Cause::RoleTooLow);
    assert!(new(Labels::new()).is_ok());
}

/// A probe during which another replica removes the labels of a cluster.
struct Relabelling {
    fake: Fake,
    cluster: ClusterId,
}

#[async_trait]
impl ClusterProbe for Relabelling {
    fn check(&self, connection: &Connection) -> Result<()> {
        self.fake.clusters.check(connection)
    }

    async fn probe(&self, of: &Permit, target: ProbeTarget) -> Result<Probed> {
        let access = AccessRequest::to(Verb::Update, Resource::Cluster).in_cluster(self.cluster);
        let patch = ClusterPatch { labels: Some(Labels::new()), ..ClusterPatch::default() };
        self.fake.runtime.clock.advance(std::time::Duration::from_secs(1));
        let at = pilothouse_core::clock::Clock::now(&*self.fake.runtime.clock);
        ClusterRegistry::update(&*self.fake.store, &permit(&Caller::system(), access), patch, at).await?;
        self.fake.clusters.probe(of, target).await
    }

    async fn permissions(&self, of: &Permit, target: ProbeTarget) -> Result<Vec<Permission>> {
        self.fake.clusters.permissions(of, target).await
    }

    async fn connection_changed(&self, id: ClusterId) {
        self.fake.clusters.connection_changed(id).await;
    }
}

#[test]
fn labels_are_judged_as_a_change_of_those_that_they_replace() {
    let fixture = Fixture::new();
    let one = fixture.clusters[0];
    fixture.grant("viewer", json!({"labels": "environment=one"}), team());
    let ops = Caller { user_id: Some(UserId(70)), ..Caller::system().with_role(Role::OpsAdmin) };
    let mut ports = fixture.fake.ports();
    ports.clusters.probe = Arc::new(Relabelling { fake: fixture.fake.clone(), cluster: one });
    let app = App::new(ports, AppSettings::default());
    let update = |labels: &[(&str, &str)]| {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let server = "https://other.example.com:6443".to_owned().try_into().unwrap();
        let change = ClusterChange {
            labels: Some(labels.iter().map(owned).collect()),
            credential: CredentialInput { api_server: Some(server), ..new_cluster("one").credential },
            ..ClusterChange::default()
        };
        let changed = block_on(app.clusters.update(&ops, one, change));
        let stored = block_on(ClusterRegistry::find(&*fixture.fake.store, one)).unwrap().unwrap();
        (changed.map(drop).map_err(|error| error.cause), stored.labels.len())
    };
    // neither of them changes what the grant reaches, unless the label is written again after its removal
    assert_eq!(update(&[("environment", "one"), ("tier", "web")]), (Err(Cause::Modified), 0));
    let labels = Labels::from([("environment".to_owned(), "one".to_owned())]);
    let change = ClusterChange { labels: Some(labels), ..ClusterChange::default() };
    block_on(fixture.app.clusters.update(&Caller::system(), one, change)).unwrap();
    assert_eq!(update(&[("environment", "one")]), (Ok(()), 0), "labels that do not change are not written");
}
