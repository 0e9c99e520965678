//! Routes for break-glass: rights that a user takes without an approval, and their review.

use actix_web::web::Data;
use pilothouse_core::{break_glass::BreakGlassRow, ids::BreakGlassId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::Api, body::Body, error::Result, extract::Authenticated, messages::Message, response::Response,
    routes::params::Id,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneBreakGlass {
    /// The use of break-glass.
    break_glass: BreakGlassRow,
}

/// A use of break-glass.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BreakGlassBody {
    /// The id of the cluster.
    cluster_id: Id,
    /// Why the rights are needed at once.
    #[schema(min_length = 5, max_length = 500)]
    reason: String,
}

pub(crate) async fn open(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<BreakGlassBody>>,
) -> Result<Response<OneBreakGlass>> {
    let BreakGlassBody { cluster_id, reason } = body;
    let break_glass = api.app.break_glass.open(signed_in.caller(), cluster_id.into(), reason).await?;
    Ok(Response::of(OneBreakGlass { break_glass }).with_message(Message::GlassBroken))
}

/// A review of a use of break-glass.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReviewBody {
    /// The id of the use.
    id: Id,
    /// The result of the review.
    #[schema(min_length = 5, max_length = 500)]
    note: String,
}

pub(crate) async fn review(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ReviewBody>>,
) -> Result<Response<OneBreakGlass>> {
    let ReviewBody { id, note } = body;
    let break_glass = api.app.break_glass.review(signed_in.caller(), BreakGlassId(id.0), note).await?;
    Ok(Response::of(OneBreakGlass { break_glass }).with_message(Message::BreakGlassReviewed))
}
