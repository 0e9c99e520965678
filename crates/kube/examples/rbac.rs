//! Writes the RBAC manifests to `docs/rbac`: `cargo run -p pilothouse-kube --example rbac`.

use std::{fs, io, path::Path};

use pilothouse_kube::{Credential, rbac_manifest};

fn main() -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rbac");
    for credential in Credential::ALL {
        let file = directory.join(credential.as_str()).with_extension("yaml");
        fs::write(file, rbac_manifest(credential))?;
    }
    Ok(())
}
