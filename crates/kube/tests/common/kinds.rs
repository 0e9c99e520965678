//! Kinds that a fake API server serves: their discovery documents and printed columns.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Verbs of a kind that a list cache can watch.
pub(crate) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A kind that the server serves, and its objects.
#[derive(Clone)]
pub(crate) struct ServedKind {
    /// The API group; empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    /// Plural resource name.
    pub(crate) resource: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    /// Whether a CustomResourceDefinition defines the kind. The aggregated discovery then repeats group and version in
    /// `responseKind`, which are empty for other kinds.
    pub(crate) custom: bool,
    pub(crate) verbs: &'static [&'static str],
    pub(crate) short_names: &'static [&'static str],
    /// Name, type and priority of the printed columns.
    pub(crate) columns: Vec<(&'static str, &'static str, u8)>,
    /// Objects and their cells.
    pub(crate) objects: Vec<(Value, Vec<Value>)>,
}

impl ServedKind {
    /// Deployments without objects, as a real API server describes them.
    pub(crate) fn deployments() -> Self {
        Self {
            group: "apps",
            version: "v1",
            resource: "deployments",
            singular: "deployment",
            kind: "Deployment",
            namespaced: true,
            custom: false,
            verbs: ALL_VERBS,
            short_names: &["deploy"],
            columns: vec![
                ("Name", "string", 0),
                ("Ready", "string", 0),
                ("Up-to-date", "string", 0),
                ("Available", "string", 0),
                ("Age", "string", 0),
                ("Containers", "string", 1),
                ("Images", "string", 1),
                ("Selector", "string", 1),
            ],
            objects: Vec::new(),
        }
    }

    /// A custom kind `boats` of this version without objects.
    pub(crate) fn boats(version: &'static str) -> Self {
        Self {
            group: "day2.example.org",
            version,
            resource: "boats",
            singular: "boat",
            kind: "Boat",
            namespaced: true,
            custom: true,
            verbs: ALL_VERBS,
            short_names: &[],
            columns: vec![
                ("Name", "string", 0),
                ("Crew", "integer", 0),
                ("Launched", "date", 0),
                ("Captain", "string", 1),
            ],
            objects: Vec::new(),
        }
    }

    /// Metrics of nodes, which have no watch.
    pub(crate) fn node_metrics() -> Self {
        Self {
            group: "metrics.k8s.io",
            version: "v1beta1",
            resource: "nodes",
            singular: "",
            kind: "NodeMetrics",
            namespaced: false,
            custom: false,
            verbs: &["get", "list"],
            short_names: &[],
            columns: vec![("Name", "string", 0), ("cpu", "string", 0), ("memory", "string", 0)],
            objects: Vec::new(),
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn column_definitions(&self) -> Vec<Value> {
        let definition = |(name, kind, priority): &(&str, &str, u8)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority})
        };
        self.columns.iter().map(definition).collect()
    }

    /// A table with these rows. Without `columns` it has no column definitions, as in later events of a watch.
    pub(crate) fn table(&self, rows: &[(Value, Vec<Value>)], columns: bool, version: u64) -> Value {
        let row = |(object, cells): &(Value, Vec<Value>)| {
            let metadata = &object["metadata"];
            let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
            json!({"cells": cells, "object": object})
        };
        let definitions = if columns { self.column_definitions() } else { Vec::new() };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version.to_string()},
            "columnDefinitions": definitions, "rows": rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Discovery documents of kinds.
pub(crate) struct Discovery<'a> {
    pub(crate) kinds: &'a [ServedKind],
    /// Groups whose API server does not respond.
    pub(crate) failing: &'a BTreeSet<String>,
}

impl Discovery<'_> {
    /// All resources of the core group, or of all other groups. Those of a group that fails are unknown.
    pub(crate) fn aggregated(&self, core: bool) -> Value {
        let of_this = self.kinds.iter().filter(|kind| kind.group.is_empty() == core);
        let groups: BTreeSet<_> = of_this.map(|kind| kind.group).collect();
        let group = |group: &str| {
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            let versions = self.versions(group).into_iter();
            let versions: Vec<_> = versions.map(|version| self.aggregated_version(group, version)).collect();
            json!({"metadata": metadata, "versions": versions})
        };
        let items: Vec<_> = groups.into_iter().map(group).collect();
        json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
        })
    }

    fn aggregated_version(&self, group: &str, version: &str) -> Value {
        if self.failing.contains(group) {
            return json!({"version": version, "freshness": "Stale"});
        }
        let resource = |kind: &ServedKind| {
            let (group, version) = if kind.custom { (group, version) } else { ("", "") };
            json!({
                "resource": kind.resource, "singularResource": kind.singular,
                "responseKind": {"group": group, "version": version, "kind": kind.kind},
                "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                "verbs": kind.verbs, "shortNames": kind.short_names,
            })
        };
        let kinds = self.kinds.iter().filter(|kind| (kind.group, kind.version) == (group, version));
        let resources: Vec<_> = kinds.map(resource).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    }

    /// The versions of a group, in the order of their names.
    fn versions(&self, group: &str) -> BTreeSet<&'static str> {
        self.kinds.iter().filter(|kind| kind.group == group).map(|kind| kind.version).collect()
    }

    /// All groups except the core group, also those that fail.
    pub(crate) fn groups(&self) -> Value {
        let groups: BTreeSet<_> = self.kinds.iter().map(|kind| kind.group).collect();
        let group = |group: &str| {
            let version =
                |version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
            let versions: Vec<_> = self.versions(group).into_iter().map(version).collect();
            json!({"name": group, "preferredVersion": versions[0], "versions": versions})
        };
        let groups: Vec<_> = groups.into_iter().filter(|group| !group.is_empty()).map(group).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    /// The resources of a version of a group, such as `apps/v1`. A server always has the core group.
    pub(crate) fn resources(&self, group_version: &str) -> Option<Value> {
        let resource = |kind: &ServedKind| {
            json!({
                "name": kind.resource, "singularName": kind.singular, "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": kind.verbs, "shortNames": kind.short_names,
            })
        };
        let kinds = self.kinds.iter().filter(|kind| kind.api_version() == group_version);
        let resources: Vec<_> = kinds.map(resource).collect();
        let list = json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
        });
        (!resources.is_empty() || group_version == "v1").then_some(list)
    }
}
