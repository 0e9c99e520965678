//! A Kubernetes 1.30 cluster. `kubernetes-1.30.json` is written by hand from the API of 1.30 and has no newer field
//! (generations of pods and in conditions, `resize`, sidecar fields, `terminatingReplicas`, `SuccessCriteriaMet`, the
//! emulated version). A test against a newer cluster would not detect that Pilothouse requires a newer field. The
//! `rows` in the file are the expected fields of the first row of each list, by the list's key.

use std::sync::LazyLock;

use pilothouse_core::{inventory::LISTS, workload::WorkloadType};

use super::*;

pub(super) static RECORDED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("kubernetes-1.30.json")).unwrap());

/// Replies like an API server of 1.30 with the recorded objects.
fn reply_as_1_30(request: &RecordedRequest) -> Reply {
    read(&RECORDED, request)
}

/// Replies to a read of these objects: of a list in all namespaces or one, or of a single object.
pub(super) fn read(objects: &Value, request: &RecordedRequest) -> Reply {
    let path = request.target.split('?').next().unwrap_or_default().replace("/namespaces/shop/", "/");
    if let Some(recorded) = objects.get(&path) {
        return match recorded {
            Value::Array(items) => Reply::json(
                200,
                &json!({"kind": "AnyList", "apiVersion": "v1", "metadata": {"resourceVersion": "99"}, "items": items}),
            ),
            one => Reply::json(200, one),
        };
    }
    let (collection, name) = path.rsplit_once('/').unwrap_or_default();
    let mut objects = objects.get(collection).and_then(Value::as_array).into_iter().flatten();
    match objects.find(|object| object["metadata"]["name"] == name) {
        Some(object) => Reply::json(200, object),
        None => Reply::Body(404, vec![], "404 page not found\n".to_owned()),
    }
}

#[tokio::test]
async fn every_list_of_kubernetes_1_30_is_read() {
    let server = FakeServer::start(|request, _| reply_as_1_30(request)).await;
    let adapter = adapter(&server);
    for info in LISTS.iter().filter(|info| info.project.is_some()) {
        let query = ListQuery {
            owner: info.owner.map(|_| object("web")),
            kinds: [info.kinds, info.more_kinds].concat(),
            ..ListQuery::default()
        };
        let listing = adapter.page(&permit_all(Verb::List, info.kinds[0]), info.list, &query).await.unwrap();
        assert_eq!(listing.warnings, [], "{:?}", info.list);
        assert_eq!(listing.rows.len(), query.kinds.len(), "{:?}", info.list);
        let row: Value = serde_json::from_str(listing.rows[0].json()).unwrap();
        let expected = RECORDED["rows"][info.key].as_object();
        let expected = expected.unwrap_or_else(|| panic!("kubernetes-1.30.json has no row of {}", info.key));
        for (field, value) in expected {
            assert_eq!(&row[field], value, "{:?}: {row}", info.list);
        }
        assert!(!row["created_at"].is_null(), "{:?}: {row}", info.list);
    }
}

#[tokio::test]
async fn every_workload_of_kubernetes_1_30_has_its_status() {
    let server = FakeServer::start(|request, _| reply_as_1_30(request)).await;
    let adapter = adapter(&server);
    let kinds = WorkloadType::ALL.map(WorkloadType::kind).to_vec();
    let query = ListQuery { kinds, ..ListQuery::default() };
    let list = permit_all(Verb::List, Kind::Deployment);
    let listing = adapter.page(&list, List::Workloads, &query).await.unwrap();
    let rows = listing.rows.iter().map(|row| serde_json::from_str::<Value>(row.json()).unwrap());
    let statuses: Vec<_> = rows.map(|row| json!([row["type"], row["name"], row["status"]])).collect();
    assert_eq!(
        statuses,
        [
            json!(["daemonset", "agent", "running"]),
            json!(["statefulset", "db", "running"]),
            json!(["cronjob", "nightly", "idle"]),
            json!(["job", "once", "complete"]),
            json!(["deployment", "web", "running"]),
        ]
    );
    let get = permit(Verb::Get, Kind::Deployment, "shop");
    let detail = WorkloadApi::get(&adapter, &get, &object("web")).await.unwrap().unwrap();
    assert_eq!((detail.pods.len(), detail.revisions.len(), detail.events.len()), (1, 1, 1));
    assert_eq!(detail.warnings, []);
}

/// A cluster before 1.23 has no `autoscaling/v2`: the scale succeeds without a check for autoscalers.
#[tokio::test]
async fn scale_succeeds_without_autoscaling_api() {
    let server = FakeServer::start(|request, _| match request.method.as_str() {
        "PATCH" => reply_as_1_30(request),
        _ if request.target.starts_with("/apis/autoscaling/") => {
            Reply::Body(404, vec![], "404 page not found\n".to_owned())
        }
        _ => reply_as_1_30(request),
    })
    .await;
    let scale = permit(Verb::Scale, Kind::Deployment, "shop");
    let scaled =
        adapter(&server).scale(&scale, &object("web"), Replicas::try_from(1).unwrap()).await.unwrap();
    assert_eq!((scaled.value.replicas, scaled.warnings), (Some(1), vec![]));
}

#[tokio::test]
async fn kubernetes_1_30_is_probed() {
    let server = FakeServer::start(|request, _| match request.target.as_str() {
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => Reply::json(
            201,
            &json!({"metadata": {"creationTimestamp": null}, "status": {"userInfo": {"username": "u"}}}),
        ),
        _ => reply_as_1_30(request),
    })
    .await;
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let report = probe(&adapter(&server), &connection).await.unwrap();
    assert_eq!((report.version.as_str(), report.identity.as_deref()), ("v1.30.14", Some("u")));
    let nodes = report.nodes.map(|nodes| (nodes.ready, nodes.total));
    assert_eq!((nodes, report.pods, report.namespaces), (Some((1, 1)), Some(1), Some(1)));
}
