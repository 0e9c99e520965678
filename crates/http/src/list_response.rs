//! A page of a list as it is sent: the rows' own bytes with the envelope written around them. Nothing is parsed or
//! serialised again, and nothing is sent to whoever has it already.
//!
//! The `ETag` is over all that the body holds but `as_of`, which moves on while nothing happens; so it is a weak one (RFC
//! 9110, 8.8.1), the same for every content coding.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::{
        StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_ENCODING, ContentType, ETAG, EntityTag, Header, HeaderName, HeaderValue,
            IF_NONE_MATCH, IfNoneMatch, VARY,
        },
    },
    web::Data,
};
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    gate::Warning,
    inventory::{Digest, DigestKey, Pagination, Row},
};
use serde::Serialize;

use crate::{
    error::Failure,
    gzip,
    messages::{Language, Message},
    middleware::RequestContext,
    server::Api,
};

/// When the rows were known to be current; on a 304, which has no body, it is the only place that says so.
pub(crate) const AS_OF: HeaderName = HeaderName::from_static("x-as-of");

/// Kept by nobody but the caller, who asks each time whether it is still so: a right may be gone.
const REVALIDATED: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Headers of a request that change what is answered to it.
const VARIES: HeaderValue =
    HeaderValue::from_static("Accept-Encoding, Accept-Language, Authorization, Cookie");

/// A page of rows as they were serialised once.
pub(crate) struct ListResponse {
    /// The key of the rows.
    pub(crate) key: &'static str,
    /// The rows of the page.
    pub(crate) rows: Vec<Row>,
    /// Where they stand.
    pub(crate) pagination: Pagination,
    /// `as_of` and `stale`, of a cluster's objects.
    pub(crate) freshness: Option<(Timestamp, bool)>,
    /// What the reader should know.
    pub(crate) warnings: Vec<Warning>,
}

/// What a page holds, in short: a digest under the process's key, over the digests of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ETag(pub(crate) Digest);

impl ETag {
    /// As an entity tag without its quotes: hexadecimal digits.
    fn opaque(self) -> String {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0xf])
            .map(|digit| DIGITS[usize::from(digit)])
            .collect()
    }
}

impl Responder for ListResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        self.answer(request).unwrap_or_else(|error| HttpResponse::from_error(Failure::from(error)))
    }
}

impl ListResponse {
    fn answer(&self, request: &HttpRequest) -> Result<HttpResponse, Error> {
        let language = RequestContext::language(request);
        let tag = self.tag(language, DigestKey::shared());
        let opaque = tag.opaque();
        let known = is_known(request, &opaque);
        let mut response = HttpResponse::build(if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
        response
            .insert_header((ETAG, format!("W/\"{opaque}\"")))
            .insert_header((CACHE_CONTROL, REVALIDATED))
            .insert_header((VARY, VARIES));
        if let Some((as_of, _)) = self.freshness {
            response.insert_header((AS_OF, as_of.to_string()));
        }
        if known {
            return Ok(response.finish());
        }
        response.content_type(ContentType::json());

        let size = self.rows.iter().map(|row| row.bytes().len() + 1).sum::<usize>() + 128;
        let rest = self.rest(language).map_err(unwritten)?;
        if gzip::wanted(request.headers(), size) {
            let first = || self.first(Vec::with_capacity(size));
            let compressed = request.app_data::<Data<Api>>().map(|api| api.compressed.clone());
            let packed = compressed.unwrap_or_default().get(tag, first).map_err(unwritten)?;
            response.insert_header((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
            return Ok(response.body(packed.with(&rest)));
        }
        let mut body = self.first(Vec::with_capacity(size + rest.len()));
        body.extend_from_slice(&rest);
        Ok(response.body(body))
    }

    /// The body as far as it depends on rows and query alone.
    fn first(&self, mut body: Vec<u8>) -> Vec<u8> {
        body.extend_from_slice(b"{\"success\":true,\"data\":{\"");
        body.extend_from_slice(self.key.as_bytes());
        body.extend_from_slice(b"\":[");
        for (i, row) in self.rows.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(row.bytes());
        }
        body.push(b']');
        body
    }

    /// What comes after the rows.
    fn rest(&self, language: Language) -> serde_json::Result<Vec<u8>> {
        let words = language.words();
        let mut body = Vec::with_capacity(256);
        member(&mut body, "pagination", &self.pagination)?;
        if let Some((as_of, stale)) = self.freshness {
            member(&mut body, "as_of", &as_of)?;
            member(&mut body, "stale", &stale)?;
        }
        if !self.warnings.is_empty() {
            let warnings: Vec<_> = self.warnings.iter().map(|warning| words.warning(warning)).collect();
            member(&mut body, "warnings", &warnings)?;
        }
        body.push(b'}');
        member(&mut body, "message", words.message(Message::Done))?;
        body.push(b'}');
        Ok(body)
    }

    fn tag(&self, language: Language, key: &DigestKey) -> ETag {
        let Pagination { page, per_page, total, .. } = self.pagination;
        // a row's JSON begins with a brace, this with a digit: no tag is a row's digest
        let mut hash = key.start();
        // another version may have other words
        hash.update(concat!(env!("CARGO_PKG_VERSION"), "\0"));
        hash.update(self.key);
        hash.update([0, language as u8, self.freshness.map_or(0, |(_, stale)| 1 + u8::from(stale))]);
        for number in [page, per_page, total, self.rows.len() as u64] {
            hash.update(number.to_le_bytes());
        }
        for row in &self.rows {
            hash.update(row.digest());
        }
        for warning in &self.warnings {
            hash.update(warning.as_str());
            hash.update([0]);
            hash.update(warning.about());
            hash.update([0]);
        }
        ETag(hash.finish())
    }
}

/// Writes `,"name":value`.
pub(crate) fn member(
    body: &mut Vec<u8>,
    name: &str,
    value: &(impl Serialize + ?Sized),
) -> serde_json::Result<()> {
    body.extend_from_slice(b",\"");
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(b"\":");
    serde_json::to_writer(body, value)
}

/// What was to be written to memory was not.
pub(crate) fn unwritten(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("a body: {error}"))
}

/// Whether the caller has it (RFC 9110, 13.1.2): by weak comparison with any of the tags sent, or `*`.
fn is_known(request: &HttpRequest, opaque: &str) -> bool {
    request.headers().contains_key(IF_NONE_MATCH)
        && match IfNoneMatch::parse(request) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(tags)) => {
                let ours = EntityTag::new_weak(opaque.to_owned());
                tags.iter().any(|tag| tag.weak_eq(&ours))
            }
            Err(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use actix_web::test::TestRequest;
    use flate2::read::GzDecoder;
    use pilothouse_core::inventory::{Cell, Field, ListRow};
    use serde_json::Value;

    use super::*;

    #[derive(Clone, Serialize)]
    struct Thing {
        name: String,
        labels: Vec<String>,
    }

    impl ListRow for Thing {
        const FIELDS: &'static [Field<Self>] = &[Field::new("name", |row| Cell::text(&*row.name))];

        fn name(&self) -> &str {
            &self.name
        }

        fn namespace(&self) -> Option<&str> {
            None
        }
    }

    /// The answer as serde writes it.
    #[derive(Serialize)]
    struct Envelope {
        success: bool,
        data: Data,
        message: &'static str,
    }

    #[derive(Serialize)]
    struct Data {
        things: Vec<Thing>,
        pagination: Pagination,
        #[serde(skip_serializing_if = "Option::is_none")]
        as_of: Option<Timestamp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stale: Option<bool>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    }

    fn things(names: &[&str]) -> Vec<Thing> {
        let labels = vec!["\"quoted\" \\ \n 部署 \u{7f}".to_owned()];
        names.iter().map(|name| Thing { name: (*name).to_owned(), labels: labels.clone() }).collect()
    }

    fn page(names: &[&str]) -> ListResponse {
        ListResponse {
            key: "things",
            rows: things(names).iter().map(|thing| Row::of(thing).unwrap()).collect(),
            pagination: Pagination { page: 2, per_page: 3, total: 10, pages: 4 },
            freshness: None,
            warnings: Vec::new(),
        }
    }

    fn written(page: &ListResponse, language: Language) -> String {
        let mut body = page.first(Vec::new());
        body.extend(page.rest(language).unwrap());
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn the_body_is_what_serde_writes() {
        let as_of: Timestamp = "2026-01-01T00:00:00.25Z".parse().unwrap();
        let warnings = vec![Warning::NotServed("ingresses"), Warning::NotCached("pods")];
        for names in [&[][..], &["a"], &["a", "\"b\"", "c,d"]] {
            for freshness in [None, Some((as_of, false)), Some((as_of, true))] {
                for warnings in [&[][..], &warnings] {
                    for (language, message) in [(Language::Chinese, "操作成功"), (Language::English, "Done")]
                    {
                        let page = ListResponse { freshness, warnings: warnings.to_vec(), ..page(names) };
                        let data = Data {
                            things: things(names),
                            pagination: page.pagination,
                            as_of: freshness.map(|(as_of, _)| as_of),
                            stale: freshness.map(|(_, stale)| stale),
                            warnings: warnings.iter().map(|one| language.words().warning(one)).collect(),
                        };
                        let expected =
                            serde_json::to_string(&Envelope { success: true, data, message }).unwrap();
                        assert_eq!(written(&page, language), expected);
                        serde_json::from_str::<Value>(&expected).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn the_tag_changes_with_all_that_the_body_holds_but_as_of() {
        let early: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let late: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let base = || ListResponse { freshness: Some((early, false)), ..page(&["a", "b"]) };
        let tag = |page: &ListResponse| page.tag(Language::Chinese, DigestKey::shared());
        assert_eq!(tag(&base()), tag(&ListResponse { freshness: Some((late, false)), ..base() }));
        let of = |page, per_page, total| Pagination { page, per_page, total, pages: 4 };
        let others = [
            base().tag(Language::English, DigestKey::shared()),
            tag(&ListResponse { freshness: None, ..base() }),
            tag(&ListResponse { freshness: Some((early, true)), ..base() }),
            tag(&ListResponse { key: "others", ..base() }),
            tag(&ListResponse { rows: page(&["b", "a"]).rows, ..base() }),
            tag(&ListResponse { rows: page(&["a"]).rows, ..base() }),
            tag(&ListResponse { rows: page(&["a", "b", "c"]).rows, ..base() }),
            tag(&ListResponse { pagination: of(1, 3, 10), ..base() }),
            tag(&ListResponse { pagination: of(2, 4, 10), ..base() }),
            tag(&ListResponse { pagination: of(2, 3, 11), ..base() }),
            tag(&ListResponse { warnings: vec![Warning::NotServed("ingresses")], ..base() }),
            tag(&ListResponse { warnings: vec![Warning::NotServed("pods")], ..base() }),
            tag(&ListResponse { warnings: vec![Warning::NotCached("pods")], ..base() }),
        ];
        let mut all: Vec<_> = others.into_iter().chain([tag(&base())]).map(ETag::opaque).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 14);
    }

    #[test]
    fn the_tag_and_the_rows_digests_are_of_128_bits_and_keyed() {
        let keys = [[1; 32], [2; 32]].map(|key| DigestKey::new(&key));
        let with_rows_of = |key: &DigestKey| {
            let rows =
                things(&["a", "b"]).iter().map(|thing| Row::of_with_key(thing, key).unwrap()).collect();
            ListResponse { rows, ..page(&[]) }
        };
        let [one, other] = keys.each_ref().map(with_rows_of);
        for (a, b) in one.rows.iter().zip(&other.rows) {
            assert_eq!(a.json(), b.json());
            assert_ne!(a.digest(), b.digest(), "another key");
            assert!(128 <= 8 * size_of_val(&a.digest()));
        }
        let tag = |page: &ListResponse, key| page.tag(Language::Chinese, key).opaque();
        assert_eq!(tag(&one, &keys[0]).len(), 128 / 4);
        let mut tags =
            [tag(&one, &keys[0]), tag(&one, &keys[1]), tag(&other, &keys[0]), tag(&other, &keys[1])];
        tags.sort();
        assert!(
            tags.windows(2).all(|pair| pair[0] != pair[1]),
            "the key of the rows and that of the tag count"
        );
        assert_ne!(tag(&page(&[]), &keys[0]), tag(&page(&[]), &keys[1]), "also of a page without rows");
    }

    #[test]
    fn a_page_from_the_cache_of_compressed_pages_has_its_own_rows() {
        let cache = gzip::Compressed::default();
        for round in 0..2 {
            for n in 0..200 {
                // of one length, and one letter apart
                let page = page(&["same", &format!("name-{n:03}")]);
                let tag = page.tag(Language::English, DigestKey::shared());
                let packed = cache.get(tag, || page.first(Vec::new())).unwrap();
                let body = packed.with(&page.rest(Language::English).unwrap());
                let mut text = String::new();
                GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
                assert_eq!(text, written(&page, Language::English), "round {round}");
            }
        }
    }

    #[test]
    fn known_tags_by_table() {
        let cases: [(&[&str], bool); 10] = [
            (&["*"], true),
            (&["W/\"ours\""], true),
            (&["\"ours\""], true),
            (&["\"other\", W/\"ours\""], true),
            (&["\"other\"", "W/\"ours\""], true),
            (&["nonsense, \"ours\""], true),
            (&["\"other\""], false),
            (&["ours"], false),
            (&[""], false),
            (&[], false),
        ];
        for (values, known) in cases {
            let request = values
                .iter()
                .fold(TestRequest::get(), |request, value| request.append_header((IF_NONE_MATCH, *value)));
            assert_eq!(is_known(&request.to_http_request(), "ours"), known, "{values:?}");
        }
    }
}
