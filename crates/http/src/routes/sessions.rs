//! Route to revoke a session.

use actix_web::web::Data;
use pilothouse_core::ids::SessionId;

use super::params::ById;
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

pub(crate) async fn revoke(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.sessions.revoke(signed_in.caller(), SessionId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::SessionRevoked))
}
