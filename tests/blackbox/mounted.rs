//! Key files of a mounted Kubernetes Secret, read by a process that does not run as root.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use rcgen::generate_simple_self_signed;
use rustix::process::geteuid;

use crate::{
    start::refused_with_one_message,
    support::{Install, PASSWORD},
};

const USER: u32 = 10_001;
/// The `fsGroup` of the pod.
const GROUP: u32 = 12_000;

/// A folder in kubelet's layout: each file is a link into a folder that is replaced as a whole.
struct Mount {
    folder: PathBuf,
}

impl Mount {
    fn at(folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("..dated")).unwrap();
        symlink("..dated", folder.join("..data")).unwrap();
        for path in [folder.clone(), folder.join("..dated")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    /// Writes a file that root owns, with this group and mode; returns the path of its link.
    fn write(&self, name: &str, text: &str, group: u32, mode: u32) -> PathBuf {
        let (file, link) = (self.folder.join("..dated").join(name), self.folder.join(name));
        fs::write(&file, text).unwrap();
        chown(&file, Some(0), Some(group)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        if !link.exists() {
            symlink(Path::new("..data").join(name), &link).unwrap();
        }
        link
    }
}

#[tokio::test]
async fn root_owned_keys_are_read_through_a_group_of_the_process() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can make files of root and start a process of another user");
        return;
    }
    let pair = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, tls_key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let master_key = "0123456789abcdef".repeat(4);

    let install = Install::new().run_as_user(USER, &[GROUP]);
    let mount = Mount::at(install.data_dir().with_file_name("mount"));
    let write = |group, mode| {
        let paths = [
            ("KEY_FILE", mount.write("master.key", &master_key, group, mode)),
            ("TLS_CERTIFICATE", mount.write("tls.crt", &certificate, GROUP, 0o444)),
            ("TLS_KEY", mount.write("tls.key", &tls_key, group, mode)),
        ];
        paths.map(|(name, path)| (name, path.to_str().unwrap().to_owned()))
    };
    let install =
        write(GROUP, 0o440).into_iter().fold(install, |install, (name, path)| install.set(name, path));

    for (group, mode, expected) in [
        (GROUP, 0o444, "chmod 600"),
        (GROUP, 0o644, "chmod 600"),
        (GROUP, 0o460, "chmod 600"),
        (GROUP, 0o660, "chmod 600"),
        // the kernel refuses access
        (GROUP, 0o400, "ermission denied"),
        (GROUP + 1, 0o440, "ermission denied"),
    ] {
        write(group, mode);
        let sentence = refused_with_one_message(&install, &["config", "check"]);
        assert!(sentence.contains(expected), "{group} {mode:04o}: {sentence}");
    }
    for mode in [0o640, 0o440] {
        write(GROUP, mode);
        let output = install.run(&["config", "check"]);
        assert!(output.status.success(), "{mode:04o}: {}", String::from_utf8_lossy(&output.stderr));
    }

    let server = install.start().await;
    let client = server.client().trusting(&certificate);
    client.sign_in("admin", PASSWORD).await.get("/api/auth/me").await.data();
    server.stop().await;
}
