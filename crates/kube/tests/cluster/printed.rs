//! Objects of every kind of a real cluster, custom ones too: the same columns, cells and objects as kubectl's.

use pilothouse_core::{
    access::{AccessRequest, Caller, Resource},
    inventory::objects::{ObjectApi, ServedKind},
    name::PathName,
    testing,
};
use pilothouse_testbed::kubectl;
use tokio::time::{Instant, sleep};

use super::{common::CLUSTER, *};

/// Kinds that are not compared: Secrets are refused, and the statuses of components change with each read.
const LEFT_OUT: [&str; 2] = ["secrets", "componentstatuses"];
/// Columns whose cells depend on the time of printing.
const TIMES: [&str; 6] = ["AGE", "LAST SEEN", "FIRST SEEN", "LAST SCHEDULE", "DURATION", "RESTARTS"];

/// Objects of kinds that have no list of their own, and of a custom kind whose definition is the first one.
fn more(namespace: &str) -> Vec<Value> {
    let metadata = |name: &str| json!({"name": name, "namespace": namespace});
    let own = |name: &str| json!({"name": format!("{name}-{namespace}")});
    let group = format!("{namespace}.day2.example.org");
    let columns = json!([
        {"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"},
        {"name": "Launched", "type": "date", "jsonPath": ".spec.launched"},
        {"name": "Captain", "type": "string", "jsonPath": ".spec.captain", "priority": 1},
    ]);
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("boats.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema, "additionalPrinterColumns": columns}]},
    });
    let template = json!({"metadata": {"labels": {"app": "more"}}, "spec": {"containers": [{"name": "app", "image": "busybox:1"}]}});
    let rbac = "rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let subjects = json!([{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}]);
    let webhook = json!([{"name": "none.day2.example.org", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [],
        "clientConfig": {"url": "https://127.0.0.1:1/"}}]);
    vec![
        definition,
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("robot")}),
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata("limits"), "spec": {"limits": [{"type": "Pod", "max": {"cpu": "8"}}]}}),
        json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata("more"), "template": template}),
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": metadata("more"),
            "spec": {"replicas": 0, "selector": {"app": "more"}, "template": template}}),
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata("more"),
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "more"}}, "template": template}}),
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata("more"), "revision": 3, "data": {}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata("more"),
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "more"}}}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata("more"), "spec": {"podSelector": {"matchLabels": {"app": "more"}}}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": own("class"), "spec": {"controller": "example.org/none"}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata("more"), "spec": {"holderIdentity": "ann"}}),
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": own("class"), "value": 7}),
        json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": own("class"), "handler": "none"}),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": own("driver"), "spec": {"attachRequired": false}}),
        json!({"apiVersion": rbac, "kind": "Role", "metadata": metadata("more"), "rules": rules}),
        json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": metadata("more"), "subjects": subjects,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "more"}}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": own("role"), "rules": rules}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": own("binding"), "subjects": subjects,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("role-{namespace}")}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": own("hook"), "webhooks": webhook}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": own("hook"), "webhooks": webhook}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "Boat", "metadata": metadata("ship"),
            "spec": {"crew": 3, "launched": "2026-01-01T00:00:00Z", "captain": "Ann O'Nymous"}}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "Boat", "metadata": metadata("raft")}),
    ]
}

/// Rows by the name of their column, without those that depend on the time, in the order of their texts.
type Printed = Vec<BTreeMap<String, String>>;

/// The rows that kubectl prints. A column begins where its name does.
fn parse(text: &str) -> Printed {
    let mut lines = text.lines().map(|line| line.chars().collect::<Vec<_>>());
    let Some(header) = lines.next() else { return Vec::new() };
    let is_start = |at: &usize| {
        header[*at] != ' ' && (*at == 0 || header[at.saturating_sub(2)..*at].iter().all(|c| *c == ' '))
    };
    let starts: Vec<_> = (0..header.len()).filter(is_start).collect();
    let text_of = |line: &[char], column: usize| {
        let end = starts.get(column + 1).copied().unwrap_or(line.len()).min(line.len());
        line.get(starts[column]..end).unwrap_or_default().iter().collect::<String>().trim().to_owned()
    };
    let names: Vec<_> = (0..starts.len()).map(|column| text_of(&header, column)).collect();
    let row = |line: Vec<char>| {
        let cells = names.iter().enumerate().map(|(column, name)| (name.clone(), text_of(&line, column)));
        cells.filter(|(name, _)| !TIMES.contains(&&**name)).collect()
    };
    let mut rows: Printed = lines.map(row).collect();
    rows.sort();
    rows
}

fn text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    }
}

struct Fixture {
    plane: &'static ControlPlane,
    adapter: KubeClusters,
    namespace: String,
}

impl Fixture {
    fn permit(&self, verb: Verb, kind: Kind) -> Permit {
        let access = AccessRequest::to(verb, Resource::Kind(kind)).in_cluster(CLUSTER);
        let access = match kind {
            Kind::Namespace => access.within(NamespaceScope::All),
            _ if kind.info().namespaced => access.in_namespace(&common::namespace(&self.namespace)),
            _ => access,
        };
        testing::permit(&Caller::system(), access)
    }

    /// The rows of a kind, and the name of the first one.
    async fn ours(&self, served: &ServedKind, kind: Kind) -> (Printed, Option<String>) {
        let permit = self.permit(Verb::List, kind);
        let namespaces = permit.namespaces().clone();
        let query = ListQuery { namespaces, kinds: vec![kind], per_page: 500, ..ListQuery::default() };
        let page = ObjectApi::page(&self.adapter, &permit, served, &query).await.unwrap();
        let row = |row: &Row| {
            let cells = row.parse::<Value>().unwrap()["cells"].clone();
            let named = page
                .columns
                .iter()
                .enumerate()
                .map(|(at, column)| (column.name.to_uppercase(), text(&cells[at])));
            named.filter(|(name, _)| !TIMES.contains(&&**name)).collect()
        };
        let mut rows: Printed = page.listing.rows.iter().map(row).collect();
        rows.sort();
        (rows, page.listing.rows.first().map(|row| row.name().to_owned()))
    }

    async fn theirs(&self, served: &ServedKind, kind: Kind) -> Printed {
        let (resource, namespace) = (kind.resource_name(), format!("--namespace={}", self.namespace));
        let arguments = ["get", &*resource, "--output=wide", &*namespace];
        let arguments = if served.namespaced { &arguments[..] } else { &arguments[..3] };
        parse(&kubectl(self.plane, arguments).await.unwrap())
    }

    /// The object as kubectl prints it, and as the details have it.
    async fn both(&self, served: &ServedKind, kind: Kind, name: &str) -> (Value, Value) {
        let (resource, namespace) = (kind.resource_name(), format!("--namespace={}", self.namespace));
        let arguments = ["get", &*resource, name, "--output=json", &*namespace];
        let arguments = if served.namespaced { &arguments[..] } else { &arguments[..4] };
        let mut theirs: Value = serde_json::from_str(&kubectl(self.plane, arguments).await.unwrap()).unwrap();
        if let Some(annotations) = theirs.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        let name = PathName::new(name).unwrap();
        let permit = match kind {
            Kind::Namespace => {
                let namespace = common::namespace(name.as_str());
                let access = AccessRequest::to(Verb::Get, Resource::Kind(kind)).in_cluster(CLUSTER);
                testing::permit(&Caller::system(), access.in_namespace(&namespace))
            }
            kind => self.permit(Verb::Get, kind),
        };
        let ours = ObjectApi::get(&self.adapter, &permit, &name).await.unwrap();
        (theirs, ours.map_or(Value::Null, |detail| detail.object))
    }

    /// Compares a kind until both agree, because other tests change the cluster meanwhile. Returns whether it has objects.
    async fn compare(&self, served: &ServedKind) -> bool {
        let kind = served.to_kind().unwrap();
        let end = Instant::now() + TEST_TIMEOUT;
        loop {
            let (ours, first) = self.ours(served, kind).await;
            let theirs = self.theirs(served, kind).await;
            let mut differs = (ours != theirs).then(|| format!("{ours:#?}\n{theirs:#?}"));
            if let (None, Some(name), true) = (&differs, &first, served.has_verb("get")) {
                let (theirs, ours) = self.both(served, kind, name).await;
                differs = (ours != theirs).then(|| format!("{ours:#}\n{theirs:#}"));
            }
            let Some(differs) = differs else { return first.is_some() };
            assert!(Instant::now() < end, "{kind}: {differs}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test]
async fn objects_of_every_kind_are_printed_as_by_kubectl() {
    let (plane, adapter, admin, namespace) = fixture("printed").await;
    let more = more(&namespace);
    for object in samples::samples(&namespace).iter().chain(&more) {
        if object["kind"] == "Boat" {
            let definition = pilothouse_testbed::path_of(&more[0]);
            let is_established = |object: &Value| {
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|one| one["type"] == "Established" && one["status"] == "True")
            };
            admin.wait_until(&definition, is_established, TEST_TIMEOUT).await.unwrap();
            // the discovery of a new kind takes a moment longer
            admin
                .wait_until(&format!("/apis/{}.day2.example.org/v1/boats", namespace), |_| true, TEST_TIMEOUT)
                .await
                .unwrap();
        }
        admin.apply(object).await.unwrap();
    }
    let fixture = Fixture { plane, adapter, namespace };
    let access = AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(CLUSTER);
    let permit = testing::permit(&Caller::system(), access);
    let kinds = ObjectApi::kinds(&fixture.adapter, &permit, None).await.unwrap();
    assert_eq!(kinds.warnings, []);
    let boats =
        kinds.kinds.iter().find(|kind| kind.plural == "boats" && kind.group.starts_with(&fixture.namespace));
    assert!(boats.is_some_and(|kind| kind.custom), "{boats:?}");
    let mut compared = Vec::new();
    let readable = |kind: &&ServedKind| kind.has_verb("list") && !LEFT_OUT.contains(&&*kind.plural);
    // kinds of other tests may go meanwhile
    let own = |kind: &&ServedKind| !kind.custom || kind.group.starts_with(&fixture.namespace);
    for served in kinds.kinds.iter().filter(readable).filter(own) {
        if fixture.compare(served).await {
            compared.push(&*served.plural);
        }
    }
    assert!(compared.len() >= 30, "{} kinds with objects: {compared:?}", compared.len());
    assert!(compared.contains(&"boats"), "{compared:?}");

    for object in more.iter().filter(|object| object["metadata"]["namespace"].is_null()) {
        admin.delete(&pilothouse_testbed::path_of(object)).await.unwrap();
    }
    admin.delete(&format!("/api/v1/namespaces/{}", fixture.namespace)).await.unwrap();
}

#[test]
fn kubectl_tables_are_parsed_by_the_positions_of_their_columns() {
    let text = "NAME   NODE SELECTOR   AGE   EMPTY   LAST\n\
                a      <none>          3h            x y\n\
                b-1    k=v             5m30s         z\n";
    let row = |cells: [(&str, &str); 4]| -> BTreeMap<String, String> {
        cells.map(|(name, cell)| (name.to_owned(), cell.to_owned())).into()
    };
    assert_eq!(
        parse(text),
        [
            row([("NAME", "a"), ("NODE SELECTOR", "<none>"), ("EMPTY", ""), ("LAST", "x y")]),
            row([("NAME", "b-1"), ("NODE SELECTOR", "k=v"), ("EMPTY", ""), ("LAST", "z")]),
        ]
    );
    assert_eq!(parse(""), Vec::<BTreeMap<String, String>>::new());
}
