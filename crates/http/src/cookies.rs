//! Cookies: reading them from a request, and writing them in a response.

use actix_web::http::header::{COOKIE, HeaderMap, HeaderValue};
use pilothouse_core::Error;
use secrecy::{ExposeSecret, SecretString};

use crate::api::Api;

/// A cookie of the API. All are out of reach of scripts (`HttpOnly`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// `session_id`: identifies the session.
    Session,
    /// `refresh_token`: the refresh token of a browser, sent to `/api/auth/refresh` only.
    Refresh,
    /// `__Host-oidc_login`: binds a sign-in at an OpenID provider to the browser that began it, for ten minutes. The
    /// prefix makes browsers refuse it from other hosts of the same domain.
    OidcLogin,
    /// As [`Cookie::OidcLogin`], on loopback without TLS, where browsers would drop a cookie with the prefix.
    LoopbackOidcLogin,
}

impl Cookie {
    /// The cookie of a sign-in at an OpenID provider, as this server sets it.
    pub(crate) fn oidc_login(api: &Api) -> Self {
        if api.settings.secure_cookie { Self::OidcLogin } else { Self::LoopbackOidcLogin }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Session => "session_id",
            Self::Refresh => "refresh_token",
            Self::OidcLogin => "__Host-oidc_login",
            Self::LoopbackOidcLogin => "oidc_login",
        }
    }

    /// The requests to which browsers add the cookie. The page of a sign-in at a provider is opened from the provider's
    /// site, so `Strict` could leave that cookie out.
    const fn scope(self) -> &'static str {
        match self {
            Self::Session => "SameSite=Strict; Path=/",
            Self::Refresh => "SameSite=Strict; Path=/api/auth/refresh",
            Self::OidcLogin | Self::LoopbackOidcLogin => "SameSite=Lax; Path=/",
        }
    }

    /// The values of all cookies of the name in a request.
    fn values(self, headers: &HeaderMap) -> impl Iterator<Item = &str> {
        let texts = headers.get_all(COOKIE).filter_map(|value| value.to_str().ok());
        texts
            .flat_map(|text| text.split(';'))
            .filter_map(move |pair| pair.trim().strip_prefix(self.name())?.strip_prefix('='))
    }

    /// Whether a request has a cookie of the name, valid or not.
    pub(crate) fn is_sent(self, headers: &HeaderMap) -> bool {
        self.values(headers).next().is_some()
    }

    /// The value in a request. Two cookies of the name count as none, because one may have been injected.
    pub(crate) fn read(self, headers: &HeaderMap) -> Option<&str> {
        let mut values = self.values(headers);
        values.next().filter(|value| !value.is_empty() && values.next().is_none())
    }

    /// The header that sets the cookie: until the browser ends, or for the ten minutes of a sign-in.
    pub(crate) fn set(self, api: &Api, value: &SecretString) -> Result<HeaderValue, Error> {
        let lifetime = match self {
            Self::Session | Self::Refresh => "",
            Self::OidcLogin | Self::LoopbackOidcLogin => "; Max-Age=600",
        };
        self.header(api, value.expose_secret(), lifetime)
    }

    /// The header that removes the cookie.
    pub(crate) fn clear(self, api: &Api) -> Result<HeaderValue, Error> {
        self.header(api, "", "; Max-Age=0")
    }

    /// `Secure` is omitted only on loopback without TLS, where browsers would drop the cookie.
    fn header(self, api: &Api, value: &str, attributes: &str) -> Result<HeaderValue, Error> {
        let (name, scope) = (self.name(), self.scope());
        let secure = if api.settings.secure_cookie { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; HttpOnly; {scope}{secure}{attributes}");
        HeaderValue::try_from(cookie).map_err(|_| Error::internal("a cookie is not a valid header value"))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn exactly_one_cookie_of_the_name_is_read() {
        let cases: [(&[&str], Option<&str>, Option<&str>); 8] = [
            (&["a=b; session_id=x; c=d"], Some("x"), None),
            (&["a=b", "session_id=x; refresh_token=y"], Some("x"), Some("y")),
            (&["session_id=x; session_id=y"], None, None),
            (&["refresh_token=x", "refresh_token=y; session_id=z"], Some("z"), None),
            (&["xsession_id=x; refresh_tokens=y"], None, None),
            (&["session_id=; refresh_token="], None, None),
            (&["session_id; refresh_token"], None, None),
            (&[], None, None),
        ];
        for (lines, session, refresh) in cases {
            let request =
                lines.iter().fold(TestRequest::get(), |request, line| request.append_header((COOKIE, *line)));
            let request = request.to_http_request();
            let read = |cookie: Cookie| cookie.read(request.headers());
            assert_eq!((read(Cookie::Session), read(Cookie::Refresh)), (session, refresh), "{lines:?}");
        }
    }
}
