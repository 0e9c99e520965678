//! Fake API server with objects of any kind: discovery as one document or by group, and lists and watches as objects or
//! as tables of printed columns. `cluster/kinds.rs` compares its protocol with that of a real API server.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::sleep,
};

use super::{
    kinds::{Discovery, ServedKind},
    server::{BodyPart, FakeServer, RecordedRequest, Reply},
};

/// What differs between versions of Kubernetes.
#[derive(Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) version: &'static str,
    /// Whether `/api` and `/apis` describe all resources: since 1.30, or 1.27 as beta.
    pub(crate) aggregated_discovery: bool,
    /// Whether watches have `sendInitialEvents`: since 1.34.
    pub(crate) initial_events: bool,
}

impl Protocol {
    pub(crate) const V1_37: Self =
        Self { version: "v1.37.2", aggregated_discovery: true, initial_events: true };
    pub(crate) const V1_30: Self =
        Self { version: "v1.30.14", aggregated_discovery: true, initial_events: false };
    /// An older server, or one with discovery by group only.
    pub(crate) const BY_GROUP: Self =
        Self { version: "v1.26.15", aggregated_discovery: false, initial_events: false };
}

/// An open watch.
struct OpenWatch {
    sender: UnboundedSender<BodyPart>,
    group: String,
    resource: String,
    namespace: Option<String>,
    as_table: bool,
    /// Whether the next event has the column definitions.
    with_columns: bool,
}

struct State {
    protocol: Protocol,
    kinds: Vec<ServedKind>,
    /// Groups whose API server does not respond.
    failing: BTreeSet<String>,
    version: u64,
    watches: Vec<OpenWatch>,
}

/// The server. Stops when dropped.
pub(crate) struct KindServer {
    pub(crate) server: FakeServer,
    state: Arc<Mutex<State>>,
}

impl KindServer {
    pub(crate) async fn start(protocol: Protocol, kinds: Vec<ServedKind>) -> Self {
        let state = State { protocol, kinds, failing: BTreeSet::new(), version: 5, watches: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let server = FakeServer::start(move |request, _| shared.lock().unwrap().reply(request)).await;
        Self { server, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a kind, or replaces the one with the same group and resource, as a change of its definition does: the open
    /// watches of the kind end.
    pub(crate) fn serve(&self, kind: ServedKind) {
        self.remove(kind.group, kind.resource);
        self.state().kinds.push(kind);
    }

    /// Removes a kind. Its open watches end.
    pub(crate) fn remove(&self, group: &str, resource: &str) {
        let mut state = self.state();
        state.kinds.retain(|kind| (kind.group, kind.resource) != (group, resource));
        let ended = |watch: &OpenWatch| (&*watch.group, &*watch.resource) == (group, resource);
        for watch in state.watches.iter().filter(|watch| ended(watch)) {
            let _ = watch.sender.send(BodyPart::End);
        }
        state.watches.retain(|watch| !ended(watch));
    }

    /// Makes the API server of a group fail, or respond again.
    pub(crate) fn fail(&self, group: &str, fails: bool) {
        let mut state = self.state();
        if fails {
            state.failing.insert(group.to_owned());
        } else {
            state.failing.remove(group);
        }
    }

    /// Adds or replaces an object, and sends the event to the watches of its kind.
    pub(crate) fn apply(&self, resource: &str, object: Value, cells: Vec<Value>) {
        self.state().change(resource, object, Some(cells));
    }

    /// Removes an object, and sends the event to the watches of its kind.
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let object = json!({"metadata": {"namespace": namespace, "name": name}});
        self.state().change(resource, object, None);
    }

    /// Number of open watches of a resource.
    pub(crate) fn watches(&self, resource: &str) -> usize {
        let state = self.state();
        let open = state.watches.iter().filter(|watch| !watch.sender.is_closed());
        open.filter(|watch| watch.resource == resource).count()
    }
}

/// The parts of a path of objects.
struct Target<'a> {
    group: &'a str,
    version: &'a str,
    namespace: Option<&'a str>,
    resource: &'a str,
    name: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match segments[..] {
            ["api", version, ref rest @ ..] => ("", version, rest),
            ["apis", group, version, ref rest @ ..] => (group, version, rest),
            _ => return None,
        };
        let (namespace, resource, name) = match *rest {
            ["namespaces", namespace, resource] => (Some(namespace), resource, None),
            ["namespaces", namespace, resource, name] => (Some(namespace), resource, Some(name)),
            [resource] => (None, resource, None),
            [resource, name] => (None, resource, Some(name)),
            _ => return None,
        };
        Some(Self { group, version, namespace, resource, name })
    }
}

fn is_in(object: &Value, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|namespace| object["metadata"]["namespace"] == *namespace)
}

impl State {
    fn reply(&mut self, request: &RecordedRequest) -> Reply {
        let (path, query) = request.target.split_once('?').unwrap_or((&*request.target, ""));
        let accepts = |text: &str| request.headers.get("accept").is_some_and(|accept| accept.contains(text));
        let segments = path.trim_matches('/').split('/').count();
        let aggregated = self.protocol.aggregated_discovery && accepts("as=APIGroupDiscoveryList");
        match path {
            "/version" => Reply::json(200, &json!({"gitVersion": self.protocol.version})),
            "/api" | "/apis" if aggregated => {
                self.aggregated(path == "/api", request.headers.get("if-none-match"))
            }
            "/api" => Reply::json(200, &json!({"kind": "APIVersions", "versions": ["v1"]})),
            "/apis" => Reply::json(200, &self.discovery().groups()),
            _ if segments == if path.starts_with("/api/") { 2 } else { 3 } => {
                self.resources(path.trim_start_matches("/apis/").trim_start_matches("/api/"))
            }
            _ => match Target::parse(path) {
                Some(target) => self.objects(&target, query, accepts("as=Table")),
                None => not_found(),
            },
        }
    }

    /// Replies with a part of the aggregated discovery. It has the same `ETag` until a kind changes.
    fn aggregated(&self, core: bool, known: Option<&String>) -> Reply {
        let body = self.discovery().aggregated(core).to_string();
        let hash = body.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let etag = format!("\"{hash:016X}\"");
        if known == Some(&etag) {
            return Reply::Body(304, vec![("ETag", etag)], String::new());
        }
        let content_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        Reply::Body(200, vec![("Content-Type", content_type.to_owned()), ("ETag", etag)], body)
    }

    fn discovery(&self) -> Discovery<'_> {
        Discovery { kinds: &self.kinds, failing: &self.failing }
    }

    /// Replies with the resources of a version of a group.
    fn resources(&self, group_version: &str) -> Reply {
        if self.failing.iter().any(|group| group_version.starts_with(&format!("{group}/"))) {
            return unavailable();
        }
        self.discovery().resources(group_version).map_or_else(not_found, |list| Reply::json(200, &list))
    }

    /// A list, a watch or an object.
    fn objects(&mut self, target: &Target<'_>, query: &str, as_table: bool) -> Reply {
        let served = |kind: &&ServedKind| {
            (kind.group, kind.version, kind.resource) == (target.group, target.version, target.resource)
        };
        let Some(kind) = self.kinds.iter().find(served).cloned() else { return not_found() };
        if self.failing.contains(target.group) {
            return unavailable();
        }
        let has = |parameter: &str| query.split('&').any(|one| one == parameter);
        let is_watch = has("watch=true") || has("watch=1");
        let verb = match (target.name, is_watch) {
            (Some(_), _) => "get",
            (None, true) => "watch",
            (None, false) => "list",
        };
        if !kind.verbs.contains(&verb) {
            let message = "the server does not allow this method on the requested resource";
            return Reply::status(405, "MethodNotAllowed", message, json!({}));
        }
        let objects: Vec<_> =
            kind.objects.iter().filter(|(object, _)| is_in(object, target.namespace)).cloned().collect();
        if is_watch {
            return self.watch(&kind, target.namespace, objects, query, as_table);
        }
        match target.name {
            Some(name) => match objects.iter().find(|(object, _)| object["metadata"]["name"] == *name) {
                Some((object, _)) => Reply::json(200, object),
                None => not_found(),
            },
            None if as_table => Reply::json(200, &kind.table(&objects, true, self.version)),
            None => {
                let items: Vec<_> = objects.into_iter().map(|(object, _)| object).collect();
                let list = json!({
                    "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                    "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
                });
                Reply::json(200, &list)
            }
        }
    }

    /// A watch: with `sendInitialEvents` it begins with all objects and a bookmark. It ends after `timeoutSeconds`.
    fn watch(
        &mut self,
        kind: &ServedKind,
        namespace: Option<&str>,
        objects: Vec<(Value, Vec<Value>)>,
        query: &str,
        as_table: bool,
    ) -> Reply {
        let (sender, receiver) = unbounded_channel();
        let mut watch = OpenWatch {
            sender: sender.clone(),
            group: kind.group.to_owned(),
            resource: kind.resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            as_table,
            with_columns: true,
        };
        if query.split('&').any(|one| one == "sendInitialEvents=true") {
            if !self.protocol.initial_events {
                let message = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is \
                    forbidden for watch unless the WatchList feature gate is enabled";
                return Reply::status(422, "Invalid", message, json!({}));
            }
            for object in &objects {
                watch.send(kind, "ADDED", object, self.version);
            }
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": annotations});
            let empty = vec![json!(""); kind.columns.len()];
            watch.send(kind, "BOOKMARK", &(json!({"metadata": metadata}), empty), self.version);
        }
        // empty bytes send the head of the response
        let _ = sender.send(BodyPart::Bytes(Vec::new()));
        if let Some(seconds) =
            query.split('&').find_map(|one| one.strip_prefix("timeoutSeconds=")?.parse().ok())
        {
            tokio::spawn(async move {
                sleep(Duration::from_secs(seconds)).await;
                let _ = sender.send(BodyPart::End);
            });
        }
        self.watches.push(watch);
        Reply::Stream(receiver)
    }

    /// Adds or replaces an object; removes it without `cells`.
    fn change(&mut self, resource: &str, mut object: Value, cells: Option<Vec<Value>>) {
        self.version += 1;
        let kind = self.kinds.iter_mut().find(|kind| kind.resource == resource).expect("a served resource");
        let is_same = |one: &Value| {
            let key = |object: &Value| {
                (object["metadata"]["namespace"].clone(), object["metadata"]["name"].clone())
            };
            key(one) == key(&object)
        };
        let position = kind.objects.iter().position(|(one, _)| is_same(one));
        let (event, changed) = match (cells, position) {
            (Some(cells), _) => {
                object["metadata"]["resourceVersion"] = self.version.to_string().into();
                let event = if position.is_some() { "MODIFIED" } else { "ADDED" };
                match position {
                    Some(position) => kind.objects[position] = (object.clone(), cells.clone()),
                    None => kind.objects.push((object.clone(), cells.clone())),
                }
                (event, (object, cells))
            }
            (None, Some(position)) => {
                let mut removed = kind.objects.remove(position);
                removed.0["metadata"]["resourceVersion"] = self.version.to_string().into();
                ("DELETED", removed)
            }
            (None, None) => panic!("no object {object} of {resource}"),
        };
        let (kind, version) = (kind.clone(), self.version);
        let watched = |watch: &&mut OpenWatch| {
            (&*watch.group, &*watch.resource) == (kind.group, kind.resource)
                && is_in(&changed.0, watch.namespace.as_deref())
        };
        for watch in self.watches.iter_mut().filter(watched) {
            watch.send(&kind, event, &changed, version);
        }
    }
}

impl OpenWatch {
    /// Sends an event. A closed watch ignores it.
    fn send(&mut self, kind: &ServedKind, event: &str, object: &(Value, Vec<Value>), version: u64) {
        let value = if self.as_table {
            kind.table(std::slice::from_ref(object), self.with_columns, version)
        } else {
            object.0.clone()
        };
        self.with_columns = false;
        let line = format!("{}\n", json!({"type": event, "object": value}));
        let _ = self.sender.send(BodyPart::Bytes(line.into_bytes()));
    }
}

fn not_found() -> Reply {
    Reply::status(404, "NotFound", "the server could not find the requested resource", json!({}))
}

/// The response for an aggregated API server that does not respond.
fn unavailable() -> Reply {
    Reply::Body(503, vec![("Content-Type", "text/plain".to_owned())], "service unavailable\n".to_owned())
}
