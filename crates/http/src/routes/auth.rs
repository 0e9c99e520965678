//! Signing in and out, refreshing, one's own password.

use actix_web::{http::header::HeaderValue, web::Data};
use pilothouse_core::{
    Error,
    session::{Identity, Login, PasswordChange, SessionRow, Tokens},
    user::{NewPassword, User},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{input::NoFields, users::OneUser};
use crate::{
    answer::{Answer, AnswerWithCookie, Empty},
    body::{Body, LARGEST_LOGIN},
    entry::{Open, Signed, WithCookie},
    error::Result,
    query::Nothing,
    server::Api,
    words::Message,
};

/// Who signs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginBody {
    /// In any case; trimmed.
    username: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// A pair of tokens; both and the session's id are secrets.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// For the header `Authorization: Bearer`.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token ends.
    expires_in: u64,
    /// For one refresh.
    refresh_token: String,
    /// The value of the cookie `session_id`.
    session_id: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct LoginAnswer {
    #[serde(flatten)]
    tokens: TokenPair,
    /// Who has signed in.
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
    Open { origin, user_agent, input: Body(body) }: Open<Body<LoginBody, LARGEST_LOGIN>>,
) -> Result<AnswerWithCookie<LoginAnswer>> {
    let login = Login { username: body.username, password: body.password, user_agent, origin };
    let (tokens, user) = api.app.sessions.login(login).await?;
    let cookie = cookie(&api, tokens.session_id.expose_secret(), "")?;
    Ok(Answer::of(LoginAnswer { tokens: (&tokens).into(), user }).saying(Message::LoggedIn).cookie(cookie))
}

/// What is exchanged for a new pair.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshBody {
    /// The refresh token of the newest pair.
    #[schema(value_type = String, format = Password)]
    refresh_token: SecretString,
}

pub(crate) async fn refresh(
    api: Data<Api>,
    WithCookie { origin, cookie: old, input: Body(body) }: WithCookie<Body<RefreshBody>>,
) -> Result<AnswerWithCookie<TokenPair>> {
    let tokens = api.app.sessions.refresh(&body.refresh_token, &old, origin).await?;
    let cookie = cookie(&api, tokens.session_id.expose_secret(), "")?;
    Ok(Answer::of(TokenPair::from(&tokens)).saying(Message::Refreshed).cookie(cookie))
}

pub(crate) async fn logout(
    api: Data<Api>,
    WithCookie { origin, cookie: old, .. }: WithCookie<Body<NoFields>>,
) -> Result<AnswerWithCookie<Empty>> {
    api.app.sessions.logout(old.expose_secret(), origin).await?;
    Ok(Answer::of(Empty {}).saying(Message::LoggedOut).cookie(cookie(&api, "", "; Max-Age=0")?))
}

/// Who is signed in, and in which session.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// The user.
    user: User,
    /// The session.
    session: SessionRow,
}

pub(crate) async fn me(_: Data<Api>, Signed(who, Nothing): Signed<Nothing>) -> Result<Answer<Me>> {
    let session = who.session_row();
    Ok(Answer::of(Me { user: who.user, session }))
}

/// A change of one's own password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    /// The password so far.
    #[schema(value_type = String, format = Password)]
    old_password: SecretString,
    new_password: NewPassword,
}

pub(crate) async fn password(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<PasswordBody>>,
) -> Result<Answer<OneUser>> {
    let change = PasswordChange { old: body.old_password, new: body.new_password };
    api.app.sessions.change_password(&who, change).await?;
    Ok(Answer::of(OneUser { user: who.user }).saying(Message::PasswordChanged))
}

/// The session's cookie. `Secure` is left out only on loopback without TLS, where browsers would drop it.
fn cookie(api: &Api, value: &str, more: &str) -> Result<HeaderValue, Error> {
    let secure = if api.settings.secure_cookie { "; Secure" } else { "" };
    let cookie = format!("session_id={value}; HttpOnly; SameSite=Strict; Path=/{secure}{more}");
    HeaderValue::try_from(cookie).map_err(|_| Error::internal("a session id that is no header value"))
}
