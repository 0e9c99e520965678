//! Commands `pilothouse audit …`: verify, export and prune the audit trail, with access to the database and the master
//! key. Verifying an export needs only the public key.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use pilothouse_core::{
    access::Caller,
    audit::{Audit, CheckpointSigner, Export, ExportFormat, ExportQuery, PublicKey, Verdict},
};
use pilothouse_crypto::{Ed25519Signer, MasterKey};

use crate::{
    Fatal, compose, export_file::verify_export_file, operator::operator, retention::Cutoff,
    settings::Settings,
};

/// Subcommands of `pilothouse audit`.
#[derive(clap::Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify the trail, also while a server runs; on failure prints the first bad entry and exits with code 1
    Verify {
        /// Compare with the checkpoints of this file [default: the setting audit_checkpoint_file]
        #[arg(long, value_name = "FILE", conflicts_with = "export")]
        checkpoint: Option<PathBuf>,
        /// Skip the checkpoints outside the database: for a restored copy, or on another machine
        #[arg(long, conflicts_with_all = ["export", "checkpoint"])]
        no_witness: bool,
        /// Verify this export (jsonl) instead; needs no database
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
        /// The key that must have signed the export, as `audit public-key` prints it [default: this install's]
        #[arg(long, value_name = "HEX", requires = "export")]
        public_key: Option<PublicKey>,
    },
    /// Export the trail, or a part of it
    Export {
        /// From the first entry at or after this time
        #[arg(long, value_name = "TIME")]
        from: Option<Timestamp>,
        /// To the last entry before this time
        #[arg(long, value_name = "TIME")]
        to: Option<Timestamp>,
        /// Format: jsonl, which can be verified, or k8s, events of audit.k8s.io/v1
        #[arg(long, default_value = "jsonl")]
        format: String,
        /// Write to this new file [default: standard output]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Skip the checkpoints outside the database when the export is verified before it is signed
        #[arg(long)]
        no_witness: bool,
    },
    /// Remove entries signed before a time, after a directory or the webhook has them; the remaining trail verifies
    Prune {
        /// Up to the last checkpoint before this time
        #[arg(long, value_name = "TIME")]
        before: Timestamp,
        /// Archive the entries in this directory [default: the setting audit_archive_dir]
        #[arg(long, value_name = "DIR")]
        archive: Option<PathBuf>,
    },
    /// Print the public key that verifies the exports of this install
    PublicKey,
}

/// Runs an audit command.
pub(crate) async fn audit(mut settings: Settings, command: AuditCommand) -> Result<(), Fatal> {
    match command {
        AuditCommand::Verify { export: Some(file), public_key, .. } => {
            let key = public_key.map_or_else(|| install_public_key(&settings), Ok)?;
            print_verdict(&verify_export_file(&file, key)?)
        }
        AuditCommand::Verify { checkpoint, no_witness, .. } => {
            if let Some(file) = checkpoint {
                File::open(&file).map_err(|error| Fatal::unusable(&file, &error))?;
                settings.audit_checkpoint_file = Some(file);
            }
            let audit = open_trail(&settings, no_witness).await?;
            print_verdict(&audit.verify(&Caller::command_line(&operator())).await?)
        }
        AuditCommand::Export { from, to, format, output, no_witness } => {
            let format = match format.as_str() {
                "jsonl" => ExportFormat::Jsonl,
                "k8s" => ExportFormat::K8s,
                _ => return Err(Fatal::Setting(format!("`{format}` is not a format; use jsonl or k8s"))),
            };
            let audit = open_trail(&settings, no_witness).await?;
            let query = ExportQuery { format, from, to };
            let export = audit.export(&Caller::command_line(&operator()), query).await?;
            match output {
                None => write(export, io::stdout(), Path::new("standard output")).await,
                Some(path) => {
                    // only the owner may read the file, because it contains names of users and IP addresses
                    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
                    let file = file.map_err(|error| Fatal::unusable(&path, &error))?;
                    write(export, file, &path).await
                }
            }
        }
        AuditCommand::Prune { before, archive } => {
            settings.audit_archive_dir = archive.or(settings.audit_archive_dir);
            if settings.audit_archive_dir.is_none() && settings.webhook().is_none() {
                let message = "entries must be archived before they are removed: set a directory with --archive or \
                    audit_archive_dir, or set a webhook";
                return Err(Fatal::Setting(message.into()));
            }
            let retention = compose::for_commands(&settings).await?.retention(&settings)?;
            let removed = retention.prune(&Caller::command_line(&operator()), Cutoff::Before(before)).await?;
            println!("removed {removed} entries");
            Ok(())
        }
        AuditCommand::PublicKey => {
            println!("{}", install_public_key(&settings)?);
            Ok(())
        }
    }
}

async fn open_trail(settings: &Settings, no_witness: bool) -> Result<Audit, Fatal> {
    let audit = compose::for_commands(settings).await?.app.audit;
    Ok(if no_witness { audit.without_checkpoint_sink() } else { audit })
}

fn install_public_key(settings: &Settings) -> Result<PublicKey, Fatal> {
    Ok(Ed25519Signer::new(&MasterKey::load(&settings.key_file())?).public_key())
}

async fn write(mut export: Export, output: impl Write, path: &Path) -> Result<(), Fatal> {
    let mut output = BufWriter::new(output);
    while let Some(lines) = export.next().await? {
        output.write_all(lines.as_bytes()).map_err(|error| Fatal::unusable(path, &error))?;
    }
    output.flush().map_err(|error| Fatal::unusable(path, &error))
}

/// Prints the result of a verification. A failed verification is an error (exit code 1).
fn print_verdict(verdict: &Verdict) -> Result<(), Fatal> {
    let Verdict { removed, entries, head, checkpoints, witnessed, unsigned, first_bad, .. } = verdict;
    if *removed > 0 {
        println!("removed      {removed}, by retention or prune");
    }
    println!("entries      {entries}");
    println!("last         {}", head.sequence);
    println!("hash         {}", head.hash);
    println!("checkpoints  {checkpoints}, of which {witnessed} are also in the checkpoint file");
    if *unsigned > 0 {
        println!("unsigned     {unsigned}, after the last checkpoint");
    }
    let Some(bad) = first_bad else {
        println!("valid");
        return Ok(());
    };
    let operation = bad.operation_id.as_ref().map_or_else(String::new, |id| format!(" (operation {id})"));
    Err(Fatal::VerificationFailed(format!("entry {}{operation}: {}", bad.sequence, bad.details)))
}
