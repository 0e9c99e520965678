//! Route for usage of CPU and memory over time.

use actix_web::web::Data;
use pilothouse_core::{
    name::{Namespace, ObjectName},
    usage::{Measured, MeasuredKind, UsageHistory, UsageSeries},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::{Bounded, Id};
use crate::{api::Api, error::Result, extract::Authenticated, query::Params, response::Response};

/// A node or pod, and a time.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeriesQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    /// The kind: `node` or `pod`.
    #[param(inline, example = "pod")]
    kind: MeasuredKind,
    /// The namespace of the pod; not for a node.
    #[param(value_type = Namespace, inline, required = false)]
    namespace: Option<Namespace>,
    #[param(inline)]
    name: ObjectName,
    /// Maximum age of the points, in minutes.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 60, default = 60)]
    minutes: Option<Bounded<1, { UsageHistory::MAX_MINUTES }>>,
}

pub(crate) async fn series(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<SeriesQuery>>,
) -> Result<Response<UsageSeries>> {
    let SeriesQuery { cluster_id, kind, namespace, name, minutes } = query;
    let measured = Measured::new(kind, namespace, name)?;
    let minutes = minutes.map_or(UsageHistory::MAX_MINUTES, |minutes| minutes.0);
    let series = api.app.usage.series(signed_in.caller(), cluster_id.into(), &measured, minutes);
    let (series, warning) = series.await?;
    Ok(Response::of(series).warning(warning.into_iter().collect()))
}
