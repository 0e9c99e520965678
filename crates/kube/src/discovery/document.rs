//! Discovery documents: what the API server sends about the kinds that it serves.

use std::collections::HashSet;

use pilothouse_core::{
    Cause, Error, Result,
    gate::Warning,
    inventory::objects::{ServedKind, ServedKinds},
};

use super::wire::{
    Any, DiscoveredGroup, DiscoveredResource, DiscoveredVersion, NameRow, NameTable, NamedGroup,
    NamedResource, NamedVersion, ResourceList,
};

/// Maximum number of kinds that are kept of one cluster.
const MAX_KINDS: usize = 8_192;
/// The plural of CustomResourceDefinitions.
const DEFINITIONS: &str = "customresourcedefinitions";

/// An API group with its versions, the preferred one first.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Group {
    /// Its name; empty for the core group.
    pub(super) name: String,
    pub(super) versions: Vec<Version>,
}

/// A version of a group.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) resources: Vec<ApiResource>,
    /// Whether the server of the group does not answer, so that the kinds may be missing or out of date.
    pub(super) stale: bool,
}

/// A kind in a version.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ApiResource {
    plural: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
}

/// A discovery document.
#[derive(Debug, PartialEq)]
pub(super) enum Document {
    /// All groups with their kinds.
    Groups(Vec<Group>),
    /// The names of groups and versions, from a server that has no such document. The kinds of each version have to be
    /// read by a request of its own.
    Names(Vec<Group>),
}

impl Document {
    /// Parses the document of the core group or of all other groups.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when it is none.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let Any { kind, items, groups, versions } = serde_json::from_slice(json).map_err(unexpected)?;
        match &*kind {
            "APIGroupDiscoveryList" => Ok(Self::Groups(items.into_iter().map(Group::from).collect())),
            "APIGroupList" => Ok(Self::Names(groups.into_iter().map(Group::from).collect())),
            "APIVersions" => {
                let version = |name| Version { name, ..Version::default() };
                let versions = versions.into_iter().map(version).collect();
                Ok(Self::Names(vec![Group { name: String::new(), versions }]))
            }
            _ => Err(Error::new(Cause::UnexpectedAnswer)),
        }
    }
}

/// Parses the kinds of one version, without subresources.
///
/// # Errors
/// `UnexpectedAnswer` when the document is none.
pub(super) fn parse_version(json: &[u8]) -> Result<Vec<ApiResource>> {
    let ResourceList { kind, resources } = serde_json::from_slice(json).map_err(unexpected)?;
    if kind != "APIResourceList" {
        return Err(Error::new(Cause::UnexpectedAnswer));
    }
    Ok(resources.into_iter().filter(|resource| !resource.name.contains('/')).map(ApiResource::from).collect())
}

/// Parses the names of all CustomResourceDefinitions, `plural.group`, from the table of them.
///
/// # Errors
/// `UnexpectedAnswer` when the document is no table.
pub(super) fn parse_definitions(json: &[u8]) -> Result<HashSet<String>> {
    let NameTable { kind, column_definitions, rows } = serde_json::from_slice(json).map_err(unexpected)?;
    let name = column_definitions.iter().position(|column| column.format == "name");
    let name = name.filter(|_| kind == "Table").ok_or_else(|| Error::new(Cause::UnexpectedAnswer))?;
    let cell = |row: &NameRow| row.cells.get(name)?.as_str().map(str::to_owned);
    Ok(rows.iter().filter_map(cell).collect())
}

/// The kinds of these groups, each in the version that the cluster prefers: the first one that has it. `definitions`, if
/// the credential may list them, are the names of the CustomResourceDefinitions.
pub(super) fn served(groups: Vec<Group>, definitions: Option<&HashSet<String>>) -> ServedKinds {
    let (mut kinds, mut warnings) = (Vec::new(), Vec::new());
    for Group { name: group, versions } in groups {
        if versions.iter().any(|version| version.stale) {
            warnings.push(Warning::GroupUnavailable(group.clone()));
        }
        let mut seen = HashSet::new();
        for Version { name: version, resources, .. } in versions {
            for resource in resources {
                let ApiResource { plural, kind, namespaced, verbs, short_names, categories } = resource;
                if !seen.insert(plural.clone()) {
                    continue;
                }
                let custom = definitions.is_some_and(|names| names.contains(&format!("{plural}.{group}")));
                let served = ServedKind {
                    group: group.clone(),
                    version: version.clone(),
                    plural,
                    kind,
                    namespaced,
                    custom,
                    verbs,
                    short_names,
                    categories,
                };
                if served.names().is_valid() && kinds.len() < MAX_KINDS {
                    kinds.push(served);
                }
            }
        }
    }
    if definitions.is_none() {
        warnings.push(Warning::Unreadable(DEFINITIONS));
    }
    kinds.sort_by(|a: &ServedKind, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
    ServedKinds { kinds, warnings }
}

fn unexpected(_: serde_json::Error) -> Error {
    Error::new(Cause::UnexpectedAnswer)
}

impl From<DiscoveredGroup> for Group {
    fn from(group: DiscoveredGroup) -> Self {
        let version = |version: DiscoveredVersion| Version {
            name: version.version,
            resources: version.resources.into_iter().map(ApiResource::from).collect(),
            stale: version.freshness == "Stale",
        };
        Self { name: group.metadata.name, versions: group.versions.into_iter().map(version).collect() }
    }
}

impl From<NamedGroup> for Group {
    /// The preferred version comes first.
    fn from(group: NamedGroup) -> Self {
        let NamedGroup { name, versions, preferred_version } = group;
        let (preferred, others): (Vec<_>, Vec<_>) =
            versions.into_iter().partition(|version| version.version == preferred_version.version);
        let version = |version: NamedVersion| Version { name: version.version, ..Version::default() };
        Self { name, versions: preferred.into_iter().chain(others).map(version).collect() }
    }
}

impl From<DiscoveredResource> for ApiResource {
    fn from(resource: DiscoveredResource) -> Self {
        let DiscoveredResource { resource: plural, response_kind, scope, verbs, short_names, categories } =
            resource;
        Self {
            plural,
            kind: response_kind.kind,
            namespaced: scope == "Namespaced",
            verbs,
            short_names,
            categories,
        }
    }
}

impl From<NamedResource> for ApiResource {
    fn from(resource: NamedResource) -> Self {
        let NamedResource { name: plural, kind, namespaced, verbs, short_names, categories } = resource;
        Self { plural, kind, namespaced, verbs, short_names, categories }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(document: &Value) -> Document {
        Document::parse(document.to_string().as_bytes()).unwrap()
    }

    fn resource(plural: &str, kind: &str, scope: &str) -> Value {
        json!({"resource": plural, "responseKind": {"group": "", "version": "", "kind": kind}, "scope": scope,
            "singularResource": kind.to_lowercase(), "verbs": ["get", "list", "watch"], "shortNames": ["x"],
            "subresources": [{"subresource": "status", "verbs": ["get"]}]})
    }

    /// The kinds as `plural.group/version`, with `*` for custom ones.
    fn names(kinds: &ServedKinds) -> Vec<String> {
        let name = |served: &ServedKind| {
            let ServedKind { plural, group, version, custom, .. } = served;
            format!("{plural}.{group}/{version}{}", if *custom { "*" } else { "" })
        };
        kinds.kinds.iter().map(name).collect()
    }

    #[test]
    fn each_kind_is_served_in_the_first_version_that_has_it() {
        let document = parse(&json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [
                {"metadata": {"name": "day2.example.org", "creationTimestamp": null}, "versions": [
                    {"version": "v1", "freshness": "Current", "resources": [resource("boats", "Boat", "Namespaced")]},
                    {"version": "v1beta1", "resources": [resource("boats", "Boat", "Namespaced"), resource("docks", "Dock", "Cluster")]},
                ]},
                {"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale", "resources": null}]},
                {"metadata": {"name": "hostile.example.org"}, "versions": [{"version": "../../v1", "resources": [resource("a", "A", "Cluster")]},
                    {"version": "v1", "resources": [resource("b/c", "B", "Cluster"), resource("d", "D\n", "Cluster")]}]},
            ],
        }));
        let Document::Groups(groups) = document else { panic!("no groups") };
        let definitions = HashSet::from(["boats.day2.example.org".to_owned()]);
        let kinds = served(groups, Some(&definitions));
        assert_eq!(names(&kinds), ["boats.day2.example.org/v1*", "docks.day2.example.org/v1beta1"]);
        assert_eq!(kinds.warnings, [Warning::GroupUnavailable("metrics.k8s.io".to_owned())]);
        let boats = &kinds.kinds[0];
        assert!(boats.namespaced && boats.has_verb("watch") && !kinds.kinds[1].namespaced);
        assert_eq!((&*boats.kind, &boats.short_names[..]), ("Boat", &["x".to_owned()][..]));
    }

    #[test]
    fn older_servers_name_groups_and_versions() {
        let groups = parse(&json!({"kind": "APIGroupList", "groups": [{
            "name": "apps", "versions": [{"groupVersion": "apps/v1beta1", "version": "v1beta1"}, {"groupVersion": "apps/v1", "version": "v1"}],
            "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
        }]}));
        let Document::Names(groups) = groups else { panic!("no names") };
        let versions: Vec<_> = groups[0].versions.iter().map(|version| &*version.name).collect();
        assert_eq!((&*groups[0].name, versions), ("apps", vec!["v1", "v1beta1"]));
        let core =
            parse(&json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}));
        let Document::Names(core) = core else { panic!("no names") };
        assert_eq!((&*core[0].name, &*core[0].versions[0].name), ("", "v1"));

        let list = json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"], "shortNames": ["po"], "categories": ["all"]},
            {"name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"]},
        ]});
        let resources = parse_version(list.to_string().as_bytes()).unwrap();
        assert_eq!((resources.len(), &*resources[0].plural, resources[0].namespaced), (1, "pods", true));
        let version = Version { name: "v1".to_owned(), resources, stale: false };
        let kinds = served(vec![Group { name: String::new(), versions: vec![version] }], None);
        assert_eq!(names(&kinds), ["pods./v1"]);
        assert_eq!(kinds.warnings, [Warning::Unreadable("customresourcedefinitions")]);
    }

    #[test]
    fn names_of_definitions_are_the_cells_of_the_name_column() {
        let table = json!({"kind": "Table", "columnDefinitions": [{"name": "Created At", "format": ""}, {"name": "Name", "format": "name"}],
            "rows": [{"cells": ["2026-01-01T00:00:00Z", "boats.day2.example.org"], "object": null}, {"cells": ["x"]}, {"cells": null}]});
        let names = parse_definitions(table.to_string().as_bytes()).unwrap();
        assert_eq!(names, HashSet::from(["boats.day2.example.org".to_owned()]));
        for other in [
            "{}",
            "[]",
            r#"{"kind":"CustomResourceDefinitionList","items":[]}"#,
            r#"{"kind":"Table","rows":[]}"#,
        ] {
            assert!(parse_definitions(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn number_of_kinds_is_limited() {
        let resource = |n: usize| ApiResource {
            plural: format!("k{n}"),
            kind: "K".to_owned(),
            ..ApiResource::default()
        };
        let version =
            Version { name: "v1".to_owned(), resources: (0..9_000).map(resource).collect(), stale: false };
        let group = Group { name: "example.org".to_owned(), versions: vec![version] };
        assert_eq!(served(vec![group], None).kinds.len(), MAX_KINDS);
    }

    #[test]
    fn fuzz_discovery() {
        let dictionary = [
            "\"kind\":\"APIGroupDiscoveryList\"",
            "\"items\":[{\"metadata\":{\"name\":\"a\"},\"versions\":[",
            "{\"version\":\"v1\",\"resources\":[",
            "{\"resource\":\"boats\",\"responseKind\":{\"kind\":\"Boat\"},\"scope\":\"Namespaced\",\"verbs\":[\"list\"]}",
            "\"kind\":\"APIGroupList\",\"groups\":[",
            "\"kind\":\"APIResourceList\",\"resources\":[{\"name\":\"pods/log\"}",
            "\"kind\":\"Table\",\"columnDefinitions\":[{\"format\":\"name\"}],\"rows\":[{\"cells\":[\"a.b\"]}]",
            "\"freshness\":\"Stale\"",
            "null",
        ];
        pilothouse_fuzz::fuzz("discovery", &dictionary, |input| {
            if let Ok(Document::Groups(groups) | Document::Names(groups)) = Document::parse(input) {
                let kinds = served(groups, None).kinds;
                assert!(kinds.iter().all(|served| served.names().is_valid()));
            }
            let _ = parse_version(input);
            let _ = parse_definitions(input);
        });
    }
}
