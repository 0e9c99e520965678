//! Entity tags of list pages, and their comparison with `If-None-Match`.

use actix_web::{
    HttpRequest,
    http::header::{EntityTag, Header, IF_NONE_MATCH, IfNoneMatch},
};
use pilothouse_core::rows::Digest;

/// The entity tag of a page: a digest over the digests of its rows, with a key that is the same for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ETag(pub(crate) Digest);

impl ETag {
    /// The tag in hexadecimal, without quotes.
    pub(crate) fn opaque(self) -> String {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0xf])
            .map(|digit| DIGITS[usize::from(digit)])
            .collect()
    }
}

/// Whether `If-None-Match` matches the tag by weak comparison, or is `*` (RFC 9110, 13.1.2).
pub(crate) fn if_none_match(request: &HttpRequest, opaque: &str) -> bool {
    request.headers().contains_key(IF_NONE_MATCH)
        && match IfNoneMatch::parse(request) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(tags)) => {
                let current = EntityTag::new_weak(opaque.to_owned());
                tags.iter().any(|tag| tag.weak_eq(&current))
            }
            Err(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn if_none_match_compares_every_listed_etag_weakly() {
        let cases: [(&[&str], bool); 10] = [
            (&["*"], true),
            (&["W/\"current\""], true),
            (&["\"current\""], true),
            (&["\"other\", W/\"current\""], true),
            (&["\"other\"", "W/\"current\""], true),
            (&["nonsense, \"current\""], true),
            (&["\"other\""], false),
            (&["current"], false),
            (&[""], false),
            (&[], false),
        ];
        for (values, matches) in cases {
            let request = values
                .iter()
                .fold(TestRequest::get(), |request, value| request.append_header((IF_NONE_MATCH, *value)));
            assert_eq!(if_none_match(&request.to_http_request(), "current"), matches, "{values:?}");
        }
    }
}
