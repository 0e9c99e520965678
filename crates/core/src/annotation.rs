//! Annotations that may repeat what is masked elsewhere: tools keep whole copies of objects in them.

use std::collections::BTreeSet;

use base64::{
    Engine,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use memchr::memmem;

/// Longer annotations are never shown to whom something is masked: what is so long is a copy of an object, often
/// compressed or encoded in a way of its own.
const LONGEST_SHOWN: usize = 256;

/// Shorter values are not looked for: they stand in every other text by chance.
const SHORTEST_VALUE: usize = 4;

/// How deep encodings within encodings are looked through.
const DEPTH: usize = 3;

/// With more values than this no annotation is shown, so that a tenant's object cannot cost a reader's request much time.
const MOST_VALUES: usize = 1_000;

/// How many searches for a value one object may cost, a few milliseconds; the annotations after that are not shown.
const MOST_SEARCHES: usize = 200_000;

/// What replaces the value of an annotation: its size alone.
pub(crate) fn masked(value: &str) -> String {
    format!("*** ({} bytes)", value.len())
}

/// Values that no annotation of one object may show.
pub(crate) struct Hidden {
    values: BTreeSet<Vec<u8>>,
    searches_left: usize,
}

impl Default for Hidden {
    fn default() -> Self {
        Self { values: BTreeSet::new(), searches_left: MOST_SEARCHES }
    }
}

impl Hidden {
    /// Hides a value, and each line of it, which other tools indent.
    pub(crate) fn insert(&mut self, value: &[u8]) {
        let lines = value.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
        for text in lines.chain([value]) {
            if self.values.len() > MOST_VALUES {
                return;
            }
            if text.len() >= SHORTEST_VALUE && !matches!(text, b"true" | b"false") {
                self.values.insert(text.to_vec());
            }
        }
    }

    /// Whether an annotation may be shown: it is short, not compressed, no JSON object or array, and holds none of the
    /// values, neither plain nor in base64, hexadecimal digits, or the escapes of JSON and URLs.
    pub(crate) fn may_show(&mut self, annotation: &str) -> bool {
        let may_be_read = annotation.len() <= LONGEST_SHOWN && self.values.len() <= MOST_VALUES;
        may_be_read
            && !annotation.trim_start().starts_with(['{', '['])
            && self.is_clear(annotation.as_bytes(), DEPTH)
    }

    fn is_clear(&mut self, text: &[u8], depth: usize) -> bool {
        // a text costs something even without a value
        let Some(left) = self.searches_left.checked_sub(self.values.len() + 1) else { return false };
        self.searches_left = left;
        let is_found = self.values.iter().any(|value| memmem::find(text, value).is_some());
        let mut decoded = decoded(text).filter(|_| depth > 0);
        !is_found && decoded.all(|text| !is_compressed(&text) && self.is_clear(&text, depth - 1))
    }
}

/// Whether bytes hold gzip's beginning, or are zlib's with the window of 32 KiB, which everybody uses.
fn is_compressed(bytes: &[u8]) -> bool {
    let is_zlib = matches!(bytes, [0x78, flags, ..] if (0x7800 + u16::from(*flags)).is_multiple_of(31));
    is_zlib || memmem::find(bytes, b"\x1f\x8b\x08").is_some()
}

/// What a text may stand for.
fn decoded(text: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let runs = |is_part: fn(&u8) -> bool| {
        text.split(move |byte| !is_part(byte)).filter(|run| run.len() >= SHORTEST_VALUE)
    };
    let hex = runs(u8::is_ascii_hexdigit).flat_map(|run| [from_hex(run), from_hex(&run[1..])]);
    let standard = runs(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
        .flat_map(|run| from_base64(run, &STANDARD));
    let of_urls = runs(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
        .flat_map(|run| from_base64(run, &URL_SAFE));
    let joined = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let others = [unescaped(text, percent), unescaped(text, backslash), joined];
    hex.chain(standard).chain(of_urls).chain(others.into_iter().filter(move |other| other != text))
}

fn from_hex(digits: &[u8]) -> Vec<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().filter_map(|[high, low]| Some(value(*high)? << 4 | value(*low)?)).collect()
}

/// A run of digits may begin with others that do not belong to it: each of the four places is a beginning.
fn from_base64(digits: &[u8], alphabet: &Alphabet) -> Vec<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(alphabet, lenient);
    let begun = (0..4).filter_map(|skipped| digits.get(skipped..));
    begun
        .filter_map(|digits| {
            // a single base64 digit at the end encodes no whole byte
            let whole = digits.len() - usize::from(digits.len() % 4 == 1);
            engine.decode(&digits[..whole]).ok()
        })
        .collect()
}

/// Reads the escape at the begin of a text: the bytes it encodes, and its length in bytes. `None` without an escape there.
type ReadEscape = fn(&[u8]) -> Option<(Vec<u8>, usize)>;

/// A text with its escapes replaced by the bytes that they encode.
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

fn percent(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let digits = text.strip_prefix(b"%")?.get(..2)?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| (from_hex(digits), 3))
}

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

/// One or two of JSON's `\uXXXX`, after the first `\u`.
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
    fn a_value_is_found_in_every_encoding_by_table() {
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
            // compressed, of whatever
            "H4sIAAAAAAAAA0vOyUwtAgCzVzNLBgAAAA==".to_owned(),
            "eJxLzslMLQIAB/4CgA==".to_owned(),
            "prefixH4sIAAAAAAAAA0vOyUwtAgCzVzNLBgAAAA==".to_owned(),
            "x".repeat(257),
        ];
        for before in ["", "a", "ab", "abc", "x:y "] {
            cases.push(BASE64.encode(format!("{before}{VALUE}")));
            cases.push(URL_SAFE_NO_PAD.encode(format!("{before}{VALUE}?>")));
            // a word that runs into it
            cases.push(format!("{before}{}", BASE64.encode(VALUE)));
        }
        for case in cases {
            assert!(!hidden().may_show(&case), "{case}");
        }
    }

    #[test]
    fn other_texts_are_shown_by_table() {
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
    fn the_mask_says_the_size_alone() {
        assert_eq!(masked("päss"), "*** (5 bytes)");
    }

    #[test]
    fn json_is_not_shown_for_it_may_hold_a_value_too_short_to_look_for() {
        for text in [r#"{"name":"PIN","value":"123"}"#, r#" [{"value":"1"}]"#] {
            assert!(!Hidden::default().may_show(text), "{text}");
        }
    }

    #[test]
    fn the_cost_of_one_object_is_bounded() {
        let mut many = Hidden::default();
        (0..=MOST_VALUES).for_each(|n| many.insert(format!("value {n}").as_bytes()));
        assert!(!many.may_show("shop"), "too many values");
        let mut hidden = hidden();
        let shown = (0..MOST_SEARCHES).take_while(|_| hidden.may_show("shop")).count();
        assert!((100..MOST_SEARCHES).contains(&shown), "{shown} annotations");
    }
}
