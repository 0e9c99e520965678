//! Ending sessions.

use actix_web::web::Data;
use pilothouse_core::session::SessionId;

use super::input::ById;
use crate::{
    answer::{Answer, Empty},
    body::Body,
    entry::Signed,
    error::Result,
    server::Api,
    words::Message,
};

pub(crate) async fn revoke(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<ById>>,
) -> Result<Answer<Empty>> {
    api.app.sessions.revoke(&who.caller, SessionId(body.id.0)).await?;
    Ok(Answer::of(Empty {}).saying(Message::SessionRevoked))
}
