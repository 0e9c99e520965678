//! Mapping of kinds, API resources and audited operations to rights. Every match is exhaustive: a new kind or resource
//! does not compile before it has a right.

use pilothouse_types::kind::{Kind, KindInfo};

use super::{ApiGroup, RightResource, RightVerb};
use crate::access::{Resource, Verb};

/// What an operation needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Only a caller who is signed in: the caller's own account, sessions, audit rows, grants and requests. The use case
    /// judges what concerns others: the right on a grant depends on the scope of the grant.
    SignIn,
    /// Any right in the cluster that the request names. Without a cluster, only a caller who is signed in: the answer
    /// contains only the clusters in which the caller has a right.
    AnyRight,
    /// This right.
    Right(RightVerb, RightResource),
}

/// What an operation needs, by its verb and resource in the audit trail.
pub fn needs(verb: Verb, resource: Resource) -> Needs {
    let right = |resource| Needs::Right(common_verb(verb), resource);
    match resource {
        Resource::Kind(kind) => {
            let resource = resource_of_kind(kind, !verb.reads());
            Needs::Right(verb_of_kind(verb, &resource), resource)
        }
        Resource::Cluster if verb.reads() || verb == Verb::Test => Needs::AnyRight,
        Resource::Cluster => right(RightResource::Clusters),
        // a connection test of a new cluster takes the right to register it
        Resource::NewCluster => Needs::Right(RightVerb::Create, RightResource::Clusters),
        Resource::User => right(RightResource::Users),
        // a user who makes tokens of a service account can use its rights
        Resource::ServiceAccount => right(RightResource::Users),
        // a lost second factor leaves only the password
        Resource::SecondFactor => Needs::Right(RightVerb::Update, RightResource::Users),
        // the use case checks the right to tokens of others
        Resource::OwnAccount | Resource::OwnSecondFactor | Resource::Session | Resource::Token => {
            Needs::SignIn
        }
        // the trail as a whole
        Resource::Operation if matches!(verb, Verb::Verify | Verb::Export) => {
            Needs::Right(RightVerb::List, RightResource::Audit)
        }
        // the removal of history signs a new start of the trail
        Resource::Operation if verb == Verb::Prune => right(RightResource::Keys),
        // rows: the caller's own, and those that `list audit` adds
        Resource::Operation => Needs::SignIn,
        // a review of a use of break-glass is for super admins
        Resource::Grant if verb == Verb::Review => Needs::Right(RightVerb::Update, RightResource::Users),
        // checked by the scope of the grant, in `pilothouse_core::grant`; break-glass is checked by the settings
        Resource::Grant | Resource::Request => Needs::SignIn,
        Resource::Role if verb.reads() => Needs::SignIn,
        // a role changes the rights of users
        Resource::Role => Needs::Right(RightVerb::Update, RightResource::Users),
        Resource::MasterKey | Resource::Database => right(RightResource::Keys),
    }
}

/// The verb of an operation on a resource that has only the common verbs.
fn common_verb(verb: Verb) -> RightVerb {
    match verb {
        Verb::List => RightVerb::List,
        Verb::Create | Verb::Grant | Verb::Request => RightVerb::Create,
        Verb::Delete | Verb::DeleteReplaced | Verb::EvictUnreplaced | Verb::Prune => RightVerb::Delete,
        Verb::Get | Verb::Logs | Verb::Verify => RightVerb::Get,
        Verb::Update
        | Verb::Test
        | Verb::Scale
        | Verb::Restart
        | Verb::Reveal
        | Verb::Login
        | Verb::Logout
        | Verb::Refresh
        | Verb::Revoke
        | Verb::ChangePassword
        | Verb::ResetPassword
        | Verb::Export
        | Verb::Rekey
        | Verb::Backup
        | Verb::Restore
        | Verb::Approve
        | Verb::Deny
        | Verb::Withdraw
        | Verb::BreakGlass
        | Verb::Review
        | Verb::Enroll
        | Verb::Disable
        | Verb::Undo
        | Verb::Pause
        | Verb::Resume
        | Verb::SetImage
        | Verb::Suspend
        | Verb::Run
        | Verb::Rerun
        | Verb::Evict
        | Verb::Resize
        | Verb::Cordon
        | Verb::Uncordon => RightVerb::Update,
    }
}

/// The verb of an operation on objects of a cluster: the verb of the same name if the resource has it.
fn verb_of_kind(verb: Verb, resource: &RightResource) -> RightVerb {
    let same = match verb {
        Verb::Logs => RightVerb::Logs,
        Verb::Scale => RightVerb::Scale,
        // replacing what runs, without changing what is wanted
        Verb::Restart | Verb::Run | Verb::Rerun | Verb::Evict | Verb::DeleteReplaced => RightVerb::Restart,
        Verb::Reveal => RightVerb::Reveal,
        other => common_verb(other),
    };
    if resource.verbs().contains(same) { same } else { common_verb(verb) }
}

/// The resource of a kind, for a read or for a change.
pub fn resource_of_kind(kind: Kind, writes: bool) -> RightResource {
    match kind {
        Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::ControllerRevision
        | Kind::Job
        | Kind::CronJob
        | Kind::HorizontalPodAutoscaler
        | Kind::PodDisruptionBudget => RightResource::Workloads,
        Kind::ConfigMap => RightResource::Config,
        Kind::Secret => RightResource::Secrets,
        Kind::Service | Kind::Ingress => RightResource::Network,
        Kind::EndpointSlice | Kind::Event if writes => RightResource::Platform,
        Kind::EndpointSlice => RightResource::Network,
        Kind::Event => RightResource::Events,
        Kind::PersistentVolumeClaim => RightResource::Storage,
        Kind::ResourceQuota => RightResource::Quotas,
        Kind::Namespace => RightResource::Namespaces,
        Kind::Node => RightResource::Nodes,
        Kind::PersistentVolume | Kind::StorageClass => RightResource::Volumes,
        Kind::Dynamic(dynamic) => {
            let KindInfo { group, plural, .. } = dynamic.info();
            resource_of(group, plural, None, writes, dynamic.is_custom())
        }
    }
}

/// The resource of a kind that may have no [`Kind`], by its API group (empty for the core group), its plural resource
/// name and its subresource, for a read or for a change. `by_definition` states whether a CustomResourceDefinition of
/// the cluster defines the kind; where that is not known it is `false`.
///
/// A kind that this function does not know is of the resource `platform`, or of `custom:<group>` if it is custom.
pub fn resource_of(
    group: &str,
    plural: &str,
    subresource: Option<&str>,
    writes: bool,
    by_definition: bool,
) -> RightResource {
    let resource = match (group, plural) {
        ("", "pods") => RightResource::Workloads,
        ("apps", "deployments" | "statefulsets" | "daemonsets" | "replicasets" | "controllerrevisions") => {
            RightResource::Workloads
        }
        ("batch", "jobs" | "cronjobs") => RightResource::Workloads,
        ("autoscaling", "horizontalpodautoscalers") => RightResource::Workloads,
        ("policy", "poddisruptionbudgets") => RightResource::Workloads,
        ("", "configmaps") => RightResource::Config,
        ("", "secrets") => RightResource::Secrets,
        ("", "services") => RightResource::Network,
        ("", "endpoints") | ("discovery.k8s.io", "endpointslices") if !writes => RightResource::Network,
        ("networking.k8s.io", "ingresses" | "networkpolicies") => RightResource::Network,
        ("gateway.networking.k8s.io", _) => RightResource::Network,
        ("", "persistentvolumeclaims") => RightResource::Storage,
        ("snapshot.storage.k8s.io", "volumesnapshots") => RightResource::Storage,
        ("" | "events.k8s.io", "events") if !writes => RightResource::Events,
        ("", "resourcequotas" | "limitranges") => RightResource::Quotas,
        ("", "namespaces") => RightResource::Namespaces,
        ("", "nodes") => RightResource::Nodes,
        ("", "persistentvolumes") => RightResource::Volumes,
        ("storage.k8s.io" | "snapshot.storage.k8s.io", _) => RightResource::Volumes,
        ("", "serviceaccounts") => RightResource::Access,
        ("rbac.authorization.k8s.io" | "certificates.k8s.io", _) => RightResource::Access,
        (group, _) if by_definition => {
            ApiGroup::new(group).map_or(RightResource::Platform, RightResource::CustomGroup)
        }
        _ => RightResource::Platform,
    };
    let Some(subresource) = subresource else { return resource };
    let on_pods = ["log", "exec", "attach", "portforward", "ephemeralcontainers", "eviction", "resize"];
    let keeps_resource = match (group, plural, &resource) {
        ("", "pods", _) => on_pods.contains(&subresource),
        ("", "serviceaccounts", _) => subresource == "token",
        ("certificates.k8s.io", _, _) => subresource == "approval",
        (_, _, RightResource::Workloads | RightResource::CustomGroup(_)) => subresource == "scale",
        _ => false,
    };
    if keeps_resource { resource } else { RightResource::Platform }
}

#[cfg(test)]
mod tests {
    use pilothouse_types::{
        dynamic_kind::{DynamicKind, KindNames},
        kind::KINDS,
        role::Role,
    };

    use super::*;
    use crate::{access::required_role, rights::preset};

    const VERBS: [Verb; 44] = [
        Verb::List,
        Verb::Get,
        Verb::Logs,
        Verb::Create,
        Verb::Update,
        Verb::Delete,
        Verb::Test,
        Verb::Scale,
        Verb::Restart,
        Verb::Reveal,
        Verb::Login,
        Verb::Logout,
        Verb::Refresh,
        Verb::Revoke,
        Verb::ChangePassword,
        Verb::ResetPassword,
        Verb::Verify,
        Verb::Export,
        Verb::Rekey,
        Verb::Backup,
        Verb::Restore,
        Verb::Prune,
        Verb::Grant,
        Verb::Request,
        Verb::Approve,
        Verb::Deny,
        Verb::Withdraw,
        Verb::BreakGlass,
        Verb::Review,
        Verb::Enroll,
        Verb::Disable,
        Verb::Undo,
        Verb::Pause,
        Verb::Resume,
        Verb::SetImage,
        Verb::Suspend,
        Verb::Run,
        Verb::Rerun,
        Verb::Evict,
        Verb::Resize,
        Verb::Cordon,
        Verb::Uncordon,
        Verb::DeleteReplaced,
        Verb::EvictUnreplaced,
    ];

    fn resources() -> impl Iterator<Item = Resource> {
        let own = [
            Resource::Cluster,
            Resource::NewCluster,
            Resource::User,
            Resource::OwnAccount,
            Resource::OwnSecondFactor,
            Resource::SecondFactor,
            Resource::Session,
            Resource::Token,
            Resource::ServiceAccount,
            Resource::Operation,
            Resource::Grant,
            Resource::Role,
            Resource::Request,
            Resource::MasterKey,
            Resource::Database,
        ];
        KINDS.iter().copied().map(Resource::Kind).chain(own)
    }

    /// The rights of the presets are those of the rule table before there were grants.
    #[test]
    fn presets_have_exactly_the_rights_of_the_three_roles() {
        for role in [Role::Viewer, Role::OpsAdmin, Role::SuperAdmin] {
            let rules = preset(role);
            for resource in resources() {
                for verb in VERBS {
                    let allowed = match needs(verb, resource) {
                        Needs::SignIn | Needs::AnyRight => true,
                        Needs::Right(verb, resource) => rules.verbs(&resource, true).contains(verb),
                    };
                    assert_eq!(
                        allowed,
                        role >= required_role(verb, resource),
                        "{role:?} {verb:?} {resource:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn needed_right_is_a_pair_that_exists() {
        for resource in resources() {
            for verb in VERBS {
                if let Needs::Right(right, of) = needs(verb, resource) {
                    assert!(of.verbs().contains(right), "{verb:?} {resource:?}: {right} {of}");
                }
            }
        }
    }

    #[test]
    fn operations_need_the_right_of_the_contract() {
        let cases = [
            (Verb::List, Resource::Kind(Kind::Pod), "list workloads"),
            (Verb::Logs, Resource::Kind(Kind::Pod), "logs workloads"),
            (Verb::Scale, Resource::Kind(Kind::Deployment), "scale workloads"),
            (Verb::Restart, Resource::Kind(Kind::StatefulSet), "restart workloads"),
            (Verb::Undo, Resource::Kind(Kind::DaemonSet), "update workloads"),
            (Verb::SetImage, Resource::Kind(Kind::Deployment), "update workloads"),
            (Verb::Pause, Resource::Kind(Kind::Deployment), "update workloads"),
            (Verb::Run, Resource::Kind(Kind::CronJob), "restart workloads"),
            (Verb::Rerun, Resource::Kind(Kind::Job), "restart workloads"),
            (Verb::Evict, Resource::Kind(Kind::Pod), "restart workloads"),
            (Verb::DeleteReplaced, Resource::Kind(Kind::Pod), "restart workloads"),
            (Verb::EvictUnreplaced, Resource::Kind(Kind::Pod), "delete workloads"),
            (Verb::Delete, Resource::Kind(Kind::Pod), "delete workloads"),
            (Verb::Scale, Resource::Kind(Kind::HorizontalPodAutoscaler), "scale workloads"),
            (Verb::Resize, Resource::Kind(Kind::Pod), "update workloads"),
            (Verb::Suspend, Resource::Kind(Kind::CronJob), "update workloads"),
            (Verb::Cordon, Resource::Kind(Kind::Node), "update nodes"),
            (Verb::Get, Resource::Kind(Kind::Secret), "get secrets"),
            (Verb::Reveal, Resource::Kind(Kind::Secret), "reveal secrets"),
            (Verb::List, Resource::Kind(Kind::EndpointSlice), "list network"),
            (Verb::Create, Resource::Kind(Kind::Namespace), "create namespaces"),
            (Verb::Update, Resource::Kind(Kind::Event), "update platform"),
            (Verb::Create, Resource::Cluster, "create clusters"),
            (Verb::Test, Resource::NewCluster, "create clusters"),
            (Verb::ResetPassword, Resource::User, "update users"),
            (Verb::Export, Resource::Operation, "list audit"),
            (Verb::Rekey, Resource::MasterKey, "update keys"),
            (Verb::Create, Resource::Role, "update users"),
            (Verb::Disable, Resource::SecondFactor, "update users"),
            (Verb::Review, Resource::Grant, "update users"),
        ];
        for (verb, resource, right) in cases {
            let Needs::Right(verb, resource) = needs(verb, resource) else { panic!("{right}: no right") };
            assert_eq!(format!("{verb} {resource}"), right);
        }
        for verb in [Verb::List, Verb::Get, Verb::Test] {
            assert_eq!(needs(verb, Resource::Cluster), Needs::AnyRight);
        }
        for verb in [Verb::List, Verb::Get] {
            assert_eq!(needs(verb, Resource::Operation), Needs::SignIn);
        }
        for (verb, resource) in [
            (Verb::List, Resource::Role),
            (Verb::Grant, Resource::Grant),
            (Verb::Revoke, Resource::Grant),
            (Verb::Approve, Resource::Request),
            (Verb::BreakGlass, Resource::Grant),
            (Verb::Enroll, Resource::OwnSecondFactor),
        ] {
            assert_eq!(needs(verb, resource), Needs::SignIn);
        }
    }

    #[test]
    fn kind_and_its_api_resource_have_the_same_right() {
        for &kind in KINDS {
            let info = kind.info();
            for writes in [false, true] {
                let by_name = resource_of(info.group, info.plural, None, writes, false);
                assert_eq!(resource_of_kind(kind, writes), by_name, "{kind}, writes: {writes}");
            }
        }
    }

    #[test]
    fn dynamic_kind_has_the_right_of_its_group_and_plural() {
        let kind = |group, plural, custom| {
            let names = KindNames { group, version: "v1", plural, kind: "Any", namespaced: true, custom };
            Kind::Dynamic(DynamicKind::new(names).unwrap())
        };
        let cases = [
            (kind("day2.example.org", "boats", true), "custom:day2.example.org", "custom:day2.example.org"),
            (kind("day2.example.org", "boats", false), "platform", "platform"),
            (kind("autoscaling.k8s.io", "verticalpodautoscalers", true), "platform", "platform"),
            (kind("policy", "poddisruptionbudgets", false), "workloads", "workloads"),
            (kind("", "limitranges", false), "quotas", "quotas"),
            (kind("events.k8s.io", "events", false), "events", "platform"),
            (kind("", "serviceaccounts", false), "access", "access"),
        ];
        for (kind, read, write) in cases {
            let found = [false, true].map(|writes| resource_of_kind(kind, writes).to_string());
            assert_eq!(found, [read, write], "{kind}");
            for verb in [Verb::List, Verb::Get] {
                assert_eq!(required_role(verb, Resource::Kind(kind)), Role::Viewer);
                let Needs::Right(verb, resource) = needs(verb, Resource::Kind(kind)) else {
                    panic!("{kind}")
                };
                assert!(preset(Role::Viewer).verbs(&resource, true).contains(verb), "{verb} {resource}");
            }
        }
    }

    #[test]
    fn resource_name_alone_gives_no_right() {
        // Rancher GHSA-c85r-fwc7-45vc: `namespaces` of any API group were namespaces
        for plural in ["namespaces", "pods", "secrets", "nodes", "configmaps"] {
            let custom = resource_of("example.org", plural, None, false, true);
            assert_eq!(custom.to_string(), "custom:example.org");
            assert_eq!(resource_of("example.org", plural, None, false, false), RightResource::Platform);
            assert_eq!(resource_of("apps", plural, None, false, false), RightResource::Platform);
        }
    }

    #[test]
    fn api_resources_have_the_resource_of_the_contract() {
        let cases = [
            ("policy", "poddisruptionbudgets", "workloads"),
            ("policy", "podsecuritypolicies", "platform"),
            ("networking.k8s.io", "networkpolicies", "network"),
            ("networking.k8s.io", "ingressclasses", "platform"),
            ("gateway.networking.k8s.io", "httproutes", "network"),
            ("snapshot.storage.k8s.io", "volumesnapshots", "storage"),
            ("snapshot.storage.k8s.io", "volumesnapshotcontents", "volumes"),
            ("storage.k8s.io", "csidrivers", "volumes"),
            ("", "limitranges", "quotas"),
            ("", "serviceaccounts", "access"),
            ("rbac.authorization.k8s.io", "clusterrolebindings", "access"),
            ("certificates.k8s.io", "certificatesigningrequests", "access"),
            ("events.k8s.io", "events", "events"),
            ("", "endpoints", "network"),
            ("", "replicationcontrollers", "platform"),
            ("", "bindings", "platform"),
            ("coordination.k8s.io", "leases", "platform"),
            ("apiextensions.k8s.io", "customresourcedefinitions", "platform"),
            ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "platform"),
            ("metrics.k8s.io", "pods", "platform"),
            ("autoscaling.k8s.io", "verticalpodautoscalers", "platform"),
            ("cert-manager.io", "certificates", "custom:cert-manager.io"),
        ];
        for (group, plural, resource) in cases {
            let found = resource_of(group, plural, None, false, true);
            assert_eq!(found.to_string(), resource, "{plural}.{group}");
        }
        for (group, plural) in
            [("", "endpoints"), ("discovery.k8s.io", "endpointslices"), ("events.k8s.io", "events")]
        {
            assert_eq!(
                resource_of(group, plural, None, true, false),
                RightResource::Platform,
                "{plural}.{group}"
            );
        }
    }

    #[test]
    fn unknown_subresources_and_status_are_platform() {
        let cases = [
            ("", "pods", "log", "workloads"),
            ("", "pods", "exec", "workloads"),
            ("", "pods", "eviction", "workloads"),
            ("", "pods", "proxy", "platform"),
            ("", "pods", "binding", "platform"),
            ("", "pods", "status", "platform"),
            ("", "nodes", "proxy", "platform"),
            ("", "services", "proxy", "platform"),
            ("", "namespaces", "finalize", "platform"),
            ("", "serviceaccounts", "token", "access"),
            ("", "configmaps", "token", "platform"),
            ("apps", "deployments", "scale", "workloads"),
            ("apps", "deployments", "status", "platform"),
            ("apps", "deployments", "exec", "platform"),
            ("certificates.k8s.io", "certificatesigningrequests", "approval", "access"),
            ("example.org", "boats", "scale", "custom:example.org"),
            ("example.org", "boats", "status", "platform"),
            ("example.org", "boats", "finalizers", "platform"),
        ];
        for (group, plural, subresource, resource) in cases {
            let found = resource_of(group, plural, Some(subresource), true, true);
            assert_eq!(found.to_string(), resource, "{plural}.{group}/{subresource}");
        }
    }
}
