//! Search index: the search texts of all rows in one buffer. A search is one sequential scan of the buffer.

use super::Slot;

/// Terminator of each text. No search text contains this byte.
const END: u8 = 0;
/// Slot of an entry whose row was removed.
const TOMBSTONE: Slot = Slot::MAX;
/// Number of tombstones up to which the index is never compacted. Above this number, at most half of the entries are
/// tombstones.
const MAX_TOMBSTONES: usize = 1024;

/// The texts of all rows, concatenated.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// Index of the entry of each slot.
    entry_by_slot: Vec<u32>,
    tombstones: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    slot: Slot,
}

impl NameIndex {
    pub(super) fn bytes(&self) -> usize {
        self.text.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.entry_by_slot.capacity() * size_of::<u32>()
    }

    /// Adds a row's text.
    #[allow(clippy::cast_possible_truncation, reason = "the texts of all rows stay far below 4 GiB")]
    pub(super) fn insert(&mut self, slot: Slot, text: &[u8]) {
        if self.entry_by_slot.len() <= slot as usize {
            self.entry_by_slot.resize(slot as usize + 1, 0);
        }
        self.entry_by_slot[slot as usize] = self.entries.len() as u32;
        self.entries.push(Entry { start: self.text.len() as u32, slot });
        // names from an API server do not contain this byte; replacing it protects the index against a hostile server
        self.text.extend(text.iter().map(|byte| if *byte == END { b'\n' } else { *byte }));
        self.text.push(END);
    }

    /// Removes a row's text.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.entries[self.entry_by_slot[slot as usize] as usize].slot = TOMBSTONE;
        self.tombstones += 1;
        if self.tombstones > MAX_TOMBSTONES.max(self.entries.len() / 2) {
            self.compact();
        }
    }

    /// Returns the slots of the rows whose text contains `search`, each once, in no defined order.
    pub(super) fn find(&self, search: &str) -> Vec<Slot> {
        let finder = memchr::memmem::Finder::new(search);
        let (mut found, mut entry, mut from) = (Vec::new(), 0, 0);
        while let Some(at) = finder.find(&self.text[from..]) {
            let at = from + at;
            entry += self.entries_up_to(entry, at);
            if self.entries[entry].slot != TOMBSTONE {
                found.push(self.entries[entry].slot);
            }
            // one hit per row: continue with the next text
            entry += 1;
            match self.entries.get(entry) {
                Some(next) => from = next.start as usize,
                None => break,
            }
        }
        found
    }

    /// Distance from `entry` to the entry that contains the byte at `at`. A short linear search serves adjacent hits, a
    /// binary search all others.
    fn entries_up_to(&self, entry: usize, at: usize) -> usize {
        let starts = |entry: &Entry| entry.start as usize <= at;
        let rest = &self.entries[entry + 1..];
        let near = rest.iter().take(8).take_while(|entry| starts(entry)).count();
        if near < 8 { near } else { rest.partition_point(starts) }
    }

    fn compact(&mut self) {
        let old = std::mem::take(self);
        self.entry_by_slot = old.entry_by_slot;
        for (index, Entry { start, slot }) in old.entries.iter().enumerate() {
            let end = old.entries.get(index + 1).map_or(old.text.len(), |next| next.start as usize);
            if *slot != TOMBSTONE {
                self.insert(*slot, &old.text[*start as usize..end - 1]);
            }
        }
    }
}
