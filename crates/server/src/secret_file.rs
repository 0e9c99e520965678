//! Secrets in files that a setting names, such as `client_secret_file`.

use std::{io::Read, path::Path};

use pilothouse_crypto::{PrivateFileError, open_private_file};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::Fatal;

/// Size limit of a file, in bytes. The buffer has this capacity from the start: growing it would leave copies in memory.
const MAX_BYTES: usize = 4096;

/// Reads a secret from a file that only this user can access, or that is mounted by Kubernetes. A final line break is
/// not part of it. `setting` names the file in errors.
///
/// # Errors
/// `Fatal::Setting` when the file cannot be read, is accessible to others, or does not contain one text.
pub(crate) fn read_secret(path: &Path, setting: &str) -> Result<SecretString, Fatal> {
    let unusable = |why: &str| Fatal::Setting(format!("the file {} of {setting} {why}", path.display()));
    let file = open_private_file(path).map_err(|error| match error {
        PrivateFileError::Io(error) => {
            unusable(&format!("cannot be read ({error}): check the path and its permissions"))
        }
        PrivateFileError::Exposed { mode } => unusable(&format!(
            "has mode {mode:04o}, so other users can access it: run chmod 600 on it, or mount it as root's with mode \
             0440 and a group of this process"
        )),
    })?;
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let read = file.take(MAX_BYTES as u64 + 1).read_to_end(&mut content);
    read.map_err(|error| unusable(&format!("cannot be read ({error}): check the path and its permissions")))?;
    if content.len() > MAX_BYTES {
        return Err(unusable(&format!("has more than {MAX_BYTES} bytes: use a file with only the secret")));
    }
    let text = std::str::from_utf8(&content)
        .map_err(|_| unusable("is not UTF-8: use a file with only the secret"))?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() {
        return Err(unusable("is empty: write the secret to it"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn secret_is_read_from_a_private_file_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let read = |content: &[u8], mode| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path, "`client_secret_file`").map_err(|fatal| fatal.to_string())
        };
        for content in ["s3cret value", "s3cret value\n", "s3cret value\r\n"] {
            assert_eq!(read(content.as_bytes(), 0o600).unwrap().expose_secret(), "s3cret value");
        }
        assert_eq!(read(b" a\n\n", 0o600).unwrap().expose_secret(), " a\n");
        for (content, mode, expected) in [
            (&b"canary"[..], 0o644, "chmod 600"),
            (b"", 0o600, "is empty"),
            (b"\n", 0o600, "is empty"),
            (b"canary\xff", 0o600, "is not UTF-8"),
            (&[b'a'; MAX_BYTES + 1], 0o600, "has more than 4096 bytes"),
        ] {
            let message = read(content, mode).unwrap_err();
            assert!(message.contains(expected) && message.contains("`client_secret_file`"), "{message}");
            assert!(!message.contains("canary"), "{message}");
        }
        let message = read_secret(&directory.path().join("absent"), "x").unwrap_err().to_string();
        assert!(message.contains("cannot be read"), "{message}");
    }
}
