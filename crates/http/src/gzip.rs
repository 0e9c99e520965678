//! Pages of lists, compressed: once for each content, not for each request.
//!
//! What is compressed and kept is a page's rows. `as_of` moves on while they stay the same, so it is added at the end, in
//! a block that is stored as it is (RFC 1951, 3.2.4); the checksums of the two are combined.
//!
//! Compression tells a listener on the wire how long a text is that holds a secret beside what the listener chose (BREACH).
//! Nothing here has both: rows have no secret values, and no parameter of a request (`search` neither) is part of a
//! page. Answers that do hold secrets (tokens, revealed values, details) are never compressed.

use std::{
    collections::HashMap,
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::http::header::{ACCEPT_ENCODING, HeaderMap};
use flate2::{Compression, Crc, write::DeflateEncoder};

use crate::list_response::ETag;

/// What is smaller costs more than it saves.
const WORTH_IT: usize = 4 << 10;

/// RFC 1952: deflate, no flags, no time, the fastest algorithm, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// The most that a stored block holds.
const STORED: usize = 0xffff;

/// Whether a body of this size is sent compressed (RFC 9110, 12.5.3): where gzip is named, or meant by `*`, and at least
/// as welcome as what is not compressed; and however small where nothing else is.
pub(crate) fn wanted(headers: &HeaderMap, size: usize) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    let (mut gzip, mut identity, mut others) = (None, None, None);
    for range in texts.flat_map(|text| text.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
        let known = match coding {
            "*" => &mut others,
            _ if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => &mut gzip,
            _ if coding.eq_ignore_ascii_case("identity") => &mut identity,
            _ => continue,
        };
        *known = Some(weight);
    }
    let gzip = gzip.or(others).unwrap_or(0.0);
    // without a word about it what is not compressed is acceptable, and the last choice
    let plain = identity.or(others.filter(|weight| *weight == 0.0));
    gzip > 0.0 && plain.is_none_or(|plain| gzip >= plain) && (size >= WORTH_IT || plain == Some(0.0))
}

/// The first part of a body, compressed.
pub(crate) struct Packed {
    bytes: Vec<u8>,
    sum: Crc,
}

impl Packed {
    /// Compresses.
    ///
    /// # Errors
    /// Never: it writes to memory.
    pub(crate) fn of(first: &[u8]) -> io::Result<Self> {
        let mut encoder = DeflateEncoder::new(HEADER.to_vec(), Compression::fast());
        encoder.write_all(first)?;
        // ends at a whole byte, without the mark of the last block
        encoder.flush()?;
        let mut sum = Crc::new();
        sum.update(first);
        let mut bytes = mem::take(encoder.get_mut());
        // it is kept for longer than it took to write
        bytes.shrink_to_fit();
        Ok(Self { bytes, sum })
    }

    /// The whole body: what was compressed, and the rest as it is.
    pub(crate) fn with(&self, rest: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes.len() + rest.len() + 5 * (1 + rest.len() / STORED) + 8);
        body.extend_from_slice(&self.bytes);
        let mut blocks = rest.chunks(STORED).peekable();
        while let Some(block) = blocks.next() {
            #[allow(clippy::cast_possible_truncation, reason = "a block is no longer")]
            let length = block.len() as u16;
            body.push(u8::from(blocks.peek().is_none()));
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&(!length).to_le_bytes());
            body.extend_from_slice(block);
        }
        let (mut sum, mut of_rest) = (Crc::new(), Crc::new());
        sum.combine(&self.sum);
        of_rest.update(rest);
        sum.combine(&of_rest);
        body.extend_from_slice(&sum.sum().to_le_bytes());
        body.extend_from_slice(&sum.amount().to_le_bytes());
        body
    }
}

/// What was compressed lately, for all workers: at most twice [`HALF`], the older half forgotten when the newer is full.
#[derive(Clone, Default)]
pub(crate) struct Compressed(Arc<Mutex<Halves>>);

/// Bytes of each half.
const HALF: usize = 8 << 20;

#[derive(Default)]
struct Halves {
    newer: HashMap<ETag, Arc<Packed>>,
    older: HashMap<ETag, Arc<Packed>>,
    /// Of the newer half.
    bytes: usize,
}

impl Compressed {
    /// What has this tag, made now if it is not there.
    ///
    /// # Errors
    /// As [`Packed::of`].
    pub(crate) fn get(&self, tag: ETag, first: impl FnOnce() -> Vec<u8>) -> io::Result<Arc<Packed>> {
        if let Some(packed) = self.locked(|halves| halves.find(tag)) {
            return Ok(packed);
        }
        // outside the lock: two who ask at once both do it
        let packed = Arc::new(Packed::of(&first())?);
        self.locked(|halves| halves.put(tag, packed.clone()));
        Ok(packed)
    }

    fn locked<T>(&self, work: impl FnOnce(&mut Halves) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Halves {
    fn find(&mut self, tag: ETag) -> Option<Arc<Packed>> {
        if let Some(packed) = self.newer.get(&tag) {
            return Some(packed.clone());
        }
        let packed = self.older.remove(&tag)?;
        self.put(tag, packed.clone());
        Some(packed)
    }

    fn put(&mut self, tag: ETag, packed: Arc<Packed>) {
        let size = packed.bytes.capacity();
        if size > HALF {
            return;
        }
        if self.bytes + size > HALF {
            (self.older, self.bytes) = (mem::take(&mut self.newer), 0);
        }
        self.bytes += size;
        self.newer.insert(tag, packed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use actix_web::http::header::HeaderValue;
    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn unpacked(body: &[u8]) -> Vec<u8> {
        let (mut text, mut rest) = (Vec::new(), body);
        let mut decoder = GzDecoder::new(&mut rest);
        decoder.read_to_end(&mut text).unwrap();
        assert!(decoder.into_inner().is_empty(), "nothing after the end");
        text
    }

    #[test]
    fn who_wants_it_by_table() {
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
            assert_eq!((wanted(&headers, 4096), wanted(&headers, 4095)), (large, small), "{text:?}");
        }
        assert!(!wanted(&HeaderMap::new(), usize::MAX));
    }

    proptest! {
        #[test]
        fn what_was_packed_with_any_rest_is_both(first in "\\PC{0,300}", rest in "\\PC{1,300}") {
            let packed = Packed::of(first.as_bytes()).unwrap();
            prop_assert_eq!(unpacked(&packed.with(rest.as_bytes())), (first.clone() + &rest).into_bytes());
        }
    }

    #[test]
    fn a_rest_may_take_several_blocks() {
        let rest = "x".repeat(2 * STORED + 1);
        assert_eq!(
            unpacked(&Packed::of(b"first").unwrap().with(rest.as_bytes())),
            ["first", &rest].concat().into_bytes()
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_used_stays() {
        let kept = Compressed::default();
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
        let mut made = 0;
        for n in 0..100_u128 {
            for tag in [0, n] {
                kept.get(ETag(tag.to_le_bytes()), || {
                    made += 1;
                    random(tag as u64)
                })
                .unwrap();
            }
        }
        assert_eq!(made, 100, "what is asked for again and again is made once");
        let held: usize = kept.locked(|halves| {
            halves.newer.values().chain(halves.older.values()).map(|packed| packed.bytes.len()).sum()
        });
        assert!((HALF..=2 * HALF).contains(&held), "{held}");
    }
}
