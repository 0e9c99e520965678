//! Canaries: secrets that tests plant and then search for in every encoding that software writes.

use std::{fmt::Write as _, io::Read};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flate2::read::{GzDecoder, ZlibDecoder};

/// Limit of the decompressed bytes that are searched.
const MAX_DECOMPRESSED_BYTES: u64 = 64 << 20;

/// A search for many secrets at once.
pub(crate) struct Canaries {
    encodings: AhoCorasick,
    /// Per pattern: the name of the secret and the encoding.
    names: Vec<(String, &'static str)>,
}

impl Canaries {
    /// Secrets by name. Each needs at least eight bytes, so that a match is not accidental.
    pub(crate) fn new(secrets: &[(&str, Vec<u8>)]) -> Self {
        let (mut patterns, mut names) = (Vec::new(), Vec::new());
        for (name, secret) in secrets {
            assert!(secret.len() >= 8, "{name} is too short to be a canary");
            for (encoding, pattern) in encodings(secret) {
                patterns.push(pattern);
                names.push(((*name).to_owned(), encoding));
            }
        }
        let encodings = AhoCorasick::builder().match_kind(MatchKind::Standard).build(patterns);
        Self { encodings: encodings.expect("valid patterns"), names }
    }

    /// Finds secrets, also in compressed parts: the name, the encoding and the text before each match.
    pub(crate) fn find(&self, haystack: &[u8]) -> Vec<String> {
        let mut found = self.find_uncompressed(haystack);
        for inner in decompressed(haystack) {
            found.extend(
                self.find_uncompressed(&inner).into_iter().map(|found| format!("compressed: {found}")),
            );
        }
        found
    }

    /// As [`Canaries::find`], without decompression.
    pub(crate) fn find_uncompressed(&self, haystack: &[u8]) -> Vec<String> {
        let context = |at: usize| {
            let (start, end) = (at.saturating_sub(200), (at + 40).min(haystack.len()));
            String::from_utf8_lossy(&haystack[start..end]).into_owned()
        };
        let hits = self.encodings.find_iter(haystack).take(5);
        hits.map(|hit| {
            let (name, encoding) = &self.names[hit.pattern().as_usize()];
            format!("{name} ({encoding}) after …{}", context(hit.start()))
        })
        .collect()
    }
}

/// All encodings of a secret.
fn encodings(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |upper: bool| {
        secret.iter().fold(String::new(), |mut hex, byte| {
            let _ = if upper { write!(hex, "{byte:02X}") } else { write!(hex, "{byte:02x}") };
            hex
        })
    };
    let percent = |keep: &[u8]| {
        secret.iter().fold(String::new(), |mut text, byte| {
            match *byte {
                byte if byte.is_ascii_alphanumeric() || keep.contains(&byte) => text.push(byte.into()),
                byte => write!(text, "%{byte:02X}").expect("writing to a string"),
            }
            text
        })
    };
    let json = std::str::from_utf8(secret).map(|text| serde_json::to_string(text).expect("JSON"));
    let bytes: Vec<_> = secret.iter().map(ToString::to_string).collect();
    let mut encodings = vec![
        ("hex", hex(false)),
        ("HEX", hex(true)),
        ("URL", percent(b"-_.~")),
        ("form", percent(b"*-._")),
        ("bytes as numbers", bytes.join(", ")),
        ("bytes as JSON numbers", bytes.join(",")),
    ];
    for (alignment, name) in ["base64", "base64 + 1", "base64 + 2"].into_iter().enumerate() {
        let inside = base64_inside(secret, alignment);
        encodings.push((name, inside.replace('+', "-").replace('/', "_")));
        encodings.push((name, inside));
    }
    encodings.extend(json.ok().map(|json| ("JSON", json[1..json.len() - 1].to_owned())));
    let mut encodings: Vec<_> = encodings.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    encodings.push(("plain", secret.to_vec()));
    encodings
}

/// The base64 characters that depend only on the secret when `before` bytes precede it.
fn base64_inside(secret: &[u8], before: usize) -> String {
    let text = BASE64.encode([&vec![0; before], secret].concat());
    // a base64 character has six bits
    let (start, end) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
    text[start..end].to_owned()
}

/// The decompressed contents of all gzip and zlib streams in the data, at any offset.
fn decompressed(haystack: &[u8]) -> Vec<Vec<u8>> {
    let mut decompressed = Vec::new();
    for at in 0..haystack.len().saturating_sub(8) {
        let rest = &haystack[at..];
        let mut inner = Vec::new();
        match rest {
            [0x1f, 0x8b, 0x08, ..] => {
                drop(GzDecoder::new(rest).take(MAX_DECOMPRESSED_BYTES).read_to_end(&mut inner));
            }
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
                drop(ZlibDecoder::new(rest).take(MAX_DECOMPRESSED_BYTES).read_to_end(&mut inner));
            }
            _ => continue,
        }
        if !inner.is_empty() {
            decompressed.push(inner);
        }
    }
    decompressed
}

/// Proves that the search finds planted secrets: an empty result then means that none is present.
#[test]
fn every_encoding_of_a_canary_is_found() {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};

    let secret = "canary+/secret \"with\" \n all~sorts?";
    let canaries = Canaries::new(&[("secret", secret.as_bytes().to_vec())]);
    let around = |text: &[u8]| [b"something before ", text, b" and behind"].concat();
    for (encoding, text) in encodings(secret.as_bytes()) {
        assert!(!canaries.find(&around(&text)).is_empty(), "{encoding}");
    }
    for before in ["", "a", "ab", "abc", "{\"token\":\"", "Bearer "] {
        let text = BASE64.encode(format!("{before}{secret} and more"));
        assert!(!canaries.find(&around(text.as_bytes())).is_empty(), "after {before:?}");
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&around(secret.as_bytes())).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&around(secret.as_bytes())).unwrap();
    for packed in [gzip.finish().unwrap(), zlib.finish().unwrap()] {
        let found = canaries.find(&[b"before", &packed[..], b"behind"].concat());
        assert!(found.iter().any(|found| found.starts_with("compressed")), "{found:?}");
    }
    assert!(canaries.find(&around(b"nothing of the sort")).is_empty());
}
