//! [`NodeApi`]: cordons and uncordons nodes.

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    access::Permit,
    cordon::NodeApi,
    gate::{Changed, Warning},
    json_patch::JsonPatch,
    kind::Kind,
    name::ObjectName,
    node::NodeRow,
    object::{Metadata, parse},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::KubeClusters;

#[derive(Deserialize)]
struct NodeFields {
    metadata: Metadata,
}

#[async_trait]
impl NodeApi for KubeClusters {
    async fn cordon_node(
        &self,
        permit: &Permit,
        name: &ObjectName,
        unschedulable: bool,
    ) -> Result<Changed<NodeRow>> {
        let object = self.object(permit, Kind::Node, name, self.deadlines().write).await?;
        let read = |object: &RawValue| Ok((parse::<NodeFields>(object)?, row(object)?));
        let (NodeFields { metadata }, node) = object.get(read).await?;
        if node.unschedulable == unschedulable {
            return Ok(Changed { value: node, warnings: vec![Warning::Unchanged] });
        }
        let patch = JsonPatch::of(&metadata).add("/spec/unschedulable", unschedulable);
        Ok(row(&object.json_patch(&patch).await?)?.into())
    }
}

fn row(object: &RawValue) -> Result<NodeRow> {
    Ok(NodeRow::project(parse(object)?))
}
