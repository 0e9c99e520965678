//! Masking of annotations. Some tools store copies of objects in annotations, so an annotation may contain a value that
//! is masked elsewhere.

use std::collections::BTreeSet;

use base64::{
    Engine,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use memchr::memmem;

/// Maximum length in bytes of an annotation that may be shown. A longer one is usually a copy of an object, often
/// compressed or in a custom encoding.
const MAX_SHOWN_BYTES: usize = 256;

/// Minimum length in bytes of a value that is searched for. Shorter values occur in unrelated texts by chance.
const MIN_VALUE_BYTES: usize = 4;

/// Maximum depth of nested encodings that are decoded.
const MAX_DECODE_DEPTH: usize = 3;

/// Maximum number of values per object. Beyond it, no annotation is shown, so that a tenant's object cannot make a
/// request slow.
const MAX_VALUES: usize = 1_000;

/// Maximum number of value searches per object, which take a few milliseconds. Further annotations are not shown.
const MAX_SEARCHES: usize = 200_000;

/// Replacement for the value of an annotation: only its size.
pub(crate) fn masked(value: &str) -> String {
    format!("*** ({} bytes)", value.len())
}

/// Values that annotations of one object must not reveal.
pub(crate) struct Hidden {
    values: BTreeSet<Vec<u8>>,
    searches_left: usize,
}

impl Default for Hidden {
    fn default() -> Self {
        Self { values: BTreeSet::new(), searches_left: MAX_SEARCHES }
    }
}

impl Hidden {
    /// Adds a value and each of its lines, because tools may indent the lines.
    pub(crate) fn insert(&mut self, value: &[u8]) {
        let lines = value.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
        for text in lines.chain([value]) {
            if self.values.len() > MAX_VALUES {
                return;
            }
            if text.len() >= MIN_VALUE_BYTES && !matches!(text, b"true" | b"false") {
                self.values.insert(text.to_vec());
            }
        }
    }

    /// Whether an annotation may be shown: it is short, not compressed, not a JSON object or array, and contains none
    /// of the values, neither in plain text nor in base64, hexadecimal, JSON escapes or URL escapes.
    pub(crate) fn may_show(&mut self, annotation: &str) -> bool {
        let within_limits = annotation.len() <= MAX_SHOWN_BYTES && self.values.len() <= MAX_VALUES;
        within_limits
            && !annotation.trim_start().starts_with(['{', '['])
            && self.is_clear(annotation.as_bytes(), MAX_DECODE_DEPTH)
    }

    fn is_clear(&mut self, text: &[u8], depth: usize) -> bool {
        // scanning a text has a cost even without values
        let Some(left) = self.searches_left.checked_sub(self.values.len() + 1) else { return false };
        self.searches_left = left;
        let is_found = self.values.iter().any(|value| memmem::find(text, value).is_some());
        let mut decoded = decoded(text).filter(|_| depth > 0);
        !is_found && decoded.all(|text| !is_compressed(&text) && self.is_clear(&text, depth - 1))
    }
}

/// Whether bytes contain a gzip header, or begin with a zlib header for the usual window of 32 KiB.
fn is_compressed(bytes: &[u8]) -> bool {
    let is_zlib = matches!(bytes, [0x78, flags, ..] if (0x7800 + u16::from(*flags)).is_multiple_of(31));
    is_zlib || memmem::find(bytes, b"\x1f\x8b\x08").is_some()
}

/// All decodings of a text: hexadecimal, base64, URL escapes, JSON escapes, and the text without white space.
fn decoded(text: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let runs = |is_part: fn(&u8) -> bool| {
        text.split(move |byte| !is_part(byte)).filter(|run| run.len() >= MIN_VALUE_BYTES)
    };
    let hex = runs(u8::is_ascii_hexdigit).flat_map(|run| [from_hex(run), from_hex(&run[1..])]);
    let standard = runs(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
        .flat_map(|run| from_base64(run, &STANDARD));
    let url_safe = runs(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
        .flat_map(|run| from_base64(run, &URL_SAFE));
    let joined = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let others = [unescaped(text, percent), unescaped(text, backslash), joined];
    hex.chain(standard).chain(url_safe).chain(others.into_iter().filter(move |other| other != text))
}

fn from_hex(digits: &[u8]) -> Vec<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().filter_map(|[high, low]| Some(value(*high)? << 4 | value(*low)?)).collect()
}

/// Decodes base64 at each of the four possible alignments, because unrelated characters may precede the encoded text.
fn from_base64(digits: &[u8], alphabet: &Alphabet) -> Vec<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(alphabet, lenient);
    let alignments = (0..4).filter_map(|skipped| digits.get(skipped..));
    alignments
        .filter_map(|digits| {
            // a single base64 digit at the end does not encode a whole byte
            let whole = digits.len() - usize::from(digits.len() % 4 == 1);
            engine.decode(&digits[..whole]).ok()
        })
        .collect()
}

/// Parses the escape at the start of a text. Returns the encoded bytes and the length of the escape in bytes; `None` if
/// the text does not start with an escape.
type ReadEscape = fn(&[u8]) -> Option<(Vec<u8>, usize)>;

/// Replaces the escapes in a text by the bytes that they encode.
fn unescaped(text: &[u8], read: ReadEscape) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if let Some((bytes, length)) = read(rest) {
            plain.extend(bytes);
            rest = &rest[length..];
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

/// Parses a URL escape: `%41`.
fn percent(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let digits = text.strip_prefix(b"%")?.get(..2)?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| (from_hex(digits), 3))
}

/// Parses a JSON escape, or one of the escapes `\xXX` and `\'`.
fn backslash(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (kind, rest) = text.strip_prefix(b"\\")?.split_first()?;
    let plain = match kind {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        b'"' | b'\\' | b'/' | b'\'' => *kind,
        b'x' => from_hex(rest.get(..2)?).first().copied()?,
        b'u' => return unicode(rest),
        _ => return None,
    };
    Some((vec![plain], if *kind == b'x' { 4 } else { 2 }))
}

/// Parses one JSON escape `\uXXXX` or a surrogate pair of two, after the first `\u`.
fn unicode(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let unit = |digits: &[u8]| Some(u16::from_be_bytes(from_hex(digits).try_into().ok()?));
    let first = unit(rest.get(..4)?)?;
    let second = rest.get(4..10).filter(|next| next.starts_with(b"\\u")).and_then(|next| unit(&next[2..]));
    let units = [first, second.unwrap_or_default()];
    let is_pair = (0xd800..0xdc00).contains(&first) && second.is_some();
    let (used, length) = if is_pair { (2, 12) } else { (1, 6) };
    let plain = char::decode_utf16(units[..used].iter().copied()).collect::<Result<String, _>>().ok()?;
    Some((plain.into_bytes(), length))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};

    use super::*;

    const VALUE: &str = "pässword/\"of\" 7";

    fn hidden() -> Hidden {
        let mut hidden = Hidden::default();
        hidden.insert(VALUE.as_bytes());
        hidden.insert(b"first line of a key\n  second line of it\n");
        hidden.insert(b"abc");
        hidden.insert(b"true");
        hidden
    }

    #[test]
    fn values_are_found_in_all_encodings() {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let json = |text: &str| serde_json::to_string(text).unwrap();
        let escaped =
            |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
        let mut cases = vec![
            VALUE.to_owned(),
            format!("user:{VALUE}@host"),
            json(VALUE),
            json(&json(VALUE)),
            escaped(VALUE),
            hex(VALUE),
            hex(VALUE).to_uppercase(),
            format!("a{}", hex(VALUE)),
            percent(VALUE),
            BASE64.encode(BASE64.encode(VALUE)),
            BASE64.encode(json(VALUE)),
            format!("key: {}", BASE64.encode(format!("{{\"data\": \"{}\"}}", BASE64.encode(VALUE)))),
            BASE64
                .encode(VALUE.repeat(4))
                .as_bytes()
                .chunks(10)
                .flat_map(|line| [line, b"\n"])
                .flatten()
                .map(|byte| char::from(*byte))
                .collect(),
            "    second line of it".to_owned(),
            // compressed data
            "H4sIAAAAAAAAA0vOyUwtAgCzVzNLBgAAAA==".to_owned(),
            "eJxLzslMLQIAB/4CgA==".to_owned(),
            "prefixH4sIAAAAAAAAA0vOyUwtAgCzVzNLBgAAAA==".to_owned(),
            "x".repeat(257),
        ];
        for before in ["", "a", "ab", "abc", "x:y "] {
            cases.push(BASE64.encode(format!("{before}{VALUE}")));
            cases.push(URL_SAFE_NO_PAD.encode(format!("{before}{VALUE}?>")));
            // text directly before the encoded value
            cases.push(format!("{before}{}", BASE64.encode(VALUE)));
        }
        for case in cases {
            assert!(!hidden().may_show(&case), "{case}");
        }
    }

    #[test]
    fn unrelated_texts_are_shown() {
        for case in [
            "",
            "shop",
            "true",
            "false",
            "abc",
            "password",
            "2026-01-01T00:00:00Z",
            "8080",
            "deployment.kubernetes.io/revision",
            "https://example.org/a?b=%20c",
            "0123456789abcdef0123456789abcdef",
            "xyz x! x^ x~",
            "\\u12 \\ud800 \\x \\",
            "%4",
            &"x".repeat(256),
        ] {
            assert!(hidden().may_show(case), "{case}");
        }
    }

    #[test]
    fn mask_contains_only_the_size() {
        assert_eq!(masked("päss"), "*** (5 bytes)");
    }

    #[test]
    fn json_annotations_are_not_shown() {
        // JSON may contain a value that is too short to search for
        for text in [r#"{"name":"PIN","value":"123"}"#, r#" [{"value":"1"}]"#] {
            assert!(!Hidden::default().may_show(text), "{text}");
        }
    }

    #[test]
    fn search_cost_per_object_is_limited() {
        let mut many = Hidden::default();
        (0..=MAX_VALUES).for_each(|n| many.insert(format!("value {n}").as_bytes()));
        assert!(!many.may_show("shop"), "too many values");
        let mut hidden = hidden();
        let shown = (0..MAX_SEARCHES).take_while(|_| hidden.may_show("shop")).count();
        assert!((100..MAX_SEARCHES).contains(&shown), "{shown} annotations");
    }
}
