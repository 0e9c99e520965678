//! Patches of rollouts at a real API server.

use pilothouse_core::{json_patch::JsonPatch, object::Metadata, rollout::RolloutApi, workload::Reference};

use super::*;

fn metadata(object: &Value) -> Metadata {
    serde_json::from_value(object["metadata"].clone()).unwrap()
}

#[tokio::test]
async fn patch_is_applied_to_the_generation_that_was_read_or_not_at_all() {
    let (plane, adapter, admin, namespace) = fixture("patches").await;
    let deployment = samples::deployment(&namespace, "web", 1);
    let path = pilothouse_testbed::path_of(&deployment);
    let read = metadata(&admin.apply(&deployment).await.unwrap());
    let pause = permit(Verb::Pause, Kind::Deployment, &namespace);
    let web = object("web");

    // a change of the status, of labels or of annotations does not disturb
    let replicas = json!({"status": {"replicas": 7, "observedGeneration": 1}});
    admin.patch(&format!("{path}/status"), &replicas).await.unwrap();
    admin.patch(&path, &json!({"metadata": {"labels": {"by": "somebody"}}})).await.unwrap();
    let patch = JsonPatch::of(&read).add("/spec/paused", true);
    adapter.patch(&pause, &web, &patch).await.unwrap();
    assert!(audited(plane, &pause, "patch", "web"));
    let stored = admin.get(&path).await.unwrap();
    assert_eq!(
        (&stored["spec"]["paused"], &stored["metadata"]["labels"]["by"]),
        (&json!(true), &json!("somebody"))
    );

    // the same patch again: the generation has changed
    let error = adapter.patch(&pause, &web, &patch).await.unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::Modified, Some("web")));
    let other = Metadata { uid: "another".to_owned(), ..metadata(&stored) };
    let patch = JsonPatch::of(&other).add("/spec/paused", false);
    assert_eq!(adapter.patch(&pause, &web, &patch).await.unwrap_err().cause, Cause::Modified);
    assert_eq!(admin.get(&path).await.unwrap()["spec"], stored["spec"]);
    let absent = adapter.patch(&pause, &object("absent"), &patch).await.unwrap_err();
    assert_eq!(absent.cause, Cause::NotFoundInCluster);
}

/// The API server quotes the whole object, with its environment, if it cannot decode the patched one (day2.md, finding
/// 11).
#[tokio::test]
async fn refused_patch_does_not_quote_the_object() {
    let (_, adapter, admin, namespace) = fixture("quotes").await;
    let mut deployment = samples::deployment(&namespace, "web", 1);
    deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "canary-env"}]);
    let read = metadata(&admin.apply(&deployment).await.unwrap());
    let image = permit(Verb::SetImage, Kind::Deployment, &namespace);
    for (path, value, quoted) in [
        ("/spec/replicas", json!("many"), None),
        ("/spec/unknown", json!(1), Some("unknown field \"spec.unknown\"")),
        ("/spec/template/spec/containers/0/image", json!(""), Some("spec.template.spec.containers[0].image")),
    ] {
        let patch = JsonPatch::of(&read).add(path, value);
        let error = adapter.patch(&image, &object("web"), &patch).await.unwrap_err();
        assert_eq!(error.cause, Cause::RejectedByCluster, "{path}: {error}");
        assert!(!format!("{error:?}").contains("canary-env"), "{path}: {error:?}");
        let message = error.context.message.unwrap_or_default();
        assert!(quoted.is_none_or(|text| message.contains(text)), "{path}: {message}");
    }
}

#[tokio::test]
async fn first_annotation_is_added_unless_the_object_changed() {
    let (_, adapter, admin, namespace) = fixture("annotations").await;
    let set = samples::stateful_set(&namespace, "db", 1);
    let path = pilothouse_testbed::path_of(&set);
    let read = metadata(&admin.apply(&set).await.unwrap());
    assert!(read.annotations.is_empty());
    let patch = JsonPatch::of(&read).annotate(&read, "example.org/cause", "why");
    admin.patch(&path, &json!({"metadata": {"annotations": {"other": "kept"}}})).await.unwrap();
    let image = permit(Verb::SetImage, Kind::StatefulSet, &namespace);
    assert_eq!(adapter.patch(&image, &object("db"), &patch).await.unwrap_err().cause, Cause::Modified);
    let read = metadata(&admin.get(&path).await.unwrap());
    let patch = JsonPatch::of(&read).annotate(&read, "example.org/cause", "why");
    adapter.patch(&image, &object("db"), &patch).await.unwrap();
    let annotations = admin.get(&path).await.unwrap()["metadata"]["annotations"].take();
    assert_eq!(annotations, json!({"other": "kept", "example.org/cause": "why"}));
}

#[tokio::test]
async fn revisions_and_missing_references_are_read() {
    let (_, adapter, admin, namespace) = fixture("revisions").await;
    for (kind, sample) in [
        (Kind::Deployment, samples::deployment(&namespace, "web", 1)),
        (Kind::StatefulSet, samples::stateful_set(&namespace, "web", 1)),
        (Kind::DaemonSet, samples::daemon_set(&namespace, "web")),
    ] {
        let stored = admin.apply(&sample).await.unwrap();
        let get = permit(Verb::Get, kind, &namespace);
        let end = tokio::time::Instant::now() + TEST_TIMEOUT;
        let revisions = loop {
            let history = adapter.history(&get, &object("web")).await.unwrap().unwrap();
            assert_eq!(history.unreadable, None);
            if !history.revisions.is_empty() {
                break history.revisions;
            }
            assert!(tokio::time::Instant::now() < end, "{kind} has no revision");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let [revision] = revisions.as_slice() else { panic!("{kind}: {revisions:?}") };
        assert_eq!(revision.revision, Some(1), "{kind}");
        assert_eq!(revision.template().unwrap()["spec"], stored["spec"]["template"]["spec"], "{kind}");
    }

    admin.apply(&samples::config_map(&namespace, "there")).await.unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "there", "namespace": namespace},
        "stringData": {"key": "canary"}});
    admin.apply(&secret).await.unwrap();
    let references: Vec<_> = [Kind::ConfigMap, Kind::Secret]
        .into_iter()
        .flat_map(|kind| ["there", "gone"].map(|name| Reference { kind, name: object(name) }))
        .collect();
    let undo = permit(Verb::Undo, Kind::Deployment, &namespace);
    let missing = |name: &str| Warning::MissingReference(name.to_owned());
    let warnings = adapter.advice(&undo, &object("web"), &references).await;
    assert_eq!(warnings, [missing("configmap/gone"), missing("secret/gone")]);
}
