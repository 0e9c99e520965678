//! Packed form of a row: its JSON, the digest of the JSON, the next level if there is one, the keys, and the length of the
//! JSON in 4 bytes.

use std::sync::Arc;

use jiff::Timestamp;
use pilothouse_types::error::{Error, Result};

use super::Key;
use crate::{
    digest::{Digest, DigestKey},
    field::Cell,
    labels::string_end,
    level::{Level, NextLevel},
};

/// Tags of packed keys. A number is followed by 8 bytes; a text by its length and bytes, or by its length and offset; a
/// level by its byte.
const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const NUMBER: u8 = 3;
const TEXT: u8 = 4;
const IN_JSON: u8 = 5;
const LEVEL: u8 = 6;
/// Tag of the next level, before the first key of a row that has one: the level's byte, and the time of the change in
/// seconds since the Unix epoch, in 8 bytes.
const NEXT: u8 = 7;

/// Size of a row's digest in bytes.
pub(super) const DIGEST_BYTES: usize = size_of::<Digest>();

/// JSON in which the first member of this name has another value. The value must not be an object or an array.
pub(super) fn with_value(json: &str, name: &str, value: &str) -> String {
    let member = format!("\"{name}\":");
    let Some((before, rest)) = json.split_once(&member) else { return json.to_owned() };
    let length = match rest.strip_prefix('"') {
        Some(text) => string_end(text.as_bytes()).map_or(rest.len(), |end| end + 2),
        None => rest.find([',', '}']).unwrap_or(rest.len()),
    };
    [before, &member, value, &rest[length..]].concat()
}

/// Builder of the packed form of a row.
pub(super) struct Packed {
    bytes: Vec<u8>,
    /// Length of the JSON in bytes.
    json: u32,
    /// Number of null keys since the last other key. They are written before the next one, so that the last keys of a row
    /// take no memory if they are null.
    nulls: usize,
}

impl Packed {
    /// Begins with the JSON and its digest.
    ///
    /// # Errors
    /// `Internal` if the JSON is too long.
    pub(super) fn new(json: Vec<u8>, key: &DigestKey) -> Result<Self> {
        let length = u32::try_from(json.len()).map_err(|_| Error::internal("a row exceeds 4 GiB"))?;
        let digest = key.digest(&json);
        let mut bytes = json;
        bytes.extend_from_slice(&digest);
        Ok(Self { bytes, json: length, nulls: 0 })
    }

    fn json(&self) -> &[u8] {
        &self.bytes[..self.json as usize]
    }

    /// The packed form.
    pub(super) fn finish(mut self) -> Arc<[u8]> {
        self.bytes.extend_from_slice(&self.json.to_le_bytes());
        self.bytes.into()
    }

    /// Writes the next level, before the first key.
    pub(super) fn push_next(&mut self, next: Option<NextLevel>) {
        if let Some(NextLevel { at, level }) = next {
            self.bytes.extend_from_slice(&[NEXT, level as u8]);
            self.bytes.extend_from_slice(&at.as_second().to_le_bytes());
        }
    }

    /// Appends a key.
    pub(super) fn push(&mut self, key: Cell<&str>) {
        if matches!(key, Cell::Null) {
            self.nulls += 1;
            return;
        }
        let nulls = std::mem::take(&mut self.nulls);
        self.bytes.extend(std::iter::repeat_n(NULL, nulls));
        match key {
            Cell::Null => {}
            Cell::Bool(false) => self.bytes.push(FALSE),
            Cell::Bool(true) => self.bytes.push(TRUE),
            Cell::Number(value) => {
                self.bytes.push(NUMBER);
                self.bytes.extend_from_slice(&value.to_le_bytes());
            }
            Cell::Level(level) => self.bytes.extend_from_slice(&[LEVEL, level as u8]),
            Cell::Text(text) => {
                let offset = memchr::memmem::find(self.json(), text.as_bytes());
                self.bytes.push(if offset.is_some() { IN_JSON } else { TEXT });
                self.length(text.len());
                match offset {
                    Some(offset) => self.length(offset),
                    None => self.bytes.extend_from_slice(text.as_bytes()),
                }
            }
        }
    }

    /// Writes a length as unsigned LEB128: seven bits per byte, lowest bits first.
    fn length(&mut self, mut length: usize) {
        while length >= 0x80 {
            self.bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        self.bytes.push(length as u8);
    }
}

/// Splits a packed row into its JSON and the rest without the length.
pub(super) fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    // every packed row ends with its length
    let (rest, length) = bytes.split_last_chunk::<4>().unwrap_or((&[], &[0; 4]));
    rest.split_at(u32::from_le_bytes(*length) as usize)
}

/// Iterator over the packed keys.
pub(super) struct Keys<'a> {
    json: &'a [u8],
    packed: &'a [u8],
}

impl<'a> Keys<'a> {
    /// The next level and the keys of a packed row.
    pub(super) fn of(bytes: &'a [u8]) -> (Option<NextLevel>, Self) {
        let (json, packed) = split(bytes);
        let mut keys = Self { json, packed: &packed[DIGEST_BYTES..] };
        let next = (keys.packed.first() == Some(&NEXT)).then(|| keys.next_level()).flatten();
        (next, keys)
    }

    /// Reads the next level that [`Packed::push_next`] wrote.
    fn next_level(&mut self) -> Option<NextLevel> {
        let level = Level::from_byte(self.take(2)[1]);
        let mut second = [0; 8];
        second.copy_from_slice(self.take(8));
        let at = Timestamp::from_second(i64::from_le_bytes(second)).ok()?;
        level.map(|level| NextLevel { at, level })
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.packed.split_at(count);
        self.packed = rest;
        taken
    }

    /// Reads a length that [`Packed::length`] wrote.
    fn length(&mut self) -> usize {
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let byte = self.take(1)[0];
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        length
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = Key<'a>;

    fn next(&mut self) -> Option<Key<'a>> {
        if self.packed.is_empty() {
            return None;
        }
        Some(match self.take(1)[0] {
            FALSE => Cell::Bool(false),
            TRUE => Cell::Bool(true),
            NUMBER => {
                let mut number = [0; 8];
                number.copy_from_slice(self.take(8));
                Cell::Number(f64::from_le_bytes(number))
            }
            TEXT => {
                let length = self.length();
                Cell::Text(self.take(length))
            }
            IN_JSON => {
                let (length, offset) = (self.length(), self.length());
                Cell::Text(&self.json[offset..offset + length])
            }
            LEVEL => Level::from_byte(self.take(1)[0]).map_or(Cell::Null, Cell::Level),
            _ => Cell::Null,
        })
    }
}
