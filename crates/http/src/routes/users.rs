//! Routes for users; they require super_admin.

use actix_web::web::Data;
use pilothouse_core::{
    ids::UserId,
    role::Role,
    user::{NewPassword, NewUser, User, UserPatch, Username},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{ById, Id};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneUser {
    /// The user after the change.
    pub(crate) user: User,
}

/// A user to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUserBody {
    username: Username,
    password: NewPassword,
    /// The role of the user.
    role: Role,
    /// The display name; the default is the username.
    display_name: Option<String>,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewUserBody>>,
) -> Result<Response<OneUser>> {
    let NewUserBody { username, password, role, display_name } = body;
    let user =
        api.app.users.create(signed_in.caller(), NewUser { username, password, role, display_name }).await?;
    Ok(Response::of(OneUser { user }).with_message(Message::UserCreated))
}

/// A change of a user. An omitted field is kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserChangeBody {
    /// The id of the user.
    id: Id,
    /// The new role.
    role: Option<Role>,
    /// The new display name.
    display_name: Option<String>,
    /// Whether the user is disabled. A disabled user cannot sign in, and all existing sessions end.
    disabled: Option<bool>,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<UserChangeBody>>,
) -> Result<Response<OneUser>> {
    let UserChangeBody { id, role, display_name, disabled } = body;
    let user = api
        .app
        .users
        .update(signed_in.caller(), UserId(id.0), UserPatch { role, display_name, disabled })
        .await?;
    Ok(Response::of(OneUser { user }).with_message(Message::UserUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.users.delete(signed_in.caller(), UserId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::UserDeleted))
}

/// A new password for a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetPasswordBody {
    id: Id,
    new_password: NewPassword,
}

pub(crate) async fn reset_password(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ResetPasswordBody>>,
) -> Result<Response<OneUser>> {
    let user = api.app.users.reset_password(signed_in.caller(), UserId(body.id.0), body.new_password).await?;
    Ok(Response::of(OneUser { user }).with_message(Message::PasswordReset))
}
