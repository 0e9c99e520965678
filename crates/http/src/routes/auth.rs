//! Routes for login, logout, token refresh and the caller's own password.

use actix_web::{http::header::HeaderValue, web::Data};
use pilothouse_core::{
    Error,
    session::{Identity, Login, PasswordChange, SessionRow, Tokens},
    user::{NewPassword, User},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{params::NoFields, users::OneUser};
use crate::{
    api::Api,
    body::{Body, MAX_LOGIN_BODY_BYTES},
    error::Result,
    extract::{Authenticated, CookieOnly, Public},
    messages::Message,
    query::NoParams,
    response::{Empty, Response, ResponseWithCookie},
};

/// The credentials of a login.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginBody {
    /// The username; case and surrounding whitespace are ignored.
    username: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// A pair of tokens. Both tokens and the session id are secrets.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// Access token for the header `Authorization: Bearer`.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token expires.
    expires_in: u64,
    /// Refresh token; valid for one refresh.
    refresh_token: String,
    /// The value of the cookie `session_id`.
    session_id: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct LoginResponse {
    #[serde(flatten)]
    tokens: TokenPair,
    /// The signed-in user.
    user: Identity,
}

impl From<&Tokens> for TokenPair {
    fn from(tokens: &Tokens) -> Self {
        Self {
            access_token: tokens.access_token.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: tokens.expires_in.as_secs(),
            refresh_token: tokens.refresh_token.expose_secret().to_owned(),
            session_id: tokens.session_id.expose_secret().to_owned(),
        }
    }
}

pub(crate) async fn login(
    api: Data<Api>,
    Public { origin, user_agent, input: Body(body) }: Public<Body<LoginBody, MAX_LOGIN_BODY_BYTES>>,
) -> Result<ResponseWithCookie<LoginResponse>> {
    let login = Login { username: body.username, password: body.password, user_agent, origin };
    let (tokens, user) = api.app.sessions.login(login).await?;
    let cookie = cookie(&api, tokens.session_id.expose_secret(), "")?;
    Ok(Response::of(LoginResponse { tokens: (&tokens).into(), user })
        .with_message(Message::LoggedIn)
        .cookie(cookie))
}

/// A request for a new pair of tokens.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshBody {
    /// The refresh token of the latest pair.
    #[schema(value_type = String, format = Password)]
    refresh_token: SecretString,
}

pub(crate) async fn refresh(
    api: Data<Api>,
    CookieOnly { origin, cookie: old, activity, input: Body(body) }: CookieOnly<Body<RefreshBody>>,
) -> Result<ResponseWithCookie<TokenPair>> {
    let tokens = api.app.sessions.refresh(&body.refresh_token, &old, origin, activity).await?;
    let cookie = cookie(&api, tokens.session_id.expose_secret(), "")?;
    Ok(Response::of(TokenPair::from(&tokens)).with_message(Message::Refreshed).cookie(cookie))
}

pub(crate) async fn logout(
    api: Data<Api>,
    CookieOnly { origin, cookie: old, .. }: CookieOnly<Body<NoFields>>,
) -> Result<ResponseWithCookie<Empty>> {
    api.app.sessions.logout(old.expose_secret(), origin).await?;
    Ok(Response::of(Empty {}).with_message(Message::LoggedOut).cookie(cookie(&api, "", "; Max-Age=0")?))
}

/// The signed-in user and the session.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// The user.
    user: User,
    /// The session.
    session: SessionRow,
}

pub(crate) async fn me(
    _: Data<Api>,
    Authenticated(signed_in, NoParams): Authenticated<NoParams>,
) -> Result<Response<Me>> {
    let session = signed_in.session_row();
    Ok(Response::of(Me { user: signed_in.user, session }))
}

/// A change of the caller's own password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    /// The current password.
    #[schema(value_type = String, format = Password)]
    old_password: SecretString,
    new_password: NewPassword,
}

pub(crate) async fn password(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<PasswordBody>>,
) -> Result<Response<OneUser>> {
    let change = PasswordChange { old: body.old_password, new: body.new_password };
    api.app.sessions.change_password(&signed_in, change).await?;
    Ok(Response::of(OneUser { user: signed_in.user }).with_message(Message::PasswordChanged))
}

/// The session cookie. `Secure` is omitted only on loopback without TLS, where browsers would drop the cookie.
fn cookie(api: &Api, value: &str, attributes: &str) -> Result<HeaderValue, Error> {
    let secure = if api.settings.secure_cookie { "; Secure" } else { "" };
    let cookie = format!("session_id={value}; HttpOnly; SameSite=Strict; Path=/{secure}{attributes}");
    HeaderValue::try_from(cookie).map_err(|_| Error::internal("a session id is not a valid header value"))
}
