//! What is asked of a cluster: the path, built from [`Kind`] and validated names only, and what it is about. kube-rs
//! writes names into a path as they are, and a real API server answers `kube-system/secrets/x?y=` as written, so no
//! other text may become a segment.

use std::{fmt, time::Duration};

use http::Request;
use kube::core::{
    params::{DeleteParams, GetParams, ListParams, Patch, PatchParams, ValidationDirective, WatchParams},
    request::Request as Builder,
    subresource::LogParams,
};
use pilothouse_core::{
    Error, Result,
    kind::{Kind, KindInfo},
    name::{Namespace, NamespaceScope, ObjectName},
};
use serde::Serialize;

/// Who changes the fields that we change, in `managedFields`.
const FIELD_MANAGER: &str = "pilothouse";

/// How much of an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// All of it; one that is longer is refused.
    Whole(usize),
    /// Its last bytes.
    Newest(usize),
}

/// An object, or an answer about one. etcd takes 1.5 MiB of it; what JSON has to escape grows to six times that.
const ONE: Limit = Limit::Whole(16 << 20);
/// A chunk of a list.
const CHUNK: Limit = Limit::Whole(16 << 20);

/// A request and what it is about. Its `Debug` shows no body, which may hold a Secret's values.
#[derive(Clone)]
pub(crate) struct Call {
    /// The request; its URI is a path below the server's address.
    pub(crate) request: Request<Vec<u8>>,
    /// The kind concerned; none for what every signed-in client may ask, such as the version.
    pub(crate) kind: Option<Kind>,
    /// The verb, as RBAC names it.
    pub(crate) verb: &'static str,
    /// The kind in lower case and singular, or a subresource as RBAC names it.
    pub(crate) resource: &'static str,
    /// The namespace concerned.
    pub(crate) namespace: Option<Namespace>,
    /// The object concerned.
    pub(crate) name: Option<ObjectName>,
    /// How much is read.
    pub(crate) limit: Limit,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, verb, resource, .. } = self;
        let path = request.uri().path();
        f.debug_struct("Call").field("verb", verb).field("resource", resource).field("path", &path).finish()
    }
}

type Built = Result<Request<Vec<u8>>, kube::core::request::Error>;

impl Call {
    fn new(verb: &'static str, resource: &'static str, request: Built) -> Result<Self> {
        let request =
            request.map_err(|error| Error::internal(format!("a request cannot be built: {error}")))?;
        Ok(Self { request, kind: None, verb, resource, namespace: None, name: None, limit: ONE })
    }

    fn of(kind: Kind, verb: &'static str, request: Built) -> Result<Self> {
        Ok(Self { kind: Some(kind), ..Self::new(verb, kind.info().singular, request)? })
    }

    fn on(mut self, namespace: Option<&Namespace>, name: Option<&ObjectName>) -> Self {
        (self.namespace, self.name) = (namespace.cloned(), name.cloned());
        self
    }

    /// A chunk of a list.
    pub(crate) fn list(kind: Kind, scope: &NamespaceScope, params: &ListParams) -> Result<Self> {
        let namespace = match scope {
            NamespaceScope::One(namespace) if kind.info().namespaced => Some(namespace),
            _ => None,
        };
        let call = Self::of(kind, "list", Builder::new(collection(kind, namespace)).list(params))?;
        Ok(Self { limit: CHUNK, ..call.on(namespace, None) })
    }

    /// What happens to the objects of a kind in all namespaces, from a version on or, without one, with all there is told
    /// first. The server ends it after `lasts`, and says some seconds before up to which version all was told.
    pub(crate) fn watch(kind: Kind, version: Option<&str>, lasts: Duration) -> Result<Self> {
        let params = WatchParams {
            timeout: u32::try_from(lasts.as_secs()).ok(),
            bookmarks: true,
            send_initial_events: version.is_none(),
            ..WatchParams::default()
        };
        let request = Builder::new(collection(kind, None)).watch(&params, version.unwrap_or_default());
        Self::of(kind, "watch", request)
    }

    /// One object.
    pub(crate) fn get(kind: Kind, namespace: Option<&Namespace>, name: &ObjectName) -> Result<Self> {
        let request = Builder::new(collection(kind, namespace)).get(name.as_str(), &GetParams::default());
        Ok(Self::of(kind, "get", request)?.on(namespace, Some(name)))
    }

    /// A container's log. Read whole, of what is longer than `most` bytes the newest.
    pub(crate) fn logs(
        namespace: &Namespace,
        pod: &ObjectName,
        params: &LogParams,
        most: usize,
    ) -> Result<Self> {
        let request = Builder::new(collection(Kind::Pod, Some(namespace))).logs(pod.as_str(), params);
        let call = Self::of(Kind::Pod, "get", request)?.on(Some(namespace), Some(pod));
        Ok(Self { resource: "pods/log", limit: Limit::Newest(most), ..call })
    }

    /// A new object. kube-rs has no field validation for these, so the address is our own.
    pub(crate) fn create(
        kind: Kind,
        namespace: Option<&Namespace>,
        name: &ObjectName,
        object: &impl Serialize,
    ) -> Result<Self> {
        let path = collection(kind, namespace);
        let request = post(&format!("{path}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict"), object);
        Ok(Self::of(kind, "create", request)?.on(namespace, Some(name)))
    }

    /// A merge patch; a field that the cluster does not know is refused.
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
        Ok(Self::of(kind, "patch", request)?.on(namespace, Some(name)))
    }

    /// The end of an object.
    pub(crate) fn delete(kind: Kind, namespace: Option<&Namespace>, name: &ObjectName) -> Result<Self> {
        let request =
            Builder::new(collection(kind, namespace)).delete(name.as_str(), &DeleteParams::default());
        Ok(Self::of(kind, "delete", request)?.on(namespace, Some(name)))
    }

    /// The API server's version, which needs no right.
    pub(crate) fn version() -> Result<Self> {
        let request = Request::get("/version").body(Vec::new());
        Self::new("get", "version", request.map_err(kube::core::request::Error::BuildRequest))
    }

    /// A question about ourselves, which every client may ask: nothing is stored.
    pub(crate) fn review(review: Review, question: &impl Serialize) -> Result<Self> {
        let Review { path, resource } = review;
        Self::new("create", resource, post(path, question))
    }
}

/// A kind of question about ourselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Review {
    path: &'static str,
    resource: &'static str,
}

/// Who are we?
pub(crate) const SELF_SUBJECT: Review =
    Review { path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", resource: "selfsubjectreview" };
/// What may we do?
pub(crate) const SELF_SUBJECT_ACCESS: Review = Review {
    path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    resource: "selfsubjectaccessreview",
};

/// The path of all objects of a kind, in one namespace or all.
fn collection(kind: Kind, namespace: Option<&Namespace>) -> String {
    let KindInfo { group, version, plural, .. } = kind.info();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

fn post(address: &str, body: &impl Serialize) -> Built {
    let body = serde_json::to_vec(body).map_err(kube::core::request::Error::SerializeBody)?;
    let request = Request::post(address).header(http::header::CONTENT_TYPE, "application/json").body(body);
    request.map_err(kube::core::request::Error::BuildRequest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilothouse_core::kind::KINDS;
    use proptest::prelude::*;
    use serde_json::json;

    /// Every call that names an object, and how many segments follow its name.
    fn calls(kind: Kind, namespace: &Namespace, name: &ObjectName) -> Vec<(Call, usize)> {
        let within = kind.info().namespaced.then_some(namespace);
        let mut calls = vec![
            (Call::get(kind, within, name).unwrap(), 0),
            (Call::patch(kind, within, name, &json!({})).unwrap(), 0),
            (Call::delete(kind, within, name).unwrap(), 0),
        ];
        if kind == Kind::Pod {
            calls.push((Call::logs(namespace, name, &LogParams::default(), 1).unwrap(), 1));
        }
        calls
    }

    /// Mostly names, sometimes what an attacker would send.
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
        fn a_path_has_exactly_the_expected_segments(
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
            for (call, more) in calls(kind, &namespace, &name) {
                let uri = call.request.uri().to_string();
                let (path, _query) = uri.split_once('?').unwrap_or((&uri, ""));
                let segments: Vec<_> = path.split('/').collect();
                prop_assert_eq!(&segments[..expected.len()], &expected[..]);
                prop_assert_eq!(segments.len(), expected.len() + more);
            }
        }
    }

    #[test]
    fn changes_are_signed_and_strict() {
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
    }
}
