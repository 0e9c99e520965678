//! Names in folders that outlive a power loss: a file is durable under its name only when its folder is flushed, too.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

/// Flushes the folder of `path`: what was created, linked, renamed or removed in it.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A folder that only its owner can enter; made with those above it where it does not exist, and then durable.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    let made: Vec<_> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    made.into_iter().try_for_each(sync_folder_of)
}
