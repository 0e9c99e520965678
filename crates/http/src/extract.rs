//! Extractors: the authentication of a request, then its input. A handler that needs the caller takes
//! [`Authenticated`], so it cannot run without authentication. The input is read afterwards, so that 401 takes
//! precedence over 415, 413, 400.

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::{
        Method,
        header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN, USER_AGENT},
    },
    web::Data,
};
use futures_util::{FutureExt, future::LocalBoxFuture};
use pilothouse_core::{
    Cause, Error,
    access::{AccessRequest, Caller, Origin, Resource, Verb},
    rights::{Extent, Needs, RightResource, RightVerb, needs, weakest_preset},
    role::Role,
    session::{Activity, SignedIn},
    token::{TokenKind, TokenSignedIn},
};
use secrecy::SecretString;

use crate::{
    api::Api,
    client_ip::client_ip,
    cookies::Cookie,
    docs::{Docs, Documented},
    error::{ApiError, Result},
    middleware::RequestContext,
};

/// The authentication that a route requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequiredAuth {
    /// None.
    Public,
    /// The session cookie.
    Cookie,
    /// A signed-in user. The response contains what the user has a right on.
    SignedIn,
    /// A signed-in user with this right.
    Right(RightVerb, RightResource),
}

impl RequiredAuth {
    /// What an operation requires, by the gate's mapping of operations to rights.
    pub(crate) fn of(verb: Verb, resource: Resource) -> Self {
        match needs(verb, resource) {
            Needs::SignIn | Needs::AnyRight => Self::SignedIn,
            Needs::Right(verb, resource) => Self::Right(verb, resource),
        }
    }

    /// The weakest of the roles viewer, ops_admin and super_admin that is permitted, if a user must be signed in.
    pub(crate) fn role(&self) -> Option<Role> {
        match self {
            Self::Public | Self::Cookie => None,
            Self::SignedIn => Some(Role::Viewer),
            Self::Right(verb, resource) => Some(weakest_preset(*verb, resource)),
        }
    }

    /// Whether a caller is permitted in some cluster and namespace.
    pub(crate) fn allows(&self, caller: &Caller) -> bool {
        match self {
            Self::Public | Self::Cookie | Self::SignedIn => true,
            Self::Right(verb, resource) => caller.rights.extent(*verb, resource) != Extent::None,
        }
    }
}

/// The input of a request: a body, query parameters, or nothing.
pub(crate) trait Input: Sized + 'static {
    /// Reads and validates the input.
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self>;
}

/// No authentication. A cross-site POST is refused: such a login would sign the user in to an attacker's account.
pub(crate) struct Public<I> {
    /// Source address and request id.
    pub(crate) origin: Origin,
    /// The header `User-Agent`.
    pub(crate) user_agent: Option<String>,
    /// The input of the request.
    pub(crate) input: I,
}

/// Authentication by the session cookie alone. Browsers add the cookie to requests from any site, so a cross-site
/// request is refused (OWASP, Cross-Site Request Forgery Prevention: Fetch Metadata, then `Origin`).
pub(crate) struct CookieOnly<I> {
    /// Source address and request id.
    pub(crate) origin: Origin,
    /// The value of the session cookie.
    pub(crate) cookie: SecretString,
    /// Who caused the request.
    pub(crate) activity: Activity,
    /// The input of the request.
    pub(crate) input: I,
}

/// A signed-in user, or a program with an API token.
pub(crate) struct Authenticated<I>(pub(crate) Credential, pub(crate) I);

/// How a request is authenticated.
pub(crate) enum Credential {
    /// Bearer token and session cookie are both present, valid, and of the same session.
    Session(SignedIn),
    /// The bearer token is an API token, and there is no session cookie.
    Token(TokenSignedIn),
}

impl Credential {
    /// The caller.
    pub(crate) fn caller(&self) -> &Caller {
        match self {
            Self::Session(signed_in) => &signed_in.caller,
            Self::Token(signed_in) => &signed_in.caller,
        }
    }

    /// The session, for an operation on the user's own account, which the gate refuses to every API token.
    ///
    /// # Errors
    /// `TokenNotAllowed` for an API token, recorded; `AuditUnavailable`.
    pub(crate) async fn into_session(
        self,
        api: &Api,
        verb: Verb,
        resource: Resource,
    ) -> Result<SignedIn, Error> {
        match self {
            Self::Session(signed_in) => Ok(signed_in),
            Self::Token(TokenSignedIn { caller, .. }) => {
                let access = AccessRequest::to(verb, resource).named(&*caller.username);
                api.app.gate.refuse(&caller, access, Error::new(Cause::TokenNotAllowed)).await
            }
        }
    }
}

type ExtractFuture<T> = LocalBoxFuture<'static, Result<T>>;

impl<I: Input> FromRequest for Public<I> {
    type Error = ApiError;
    type Future = ExtractFuture<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let build = |(origin, user_agent), input| Self { origin, user_agent, input };
        extract(request, payload, check_public, build)
    }
}

impl<I: Input> FromRequest for CookieOnly<I> {
    type Error = ApiError;
    type Future = ExtractFuture<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let build = |(origin, cookie, activity), input| Self { origin, cookie, activity, input };
        extract(request, payload, check_cookie, build)
    }
}

impl<I: Input> FromRequest for Authenticated<I> {
    type Error = ApiError;
    type Future = ExtractFuture<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        extract(request, payload, authenticate, Self)
    }
}

/// Authenticates a request, and only then reads its input.
fn extract<A: 'static, I: Input, T: 'static>(
    request: &HttpRequest,
    payload: &mut Payload,
    authenticate: impl AsyncFnOnce(&HttpRequest) -> Result<A> + 'static,
    build: impl FnOnce(A, I) -> T + 'static,
) -> ExtractFuture<T> {
    let (request, payload) = (request.clone(), payload.take());
    async move {
        let authenticated = authenticate(&request).await?;
        Ok(build(authenticated, I::read(&request, payload).await?))
    }
    .boxed_local()
}

async fn check_public(request: &HttpRequest) -> Result<(Origin, Option<String>)> {
    if request.method() == Method::POST {
        check_same_origin(request.headers())?;
    }
    let user_agent = single_value(request.headers(), &USER_AGENT).map(str::to_owned);
    Ok((origin(request), user_agent))
}

async fn check_cookie(request: &HttpRequest) -> Result<(Origin, SecretString, Activity)> {
    let api = api(request)?;
    check_same_origin(request.headers())?;
    let cookie = Cookie::Session.read(request.headers()).ok_or(Cause::NotSignedIn)?;
    api.app.sessions.check_cookie(cookie).await?;
    Ok((origin(request), cookie.into(), activity(request.headers())))
}

async fn authenticate(request: &HttpRequest) -> Result<Credential> {
    let (api, headers) = (api(request)?, request.headers());
    check_same_origin(headers)?;
    let bearer = bearer(headers).ok_or(Cause::NotSignedIn)?;
    let credential = if TokenKind::of(bearer).is_some() {
        // also with several cookies of the name: a browser adds its session cookie to every request of a page
        if Cookie::Session.is_sent(headers) {
            return Err(Cause::SessionMismatch.into());
        }
        Credential::Token(api.app.tokens.authenticate(bearer, origin(request)).await?)
    } else {
        let cookie = Cookie::Session.read(headers).ok_or(Cause::NotSignedIn)?;
        // the user causes every change
        let is_read = request.method() == Method::GET;
        let activity = if is_read { activity(headers) } else { Activity::User };
        let sessions = &api.app.sessions;
        Credential::Session(sessions.authenticate(bearer, cookie, origin(request), activity).await?)
    };
    tracing::Span::current().record("user_id", credential.caller().user_id.map(|id| id.0));
    Ok(credential)
}

impl<I: Documented> Documented for Public<I> {
    fn describe(docs: &mut Docs) {
        I::describe(docs);
    }
}

impl<I: Documented> Documented for CookieOnly<I> {
    fn describe(docs: &mut Docs) {
        I::describe(docs);
    }
}

impl<I: Documented> Documented for Authenticated<I> {
    fn describe(docs: &mut Docs) {
        I::describe(docs);
    }
}

fn api(request: &HttpRequest) -> Result<&Data<Api>> {
    Ok(request
        .app_data::<Data<Api>>()
        .ok_or_else(|| Error::internal("the actix-web application has no state of type Api"))?)
}

fn origin(request: &HttpRequest) -> Origin {
    let proxies = api(request).map_or(&[][..], |api| &api.settings.trusted_proxies);
    let source_ip = request.peer_addr().map(|peer| client_ip(peer.ip(), request.headers(), proxies));
    Origin { source_ip, request_id: Some(RequestContext::of(request).id) }
}

/// The value of a header that is present exactly once.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = single_value(headers, &AUTHORIZATION)?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

/// Who caused a request: the client alone with `X-Background: true`, the user otherwise.
fn activity(headers: &HeaderMap) -> Activity {
    const X_BACKGROUND: HeaderName = HeaderName::from_static("x-background");
    if single_value(headers, &X_BACKGROUND) == Some("true") { Activity::Background } else { Activity::User }
}

/// Refuses a cross-site request.
fn check_same_origin(headers: &HeaderMap) -> Result<(), Cause> {
    if is_cross_site(headers) { Err(Cause::CrossSite) } else { Ok(()) }
}

/// Whether a browser sent the request for a page of another origin. Other clients send neither header.
fn is_cross_site(headers: &HeaderMap) -> bool {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    if headers.contains_key(&SEC_FETCH_SITE) {
        return !matches!(single_value(headers, &SEC_FETCH_SITE), Some("same-origin" | "none"));
    }
    if !headers.contains_key(ORIGIN) {
        return false;
    }
    let origin = single_value(headers, &ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.is_none_or(|(_, authority)| single_value(headers, &HOST) != Some(authority))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    /// Headers, by name and value.
    type HeaderPairs = &'static [(&'static str, &'static str)];

    fn headers(pairs: HeaderPairs) -> HeaderMap {
        let request = pairs.iter().fold(TestRequest::get(), |request, pair| request.append_header(*pair));
        request.to_http_request().headers().clone()
    }

    #[test]
    fn exactly_one_bearer_token_is_read() {
        let cases: [(HeaderPairs, Option<&str>); 7] = [
            (&[("authorization", "Bearer a.b")], Some("a.b")),
            (&[("authorization", "bearer  a.b ")], Some("a.b")),
            (&[("authorization", "Basic a.b")], None),
            (&[("authorization", "Bearer ")], None),
            (&[("authorization", "a.b")], None),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], None),
            (&[], None),
        ];
        for (pairs, token) in cases {
            assert_eq!(bearer(&headers(pairs)), token, "{pairs:?}");
        }
    }

    #[test]
    fn only_true_marks_a_background_request() {
        let cases: [(HeaderPairs, Activity); 6] = [
            (&[], Activity::User),
            (&[("x-background", "true")], Activity::Background),
            (&[("x-background", "false")], Activity::User),
            (&[("x-background", "1")], Activity::User),
            (&[("x-background", "")], Activity::User),
            (&[("x-background", "true"), ("x-background", "true")], Activity::User),
        ];
        for (pairs, expected) in cases {
            assert_eq!(activity(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    /// Random header lines: an accepted cookie or token is well-formed and unique.
    #[test]
    fn fuzz_headers() {
        let dictionary = [
            "cookie: session_id=",
            "session_id=x; ",
            "refresh_token=x; ",
            "authorization: Bearer ",
            "sec-fetch-site: ",
            "origin: ",
            "host: ",
        ];
        pilothouse_fuzz::fuzz("headers", &dictionary, |input| {
            let lines = input.split(|byte| *byte == b'\n').filter_map(|line| {
                let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
                let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
                Some((name, actix_web::http::header::HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?))
            });
            let mut headers = HeaderMap::new();
            lines.for_each(|(name, value)| headers.append(name, value));
            for cookie in [Cookie::Session, Cookie::Refresh].into_iter().filter_map(|one| one.read(&headers))
            {
                assert!(!cookie.is_empty() && !cookie.contains(';'), "{cookie:?}");
            }
            if let Some(token) = bearer(&headers) {
                assert!(!token.is_empty() && headers.get_all(AUTHORIZATION).count() == 1, "{token:?}");
            }
            let site = headers.get("sec-fetch-site").map(|site| site.as_bytes().to_vec());
            if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
                assert!(is_cross_site(&headers));
            }
        });
    }

    #[test]
    fn request_of_another_origin_is_cross_site() {
        let cases: [(HeaderPairs, bool); 9] = [
            (&[], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site"), ("host", "a"), ("origin", "http://a")], true),
            (&[("host", "a:8080"), ("origin", "http://a:8080")], false),
            (&[("host", "a:8080"), ("origin", "http://a:9090")], true),
            (&[("host", "a"), ("origin", "null")], true),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], true),
        ];
        for (pairs, cross_site) in cases {
            assert_eq!(is_cross_site(&headers(pairs)), cross_site, "{pairs:?}");
        }
    }
}
