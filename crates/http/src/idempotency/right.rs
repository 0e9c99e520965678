//! The right by which a change is allowed. A repeated request is judged anew before it gets the stored response, and the
//! right is part of what is compared with the earlier request.

use pilothouse_core::{
    access::{AccessRequest, Caller, Resource, Verb},
    ids::ClusterId,
    kind::Kind,
    name::Namespace,
    rights::GrantRef,
    workload::WorkloadType,
};
use serde_json::Value;

use crate::extract::RequiredAuth;

/// The right by which a caller may make a change, as text: a grant or a role; for a change of grants, all of them. `None`
/// if the caller may not make it.
pub(super) fn right(caller: &Caller, path: &str, auth: RequiredAuth, body: &Value) -> Option<String> {
    let Some(access) = access(path, body) else {
        let role = caller.role.filter(|_| auth.allows(caller.role))?;
        // a change of grants is judged by all rights of the caller
        let grants = caller.rights.grant_refs().filter(|_| path.starts_with("/api/access/"));
        return Some(grants.fold(role.as_str().to_owned(), |text, grant| text + " " + &name(grant)));
    };
    Some(name(caller.judge(&access).ok()?.grant()?))
}

/// A grant, or the role whose preset it is.
fn name(grant: &GrantRef) -> String {
    grant.id.map_or_else(|| grant.role.clone(), |id| format!("grant {id}"))
}

/// The access request of a change, as its use case makes it. `None` for a change that needs no right, or whose use case
/// alone can judge it.
fn access(path: &str, body: &Value) -> Option<AccessRequest> {
    let of_kind = |verb, kind| AccessRequest::to(verb, Resource::Kind(kind));
    let of_workload = |verb| {
        let kind = body["type"].as_str().and_then(|text| WorkloadType::parse(text).ok());
        of_kind(verb, kind.map_or(Kind::Deployment, WorkloadType::kind))
    };
    let of_user = |verb| AccessRequest::to(verb, Resource::User);
    let of_cluster = |verb| AccessRequest::to(verb, Resource::Cluster);
    let access = match path {
        "/api/auth/users" => of_user(Verb::Create),
        "/api/auth/users/update" => of_user(Verb::Update),
        "/api/auth/users/delete" => of_user(Verb::Delete),
        "/api/auth/users/reset-password" => of_user(Verb::ResetPassword),
        "/api/k8s/clusters" => of_cluster(Verb::Create),
        "/api/k8s/clusters/update" => of_cluster(Verb::Update).in_cluster(id(body, "id")?),
        "/api/k8s/clusters/delete" => of_cluster(Verb::Delete).in_cluster(id(body, "id")?),
        "/api/k8s/namespaces" => {
            let access = of_kind(Verb::Create, Kind::Namespace).in_cluster(id(body, "cluster_id")?);
            access.in_namespace(&namespace(body, "name")?)
        }
        _ => {
            let access = match path {
                "/api/k8s/namespaces/delete" => of_kind(Verb::Delete, Kind::Namespace),
                "/api/k8s/workloads/scale" => of_workload(Verb::Scale),
                "/api/k8s/workloads/restart" => of_workload(Verb::Restart),
                "/api/k8s/configmaps" => of_kind(Verb::Create, Kind::ConfigMap),
                "/api/k8s/configmaps/update" => of_kind(Verb::Update, Kind::ConfigMap),
                "/api/k8s/configmaps/delete" => of_kind(Verb::Delete, Kind::ConfigMap),
                "/api/k8s/secrets" => of_kind(Verb::Create, Kind::Secret),
                "/api/k8s/secrets/update" => of_kind(Verb::Update, Kind::Secret),
                "/api/k8s/secrets/delete" => of_kind(Verb::Delete, Kind::Secret),
                _ => return None,
            };
            access.in_cluster(id(body, "cluster_id")?).in_namespace(&namespace(body, "namespace")?)
        }
    };
    Some(access)
}

fn id(body: &Value, field: &str) -> Option<ClusterId> {
    body[field].as_i64().map(ClusterId)
}

fn namespace(body: &Value, field: &str) -> Option<Namespace> {
    Namespace::new(body[field].as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use pilothouse_core::role::Role;
    use serde_json::json;

    use super::*;
    use crate::routes::table;

    /// Routes of the caller's own account, session and requests, which need no right, and routes of grants, which their
    /// use cases judge.
    const WITHOUT_RIGHT: [&str; 3] = ["/api/auth/password", "/api/auth/sessions/revoke", "/api/access/"];

    /// Every change that supports a key and needs a right is known here: its role in the route table is the weakest one
    /// that has the right.
    #[test]
    fn every_change_with_a_role_has_its_right() {
        let body =
            json!({"id": 1, "cluster_id": 1, "namespace": "shop", "name": "shop", "type": "deployment"});
        for route in table() {
            let is_change = (route.docs)().parameters.iter().any(|one| one["name"] == "Idempotency-Key");
            let without = WITHOUT_RIGHT.iter().any(|prefix| route.path.starts_with(prefix));
            if !is_change || without {
                continue;
            }
            assert!(access(route.path, &body).is_some(), "{}", route.path);
            for role in Role::ALL {
                let caller = Caller::system().with_role(role);
                let right = right(&caller, route.path, route.auth, &body);
                let expected = route.auth.allows(Some(role)).then(|| role.as_str().to_owned());
                assert_eq!(right, expected, "{} as {}", route.path, role.as_str());
            }
        }
    }
}
