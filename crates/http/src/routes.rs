//! Route table: method, path, required authentication, error codes, handler and summary. It includes the lists of
//! core's `LISTS`.
//!
//! A `change` is a POST that supports an `Idempotency-Key`. A plain `post` ignores the header, and its response is not
//! stored: it returns a secret (tokens, revealed values) or changes nothing.
//!
//! The right column is documentation: core's gate and use cases enforce the rights, and the access test checks that
//! both agree. For a caller who has the right nowhere, or whose second factor does not suffice, the `Idempotency-Key` is
//! ignored: the request is refused. The error codes are documentation too; those that follow from method and
//! authentication are omitted ([`Route::may_return`]).

mod access;
mod audit;
mod auth;
mod autoscalers;
mod clusters;
mod compare;
mod configmaps;
mod dependents;
mod diagnosis;
mod fleet;
mod health;
mod jobs;
mod lists;
mod namespaces;
mod nodes;
mod object_changes;
mod objects;
mod parameters;
mod params;
mod pod_changes;
mod pods;
mod problems;
mod providers;
mod rollouts;
mod second_factor;
mod secrets;
mod service_accounts;
mod sessions;
mod tokens;
mod usage;
mod users;
mod workload_logs;
mod workloads;

use actix_web::{FromRequest, Responder, http::Method, web::Data};
use pilothouse_core::{
    Code,
    access::StepUpAction,
    inventory::LISTS,
    rights::{
        RightResource::{Audit, Clusters, Config, Grants, Namespaces, Nodes, Secrets, Users, Workloads},
        RightVerb::{Create, Delete, Get, List, Logs, Restart, Reveal, Scale, Update},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use self::access::{break_glass, questions, requests};
use crate::{
    api::Api,
    body::Body,
    docs::{Docs, Documented},
    error::Result,
    extract::{
        Authenticated, RequiredAuth,
        RequiredAuth::{Cookie, Public, Right, SignedIn},
    },
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

/// Error codes of questions about a cluster that send nothing to it for the caller: about rights, and about problems.
const QUESTION: &[Code] = &[Code::PermissionDenied, Code::ResourceNotFound];

/// Error codes of log reads: those of [`CLUSTER`], and a conflict when the container has not started.
const LOGS: &[Code] = &[
    Code::PermissionDenied,
    Code::ResourceNotFound,
    Code::ConflictError,
    Code::RateLimited,
    Code::ConnectionError,
    Code::TimeoutError,
];

/// Error codes of the start of a sign-in at an OpenID provider.
const START: &[Code] = &[Code::ValidationError, Code::ResourceNotFound];

/// Error codes of other operations with an identity provider, which may not exist.
const MISSING: &[Code] = &[Code::ResourceNotFound];

/// All routes.
#[rustfmt::skip]
pub(crate) fn table() -> Vec<Route> {
    let routes = vec![
        get( "/livez",                           Public,                    &[],     health::live,           "Liveness: the process runs"),
        get( "/readyz",                          Public,                    &[],     health::ready,          "Readiness: database, keys, migrations"),
        get( "/api/version",                     Public, &[Code::ValidationError],     health::version,        "The version of the server"),
        get( "/api/openapi.json",                Public,                    &[],     health::openapi,        "This document"),

        get( "/api/auth/providers",              Public, &[Code::ValidationError],     providers::list,        "The ways to sign in"),
        get( "/api/auth/oidc/{provider}/start",  Public,                    START,   providers::start,       "Send the browser to an OpenID provider"),
        post("/api/auth/oidc/{provider}/finish", Public,                    MISSING, providers::finish,      "Sign in with what the browser brings back from an OpenID provider"),
        post("/api/auth/oidc/{provider}/backchannel", Public,               MISSING, providers::backchannel, "End sessions that an OpenID provider has ended"),
        post("/api/auth/login",                  Public,                    MISSING, auth::login,            "Sign in"),
        post("/api/auth/refresh",                Cookie,                    &[],     auth::refresh,          "Get a new pair of tokens"),
        post("/api/auth/logout",                 Cookie,                    &[],     auth::logout,           "Sign out"),
        get( "/api/auth/me",                     SignedIn,                  &[],     auth::me,               "The signed-in user"),
        change("/api/auth/password",             SignedIn,                  &[],     auth::password,         "Change one's own password; ends one's other sessions"),
        change("/api/auth/sessions/revoke",      SignedIn,                  &[],     sessions::revoke,       "End a session: one's own, or any as a super admin"),
        change("/api/auth/users",                Right(Create, Users),      &[],     users::create,          "Create a user"),
        change("/api/auth/users/update",         Right(Update, Users),      &[],     users::update,          "Change a user's role or display name, disable or enable it"),
        change("/api/auth/users/delete",         Right(Delete, Users),      &[],     users::delete,          "Delete a user"),
        change("/api/auth/users/reset-password", Right(Update, Users),      &[],     users::reset_password,  "Set another user's password; ends that user's sessions"),

        change("/api/auth/users/reset-second-factor", Right(Update, Users), &[],     second_factor::reset,   "Remove another user's second factor; ends that user's sessions"),
        post("/api/auth/totp/enroll",            SignedIn,                  &[],     second_factor::enroll,  "Begin to set up one's second factor; its seed is shown once"),
        post("/api/auth/totp/confirm",           SignedIn,                  &[],     second_factor::confirm, "Set up one's second factor by a code; the recovery codes are shown once"),
        post("/api/auth/totp/verify",            SignedIn,                  &[],     second_factor::verify,  "Give one's second factor again, for what wants a fresh one"),
        post("/api/auth/totp/disable",           SignedIn,                  &[],     second_factor::disable, "Remove one's second factor; ends one's other sessions"),
        post("/api/auth/tokens",                 SignedIn,                  &[],     tokens::create, "Make an API token; its secret is shown once"),
        change("/api/auth/tokens/update",        SignedIn,                  &[],     tokens::update, "Rename an API token"),
        change("/api/auth/tokens/revoke",        SignedIn,                  &[],     tokens::revoke, "Revoke an API token: one's own, or any as a super admin"),
        change("/api/auth/service-accounts",     Right(Create, Users),      &[],     service_accounts::create, "Create a service account"),
        change("/api/auth/service-accounts/update", Right(Update, Users),   &[],     service_accounts::update, "Change the description or the owner of a service account"),
        change("/api/auth/service-accounts/delete", Right(Delete, Users),   &[],     service_accounts::delete, "Delete a service account; revokes its grants and tokens"),

        change("/api/access/roles",              Right(Update, Users),      &[],     access::create_role,    "Create an own role"),
        change("/api/access/roles/update",       Right(Update, Users),      &[],     access::update_role,    "Change an own role, and with it the rights of its grants"),
        change("/api/access/roles/delete",       Right(Update, Users),      &[],     access::delete_role,    "Delete an own role that no live grant and no pending request names"),
        change("/api/access/grants",             Right(Create, Grants),     &[],     access::create_grant,   "Make a grant; nobody gives more than they have"),
        change("/api/access/grants/revoke",      Right(Delete, Grants),     &[],     access::revoke_grant,   "Revoke a grant"),
        get( "/api/access/mine",                 SignedIn,                  &[],     questions::mine,        "One's own rights"),
        get( "/api/access/explain",              SignedIn,                  QUESTION, questions::explain,   "Whether a right is there, and why: one's own, or with list grants another user's"),
        change("/api/access/requests",           SignedIn,                  &[],     requests::create,       "Ask for a grant for a limited time"),
        change("/api/access/requests/approve",   Right(Create, Grants),     &[],     requests::approve,      "Approve another user's request, which makes the grant"),
        change("/api/access/requests/deny",      Right(Create, Grants),     &[],     requests::deny,         "Deny a request"),
        change("/api/access/requests/withdraw",  SignedIn,                  &[],     requests::withdraw,     "Withdraw one's own request"),

        change("/api/access/break-glass",        SignedIn,                  &[],     break_glass::open,      "Take the role admin in a cluster for an hour, as the settings allow"),
        change("/api/access/break-glass/review", Right(Update, Users),      &[],     break_glass::review,    "Review another user's use of break-glass"),

        change("/api/k8s/clusters",              Right(Create, Clusters),   CLUSTER, clusters::create,       "Register a cluster, after a connection test"),
        change("/api/k8s/clusters/update",       Right(Update, Clusters),   CLUSTER, clusters::update,       "Change a cluster; a new connection is tested first"),
        change("/api/k8s/clusters/delete",       Right(Delete, Clusters),   CLUSTER, clusters::delete,       "Remove a cluster and its credential"),
        post("/api/k8s/clusters/test",           SignedIn,                  CLUSTER, clusters::test,         "Test a registered cluster, or (ops_admin) a new configuration"),
        get( "/api/k8s/clusters/status",         SignedIn,                  CLUSTER, clusters::status,       "The current status of a cluster, from a probe"),

        change("/api/k8s/namespaces",            Right(Create, Namespaces), CLUSTER, namespaces::create,     "Create a namespace"),
        change("/api/k8s/namespaces/delete",     Right(Delete, Namespaces), CLUSTER, namespaces::delete,     "Delete a namespace and everything in it"),
        get( "/api/k8s/workloads/detail",        Right(Get, Workloads),     CLUSTER, workloads::detail,      "A workload with its related objects"),
        change("/api/k8s/workloads/scale",       Right(Scale, Workloads),   CLUSTER, workloads::scale,       "Set the replicas of a deployment or stateful set"),
        change("/api/k8s/workloads/restart",     Right(Restart, Workloads), CLUSTER, workloads::restart,     "Replace the pods, as kubectl rollout restart does"),
        get( "/api/k8s/workloads/history",       Right(Get, Workloads),     CLUSTER, rollouts::history,      "The revisions of a workload, the newest first"),
        get( "/api/k8s/workloads/history/diff",  Right(Get, Workloads),     CLUSTER, rollouts::diff,         "The fields in which two revisions of a workload differ"),
        get( "/api/k8s/workloads/rollout",       Right(Get, Workloads),     CLUSTER, rollouts::rollout,      "The progress of a rollout, and why it is stuck"),
        get( "/api/k8s/workloads/rollout/watch", Right(Get, Workloads),     CLUSTER, rollouts::watch,        "The progress of a rollout as it changes, as server-sent events"),
        change("/api/k8s/workloads/undo",        Right(Update, Workloads),  CLUSTER, rollouts::undo,         "Go back to an earlier revision, as kubectl rollout undo does"),
        change("/api/k8s/workloads/pause",       Right(Update, Workloads),  CLUSTER, rollouts::pause,        "Pause the rollout of a deployment"),
        change("/api/k8s/workloads/resume",      Right(Update, Workloads),  CLUSTER, rollouts::resume,       "Resume the rollout of a deployment"),
        change("/api/k8s/workloads/set-image",   Right(Update, Workloads),  CLUSTER, rollouts::set_image,    "Set the images of containers"),
        get( "/api/k8s/workloads/logs/stream",   Right(Logs, Workloads),    CLUSTER, workload_logs::follow,  "The logs of a workload in one or several clusters as they are written, as server-sent events"),
        change("/api/k8s/cronjobs/suspend",      Right(Update, Workloads),  CLUSTER, jobs::suspend_cron_job, "Suspend a CronJob: it starts no more Jobs"),
        change("/api/k8s/cronjobs/resume",       Right(Update, Workloads),  CLUSTER, jobs::resume_cron_job,  "Resume a suspended CronJob"),
        change("/api/k8s/cronjobs/run",          Right(Restart, Workloads), CLUSTER, jobs::run_cron_job,     "Run a CronJob now, as kubectl create job --from does"),
        change("/api/k8s/jobs/rerun",            Right(Restart, Workloads), CLUSTER, jobs::rerun_job,        "Run a Job again, as a copy under another name"),
        change("/api/k8s/jobs/suspend",          Right(Update, Workloads),  CLUSTER, jobs::suspend_job,      "Suspend a Job, which ends its running pods, or resume it"),
        change("/api/k8s/autoscalers/update",    Right(Scale, Workloads),   CLUSTER, autoscalers::update,    "Set the smallest and the largest number of replicas of an autoscaler"),
        change("/api/k8s/nodes/cordon",          Right(Update, Nodes),      CLUSTER, nodes::cordon,          "Cordon a node: it gets no new pods"),
        change("/api/k8s/nodes/uncordon",        Right(Update, Nodes),      CLUSTER, nodes::uncordon,        "Uncordon a node"),
        change("/api/k8s/pods/delete",           Right(Restart, Workloads), CLUSTER, pod_changes::delete,    "Delete a pod; without a controller that replaces it, or without a grace period, it takes the right to delete workloads"),
        change("/api/k8s/pods/evict",            Right(Restart, Workloads), CLUSTER, pod_changes::evict,     "Evict a pod, as far as its disruption budget allows; without a controller that replaces it, it takes the right to delete workloads"),
        change("/api/k8s/pods/resize",           Right(Update, Workloads),  CLUSTER, pod_changes::resize,    "Change the resources of a container of a running pod"),
        get( "/api/k8s/dependents",              SignedIn,                  CLUSTER, dependents::dependents,  "What belongs to an object, and is deleted with it"),
        get( "/api/k8s/pods/logs",               Right(Logs, Workloads),    LOGS,    pods::logs,             "The end of a container's log"),
        get( "/api/k8s/pods/logs/stream",        Right(Logs, Workloads),    LOGS,    pods::follow,           "A container's log as it is written, as server-sent events"),
        get( "/api/k8s/pods/logs/download",      Right(Logs, Workloads),    LOGS,    pods::download,         "A container's whole log as a file"),
        get( "/api/k8s/diagnose",                SignedIn,                  CLUSTER, diagnosis::diagnose,    "Why an object does not work: causes, evidence and next steps"),
        change("/api/k8s/configmaps",            Right(Create, Config),     CLUSTER, configmaps::create,     "Create a ConfigMap"),
        get( "/api/k8s/configmaps/detail",       Right(Get, Config),        CLUSTER, configmaps::detail,     "A ConfigMap with its values"),
        change("/api/k8s/configmaps/update",     Right(Update, Config),     CLUSTER, configmaps::update,     "Replace the values that are text, or the labels, of a ConfigMap"),
        change("/api/k8s/configmaps/delete",     Right(Delete, Config),     CLUSTER, configmaps::delete,     "Delete a ConfigMap"),
        change("/api/k8s/secrets",               Right(Create, Secrets),    CLUSTER, secrets::create,        "Create a Secret"),
        get( "/api/k8s/secrets/detail",          Right(Get, Secrets),       CLUSTER, secrets::detail,        "A Secret without its values"),
        post("/api/k8s/secrets/reveal",          Right(Reveal, Secrets),    CLUSTER, secrets::reveal,        "A Secret's values; recorded before they are read"),
        change("/api/k8s/secrets/update",        Right(Update, Secrets),    CLUSTER, secrets::update,        "Replace the values, or the labels, of a Secret"),
        change("/api/k8s/secrets/delete",        Right(Delete, Secrets),    CLUSTER, secrets::delete,        "Delete a Secret"),

        get( "/api/k8s/kinds",                   SignedIn,                  CLUSTER, objects::kinds,         "The kinds that a cluster serves, custom resources too"),
        get( "/api/k8s/objects",                 SignedIn,                  CLUSTER, objects::list,          "Objects of one kind that a cluster serves, with the columns that it prints"),
        get( "/api/k8s/objects/detail",          SignedIn,                  CLUSTER, objects::detail,        "An object of any kind but Secret, with the owners of its fields and its events"),

        get( "/api/k8s/search",                  SignedIn,                  CLUSTER, fleet::search,          "Fleet search: objects of one or several kinds in all clusters, by a part of their name"),
        get( "/api/k8s/overview",                SignedIn,                  CLUSTER, fleet::overview,        "Fleet overview: number of objects in all clusters, by kind and status"),
        get( "/api/k8s/problems",                SignedIn,                  QUESTION, problems::list,         "Problems: what is wrong in all clusters, by cause and owner, the worst first"),
        get( "/api/k8s/watch",                   SignedIn,                  CLUSTER, fleet::watch,           "A list and its changes, or a page each time it changes, as server-sent events"),
        get( "/api/k8s/live",                    SignedIn,                  &[],     fleet::live,            "Several watches in one stream of server-sent events"),

        get( "/api/k8s/compare",                 SignedIn,                  CLUSTER, compare::compare,       "A workload compared across clusters: images, replicas, resources, environment, probes, ConfigMaps"),
        get( "/api/k8s/metrics/series",          SignedIn,                  CLUSTER, usage::series,          "The usage of CPU and memory of a node or pod in the last hour"),

        get( "/api/k8s/audit/verify",            Right(List, Audit),        CLUSTER, audit::verify,          "Verify the audit trail; reports the first bad entry"),
        get( "/api/k8s/audit/export",            Right(List, Audit),        CLUSTER, audit::export,          "The audit trail as JSON Lines, which can be verified elsewhere, or as events of audit.k8s.io/v1"),
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
        let signed_in = self.auth.role().is_some();
        let usual = match code {
            Code::InternalError | Code::MethodNotAllowed | Code::ServiceUnavailable => true,
            Code::ValidationError | Code::AuthenticationError => post || signed_in,
            // a right that is missing, a change that no API token allows, a second factor that is not set up
            Code::PermissionDenied => signed_in,
            Code::ResourceNotFound | Code::ConflictError => post && signed_in,
            Code::PayloadTooLarge | Code::UnsupportedMediaType | Code::RateLimited => post,
            Code::ConnectionError | Code::TimeoutError => false,
        };
        usual || self.codes.contains(&code)
    }
}

/// The method and the path of every route without parameters in its path, for tests.
pub fn endpoints() -> Vec<(String, &'static str)> {
    let routes = table().into_iter().filter(|route| !route.path.contains('{'));
    routes.map(|route| (route.method.to_string(), route.path)).collect()
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
    let required = auth.clone();
    post(
        path,
        auth,
        codes,
        move |api, request| execute(api, request, required.clone(), action_of(path), handler.clone()),
        summary,
    )
}

/// The [`StepUpAction`] of the operation of a change, by which a repetition with the same `Idempotency-Key` is checked
/// again. A test compares it with the gate.
fn action_of(path: &str) -> Option<StepUpAction> {
    match path {
        "/api/auth/users"
        | "/api/auth/users/update"
        | "/api/auth/users/reset-password"
        | "/api/auth/users/reset-second-factor"
        | "/api/auth/service-accounts"
        | "/api/auth/service-accounts/update"
        | "/api/access/roles"
        | "/api/access/roles/update"
        | "/api/access/grants"
        | "/api/access/requests/approve" => Some(StepUpAction::Grants),
        "/api/access/break-glass" => Some(StepUpAction::BreakGlass),
        _ => None,
    }
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
