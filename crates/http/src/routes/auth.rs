//! Routes for login, logout, token refresh and the caller's own password.

use actix_web::{HttpRequest, dev::Payload, http::header::HeaderValue, web::Data};
use pilothouse_core::{
    Error,
    access::{Resource, Verb},
    error::Reason,
    provider::LdapLogin,
    service_account::ServiceAccount,
    session::{Identity, Login, PasswordChange, SessionRow, Tokens},
    token::{FoundOwner, TokenRow},
    user::{NewPassword, User},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{params::NoFields, users::OneUser};
use crate::{
    api::Api,
    body::{Body, MAX_LOGIN_BODY_BYTES},
    cookies::Cookie,
    docs::{Docs, Documented},
    error::Result,
    extract::{Authenticated, CookieOnly, Credential, Input, Public},
    messages::Message,
    query::NoParams,
    response::{Response, ResponseWithCookies},
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
    /// A code of the second factor, or a recovery code, if the user has one.
    #[schema(value_type = Option<String>, format = Password)]
    code: Option<SecretString>,
    /// The id of an LDAP directory; `local` if absent.
    provider: Option<String>,
    /// Whether the refresh token becomes the cookie `refresh_token`, for a browser: then it and the session id are not
    /// in the response.
    #[serde(default)]
    cookie: bool,
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
    /// Refresh token; valid for one refresh. Absent if it is a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    refresh_token: Option<String>,
    /// The value of the cookie `session_id`. Absent if the refresh token is a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    session_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct LoginResponse {
    #[serde(flatten)]
    tokens: TokenPair,
    /// The signed-in user.
    user: Identity,
}

/// Place of the refresh token in requests and responses of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RefreshIn {
    Body,
    Cookie,
}

impl TokenPair {
    fn new(tokens: &Tokens, refresh_in: RefreshIn) -> Self {
        let in_body = |secret: &SecretString| {
            (refresh_in == RefreshIn::Body).then(|| secret.expose_secret().to_owned())
        };
        Self {
            access_token: tokens.access_token.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: tokens.expires_in.as_secs(),
            refresh_token: in_body(&tokens.refresh_token),
            session_id: in_body(&tokens.session_id),
        }
    }
}

impl LoginResponse {
    pub(super) fn new(tokens: &Tokens, refresh_in: RefreshIn, user: Identity) -> Self {
        Self { tokens: TokenPair::new(tokens, refresh_in), user }
    }
}

pub(crate) async fn login(
    api: Data<Api>,
    Public { origin, user_agent, input: Body(body) }: Public<Body<LoginBody, MAX_LOGIN_BODY_BYTES>>,
) -> Result<ResponseWithCookies<LoginResponse>> {
    let LoginBody { username, password, code, provider, cookie } = body;
    let app = &api.app;
    let (tokens, user) = match provider.filter(|id| id != "local") {
        None => {
            let login = Login { username, password, code, user_agent, origin };
            app.sessions.login(login).await?
        }
        Some(provider) => {
            let login = LdapLogin { provider, username, password, code, user_agent, origin };
            app.federation.ldap_login(login).await?
        }
    };
    let refresh_in = if cookie { RefreshIn::Cookie } else { RefreshIn::Body };
    Ok(Response::of(LoginResponse::new(&tokens, refresh_in, user))
        .with_message(Message::LoggedIn)
        .cookies(session_cookies(&api, &tokens, refresh_in)?))
}

/// The cookies of a new session.
pub(super) fn session_cookies(api: &Api, tokens: &Tokens, refresh_in: RefreshIn) -> Result<Vec<HeaderValue>> {
    let session = Cookie::Session.set(api, &tokens.session_id)?;
    let refresh = match refresh_in {
        RefreshIn::Cookie => Cookie::Refresh.set(api, &tokens.refresh_token)?,
        // a cookie of an earlier session would be sent with each refresh
        RefreshIn::Body => Cookie::Refresh.clear(api)?,
    };
    Ok(vec![session, refresh])
}

/// A request for a new pair of tokens.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshBody {
    /// The refresh token of the latest pair. Absent if it is sent as the cookie `refresh_token`.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    refresh_token: Option<SecretString>,
}

/// The refresh token of a request: in the body, or as a cookie.
pub(crate) struct PresentedToken {
    token: SecretString,
    refresh_in: RefreshIn,
}

impl Input for PresentedToken {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        let Body(body): Body<RefreshBody> = Body::read(request, payload).await?;
        let cookie = Cookie::Refresh.read(request.headers());
        match (body.refresh_token, cookie) {
            (Some(token), None) => Ok(Self { token, refresh_in: RefreshIn::Body }),
            (None, Some(cookie)) => Ok(Self { token: cookie.into(), refresh_in: RefreshIn::Cookie }),
            (Some(_), Some(_)) => Err(Error::invalid("refresh_token", Reason::NotAllowed).into()),
            (None, None) => Err(Error::invalid("refresh_token", Reason::Required).into()),
        }
    }
}

impl Documented for PresentedToken {
    fn describe(docs: &mut Docs) {
        Body::<RefreshBody>::describe(docs);
    }
}

pub(crate) async fn refresh(
    api: Data<Api>,
    CookieOnly { origin, cookie: old, activity, input }: CookieOnly<PresentedToken>,
) -> Result<ResponseWithCookies<TokenPair>> {
    let (sessions, PresentedToken { token, refresh_in }) = (&api.app.sessions, input);
    let tokens = match refresh_in {
        RefreshIn::Body => sessions.refresh(&token, &old, origin, activity).await?,
        RefreshIn::Cookie => sessions.refresh_browser(&token, &old, origin, activity).await?,
    };
    let mut cookies = vec![Cookie::Session.set(&api, &tokens.session_id)?];
    if refresh_in == RefreshIn::Cookie {
        cookies.push(Cookie::Refresh.set(&api, &tokens.refresh_token)?);
    }
    Ok(Response::of(TokenPair::new(&tokens, refresh_in)).with_message(Message::Refreshed).cookies(cookies))
}

/// The end of a session.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogoutResponse {
    /// Address of the OpenID provider that ends the session there too, for the browser to open. Null for other sessions,
    /// and if the provider has none.
    end_session_url: Option<String>,
}

pub(crate) async fn logout(
    api: Data<Api>,
    CookieOnly { origin, cookie: old, .. }: CookieOnly<Body<NoFields>>,
) -> Result<ResponseWithCookies<LogoutResponse>> {
    let end_session_url = api.app.federation.logout(old.expose_secret(), origin).await?;
    let cleared = vec![Cookie::Session.clear(&api)?, Cookie::Refresh.clear(&api)?];
    Ok(Response::of(LogoutResponse { end_session_url }).with_message(Message::LoggedOut).cookies(cleared))
}

/// Who sent the request: a user in a session, or an API token of a user or of a service account.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// The user; null for a service account.
    user: Option<User>,
    /// The service account; null for a user.
    service_account: Option<ServiceAccount>,
    /// The session; null for an API token.
    session: Option<SessionRow>,
    /// The API token; null for a session.
    token: Option<TokenRow>,
}

pub(crate) async fn me(
    _: Data<Api>,
    Authenticated(credential, NoParams): Authenticated<NoParams>,
) -> Result<Response<Me>> {
    Ok(Response::of(match credential {
        Credential::Session(signed_in) => Me {
            session: Some(signed_in.session_row()),
            user: Some(signed_in.user),
            service_account: None,
            token: None,
        },
        Credential::Token(signed_in) => {
            let token = Some(signed_in.token_row());
            let (user, service_account) = match signed_in.found.owner {
                FoundOwner::User(user) => (Some(user), None),
                FoundOwner::ServiceAccount { account, .. } => (None, Some(account)),
            };
            Me { user, service_account, session: None, token }
        }
    }))
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
    Authenticated(credential, Body(body)): Authenticated<Body<PasswordBody>>,
) -> Result<Response<OneUser>> {
    let signed_in = credential.into_session(&api, Verb::ChangePassword, Resource::OwnAccount).await?;
    let change = PasswordChange { old: body.old_password, new: body.new_password };
    api.app.sessions.change_password(&signed_in, change).await?;
    Ok(Response::of(OneUser { user: signed_in.user }).with_message(Message::PasswordChanged))
}
