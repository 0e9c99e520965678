//! Permission check of key files.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::process::{getegid, geteuid, getgroups};

/// Reason why a key file is refused.
#[derive(Debug)]
pub enum PrivateFileError {
    /// The file cannot be opened.
    Io(io::Error),
    /// The permission bits let other users read or write the file.
    Exposed {
        /// The permission bits of the file.
        mode: u32,
    },
}

impl From<io::Error> for PrivateFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a key file, through symbolic links, unless other users can read or write it.
///
/// A file that only its owner can read or write is accepted. So is a file as Kubernetes mounts it into a pod with an
/// `fsGroup`: owned by root and readable by its group, where the process is not root and is in that group. The
/// process cannot read such a file in another way, and cannot change its mode.
///
/// # Errors
/// [`PrivateFileError`].
pub fn open_private_file(path: &Path) -> Result<File, PrivateFileError> {
    let file = File::open(path)?;
    let found = Permissions::from(file.metadata()?);
    if Process::current()?.accepts(&found) {
        Ok(file)
    } else {
        Err(PrivateFileError::Exposed { mode: found.mode })
    }
}

/// Owner, group and permission bits of a file.
struct Permissions {
    user: u32,
    group: u32,
    mode: u32,
}

impl From<Metadata> for Permissions {
    fn from(file: Metadata) -> Self {
        Self { user: file.uid(), group: file.gid(), mode: file.permissions().mode() & 0o777 }
    }
}

/// The user and the groups of a process.
struct Process {
    user: u32,
    groups: Vec<u32>,
}

const ROOT: u32 = 0;

impl Process {
    fn current() -> io::Result<Self> {
        let mut groups = vec![getegid().as_raw()];
        groups.extend(getgroups()?.into_iter().map(rustix::fs::Gid::as_raw));
        Ok(Self { user: geteuid().as_raw(), groups })
    }

    fn accepts(&self, file: &Permissions) -> bool {
        let owner_only = file.mode & 0o077 == 0;
        let group_reads = file.mode & 0o037 == 0;
        let mounted = file.user == ROOT && self.user != ROOT && self.groups.contains(&file.group);
        owner_only || group_reads && mounted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_is_accepted_by_owner_and_mode() {
        const USER: u32 = 1000;
        const OTHER: u32 = 1001;
        // user of the process, its groups, owner, group and mode of the file, whether it is accepted
        type Case<'a> = (u32, &'a [u32], u32, u32, u32, bool);
        let cases: [Case<'_>; 25] = [
            (USER, &[USER], USER, USER, 0o600, true),
            (USER, &[USER], USER, USER, 0o400, true),
            (ROOT, &[ROOT], ROOT, ROOT, 0o600, true),
            (ROOT, &[ROOT], ROOT, ROOT, 0o400, true),
            // a Secret with an fsGroup, and with the group root, which OpenShift assigns to all processes
            (USER, &[USER, 2000], ROOT, 2000, 0o440, true),
            (USER, &[2000], ROOT, 2000, 0o640, true),
            (USER, &[ROOT], ROOT, ROOT, 0o440, true),
            (USER, &[USER, 2000], ROOT, 2000, 0o040, true),
            // a group that the process is not in
            (USER, &[USER, 2000], ROOT, 2001, 0o440, false),
            (USER, &[], ROOT, ROOT, 0o440, false),
            // the group may do more than read
            (USER, &[2000], ROOT, 2000, 0o460, false),
            (USER, &[2000], ROOT, 2000, 0o660, false),
            (USER, &[2000], ROOT, 2000, 0o420, false),
            (USER, &[2000], ROOT, 2000, 0o450, false),
            // others may read, write or execute it
            (USER, &[2000], ROOT, 2000, 0o444, false),
            (USER, &[2000], ROOT, 2000, 0o644, false),
            (USER, &[2000], ROOT, 2000, 0o442, false),
            (USER, &[2000], ROOT, 2000, 0o441, false),
            (USER, &[USER], USER, USER, 0o604, false),
            (ROOT, &[ROOT], ROOT, ROOT, 0o644, false),
            // the owner can set the mode to 0600
            (USER, &[USER], USER, USER, 0o640, false),
            (USER, &[USER, 2000], USER, 2000, 0o440, false),
            (ROOT, &[ROOT], ROOT, ROOT, 0o640, false),
            (ROOT, &[ROOT, 2000], ROOT, 2000, 0o440, false),
            // another user, not root, owns the file and can write it at any time
            (USER, &[USER, 2000], OTHER, 2000, 0o440, false),
        ];
        for (user, groups, owner, group, mode, accepted) in cases {
            let process = Process { user, groups: groups.to_vec() };
            let file = Permissions { user: owner, group, mode };
            assert_eq!(
                process.accepts(&file),
                accepted,
                "process {user} {groups:?}, file {owner} {group} {mode:04o}"
            );
        }
    }

    #[test]
    fn mode_of_the_symlink_target_is_checked() {
        // as kubelet mounts a Secret: key -> ..data/key, ..data -> a directory with a timestamp as its name
        let directory = tempfile::tempdir().unwrap();
        let dated = directory.path().join("..2026_01_01");
        std::fs::create_dir(&dated).unwrap();
        std::os::unix::fs::symlink("..2026_01_01", directory.path().join("..data")).unwrap();
        let (file, link) = (dated.join("key"), directory.path().join("key"));
        std::os::unix::fs::symlink("..data/key", &link).unwrap();
        std::fs::write(&file, "key").unwrap();
        for (mode, accepted) in [(0o600, true), (0o400, true), (0o444, false), (0o660, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            match open_private_file(&link) {
                Ok(_) => assert!(accepted, "{mode:04o}"),
                Err(PrivateFileError::Exposed { mode: found }) => {
                    assert!(!accepted && found == mode, "{mode:04o} {found:04o}");
                }
                Err(PrivateFileError::Io(error)) => panic!("{error}"),
            }
        }
    }
}
