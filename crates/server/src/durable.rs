//! Durable directory entries: after a power loss a file keeps its name only if its directory was synced too.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
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

/// Writes a file of mode 0600, durably, and replaces a file of that name at once.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_added_extension("new");
    // a file that a killed process left may have another mode
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory_of(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_file_replaces_one_that_others_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("login.json");
        for name in ["login.json", "login.json.new"] {
            let path = directory.path().join(name);
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
