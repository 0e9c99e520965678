//! RBAC manifests of the credentials in `docs/rbac`, generated from the features in `permissions.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::permissions::Credential;

/// Verbs in the order in which a rule names them.
const VERBS: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];

const VIEW: &str = "\
# Credential for viewing a cluster: lists, details, diagnosis, usage and logs except those of Secrets, and no change.
#
# Secrets are excluded, because Kubernetes has no right to list their names without their values, and so are kinds that
# Pilothouse has no list of, such as custom resources (full.yaml). The cluster refuses every request beyond these rules.
# Without `watch` the same works, but each list is read from the cluster every time.";

const OPERATE: &str = "\
# Credential for viewing and changing a cluster: all features of Pilothouse but those for objects of any kind (full.yaml).
#
# This credential can read every Secret of the cluster: store its token in Pilothouse only. The roles of Pilothouse
# decide who may see the values of Secrets (ops_admin and above); each access is recorded.";

const FULL: &str = "\
# Credential for all features of Pilothouse: besides what operate.yaml allows, objects of any kind can be read, custom
# resources included.
#
# This credential can read everything in the cluster, every Secret included: store its token in Pilothouse only. The
# roles of Pilothouse decide who may see what; each access to the values of a Secret is recorded. The right on every
# kind includes subresources, such as nodes/proxy and, before Kubernetes 1.35, commands in pods (pods/exec), so the
# token gives control of the cluster. To limit the kinds, replace the last rule.";

/// The manifest of a credential: namespace, service account, cluster role, binding, and the Secret with its token. The
/// role grants exactly the permissions that the features of the credential need.
pub fn rbac_manifest(credential: Credential) -> String {
    let purpose = match credential {
        Credential::View => VIEW,
        Credential::Operate => OPERATE,
        Credential::Full => FULL,
    };
    include_str!("rbac.yaml")
        .replace("{purpose}", purpose)
        .replace("{credential}", credential.as_str())
        .replace("{rules}", &rules(credential))
}

/// The rules of the cluster role. Resources of one API group with the same verbs share a rule.
fn rules(credential: Credential) -> String {
    let mut verbs_of = BTreeMap::<_, BTreeSet<_>>::new();
    for (verb, target, subresource) in credential.needs() {
        verbs_of.entry((target, subresource)).or_default().insert(verb);
    }
    let mut rules = Vec::<((&str, BTreeSet<&str>), Vec<String>)>::new();
    for ((target, subresource), verbs) in verbs_of {
        let resource = match (subresource, target.plural()) {
            (Some(name), plural) => format!("{plural}/{name}"),
            (None, "*") => "\"*\"".to_owned(),
            (None, plural) => plural.to_owned(),
        };
        let rule = (target.group(), verbs);
        match rules.iter_mut().find(|(same, _)| *same == rule) {
            Some((_, resources)) => resources.push(resource),
            None => rules.push((rule, vec![resource])),
        }
    }
    let text = |((group, verbs), resources): ((&str, BTreeSet<&str>), Vec<String>)| {
        let group = match group {
            "" => "\"\"",
            "*" => "\"*\"",
            group => group,
        };
        let verbs: Vec<_> = VERBS.into_iter().filter(|verb| verbs.contains(verb)).collect();
        let (resources, verbs) = (resources.join(", "), verbs.join(", "));
        format!("  - apiGroups: [{group}]\n    resources: [{resources}]\n    verbs: [{verbs}]")
    };
    rules.into_iter().map(text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use pilothouse_core::kind::Kind;

    use super::*;
    use crate::permissions::{Target, rbac_name};

    #[test]
    fn committed_rbac_manifests_are_current() {
        for (credential, committed) in [
            (Credential::View, include_str!("../../../docs/rbac/view.yaml")),
            (Credential::Operate, include_str!("../../../docs/rbac/operate.yaml")),
            (Credential::Full, include_str!("../../../docs/rbac/full.yaml")),
        ] {
            let command = "cargo run -p pilothouse-kube --example rbac";
            let name = credential.as_str();
            assert!(
                committed == rbac_manifest(credential),
                "docs/rbac/{name}.yaml is out of date: {command}"
            );
        }
    }

    /// The permissions that the ClusterRole of a manifest grants, in the notation of [`rbac_name`].
    fn granted(manifest: &str) -> BTreeSet<String> {
        #[derive(serde::Deserialize)]
        struct Role {
            rules: Vec<Rule>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Rule {
            api_groups: Vec<String>,
            resources: Vec<String>,
            verbs: Vec<String>,
        }
        let role = manifest.split("\n---\n").find(|part| part.contains("\nkind: ClusterRole\n")).unwrap();
        let role: Role = serde_saphyr::from_str(role).unwrap();
        let mut granted = BTreeSet::new();
        for Rule { api_groups, resources, verbs } in role.rules {
            assert_eq!(api_groups.len(), 1, "one API group per rule");
            for (resource, verb) in resources.iter().flat_map(|r| verbs.iter().map(move |v| (r, v))) {
                let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let group =
                    if api_groups[0].is_empty() { String::new() } else { format!(".{}", api_groups[0]) };
                let subresource =
                    if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
                assert!(
                    granted.insert(format!("{verb} {kind}{group}{subresource}")),
                    "{verb} {resource} twice"
                );
            }
        }
        granted
    }

    #[test]
    fn rbac_manifests_grant_exactly_the_needs() {
        for credential in Credential::ALL {
            let needed: BTreeSet<_> = credential.needs().map(|need| rbac_name(&need)).collect();
            assert_eq!(granted(&rbac_manifest(credential)), needed, "{credential:?}");
        }
    }

    #[test]
    fn view_credential_only_reads_and_excludes_secrets() {
        for (verb, target, _) in Credential::View.needs() {
            let is_secret = [Target::Kind(Kind::Secret), Target::Any].contains(&target);
            assert!(["get", "list", "watch"].contains(&verb) && !is_secret, "{verb} {target:?}");
        }
    }

    #[test]
    fn only_the_full_credential_reads_every_kind() {
        let reads_any =
            |credential: Credential| credential.needs().any(|(_, target, _)| target == Target::Any);
        assert_eq!(Credential::ALL.map(reads_any), [false, false, true]);
        let changes = |credential: Credential| -> BTreeSet<_> {
            credential.needs().filter(|(verb, ..)| !["get", "list", "watch"].contains(verb)).collect()
        };
        assert_eq!(changes(Credential::Full), changes(Credential::Operate));
    }
}
