//! Model of a disk with a file system: the state after a power loss at any point of a trace.
//!
//! File data that was written before an fsync or fdatasync of the file began is durable when the call returns. Entries
//! that were created, linked, renamed or removed in a folder are durable only after an fsync of the folder. Other
//! changes may be lost completely ([`Unsynced::Lost`]) or partly ([`Unsynced::Torn`]): each sector of 512 bytes may
//! have any of its versions since the last sync, in no order among sectors and files; of the name changes, the first
//! few are kept, as a journal writes them in order. A sector itself is not torn, and bytes outside a written range are
//! not damaged.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::trace::{Call, Event};
use crate::support::Random;

const SECTOR: u64 = 512;

/// Treatment of unsynced changes in a rebuild.
pub(super) enum Unsynced<'r> {
    /// All of them are kept, as without a power loss.
    Retained,
    /// All of them are lost.
    Lost,
    /// A random part of them is kept.
    Torn(&'r mut Random),
}

/// A response that a client may have received from this point on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SentResponse {
    pub(super) status: u16,
    /// The header X-Request-Id.
    pub(super) request: String,
}

#[derive(Clone, Debug)]
enum Change {
    Written { offset: u64, data: Vec<u8> },
    Length(u64),
}

/// A file, independent of its names.
#[derive(Default)]
struct File {
    synced: Vec<u8>,
    changes: Vec<Change>,
    /// The number of changes that were synced before `changes`.
    synced_count: usize,
    length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File(usize),
}

#[derive(Clone, Debug)]
struct Rename {
    folder: PathBuf,
    removed: Option<PathBuf>,
    added: Option<(PathBuf, Entry)>,
    /// Sequence number of this rename among all renames.
    number: usize,
}

enum Opened {
    Folder(PathBuf),
    File { file: usize, offset: u64, appends: bool },
}

/// The files of one process below one folder.
pub(super) struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: BTreeMap<PathBuf, Entry>,
    synced_names: BTreeMap<PathBuf, Entry>,
    renames: Vec<Rename>,
    rename_count: usize,
    opened: HashMap<i64, Opened>,
    /// The running call of each thread, and the number of changes when it began.
    running_calls: HashMap<u32, (Call, usize)>,
}

impl Disk {
    /// A folder and its contents, all durable; empty if it does not exist.
    pub(super) fn of(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            files: Vec::new(),
            names: BTreeMap::from([(root.to_owned(), Entry::Folder)]),
            synced_names: BTreeMap::new(),
            renames: Vec::new(),
            rename_count: 0,
            opened: HashMap::new(),
            running_calls: HashMap::new(),
        };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    disk.names.insert(path.clone(), Entry::Folder);
                    folders.push(path);
                } else {
                    let synced = fs::read(&path).unwrap();
                    let length = synced.len() as u64;
                    disk.files.push(File { synced, length, ..File::default() });
                    disk.names.insert(path, Entry::File(disk.files.len() - 1));
                }
            }
        }
        disk.synced_names = disk.names.clone();
        disk
    }

    /// Applies an event; returns the response that it begins to send.
    pub(super) fn step(&mut self, event: &Event) -> Option<SentResponse> {
        match event {
            Event::Begins { thread, call } => {
                let mark = match (&*call.name, self.opened.get(&descriptor(call))) {
                    // another thread may get the number before the call ends
                    ("close", _) => {
                        self.opened.remove(&call.number(0));
                        0
                    }
                    ("fsync" | "fdatasync", Some(Opened::File { file, .. })) => {
                        self.files[*file].change_count()
                    }
                    ("fsync" | "fdatasync", Some(Opened::Folder(_))) => self.rename_count,
                    _ => 0,
                };
                self.running_calls.insert(*thread, (call.clone(), mark));
                let sends = matches!(&*call.name, "sendto" | "sendmsg" | "write" | "writev");
                (sends && !self.opened.contains_key(&descriptor(call))).then(|| sent_response(call)).flatten()
            }
            Event::Ends { thread, result } => {
                let (call, mark) = self.running_calls.remove(thread).expect("a call that began");
                if *result >= 0 {
                    self.complete_call(&call, mark, *result);
                }
                None
            }
        }
    }

    fn complete_call(&mut self, call: &Call, mark: usize, result: i64) {
        let path = |position: usize| self.path(call, position);
        match &*call.name {
            "open" | "openat" | "creat" => self.open(call, result),
            "mkdir" | "mkdirat" => self.add(path(0), Some(Entry::Folder)),
            "rename" | "renameat" | "renameat2" => {
                if let (Some(from), Some(to)) = (path(0), path(1)) {
                    let entry = self.names.get(&from).copied();
                    self.rename(Some(from), Some(to).zip(entry));
                }
            }
            "link" | "linkat" => {
                let entry = path(0).and_then(|from| self.names.get(&from).copied());
                self.add(path(1), entry);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(removed) = path(0) {
                    self.rename(Some(removed), None);
                }
            }
            "close" => {}
            name => self.complete_call_on_descriptor(name, call, mark, result),
        }
    }

    fn complete_call_on_descriptor(&mut self, name: &str, call: &Call, mark: usize, result: i64) {
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
                let mut data = call.strings.concat();
                data.truncate(length as usize);
                let at = if appends { file.length } else { *offset };
                file.change(Change::Written { offset: at, data });
                *offset = at + length;
            }
            "pwrite64" => {
                let mut data = call.strings.concat();
                data.truncate(length as usize);
                let position = call.arguments.split(',').count() - 1;
                file.change(Change::Written { offset: call.number(position) as u64, data });
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
            Some(Entry::Folder) => {
                self.opened.insert(descriptor, Opened::Folder(path));
                return;
            }
            Some(Entry::File(file)) => *file,
            None => {
                assert!(call.has("O_CREAT"), "a file that was not created: {call:?}");
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.add(Some(path), Some(Entry::File(file)));
                file
            }
        };
        if call.has("O_TRUNC") && self.files[file].length > 0 {
            self.files[file].change(Change::Length(0));
        }
        self.opened.insert(descriptor, Opened::File { file, offset: 0, appends: call.has("O_APPEND") });
    }

    /// The path at this position of a call's strings, if it is below the root.
    fn path(&self, call: &Call, position: usize) -> Option<PathBuf> {
        let path = PathBuf::from(str::from_utf8(call.strings.get(position)?).ok()?);
        path.starts_with(&self.root).then_some(path)
    }

    fn add(&mut self, path: Option<PathBuf>, entry: Option<Entry>) {
        if let Some(added) = path.zip(entry) {
            self.rename(None, Some(added));
        }
    }

    fn rename(&mut self, removed: Option<PathBuf>, added: Option<(PathBuf, Entry)>) {
        let path = added.as_ref().map(|(path, _)| path).or(removed.as_ref()).expect("an old or a new name");
        let folder = path.parent().expect("the path has a parent").to_owned();
        let rename = Rename { folder, removed, added, number: self.rename_count };
        rename.apply(&mut self.names);
        self.renames.push(rename);
        self.rename_count += 1;
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

    /// Writes to `folder` the state after a power loss now.
    pub(super) fn rebuild(&self, folder: &Path, mut unsynced: Unsynced<'_>) {
        let mut names = self.synced_names.clone();
        let kept_renames = match &mut unsynced {
            Unsynced::Retained => self.renames.len(),
            Unsynced::Lost => 0,
            Unsynced::Torn(random) => random.below(self.renames.len() as u64 + 1) as usize,
        };
        for rename in &self.renames[..kept_renames] {
            rename.apply(&mut names);
        }
        // a folder sorts before its contents
        for (path, entry) in &names {
            let target = folder.join(path.strip_prefix(&self.root).unwrap());
            if !target.parent().is_some_and(Path::is_dir) {
                continue;
            }
            match entry {
                Entry::Folder => fs::DirBuilder::new().recursive(true).mode(0o700).create(&target).unwrap(),
                Entry::File(file) => {
                    let mut options = fs::OpenOptions::new();
                    let mut output =
                        options.write(true).create(true).truncate(true).mode(0o600).open(&target).unwrap();
                    std::io::Write::write_all(
                        &mut output,
                        &self.files[*file].contents_after_loss(&mut unsynced),
                    )
                    .unwrap();
                }
            }
        }
    }

    /// The number of unsynced changes of files and names.
    pub(super) fn unsynced(&self) -> usize {
        self.renames.len() + self.files.iter().map(|file| file.changes.len()).sum::<usize>()
    }
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        if let Some(removed) = &self.removed {
            names.remove(removed);
        }
        if let Some((path, entry)) = &self.added {
            names.insert(path.clone(), *entry);
        }
    }
}

impl File {
    /// The number of changes ever made.
    fn change_count(&self) -> usize {
        self.synced_count + self.changes.len()
    }

    fn change(&mut self, change: Change) {
        self.length = match &change {
            Change::Written { offset, data } => self.length.max(offset + data.len() as u64),
            Change::Length(length) => *length,
        };
        self.changes.push(change);
    }

    /// Makes the first `mark` changes durable.
    fn sync(&mut self, mark: usize) {
        let synced = mark.saturating_sub(self.synced_count).min(self.changes.len());
        for change in self.changes.drain(..synced) {
            change.apply(&mut self.synced);
        }
        self.synced_count += synced;
    }

    /// The contents after a power loss.
    fn contents_after_loss(&self, unsynced: &mut Unsynced<'_>) -> Vec<u8> {
        let mut contents_after_loss = self.synced.clone();
        match unsynced {
            Unsynced::Lost => {}
            Unsynced::Retained => {
                self.changes.iter().for_each(|change| change.apply(&mut contents_after_loss));
            }
            Unsynced::Torn(random) => {
                let all = self.changes.len() as u64;
                // per sector, and for the length: keeps the first few changes, often none or all
                let mut kept_changes = || match random.below(3) {
                    0 => 0,
                    1 => all,
                    _ => random.below(all + 1),
                };
                let (lengths, mut sectors) = (kept_changes(), HashMap::new());
                for (number, change) in (0..).zip(&self.changes) {
                    match change {
                        Change::Length(_) if number < lengths => change.apply(&mut contents_after_loss),
                        Change::Length(_) => {}
                        Change::Written { offset, data } => {
                            for (offset, data) in pieces(*offset, data) {
                                if number < *sectors.entry(offset / SECTOR).or_insert_with(&mut kept_changes)
                                {
                                    Change::Written { offset, data: data.to_vec() }
                                        .apply(&mut contents_after_loss);
                                }
                            }
                        }
                    }
                }
            }
        }
        contents_after_loss
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

/// Splits a range at sector boundaries.
fn pieces(mut offset: u64, mut data: &[u8]) -> Vec<(u64, &[u8])> {
    let mut pieces = Vec::new();
    while !data.is_empty() {
        let space = (SECTOR - offset % SECTOR) as usize;
        let (piece, rest) = data.split_at(space.min(data.len()));
        pieces.push((offset, piece));
        offset += piece.len() as u64;
        data = rest;
    }
    pieces
}

/// The descriptor argument of a call; -1 for calls with a path.
fn descriptor(call: &Call) -> i64 {
    let first = call.arguments.split([',', ')']).next().unwrap_or_default();
    first.trim().parse().unwrap_or(-1)
}

/// The HTTP/1.1 response that a call sends, if any.
fn sent_response(call: &Call) -> Option<SentResponse> {
    let sent = call.strings.concat();
    let head = String::from_utf8_lossy(&sent[..sent.len().min(4096)]).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let header = |line: &str| line.to_lowercase().strip_prefix("x-request-id: ").map(str::to_owned);
    Some(SentResponse { status, request: head.lines().find_map(header)? })
}
