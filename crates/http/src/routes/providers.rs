//! Routes for sign-ins through identity providers.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    dev::Payload,
    http::header::{HeaderValue, LOCATION, SET_COOKIE},
    web::Data,
};
use pilothouse_core::{
    Cause, Error,
    name::ProviderId,
    provider::{OidcFinish, ProviderRow},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::auth::{LoginResponse, RefreshIn, session_cookies};
use crate::{
    api::Api,
    body::{Body, LogoutToken, MAX_SIGN_IN_BODY_BYTES},
    cookies::Cookie,
    docs::{Docs, Documented},
    error::Result,
    extract::{Input, Public},
    messages::Message,
    query::{NoParams, Params},
    response::{Empty, Response, ResponseWithCookies},
};

/// The ways to sign in.
#[derive(Serialize, ToSchema)]
pub(crate) struct Providers {
    /// Local users first, then the identity providers by id.
    providers: Vec<ProviderRow>,
}

pub(crate) async fn list(api: Data<Api>, _: Public<NoParams>) -> Result<Response<Providers>> {
    Ok(Response::of(Providers { providers: api.app.federation.list() }))
}

/// Input of a route whose path names an identity provider.
pub(crate) struct AtProvider<I> {
    provider: ProviderId,
    input: I,
}

impl<I: Input> Input for AtProvider<I> {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        let provider = request.match_info().get("provider").and_then(|text| ProviderId::new(text).ok());
        let provider = provider.ok_or(Cause::UnknownPath)?;
        Ok(Self { provider, input: I::read(request, payload).await? })
    }
}

impl<I: Documented> Documented for AtProvider<I> {
    fn describe(docs: &mut Docs) {
        docs.parameters.push(json!({
            "name": "provider",
            "in": "path",
            "required": true,
            "description": "The id of an identity provider of kind oidc.",
            "example": "keycloak",
            "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
        }));
        I::describe(docs);
    }
}

/// Where a sign-in returns.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartParams {
    /// Path of the console to which the browser goes after the sign-in. Anything else counts as `/`.
    #[param(value_type = String, required = false, max_length = 2048, example = "/clusters")]
    to: Option<String>,
}

/// A redirect of the browser that begins a sign-in.
pub(crate) struct Redirect {
    location: HeaderValue,
    cookie: HeaderValue,
}

pub(crate) async fn start(
    api: Data<Api>,
    Public { origin, input: AtProvider { provider, input: Params(params) }, .. }: Public<
        AtProvider<Params<StartParams>>,
    >,
) -> Result<Redirect> {
    let started = api.app.federation.oidc_start(provider.as_str(), params.to.as_deref(), &origin).await?;
    let location = HeaderValue::try_from(started.location)
        .map_err(|_| Error::internal("the address of an identity provider is not a valid header value"))?;
    Ok(Redirect { location, cookie: Cookie::oidc_login(&api).set(&api, &started.browser)? })
}

impl Responder for Redirect {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let headers = [(LOCATION, self.location), (SET_COOKIE, self.cookie)];
        let mut response = HttpResponse::Found();
        for header in headers {
            response.append_header(header);
        }
        response.finish()
    }
}

impl Documented for Redirect {
    fn describe(docs: &mut Docs) {
        docs.redirects = true;
    }
}

/// What a browser brings back from an OpenID provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishBody {
    /// The code of the provider.
    #[schema(value_type = String, format = Password)]
    code: SecretString,
    /// The state with which the browser was sent to the provider.
    #[schema(value_type = String, format = Password)]
    state: SecretString,
    /// The issuer that the answer names.
    iss: Option<String>,
}

/// The input of the end of a sign-in, with the cookie of its start.
pub(crate) struct Finish {
    body: FinishBody,
    browser: SecretString,
}

impl Input for Finish {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        let Body(body): Body<FinishBody, MAX_SIGN_IN_BODY_BYTES> = Body::read(request, payload).await?;
        let api = request.app_data::<Data<Api>>();
        let browser = api.and_then(|api| Cookie::oidc_login(api).read(request.headers()));
        let browser = browser.ok_or(Cause::SignInExpired)?;
        Ok(Self { browser: browser.into(), body })
    }
}

impl Documented for Finish {
    fn describe(docs: &mut Docs) {
        docs.request_body::<FinishBody>();
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FinishResponse {
    #[serde(flatten)]
    login: LoginResponse,
    /// Path of the console to which the browser goes.
    #[schema(example = "/clusters")]
    to: String,
}

pub(crate) async fn finish(
    api: Data<Api>,
    Public { origin, user_agent, input: AtProvider { provider, input: Finish { body, browser } } }: Public<
        AtProvider<Finish>,
    >,
) -> Result<ResponseWithCookies<FinishResponse>> {
    let FinishBody { code, state, iss: issuer } = body;
    let provider = provider.to_string();
    let finish = OidcFinish { provider, code, state, issuer, browser, user_agent, origin };
    let finished = api.app.federation.oidc_finish(finish).await?;
    let mut cookies = session_cookies(&api, &finished.tokens, RefreshIn::Cookie)?;
    cookies.push(Cookie::oidc_login(&api).clear(&api)?);
    let login = LoginResponse::new(&finished.tokens, RefreshIn::Cookie, finished.identity);
    Ok(Response::of(FinishResponse { login, to: finished.to })
        .with_message(Message::LoggedIn)
        .cookies(cookies))
}

pub(crate) async fn backchannel(
    api: Data<Api>,
    Public { origin, input: AtProvider { provider, input: LogoutToken(token) }, .. }: Public<
        AtProvider<LogoutToken>,
    >,
) -> Result<Response<Empty>> {
    api.app.federation.backchannel_logout(provider.as_str(), &token, &origin).await?;
    Ok(Response::of(Empty {}).with_message(Message::LoggedOut))
}
