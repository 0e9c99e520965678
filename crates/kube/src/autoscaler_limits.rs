//! [`AutoscalerApi`]: sets the limits of HorizontalPodAutoscalers.

use async_trait::async_trait;
use pilothouse_core::{
    Cause, Result,
    access::Permit,
    autoscaler::AutoscalerRow,
    autoscaler_limits::{AutoscalerApi, AutoscalerLimits},
    gate::{Changed, Warning},
    json_patch::JsonPatch,
    kind::Kind,
    name::ObjectName,
    object::{Metadata, parse},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::KubeClusters;

#[derive(Deserialize)]
struct AutoscalerFields {
    metadata: Metadata,
}

#[async_trait]
impl AutoscalerApi for KubeClusters {
    async fn limit_autoscaler(
        &self,
        permit: &Permit,
        name: &ObjectName,
        limits: &AutoscalerLimits,
    ) -> Result<Changed<AutoscalerRow>> {
        let AutoscalerLimits { min, max, resource_version } = limits;
        let kind = Kind::HorizontalPodAutoscaler;
        let object = self.object(permit, kind, name, self.deadlines().write).await?;
        let read = |object: &RawValue| Ok((parse::<AutoscalerFields>(object)?, row(object)?));
        let (AutoscalerFields { metadata }, autoscaler) = object.get(read).await?;
        if resource_version.as_ref().is_some_and(|version| *version != metadata.resource_version) {
            return Err(object.error(Cause::Modified));
        }
        let (min, max) = (i64::from(min.get()), i64::from(max.get()));
        if (autoscaler.min_replicas, autoscaler.max_replicas) == (min, max) {
            return Ok(Changed { value: autoscaler, warnings: vec![Warning::Unchanged] });
        }
        // one patch, because a smallest number above the largest one is rejected
        let patch = JsonPatch::of(&metadata).add("/spec/minReplicas", min).add("/spec/maxReplicas", max);
        Ok(row(&object.json_patch(&patch).await?)?.into())
    }
}

fn row(object: &RawValue) -> Result<AutoscalerRow> {
    Ok(AutoscalerRow::project(parse(object)?))
}
