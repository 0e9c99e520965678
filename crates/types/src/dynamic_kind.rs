//! Kinds that are not in the table of [`Kind`](crate::kind::Kind): custom resources, and kinds of Kubernetes that Pilothouse
//! has no own list of. They are made from the names in a cluster's discovery.
//!
//! Their names are interned for the life of the process, so that a [`DynamicKind`] is as small and as cheap to copy as a
//! kind of the table. The number of different kinds and the memory of their names are limited, because any cluster
//! defines kinds.

use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, PoisonError},
};

use crate::{kind::KindInfo, name};

/// Maximum number of different kinds of one process. A name has at most 253 bytes, so all kinds together need at most 25
/// MiB.
const MAX_KINDS: usize = 32_768;

/// A kind that is not in the table: its group, version, plural, kind and scope, and whether a CustomResourceDefinition
/// defines it. Every part that becomes a segment of a path is a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DynamicKind(&'static Interned);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Interned {
    info: KindInfo,
    custom: bool,
}

/// Names of a kind, as a cluster sends them.
#[derive(Clone, Copy, Debug)]
pub struct KindNames<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The version within the group.
    pub version: &'a str,
    /// The plural in lower case.
    pub plural: &'a str,
    /// The `kind` in manifests.
    pub kind: &'a str,
    /// Whether objects of this kind are namespaced.
    pub namespaced: bool,
    /// Whether a CustomResourceDefinition of the cluster defines the kind. Rights depend on it.
    pub custom: bool,
}

impl KindNames<'_> {
    /// Whether every part is a valid name.
    pub fn is_valid(&self) -> bool {
        let is_camel_case = |text: &str| text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric());
        (self.group.is_empty() || name::is_subdomain(self.group))
            && name::is_label(self.version, 63)
            && name::is_label(self.plural, 63)
            && !self.kind.is_empty()
            && is_camel_case(self.kind)
    }
}

impl DynamicKind {
    /// Checks and interns the names of a kind. `None` if a name is not valid, or if the process has 32,768 other
    /// kinds.
    pub fn new(names: KindNames<'_>) -> Option<Self> {
        let KindNames { group, version, plural, kind, namespaced, custom } = names;
        if !names.is_valid() {
            return None;
        }
        let singular = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        static INTERNED: LazyLock<Mutex<Interner>> = LazyLock::new(Mutex::default);
        let mut interner = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
        if interner.kinds.len() >= MAX_KINDS {
            // only what is interned already
            let texts = &interner.texts;
            let known = |text: &str| texts.get(text).copied();
            let info = KindInfo {
                group: known(group)?,
                version: known(version)?,
                plural: known(plural)?,
                singular: known(&singular)?,
                kind: known(kind)?,
                namespaced,
            };
            return interner.kinds.get(&Interned { info, custom }).copied().map(Self);
        }
        let info = KindInfo {
            group: interner.text(group),
            version: interner.text(version),
            plural: interner.text(plural),
            singular: interner.text(&singular),
            kind: interner.text(kind),
            namespaced,
        };
        Some(Self(interner.kind(Interned { info, custom })))
    }

    /// The names of the kind.
    pub const fn info(self) -> KindInfo {
        self.0.info
    }

    /// Whether a CustomResourceDefinition defines the kind.
    pub const fn is_custom(self) -> bool {
        self.0.custom
    }
}

/// All kinds of the process, and their names.
#[derive(Default)]
struct Interner {
    texts: HashSet<&'static str>,
    kinds: HashSet<&'static Interned>,
}

impl Interner {
    fn text(&mut self, text: &str) -> &'static str {
        if let Some(known) = self.texts.get(text).copied() {
            return known;
        }
        let text: &'static str = Box::leak(Box::<str>::from(text));
        self.texts.insert(text);
        text
    }

    fn kind(&mut self, kind: Interned) -> &'static Interned {
        if let Some(known) = self.kinds.get(&kind).copied() {
            return known;
        }
        let kind: &'static Interned = Box::leak(Box::new(kind));
        self.kinds.insert(kind);
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    const BOATS: KindNames<'static> = KindNames {
        group: "day2.example.org",
        version: "v1",
        plural: "boats",
        kind: "Boat",
        namespaced: true,
        custom: true,
    };

    #[test]
    fn same_names_are_the_same_kind() {
        let boats = DynamicKind::new(BOATS).unwrap();
        assert_eq!(DynamicKind::new(BOATS), Some(boats));
        assert!(std::ptr::eq(boats.0, DynamicKind::new(BOATS).unwrap().0), "interned once");
        for other in [
            KindNames { group: "example.org", ..BOATS },
            KindNames { version: "v2", ..BOATS },
            KindNames { plural: "ships", ..BOATS },
            KindNames { kind: "Ship", ..BOATS },
            KindNames { namespaced: false, ..BOATS },
            KindNames { custom: false, ..BOATS },
        ] {
            assert_ne!(DynamicKind::new(other), Some(boats), "{other:?}");
        }
        let kind = Kind::Dynamic(boats);
        assert_eq!(
            (kind.to_string(), kind.api_version()),
            ("boats.day2.example.org".to_owned(), "day2.example.org/v1".to_owned())
        );
        assert_eq!(kind.resource_name(), "boats.day2.example.org");
        assert!(boats.is_custom() && kind.belongs_to_namespace());
        let core =
            DynamicKind::new(KindNames { group: "", plural: "limitranges", kind: "LimitRange", ..BOATS })
                .unwrap();
        assert_eq!(Kind::Dynamic(core).resource_name(), "limitranges");
    }

    #[test]
    fn names_that_are_no_path_segments_are_refused() {
        let long = "a".repeat(64);
        let refused = [
            KindNames { group: "Example.org", ..BOATS },
            KindNames { group: "a/b", ..BOATS },
            KindNames { group: "..", ..BOATS },
            KindNames { version: "", ..BOATS },
            KindNames { version: "v1/../x", ..BOATS },
            KindNames { version: &long, ..BOATS },
            KindNames { plural: "", ..BOATS },
            KindNames { plural: "boats/status", ..BOATS },
            KindNames { plural: "boats?x=", ..BOATS },
            KindNames { plural: "..", ..BOATS },
            KindNames { plural: &long, ..BOATS },
            KindNames { kind: "", ..BOATS },
            KindNames { kind: "Boat\n", ..BOATS },
            KindNames { kind: &long, ..BOATS },
        ];
        for names in refused {
            assert_eq!(DynamicKind::new(names), None, "{names:?}");
        }
    }
}
