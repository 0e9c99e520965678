//! Test application: the HTTP API over in-memory ports, with users and one cluster.

use std::{io::Read, sync::Arc, time::Duration};

use actix_web::{
    dev::{Service, ServiceResponse},
    http::{Method, StatusCode, header::HeaderMap},
    test::{TestRequest, init_service},
};
use async_trait::async_trait;
use flate2::read::GzDecoder;
use futures_util::{FutureExt, future::LocalBoxFuture};
use pilothouse_conformance::Exchange;
use pilothouse_core::{
    Result,
    access::Caller,
    app::{App, AppSettings},
    ids::ClusterId,
    kind::Kind,
    role::Role,
    rows::ListQuery,
    testing::{fake::Fake, new_cluster},
    user::{NewPassword, NewUser},
};
use pilothouse_http::{Hooks, HttpSettings, NoopObserver, Observer, Readiness, application};
use serde_json::{Value, json};

/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// The credentials of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    pub(crate) bearer: Option<String>,
    pub(crate) cookie: Option<String>,
}

impl Credentials {
    /// The credentials as request headers.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let bearer = self.bearer.iter().map(|bearer| ("authorization", format!("Bearer {bearer}")));
        bearer.chain(self.cookie.iter().map(|cookie| ("cookie", format!("session_id={cookie}")))).collect()
    }
}

/// The result of a login.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn {
    pub(crate) credentials: Credentials,
    pub(crate) refresh: String,
    pub(crate) data: Value,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, decompressed.
    pub(crate) text: String,
    /// The body as received.
    pub(crate) bytes: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Panics when the response does not conform to the OpenAPI document.
    fn assert_conforms(&self, method: &str, path: &str) {
        let header = |name: &str| self.header(name).map(str::to_owned);
        let status = self.status.as_u16();
        let exchange = Exchange { method, path, status, header: &header, body: &self.text };
        pilothouse_conformance::check(&exchange)
            .unwrap_or_else(|error| panic!("{method} {path}: {status}: {error}\n{}", self.text));
    }

    /// The data of a success.
    pub(crate) fn data(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["data"].take()
    }

    /// The status, code and cause of an error.
    pub(crate) fn error(&self) -> (u16, String, String) {
        let json = self.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text(&json["error_code"]), text(&json["context"]["cause"]))
    }

    /// The refused fields, as `name=reason`.
    pub(crate) fn fields(&self) -> Vec<String> {
        let json = self.json();
        let fields = json["context"]["fields"].as_array().cloned().unwrap_or_default();
        let text = |field: &Value, key: &str| field[key].as_str().unwrap_or_default().to_owned();
        fields.iter().map(|field| format!("{}={}", text(field, "name"), text(field, "reason"))).collect()
    }
}

/// A readiness check with a fixed result.
#[derive(Clone, Copy)]
pub(crate) enum Ready {
    Yes,
    No,
    Panics,
}

#[async_trait]
impl Readiness for Ready {
    async fn ready(&self) -> Result<()> {
        match self {
            Self::Yes => Ok(()),
            Self::No => Err(pilothouse_core::Error::new(pilothouse_core::Cause::StoreUnavailable)),
            Self::Panics => panic!("canary in a panic"),
        }
    }
}

type Call = dyn Fn(actix_web::test::TestRequest) -> LocalBoxFuture<'static, Reply>;

/// The application with its fake ports, called without a socket.
pub(crate) struct TestApp {
    pub(crate) fake: Fake,
    pub(crate) app: App,
    pub(crate) cluster: i64,
    call: Box<Call>,
}

impl TestApp {
    pub(crate) async fn new() -> Self {
        Self::with(HttpSettings::default(), Ready::Yes).await
    }

    pub(crate) async fn with(settings: HttpSettings, ready: Ready) -> Self {
        Self::with_observer(settings, ready, Arc::new(NoopObserver)).await
    }

    pub(crate) async fn with_observer(
        settings: HttpSettings,
        ready: Ready,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self::over(Fake::default(), settings, ready, observer).await
    }

    /// The application over these ports.
    pub(crate) async fn over(
        fake: Fake,
        settings: HttpSettings,
        ready: Ready,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self::with_app_settings(fake, AppSettings::default(), settings, ready, observer).await
    }

    /// As [`TestApp::over`], with these settings of the use cases.
    pub(crate) async fn with_app_settings(
        fake: Fake,
        app_settings: AppSettings,
        settings: HttpSettings,
        ready: Ready,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (app, cluster) = seeded(&fake, app_settings).await;
        let hooks = Hooks { readiness: Arc::new(ready), observer };
        let service = std::rc::Rc::new(init_service(application(app.clone(), settings, hooks)).await);
        let call = move |request: TestRequest| {
            let service = service.clone();
            async move { reply(service.call(request.to_request()).await).await }.boxed_local()
        };
        Self { fake, app, cluster: cluster.0, call: Box::new(call) }
    }

    /// Sends a request unchanged.
    pub(crate) async fn send(&self, request: TestRequest) -> Reply {
        (self.call)(request).await
    }

    /// Sends a request with credentials. `input` is the query of a GET or the JSON body of a POST.
    pub(crate) async fn call(
        &self,
        credentials: &Credentials,
        method: &str,
        path: &str,
        input: &str,
    ) -> Reply {
        self.call_in("en", credentials, method, path, input).await
    }

    /// As [`TestApp::call`], with this `Accept-Language`.
    pub(crate) async fn call_in(
        &self,
        language: &str,
        credentials: &Credentials,
        method: &str,
        path: &str,
        input: &str,
    ) -> Reply {
        let method: Method = method.parse().unwrap();
        let request = match method {
            Method::GET if !input.is_empty() => TestRequest::get().uri(&format!("{path}?{input}")),
            Method::POST if !input.is_empty() => TestRequest::post()
                .uri(path)
                .insert_header(("content-type", "application/json"))
                .set_payload(input.to_owned()),
            method => TestRequest::default().method(method).uri(path),
        };
        let request =
            request.peer_addr("192.0.2.7:4711".parse().unwrap()).insert_header(("accept-language", language));
        let headers = credentials.headers().into_iter();
        self.send(headers.fold(request, actix_web::test::TestRequest::insert_header)).await
    }

    pub(crate) async fn get(&self, signed_in: &SignedIn, path: &str, query: &str) -> Reply {
        self.call(&signed_in.credentials, "GET", path, query).await
    }

    pub(crate) async fn post(&self, signed_in: &SignedIn, path: &str, body: Value) -> Reply {
        self.call(&signed_in.credentials, "POST", path, &body.to_string()).await
    }

    pub(crate) async fn login(&self, username: &str) -> SignedIn {
        self.login_at("local", username).await
    }

    /// Signs in with the password of a provider.
    pub(crate) async fn login_at(&self, provider: &str, username: &str) -> SignedIn {
        let body = json!({"username": username, "password": PASSWORD, "provider": provider}).to_string();
        let data = self.call(&Credentials::default(), "POST", "/api/auth/login", &body).await.data();
        let text = |key: &str| data[key].as_str().unwrap().to_owned();
        let credentials =
            Credentials { bearer: Some(text("access_token")), cookie: Some(text("session_id")) };
        SignedIn { credentials, refresh: text("refresh_token"), data }
    }

    /// The id of a user.
    pub(crate) async fn user(&self, name: &str) -> i64 {
        let users = self.app.users.all(&Caller::system()).await.unwrap();
        users.into_iter().find(|user| user.username.as_str() == name).unwrap().id.0
    }

    /// The id of the user's first session, if there is one.
    pub(crate) async fn session(&self, name: &str) -> Option<i64> {
        let rows = self.app.sessions.list(&Caller::system(), &ListQuery::default()).await.unwrap().0;
        let row = rows.iter().find(|row| row.name() == name)?;
        serde_json::from_str::<Value>(row.json()).unwrap()["id"].as_i64()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.fake.runtime.clock.advance(by);
    }
}

/// The in-memory ports with users, a cluster and its objects.
pub(crate) async fn seeded_app() -> (Fake, App, ClusterId) {
    let fake = Fake::default();
    let (app, cluster) = seeded(&fake, AppSettings::default()).await;
    (fake, app, cluster)
}

/// The use cases over these ports, with users, a cluster and its objects.
async fn seeded(fake: &Fake, settings: AppSettings) -> (App, ClusterId) {
    let app = App::new(fake.ports(), settings);
    for (name, role) in [
        ("super", Role::SuperAdmin),
        ("ops", Role::OpsAdmin),
        ("viewer", Role::Viewer),
        ("target", Role::Viewer),
    ] {
        let password = NewPassword::new(&PASSWORD.into()).unwrap();
        let username = name.to_owned().try_into().unwrap();
        let user = NewUser { username, password, role, display_name: None };
        app.users.create(&Caller::system(), user).await.unwrap();
    }
    let cluster = new_cluster("demo");
    let cluster = app.clusters.create(&Caller::system(), cluster).await.unwrap().value.id;
    seed(fake, cluster, "shop");
    fake.clusters.calls();
    (app, cluster)
}

async fn reply(response: Result<ServiceResponse, actix_web::Error>) -> Reply {
    let (request, response) = match response {
        Ok(response) => {
            let (request, response) = response.into_parts();
            (Some(request), response)
        }
        Err(error) => (None, error.into()),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let Ok(body) = actix_web::body::to_bytes(response.into_body()).await else { panic!("no body") };
    let bytes = body.to_vec();
    let mut text = String::new();
    if headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    let reply = Reply { status, headers, text, bytes };
    if let Some(request) = request {
        reply.assert_conforms(request.method().as_str(), request.path());
    }
    reply
}

/// The uid of the pod `web-0`.
pub(crate) const POD_UID: &str = "3f2b6a1e-0c5d-4a6b-9d8e-7f6a5b4c3d2e";

/// Puts the objects of the tests into a namespace of a cluster.
pub(crate) fn seed(fake: &Fake, cluster: ClusterId, namespace: &str) {
    let put = |kind: Kind, object: Value| fake.clusters.put(cluster, kind, object);
    let named = |name: &str| json!({"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"});
    put(Kind::Namespace, json!({"metadata": {"name": namespace}, "status": {"phase": "Active"}}));
    let template = json!({"spec": {"containers": [
        {"name": "app", "image": "web:1", "env": [{"name": "A", "value": "canary-env"}]}]}});
    put(Kind::Deployment, json!({"metadata": named("web"), "spec": {"replicas": 2, "template": template}}));
    let former = json!({"spec": {"containers": [
        {"name": "app", "image": "web:0", "env": [{"name": "A", "value": "canary-env-0"}]}]}});
    for (name, number, template) in [("web-1", "1", &former), ("web-2", "2", &template)] {
        let mut metadata = named(name);
        metadata["annotations"] = json!({"deployment.kubernetes.io/revision": number});
        metadata["ownerReferences"] =
            json!([{"kind": "Deployment", "name": "web", "uid": "web", "controller": true}]);
        put(Kind::ReplicaSet, json!({"metadata": metadata, "spec": {"template": template}}));
    }
    put(Kind::Deployment, json!({"metadata": named("still"), "spec": {"replicas": 1, "paused": true}}));
    put(Kind::Job, json!({"metadata": named("once"), "spec": {"completions": 1}}));
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}});
    let spec = json!({"schedule": "0 3 * * *", "jobTemplate": template});
    put(Kind::CronJob, json!({"metadata": named("nightly"), "spec": spec}));
    put(Kind::Node, json!({"metadata": {"name": "node-1", "creationTimestamp": "2026-01-01T00:00:00Z"}}));
    let mut pod = named("web-0");
    pod["uid"] = json!(POD_UID);
    // its controller replaces it, so that its deletion takes the right to restart workloads
    pod["ownerReferences"] =
        json!([{"kind": "StatefulSet", "name": "db", "uid": "db-1", "controller": true}]);
    put(Kind::Pod, json!({"metadata": pod, "spec": {"containers": [{"name": "app"}]}}));
    put(Kind::ConfigMap, json!({"metadata": named("conf"), "data": {"key": "canary-data"}}));
    put(
        Kind::ConfigMap,
        json!({"metadata": named("plain"), "data": {"key": "value"}, "binaryData": {"bytes": "/wA="}}),
    );
    // base64 of canary-data
    put(
        Kind::Secret,
        json!({"metadata": named("pass"), "data": {"password": "Y2FuYXJ5LWRhdGE=", "bytes": "/wA="}}),
    );
    let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
    let spec = json!({"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": cpu}]});
    let conditions = json!([{"type": "ScalingActive", "status": "True"}]);
    put(
        Kind::HorizontalPodAutoscaler,
        json!({"metadata": named("web"), "spec": spec, "status": {"conditions": conditions}}),
    );
    put(Kind::Service, json!({"metadata": named("web"), "spec": {}}));
    put(Kind::Service, json!({"metadata": named("idle"), "spec": {}}));
    let slice = |name: &str, service: &str| {
        let mut metadata = named(name);
        metadata["labels"] = json!({"kubernetes.io/service-name": service});
        let endpoints = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]);
        json!({"metadata": metadata, "endpoints": endpoints, "ports": [{"port": 80}]})
    };
    put(Kind::EndpointSlice, slice("web-x", "web"));
    put(Kind::EndpointSlice, slice("other-x", "other"));
}
