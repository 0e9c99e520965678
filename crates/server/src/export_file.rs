//! Export file of the audit trail (jsonl), verified with a public key alone.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use pilothouse_core::{
    Error,
    audit::{Checkpoint, PublicKey, Signatures, Verdict, verify_export},
};
use pilothouse_crypto::Ed25519Verifier;

use crate::{Fatal, checkpoint_file::Lines};

/// Verifies an export file (jsonl) with `key`.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn verify_export_file(path: &Path, key: PublicKey) -> Result<Verdict, Fatal> {
    let file = File::open(path).map_err(|error| Fatal::unusable(path, &error))?;
    let unreadable = |error: io::Error| Error::internal(error.to_string());
    let lines = Lines(BufReader::new(file)).map(|line| line.map_err(unreadable));
    let signatures = Signatures { key, verifier: &Ed25519Verifier, every: Checkpoint::EVERY };
    Ok(verify_export(lines, signatures)?)
}
