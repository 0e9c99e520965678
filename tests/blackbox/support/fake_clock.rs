//! Wall clock of a process, set by libfaketime from a file. The monotonic clock is not changed.

use std::{env, fs, path::PathBuf};

use pilothouse_testbed::Folder;

/// A clock that several processes can share.
pub(crate) struct FakeClock {
    library: PathBuf,
    folder: Folder,
}

impl FakeClock {
    /// A clock with the right time; `None`, with a message, if Debian's libfaketime is not installed. CI requires it.
    pub(crate) fn start() -> Option<Self> {
        let Some(library) = find_file("/usr/lib", "faketime/libfaketimeMT.so.1") else {
            assert!(env::var_os("CI").is_none(), "CI has libfaketime");
            eprintln!("SKIPPED a clock that jumps: needs libfaketime (Debian: libfaketime)");
            return None;
        };
        let clock = Self { library, folder: Folder::create().expect("a temporary folder") };
        clock.set("+0");
        Some(clock)
    }

    /// Sets the difference from the right time in seconds, with its sign.
    pub(crate) fn set(&self, offset: &str) {
        let (file, new) = (self.file(), self.folder.path().join("new"));
        fs::write(&new, format!("{offset}\n")).expect("the file is written");
        fs::rename(new, file).expect("the file is replaced");
    }

    /// The environment variables of a process that has this clock.
    pub(crate) fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

/// Searches for a file in all direct subfolders.
fn find_file(folder: &str, file: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path().join(file));
    folders.into_iter().find(|path| path.exists())
}
