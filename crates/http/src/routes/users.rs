//! Users, for super admins.

use actix_web::web::Data;
use pilothouse_core::{
    access::Role,
    user::{NewPassword, NewUser, User, UserId, UserPatch, Username},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{ById, Id};
use crate::{
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
    server::Api,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneUser {
    /// It as it is after the change.
    pub(crate) user: User,
}

/// A user to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUserBody {
    username: Username,
    password: NewPassword,
    /// What the user may do.
    role: Role,
    /// The username when there is none.
    display_name: Option<String>,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<NewUserBody>>,
) -> Result<Response<OneUser>> {
    let NewUserBody { username, password, role, display_name } = body;
    let user = api.app.users.create(&who.caller, NewUser { username, password, role, display_name }).await?;
    Ok(Response::of(OneUser { user }).with_message(Message::UserCreated))
}

/// What is not sent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserChangeBody {
    /// Which user.
    id: Id,
    /// What the user may do from now on.
    role: Option<Role>,
    /// How the user is shown.
    display_name: Option<String>,
    /// Whether the user may sign in no more; ends what sessions there are.
    disabled: Option<bool>,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<UserChangeBody>>,
) -> Result<Response<OneUser>> {
    let UserChangeBody { id, role, display_name, disabled } = body;
    let user =
        api.app.users.update(&who.caller, UserId(id.0), UserPatch { role, display_name, disabled }).await?;
    Ok(Response::of(OneUser { user }).with_message(Message::UserUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.users.delete(&who.caller, UserId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::UserDeleted))
}

/// Whose password becomes what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetPasswordBody {
    id: Id,
    new_password: NewPassword,
}

pub(crate) async fn reset_password(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ResetPasswordBody>>,
) -> Result<Response<OneUser>> {
    let user = api.app.users.reset_password(&who.caller, UserId(body.id.0), body.new_password).await?;
    Ok(Response::of(OneUser { user }).with_message(Message::PasswordReset))
}
