//! Language of a response, negotiated by `Accept-Language`.

use actix_web::http::header::{ACCEPT_LANGUAGE, HeaderMap};

/// A language with a message catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Language {
    #[default]
    Chinese,
    English,
}

impl Language {
    /// Negotiates the language: English when `Accept-Language` ranks it above Chinese (RFC 9110, 12.5.4; at equal
    /// weight the one listed first), otherwise Chinese.
    pub(crate) fn preferred(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(ACCEPT_LANGUAGE).filter_map(|value| value.to_str().ok());
        let mut best = (0.0, Self::default());
        for range in texts.flat_map(|text| text.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let language = match parts.next().and_then(|tag| tag.split('-').next()) {
                Some(tag) if tag.eq_ignore_ascii_case("en") => Self::English,
                Some(tag) if tag.eq_ignore_ascii_case("zh") => Self::Chinese,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |text| text.parse().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn english_is_used_only_if_preferred_to_chinese() {
        let cases = [
            ("", Language::Chinese),
            ("en", Language::English),
            ("EN-us,en;q=0.9,zh;q=0.8", Language::English),
            ("zh-CN,zh;q=0.9,en;q=0.8", Language::Chinese),
            ("zh;q=0.5, en;q=0.7", Language::English),
            ("en;q=0.5,zh;q=0.5", Language::English),
            ("zh, en", Language::Chinese),
            ("fr,en;q=0.1", Language::English),
            ("en;q=0", Language::Chinese),
            ("en;q=x", Language::Chinese),
            ("*", Language::Chinese),
            ("fr", Language::Chinese),
            ("english", Language::Chinese),
        ];
        for (text, language) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(text));
            assert_eq!(Language::preferred(&headers), language, "{text:?}");
        }
    }
}
