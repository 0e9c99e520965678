//! Programs of the identity servers, downloaded once into the cache directory and verified by digest.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use super::process::run;
use crate::{
    binaries::{cache, log_line},
    error::{Error, Result, io},
};

/// Lines `SHA-256, two spaces, file name`; comments begin with `#`.
const DIGESTS: &str = include_str!("../../../../tests/identity/digests");
const PACKAGE: &str = include_str!("../../../../tests/identity/package.json");
/// Read when it is needed, so that the workspace compiles without it.
const LOCK_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/identity/package-lock.json");
const KEYCLOAK: &str = "keycloak-quarkus-dist-";

/// A folder with slapd, the LDAP commands and the libraries that Debian's package slapd needs, unpacked below `root`.
pub(super) fn slapd() -> Result<PathBuf> {
    let packages: Vec<_> = files().filter(|(_, file)| file.ends_with(".deb")).collect();
    let names = packages.iter().map(|(digest, file)| format!("{digest} {file}\n")).collect::<String>();
    cached("slapd", &names, |folder| {
        for (digest, file) in &packages {
            let (name, version) = package(file)?;
            log_line(&format!("downloading Debian's package {name} {version}"));
            run(Command::new("apt-get")
                .args(["download", &format!("{name}={version}")])
                .current_dir(folder))?;
            let archive = folder.join(file);
            verify(&archive, digest)?;
            run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(folder.join("root")))?;
            fs::remove_file(&archive).map_err(io(format!("removing {file}")))?;
        }
        Ok(())
    })
}

/// A folder with `node_modules`, which contains the package `oidc-provider`.
pub(super) fn oidc_provider() -> Result<PathBuf> {
    let lock_file = fs::read_to_string(LOCK_FILE).map_err(|error| {
        Error::Program(format!("{LOCK_FILE} ({error}): run tests/identity/pin.sh, and commit its result"))
    })?;
    cached("oidc-provider", &[PACKAGE, &lock_file].concat(), |folder| {
        for (name, text) in [("package.json", PACKAGE), ("package-lock.json", &lock_file)] {
            fs::write(folder.join(name), text).map_err(io(format!("writing {name}")))?;
        }
        log_line("downloading the npm package oidc-provider");
        // npm compares each package with its digest in the lock file
        let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        run(Command::new("npm").args(options).current_dir(folder))
    })
}

/// Keycloak's zip file.
pub(super) fn keycloak() -> Result<PathBuf> {
    let (digest, file) =
        files().find(|(_, file)| file.starts_with(KEYCLOAK)).expect("the digests name Keycloak");
    if digest == "-" {
        return Err(Error::Program(format!(
            "tests/identity/digests has no digest of {file}: run tests/identity/pin.sh, and commit its result"
        )));
    }
    let version = file.trim_start_matches(KEYCLOAK).trim_end_matches(".zip");
    let folder = cached("keycloak", digest, |folder| {
        log_line(&format!("downloading Keycloak {version} from Maven: 177 MB"));
        // a repository of its own, so that the archive is not stored twice
        let repository = folder.join("repository");
        run(Command::new("mvn")
            .args(["-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"])
            .arg(format!("-Dmaven.repo.local={}", repository.display()))
            .arg(format!("-Dartifact=org.keycloak:keycloak-quarkus-dist:{version}:zip"))
            .arg(format!("-DoutputDirectory={}", folder.display()))
            .current_dir(folder))?;
        fs::remove_dir_all(&repository).map_err(io("removing Maven's repository"))?;
        verify(&folder.join(file), digest)
    })?;
    Ok(folder.join(file))
}

/// Digests and names of the files.
fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    DIGESTS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once("  "))
}

/// Name and version of the package in a file `NAME_VERSION_ARCHITECTURE.deb`.
fn package(file: &str) -> Result<(&str, &str)> {
    let mut parts = file.split('_');
    parts
        .next()
        .zip(parts.next())
        .ok_or_else(|| Error::Program(format!("tests/identity/digests: {file} is not the name of a package")))
}

fn verify(file: &Path, expected: &str) -> Result<()> {
    let name = file.display();
    let bytes = fs::read(file).map_err(io(format!("reading {name}")))?;
    let found = hex(&Sha256::digest(bytes));
    match found == expected {
        true => Ok(()),
        false => Err(Error::Program(format!("{name} has the digest {found}, not {expected}"))),
    }
}

/// The folder `NAME-KEY` of the cache, where the key is of `contents`. If it does not exist, `fill` fills an empty folder,
/// which is then renamed. One process or thread fills and the others wait: each opens the lock file itself, so the lock
/// excludes threads too.
fn cached(name: &str, contents: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let folder = cache.join(format!("{name}-{}", &hex(&Sha256::digest(contents))[..12]));
    if folder.exists() {
        return Ok(folder);
    }
    let lock = cache.join(format!("{name}.lock"));
    let lock = fs::File::create(&lock).map_err(io(format!("creating {}", lock.display())))?;
    lock.lock().map_err(io(format!("waiting for another download of {name}")))?;
    if !folder.exists() {
        let scratch = cache.join(format!("{name}-download"));
        // removes the files of a download that was killed
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir(&scratch).map_err(io(format!("creating {}", scratch.display())))?;
        fill(&scratch)?;
        fs::rename(&scratch, &folder).map_err(io(format!("renaming {}", scratch.display())))?;
    }
    Ok(folder)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
