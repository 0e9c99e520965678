//! List response: one page of a list, with the envelope written around the rows' serialised bytes. Rows are not parsed
//! or serialised again. A request with a matching `If-None-Match` gets 304 without a body.
//!
//! The `ETag` covers the whole body except `as_of`, which advances while the rows stay the same. It is therefore weak
//! (RFC 9110, 8.8.1), and the same for every content coding.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_ENCODING, ContentType, ETAG, HeaderName, HeaderValue, VARY},
    },
    web::Data,
};
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    gate::Warning,
    inventory::{ListedScope, objects::Column},
    rows::{Digest, DigestKey, Pagination, Row},
    usage::{Usage, UsageJson},
};
use serde::Serialize;

use crate::{
    api::Api,
    error::ApiError,
    etag::{ETag, if_none_match},
    gzip,
    language::Language,
    messages::Message,
    middleware::RequestContext,
};

/// Response header with the value of `as_of`; a 304 has no body and carries it only here.
pub(crate) const AS_OF: HeaderName = HeaderName::from_static("x-as-of");

/// Only the client may cache a page, and it must revalidate it each time, because permissions may have been revoked.
const CACHE_POLICY: HeaderValue = HeaderValue::from_static("private, no-cache");

/// The request headers that change the response.
const VARY_ON: HeaderValue =
    HeaderValue::from_static("Accept-Encoding, Accept-Language, Authorization, Cookie");

/// Length of a usage in JSON, about, in bytes.
const USAGE_BYTES: usize = 80;

/// A page of serialised rows.
pub(crate) struct ListResponse {
    /// The JSON key of the rows.
    pub(crate) key: &'static str,
    /// The rows of the page.
    pub(crate) rows: Vec<Row>,
    /// The usage of CPU and memory of each row, in the same order; empty if none is known.
    pub(crate) usage: Vec<Option<Usage>>,
    /// The columns of the cells of the rows; none for a list whose rows have fields of their own.
    pub(crate) columns: Option<Arc<[Column]>>,
    /// The position of the page in the list.
    pub(crate) pagination: Pagination,
    /// `as_of` and `stale`; none for a list of Pilothouse's own rows.
    pub(crate) freshness: Option<(Timestamp, bool)>,
    /// The part of the request that the page covers; none for a list of Pilothouse's own rows.
    pub(crate) scope: Option<ListedScope>,
    /// Warnings, in the order in which they are sent.
    pub(crate) warnings: Vec<Warning>,
}

impl Responder for ListResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        self.respond(request).unwrap_or_else(|error| HttpResponse::from_error(ApiError::from(error)))
    }
}

impl ListResponse {
    fn respond(&self, request: &HttpRequest) -> Result<HttpResponse, Error> {
        let language = RequestContext::language(request);
        let tag = self.tag(language, DigestKey::shared());
        let opaque = tag.opaque();
        let not_modified = if_none_match(request, &opaque);
        let mut response =
            HttpResponse::build(if not_modified { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
        response
            .insert_header((ETAG, format!("W/\"{opaque}\"")))
            .insert_header((CACHE_CONTROL, CACHE_POLICY))
            .insert_header((VARY, VARY_ON));
        if let Some((as_of, _)) = self.freshness {
            response.insert_header((AS_OF, as_of.to_string()));
        }
        if not_modified {
            return Ok(response.finish());
        }
        response.content_type(ContentType::json());

        let size = self.rows.iter().map(|row| row.bytes().len() + 1).sum::<usize>()
            + self.usage.len() * USAGE_BYTES
            + 128;
        let trailer = self.trailer(language).map_err(serialization_error)?;
        if gzip::should_compress(request.headers(), size) {
            let rows = || self.rows_json(Vec::with_capacity(size));
            let cache = request.app_data::<Data<Api>>().map(|api| api.compressed_pages.clone());
            let prefix = cache.unwrap_or_default().get(tag, rows).map_err(serialization_error)?;
            response.insert_header((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
            return Ok(response.body(prefix.append(&trailer)));
        }
        let mut body = self.rows_json(Vec::with_capacity(size + trailer.len()));
        body.extend_from_slice(&trailer);
        Ok(response.body(body))
    }

    /// The part of the body up to the rows; it is compressed and cached.
    fn rows_json(&self, mut body: Vec<u8>) -> Vec<u8> {
        body.extend_from_slice(b"{\"success\":true,\"data\":{\"");
        body.extend_from_slice(self.key.as_bytes());
        body.extend_from_slice(b"\":[");
        let mut json = UsageJson::default();
        for (i, row) in self.rows.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            json.row(&mut body, row.bytes(), self.usage.get(i).copied().flatten());
        }
        body.push(b']');
        body
    }

    /// The part of the body after the rows.
    fn trailer(&self, language: Language) -> serde_json::Result<Vec<u8>> {
        let catalog = language.catalog();
        let mut body = Vec::with_capacity(256);
        if let Some(columns) = &self.columns {
            member(&mut body, "columns", &**columns)?;
        }
        member(&mut body, "pagination", &self.pagination)?;
        if let Some((as_of, stale)) = self.freshness {
            member(&mut body, "as_of", &as_of)?;
            member(&mut body, "stale", &stale)?;
        }
        if let Some(scope) = &self.scope {
            member(&mut body, "scope", scope)?;
        }
        if !self.warnings.is_empty() {
            let warnings: Vec<_> = self.warnings.iter().map(|warning| catalog.warning(warning)).collect();
            member(&mut body, "warnings", &warnings)?;
        }
        body.push(b'}');
        member(&mut body, "message", catalog.message(Message::Done))?;
        body.push(b'}');
        Ok(body)
    }

    fn tag(&self, language: Language, key: &DigestKey) -> ETag {
        let Pagination { page, per_page, total, .. } = self.pagination;
        // a row's JSON begins with a brace and this input with a digit, so a tag never equals the digest of a row
        let mut hash = key.start();
        // texts may differ between versions
        hash.update(concat!(env!("CARGO_PKG_VERSION"), "\0"));
        hash.update(self.key);
        hash.update([0, language as u8, self.freshness.map_or(0, |(_, stale)| 1 + u8::from(stale))]);
        for number in [page, per_page, total, self.rows.len() as u64] {
            hash.update(number.to_le_bytes());
        }
        for (i, row) in self.rows.iter().enumerate() {
            let usage = self.usage.get(i).copied().flatten();
            hash.update(usage.map_or(row.digest(), |usage| with_usage(row.digest(), usage)));
        }
        for Column { name, r#type, priority } in self.columns.iter().flat_map(|columns| columns.iter()) {
            for text in [name, r#type] {
                hash.update(text);
                hash.update([0]);
            }
            hash.update(priority.to_le_bytes());
        }
        for warning in &self.warnings {
            hash.update(warning.as_str());
            hash.update([0]);
            hash.update(warning.subject());
            hash.update([0]);
        }
        if let Some(ListedScope { complete, namespaces }) = &self.scope {
            hash.update([1, u8::from(*complete)]);
            for pattern in namespaces.iter().flatten() {
                hash.update(pattern);
                hash.update([0]);
            }
        }
        ETag(hash.finish())
    }
}

/// The digest of a row with its usage. Digests are secret and look random, so that two different rows with usage have
/// equal ones as seldom as two rows; of one row, different usages give different ones.
fn with_usage(mut digest: Digest, Usage { cpu_millis, memory_bytes, at }: Usage) -> Digest {
    let low = |value: i64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let parts = low(cpu_millis).into_iter().chain(memory_bytes.to_le_bytes()).chain(low(at.as_second()));
    for (byte, part) in digest.iter_mut().zip(parts) {
        *byte ^= part;
    }
    digest
}

/// Writes the JSON member `,"name":value`.
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

/// The error for a body that could not be serialised.
pub(crate) fn serialization_error(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("cannot serialise a response body: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use pilothouse_core::rows::{Cell, Field, ListRow};
    use serde_json::Value;

    use super::*;

    #[derive(Clone, Serialize)]
    struct SampleRow {
        name: String,
        labels: Vec<String>,
    }

    impl ListRow for SampleRow {
        const FIELDS: &'static [Field<Self>] = &[Field::new("name", |row| Cell::text(&*row.name))];

        fn name(&self) -> &str {
            &self.name
        }

        fn namespace(&self) -> Option<&str> {
            None
        }
    }

    /// The response as serde serialises it.
    #[derive(Serialize)]
    struct Envelope {
        success: bool,
        data: Data,
        message: &'static str,
    }

    #[derive(Serialize)]
    struct Data {
        samples: Vec<SampleRow>,
        pagination: Pagination,
        #[serde(skip_serializing_if = "Option::is_none")]
        as_of: Option<Timestamp>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stale: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        scope: Option<ListedScope>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    }

    fn samples(names: &[&str]) -> Vec<SampleRow> {
        let labels = vec!["\"quoted\" \\ \n 部署 \u{7f}".to_owned()];
        names.iter().map(|name| SampleRow { name: (*name).to_owned(), labels: labels.clone() }).collect()
    }

    fn page(names: &[&str]) -> ListResponse {
        ListResponse {
            key: "samples",
            rows: samples(names).iter().map(|sample| Row::of(sample).unwrap()).collect(),
            usage: Vec::new(),
            columns: None,
            pagination: Pagination { page: 2, per_page: 3, total: 10, pages: 4 },
            freshness: None,
            scope: None,
            warnings: Vec::new(),
        }
    }

    fn usage(cpu_millis: i64, memory_bytes: i64, at: Timestamp) -> Usage {
        Usage { cpu_millis, memory_bytes, at }
    }

    fn scope(patterns: Option<&[&str]>) -> ListedScope {
        let namespaces = patterns.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
        ListedScope { complete: patterns.is_none(), namespaces }
    }

    fn body_text(page: &ListResponse, language: Language) -> String {
        let mut body = page.rows_json(Vec::new());
        body.extend(page.trailer(language).unwrap());
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn body_equals_the_serde_serialisation() {
        let as_of: Timestamp = "2026-01-01T00:00:00.25Z".parse().unwrap();
        let warnings = vec![Warning::NotServed("ingresses"), Warning::NotCached("pods")];
        for names in [&[][..], &["a"], &["a", "\"b\"", "c,d"]] {
            for freshness in [None, Some((as_of, false)), Some((as_of, true))] {
                for warnings in [&[][..], &warnings] {
                    for language in [Language::Chinese, Language::English] {
                        let message = language.catalog().message(Message::Done);
                        let scope =
                            freshness.map(|(_, stale)| scope(stale.then_some(&["shop", "team-*"][..])));
                        let page =
                            ListResponse { freshness, scope, warnings: warnings.to_vec(), ..page(names) };
                        let data = Data {
                            samples: samples(names),
                            pagination: page.pagination,
                            as_of: freshness.map(|(as_of, _)| as_of),
                            stale: freshness.map(|(_, stale)| stale),
                            scope: page.scope.clone(),
                            warnings: warnings.iter().map(|one| language.catalog().warning(one)).collect(),
                        };
                        let expected =
                            serde_json::to_string(&Envelope { success: true, data, message }).unwrap();
                        assert_eq!(body_text(&page, language), expected);
                        serde_json::from_str::<Value>(&expected).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn columns_follow_the_rows() {
        let column = Column { name: "Ready".to_owned(), r#type: "string".to_owned(), priority: 1 };
        let page = ListResponse { columns: Some(Arc::from([column])), ..page(&["a"]) };
        let body: Value = serde_json::from_str(&body_text(&page, Language::English)).unwrap();
        let expected = serde_json::json!([{"name": "Ready", "type": "string", "priority": 1}]);
        assert_eq!(
            (&body["data"]["columns"], &body["data"]["samples"][0]["name"]),
            (&expected, &Value::from("a"))
        );
    }

    #[test]
    fn etag_covers_the_whole_body_except_as_of() {
        let early: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let late: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let base = || ListResponse { freshness: Some((early, false)), ..page(&["a", "b"]) };
        let tag = |page: &ListResponse| page.tag(Language::Chinese, DigestKey::shared());
        assert_eq!(tag(&base()), tag(&ListResponse { freshness: Some((late, false)), ..base() }));
        let columns = |name: &str| {
            let column = Column { name: name.to_owned(), r#type: "string".to_owned(), priority: 0 };
            Some(Arc::from([column]))
        };
        let of = |page, per_page, total| Pagination { page, per_page, total, pages: 4 };
        let others = [
            base().tag(Language::English, DigestKey::shared()),
            tag(&ListResponse { freshness: None, ..base() }),
            tag(&ListResponse { freshness: Some((early, true)), ..base() }),
            tag(&ListResponse { key: "others", ..base() }),
            tag(&ListResponse { columns: columns("Ready"), ..base() }),
            tag(&ListResponse { columns: columns("Age"), ..base() }),
            tag(&ListResponse { rows: page(&["b", "a"]).rows, ..base() }),
            tag(&ListResponse { rows: page(&["a"]).rows, ..base() }),
            tag(&ListResponse { rows: page(&["a", "b", "c"]).rows, ..base() }),
            tag(&ListResponse { pagination: of(1, 3, 10), ..base() }),
            tag(&ListResponse { pagination: of(2, 4, 10), ..base() }),
            tag(&ListResponse { pagination: of(2, 3, 11), ..base() }),
            tag(&ListResponse { warnings: vec![Warning::NotServed("ingresses")], ..base() }),
            tag(&ListResponse { warnings: vec![Warning::NotServed("pods")], ..base() }),
            tag(&ListResponse { warnings: vec![Warning::NotCached("pods")], ..base() }),
            tag(&ListResponse { scope: Some(scope(None)), ..base() }),
            tag(&ListResponse { scope: Some(scope(Some(&["shop"]))), ..base() }),
            tag(&ListResponse { scope: Some(scope(Some(&["shop", "team-*"]))), ..base() }),
            tag(&ListResponse { usage: vec![Some(usage(1, 2, early)), None], ..base() }),
            tag(&ListResponse { usage: vec![None, Some(usage(1, 2, early))], ..base() }),
            tag(&ListResponse { usage: vec![Some(usage(2, 2, early)), None], ..base() }),
            tag(&ListResponse { usage: vec![Some(usage(1, 3, early)), None], ..base() }),
            tag(&ListResponse { usage: vec![Some(usage(1, 2, late)), None], ..base() }),
        ];
        let mut all: Vec<_> = others.into_iter().chain([tag(&base())]).map(ETag::opaque).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 24);
        assert_eq!(tag(&base()), tag(&ListResponse { usage: vec![None, None], ..base() }));
    }

    #[test]
    fn usage_replaces_the_null_at_the_end_of_its_row() {
        #[derive(Serialize)]
        struct Measured {
            name: &'static str,
            usage: Option<Usage>,
        }
        impl ListRow for Measured {
            const FIELDS: &'static [Field<Self>] = &[];

            fn name(&self) -> &str {
                self.name
            }

            fn namespace(&self) -> Option<&str> {
                None
            }
        }
        let rows = ["a", "b"].map(|name| Row::of(&Measured { name, usage: None }).unwrap());
        let known = usage(1, 2, "2026-01-01T00:00:00Z".parse().unwrap());
        let page = ListResponse { rows: rows.into(), usage: vec![None, Some(known)], ..page(&[]) };
        let body: Value = serde_json::from_str(&body_text(&page, Language::English)).unwrap();
        assert_eq!(
            body["data"]["samples"],
            serde_json::json!([{"name": "a", "usage": null}, {"name": "b", "usage": known}])
        );
    }

    #[test]
    fn etag_and_row_digests_are_keyed_and_128_bits() {
        let keys = [[1; 32], [2; 32]].map(|key| DigestKey::new(&key));
        let with_rows_of = |key: &DigestKey| {
            let rows =
                samples(&["a", "b"]).iter().map(|sample| Row::of_with_key(sample, key).unwrap()).collect();
            ListResponse { rows, ..page(&[]) }
        };
        let [one, other] = keys.each_ref().map(with_rows_of);
        for (a, b) in one.rows.iter().zip(&other.rows) {
            assert_eq!(a.json(), b.json());
            assert_ne!(a.digest(), b.digest(), "digests differ by key");
            assert!(128 <= 8 * size_of_val(&a.digest()));
        }
        let tag = |page: &ListResponse, key| page.tag(Language::Chinese, key).opaque();
        assert_eq!(tag(&one, &keys[0]).len(), 128 / 4);
        let mut tags =
            [tag(&one, &keys[0]), tag(&one, &keys[1]), tag(&other, &keys[0]), tag(&other, &keys[1])];
        tags.sort();
        assert!(
            tags.windows(2).all(|pair| pair[0] != pair[1]),
            "the tag depends on the key of the rows and on its own key"
        );
        assert_ne!(
            tag(&page(&[]), &keys[0]),
            tag(&page(&[]), &keys[1]),
            "the tag of a page without rows is keyed too"
        );
    }

    #[test]
    fn cached_compressed_page_matches_its_rows() {
        let cache = gzip::CompressedPages::default();
        for round in 0..2 {
            for n in 0..200 {
                // equal lengths, one character apart
                let page = page(&["same", &format!("name-{n:03}")]);
                let tag = page.tag(Language::English, DigestKey::shared());
                let prefix = cache.get(tag, || page.rows_json(Vec::new())).unwrap();
                let body = prefix.append(&page.trailer(Language::English).unwrap());
                let mut text = String::new();
                GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
                assert_eq!(text, body_text(&page, Language::English), "round {round}");
            }
        }
    }
}
