//! Rollouts on the in-memory ports: history, differences between revisions, progress, undo, pause, resume, new images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use futures_executor::block_on;
use futures_util::StreamExt;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error,
    access::Caller,
    app::{App, AppSettings},
    audit::{OperationQuery, OperationRow},
    change_reason::ChangeReason,
    error::Reason,
    gate::Warning,
    ids::{ClusterId, UserId},
    kind::Kind,
    name::{Namespace, ObjectName},
    operation::Status,
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Reach, Rights, RoleRules},
    role::Role,
    rollout::RolloutStream,
    streams::StreamEvent,
    testing::{fake::Fake, new_cluster},
    workload::{CHANGE_CAUSE, Images, RevisionRow, RolloutState, WorkloadRef, WorkloadType},
};
use serde_json::{Value, json};

const WEB: (&str, &str) = ("shop", "web");

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
}

fn template(image: &str, variable: &str) -> Value {
    let env = json!([{"name": "A", "value": variable}]);
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image, "env": env}]}})
}

impl Fixture {
    /// A deployment with the revisions 1 (`a:1`) and 2 (`a:2`), which is current and rolled out.
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let cluster = block_on(app.clusters.create(&Caller::system(), new_cluster("one"))).unwrap().value.id;
        let this = Self { fake, app, cluster };
        let annotations = json!({"deployment.kubernetes.io/revision": "2", "team": "shop"});
        let metadata = json!({"name": "web", "namespace": "shop", "uid": "web-uid", "generation": 2,
            "annotations": annotations});
        let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template("a:2", "canary-2")});
        let status = json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
            "availableReplicas": 1});
        this.put(Kind::Deployment, json!({"metadata": metadata, "spec": spec, "status": status}));
        this.put_revision("web-1", "1", "web", &template("a:1", "canary-1"), None);
        this.put_revision("web-2", "2", "web", &template("a:2", "canary-2"), None);
        this.fake.clusters.calls();
        this
    }

    fn put(&self, kind: Kind, object: Value) {
        self.fake.clusters.put(self.cluster, kind, object);
    }

    /// Puts a replica set, as the controller of the deployment makes it.
    fn put_revision(&self, name: &str, revision: &str, owner: &str, template: &Value, cause: Option<&str>) {
        let mut template = template.clone();
        template["metadata"]["labels"]["pod-template-hash"] = json!(name);
        let owners =
            json!([{"kind": "Deployment", "name": owner, "uid": format!("{owner}-uid"), "controller": true}]);
        let mut annotations = json!({"deployment.kubernetes.io/revision": revision});
        if let Some(cause) = cause {
            annotations[CHANGE_CAUSE] = json!(cause);
        }
        let metadata =
            json!({"name": name, "namespace": "shop", "annotations": annotations, "ownerReferences": owners});
        self.put(Kind::ReplicaSet, json!({"metadata": metadata, "spec": {"template": template}}));
    }

    fn stored(&self) -> Value {
        self.fake.clusters.stored(self.cluster, Kind::Deployment, WEB)
    }

    /// A caller of the role `none` with these verbs on workloads in `shop`.
    fn caller(&self, verbs: &[&str]) -> Caller {
        let rules = json!([{"verbs": verbs, "resources": ["workloads"]}]);
        let grant = EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [self.cluster]})).unwrap(),
            reach: serde_json::from_value::<Reach>(json!(["shop"])).unwrap(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([(self.cluster, Labels::new())]);
        let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
        Caller { user_id: Some(UserId(77)), ..Caller::system().with_rights(Role::None, Arc::new(rights)) }
    }

    fn undo(&self, caller: &Caller, to_revision: Option<i64>) -> Result<Vec<Warning>, Error> {
        let reason = ChangeReason::new("back to a:1").ok();
        let web = web();
        let undone = self.app.rollouts.undo(caller, self.cluster, &web, to_revision, reason);
        block_on(undone).map(|changed| changed.warnings)
    }

    fn pause(&self, paused: bool) -> Vec<Warning> {
        let rollouts = &self.app.rollouts;
        block_on(rollouts.pause(&Caller::system(), self.cluster, &web(), paused, None)).unwrap().warnings
    }

    fn set_images(&self, images: &[(&str, &str)]) -> Result<Vec<Warning>, Error> {
        let images: BTreeMap<_, _> =
            images.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect();
        let images = Images::new(images).unwrap();
        let (system, web) = (Caller::system(), web());
        let set = self.app.rollouts.set_images(&system, self.cluster, &web, images, None);
        block_on(set).map(|changed| changed.warnings)
    }

    fn history(&self, caller: &Caller) -> Vec<RevisionRow> {
        block_on(self.app.rollouts.history(caller, self.cluster, &web())).unwrap().revisions
    }

    /// The newest row of the audit trail.
    fn newest_operation(&self) -> OperationRow {
        let query = OperationQuery::parse(&[]).unwrap();
        block_on(self.app.audit.operations(&Caller::system(), query)).unwrap().logs.remove(0)
    }
}

fn web() -> WorkloadRef {
    let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web").unwrap());
    WorkloadRef { namespace, kind: WorkloadType::Deployment, name }
}

#[test]
fn undo_restores_the_pod_template_and_nothing_else() {
    let fixture = Fixture::new();
    let mut expected = fixture.stored();
    assert_eq!(fixture.undo(&Caller::system(), None), Ok(vec![]));
    let operation = fixture.newest_operation();
    assert_eq!((&*operation.operation_type, operation.status), ("undo", Status::Success));
    assert_eq!(operation.reason.as_deref(), Some("back to a:1"));
    assert_eq!(operation.details.as_deref(), Some("from_revision=2 to_revision=1"));

    let stored = fixture.stored();
    let cause = format!("pilothouse undo to 1, operation {}", operation.operation_id);
    expected["spec"]["template"] = template("a:1", "canary-1");
    expected["metadata"]["annotations"][CHANGE_CAUSE] = json!(cause);
    expected["metadata"]["generation"] = json!(3);
    expected["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    assert_eq!(stored, expected);
    assert_eq!(fixture.fake.clusters.calls(), ["undo deployment web"; 2], "read, then one patch");
}

/// Day2.md, section 6: a change of somebody else between the read and the undo.
#[test]
fn undo_does_not_overwrite_a_change_since_the_read() {
    let fixture = Fixture::new();
    fixture.fake.clusters.change_before_patch(fixture.cluster, Kind::Deployment, WEB, |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other:9");
    });
    let error = fixture.undo(&Caller::system(), Some(1)).unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::Modified, Some("web")));
    let stored = fixture.stored();
    assert_eq!(stored["spec"]["template"]["spec"]["containers"][0]["image"], "other:9");
    assert_eq!(stored["metadata"]["annotations"][CHANGE_CAUSE], Value::Null);
    let operation = fixture.newest_operation();
    assert_eq!((operation.status, operation.error_code.as_deref()), (Status::Failed, Some("CONFLICT_ERROR")));
    let details = operation.details.unwrap();
    assert!(details.starts_with("from_revision=2 to_revision=1; "), "{details}");

    // a change of the status or of a label is not lost and does not prevent the undo
    fixture.put_revision("web-3", "3", "web", &template("other:9", "canary-2"), None);
    fixture.fake.clusters.change_before_patch(fixture.cluster, Kind::Deployment, WEB, |object| {
        object["metadata"]["labels"] = json!({"by": "somebody"});
        object["status"]["replicas"] = json!(2);
    });
    assert_eq!(fixture.undo(&Caller::system(), Some(1)), Ok(vec![]));
    let stored = fixture.stored();
    assert_eq!(
        (&stored["metadata"]["labels"]["by"], &stored["status"]["replicas"]),
        (&json!("somebody"), &json!(2))
    );
    assert_eq!(stored["spec"]["template"], template("a:1", "canary-1"));
}

#[test]
fn undo_that_is_not_possible_sends_nothing() {
    let fixture = Fixture::new();
    let before = fixture.stored();
    assert_eq!(fixture.undo(&Caller::system(), Some(2)), Ok(vec![Warning::Unchanged]));
    let error = fixture.undo(&Caller::system(), Some(9)).unwrap_err();
    let (resource, name) = (error.context.resource.as_deref(), error.context.name.as_deref());
    assert_eq!((error.cause, resource, name), (Cause::NotFoundInCluster, Some("revision"), Some("9")));
    assert_eq!(fixture.stored(), before);
    fixture.pause(true);
    assert_eq!(fixture.undo(&Caller::system(), Some(1)).unwrap_err().cause, Cause::RolloutPaused);
    let absent = WorkloadRef { name: ObjectName::new("absent").unwrap(), ..web() };
    let system = Caller::system();
    let undo = fixture.app.rollouts.undo(&system, fixture.cluster, &absent, None, None);
    assert_eq!(block_on(undo).unwrap_err().context.name.as_deref(), Some("absent"));
}

#[test]
fn undo_warns_of_what_the_revision_needs_and_does_not_exist() {
    let fixture = Fixture::new();
    let mut former = template("a:1", "canary-1");
    let from = |name: &str| json!({"configMapRef": {"name": name}});
    former["spec"]["containers"][0]["envFrom"] = json!([from("gone"), from("there")]);
    former["spec"]["imagePullSecrets"] = json!([{"name": "login"}]);
    fixture.put_revision("web-1", "1", "web", &former, None);
    fixture.put(Kind::ConfigMap, json!({"metadata": {"name": "there", "namespace": "shop"}}));
    let missing = |name: &str| Warning::MissingReference(name.to_owned());
    assert_eq!(
        fixture.undo(&Caller::system(), None),
        Ok(vec![missing("configmap/gone"), missing("secret/login")])
    );
    // whether an object exists is only for callers who may list its kind
    let fixture = Fixture::new();
    fixture.put_revision("web-1", "1", "web", &former, None);
    let ann = fixture.caller(&["list", "update"]);
    assert_eq!(
        fixture.undo(&ann, None),
        Ok(vec![Warning::Unreadable("configmaps"), Warning::Unreadable("secrets")])
    );
}

#[test]
fn undo_needs_the_right_to_list_revisions() {
    let fixture = Fixture::new();
    let error = fixture.undo(&fixture.caller(&["update"]), None).unwrap_err();
    let missing = error.context.missing.unwrap();
    assert_eq!((error.cause, &*missing.verb, &*missing.resource), (Cause::RoleTooLow, "list", "workloads"));
    let refused = fixture.undo(&fixture.caller(&["list", "get", "scale", "restart"]), None).unwrap_err();
    assert_eq!(refused.context.missing.unwrap().verb, "update");
}

#[test]
fn history_names_the_operation_that_made_a_revision() {
    let fixture = Fixture::new();
    fixture.undo(&Caller::system(), Some(1)).unwrap();
    let operation = fixture.newest_operation();
    let cause = fixture.stored()["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap().to_owned();
    // the controller renumbers the revision; a later change of somebody else keeps the annotation
    fixture.put_revision("web-1", "3", "web", &template("a:1", "canary-1"), Some(&cause));
    fixture.put_revision("web-4", "4", "web", &template("a:4", ""), Some(&cause));
    fixture.put_revision("other-1", "1", "other", &template("a:1", ""), Some(&cause));
    let rows = fixture.history(&Caller::system());
    let short: Vec<_> = rows
        .iter()
        .map(|row| (row.revision, row.current, row.by.as_ref().map(|row| row.operation_id)))
        .collect();
    assert_eq!(short, [(4, false, None), (3, true, Some(operation.operation_id)), (2, false, None)]);
    assert_eq!(rows[1].change_cause.as_deref(), Some(&*cause));

    // the row is another user's, and the caller may not list the audit trail
    let rows = fixture.history(&fixture.caller(&["list", "get"]));
    assert!(rows.iter().all(|row| row.by.is_none()) && rows[1].change_cause.is_some());

    // somebody writes the id of the operation to another workload
    let mut other = fixture.stored();
    (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("other"), json!("other-uid"));
    fixture.put(Kind::Deployment, other);
    let named = WorkloadRef { name: ObjectName::new("other").unwrap(), ..web() };
    let history = block_on(fixture.app.rollouts.history(&Caller::system(), fixture.cluster, &named));
    assert_eq!(history.unwrap().revisions[0].by, None);
}

#[test]
fn history_without_the_right_to_list_revisions_is_empty_with_a_warning() {
    let fixture = Fixture::new();
    let history = block_on(fixture.app.rollouts.history(&fixture.caller(&["get"]), fixture.cluster, &web()));
    let history = history.unwrap();
    assert_eq!(history.revisions, []);
    assert_eq!(history.warnings, [Warning::Unreadable("replicasets")]);
}

#[test]
fn differences_are_masked_for_callers_who_may_not_see_values() {
    let fixture = Fixture::new();
    let changes = |caller: &Caller, from, to| {
        let web = web();
        let changes = fixture.app.rollouts.changes(caller, fixture.cluster, &web, from, to);
        block_on(changes).map(|changes| {
            changes.into_iter().map(|change| (change.path, change.from, change.to)).collect::<Vec<_>>()
        })
    };
    let path = |field: &str| format!("/spec/template/spec/containers/0/{field}");
    let image = (path("image"), json!("a:1"), json!("a:2"));
    let shown = (path("env/0/value"), json!("canary-1"), json!("canary-2"));
    let masked = (path("env/0/value"), json!("***"), json!("***"));
    assert_eq!(changes(&Caller::system(), 1, 2), Ok(vec![shown, image.clone()]));
    let viewer = fixture.caller(&["list", "get"]);
    assert_eq!(changes(&viewer, 1, 2), Ok(vec![masked, image]));
    assert_eq!(changes(&viewer, 1, 1), Ok(vec![]));
    assert_eq!(changes(&viewer, 1, 3).unwrap_err().cause, Cause::NotFoundInCluster);
}

#[test]
fn deployment_is_paused_and_resumed() {
    let fixture = Fixture::new();
    assert_eq!(fixture.pause(false), [Warning::Unchanged]);
    assert_eq!(fixture.pause(true), []);
    assert_eq!(fixture.newest_operation().operation_type, "pause");
    assert_eq!(fixture.pause(true), [Warning::Unchanged]);
    assert_eq!(fixture.set_images(&[("app", "a:5")]), Ok(vec![Warning::RolloutPaused]));
    assert_eq!(fixture.stored()["spec"]["paused"], true);
    assert_eq!(fixture.pause(false), []);
    assert_eq!(fixture.newest_operation().operation_type, "resume");
    assert_eq!(fixture.stored()["spec"]["paused"], false);
}

#[test]
fn images_are_set_and_recorded() {
    let fixture = Fixture::new();
    assert_eq!(fixture.set_images(&[("app", "a:3")]), Ok(vec![]));
    let operation = fixture.newest_operation();
    assert_eq!(&*operation.operation_type, "set_image");
    assert!(operation.details.unwrap().contains("images=app=a:3"));
    let stored = fixture.stored();
    assert_eq!(stored["spec"]["template"]["spec"]["containers"][0]["image"], "a:3");
    let cause = format!("pilothouse set image app=a:3, operation {}", operation.operation_id);
    assert_eq!(stored["metadata"]["annotations"][CHANGE_CAUSE], json!(cause));
    assert_eq!(fixture.set_images(&[("app", "a:3")]), Ok(vec![Warning::Unchanged]));
    let error = fixture.set_images(&[("absent", "a:3")]).unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("container"))
    );
}

#[test]
fn only_types_with_rollouts_are_accepted() {
    let (fixture, system) = (Fixture::new(), Caller::system());
    let (rollouts, cluster) = (&fixture.app.rollouts, fixture.cluster);
    let invalid = Error::invalid("type", Reason::NotOneOf);
    for kind in [WorkloadType::Job, WorkloadType::CronJob] {
        let job = WorkloadRef { kind, ..web() };
        assert_eq!(block_on(rollouts.history(&system, cluster, &job)).unwrap_err(), invalid);
        assert_eq!(block_on(rollouts.progress(&system, cluster, &job)).unwrap_err(), invalid);
        assert_eq!(block_on(rollouts.undo(&system, cluster, &job, None, None)).unwrap_err(), invalid);
    }
    for kind in [WorkloadType::StatefulSet, WorkloadType::DaemonSet] {
        let set = WorkloadRef { kind, ..web() };
        assert_eq!(block_on(rollouts.pause(&system, cluster, &set, true, None)).unwrap_err(), invalid);
    }
}

fn next(stream: &mut RolloutStream) -> String {
    match block_on(stream.next()).unwrap() {
        StreamEvent::Next(rollout) => format!("{:?}", rollout.progress.state),
        StreamEvent::End(end) => format!("end {}", end.reason()),
    }
}

#[test]
fn watched_rollout_sends_its_progress_and_then_each_change() {
    let fixture = Fixture::new();
    let rollout =
        block_on(fixture.app.rollouts.progress(&Caller::system(), fixture.cluster, &web())).unwrap();
    let progress = &rollout.progress;
    assert_eq!((progress.state, progress.updated, progress.wanted), (RolloutState::Complete, 1, 1));
    let signals = fixture.fake.clusters.next_rollout();
    let watch = || block_on(fixture.app.rollouts.watch(&Caller::system(), fixture.cluster, &web())).unwrap();
    let mut stream = watch();
    assert_eq!(next(&mut stream), "Complete");
    signals.unbounded_send(()).unwrap();
    fixture.pause(true);
    signals.unbounded_send(()).unwrap();
    assert_eq!(next(&mut stream), "Paused", "nothing is sent without a change");
    fixture.pause(false);
    signals.unbounded_send(()).unwrap();
    assert_eq!(next(&mut stream), "Progressing", "the controller has not seen the last change");
    fixture.fake.clusters.fail(Some(Cause::Unreachable));
    signals.unbounded_send(()).unwrap();
    fixture.fake.clusters.fail(Some(Cause::NotFoundInCluster));
    signals.unbounded_send(()).unwrap();
    assert_eq!(next(&mut stream), "end not_found_in_cluster");

    fixture.fake.clusters.fail(None);
    let mut stream = watch();
    assert_eq!(
        (next(&mut stream), next(&mut stream)),
        ("Progressing".into(), "end connection_changed".into())
    );
}

/// A diagnosis makes about 15 reads, and a user may have 32 streams.
#[test]
fn watched_rollout_is_not_diagnosed_at_each_signal() {
    let fixture = Fixture::new();
    for (number, expected) in [(4, 4), (5, 6)] {
        let signals = fixture.fake.clusters.next_rollout();
        let mut stream =
            block_on(fixture.app.rollouts.watch(&Caller::system(), fixture.cluster, &web())).unwrap();
        assert_eq!(next(&mut stream), "Complete");
        fixture.fake.clusters.calls();
        for _ in 0..number {
            signals.unbounded_send(()).unwrap();
        }
        drop(signals);
        assert_eq!(next(&mut stream), "end connection_changed");
        // the diagnosis reads the workload, too
        assert_eq!(fixture.fake.clusters.calls().len(), expected, "{number} signals");
    }
}
