//! API requests: the path, built from [`Kind`] and validated names only, and the metadata of the call. kube-rs writes
//! names into a path unescaped, and a real API server serves `kube-system/secrets/x?y=` as written, so no other text
//! may become a segment.

use std::{fmt, time::Duration};

use http::{HeaderValue, Request, header};
use kube::core::{
    params::{
        DeleteParams, GetParams, ListParams, Patch, PatchParams, Preconditions, ValidationDirective,
        WatchParams,
    },
    request::Request as Builder,
};
use pilothouse_core::{
    Error, Result,
    json_patch::JsonPatch,
    kind::{Kind, KindInfo},
    name::{Namespace, ObjectName, PathName},
    namespaces::NamespaceScope,
};
use serde::Serialize;

mod pod;

pub(crate) use pod::{POD_EVICTION, POD_RESIZE};

/// Field manager of Pilothouse's writes, as shown in `managedFields`.
const FIELD_MANAGER: &str = "pilothouse";

/// Part of a response body that is read, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The whole body; a longer one is an error.
    Whole(usize),
    /// The last bytes.
    Newest(usize),
}

/// Representation of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Objects as they are stored.
    Objects,
    /// The table that the API server prints, each row with the metadata of its object; objects from a server that does
    /// not print the kind.
    Table,
    /// The table alone. A server that does not print it refuses the request.
    OnlyTable,
    /// The discovery of all groups in one document; from an older server, the names of the groups.
    Discovery,
}

impl Format {
    /// The header `Accept`; none for the transport's own.
    fn accept(self) -> Option<HeaderValue> {
        match self {
            Self::Objects => None,
            Self::Table => Some(HeaderValue::from_static(
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            )),
            Self::OnlyTable => Some(HeaderValue::from_static("application/json;as=Table;v=v1;g=meta.k8s.io")),
            Self::Discovery => Some(HeaderValue::from_static(
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                 application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
            )),
        }
    }
}

/// Limit for an object or a `Status`. etcd stores at most 1.5 MiB per object; JSON escapes expand it up to six times.
const OBJECT_LIMIT: Limit = Limit::Whole(16 << 20);
/// Limit for a chunk of a list.
const CHUNK_LIMIT: Limit = Limit::Whole(16 << 20);

/// Limit for the usage of all pods: about 400 bytes for each of 160,000.
const USAGE_LIMIT: Limit = Limit::Whole(64 << 20);

/// An API request and its metadata. `Debug` omits the body, which may contain a Secret's values.
#[derive(Clone)]
pub(crate) struct Call {
    /// The request; its URI is a path relative to the server's address.
    pub(crate) request: Request<Vec<u8>>,
    /// The kind; none for requests about the API itself: its version, its discovery, the names of its definitions, and
    /// self-reviews.
    pub(crate) kind: Option<Kind>,
    /// The verb in RBAC notation.
    pub(crate) verb: &'static str,
    /// The kind in lower case and singular, or a subresource in RBAC notation.
    pub(crate) resource: &'static str,
    /// The namespace.
    pub(crate) namespace: Option<Namespace>,
    /// The object's name.
    pub(crate) name: Option<ObjectName>,
    /// Part of the response that is read.
    pub(crate) limit: Limit,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, verb, resource, .. } = self;
        let path = request.uri().path();
        f.debug_struct("Call").field("verb", verb).field("resource", resource).field("path", &path).finish()
    }
}

type RequestResult = Result<Request<Vec<u8>>, kube::core::request::Error>;

impl Call {
    fn new(verb: &'static str, resource: &'static str, request: RequestResult) -> Result<Self> {
        let request =
            request.map_err(|error| Error::internal(format!("a request cannot be built: {error}")))?;
        Ok(Self { request, kind: None, verb, resource, namespace: None, name: None, limit: OBJECT_LIMIT })
    }

    fn for_kind(kind: Kind, verb: &'static str, request: RequestResult) -> Result<Self> {
        Ok(Self { kind: Some(kind), ..Self::new(verb, kind.info().singular, request)? })
    }

    fn with_object(mut self, namespace: Option<&Namespace>, name: Option<&ObjectName>) -> Self {
        (self.namespace, self.name) = (namespace.cloned(), name.cloned());
        self
    }

    /// Requests another representation of the response.
    pub(crate) fn in_format(mut self, format: Format) -> Self {
        if let Some(accept) = format.accept() {
            self.request.headers_mut().insert(header::ACCEPT, accept);
        }
        self
    }

    /// LIST of a kind, one chunk: in one namespace, or in all namespaces for any other scope.
    pub(crate) fn list(kind: Kind, scope: &NamespaceScope, params: &ListParams) -> Result<Self> {
        let namespace = scope.one().filter(|_| kind.info().namespaced);
        let call = Self::for_kind(kind, "list", Builder::new(collection(kind, namespace)).list(params))?;
        Ok(Self { limit: CHUNK_LIMIT, ..call.with_object(namespace, None) })
    }

    /// LIST of a kind, one chunk, of the metadata of its objects alone: the response has no values of a Secret.
    pub(crate) fn list_metadata(kind: Kind, scope: &NamespaceScope, params: &ListParams) -> Result<Self> {
        let namespace = scope.one().filter(|_| kind.info().namespaced);
        let request = Builder::new(collection(kind, namespace)).list_metadata(params);
        Ok(Self { limit: CHUNK_LIMIT, ..Self::for_kind(kind, "list", request)?.with_object(namespace, None) })
    }

    /// A watch of a kind in all namespaces: from a resource version on or, without one, with initial events. The server
    /// ends it after `watch_timeout` and sends a bookmark some seconds before.
    pub(crate) fn watch(kind: Kind, version: Option<&str>, watch_timeout: Duration) -> Result<Self> {
        let params = WatchParams {
            timeout: u32::try_from(watch_timeout.as_secs()).ok(),
            bookmarks: true,
            send_initial_events: version.is_none(),
            ..WatchParams::default()
        };
        let request = Builder::new(collection(kind, None)).watch(&params, version.unwrap_or_default());
        Self::for_kind(kind, "watch", request)
    }

    /// GET of an object.
    pub(crate) fn get(kind: Kind, namespace: Option<&Namespace>, name: &ObjectName) -> Result<Self> {
        let request = Builder::new(collection(kind, namespace)).get(name.as_str(), &GetParams::default());
        Ok(Self::for_kind(kind, "get", request)?.with_object(namespace, Some(name)))
    }

    /// GET of an object's metadata alone: the response has no values of a Secret.
    pub(crate) fn get_metadata(kind: Kind, namespace: Option<&Namespace>, name: &ObjectName) -> Result<Self> {
        let builder = Builder::new(collection(kind, namespace));
        let request = builder.get_metadata(name.as_str(), &GetParams::default());
        Ok(Self::for_kind(kind, "get", request)?.with_object(namespace, Some(name)))
    }

    /// GET of an object of any kind, whose name may be none of an ordinary object.
    pub(crate) fn get_any(kind: Kind, namespace: Option<&Namespace>, name: &PathName) -> Result<Self> {
        let request = Builder::new(collection(kind, namespace)).get(name.as_str(), &GetParams::default());
        let ordinary = ObjectName::new(name.as_str()).ok();
        Ok(Self::for_kind(kind, "get", request)?.with_object(namespace, ordinary.as_ref()))
    }

    /// POST of a new object. kube-rs does not support field validation for a POST, so the URI is built here.
    pub(crate) fn create(
        kind: Kind,
        namespace: Option<&Namespace>,
        name: &ObjectName,
        object: &impl Serialize,
    ) -> Result<Self> {
        let path = collection(kind, namespace);
        let request = post(&format!("{path}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict"), object);
        Ok(Self::for_kind(kind, "create", request)?.with_object(namespace, Some(name)))
    }

    /// A merge patch. The server rejects unknown fields.
    pub(crate) fn patch(
        kind: Kind,
        namespace: Option<&Namespace>,
        name: &ObjectName,
        patch: &serde_json::Value,
    ) -> Result<Self> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::default()
        };
        let request =
            Builder::new(collection(kind, namespace)).patch(name.as_str(), &params, &Patch::Merge(patch));
        Ok(Self::for_kind(kind, "patch", request)?.with_object(namespace, Some(name)))
    }

    /// A JSON patch. The server rejects unknown fields. kube-rs would need another library for it, so the URI is built
    /// here.
    pub(crate) fn json_patch(
        kind: Kind,
        namespace: Option<&Namespace>,
        name: &ObjectName,
        patch: &JsonPatch,
    ) -> Result<Self> {
        let path = collection(kind, namespace);
        let uri = format!("{path}/{name}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict");
        let request = with_json(Request::patch(uri), "application/json-patch+json", patch);
        Ok(Self::for_kind(kind, "patch", request)?.with_object(namespace, Some(name)))
    }

    /// DELETE of the object with this uid, with a grace period in seconds instead of the object's own. The conditions are
    /// in the body: the API server ignores those in the query if there is a body.
    pub(crate) fn delete_uid(
        kind: Kind,
        namespace: Option<&Namespace>,
        name: &ObjectName,
        uid: &str,
        grace_period_seconds: Option<u32>,
    ) -> Result<Self> {
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { grace_period_seconds, preconditions, ..DeleteParams::default() };
        let request = Builder::new(collection(kind, namespace)).delete(name.as_str(), &params);
        Ok(Self::for_kind(kind, "delete", request)?.with_object(namespace, Some(name)))
    }

    /// DELETE of an object.
    pub(crate) fn delete(kind: Kind, namespace: Option<&Namespace>, name: &ObjectName) -> Result<Self> {
        let request =
            Builder::new(collection(kind, namespace)).delete(name.as_str(), &DeleteParams::default());
        Ok(Self::for_kind(kind, "delete", request)?.with_object(namespace, Some(name)))
    }

    /// LIST of the usage of CPU and memory: of all nodes, or of pods in one namespace or all. The API neither watches nor
    /// lists in chunks.
    pub(crate) fn usage(kind: Kind, namespace: Option<&Namespace>) -> Result<Self> {
        let root = "/apis/metrics.k8s.io/v1beta1";
        let (resource, path) = match (kind, namespace) {
            (Kind::Node, _) => ("nodes.metrics.k8s.io", format!("{root}/nodes")),
            (Kind::Pod, None) => ("pods.metrics.k8s.io", format!("{root}/pods")),
            (Kind::Pod, Some(namespace)) => {
                ("pods.metrics.k8s.io", format!("{root}/namespaces/{namespace}/pods"))
            }
            _ => return Err(Error::internal(format!("{kind} has no usage"))),
        };
        let request = Request::get(path).body(Vec::new()).map_err(kube::core::request::Error::BuildRequest);
        let call = Self::new("list", resource, request)?.with_object(namespace, None);
        Ok(Self { kind: Some(kind), limit: USAGE_LIMIT, ..call })
    }

    /// GET of the API server's version, which needs no permission.
    pub(crate) fn version() -> Result<Self> {
        let request = Request::get("/version").body(Vec::new());
        Self::new("get", "version", request.map_err(kube::core::request::Error::BuildRequest))
    }

    /// GET of the discovery of the core group.
    pub(crate) fn discover_core() -> Result<Self> {
        Self::discover("/api".to_owned())
    }

    /// GET of the discovery of all other groups.
    pub(crate) fn discover_groups() -> Result<Self> {
        Self::discover("/apis".to_owned())
    }

    /// GET of the kinds of one version of a group, from a server without discovery in one document. `None` if a name is
    /// not valid.
    pub(crate) fn discover_version(group: &str, version: &str) -> Result<Option<Self>> {
        let version = Namespace::new(version);
        let path = match (group, version) {
            ("", Ok(version)) => format!("/api/{version}"),
            (group, Ok(version)) if ObjectName::new(group).is_ok() => format!("/apis/{group}/{version}"),
            _ => return Ok(None),
        };
        Self::discover(path).map(Some)
    }

    fn discover(path: String) -> Result<Self> {
        let request = Request::get(path).body(Vec::new());
        let call = Self::new("get", "discovery", request.map_err(kube::core::request::Error::BuildRequest))?;
        Ok(call.in_format(Format::Discovery))
    }

    /// LIST of the names of all CustomResourceDefinitions.
    pub(crate) fn definitions() -> Result<Self> {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?includeObject=None";
        let request = Request::get(path).body(Vec::new());
        let request = request.map_err(kube::core::request::Error::BuildRequest);
        Ok(Self::new("list", "customresourcedefinition", request)?.in_format(Format::OnlyTable))
    }

    /// POST of a self-review, which every client may send; nothing is stored.
    pub(crate) fn review(review: Review, body: &impl Serialize) -> Result<Self> {
        let Review { path, resource } = review;
        Self::new("create", resource, post(path, body))
    }
}

/// A kind of self-review.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Review {
    path: &'static str,
    resource: &'static str,
}

/// Review that returns the user of the credential.
pub(crate) const SELF_SUBJECT: Review =
    Review { path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", resource: "selfsubjectreview" };
/// Review that returns whether the credential has a permission.
pub(crate) const SELF_SUBJECT_ACCESS: Review = Review {
    path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    resource: "selfsubjectaccessreview",
};

/// The collection path of a kind, in one namespace or all.
fn collection(kind: Kind, namespace: Option<&Namespace>) -> String {
    let KindInfo { group, version, plural, .. } = kind.info();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

fn post(uri: &str, body: &impl Serialize) -> RequestResult {
    with_json(Request::post(uri), "application/json", body)
}

fn with_json(request: http::request::Builder, media_type: &str, body: &impl Serialize) -> RequestResult {
    let body = serde_json::to_vec(body).map_err(kube::core::request::Error::SerializeBody)?;
    let request = request.header(http::header::CONTENT_TYPE, media_type).body(body);
    request.map_err(kube::core::request::Error::BuildRequest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::subresource::LogParams;
    use pilothouse_core::{kind::KINDS, object::Metadata};
    use proptest::prelude::*;
    use serde_json::json;

    /// Every call that names an object, and the number of path segments after its name.
    fn calls(kind: Kind, namespace: &Namespace, name: &ObjectName) -> Vec<(Call, usize)> {
        let within = kind.info().namespaced.then_some(namespace);
        let mut calls = vec![
            (Call::get(kind, within, name).unwrap(), 0),
            (Call::get_metadata(kind, within, name).unwrap(), 0),
            (Call::patch(kind, within, name, &json!({})).unwrap(), 0),
            (Call::json_patch(kind, within, name, &JsonPatch::of(&Metadata::default())).unwrap(), 0),
            (Call::delete(kind, within, name).unwrap(), 0),
            (Call::delete_uid(kind, within, name, "u", Some(0)).unwrap(), 0),
        ];
        if kind == Kind::Pod {
            let resize = JsonPatch::of(&Metadata::default());
            calls.push((Call::logs(namespace, name, &LogParams::default(), 1).unwrap(), 1));
            calls.push((Call::resize(namespace, name, &resize).unwrap(), 1));
            calls.push((Call::evict(namespace, name, "u").unwrap(), 1));
        }
        calls
    }

    /// Mostly valid names, sometimes path injections.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9]([-a-z0-9.]{0,30}[a-z0-9])?",
            "[a-z0-9./%?#&=-]{1,20}",
            "\\PC{0,20}",
            Just("..".to_owned())
        ]
    }

    proptest! {
        #[test]
        fn path_has_exactly_the_expected_segments(
            kind in prop::sample::select(KINDS), namespace in text(), name in text(),
        ) {
            let (Ok(namespace), Ok(name)) = (Namespace::new(namespace), ObjectName::new(name)) else { return Ok(()) };
            let KindInfo { group, version, plural, namespaced, .. } = kind.info();
            let mut expected = if group.is_empty() { vec!["", "api", version] } else { vec!["", "apis", group, version] };
            if namespaced {
                expected.extend(["namespaces", namespace.as_str()]);
            }
            expected.push(plural);
            let list = Call::list(kind, &NamespaceScope::One(namespace.clone()), &ListParams::default()).unwrap();
            prop_assert_eq!(list.request.uri().path().split('/').collect::<Vec<_>>(), expected.clone());
            expected.push(name.as_str());
            for (call, suffix_segments) in calls(kind, &namespace, &name) {
                let uri = call.request.uri().to_string();
                let (path, _query) = uri.split_once('?').unwrap_or((&uri, ""));
                let segments: Vec<_> = path.split('/').collect();
                prop_assert_eq!(&segments[..expected.len()], &expected[..]);
                prop_assert_eq!(segments.len(), expected.len() + suffix_segments);
            }
        }
    }

    #[test]
    fn usage_is_of_nodes_and_pods() {
        let namespace = Namespace::new("shop").unwrap();
        let path = |kind, namespace| Call::usage(kind, namespace).map(|call| call.request.uri().to_string());
        assert_eq!(path(Kind::Node, None).unwrap(), "/apis/metrics.k8s.io/v1beta1/nodes");
        assert_eq!(path(Kind::Pod, None).unwrap(), "/apis/metrics.k8s.io/v1beta1/pods");
        let of_namespace = path(Kind::Pod, Some(&namespace)).unwrap();
        assert_eq!(of_namespace, "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods");
        assert!(path(Kind::Service, None).is_err());
    }

    #[test]
    fn conditions_of_a_deletion_are_in_the_body() {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web-0").unwrap());
        let body = |call: &Call| serde_json::from_slice::<serde_json::Value>(call.request.body()).unwrap();
        let delete = |grace| Call::delete_uid(Kind::Pod, Some(&namespace), &name, "u", grace).unwrap();
        assert_eq!(body(&delete(None)), json!({"preconditions": {"uid": "u"}}));
        assert_eq!(body(&delete(Some(0))), json!({"preconditions": {"uid": "u"}, "gracePeriodSeconds": 0}));
    }

    #[test]
    fn discovery_paths_have_valid_names_only() {
        let path = |group: &str, version: &str| {
            let call = Call::discover_version(group, version).unwrap();
            call.map(|call| call.request.uri().to_string())
        };
        assert_eq!(path("", "v1").as_deref(), Some("/api/v1"));
        assert_eq!(path("day2.example.org", "v1beta1").as_deref(), Some("/apis/day2.example.org/v1beta1"));
        for (group, version) in
            [("apps/v1?x=", "v1"), ("..", "v1"), ("apps", "v1/../v2"), ("apps", ""), ("", "../apis")]
        {
            assert_eq!(path(group, version), None, "{group} {version}");
        }
    }

    #[test]
    fn object_of_any_kind_is_requested_by_its_own_name() {
        let name = PathName::new("system:node").unwrap();
        let call = Call::get_any(Kind::Node, None, &name).unwrap().in_format(Format::Table);
        assert_eq!((call.request.uri().path(), call.name), ("/api/v1/nodes/system:node", None));
        let accept = call.request.headers().get(header::ACCEPT).unwrap();
        assert!(accept.to_str().unwrap().starts_with("application/json;as=Table"));
        let ordinary = Call::get_any(Kind::Node, None, &PathName::new("n1").unwrap()).unwrap();
        assert_eq!(ordinary.name, Some(ObjectName::new("n1").unwrap()));
        assert!(ordinary.request.headers().get(header::ACCEPT).is_none());
    }

    #[test]
    fn writes_set_field_manager_and_strict_validation() {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web").unwrap());
        let create = Call::create(Kind::ConfigMap, Some(&namespace), &name, &json!({})).unwrap();
        let patch = Call::patch(Kind::Deployment, Some(&namespace), &name, &json!({})).unwrap();
        assert_eq!(
            create.request.uri(),
            "/api/v1/namespaces/shop/configmaps?fieldManager=pilothouse&fieldValidation=Strict"
        );
        assert_eq!(
            patch.request.uri(),
            "/apis/apps/v1/namespaces/shop/deployments/web?&fieldManager=pilothouse&fieldValidation=Strict"
        );
        let metadata = Metadata { uid: "u".to_owned(), generation: Some(3), ..Metadata::default() };
        let patch = JsonPatch::of(&metadata).add("/spec/paused", true);
        let patch = Call::json_patch(Kind::Deployment, Some(&namespace), &name, &patch).unwrap();
        assert_eq!(
            patch.request.uri(),
            "/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=pilothouse&fieldValidation=Strict"
        );
        assert_eq!(patch.request.headers()["content-type"], "application/json-patch+json");
        let sent: serde_json::Value = serde_json::from_slice(patch.request.body()).unwrap();
        assert_eq!(
            sent,
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/metadata/generation", "value": 3},
                {"op": "add", "path": "/spec/paused", "value": true},
            ])
        );
    }
}
