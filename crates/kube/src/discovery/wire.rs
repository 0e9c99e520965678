//! JSON of the discovery documents, of which only what is used is read.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

/// Deserialises null as the default, as Go writes an empty list.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Any of the documents.
#[derive(Deserialize)]
pub(super) struct Any<'a> {
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) items: Vec<DiscoveredGroup>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) groups: Vec<NamedGroup>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) versions: Vec<String>,
}

/// `APIGroupDiscovery` of `apidiscovery.k8s.io`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DiscoveredGroup {
    pub(super) metadata: GroupMetadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) versions: Vec<DiscoveredVersion>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupMetadata {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DiscoveredVersion {
    pub(super) version: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) resources: Vec<DiscoveredResource>,
    #[serde(deserialize_with = "or_default")]
    pub(super) freshness: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DiscoveredResource {
    pub(super) resource: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) response_kind: ResponseKind,
    #[serde(deserialize_with = "or_default")]
    pub(super) scope: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) verbs: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) short_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) categories: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ResponseKind {
    pub(super) kind: String,
}

/// `APIGroup` of `meta/v1`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NamedGroup {
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) versions: Vec<NamedVersion>,
    #[serde(deserialize_with = "or_default")]
    pub(super) preferred_version: NamedVersion,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NamedVersion {
    pub(super) version: String,
}

/// `APIResourceList` of `meta/v1`.
#[derive(Deserialize)]
pub(super) struct ResourceList {
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) resources: Vec<NamedResource>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NamedResource {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) namespaced: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) verbs: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) short_names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) categories: Vec<String>,
}

/// A printed table without the objects of its rows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NameTable {
    pub(super) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) column_definitions: Vec<NameColumn>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) rows: Vec<NameRow>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NameColumn {
    #[serde(deserialize_with = "or_default")]
    pub(super) format: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NameRow {
    #[serde(deserialize_with = "or_default")]
    pub(super) cells: Vec<serde_json::Value>,
}
