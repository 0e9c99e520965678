//! Ending sessions.

use actix_web::web::Data;
use pilothouse_core::session::SessionId;

use super::params::ById;
use crate::{
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
    server::Api,
};

pub(crate) async fn revoke(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.sessions.revoke(&who.caller, SessionId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::SessionRevoked))
}
