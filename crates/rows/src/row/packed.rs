//! Packed form of a row: its JSON, the digest of the JSON, then the keys.

use std::sync::Arc;

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
        Ok(Self { bytes, json: length })
    }

    fn json(&self) -> &[u8] {
        &self.bytes[..self.json as usize]
    }

    /// The packed form, and the length of the JSON in it.
    pub(super) fn finish(self) -> (Arc<[u8]>, u32) {
        (self.bytes.into(), self.json)
    }

    /// Appends the two keys of the next level.
    pub(super) fn push_next(&mut self, next: Option<NextLevel>) {
        self.push(next.map_or(Cell::Null, |next| Cell::Number(next.at.as_second() as f64)));
        self.push(next.map_or(Cell::Null, |next| Cell::Level(next.level)));
    }

    /// Appends a key.
    pub(super) fn push(&mut self, key: Cell<&str>) {
        match key {
            Cell::Null => self.bytes.push(NULL),
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

/// Iterator over the packed keys.
pub(super) struct Keys<'a> {
    json: &'a [u8],
    packed: &'a [u8],
}

impl<'a> Keys<'a> {
    /// The keys of a packed row whose JSON has this length.
    pub(super) fn of(bytes: &'a [u8], json: u32) -> Self {
        let (json, packed) = bytes.split_at(json as usize);
        Self { json, packed: &packed[DIGEST_BYTES..] }
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
