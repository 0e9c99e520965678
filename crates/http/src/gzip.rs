//! gzip compression of list pages, with a cache: each content is compressed once, not for each request. Log downloads
//! are compressed as they are sent.
//!
//! The rows of a page are compressed and cached. `as_of` changes while the rows stay the same, so the part after the
//! rows is appended in stored blocks (RFC 1951, 3.2.4), and the checksums of the two parts are combined.
//!
//! The compressed length of a text that contains both a secret and input of an attacker can reveal the secret (BREACH).
//! No page contains both: rows have no secret values, and no request parameter (`search` included) is part of a page.
//! Responses with secrets (tokens, revealed values, details) are never compressed.

use std::{
    collections::HashMap,
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::http::header::{ACCEPT_ENCODING, HeaderMap};
use flate2::{
    Compression, Crc,
    write::{DeflateEncoder, GzEncoder},
};

use crate::etag::ETag;

/// Minimum size of a compressed body, in bytes; compressing a smaller one costs more than it saves.
const MIN_COMPRESSED_BYTES: usize = 4 << 10;

/// Member header (RFC 1952): deflate, no flags, no time, fastest algorithm, unknown operating system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// Maximum size of a stored block, in bytes.
const MAX_STORED_BLOCK_BYTES: usize = 0xffff;

/// Whether a body of this size is sent compressed (RFC 9110, 12.5.3): when `Accept-Encoding` accepts gzip, by name or
/// by `*`, with at least the weight of `identity`. When `identity` is refused, the size does not matter.
pub(crate) fn should_compress(headers: &HeaderMap, size: usize) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    let (mut gzip, mut identity, mut others) = (None, None, None);
    for range in texts.flat_map(|text| text.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
        let slot = match coding {
            "*" => &mut others,
            _ if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => &mut gzip,
            _ if coding.eq_ignore_ascii_case("identity") => &mut identity,
            _ => continue,
        };
        *slot = Some(weight);
    }
    let gzip = gzip.or(others).unwrap_or(0.0);
    // an unnamed identity is acceptable with the lowest preference
    let identity = identity.or(others.filter(|weight| *weight == 0.0));
    gzip > 0.0
        && identity.is_none_or(|identity| gzip >= identity)
        && (size >= MIN_COMPRESSED_BYTES || identity == Some(0.0))
}

/// Compressor of a body that is sent in parts.
pub(crate) struct GzipStream(GzEncoder<Vec<u8>>);

impl GzipStream {
    /// A compressor without input.
    pub(crate) fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// Adds a part of the body. Returns the next compressed bytes; none while the part waits in the compressor.
    ///
    /// # Errors
    /// None in practice, because the compressor writes to memory.
    pub(crate) fn add(&mut self, part: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(part)?;
        Ok(mem::take(self.0.get_mut()))
    }

    /// The last compressed bytes.
    ///
    /// # Errors
    /// As [`GzipStream::add`].
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}

/// The compressed first part of a body, and its checksum.
pub(crate) struct CompressedPrefix {
    bytes: Vec<u8>,
    crc: Crc,
}

impl CompressedPrefix {
    /// Compresses the first part of a body.
    ///
    /// # Errors
    /// None in practice, because the compressor writes to memory.
    pub(crate) fn of(plain: &[u8]) -> io::Result<Self> {
        let mut encoder = DeflateEncoder::new(GZIP_HEADER.to_vec(), Compression::fast());
        encoder.write_all(plain)?;
        // a flush ends the data at a byte boundary, without a final block
        encoder.flush()?;
        let mut crc = Crc::new();
        crc.update(plain);
        let mut bytes = mem::take(encoder.get_mut());
        // the cache keeps the buffer for a long time
        bytes.shrink_to_fit();
        Ok(Self { bytes, crc })
    }

    /// The complete body: the compressed part, then `rest` in stored blocks.
    pub(crate) fn append(&self, rest: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(
            self.bytes.len() + rest.len() + 5 * (1 + rest.len() / MAX_STORED_BLOCK_BYTES) + 8,
        );
        body.extend_from_slice(&self.bytes);
        let mut blocks = rest.chunks(MAX_STORED_BLOCK_BYTES).peekable();
        while let Some(block) = blocks.next() {
            #[allow(clippy::cast_possible_truncation, reason = "a chunk is at most 65535 bytes")]
            let length = block.len() as u16;
            body.push(u8::from(blocks.peek().is_none()));
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&(!length).to_le_bytes());
            body.extend_from_slice(block);
        }
        let (mut crc, mut rest_crc) = (Crc::new(), Crc::new());
        crc.combine(&self.crc);
        rest_crc.update(rest);
        crc.combine(&rest_crc);
        body.extend_from_slice(&crc.sum().to_le_bytes());
        body.extend_from_slice(&crc.amount().to_le_bytes());
        body
    }
}

/// Cache of compressed pages, shared by all workers. It has two generations of [`GENERATION_BYTES`] bytes each; when
/// the newer is full, the older is dropped.
#[derive(Clone, Default)]
pub(crate) struct CompressedPages(Arc<Mutex<Generations>>);

/// Maximum size of one generation, in bytes.
const GENERATION_BYTES: usize = 8 << 20;

#[derive(Default)]
struct Generations {
    newer: HashMap<ETag, Arc<CompressedPrefix>>,
    older: HashMap<ETag, Arc<CompressedPrefix>>,
    /// Total size of the newer generation.
    bytes: usize,
}

impl CompressedPages {
    /// Returns the cached entry of a tag. If there is none, compresses the page and caches the result.
    ///
    /// # Errors
    /// As [`CompressedPrefix::of`].
    pub(crate) fn get(
        &self,
        tag: ETag,
        plain: impl FnOnce() -> Vec<u8>,
    ) -> io::Result<Arc<CompressedPrefix>> {
        if let Some(prefix) = self.with_lock(|generations| generations.get(tag)) {
            return Ok(prefix);
        }
        // compressed outside the lock, so two concurrent requests may both compress the page
        let prefix = Arc::new(CompressedPrefix::of(&plain())?);
        self.with_lock(|generations| generations.insert(tag, prefix.clone()));
        Ok(prefix)
    }

    fn with_lock<T>(&self, work: impl FnOnce(&mut Generations) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn get(&mut self, tag: ETag) -> Option<Arc<CompressedPrefix>> {
        if let Some(prefix) = self.newer.get(&tag) {
            return Some(prefix.clone());
        }
        let prefix = self.older.remove(&tag)?;
        self.insert(tag, prefix.clone());
        Some(prefix)
    }

    fn insert(&mut self, tag: ETag, prefix: Arc<CompressedPrefix>) {
        let size = prefix.bytes.capacity();
        if size > GENERATION_BYTES {
            return;
        }
        if self.bytes + size > GENERATION_BYTES {
            (self.older, self.bytes) = (mem::take(&mut self.newer), 0);
        }
        self.bytes += size;
        self.newer.insert(tag, prefix);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use actix_web::http::header::HeaderValue;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn gunzip(body: &[u8]) -> Vec<u8> {
        let (mut text, mut rest) = (Vec::new(), body);
        let mut decoder = GzDecoder::new(&mut rest);
        decoder.read_to_end(&mut text).unwrap();
        assert!(decoder.into_inner().is_empty(), "no bytes after the gzip member");
        text
    }

    #[test]
    fn gzip_needs_accept_encoding_and_a_large_body() {
        let cases = [
            ("", false, false),
            ("gzip", true, false),
            ("GZIP;q=0.5", true, false),
            ("x-gzip", true, false),
            ("br, gzip, deflate", true, false),
            ("*", true, false),
            ("br", false, false),
            ("identity", false, false),
            ("gzip;q=0", false, false),
            ("gzip;q=0, *", false, false),
            ("gzip;q=x", false, false),
            ("gzip;q=0.5, identity", false, false),
            ("gzip, identity;q=0.5", true, false),
            ("identity;q=0", false, false),
            ("gzip, identity;q=0", true, true),
            ("gzip;q=0.1, *;q=0", true, true),
            ("identity;q=0, *", true, true),
            ("*;q=0", false, false),
        ];
        for (text, large, small) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(text));
            assert_eq!(
                (should_compress(&headers, 4096), should_compress(&headers, 4095)),
                (large, small),
                "{text:?}"
            );
        }
        assert!(!should_compress(&HeaderMap::new(), usize::MAX));
    }

    proptest! {
        #[test]
        fn compressed_prefix_and_rest_decompress_to_both(first in "\\PC{0,300}", rest in "\\PC{1,300}") {
            let prefix = CompressedPrefix::of(first.as_bytes()).unwrap();
            prop_assert_eq!(gunzip(&prefix.append(rest.as_bytes())), (first.clone() + &rest).into_bytes());
        }
    }

    proptest! {
        #[test]
        fn compressed_parts_decompress_to_the_body(parts in prop::collection::vec("\\PC{0,2000}", 0..20)) {
            let mut gzip = GzipStream::new();
            let mut body = Vec::new();
            for part in &parts {
                body.extend(gzip.add(part.as_bytes()).unwrap());
            }
            body.extend(gzip.finish().unwrap());
            prop_assert_eq!(gunzip(&body), parts.concat().into_bytes());
        }
    }

    #[test]
    fn long_rest_spans_several_stored_blocks() {
        let rest = "x".repeat(2 * MAX_STORED_BLOCK_BYTES + 1);
        assert_eq!(
            gunzip(&CompressedPrefix::of(b"first").unwrap().append(rest.as_bytes())),
            ["first", &rest].concat().into_bytes()
        );
    }

    #[test]
    fn cache_size_is_bounded_and_used_entries_stay() {
        let cache = CompressedPages::default();
        let random = |n: u64| {
            let mut state = n + 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            };
            (0..32 << 10).flat_map(|_| next()).collect::<Vec<u8>>()
        };
        let mut compressed = 0;
        for n in 0..100_u128 {
            for tag in [0, n] {
                cache
                    .get(ETag(tag.to_le_bytes()), || {
                        compressed += 1;
                        random(tag as u64)
                    })
                    .unwrap();
            }
        }
        assert_eq!(compressed, 100, "a page in use is compressed once");
        let bytes: usize = cache.with_lock(|generations| {
            generations
                .newer
                .values()
                .chain(generations.older.values())
                .map(|prefix| prefix.bytes.len())
                .sum()
        });
        assert!((GENERATION_BYTES..=2 * GENERATION_BYTES).contains(&bytes), "{bytes} bytes");
    }
}
