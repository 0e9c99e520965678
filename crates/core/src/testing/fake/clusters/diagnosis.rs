//! Objects of a diagnosis in the fake clusters.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::FakeClusters;
use crate::{
    access::Permit,
    diagnosis::{DiagnosisSource, Related, RelatedObject, Selection, objects::EventSubject},
    error::Result,
    kind::Kind,
    name::ObjectName,
    object::{Labels, Metadata, parse},
};

/// The fields by which objects are selected.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Selected {
    metadata: Metadata,
    involved_object: EventSubject,
}

impl Selected {
    fn is_in(&self, selection: &Selection) -> bool {
        let about = &self.involved_object;
        match selection {
            Selection::All => true,
            Selection::Labels(query) => matches(&self.metadata.labels, query),
            Selection::Names(names) => names.iter().any(|name| name.as_str() == self.metadata.name),
            Selection::AboutUid(uid) => about.uid == *uid,
            Selection::AboutNode(name) => about.kind == "Node" && about.name == name.as_str(),
        }
    }
}

/// Whether labels match a selector of equalities and existing keys, or of one set.
fn matches(labels: &Labels, query: &str) -> bool {
    if let Some((key, values)) = query.split_once(" in (") {
        let mut values = values.trim_end_matches(')').split(',');
        return labels.get(key).is_some_and(|own| values.any(|value| value == own));
    }
    query.split(',').all(|term| match term.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
        None => labels.contains_key(term),
    })
}

#[async_trait]
impl DiagnosisSource for FakeClusters {
    async fn diagnosed_object(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RelatedObject>> {
        self.call(permit, name.as_str())?;
        let kind = permit.kind()?;
        let namespace = if kind.info().namespaced { permit.namespace()?.to_string() } else { String::new() };
        let object = self.find(&(permit.cluster()?, kind, namespace, name.to_string()))?;
        object.map(|object| RelatedObject::project(kind, &object)).transpose()
    }

    async fn related_objects(&self, permit: &Permit, kind: Kind, selection: &Selection) -> Result<Related> {
        let project =
            |object: &RawValue| Ok((parse::<Selected>(object)?, RelatedObject::project(kind, object)?));
        let (objects, unreadable) = self.related(permit, kind, project)?;
        if unreadable.is_some() {
            return Ok(Related::Unreadable);
        }
        let selected = objects.into_iter().filter(|(fields, _)| fields.is_in(selection));
        Ok(Related::Read(selected.map(|(_, object)| object).collect()))
    }
}
