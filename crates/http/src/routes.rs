//! The route table: method, path, who may enter, handler. The lists of core's `LISTS` are part of it.
//!
//! A line of `change` is a POST that takes an `Idempotency-Key`. Every change does, but for what answers with a secret
//! (tokens, revealed values) or changes nothing: those ignore the header, and nothing of theirs is kept.
//!
//! The column of roles is what the document says and the access test holds against reality; what enforces it is core's
//! gate. Who is below it is not asked for an `Idempotency-Key`.

mod across;
mod audit;
mod auth;
mod clusters;
mod configmaps;
mod health;
mod input;
mod lists;
mod namespaces;
mod pods;
mod secrets;
mod sessions;
mod users;
mod workloads;

use actix_web::{FromRequest, Responder, http::Method, web::Data};
use pilothouse_core::{
    access::Role::{self, OpsAdmin, SuperAdmin, Viewer},
    inventory::LISTS,
};

use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{
    answer::Answer,
    body::Body,
    entry::Signed,
    error::Result,
    once::once,
    openapi::{Docs, Documented},
    server::Api,
};

/// Every route.
#[rustfmt::skip]
pub(crate) fn table() -> Vec<Route> {
    let routes = vec![
        get( "/livez",                        Who::Anyone,           health::live,           "Whether the process runs"),
        get( "/readyz",                       Who::Anyone,           health::ready,          "Whether it can serve: database, keys, migrations"),
        get( "/api/openapi.json",             Who::Anyone,           health::openapi,        "This document"),

        post("/api/auth/login",               Who::Anyone,           auth::login,            "Sign in"),
        post("/api/auth/refresh",             Who::Cookie,           auth::refresh,          "Get a new pair of tokens"),
        post("/api/auth/logout",              Who::Cookie,           auth::logout,           "Sign out"),
        get( "/api/auth/me",                  Who::Role(Viewer),     auth::me,               "Who is signed in"),
        change("/api/auth/password",          Who::Role(Viewer),     auth::password,         "Change one's own password; ends one's other sessions"),
        change("/api/auth/sessions/revoke",   Who::Role(Viewer),     sessions::revoke,       "End a session: one's own, anybody's for a super admin"),
        change("/api/auth/users",             Who::Role(SuperAdmin), users::create,          "Create a user"),
        change("/api/auth/users/update",      Who::Role(SuperAdmin), users::update,          "Change a user's role or display name, disable or enable it"),
        change("/api/auth/users/delete",      Who::Role(SuperAdmin), users::delete,          "Delete a user"),
        change("/api/auth/users/reset-password", Who::Role(SuperAdmin), users::reset_password, "Set another user's password; ends that user's sessions"),

        change("/api/k8s/clusters",           Who::Role(OpsAdmin),   clusters::create,       "Register a cluster, after trying its connection"),
        change("/api/k8s/clusters/update",    Who::Role(OpsAdmin),   clusters::update,       "Change a cluster; a new connection is tried first"),
        change("/api/k8s/clusters/delete",    Who::Role(OpsAdmin),   clusters::delete,       "Forget a cluster and its credential"),
        post("/api/k8s/clusters/test",        Who::Role(Viewer),     clusters::test,         "Test a registered cluster, or (ops_admin) a new configuration"),
        get( "/api/k8s/clusters/status",      Who::Role(Viewer),     clusters::status,       "How a cluster is right now"),

        change("/api/k8s/namespaces",         Who::Role(OpsAdmin),   namespaces::create,     "Create a namespace"),
        change("/api/k8s/namespaces/delete",  Who::Role(OpsAdmin),   namespaces::delete,     "Delete a namespace and all that is in it"),
        get( "/api/k8s/workloads/detail",     Who::Role(Viewer),     workloads::detail,      "A workload with all that belongs to it"),
        change("/api/k8s/workloads/scale",    Who::Role(OpsAdmin),   workloads::scale,       "Set the replicas of a deployment or stateful set"),
        change("/api/k8s/workloads/restart",  Who::Role(OpsAdmin),   workloads::restart,     "Replace the pods, as kubectl rollout restart does"),
        get( "/api/k8s/pods/logs",            Who::Role(Viewer),     pods::logs,             "The end of a container's log"),
        get( "/api/k8s/pods/logs/stream",     Who::Role(Viewer),     pods::follow,           "A container's log as it is written, as server-sent events"),
        change("/api/k8s/configmaps",         Who::Role(OpsAdmin),   configmaps::create,     "Create a ConfigMap"),
        get( "/api/k8s/configmaps/detail",    Who::Role(Viewer),     configmaps::detail,     "A ConfigMap with its values"),
        change("/api/k8s/configmaps/update",  Who::Role(OpsAdmin),   configmaps::update,     "Replace the values that are text, or the labels, of a ConfigMap"),
        change("/api/k8s/configmaps/delete",  Who::Role(OpsAdmin),   configmaps::delete,     "Delete a ConfigMap"),
        change("/api/k8s/secrets",            Who::Role(OpsAdmin),   secrets::create,        "Create a Secret"),
        get( "/api/k8s/secrets/detail",       Who::Role(Viewer),     secrets::detail,        "A Secret without its values"),
        post("/api/k8s/secrets/reveal",       Who::Role(OpsAdmin),   secrets::reveal,        "A Secret's values; recorded before they are read"),
        change("/api/k8s/secrets/update",     Who::Role(OpsAdmin),   secrets::update,        "Replace the values, or the labels, of a Secret"),
        change("/api/k8s/secrets/delete",     Who::Role(OpsAdmin),   secrets::delete,        "Delete a Secret"),

        get( "/api/k8s/search",               Who::Role(Viewer),     across::search,         "Objects of one kind in all clusters, by a part of their name"),
        get( "/api/k8s/overview",             Who::Role(Viewer),     across::overview,       "How many objects there are in all clusters, by kind and status"),
        get( "/api/k8s/watch",                Who::Role(Viewer),     across::watch,          "A list and what happens to it, as server-sent events"),

        get( "/api/k8s/audit/verify",         Who::Role(OpsAdmin),   audit::verify,          "Whether the audit trail is whole, and if not, the first bad entry"),
        get( "/api/k8s/audit/export",         Who::Role(OpsAdmin),   audit::export,          "The audit trail as JSON Lines, to be verified elsewhere, or as events of audit.k8s.io/v1"),
    ];
    routes.into_iter().chain(LISTS.iter().map(lists::route)).collect()
}

/// A line of the table.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    pub(crate) summary: &'static str,
    pub(crate) service: actix_web::Route,
    /// What the document says of it; made only when asked for, for it takes longer than all the rest.
    pub(crate) docs: Box<dyn Fn() -> Docs>,
}

/// Who may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Anybody.
    Anyone,
    /// Whoever has a session's cookie.
    Cookie,
    /// Whoever is signed in with this role or a higher one.
    Role(Role),
}

impl Who {
    /// Whether somebody of this role is among them.
    pub(crate) fn lets_in(self, role: Option<Role>) -> bool {
        match self {
            Self::Anyone | Self::Cookie => true,
            Self::Role(lowest) => role >= Some(lowest),
        }
    }
}

/// The method and path of every route, for tests from outside.
pub fn endpoints() -> Vec<(String, &'static str)> {
    table().into_iter().map(|route| (route.method.to_string(), route.path)).collect()
}

/// A handler: who enters and what they bring, to an answer.
trait Handler<E, R>: actix_web::Handler<(Data<Api>, E), Output = Result<R>> {}

impl<H, E, R> Handler<E, R> for H where H: actix_web::Handler<(Data<Api>, E), Output = Result<R>> {}

fn get<E, R>(path: &'static str, who: Who, handler: impl Handler<E, R>, summary: &'static str) -> Route
where
    E: FromRequest + Documented + 'static,
    R: Responder + Documented + 'static,
{
    route(Method::GET, path, who, handler, summary)
}

fn post<E, R>(path: &'static str, who: Who, handler: impl Handler<E, R>, summary: &'static str) -> Route
where
    E: FromRequest + Documented + 'static,
    R: Responder + Documented + 'static,
{
    route(Method::POST, path, who, handler, summary)
}

/// A change: a POST that its caller may send again under an `Idempotency-Key`.
fn change<T, A, F>(
    path: &'static str,
    who: Who,
    handler: impl Fn(Data<Api>, Signed<Body<T>>) -> F + Clone + 'static,
    summary: &'static str,
) -> Route
where
    T: DeserializeOwned + ToSchema + 'static,
    A: Serialize + ToSchema + Send + 'static,
    F: Future<Output = Result<Answer<A>>> + Send + 'static,
{
    post(path, who, move |api, request| once(api, request, who, handler.clone()), summary)
}

fn route<E, R>(
    method: Method,
    path: &'static str,
    who: Who,
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
    Route { method, path, who, summary, service, docs: Box::new(docs) }
}
