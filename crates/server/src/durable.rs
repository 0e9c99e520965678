//! Durable directory entries: after a power loss a file keeps its name only if its directory was synced too.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

/// Syncs the directory that contains `path`, which makes creations, links, renames and removals in it durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Creates a directory of mode 0700 and its missing ancestors, durably. An existing directory is left as it is.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    let created: Vec<_> = path
        .ancestors()
        .take_while(|directory| !directory.as_os_str().is_empty() && !directory.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    created.into_iter().try_for_each(sync_directory_of)
}
