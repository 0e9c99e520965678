//! A model of the disk under a file system: what a power loss at some moment of a trace leaves.
//!
//! Of a file, what was written before an fsync or fdatasync of it began is on the disk when that has ended. Of a folder, what
//! was created, linked, renamed or removed in it likewise, and only by an fsync of the folder itself. Of everything else
//! nothing may be there ([`Unsynced::Lost`]), or some of it ([`Unsynced::Torn`]): any sectors of 512 bytes, each in any of
//! its versions since, in no order among sectors and files; of names the first few changes, as a journal writes them in
//! order. A sector is not torn itself, and what lies beside a written range is not damaged.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::trace::{Call, Event};
use crate::support::Random;

const SECTOR: u64 = 512;

/// What becomes of what was not synced.
pub(super) enum Unsynced<'r> {
    /// It is as if the power never failed.
    Kept,
    /// Nothing of it is there.
    Lost,
    /// Some of it is there.
    Torn(&'r mut Random),
}

/// An answer that a client may have from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// The header X-Request-Id.
    pub(super) request: String,
}

#[derive(Clone, Debug)]
enum Change {
    Written { offset: u64, data: Vec<u8> },
    Length(u64),
}

/// A file, whatever its names.
#[derive(Default)]
struct File {
    synced: Vec<u8>,
    changes: Vec<Change>,
    /// How many changes were synced before those.
    before: usize,
    length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Folder,
    File(usize),
}

#[derive(Clone, Debug)]
struct Rename {
    folder: PathBuf,
    removed: Option<PathBuf>,
    added: Option<(PathBuf, Named)>,
    /// Its place among all.
    number: usize,
}

enum Opened {
    Folder(PathBuf),
    File { file: usize, offset: u64, appends: bool },
}

/// The disk of one process, as far as one folder goes.
pub(super) struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: BTreeMap<PathBuf, Named>,
    synced_names: BTreeMap<PathBuf, Named>,
    renames: Vec<Rename>,
    renamed: usize,
    opened: HashMap<i64, Opened>,
    /// The call of each thread, and how many changes there were when it began.
    under_way: HashMap<u32, (Call, usize)>,
}

impl Disk {
    /// A folder and all that is in it, if it exists, durable.
    pub(super) fn of(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            files: Vec::new(),
            names: BTreeMap::from([(root.to_owned(), Named::Folder)]),
            synced_names: BTreeMap::new(),
            renames: Vec::new(),
            renamed: 0,
            opened: HashMap::new(),
            under_way: HashMap::new(),
        };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    disk.names.insert(path.clone(), Named::Folder);
                    folders.push(path);
                } else {
                    let synced = fs::read(&path).unwrap();
                    let length = synced.len() as u64;
                    disk.files.push(File { synced, length, ..File::default() });
                    disk.names.insert(path, Named::File(disk.files.len() - 1));
                }
            }
        }
        disk.synced_names = disk.names.clone();
        disk
    }

    /// Takes a step; an answer that it begins to send.
    pub(super) fn step(&mut self, event: &Event) -> Option<Answered> {
        match event {
            Event::Begins { thread, call } => {
                let mark = match (&*call.name, self.opened.get(&descriptor(call))) {
                    // another thread may get the number before the call ends
                    ("close", _) => {
                        self.opened.remove(&call.number(0));
                        0
                    }
                    ("fsync" | "fdatasync", Some(Opened::File { file, .. })) => self.files[*file].made(),
                    ("fsync" | "fdatasync", Some(Opened::Folder(_))) => self.renamed,
                    _ => 0,
                };
                self.under_way.insert(*thread, (call.clone(), mark));
                let sends = matches!(&*call.name, "sendto" | "sendmsg" | "write" | "writev");
                (sends && !self.opened.contains_key(&descriptor(call))).then(|| answered(call)).flatten()
            }
            Event::Ends { thread, result } => {
                let (call, mark) = self.under_way.remove(thread).expect("a call has begun");
                if *result >= 0 {
                    self.done(&call, mark, *result);
                }
                None
            }
        }
    }

    fn done(&mut self, call: &Call, mark: usize, result: i64) {
        let path = |place: usize| self.path(call, place);
        match &*call.name {
            "open" | "openat" | "creat" => self.open(call, result),
            "mkdir" | "mkdirat" => self.add(path(0), Some(Named::Folder)),
            "rename" | "renameat" | "renameat2" => {
                if let (Some(from), Some(to)) = (path(0), path(1)) {
                    let named = self.names.get(&from).copied();
                    self.rename(Some(from), Some(to).zip(named));
                }
            }
            "link" | "linkat" => {
                let named = path(0).and_then(|from| self.names.get(&from).copied());
                self.add(path(1), named);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(gone) = path(0) {
                    self.rename(Some(gone), None);
                }
            }
            "close" => {}
            name => self.done_to_opened(name, call, mark, result),
        }
    }

    fn done_to_opened(&mut self, name: &str, call: &Call, mark: usize, result: i64) {
        let length = result as u64;
        let Some(opened) = self.opened.get_mut(&descriptor(call)) else {
            assert!(name != "copy_file_range" && name != "sendfile", "not modelled: {call:?}");
            return;
        };
        let (file, offset, appends) = match opened {
            Opened::File { file, offset, appends } => (&mut self.files[*file], offset, *appends),
            Opened::Folder(folder) => {
                let folder = folder.clone();
                if matches!(name, "fsync" | "fdatasync") {
                    self.sync_folder(&folder, mark);
                }
                return;
            }
        };
        match name {
            "lseek" => *offset = length,
            "write" | "writev" => {
                let mut data = call.texts.concat();
                data.truncate(length as usize);
                let at = if appends { file.length } else { *offset };
                file.change(Change::Written { offset: at, data });
                *offset = at + length;
            }
            "pwrite64" => {
                let mut data = call.texts.concat();
                data.truncate(length as usize);
                let place = call.arguments.split(',').count() - 1;
                file.change(Change::Written { offset: call.number(place) as u64, data });
            }
            "ftruncate" => file.change(Change::Length(call.number(1) as u64)),
            "fsync" | "fdatasync" => file.sync(mark),
            _ => panic!("not modelled: {call:?}"),
        }
    }

    fn open(&mut self, call: &Call, descriptor: i64) {
        self.opened.remove(&descriptor);
        let Some(path) = self.path(call, 0) else { return };
        let file = match self.names.get(&path) {
            Some(Named::Folder) => {
                self.opened.insert(descriptor, Opened::Folder(path));
                return;
            }
            Some(Named::File(file)) => *file,
            None => {
                assert!(call.has("O_CREAT"), "a file from nowhere: {call:?}");
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.add(Some(path), Some(Named::File(file)));
                file
            }
        };
        if call.has("O_TRUNC") && self.files[file].length > 0 {
            self.files[file].change(Change::Length(0));
        }
        self.opened.insert(descriptor, Opened::File { file, offset: 0, appends: call.has("O_APPEND") });
    }

    /// The path among a call's texts at this place, if it is in our folder.
    fn path(&self, call: &Call, place: usize) -> Option<PathBuf> {
        let path = PathBuf::from(str::from_utf8(call.texts.get(place)?).ok()?);
        path.starts_with(&self.root).then_some(path)
    }

    fn add(&mut self, path: Option<PathBuf>, named: Option<Named>) {
        if let Some(added) = path.zip(named) {
            self.rename(None, Some(added));
        }
    }

    fn rename(&mut self, removed: Option<PathBuf>, added: Option<(PathBuf, Named)>) {
        let path = added.as_ref().map(|(path, _)| path).or(removed.as_ref()).expect("a name");
        let folder = path.parent().expect("it is in a folder").to_owned();
        let rename = Rename { folder, removed, added, number: self.renamed };
        rename.apply(&mut self.names);
        self.renames.push(rename);
        self.renamed += 1;
    }

    fn sync_folder(&mut self, folder: &Path, mark: usize) {
        let (synced, rest) = self
            .renames
            .drain(..)
            .partition(|rename: &Rename| rename.folder == folder && rename.number < mark);
        self.renames = rest;
        for rename in synced {
            rename.apply(&mut self.synced_names);
        }
    }

    /// Writes to `folder` what a power loss would leave now.
    pub(super) fn rebuild(&self, folder: &Path, mut unsynced: Unsynced<'_>) {
        let mut names = self.synced_names.clone();
        let kept = match &mut unsynced {
            Unsynced::Kept => self.renames.len(),
            Unsynced::Lost => 0,
            Unsynced::Torn(random) => random.below(self.renames.len() as u64 + 1) as usize,
        };
        for rename in &self.renames[..kept] {
            rename.apply(&mut names);
        }
        // a folder comes before what is in it
        for (path, named) in &names {
            let place = folder.join(path.strip_prefix(&self.root).unwrap());
            if !place.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match named {
                Named::Folder => fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).unwrap(),
                Named::File(file) => {
                    let mut options = fs::OpenOptions::new();
                    let mut output =
                        options.write(true).create(true).truncate(true).mode(0o600).open(&place).unwrap();
                    std::io::Write::write_all(&mut output, &self.files[*file].left(&mut unsynced)).unwrap();
                }
            }
        }
    }

    /// How many changes of files and names are not synced.
    pub(super) fn unsynced(&self) -> usize {
        self.renames.len() + self.files.iter().map(|file| file.changes.len()).sum::<usize>()
    }
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Named>) {
        if let Some(removed) = &self.removed {
            names.remove(removed);
        }
        if let Some((path, named)) = &self.added {
            names.insert(path.clone(), *named);
        }
    }
}

impl File {
    /// How many changes were ever made.
    fn made(&self) -> usize {
        self.before + self.changes.len()
    }

    fn change(&mut self, change: Change) {
        self.length = match &change {
            Change::Written { offset, data } => self.length.max(offset + data.len() as u64),
            Change::Length(length) => *length,
        };
        self.changes.push(change);
    }

    /// The first `mark` changes are on the disk.
    fn sync(&mut self, mark: usize) {
        let synced = mark.saturating_sub(self.before).min(self.changes.len());
        for change in self.changes.drain(..synced) {
            change.apply(&mut self.synced);
        }
        self.before += synced;
    }

    /// What a power loss leaves of it.
    fn left(&self, unsynced: &mut Unsynced<'_>) -> Vec<u8> {
        let mut left = self.synced.clone();
        match unsynced {
            Unsynced::Lost => {}
            Unsynced::Kept => self.changes.iter().for_each(|change| change.apply(&mut left)),
            Unsynced::Torn(random) => {
                let all = self.changes.len() as u64;
                // of each sector, and of the length, the first few changes; often none or all
                let mut some = || match random.below(3) {
                    0 => 0,
                    1 => all,
                    _ => random.below(all + 1),
                };
                let (lengths, mut sectors) = (some(), HashMap::new());
                for (number, change) in (0..).zip(&self.changes) {
                    match change {
                        Change::Length(_) if number < lengths => change.apply(&mut left),
                        Change::Length(_) => {}
                        Change::Written { offset, data } => {
                            for (offset, data) in pieces(*offset, data) {
                                if number < *sectors.entry(offset / SECTOR).or_insert_with(&mut some) {
                                    Change::Written { offset, data: data.to_vec() }.apply(&mut left);
                                }
                            }
                        }
                    }
                }
            }
        }
        left
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length as usize, 0),
            Self::Written { offset, data } => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(data);
            }
        }
    }
}

/// A range, cut where sectors end.
fn pieces(mut offset: u64, mut data: &[u8]) -> Vec<(u64, &[u8])> {
    let mut pieces = Vec::new();
    while !data.is_empty() {
        let room = (SECTOR - offset % SECTOR) as usize;
        let (piece, rest) = data.split_at(room.min(data.len()));
        pieces.push((offset, piece));
        offset += piece.len() as u64;
        data = rest;
    }
    pieces
}

/// The descriptor that a call is about; none of those with a path.
fn descriptor(call: &Call) -> i64 {
    let first = call.arguments.split([',', ')']).next().unwrap_or_default();
    first.trim().parse().unwrap_or(-1)
}

/// An answer of HTTP/1.1 that a call sends.
fn answered(call: &Call) -> Option<Answered> {
    let sent = call.texts.concat();
    let head = String::from_utf8_lossy(&sent[..sent.len().min(4096)]).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let header = |line: &str| line.to_lowercase().strip_prefix("x-request-id: ").map(str::to_owned);
    Some(Answered { status, request: head.lines().find_map(header)? })
}
