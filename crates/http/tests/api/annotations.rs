//! Annotations disclose no value that other fields mask: the value of a Secret, an environment literal.

use std::io::Write;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use flate2::{Compression, write::GzEncoder};
use pilothouse_core::{
    ids::ClusterId,
    kind::{KINDS, Kind},
    workload::WorkloadType,
};
use serde_json::{Map, Value, json};

use crate::{advisories::inputs, test_app::TestApp};

const CANARY: &str = "canary in an annotation";

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Annotations as tools write them, by name.
fn annotations() -> Map<String, Value> {
    let secret = json!({"kind": "Secret", "data": {"password": BASE64.encode(CANARY)}}).to_string();
    let workload = json!({"env": [{"name": "A", "value": CANARY}]}).to_string();
    let zipped = {
        let mut zip = GzEncoder::new(Vec::new(), Compression::best());
        zip.write_all(format!("{secret}{workload}").as_bytes()).unwrap();
        BASE64.encode(zip.finish().unwrap())
    };
    let long = format!("{}{CANARY}", "x".repeat(300));
    let texts = [
        ("kubectl.kubernetes.io/last-applied-configuration", format!("{secret}{workload}")),
        ("kapp.k14s.io/original", format!("{secret}{workload}")),
        ("objectset.rio.cattle.io/applied", zipped),
        ("cert-manager.io/common-name", format!("{CANARY}.example.org")),
        ("meta.helm.sh/release-name", BASE64.encode(CANARY)),
        ("kubernetes.io/service-account.name", hex(CANARY)),
        ("helm.sh/resource-policy", CANARY.to_owned()),
        ("example.org/note", format!("it is {CANARY}")),
        ("example.org/base64", BASE64.encode(format!("user:{CANARY}"))),
        ("example.org/twice", BASE64.encode(BASE64.encode(CANARY))),
        ("example.org/escaped", CANARY.replace(' ', "\\u0020")),
        ("example.org/url", CANARY.replace(' ', "%20")),
        ("example.org/hex", hex(CANARY).to_uppercase()),
        ("example.org/long", long),
    ];
    texts.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect()
}

/// Creates an object of this name of every kind, with the annotations in each metadata.
fn put_all(api: &TestApp, name: &str) {
    let cluster = ClusterId(api.cluster);
    let metadata = json!({"name": name, "namespace": "shop", "annotations": annotations()});
    let pod =
        json!({"containers": [{"name": "app", "image": "web:1", "env": [{"name": "A", "value": CANARY}]}]});
    let template = json!({"metadata": {"annotations": annotations()}, "spec": pod});
    let others = KINDS.iter().filter(|kind| **kind != Kind::Secret && WorkloadType::of(**kind).is_none());
    for kind in others {
        let mut metadata = metadata.clone();
        if !kind.info().namespaced {
            metadata.as_object_mut().unwrap().remove("namespace");
        }
        let spec = if *kind == Kind::Pod { pod.clone() } else { json!({}) };
        api.fake.clusters.put(cluster, *kind, json!({"metadata": metadata, "spec": spec}));
    }
    for r#type in WorkloadType::ALL {
        let spec = match r#type {
            WorkloadType::CronJob => {
                json!({"schedule": "* * * * *", "jobTemplate": {"metadata": {"annotations": annotations()}, "spec": {"template": template}}})
            }
            _ => {
                json!({"template": template, "volumeClaimTemplates": [{"metadata": {"annotations": annotations()}}]})
            }
        };
        api.fake.clusters.put(cluster, r#type.kind(), json!({"metadata": metadata, "spec": spec}));
    }
    let data = json!({"password": BASE64.encode(CANARY)});
    api.fake.clusters.put(cluster, Kind::Secret, json!({"metadata": metadata, "data": data}));
}

#[actix_web::test]
async fn annotations_disclose_no_secret_value_or_masked_literal() {
    let api = TestApp::new().await;
    let mut requests: Vec<(&str, String)> = inputs(&api)
        .await
        .into_iter()
        .filter(|(method, ..)| method == "GET")
        .map(|(_, path, input)| (path, input))
        .collect();
    put_all(&api, "annotated");
    let named = format!("cluster_id={}&namespace=shop&name=annotated", api.cluster);
    let details = [("/api/k8s/secrets/detail", named.clone())].into_iter().chain(
        WorkloadType::ALL
            .map(|r#type| ("/api/k8s/workloads/detail", format!("{named}&type={}", r#type.as_str()))),
    );
    let details: Vec<_> = details.collect();
    requests.extend(details.clone());

    let mut canaries: Vec<String> =
        annotations().values().map(|text| text.as_str().unwrap().to_owned()).collect();
    canaries.extend([CANARY.to_owned(), BASE64.encode(CANARY), hex(CANARY)]);
    let (viewer, admin) = (api.login("viewer").await, api.login("super").await);
    for (path, query) in &requests {
        let reply = api.get(&viewer, path, query).await;
        for text in &canaries {
            assert!(!reply.text.contains(text.as_str()), "{path}?{query}: {text}: {}", reply.text);
        }
    }
    for (path, query) in &details {
        let shown = api.get(&viewer, path, query).await.data().to_string();
        assert!(shown.contains("\"example.org/note\":\"*** (29 bytes)\""), "{path}?{query}: {shown}");
        assert!(!shown.contains("last-applied"), "{path}?{query}: {shown}");
    }
    // only a reveal returns values of a Secret; a user who may see a literal also sees annotations that repeat it
    let secret = api.get(&admin, "/api/k8s/secrets/detail", &named).await.data().to_string();
    assert!(!canaries.iter().any(|text| secret.contains(text.as_str())), "{secret}");
    let workload = api.get(&admin, details[1].0, &details[1].1).await.data().to_string();
    assert!(workload.contains(CANARY), "{workload}");
}
