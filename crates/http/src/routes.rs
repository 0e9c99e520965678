//! Route table: method, path, required authentication, error codes, handler and summary. It includes the lists of
//! core's `LISTS`.
//!
//! A `change` is a POST that supports an `Idempotency-Key`. A plain `post` ignores the header, and its response is not
//! stored: it returns a secret (tokens, revealed values) or changes nothing.
//!
//! The role column is documentation: core's gate enforces the roles, and the access test checks that both agree. For a
//! caller below the role, the `Idempotency-Key` is ignored. The error codes are documentation too; those that follow
//! from method and authentication are omitted ([`Route::may_return`]).

mod audit;
mod auth;
mod clusters;
mod configmaps;
mod fleet;
mod health;
mod lists;
mod namespaces;
mod object_changes;
mod params;
mod pods;
mod secrets;
mod sessions;
mod users;
mod workloads;

use actix_web::{FromRequest, Responder, http::Method, web::Data};
use pilothouse_core::{
    Code,
    inventory::LISTS,
    role::Role::{OpsAdmin, SuperAdmin, Viewer},
};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{
    api::Api,
    body::Body,
    docs::{Docs, Documented},
    error::Result,
    extract::{Authenticated, RequiredAuth},
    idempotency::execute,
    response::Response,
};

/// Error codes of operations on clusters and their objects.
const CLUSTER: &[Code] = &[
    Code::PermissionDenied,
    Code::ResourceNotFound,
    Code::RateLimited,
    Code::ConnectionError,
    Code::TimeoutError,
];

/// Error codes of log reads: those of [`CLUSTER`], and a conflict when the container has not started.
const LOGS: &[Code] = &[
    Code::PermissionDenied,
    Code::ResourceNotFound,
    Code::ConflictError,
    Code::RateLimited,
    Code::ConnectionError,
    Code::TimeoutError,
];

/// All routes.
#[rustfmt::skip]
pub(crate) fn table() -> Vec<Route> {
    let routes = vec![
        get( "/livez",                           RequiredAuth::Public,           &[],     health::live,           "Liveness: the process runs"),
        get( "/readyz",                          RequiredAuth::Public,           &[],     health::ready,          "Readiness: database, keys, migrations"),
        get( "/api/openapi.json",                RequiredAuth::Public,           &[],     health::openapi,        "This document"),

        post("/api/auth/login",                  RequiredAuth::Public,           &[],     auth::login,            "Sign in"),
        post("/api/auth/refresh",                RequiredAuth::Cookie,           &[],     auth::refresh,          "Get a new pair of tokens"),
        post("/api/auth/logout",                 RequiredAuth::Cookie,           &[],     auth::logout,           "Sign out"),
        get( "/api/auth/me",                     RequiredAuth::Role(Viewer),     &[],     auth::me,               "The signed-in user"),
        change("/api/auth/password",             RequiredAuth::Role(Viewer),     &[],     auth::password,         "Change one's own password; ends one's other sessions"),
        change("/api/auth/sessions/revoke",      RequiredAuth::Role(Viewer),     &[],     sessions::revoke,       "End a session: one's own, or any as a super admin"),
        change("/api/auth/users",                RequiredAuth::Role(SuperAdmin), &[],     users::create,          "Create a user"),
        change("/api/auth/users/update",         RequiredAuth::Role(SuperAdmin), &[],     users::update,          "Change a user's role or display name, disable or enable it"),
        change("/api/auth/users/delete",         RequiredAuth::Role(SuperAdmin), &[],     users::delete,          "Delete a user"),
        change("/api/auth/users/reset-password", RequiredAuth::Role(SuperAdmin), &[],     users::reset_password,  "Set another user's password; ends that user's sessions"),

        change("/api/k8s/clusters",              RequiredAuth::Role(OpsAdmin),   CLUSTER, clusters::create,       "Register a cluster, after a connection test"),
        change("/api/k8s/clusters/update",       RequiredAuth::Role(OpsAdmin),   CLUSTER, clusters::update,       "Change a cluster; a new connection is tested first"),
        change("/api/k8s/clusters/delete",       RequiredAuth::Role(OpsAdmin),   CLUSTER, clusters::delete,       "Remove a cluster and its credential"),
        post("/api/k8s/clusters/test",           RequiredAuth::Role(Viewer),     CLUSTER, clusters::test,         "Test a registered cluster, or (ops_admin) a new configuration"),
        get( "/api/k8s/clusters/status",         RequiredAuth::Role(Viewer),     CLUSTER, clusters::status,       "The current status of a cluster, from a probe"),

        change("/api/k8s/namespaces",            RequiredAuth::Role(OpsAdmin),   CLUSTER, namespaces::create,     "Create a namespace"),
        change("/api/k8s/namespaces/delete",     RequiredAuth::Role(OpsAdmin),   CLUSTER, namespaces::delete,     "Delete a namespace and everything in it"),
        get( "/api/k8s/workloads/detail",        RequiredAuth::Role(Viewer),     CLUSTER, workloads::detail,      "A workload with its related objects"),
        change("/api/k8s/workloads/scale",       RequiredAuth::Role(OpsAdmin),   CLUSTER, workloads::scale,       "Set the replicas of a deployment or stateful set"),
        change("/api/k8s/workloads/restart",     RequiredAuth::Role(OpsAdmin),   CLUSTER, workloads::restart,     "Replace the pods, as kubectl rollout restart does"),
        get( "/api/k8s/pods/logs",               RequiredAuth::Role(Viewer),     LOGS,    pods::logs,             "The end of a container's log"),
        get( "/api/k8s/pods/logs/stream",        RequiredAuth::Role(Viewer),     LOGS,    pods::follow,           "A container's log as it is written, as server-sent events"),
        change("/api/k8s/configmaps",            RequiredAuth::Role(OpsAdmin),   CLUSTER, configmaps::create,     "Create a ConfigMap"),
        get( "/api/k8s/configmaps/detail",       RequiredAuth::Role(Viewer),     CLUSTER, configmaps::detail,     "A ConfigMap with its values"),
        change("/api/k8s/configmaps/update",     RequiredAuth::Role(OpsAdmin),   CLUSTER, configmaps::update,     "Replace the values that are text, or the labels, of a ConfigMap"),
        change("/api/k8s/configmaps/delete",     RequiredAuth::Role(OpsAdmin),   CLUSTER, configmaps::delete,     "Delete a ConfigMap"),
        change("/api/k8s/secrets",               RequiredAuth::Role(OpsAdmin),   CLUSTER, secrets::create,        "Create a Secret"),
        get( "/api/k8s/secrets/detail",          RequiredAuth::Role(Viewer),     CLUSTER, secrets::detail,        "A Secret without its values"),
        post("/api/k8s/secrets/reveal",          RequiredAuth::Role(OpsAdmin),   CLUSTER, secrets::reveal,        "A Secret's values; recorded before they are read"),
        change("/api/k8s/secrets/update",        RequiredAuth::Role(OpsAdmin),   CLUSTER, secrets::update,        "Replace the values, or the labels, of a Secret"),
        change("/api/k8s/secrets/delete",        RequiredAuth::Role(OpsAdmin),   CLUSTER, secrets::delete,        "Delete a Secret"),

        get( "/api/k8s/search",                  RequiredAuth::Role(Viewer),     CLUSTER, fleet::search,          "Fleet search: objects of one kind in all clusters, by a part of their name"),
        get( "/api/k8s/overview",                RequiredAuth::Role(Viewer),     CLUSTER, fleet::overview,        "Fleet overview: number of objects in all clusters, by kind and status"),
        get( "/api/k8s/watch",                   RequiredAuth::Role(Viewer),     CLUSTER, fleet::watch,           "A list and its changes, as server-sent events"),

        get( "/api/k8s/audit/verify",            RequiredAuth::Role(OpsAdmin),   CLUSTER, audit::verify,          "Verify the audit trail; reports the first bad entry"),
        get( "/api/k8s/audit/export",            RequiredAuth::Role(OpsAdmin),   CLUSTER, audit::export,          "The audit trail as JSON Lines, which can be verified elsewhere, or as events of audit.k8s.io/v1"),
    ];
    routes.into_iter().chain(LISTS.iter().map(lists::route)).collect()
}

/// An entry of the route table.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) auth: RequiredAuth,
    /// Error codes of the operation that do not follow from its method and authentication.
    pub(crate) codes: &'static [Code],
    pub(crate) summary: &'static str,
    pub(crate) service: actix_web::Route,
    /// Builds the documentation of the operation. A function, because building it is the slowest part of the table.
    pub(crate) docs: Box<dyn Fn() -> Docs>,
}

impl Route {
    /// Whether the operation may return an error of this code. Every path returns 405 for a method that it does not
    /// support.
    pub(crate) fn may_return(&self, code: Code) -> bool {
        let post = self.method == Method::POST;
        let signed_in = matches!(self.auth, RequiredAuth::Role(_));
        let usual = match code {
            Code::InternalError | Code::MethodNotAllowed | Code::ServiceUnavailable => true,
            Code::ValidationError | Code::AuthenticationError => post || signed_in,
            Code::PermissionDenied => matches!(self.auth, RequiredAuth::Role(role) if role > Viewer),
            Code::ResourceNotFound | Code::ConflictError => post && signed_in,
            Code::PayloadTooLarge | Code::UnsupportedMediaType | Code::RateLimited => post,
            Code::ConnectionError | Code::TimeoutError => false,
        };
        usual || self.codes.contains(&code)
    }
}

/// The method and the path of every route, for tests of other crates.
pub fn endpoints() -> Vec<(String, &'static str)> {
    table().into_iter().map(|route| (route.method.to_string(), route.path)).collect()
}

/// A handler: maps the shared state and an extractor to a response.
trait Handler<E, R>: actix_web::Handler<(Data<Api>, E), Output = Result<R>> {}

impl<H, E, R> Handler<E, R> for H where H: actix_web::Handler<(Data<Api>, E), Output = Result<R>> {}

fn get<E, R>(
    path: &'static str,
    auth: RequiredAuth,
    codes: &'static [Code],
    handler: impl Handler<E, R>,
    summary: &'static str,
) -> Route
where
    E: FromRequest + Documented + 'static,
    R: Responder + Documented + 'static,
{
    route(Method::GET, path, auth, codes, handler, summary)
}

fn post<E, R>(
    path: &'static str,
    auth: RequiredAuth,
    codes: &'static [Code],
    handler: impl Handler<E, R>,
    summary: &'static str,
) -> Route
where
    E: FromRequest + Documented + 'static,
    R: Responder + Documented + 'static,
{
    route(Method::POST, path, auth, codes, handler, summary)
}

/// A change: a POST that supports an `Idempotency-Key`.
fn change<T, A, F>(
    path: &'static str,
    auth: RequiredAuth,
    codes: &'static [Code],
    handler: impl Fn(Data<Api>, Authenticated<Body<T>>) -> F + Clone + 'static,
    summary: &'static str,
) -> Route
where
    T: DeserializeOwned + ToSchema + 'static,
    A: Serialize + ToSchema + Send + 'static,
    F: Future<Output = Result<Response<A>>> + Send + 'static,
{
    post(path, auth, codes, move |api, request| execute(api, request, auth, handler.clone()), summary)
}

fn route<E, R>(
    method: Method,
    path: &'static str,
    auth: RequiredAuth,
    codes: &'static [Code],
    handler: impl Handler<E, R>,
    summary: &'static str,
) -> Route
where
    E: FromRequest + Documented + 'static,
    R: Responder + Documented + 'static,
{
    let docs = || {
        let mut docs = Docs::default();
        E::describe(&mut docs);
        R::describe(&mut docs);
        docs
    };
    let service = actix_web::web::method(method.clone()).to(handler);
    Route { method, path, auth, codes, summary, service, docs: Box::new(docs) }
}
