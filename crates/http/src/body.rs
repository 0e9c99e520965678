//! Request body extractor: a JSON object with a size limit and a timeout.

use std::{collections::HashSet, fmt};

use actix_web::{
    HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap},
    rt::time::timeout,
};
use futures_util::StreamExt;
use pilothouse_core::{Cause, Error, error::Reason};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::Input,
    query::RawQuery,
    serde_errors,
};

/// Maximum size of a request body, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;
/// Maximum size of a login body, in bytes; smaller because login needs no authentication.
pub(crate) const MAX_LOGIN_BODY_BYTES: usize = 4 << 10;

/// Maximum size of the body of a sign-in through an identity provider, in bytes. A code or a logout token may have several
/// thousand.
pub(crate) const MAX_SIGN_IN_BODY_BYTES: usize = 16 << 10;

/// Maximum length of the path of a duplicate key, in bytes; an error quotes less of it.
const MAX_PATH_BYTES: usize = 1 << 10;

/// A JSON object, deserialised into `T`. An empty body is read as `{}`.
///
/// # Errors
/// `UnsupportedMediaType` or `BodyTooLarge`; then `InvalidInput` naming the field, also for a body that does not arrive
/// in time and for any query parameter, because a change takes none.
pub(crate) struct Body<T, const LIMIT: usize = MAX_BODY_BYTES>(pub(crate) T);

impl<T: DeserializeOwned + 'static, const LIMIT: usize> Input for Body<T, LIMIT> {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        Ok(Self::read_with_bytes(request, payload).await?.0)
    }
}

impl<T: DeserializeOwned, const LIMIT: usize> Body<T, LIMIT> {
    /// The deserialised body, and the JSON that was received.
    pub(crate) async fn read_with_bytes(request: &HttpRequest, payload: Payload) -> Result<(Self, Vec<u8>)> {
        let mut bytes = collect(request, payload, LIMIT, is_json(request)).await?;
        RawQuery::of(request)?.none_expected()?;
        if bytes.is_empty() {
            bytes.extend(b"{}");
        }
        Ok((Self(parse(&bytes)?), bytes))
    }
}

impl<T: utoipa::ToSchema, const LIMIT: usize> Documented for Body<T, LIMIT> {
    fn describe(docs: &mut Docs) {
        docs.request_body::<T>();
    }
}

/// The value of the field `logout_token` of a form: the body of a back-channel logout (OpenID Connect Back-Channel Logout
/// 1.0, section 2.5). Other fields are ignored.
///
/// # Errors
/// As [`Body`].
pub(crate) struct LogoutToken(pub(crate) String);

impl Input for LogoutToken {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        const FIELD: &str = "logout_token";
        let is_form = request.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded");
        let bytes = collect(request, payload, MAX_SIGN_IN_BODY_BYTES, is_form).await?;
        RawQuery::of(request)?.none_expected()?;
        let text = String::from_utf8(bytes).map_err(|_| serde_errors::malformed_body())?;
        // the specification requires that other fields are ignored
        let mut tokens = RawQuery::parse_pairs(&text)?.0.into_iter().filter(|(name, _)| name == FIELD);
        match (tokens.next(), tokens.next()) {
            (Some((_, token)), None) => Ok(Self(token)),
            (None, _) => Err(Error::invalid(FIELD, Reason::Required).into()),
            (Some(_), Some(_)) => Err(Error::invalid(FIELD, Reason::Duplicate).into()),
        }
    }
}

impl Documented for LogoutToken {
    fn describe(docs: &mut Docs) {
        let example = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL3Nzby5leGFtcGxlLmNvbSJ9.c2lnbmF0dXJl";
        docs.form_field("logout_token", "The logout token of the provider, a JWT.", example);
    }
}

/// Reads a body, within the timeout of a body. `is_expected`: whether the media type is that of the endpoint.
async fn collect(
    request: &HttpRequest,
    payload: Payload,
    limit: usize,
    is_expected: bool,
) -> Result<Vec<u8>> {
    let time = Api::body_time(request.app_data());
    timeout(time, read_bytes(request, payload, limit, is_expected))
        .await
        .map_err(|_| serde_errors::body_timeout())?
}

async fn read_bytes(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
    is_expected: bool,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let declared =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if is_expected && declared.is_some_and(|length| length > limit) {
        return Err(Cause::BodyTooLarge.into());
    }
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| serde_errors::malformed_body())?;
        if !is_expected && !chunk.is_empty() {
            return Err(Cause::UnsupportedMediaType.into());
        }
        if bytes.len() + chunk.len() > limit {
            return Err(Cause::BodyTooLarge.into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Whether the body is `application/json` without a charset or with UTF-8, and not compressed.
fn is_json(request: &HttpRequest) -> bool {
    let uncompressed = |headers: &HeaderMap| {
        headers
            .get(CONTENT_ENCODING)
            .is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    };
    let text = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let charset = text.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let utf8 = charset
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, charset)| charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"));
    request.content_type().eq_ignore_ascii_case("application/json") && utf8 && uncompressed(request.headers())
}

/// Parses one JSON object, at most 128 levels deep (serde_json's limit). An array is refused here, because serde would
/// accept it for a struct.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'[') {
        return Err(Error::invalid(serde_errors::BODY, Reason::InvalidType));
    }
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // serde_json reports a number in place of a string enum as bad syntax, although the body is JSON
        let is_json = || serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
        if error.inner().is_data() || is_json() {
            Error::fields(vec![serde_errors::field_error(error.path(), error.inner())])
        } else {
            serde_errors::malformed_body()
        }
    })?;
    json.end().map_err(|_| serde_errors::malformed_body())?;
    // serde refuses duplicate fields of a struct, but keeps the last of duplicate map keys
    match serde_json::from_slice(bytes) {
        Ok(DuplicateKey(None)) => Ok(value),
        Ok(DuplicateKey(Some(path))) => Err(Error::invalid(path, Reason::Duplicate)),
        Err(_) => Err(serde_errors::malformed_body()),
    }
}

/// The path of the first duplicate key in an object of a JSON value.
struct DuplicateKey(Option<String>);

impl<'de> Deserialize<'de> for DuplicateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DuplicateKeyVisitor)
    }
}

/// Joins the path of a key to its parent, truncated to [`MAX_PATH_BYTES`] at any depth.
fn path(outer: fmt::Arguments<'_>, inner: &str) -> String {
    let mut path = format!("{outer}.{inner}");
    path.truncate(path.floor_char_boundary(MAX_PATH_BYTES));
    path
}

struct DuplicateKeyVisitor;

macro_rules! no_keys {
    ($($method:ident: $type:ty)*) => {$(
        fn $method<E>(self, _: $type) -> Result<DuplicateKey, E> {
            Ok(DuplicateKey(None))
        }
    )*};
}

impl<'de> Visitor<'de> for DuplicateKeyVisitor {
    type Value = DuplicateKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    no_keys! { visit_bool: bool visit_i64: i64 visit_u64: u64 visit_f64: f64 visit_str: &str }

    fn visit_unit<E>(self) -> Result<DuplicateKey, E> {
        Ok(DuplicateKey(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<DuplicateKey, A::Error> {
        let mut found = None;
        let mut index = 0;
        while let Some(DuplicateKey(within)) = items.next_element()? {
            found = found.or(within.map(|within| path(format_args!("[{index}]"), &within)));
            index += 1;
        }
        Ok(DuplicateKey(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<DuplicateKey, A::Error> {
        let (mut found, mut keys) = (None, HashSet::new());
        while let Some((key, DuplicateKey(within))) = pairs.next_entry::<String, _>()? {
            found = found.or(within.map(|within| path(format_args!("{key}"), &within)));
            found = found.or_else(|| keys.contains(&key).then(|| key.clone()));
            keys.insert(key);
        }
        Ok(DuplicateKey(found))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use pilothouse_core::error::FieldError;

    use super::*;

    #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        id: i64,
    }

    #[test]
    fn malformed_bodies_are_refused_by_field() {
        let deep = format!(r#"{{"id":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
        let cases = [
            ("", "body", "malformed"),
            ("{", "body", "malformed"),
            (r#"{"id":1}x"#, "body", "malformed"),
            ("[1]", "body", "invalid_type"),
            (" [1]", "body", "invalid_type"),
            ("null", "body", "invalid_type"),
            (r#"{"id":1,"id":1}"#, "id", "duplicate"),
            (deep.as_str(), "id", "invalid_type"),
            ("{\"id\":\"\u{7f}\"}", "id", "invalid_type"),
        ];
        for (json, name, reason) in cases {
            let error = parse::<Sample>(json.as_bytes()).unwrap_err();
            let FieldError { name: found, reason: why } = &error.context.fields[0];
            assert_eq!((found.as_str(), why.as_str()), (name, reason), "{json}");
        }
        assert_eq!(parse::<Sample>(b" {\"id\":1} \n"), Ok(Sample { id: 1 }));
        assert!(parse::<Sample>(b"{\"id\":1,\"\xff\":1}").is_err());
        let deep = "[".repeat(100_000);
        assert!(
            parse::<serde_json::Value>(format!("{{\"a\":{deep}").as_bytes()).is_err(),
            "deeper than the recursion limit"
        );
    }

    #[test]
    fn fuzz_request_bodies() {
        let dictionary = ["{", "[", "\"id\":1", "\"\\ud800\"", ":", ",", "}", "true", "\"a\":{\"a\":"];
        pilothouse_fuzz::fuzz("request_bodies", &dictionary, |input| {
            if let Err(error) = parse::<Sample>(input) {
                assert!(!error.context.fields.is_empty(), "the error names a field");
            }
            // an accepted value is the one that serde_json reads
            if let Ok(value) = parse::<serde_json::Value>(input) {
                assert_eq!(serde_json::from_slice::<serde_json::Value>(input).unwrap(), value);
            }
        });
    }

    #[test]
    fn duplicate_key_is_refused_at_any_depth() {
        let cases = [
            (r#"{"labels":{"a":"1","a":"1"}}"#, "labels.a"),
            (r#"{"labels":{"a":"1","\u0061":"2"}}"#, "labels.a"),
            (r#"{"a":[{},{"b":1,"b":null}]}"#, "a.[1].b"),
            (r#"{"a":1,"b":2,"a":3}"#, "a"),
        ];
        for (json, name) in cases {
            let error = parse::<serde_json::Value>(json.as_bytes()).unwrap_err();
            assert_eq!(error, Error::invalid(name, Reason::Duplicate), "{json}");
        }
        let distinct = br#"{"a":{"x":1.5},"b":{"x":-1,"a":[true,null,"a"]}}"#;
        assert!(parse::<serde_json::Value>(distinct).is_ok());
    }

    #[test]
    fn only_json_in_utf8_is_accepted() {
        let cases = [
            ("application/json", true),
            ("Application/JSON; Charset=\"UTF-8\"", true),
            ("application/json;charset=utf-8", true),
            ("application/json; charset=gbk", false),
            ("application/json-patch+json", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ];
        for (text, json) in cases {
            let request = TestRequest::post().insert_header((CONTENT_TYPE, text)).to_http_request();
            assert_eq!(is_json(&request), json, "{text:?}");
        }
        let gzip = TestRequest::post().insert_header((CONTENT_TYPE, "application/json"));
        assert!(!is_json(&gzip.insert_header((CONTENT_ENCODING, "gzip")).to_http_request()));
    }
}
