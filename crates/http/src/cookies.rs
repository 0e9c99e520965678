//! Cookies: reading them from a request, and writing them in a response.

use actix_web::http::header::{COOKIE, HeaderMap, HeaderValue};
use pilothouse_core::Error;
use secrecy::{ExposeSecret, SecretString};

use crate::api::Api;

/// A cookie of the API. All are out of reach of scripts (`HttpOnly`) and sent by pages of the same site only
/// (`SameSite=Strict`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// `session_id`: identifies the session.
    Session,
    /// `refresh_token`: the refresh token of a browser, sent to `/api/auth/refresh` only.
    Refresh,
}

impl Cookie {
    /// The name and the path.
    const fn name_and_path(self) -> (&'static str, &'static str) {
        match self {
            Self::Session => ("session_id", "/"),
            Self::Refresh => ("refresh_token", "/api/auth/refresh"),
        }
    }

    /// The value in a request. Two cookies of the name count as none, because one may have been injected.
    pub(crate) fn read(self, headers: &HeaderMap) -> Option<&str> {
        let (name, _) = self.name_and_path();
        let texts = headers.get_all(COOKIE).filter_map(|value| value.to_str().ok());
        let mut values = texts
            .flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
        values.next().filter(|value| !value.is_empty() && values.next().is_none())
    }

    /// The header that sets the cookie until the browser ends.
    pub(crate) fn set(self, api: &Api, value: &SecretString) -> Result<HeaderValue, Error> {
        self.header(api, value.expose_secret(), "")
    }

    /// The header that removes the cookie.
    pub(crate) fn clear(self, api: &Api) -> Result<HeaderValue, Error> {
        self.header(api, "", "; Max-Age=0")
    }

    /// `Secure` is omitted only on loopback without TLS, where browsers would drop the cookie.
    fn header(self, api: &Api, value: &str, attributes: &str) -> Result<HeaderValue, Error> {
        let (name, path) = self.name_and_path();
        let secure = if api.settings.secure_cookie { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; HttpOnly; SameSite=Strict; Path={path}{secure}{attributes}");
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
