//! Decision on an access request by the caller's rights.

use std::sync::Arc;

use pilothouse_types::{
    error::{Cause, Error, Result},
    ids::{ClusterId, GrantId},
    kind::Kind,
    name::Namespace,
    namespaces::NamespaceScope,
    role::Role,
};

use super::{AccessRequest, Caller, Resource, is_closed_to_tokens, related, required_role};
use crate::rights::{
    Ask, Decision, GrantRef, Needs, RightResource, RightVerb, decide, needs, resource_of_kind,
};

/// The allowed part of an access request.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The part of the requested namespaces that the caller's rights reach.
    pub(crate) namespaces: NamespaceScope,
    /// Whether that is all that was requested.
    pub(crate) complete: bool,
    /// The first grant that gives a part of it. `None` if the operation needs no right.
    pub(crate) grant: Option<Arc<GrantRef>>,
    /// The kinds related to the request's own, with what the caller may read of them.
    pub(crate) related: Vec<RelatedKind>,
}

/// A related kind of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelatedKind {
    pub(crate) kind: Kind,
    /// The namespaces in which the caller may list the kind. `None` if in none of the request.
    pub(crate) namespaces: Option<NamespaceScope>,
    /// Whether these are all namespaces of the request.
    pub(crate) complete: bool,
}

impl Allowed {
    /// All of a request, with its related kinds, for a permit of the server itself.
    pub(crate) fn whole(access: &AccessRequest) -> Self {
        let namespaces = access.namespaces.clone();
        let related = related(access.verb, access.resource).iter();
        let related = related.map(|&kind| RelatedKind::whole(kind, asked_of(kind, access, &namespaces)));
        Self { complete: true, grant: None, related: related.collect(), namespaces }
    }

    /// The grant that allows the request, or the preset of the caller's role. `None` if the operation needs no right.
    pub fn grant(&self) -> Option<&GrantRef> {
        self.grant.as_deref()
    }

    /// Id of that grant. `None` if the caller's role allows the request, or if the operation needs no right.
    pub(crate) fn grant_id(&self) -> Option<GrantId> {
        self.grant().and_then(|grant| grant.id)
    }

    /// Whether objects of the same namespaces may be read, of the request's own kind and of each related kind.
    pub(crate) fn has_same_scope(&self, other: &Self) -> bool {
        self.namespaces == other.namespaces && self.related == other.related
    }
}

impl RelatedKind {
    fn whole(kind: Kind, namespaces: NamespaceScope) -> Self {
        Self { kind, namespaces: Some(namespaces), complete: true }
    }
}

/// The namespaces in which objects of a related kind are asked for: those of the request. For a request for objects
/// that belong to no namespace, such as nodes, these are all namespaces. A related kind whose objects belong to no
/// namespace takes the reach `cluster`.
fn asked_of(kind: Kind, access: &AccessRequest, own: &NamespaceScope) -> NamespaceScope {
    let in_namespace = matches!(access.resource, Resource::Kind(own) if own.belongs_to_namespace());
    match own {
        _ if !kind.belongs_to_namespace() => NamespaceScope::Unscoped,
        NamespaceScope::Unscoped if !in_namespace => NamespaceScope::All,
        own => own.clone(),
    }
}

impl Caller {
    /// Decides an access request by the caller's rights, without a look-up of its cluster.
    ///
    /// # Errors
    /// `NotFound` for a cluster in which the caller has no right, as for one that does not exist; `RoleTooLow` with the
    /// missing right; `TokenNotAllowed` if the caller has the right, and the request is one that no token allows.
    pub fn judge(&self, access: &AccessRequest) -> Result<Allowed> {
        let allowed = self.judge_rights(access)?;
        if self.token.is_some() && is_closed_to_tokens(access.verb, access.resource) {
            return Err(Error::new(Cause::TokenNotAllowed));
        }
        Ok(allowed)
    }

    fn judge_rights(&self, access: &AccessRequest) -> Result<Allowed> {
        if let Some(id) = access.cluster
            && !self.rights.sees(id)
        {
            return Err(cluster_not_found(id));
        }
        match needs(access.verb, access.resource) {
            Needs::SignIn | Needs::AnyRight if self.role.is_none() => Err(Error::role_too_low(Role::Viewer)),
            Needs::SignIn | Needs::AnyRight => Ok(self.allowed(access, access.namespaces.clone(), None)),
            Needs::Right(verb, resource) => {
                match self.decide(verb, resource, access.cluster, &access.namespaces) {
                    Decision::Allow { scope, grant } => Ok(self.allowed(access, scope, Some(grant))),
                    Decision::Deny { missing } => {
                        let required = required_role(access.verb, access.resource);
                        Err(Error::role_too_low(required).missing(missing.into()))
                    }
                }
            }
        }
    }

    /// Whether the caller has a right in a namespace of a cluster.
    pub fn has_right(
        &self,
        verb: RightVerb,
        resource: RightResource,
        cluster: ClusterId,
        namespace: &Namespace,
    ) -> bool {
        let namespaces = NamespaceScope::One(namespace.clone());
        self.grant_of(verb, resource, Some(cluster), &namespaces).is_some()
    }

    /// The first grant that gives the caller a part of a right, or the preset of the role: in a cluster, or without one
    /// in all clusters. `None` without the right.
    pub fn grant_of(
        &self,
        verb: RightVerb,
        resource: RightResource,
        cluster: Option<ClusterId>,
        namespaces: &NamespaceScope,
    ) -> Option<Arc<GrantRef>> {
        if cluster.is_some_and(|id| !self.rights.sees(id)) {
            return None;
        }
        match self.decide(verb, resource, cluster, namespaces) {
            Decision::Allow { grant, .. } => Some(grant),
            Decision::Deny { .. } => None,
        }
    }

    fn decide(
        &self,
        verb: RightVerb,
        resource: RightResource,
        cluster: Option<ClusterId>,
        namespaces: &NamespaceScope,
    ) -> Decision {
        decide(&self.rights, &Ask { verb, resource, cluster, namespaces: namespaces.clone() })
    }

    fn allowed(
        &self,
        access: &AccessRequest,
        namespaces: NamespaceScope,
        grant: Option<Arc<GrantRef>>,
    ) -> Allowed {
        let related = related(access.verb, access.resource).iter();
        let related = related.map(|&kind| self.related_kind(kind, access, &namespaces)).collect();
        Allowed { complete: namespaces == access.namespaces, namespaces, grant, related }
    }

    /// A related kind is read as in a list, by the right to list it. A probe of a cluster counts for all callers: its
    /// use case cuts what it shows to one of them.
    fn related_kind(&self, kind: Kind, access: &AccessRequest, own: &NamespaceScope) -> RelatedKind {
        let asked = asked_of(kind, access, own);
        if matches!(access.resource, Resource::Cluster | Resource::NewCluster) {
            return RelatedKind::whole(kind, asked);
        }
        match self.decide(RightVerb::List, resource_of_kind(kind, false), access.cluster, &asked) {
            Decision::Allow { scope, .. } => {
                RelatedKind { kind, complete: scope == asked, namespaces: Some(scope) }
            }
            Decision::Deny { .. } => RelatedKind { kind, namespaces: None, complete: false },
        }
    }
}

/// The error for a cluster that does not exist. A caller gets the same one for a cluster in which they have no right.
pub(crate) fn cluster_not_found(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pilothouse_types::{
        ids::TokenId,
        namespaces::{NamespacePattern, NamespaceSet},
    };
    use serde_json::json;

    use super::*;
    use crate::access::Verb;
    use crate::rights::{ClusterLabels, EffectiveGrant, Labels, Reach, Rights, RoleRule, RoleRules};

    /// A caller of the role `none` with these rules in cluster 1, in these namespaces (`None`: the whole cluster). The
    /// clusters 1 and 2 are registered.
    fn caller(rules: &[(&str, &str)], namespaces: Option<&[&str]>) -> Caller {
        let rule = |(verbs, resources): &(&str, &str)| -> RoleRule {
            let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let rule = json!({"verbs": words(verbs), "resources": words(resources)});
            serde_json::from_value(rule).unwrap()
        };
        let pattern = |text: &&str| NamespacePattern::parse(text).unwrap();
        let reach = namespaces.map_or(Reach::Cluster, |texts| {
            Reach::try_from(texts.iter().map(pattern).collect::<Vec<_>>()).unwrap()
        });
        let grant = EffectiveGrant {
            grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
            rules: Arc::new(RoleRules::new(rules.iter().map(rule).collect()).unwrap()),
            clusters: serde_json::from_value(json!({"ids": [1]})).unwrap(),
            reach,
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([1, 2].map(|id| (ClusterId(id), Labels::new())));
        let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
        Caller::system().with_rights(Role::None, Arc::new(rights))
    }

    fn list(kind: Kind) -> AccessRequest {
        AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(ClusterId(1))
    }

    fn set(texts: &[&str]) -> NamespaceScope {
        let patterns = texts.iter().map(|text| NamespacePattern::parse(text).unwrap());
        NamespaceScope::Set(NamespaceSet::new(patterns))
    }

    #[test]
    fn request_for_all_namespaces_is_cut_to_the_rights() {
        let ann = caller(&[("list", "workloads")], Some(&["team-*"]));
        let all = list(Kind::Pod).within(NamespaceScope::All);
        let allowed = ann.judge(&all).unwrap();
        assert_eq!((allowed.namespaces, allowed.complete), (set(&["team-*"]), false));
        let one = list(Kind::Pod).in_namespace(&Namespace::new("team-a").unwrap());
        assert!(ann.judge(&one).unwrap().complete);
        let namespaces = ann.judge(&list(Kind::Namespace).within(NamespaceScope::All)).unwrap();
        assert_eq!(namespaces.namespaces, set(&["team-*"]), "any right shows the names");
    }

    #[test]
    fn refusal_names_the_missing_right() {
        let ann = caller(&[("list", "workloads")], Some(&["team-*"]));
        let other = list(Kind::Pod).in_namespace(&Namespace::new("shop").unwrap());
        let error = ann.judge(&other).unwrap_err();
        assert_eq!((error.cause, error.context.required_role), (Cause::RoleTooLow, Some(Role::Viewer)));
        let missing = error.context.missing.unwrap();
        assert_eq!((&*missing.verb, &*missing.resource), ("list", "workloads"));
        assert_eq!((missing.cluster_id, missing.namespace.as_deref()), (Some(ClusterId(1)), Some("shop")));
        for kind in [Kind::Secret, Kind::Node] {
            let error = ann.judge(&list(kind).within(NamespaceScope::All)).unwrap_err();
            assert_eq!(error.cause, Cause::RoleTooLow, "{kind}");
        }
    }

    #[test]
    fn cluster_without_a_right_is_refused_as_one_that_does_not_exist() {
        let ann = caller(&[("list", "workloads")], None);
        for verb in [Verb::List, Verb::Get, Verb::Scale, Verb::Delete, Verb::Test] {
            for resource in [Resource::Kind(Kind::Pod), Resource::Cluster] {
                let refused = |id| {
                    let access = AccessRequest::to(verb, resource).in_cluster(ClusterId(id));
                    let error = ann.judge(&access).unwrap_err();
                    assert_eq!(error.context.name.as_deref(), Some(&*id.to_string()));
                    Error { context: Box::default(), ..error }
                };
                assert_eq!(refused(2), refused(99), "{verb:?} {resource:?}");
            }
        }
        // a role of all clusters is judged before the cluster is looked up
        let viewer = Caller::system().with_role(Role::Viewer);
        let scale =
            AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).in_cluster(ClusterId(99));
        let error = viewer.judge(&scale).unwrap_err();
        assert_eq!((error.cause, error.context.required_role), (Cause::RoleTooLow, Some(Role::OpsAdmin)));
        assert_eq!(error.context.missing.unwrap().cluster_id, Some(ClusterId(99)));
    }

    #[test]
    fn related_kinds_are_judged_by_the_right_to_list_them() {
        let scopes = |caller: &Caller, access: &AccessRequest| -> Vec<_> {
            let related = caller.judge(access).unwrap().related.into_iter();
            related.map(|related| (related.kind, related.namespaces, related.complete)).collect()
        };
        let nodes = list(Kind::Node);
        let all = (Kind::Pod, Some(NamespaceScope::All), true);
        assert_eq!(scopes(&Caller::system(), &nodes), [all]);
        assert_eq!(scopes(&caller(&[("list", "nodes")], None), &nodes), [(Kind::Pod, None, false)]);

        let namespaces = list(Kind::Namespace).within(NamespaceScope::All);
        let ann = caller(&[("list", "quotas")], Some(&["team-*"]));
        assert_eq!(scopes(&ann, &namespaces), [(Kind::ResourceQuota, Some(set(&["team-*"])), true)]);
        let ann = caller(&[("list", "workloads")], Some(&["team-*"]));
        assert_eq!(scopes(&ann, &namespaces), [(Kind::ResourceQuota, None, false)]);

        let shop = Namespace::new("shop").unwrap();
        let web = AccessRequest::to_object(Verb::Get, Kind::Deployment, ClusterId(1), &shop, "web");
        let ann = caller(&[("get", "workloads"), ("list", "events")], Some(&["shop"]));
        let readable: Vec<_> =
            scopes(&ann, &web).into_iter().filter(|(_, scope, _)| scope.is_some()).collect();
        assert_eq!(readable, [(Kind::Event, Some(NamespaceScope::One(shop)), true)]);
    }

    #[test]
    fn tokens_change_no_account_credential_or_right() {
        let admin = Caller { token: Some(TokenId(1)), ..Caller::system() };
        let cause = |caller: &Caller, verb, resource| {
            caller.judge(&AccessRequest::to(verb, resource)).err().map(|error| error.cause)
        };
        for resource in [
            Resource::User,
            Resource::OwnAccount,
            Resource::Session,
            Resource::Token,
            Resource::ServiceAccount,
            Resource::Grant,
            Resource::Role,
            Resource::Request,
        ] {
            for verb in [Verb::Create, Verb::Update, Verb::Delete, Verb::Revoke, Verb::Grant, Verb::Approve] {
                assert_eq!(
                    cause(&admin, verb, resource),
                    Some(Cause::TokenNotAllowed),
                    "{verb:?} {resource:?}"
                );
            }
            assert_eq!(cause(&admin, Verb::List, resource), None, "{resource:?}");
        }
        for resource in [Resource::OwnSecondFactor, Resource::SecondFactor] {
            assert_eq!(cause(&admin, Verb::Verify, resource), Some(Cause::TokenNotAllowed), "{resource:?}");
        }
        assert_eq!(cause(&admin, Verb::Create, Resource::NewCluster), None);
        // a right that is missing is named first
        let viewer = Caller { token: Some(TokenId(1)), ..Caller::system().with_role(Role::Viewer) };
        assert_eq!(cause(&viewer, Verb::Create, Resource::User), Some(Cause::RoleTooLow));
    }

    #[test]
    fn sign_in_is_enough_for_own_rows() {
        let nobody = Caller::system().with_role(Role::None);
        for resource in [Resource::OwnAccount, Resource::Session, Resource::Operation, Resource::Cluster] {
            assert!(nobody.judge(&AccessRequest::to(Verb::List, resource)).is_ok(), "{resource:?}");
        }
        let anonymous = Caller::anonymous("-", super::super::Origin::default());
        let error = anonymous.judge(&AccessRequest::to(Verb::List, Resource::Session)).unwrap_err();
        assert_eq!(error.cause, Cause::RoleTooLow);
    }
}
