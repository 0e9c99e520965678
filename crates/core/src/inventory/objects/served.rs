//! The kinds that a cluster serves, from its discovery, and the names by which callers select them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    dynamic_kind::{DynamicKind, KindNames},
    error::Reason,
    gate::Warning,
    kind::{Kind, KindInfo},
    name::{Namespace, ObjectName},
};

/// Name by which kubectl selects a kind: `pods`, `deployments.apps`, `boats.day2.example.org`. Of the versions of a kind,
/// the one that the cluster prefers is meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
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

impl TryFrom<String> for ResourceName {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        text.parse()
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedKind {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version within the group.
    pub version: String,
    /// The plural in lower case.
    pub plural: String,
    /// The `kind` in manifests.
    pub kind: String,
    /// Whether its objects are namespaced.
    pub namespaced: bool,
    /// Whether a CustomResourceDefinition of the cluster defines it.
    pub custom: bool,
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

    /// Its names.
    pub fn names(&self) -> KindNames<'_> {
        let Self { group, version, plural, kind, namespaced, custom, .. } = self;
        KindNames { group, version, plural, kind, namespaced: *namespaced, custom: *custom }
    }

    /// The kind: that of the table with these names, or a dynamic one. `None` if a name is not valid, the kind has another
    /// scope than that of the table, or the process has too many kinds. Dynamic kinds are kept for the life of the
    /// process, so this is called for kinds that a caller requests and for a limited number of others, not for all that a
    /// cluster serves.
    pub fn to_kind(&self) -> Option<Kind> {
        match Kind::in_table(&self.group, &self.version, &self.plural) {
            Some(kind) => Some(kind).filter(|kind| kind.info().namespaced == self.namespaced),
            None => DynamicKind::new(self.names()).map(Kind::Dynamic),
        }
    }

    /// Whether this is a kind, with the same scope and definition.
    pub fn is(&self, kind: Kind) -> bool {
        let KindInfo { group, version, plural, namespaced, .. } = kind.info();
        let custom = matches!(kind, Kind::Dynamic(dynamic) if dynamic.is_custom());
        (group, version, plural) == (&*self.group, &*self.version, &*self.plural)
            && namespaced == self.namespaced
            // a kind of the table is never custom
            && (custom == self.custom || !matches!(kind, Kind::Dynamic(_)))
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
        self.kinds.iter().find(|served| (&served.plural, &served.group) == (&name.plural, &name.group))
    }

    /// Whether the cluster serves this kind.
    pub fn contains(&self, kind: Kind) -> bool {
        self.kinds.iter().any(|served| served.is(kind))
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
        let served = served.clone();
        let resource = ResourceName { plural: served.plural, group: served.group.clone() }.to_string();
        Self {
            resource,
            group: served.group,
            version: served.version,
            kind: served.kind,
            namespaced: served.namespaced,
            verbs: served.verbs,
            short_names: served.short_names,
            categories: served.categories,
            custom: served.custom,
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

    fn served(plural: &str, group: &str, namespaced: bool) -> ServedKind {
        ServedKind {
            group: group.to_owned(),
            version: "v1".to_owned(),
            plural: plural.to_owned(),
            kind: "Any".to_owned(),
            namespaced,
            verbs: vec!["list".to_owned()],
            ..ServedKind::default()
        }
    }

    #[test]
    fn kind_is_found_by_plural_and_group() {
        let kinds = ServedKinds {
            kinds: vec![served("pods", "", true), served("deployments", "apps", true)],
            warnings: Vec::new(),
        };
        let find = |text: &str| kinds.find(&text.parse().unwrap()).and_then(ServedKind::to_kind);
        assert_eq!((find("pods"), find("deployments.apps")), (Some(Kind::Pod), Some(Kind::Deployment)));
        assert_eq!((find("deployments"), find("pods.apps"), find("jobs.batch")), (None, None, None));
        assert!(kinds.contains(Kind::Pod) && !kinds.contains(Kind::Job));
        let pods = served("pods", "", true);
        assert!(pods.has_verb("list") && !pods.has_verb("watch"));
        let row = KindRow::from(&served("deployments", "apps", true));
        assert_eq!(
            (&*row.resource, &*row.version, row.namespaced, row.custom),
            ("deployments.apps", "v1", true, false)
        );
    }

    #[test]
    fn kind_that_is_not_in_the_table_is_dynamic() {
        let boats = served("boats", "day2.example.org", true);
        let kind = boats.to_kind().unwrap();
        assert!(matches!(kind, Kind::Dynamic(_)) && boats.is(kind));
        for other in [
            ServedKind { custom: true, ..boats.clone() },
            ServedKind { namespaced: false, ..boats.clone() },
            ServedKind { version: "v2".to_owned(), ..boats.clone() },
        ] {
            assert!(!other.is(kind) && other.to_kind() != Some(kind), "{other:?}");
        }
        // another version of a kind of the table, and another scope
        let version = ServedKind { version: "v9".to_owned(), ..served("pods", "", true) };
        assert!(matches!(version.to_kind(), Some(Kind::Dynamic(_))));
        assert_eq!(served("pods", "", false).to_kind(), None);
        assert_eq!(served("boats/status", "day2.example.org", true).to_kind(), None);
    }
}
