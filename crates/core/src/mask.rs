//! Masked values: literal values of environment variables, and the fields that the setting `masked_fields` names. They
//! are masked in details for a caller who may neither update the object nor run commands in its namespace
//! (contract-next.md, section 8).

use std::{fmt, str::FromStr, sync::Arc};

use serde::Deserialize;

use crate::{
    access::Caller,
    ids::ClusterId,
    kind::Kind,
    name::Namespace,
    namespaces::NamespaceScope,
    rights::{RightResource, RightVerb, resource_of_kind},
};

/// Replacement for a masked value.
pub(crate) const MASK: &str = "***";

/// Paths of fields that are masked in objects of every kind, as an operator writes them, not empty:
/// `/data/password, /spec/template/spec/containers/*/args`. A path is a JSON pointer (RFC 6901) in which the segment
/// `*` matches every key of a map and every item of a list. A path names the field with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MaskedFields(Arc<[Vec<Segment>]>);

/// Segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A key of a map, or the index of an item of a list.
    Name(String),
    /// Every key and every item.
    Any,
}

impl Segment {
    fn parse(text: &str) -> Result<Self, NotFieldPaths> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let name = text.replace("~1", "/").replace("~0", "~");
        // each `~` begins an escape
        let is_escaped = text.matches('~').count() == text.matches("~0").count() + text.matches("~1").count();
        if name.is_empty() || !is_escaped { Err(NotFieldPaths) } else { Ok(Self::Name(name)) }
    }

    /// Whether the segment names this key or index.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Any => true,
        }
    }
}

impl MaskedFields {
    /// The segments of each path.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &[Segment]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Whether the field at this path is masked, or one that it is in.
    pub(crate) fn contains(&self, path: &[&str]) -> bool {
        let contains = |masked: &[Segment]| {
            masked.len() <= path.len() && masked.iter().zip(path).all(|(segment, name)| segment.matches(name))
        };
        self.paths().any(contains)
    }
}

impl FromStr for MaskedFields {
    type Err = NotFieldPaths;

    fn from_str(text: &str) -> Result<Self, NotFieldPaths> {
        let path = |path: &str| {
            let segments = path.trim().strip_prefix('/').ok_or(NotFieldPaths)?;
            segments.split('/').map(Segment::parse).collect::<Result<Vec<_>, NotFieldPaths>>()
        };
        text.split(',').map(path).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for MaskedFields {
    type Error = NotFieldPaths;

    fn try_from(text: String) -> Result<Self, NotFieldPaths> {
        text.parse()
    }
}

/// Error of parsing a list of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFieldPaths;

impl fmt::Display for NotFieldPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a list of paths: write paths such as /data/password, /spec/template/spec/containers/*/args",
        )
    }
}

impl std::error::Error for NotFieldPaths {}

/// Whether a caller sees the values of an object that are masked for others. Whoever may update the object, or run
/// commands in its namespace, can read them there.
pub(crate) fn sees_masked_values(
    caller: &Caller,
    kind: Kind,
    cluster: ClusterId,
    namespace: &Namespace,
) -> bool {
    let has_right = |verb, resource| caller.has_right(verb, resource, cluster, namespace);
    has_right(RightVerb::Update, resource_of_kind(kind, true))
        || has_right(RightVerb::Exec, RightResource::Workloads)
}

/// As [`sees_masked_values`], for an object that may have no namespace.
pub(crate) fn sees_masked_values_of(
    caller: &Caller,
    kind: Kind,
    cluster: ClusterId,
    namespace: Option<&Namespace>,
) -> bool {
    match namespace {
        Some(namespace) => sees_masked_values(caller, kind, cluster, namespace),
        None => {
            let resource = resource_of_kind(kind, true);
            caller.grant_of(RightVerb::Update, resource, Some(cluster), &NamespaceScope::Unscoped).is_some()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_json_pointers() {
        let fields: MaskedFields = "/data/a~1b~0c, /spec/*/key ,/spec/~01".parse().unwrap();
        for (path, is_masked) in [
            (&["data", "a/b~c"][..], true),
            (&["data", "a/b~c", "deeper"], true),
            (&["data"], false),
            (&["data", "a"], false),
            (&["spec", "0", "key"], true),
            (&["spec", "x", "key"], true),
            (&["spec", "x", "name"], false),
            (&["spec", "~1"], true),
            (&["spec", "/"], false),
        ] {
            assert_eq!(fields.contains(path), is_masked, "{path:?}");
        }
        assert!(!MaskedFields::default().contains(&["data"]));
        for text in ["", "/", "data", "/data/", "//data", "/data,", "/data, password", "/a~b", "/a~2", "/a~"]
        {
            assert_eq!(text.parse::<MaskedFields>(), Err(NotFieldPaths), "{text}");
        }
    }
}
