//! Resource quotas: list rows, and the merged quota of a namespace.

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    object::{Labels, Metadata, or_default},
    quantity,
    rows::{Cell, Field, ListRow},
};

/// Fields of ResourceQuota that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct QuotaObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    status: QuotaStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct QuotaStatus {
    #[serde(deserialize_with = "or_default")]
    hard: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    used: BTreeMap<String, String>,
}

/// List row of a ResourceQuota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Limit of each resource, as a Kubernetes quantity.
    pub hard: BTreeMap<String, String>,
    /// Current use of each resource, as a Kubernetes quantity.
    pub used: BTreeMap<String, String>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl QuotaRow {
    /// Projects a ResourceQuota.
    pub fn project(object: QuotaObject) -> Self {
        let QuotaObject { metadata, status: QuotaStatus { hard, used } } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            hard,
            used,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

impl ListRow for QuotaRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

/// Merged quotas of a namespace. The smallest of several limits on a resource applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaSummary {
    /// The names of the ResourceQuotas.
    pub names: Vec<String>,
    /// Limit of each resource, as a Kubernetes quantity.
    pub hard: BTreeMap<String, String>,
    /// Current use of each resource, from the quota whose limit applies.
    pub used: BTreeMap<String, String>,
}

impl QuotaSummary {
    /// Merges quotas; `None` for an empty slice.
    pub fn merge(quotas: &[QuotaRow]) -> Option<Self> {
        let mut names: Vec<_> = quotas.iter().map(|quota| quota.name.clone()).collect();
        names.sort_unstable();
        let mut summary = Self { names, hard: BTreeMap::new(), used: BTreeMap::new() };
        for QuotaRow { hard, used, .. } in quotas {
            for (resource, limit) in hard {
                let is_smallest = match summary.hard.entry(resource.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(limit.clone());
                        true
                    }
                    Entry::Occupied(mut entry) => {
                        let smaller = quantity::parse(limit) < quantity::parse(entry.get());
                        if smaller {
                            entry.insert(limit.clone());
                        }
                        smaller
                    }
                };
                if is_smallest {
                    let used = used.get(resource).map_or("0", String::as_str);
                    summary.used.insert(resource.clone(), used.to_owned());
                }
            }
        }
        (!quotas.is_empty()).then_some(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(name: &str, hard: &[(&str, &str)], used: &[(&str, &str)]) -> QuotaRow {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        QuotaRow { name: name.to_owned(), hard: map(hard), used: map(used), ..QuotaRow::default() }
    }

    #[test]
    fn merged_quota_has_the_smallest_limits() {
        assert_eq!(QuotaSummary::merge(&[]), None);
        let summary = QuotaSummary::merge(&[
            quota("b", &[("pods", "10"), ("requests.cpu", "1")], &[("pods", "3"), ("requests.cpu", "100m")]),
            quota("a", &[("pods", "9"), ("requests.cpu", "1500m")], &[("pods", "4")]),
        ])
        .unwrap();
        assert_eq!(summary.names, ["a", "b"]);
        assert_eq!((summary.hard["pods"].as_str(), summary.used["pods"].as_str()), ("9", "4"));
        assert_eq!(
            (summary.hard["requests.cpu"].as_str(), summary.used["requests.cpu"].as_str()),
            ("1", "100m")
        );
    }
}
