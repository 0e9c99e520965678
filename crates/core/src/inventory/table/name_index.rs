//! Everything that a search looks through, in one piece: a hundred thousand names are searched in the time that it takes
//! to read them.

use super::Slot;

/// The end of each text; no search contains it.
const END: u8 = 0;
/// An entry whose row is gone.
const TOMBSTONE: Slot = Slot::MAX;
/// How many texts of rows that are gone are put up with, and then as many as there are others.
const MAX_TOMBSTONES: usize = 1024;

/// The texts of all rows, one after another.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// By slot, the place of its entry.
    places: Vec<u32>,
    dead: usize,
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
            + self.places.capacity() * size_of::<u32>()
    }

    /// Adds a row's text.
    #[allow(clippy::cast_possible_truncation, reason = "the texts of all rows stay far below 4 GiB")]
    pub(super) fn insert(&mut self, slot: Slot, text: &[u8]) {
        if self.places.len() <= slot as usize {
            self.places.resize(slot as usize + 1, 0);
        }
        self.places[slot as usize] = self.entries.len() as u32;
        self.entries.push(Entry { start: self.text.len() as u32, slot });
        // an API server writes no such byte in a name; a hostile one finds nothing by it
        self.text.extend(text.iter().map(|byte| if *byte == END { b'\n' } else { *byte }));
        self.text.push(END);
    }

    /// Takes a row's text out.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.entries[self.places[slot as usize] as usize].slot = TOMBSTONE;
        self.dead += 1;
        if self.dead > MAX_TOMBSTONES.max(self.entries.len() / 2) {
            self.compact();
        }
    }

    /// The rows whose text contains `search`, each once, in no order.
    pub(super) fn find(&self, search: &str) -> Vec<Slot> {
        let finder = memchr::memmem::Finder::new(search);
        let (mut found, mut entry, mut from) = (Vec::new(), 0, 0);
        while let Some(at) = finder.find(&self.text[from..]) {
            let at = from + at;
            entry += self.entries_up_to(entry, at);
            if self.entries[entry].slot != TOMBSTONE {
                found.push(self.entries[entry].slot);
            }
            // once is enough: on with the next text
            entry += 1;
            match self.entries.get(entry) {
                Some(next) => from = next.start as usize,
                None => break,
            }
        }
        found
    }

    /// How many entries after `entry` the one is that holds this byte. Hits stand close together or far apart.
    fn entries_up_to(&self, entry: usize, at: usize) -> usize {
        let starts = |entry: &Entry| entry.start as usize <= at;
        let rest = &self.entries[entry + 1..];
        let near = rest.iter().take(8).take_while(|entry| starts(entry)).count();
        if near < 8 { near } else { rest.partition_point(starts) }
    }

    fn compact(&mut self) {
        let old = std::mem::take(self);
        self.places = old.places;
        for (place, Entry { start, slot }) in old.entries.iter().enumerate() {
            let end = old.entries.get(place + 1).map_or(old.text.len(), |next| next.start as usize);
            if *slot != TOMBSTONE {
                self.insert(*slot, &old.text[*start as usize..end - 1]);
            }
        }
    }
}
