//! Reach of a grant within a cluster.

use std::fmt;

use pilothouse_types::{
    error::Reason,
    namespaces::{NamespacePattern, NamespaceSet},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
};

use super::RightVerb;

/// Reach of a grant within its clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The whole cluster: all namespaces and what has no namespace. `null` in JSON.
    Cluster,
    /// The namespaces of a set. A list of patterns in JSON, never empty.
    Namespaces(NamespaceSet),
}

impl Reach {
    /// Maximum number of patterns.
    pub const MAX_PATTERNS: usize = 100;

    /// The namespaces that a right with this verb reaches. A terminal or a forwarded port in a namespace `kube-*` takes
    /// a grant that names the namespace, so the reach `cluster` contains no such namespace for these verbs.
    pub fn namespaces(&self, verb: RightVerb) -> NamespaceSet {
        match (self, verb) {
            (Self::Namespaces(set), _) => set.clone(),
            (Self::Cluster, RightVerb::Exec | RightVerb::Forward) => {
                NamespaceSet::new([NamespacePattern::Any])
            }
            (Self::Cluster, _) => NamespaceSet::all(),
        }
    }
}

impl TryFrom<Vec<NamespacePattern>> for Reach {
    type Error = Reason;

    /// The union of the patterns.
    ///
    /// # Errors
    /// [`Reason::Required`] without patterns. The number of patterns is not checked: see [`Reach::MAX_PATTERNS`].
    fn try_from(patterns: Vec<NamespacePattern>) -> Result<Self, Reason> {
        if patterns.is_empty() {
            Err(Reason::Required)
        } else {
            Ok(Self::Namespaces(NamespaceSet::new(patterns)))
        }
    }
}

impl Serialize for Reach {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Cluster => serializer.serialize_unit(),
            Self::Namespaces(set) => serializer.collect_seq(set.patterns()),
        }
    }
}

/// Reads `null` or a list of patterns. Written by hand, because a derived implementation over `Option` would read an
/// absent field as `null`, the widest reach.
impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NullOrPatterns;

        impl<'de> Visitor<'de> for NullOrPatterns {
            type Value = Reach;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null or a list of namespace patterns")
            }

            fn visit_unit<E>(self) -> Result<Reach, E> {
                Ok(Reach::Cluster)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Reach, A::Error> {
                let mut patterns = Vec::<NamespacePattern>::new();
                while let Some(pattern) = seq.next_element()? {
                    patterns.push(pattern);
                }
                Reach::try_from(patterns).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(NullOrPatterns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        namespaces: Reach,
    }

    fn parse(json: &str) -> Result<Reach, String> {
        serde_json::from_str::<Body>(json).map(|body| body.namespaces).map_err(|error| error.to_string())
    }

    #[test]
    fn null_is_the_cluster_and_a_list_is_namespaces() {
        assert_eq!(parse(r#"{"namespaces": null}"#), Ok(Reach::Cluster));
        for json in [r#"["shop"]"#, r#"["shop","team-a-*","*"]"#, r#"["kube-*","*"]"#] {
            let reach = parse(&format!(r#"{{"namespaces": {json}}}"#)).unwrap();
            assert!(
                matches!(reach, Reach::Namespaces(_)),
                "all namespaces are not the whole cluster: {json}"
            );
            let printed: Reach = serde_json::from_str(&serde_json::to_string(&reach).unwrap()).unwrap();
            assert_eq!(printed, reach);
        }
        assert_eq!(serde_json::to_string(&Reach::Cluster).unwrap(), "null");
        assert_eq!(
            serde_json::to_string(&parse(r#"{"namespaces": ["b","a-*"]}"#).unwrap()).unwrap(),
            r#"["b","a-*"]"#
        );
    }

    #[test]
    fn absent_or_empty_namespaces_are_refused() {
        assert!(
            parse("{}").unwrap_err().contains("missing field"),
            "an absent field is not the whole cluster"
        );
        assert!(parse(r#"{"namespaces": []}"#).unwrap_err().contains("required"));
        for refused in [r#"["team*"]"#, r#"["*","!a"]"#, r#""*""#, "true", "{}", "[null]", r#"["Shop"]"#] {
            assert!(parse(&format!(r#"{{"namespaces": {refused}}}"#)).is_err(), "{refused}");
        }
    }

    #[test]
    fn reach_cluster_has_no_terminals_in_kube_namespaces() {
        for &verb in RightVerb::ALL {
            let terminal = matches!(verb, RightVerb::Exec | RightVerb::Forward);
            let everywhere = Reach::Cluster.namespaces(verb);
            assert!(everywhere.contains("shop"));
            assert_eq!(everywhere.contains("kube-system"), !terminal, "{verb}");
            let named = Reach::try_from(vec![NamespacePattern::parse("kube-*").unwrap()]).unwrap();
            assert!(named.namespaces(verb).contains("kube-system"), "{verb}");
        }
    }
}
