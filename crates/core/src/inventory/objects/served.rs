//! The kinds that a cluster serves, from its discovery, and the names by which callers select them.

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::{
    error::Reason,
    gate::Warning,
    kind::{Kind, KindInfo},
    name::{Namespace, ObjectName},
};

/// Name by which kubectl selects a kind: `pods`, `deployments.apps`, `boats.day2.example.org`. Of the versions of a kind,
/// the one that the cluster prefers is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceName {
    plural: String,
    group: String,
}

impl ResourceName {
    /// Whether the name is that of Secrets, which are never read as objects of any kind.
    pub(crate) fn is_secrets(&self) -> bool {
        self.plural == Kind::Secret.info().plural && self.group == Kind::Secret.info().group
    }
}

impl FromStr for ResourceName {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let (plural, group) = text.split_once('.').unwrap_or((text, ""));
        // a plural is a label, as a namespace is
        Namespace::new(plural)?;
        if text.contains('.') {
            ObjectName::new(group)?;
        }
        Ok(Self { plural: plural.to_owned(), group: group.to_owned() })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.group {
            "" => f.write_str(&self.plural),
            group => write!(f, "{}.{group}", self.plural),
        }
    }
}

/// A kind that a cluster serves, in the version that it prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedKind {
    /// The kind.
    pub kind: Kind,
    /// What the API server can do with it: `list`, `watch`, `patch`, …
    pub verbs: Vec<String>,
    /// Short names: `deploy`.
    pub short_names: Vec<String>,
    /// Groups of kinds that it belongs to: `all`.
    pub categories: Vec<String>,
}

impl ServedKind {
    /// Whether the API server offers a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|own| own == verb)
    }
}

/// The kinds that a cluster serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedKinds {
    /// The kinds, by group and plural.
    pub kinds: Vec<ServedKind>,
    /// Warnings about what may be missing: an API group that does not answer, definitions that the credential may not
    /// list.
    pub warnings: Vec<Warning>,
}

impl ServedKinds {
    /// The kind of this name.
    pub fn find(&self, name: &ResourceName) -> Option<&ServedKind> {
        self.kinds.iter().find(|served| {
            let KindInfo { group, plural, .. } = served.kind.info();
            (plural, group) == (&*name.plural, &*name.group)
        })
    }
}

/// A kind that a cluster serves, as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KindRow {
    /// The name by which the parameter `resource` selects it: `deployments.apps`.
    pub resource: String,
    /// Its API group; empty for the core group.
    pub group: String,
    /// The version of the group that the cluster prefers for it.
    pub version: String,
    /// The `kind` in manifests.
    pub kind: String,
    /// Whether its objects are namespaced.
    pub namespaced: bool,
    /// What the API server can do with it: `list`, `watch`, `patch`, …
    pub verbs: Vec<String>,
    /// Short names: `deploy`.
    pub short_names: Vec<String>,
    /// Groups of kinds that it belongs to: `all`.
    pub categories: Vec<String>,
    /// Whether a CustomResourceDefinition of the cluster defines it.
    pub custom: bool,
}

impl From<&ServedKind> for KindRow {
    fn from(served: &ServedKind) -> Self {
        let KindInfo { group, version, kind, namespaced, .. } = served.kind.info();
        Self {
            resource: served.kind.resource_name(),
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            namespaced,
            verbs: served.verbs.clone(),
            short_names: served.short_names.clone(),
            categories: served.categories.clone(),
            custom: matches!(served.kind, Kind::Dynamic(dynamic) if dynamic.is_custom()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::KINDS;

    #[test]
    fn resource_names_are_plural_and_group() {
        for text in ["pods", "deployments.apps", "boats.day2.example.org"] {
            assert_eq!(text.parse::<ResourceName>().unwrap().to_string(), text);
        }
        for kind in KINDS {
            let name: ResourceName = kind.resource_name().parse().unwrap();
            assert_eq!(name.is_secrets(), *kind == Kind::Secret);
        }
        assert!(!"secrets.example.org".parse::<ResourceName>().unwrap().is_secrets());
        let cases = [
            ("", Reason::Required),
            ("Pods", Reason::InvalidName),
            ("pods/log", Reason::InvalidName),
            ("pods.", Reason::Required),
            (".apps", Reason::Required),
            ("deployments.apps/v1", Reason::InvalidName),
            ("deployments..apps", Reason::InvalidName),
            ("secrets ", Reason::InvalidName),
            ("secrets.", Reason::Required),
        ];
        for (text, reason) in cases {
            assert_eq!(text.parse::<ResourceName>(), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn kind_is_found_by_plural_and_group() {
        let served = |kind| ServedKind {
            kind,
            verbs: vec!["list".to_owned()],
            short_names: Vec::new(),
            categories: Vec::new(),
        };
        let kinds =
            ServedKinds { kinds: vec![served(Kind::Pod), served(Kind::Deployment)], warnings: Vec::new() };
        let find = |text: &str| kinds.find(&text.parse().unwrap()).map(|served| served.kind);
        assert_eq!((find("pods"), find("deployments.apps")), (Some(Kind::Pod), Some(Kind::Deployment)));
        assert_eq!((find("deployments"), find("pods.apps"), find("jobs.batch")), (None, None, None));
        assert!(served(Kind::Pod).has_verb("list") && !served(Kind::Pod).has_verb("watch"));
        let row = KindRow::from(&served(Kind::Deployment));
        assert_eq!(
            (&*row.resource, &*row.version, row.namespaced, row.custom),
            ("deployments.apps", "v1", true, false)
        );
    }
}
