//! The right by which a change is allowed. A repeated request is judged anew before it gets the stored response, and the
//! right is part of what is compared with the earlier request.

use pilothouse_core::{
    access::Caller,
    ids::ClusterId,
    name::Namespace,
    namespaces::NamespaceScope,
    rights::{GrantRef, RightResource, RightVerb},
};
use serde::Deserialize;

use crate::extract::RequiredAuth;

/// The fields of a body that name the place of a change. They have the same names in all routes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Place {
    id: Option<i64>,
    cluster_id: Option<i64>,
    namespace: Option<String>,
    name: Option<String>,
}

/// The right by which a caller may make a change with this body, as text: a grant or a role. For a change of grants,
/// these are all grants that give it anywhere. `None` if the caller may not make the change. For a caller who has the
/// right nowhere, the body is not read.
pub(super) fn right(caller: &Caller, auth: &RequiredAuth, body: &[u8]) -> Option<String> {
    if !auth.allows(caller) {
        return None;
    }
    match auth {
        RequiredAuth::Right(verb, resource @ RightResource::Grants) => {
            Some(caller.rights.grants_with(*verb, resource).map(name).collect::<Vec<_>>().join(" "))
        }
        RequiredAuth::Right(verb, resource) => {
            let (cluster, namespaces) = place(*verb, resource, body)?;
            let grant = caller.grant_of(*verb, resource.clone(), cluster, &namespaces)?;
            Some(name(&grant))
        }
        RequiredAuth::Public | RequiredAuth::Cookie | RequiredAuth::SignedIn => {
            Some(caller.role?.as_str().to_owned())
        }
    }
}

/// A grant, or the role whose preset it is.
fn name(grant: &GrantRef) -> String {
    grant.id.map_or_else(|| grant.role.clone(), |id| format!("grant {id}"))
}

/// The cluster and the namespace of a change, from its body.
fn place(
    verb: RightVerb,
    resource: &RightResource,
    body: &[u8],
) -> Option<(Option<ClusterId>, NamespaceScope)> {
    let Place { id, cluster_id, namespace, name } = serde_json::from_slice(body).ok()?;
    let namespace = match (verb, resource) {
        (_, RightResource::Users) => return Some((None, NamespaceScope::Unscoped)),
        // a new cluster has no id: the right on all clusters
        (_, RightResource::Clusters) => return Some((id.map(ClusterId), NamespaceScope::Unscoped)),
        (RightVerb::Create, RightResource::Namespaces) => name,
        // a node has no namespace
        (_, RightResource::Nodes) => return Some((Some(ClusterId(cluster_id?)), NamespaceScope::Unscoped)),
        _ => namespace,
    };
    let namespace = Namespace::new(namespace?).ok()?;
    Some((Some(ClusterId(cluster_id?)), NamespaceScope::One(namespace)))
}

#[cfg(test)]
mod tests {
    use pilothouse_core::role::Role;
    use serde_json::json;

    use super::*;
    use crate::routes::table;

    #[test]
    fn every_change_is_allowed_to_the_roles_that_have_its_right() {
        let body = json!({"id": 1, "cluster_id": 1, "namespace": "shop", "name": "shop"}).to_string();
        let mut changes = 0;
        for route in table() {
            let is_change = (route.docs)().parameters.iter().any(|one| one["name"] == "Idempotency-Key");
            let Some(required) = route.auth.role().filter(|_| is_change) else { continue };
            changes += 1;
            for role in Role::ALL {
                let caller = Caller::system().with_role(role);
                let is_allowed = role >= required || route.auth == RequiredAuth::SignedIn;
                let expected = is_allowed.then(|| role.as_str().to_owned());
                assert_eq!(
                    right(&caller, &route.auth, body.as_bytes()),
                    expected,
                    "{} as {role:?}",
                    route.path
                );
            }
        }
        assert!(changes > 20, "{changes}");
    }
}
