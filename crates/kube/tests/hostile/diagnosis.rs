//! Objects of a diagnosis: what is read, and related kinds that cannot be read.

use pilothouse_core::diagnosis::{
    DiagnosisSource, Evidence, Related, RelatedObject, Rule, Selection, collect, examine,
};

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

/// The plural resource name in a request to a namespace, and the name of the object if it has one.
fn resource(target: &str) -> (&str, Option<&str>) {
    let path = target.split('?').next().unwrap_or(target);
    let mut parts = path.rsplit("/namespaces/shop/").next().unwrap_or(path).split('/');
    let first = parts.next().unwrap_or_default();
    if first.is_empty() {
        // without a namespace: `/api/v1/nodes/node-0`
        let mut parts = path.split('/').skip(3);
        return (parts.next().unwrap_or_default(), parts.next());
    }
    (first, parts.next())
}

/// A deployment `web` with one pod that was killed for its memory.
fn objects(target: &str) -> Reply {
    let owner = |kind: &str, name: &str, uid: &str| json!([{"kind": kind, "name": name, "uid": uid, "controller": true}]);
    let metadata = |name: &str, uid: &str, owners: Value| json!({"name": name, "namespace": "shop", "uid": uid, "ownerReferences": owners});
    let list = |items: Value| Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": items}));
    match resource(target) {
        ("deployments", _) => Reply::json(
            200,
            &json!({"metadata": metadata("web", "d1", json!([])), "status": {"replicas": 1},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}}}),
        ),
        ("replicasets", _) => list(json!([
            {"metadata": metadata("web-a", "r1", owner("Deployment", "web", "d1")), "spec": {"replicas": 1}},
            {"metadata": metadata("other-a", "r2", owner("Deployment", "other", "d2")), "spec": {"replicas": 1}},
        ])),
        ("pods", _) => {
            let ended = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
            let status = json!({"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}]});
            let pod = |name: &str, uid: &str, owners: Value| {
                let spec = json!({"nodeName": "node-0", "containers": [{"name": "app"}]});
                json!({"metadata": metadata(name, uid, owners), "spec": spec, "status": status})
            };
            list(json!([
                pod("web-a-1", "p1", owner("ReplicaSet", "web-a", "r1")),
                pod("other-a-1", "p2", owner("ReplicaSet", "other-a", "r2")),
            ]))
        }
        ("nodes", Some(name)) => {
            let conditions = json!([{"type": "Ready", "status": "True"}]);
            Reply::json(
                200,
                &json!({"metadata": {"name": name, "uid": "n1"}, "status": {"conditions": conditions}}),
            )
        }
        _ => list(json!([])),
    }
}

async fn collected(adapter: &KubeClusters) -> Evidence {
    let permit = permit(Verb::Get, Kind::Deployment, "shop");
    collect(adapter, &permit, &object("web")).await.unwrap().unwrap()
}

fn rules(evidence: &Evidence) -> Vec<Rule> {
    examine(evidence, NOW.parse().unwrap()).iter().map(|finding| finding.rule).collect()
}

#[tokio::test]
async fn diagnosis_reads_what_belongs_to_the_object() {
    let server = FakeServer::start(|request, _| objects(&request.target)).await;
    let evidence = collected(&adapter(&server)).await;
    assert_eq!((rules(&evidence), evidence.unreadable.len()), (vec![Rule::Oom], 0));
    let pods: Vec<_> = evidence.pods.iter().map(|pod| pod.metadata.name.as_str()).collect();
    assert_eq!(pods, ["web-a-1"], "the pods of another deployment with the same labels are left out");
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.method == "GET"));
    let targets: Vec<_> = requests.iter().map(|request| request.target.as_str()).collect();
    for wanted in [
        "/apis/apps/v1/namespaces/shop/deployments/web",
        "/apis/apps/v1/namespaces/shop/replicasets?",
        "/api/v1/namespaces/shop/pods?",
        "/api/v1/nodes/node-0",
        "involvedObject.uid%3Dp1",
        "involvedObject.uid%3Dr1",
        "involvedObject.uid%3Dd1",
    ] {
        assert!(targets.iter().any(|target| target.contains(wanted)), "{wanted}: {targets:#?}");
    }
    assert!(!targets.iter().any(|target| target.contains("uid%3Dp2")), "{targets:#?}");
    assert!(targets.len() <= 10, "{targets:#?}");
}

#[tokio::test]
async fn related_kind_that_cannot_be_read_is_unreadable_and_no_error() {
    let replies: [(&str, ReplyFn); 4] = [
        ("forbidden", Box::new(|| Reply::status(403, "Forbidden", "may not", json!({})))),
        ("failing", Box::new(|| Reply::Body(500, vec![], String::new()))),
        ("no list", Box::new(|| Reply::json(200, &json!({"kind": "Status"})))),
        ("no JSON", Box::new(|| Reply::Body(200, vec![], "<html>".to_owned()))),
    ];
    for (what, reply) in replies {
        for plural in ["replicasets", "events", "horizontalpodautoscalers", "poddisruptionbudgets"] {
            let reply = reply();
            let Reply::Body(code, headers, body) = reply else { panic!("a complete response") };
            let server = FakeServer::start(move |request, _| {
                if resource(&request.target).0 == plural {
                    Reply::Body(code, headers.clone(), body.clone())
                } else {
                    objects(&request.target)
                }
            })
            .await;
            let evidence = collected(&adapter(&server)).await;
            assert_eq!(evidence.unreadable, [plural], "{what}");
            assert_eq!(rules(&evidence), [Rule::Oom], "{what} {plural}");
        }
    }
}

#[tokio::test]
async fn object_that_cannot_be_read_is_an_error() {
    for (code, reason, cause) in
        [(403, "Forbidden", Cause::ForbiddenByCluster), (500, "InternalError", Cause::FailingCluster)]
    {
        let (_server, adapter) =
            server_with_reply(move || Reply::status(code, reason, "no", json!({}))).await;
        let permit = permit(Verb::Get, Kind::Deployment, "shop");
        let error = collect(&adapter, &permit, &object("web")).await.unwrap_err();
        assert_eq!(error.cause, cause);
    }
    let (_server, adapter) = server_with_reply(|| Reply::status(404, "NotFound", "no", json!({}))).await;
    let permit = permit(Verb::Get, Kind::Deployment, "shop");
    assert!(collect(&adapter, &permit, &object("web")).await.unwrap().is_none());
}

/// What the credential may read and the caller may not is not requested.
#[tokio::test]
async fn kinds_that_the_caller_may_not_list_are_not_read() {
    let server = FakeServer::start(|request, _| objects(&request.target)).await;
    let ann =
        caller(json!([{"verbs": ["get", "list"], "resources": ["workloads", "nodes"]}]), json!(["shop"]));
    let access = AccessRequest::to(Verb::Get, Resource::Kind(Kind::Deployment)).in_cluster(CLUSTER);
    let permit = judged_permit(&ann, access.in_namespace(&common::namespace("shop"))).unwrap();
    let evidence = collect(&adapter(&server), &permit, &object("web")).await.unwrap().unwrap();
    let mut unreadable = evidence.unreadable.clone();
    unreadable.sort_unstable();
    // nodes belong to no namespace: a grant in a namespace does not reach them
    assert_eq!(unreadable, ["events", "nodes"]);
    let requests = server.requests();
    let read = |plural: &str| requests.iter().any(|request| resource(&request.target).0 == plural);
    assert!(read("pods") && !read("events") && !read("nodes"));
}

#[tokio::test]
async fn names_without_an_object_are_left_out() {
    let server = FakeServer::start(|request, _| match resource(&request.target) {
        (_, Some("absent")) => Reply::status(404, "NotFound", "no", json!({})),
        (_, Some(name)) => Reply::json(200, &json!({"metadata": {"name": name, "namespace": "shop"}})),
        _ => Reply::Body(500, vec![], String::new()),
    })
    .await;
    let permit = permit(Verb::Get, Kind::Deployment, "shop");
    let selection = Selection::Names(vec![object("absent"), object("data")]);
    let related =
        adapter(&server).related_objects(&permit, Kind::PersistentVolumeClaim, &selection).await.unwrap();
    let Related::Read(claims) = related else { panic!("readable") };
    let [RelatedObject::Claim(claim)] = &claims[..] else { panic!("{claims:?}") };
    assert_eq!(claim.metadata.name, "data");
}
