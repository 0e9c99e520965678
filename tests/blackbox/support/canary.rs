//! Secrets that are planted, and looked for in every form in which software writes things down.

use std::{fmt::Write as _, io::Read};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flate2::read::{GzDecoder, ZlibDecoder};

/// What is read of anything compressed.
const LARGEST: u64 = 64 << 20;

/// Many secrets, looked for at once.
pub(crate) struct Canaries {
    forms: AhoCorasick,
    /// Of each form, whose it is and which.
    names: Vec<(String, &'static str)>,
}

impl Canaries {
    /// Secrets by name. Each needs eight bytes, so that none is found by chance.
    pub(crate) fn new(secrets: &[(&str, Vec<u8>)]) -> Self {
        let (mut patterns, mut names) = (Vec::new(), Vec::new());
        for (name, secret) in secrets {
            assert!(secret.len() >= 8, "{name} is too short to be a canary");
            for (form, pattern) in forms(secret) {
                patterns.push(pattern);
                names.push(((*name).to_owned(), form));
            }
        }
        let forms = AhoCorasick::builder().match_kind(MatchKind::Standard).build(patterns);
        Self { forms: forms.expect("patterns"), names }
    }

    /// What is found: whose, in which form, and where.
    pub(crate) fn found_in(&self, haystack: &[u8]) -> Vec<String> {
        let mut found = self.plainly(haystack);
        for inner in unpacked(haystack) {
            found.extend(self.plainly(&inner).into_iter().map(|found| format!("compressed: {found}")));
        }
        found
    }

    /// The same without looking into what is compressed.
    pub(crate) fn plainly(&self, haystack: &[u8]) -> Vec<String> {
        let context = |at: usize| {
            let (start, end) = (at.saturating_sub(200), (at + 40).min(haystack.len()));
            String::from_utf8_lossy(&haystack[start..end]).into_owned()
        };
        let hits = self.forms.find_iter(haystack).take(5);
        hits.map(|hit| {
            let (name, form) = &self.names[hit.pattern().as_usize()];
            format!("{name} ({form}) after …{}", context(hit.start()))
        })
        .collect()
    }
}

/// Every form of a secret.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
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
                byte => write!(text, "%{byte:02X}").expect("a text"),
            }
            text
        })
    };
    let json = std::str::from_utf8(secret).map(|text| serde_json::to_string(text).expect("JSON"));
    let bytes: Vec<_> = secret.iter().map(ToString::to_string).collect();
    let mut forms = vec![
        ("hex", hex(false)),
        ("HEX", hex(true)),
        ("URL", percent(b"-_.~")),
        ("form", percent(b"*-._")),
        ("bytes as numbers", bytes.join(", ")),
        ("bytes as JSON numbers", bytes.join(",")),
    ];
    for (alignment, name) in ["base64", "base64 + 1", "base64 + 2"].into_iter().enumerate() {
        let inside = base64_inside(secret, alignment);
        forms.push((name, inside.replace('+', "-").replace('/', "_")));
        forms.push((name, inside));
    }
    forms.extend(json.ok().map(|json| ("JSON", json[1..json.len() - 1].to_owned())));
    let mut forms: Vec<_> = forms.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    forms.push(("plain", secret.to_vec()));
    forms
}

/// The characters of base64 that a secret fills alone, when so many bytes stand before it.
fn base64_inside(secret: &[u8], before: usize) -> String {
    let text = BASE64.encode([&vec![0; before], secret].concat());
    // six bits a character
    let (start, end) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
    text[start..end].to_owned()
}

/// What is in gzip and zlib streams, wherever these begin.
fn unpacked(haystack: &[u8]) -> Vec<Vec<u8>> {
    let mut unpacked = Vec::new();
    for at in 0..haystack.len().saturating_sub(8) {
        let rest = &haystack[at..];
        let mut inner = Vec::new();
        match rest {
            [0x1f, 0x8b, 0x08, ..] => drop(GzDecoder::new(rest).take(LARGEST).read_to_end(&mut inner)),
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
                drop(ZlibDecoder::new(rest).take(LARGEST).read_to_end(&mut inner));
            }
            _ => continue,
        }
        if !inner.is_empty() {
            unpacked.push(inner);
        }
    }
    unpacked
}

/// What is looked for is found, in every form: a search that finds nothing proves something.
#[test]
fn every_form_of_a_canary_is_found() {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};

    let secret = "canary+/secret \"with\" \n all~sorts?";
    let canaries = Canaries::new(&[("secret", secret.as_bytes().to_vec())]);
    let around = |text: &[u8]| [b"something before ", text, b" and behind"].concat();
    for (form, text) in forms(secret.as_bytes()) {
        assert!(!canaries.found_in(&around(&text)).is_empty(), "{form}");
    }
    for before in ["", "a", "ab", "abc", "{\"token\":\"", "Bearer "] {
        let text = BASE64.encode(format!("{before}{secret} and more"));
        assert!(!canaries.found_in(&around(text.as_bytes())).is_empty(), "behind {before:?}");
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&around(secret.as_bytes())).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&around(secret.as_bytes())).unwrap();
    for packed in [gzip.finish().unwrap(), zlib.finish().unwrap()] {
        let found = canaries.found_in(&[b"before", &packed[..], b"behind"].concat());
        assert!(found.iter().any(|found| found.starts_with("compressed")), "{found:?}");
    }
    assert!(canaries.found_in(&around(b"nothing of the sort")).is_empty());
}
