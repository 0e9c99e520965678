//! Minimal browser for sign-ins at OpenID providers: cookies, redirects and forms, but no scripts.

use std::{fs, path::PathBuf};

use pilothouse_testbed::password_of;
use reqwest::{
    Certificate, Method, Url,
    header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, ORIGIN, SET_COOKIE},
    redirect::Policy,
};
use serde_json::{Value, json};

use super::Session;

/// Maximum number of redirects of one visit.
const MAX_REDIRECTS: usize = 10;

/// A browser whose visits are all to 127.0.0.1. As in browsers, a cookie is sent to all ports of its host, and a cookie
/// with `Secure` is sent to loopback without TLS, too.
pub(crate) struct Browser {
    http: reqwest::Client,
    cookies: Vec<Cookie>,
}

struct Cookie {
    name: String,
    value: String,
    path: String,
}

/// A response that is not a redirect.
pub(crate) struct Page {
    pub(crate) url: Url,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Browser {
    /// A browser without cookies that trusts these authorities, PEM files.
    pub(crate) fn new(authorities: &[PathBuf]) -> Self {
        let certificates = authorities.iter().map(|file| {
            Certificate::from_pem(&fs::read(file).expect("a readable file")).expect("a PEM certificate")
        });
        let mut http = reqwest::Client::builder().no_proxy().redirect(Policy::none());
        if !authorities.is_empty() {
            http = http.tls_certs_only(certificates);
        }
        Self { http: http.build().expect("an HTTP client"), cookies: Vec::new() }
    }

    /// The value of a cookie.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.iter().find(|cookie| cookie.name == name).map(|cookie| &*cookie.value)
    }

    /// The session with an access token from a response to this browser. It has no refresh token, which is in a cookie.
    pub(crate) fn session(&self, data: &Value) -> Session {
        Session {
            access_token: data["access_token"].as_str().expect("an access token").to_owned(),
            refresh_token: String::new(),
            session_id: self.cookie("session_id").expect("a session cookie").to_owned(),
        }
    }

    /// Visits an address, and follows redirects.
    pub(crate) async fn open(&mut self, url: &str) -> Page {
        let page = self.send(Method::GET, url.parse().expect("a URL"), None).await;
        self.follow(page).await
    }

    /// Visits an address without following a redirect.
    pub(crate) async fn open_once(&mut self, url: &str) -> Page {
        self.send(Method::GET, url.parse().expect("a URL"), None).await
    }

    /// Submits the first form of a page with these fields beside its own, and follows redirects.
    pub(crate) async fn submit(&mut self, page: &Page, fields: &[(&str, &str)]) -> Page {
        let (action, mut form) =
            page.form().unwrap_or_else(|| panic!("no form: {}\n{}", page.url, page.text));
        form.retain(|(name, _)| fields.iter().all(|(given, _)| given != name));
        form.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut encoded = Url::parse("http://form").expect("a URL");
        encoded.query_pairs_mut().extend_pairs(form);
        let body = encoded.query().unwrap_or_default().to_owned();
        let page = self.send(Method::POST, action, Some(("application/x-www-form-urlencoded", body))).await;
        self.follow(page).await
    }

    /// Sends JSON as a script of the same origin does; `None`: no body.
    pub(crate) async fn post(&mut self, url: &str, body: Option<&Value>) -> Page {
        let content = body.map(|body| ("application/json", body.to_string()));
        self.send(Method::POST, url.parse().expect("a URL"), content).await
    }

    /// Signs in at an OpenID provider, up to the page of Pilothouse to which the provider sends the browser.
    pub(crate) async fn reach_callback(&mut self, public_url: &str, provider: &str, user: &str) -> Page {
        let mut page = self.open(&format!("{public_url}/api/auth/oidc/{provider}/start?to=/clusters")).await;
        if page.form().is_some() {
            page = self.submit(&page, &[("username", user), ("password", &password_of(user))]).await;
        }
        let path = format!("/api/auth/oidc/{provider}/callback");
        assert_eq!((page.status, page.url.path()), (200, &path[..]), "{}\n{}", page.url, page.text);
        page
    }

    /// Sends the request that the page of [`Browser::reach_callback`] sends.
    pub(crate) async fn finish(&mut self, public_url: &str, provider: &str, callback: &Page) -> Page {
        let pairs =
            callback.url.query_pairs().filter(|(name, _)| ["code", "state", "iss"].contains(&&**name));
        let body = Value::from_iter(pairs.map(|(name, value)| (name.into_owned(), json!(value))));
        self.post(&format!("{public_url}/api/auth/oidc/{provider}/finish"), Some(&body)).await
    }

    async fn follow(&mut self, mut page: Page) -> Page {
        for _ in 0..MAX_REDIRECTS {
            if !(300..400).contains(&page.status) {
                return page;
            }
            let location = page.headers[LOCATION].to_str().expect("a text header").to_owned();
            let next = page.url.join(&location).expect("a URL");
            page = self.send(Method::GET, next, None).await;
        }
        panic!("more than {MAX_REDIRECTS} redirects, the last to {}", page.url);
    }

    async fn send(&mut self, method: Method, url: Url, content: Option<(&str, String)>) -> Page {
        let mut request = self.http.request(method.clone(), url.clone());
        let cookies = self.cookies.iter().filter(|cookie| is_below(url.path(), &cookie.path));
        let cookies: Vec<_> = cookies.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        if method == Method::POST {
            request = request.header(ORIGIN, url.origin().ascii_serialization());
        }
        if let Some((kind, body)) = content {
            request = request.header(CONTENT_TYPE, kind).body(body);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{method} {url}: {error:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        for cookie in headers.get_all(SET_COOKIE) {
            self.set_cookie(cookie.to_str().expect("a text header"));
        }
        let text = response.text().await.expect("a complete body");
        Page { url, status, headers, text }
    }

    /// Stores, replaces or removes the cookie of a header `Set-Cookie`.
    pub(crate) fn set_cookie(&mut self, header: &str) {
        let mut parts = header.split(';').map(str::trim);
        let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a cookie");
        let attributes: Vec<_> = parts.collect();
        let attribute = |name: &str| {
            let found = attributes.iter().filter_map(|attribute| attribute.split_once('='));
            found.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let path = attribute("path").unwrap_or("/").to_owned();
        let removed = attribute("max-age") == Some("0")
            || attribute("expires").is_some_and(|date| date.contains(" 1970 "));
        self.cookies.retain(|cookie| cookie.name != name || cookie.path != path);
        if !removed && !value.is_empty() {
            self.cookies.push(Cookie { name: name.to_owned(), value: value.to_owned(), path });
        }
    }
}

impl Page {
    /// The data of a successful response in JSON.
    pub(crate) fn data(&self) -> Value {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        assert!(self.status == 200 && body["success"] == true, "{}: {} {}", self.url, self.status, self.text);
        body["data"].clone()
    }

    /// The cause of an error response in JSON.
    pub(crate) fn cause(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        assert_eq!(body["success"], false, "{}: {} {}", self.url, self.status, self.text);
        body["context"]["cause"].as_str().unwrap_or_default().to_owned()
    }

    /// The address and the fields of the first form.
    fn form(&self) -> Option<(Url, Vec<(String, String)>)> {
        let (_, form) = self.text.split_once("<form")?;
        let form = form.split_once("</form>").map_or(form, |(form, _)| form);
        let action = self.url.join(&attribute(form.split('>').next()?, "action")?).ok()?;
        let inputs = form.split("<input").skip(1).filter_map(|input| input.split('>').next());
        let fields = inputs.filter_map(|input| {
            Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default()))
        });
        Some((action, fields.collect()))
    }
}

/// The value of an attribute in quotation marks, or without them.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}="))?;
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([' ', '/']).next()?,
    };
    Some(value.replace("&amp;", "&"))
}

/// Reports whether a cookie with this path is sent with a request for `path` (RFC 6265, section 5.1.4).
fn is_below(path: &str, cookie_path: &str) -> bool {
    path.strip_prefix(cookie_path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie_path.ends_with('/'))
}
