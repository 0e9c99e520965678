//! Defects that the verification of a trail finds.

use serde::Serialize;

use crate::error::Error;

/// Kind of defect found in a trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The entry is missing: it was removed or moved.
    EntryMissing,
    /// The entry does not follow from those before it: it was changed, inserted or moved.
    EntryChanged,
    /// The entry's hash matches, but its text is not in the form that Pilothouse writes.
    EntryMalformed,
    /// A column beside the entry's text does not match the text.
    EntryColumn,
    /// An outcome without an intent, a second outcome, or a second intent or entry of the same operation.
    EntryOrder,
    /// The stored head differs from the last entry.
    HeadDiffers,
    /// The operation's row in the operations list is missing, or out of order.
    RowMissing,
    /// The operations list has a row that belongs to no operation in the chain.
    RowUnexpected,
    /// The operation's row in the operations list does not match the chain.
    RowChanged,
    /// More entries follow the last checkpoint than the checkpoint interval allows.
    CheckpointMissing,
    /// A checkpoint from outside the database is not in the database.
    CheckpointRemoved,
    /// The trail was signed more than once, but there is no checkpoint outside the database.
    WitnessMissing,
    /// An entry was appended so long after the last checkpoint that it must have been signed, but it was not.
    Unsigned,
    /// A checkpoint is not signed by a key of this trail, belongs to another trail, or is out of order.
    CheckpointForged,
    /// The chain differs from the one that was signed: this entry or an earlier one was rewritten.
    Rewritten,
    /// Entries that were signed or read before are missing from here on.
    TailCut,
    /// The trail start is not signed by a key of this trail.
    BeginningForged,
    /// The first line of the export is not signed by the key.
    HeaderForged,
    /// The export does not contain the entries that its first line announces.
    ExportIncomplete,
}

/// First defect found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Defect {
    /// Sequence number of the entry.
    pub sequence: i64,
    /// Operation id, if known.
    pub operation_id: Option<String>,
    /// Kind of defect.
    pub fault: Fault,
    /// Description in English.
    pub details: String,
}

impl Defect {
    pub(crate) fn at(sequence: i64, fault: Fault, details: impl Into<String>) -> Self {
        Self { sequence, operation_id: None, fault, details: details.into() }
    }

    /// Converts the defect into the error of an operation that cannot continue.
    pub(crate) fn into_error(self) -> Error {
        let Self { sequence, details, .. } = self;
        Error::internal(format!(
            "the audit trail failed verification: entry {sequence}: {details}; see `pilothouse audit verify`"
        ))
    }

    /// Sets the operation id.
    pub(crate) fn of(self, operation: impl ToString) -> Self {
        Self { operation_id: Some(operation.to_string()), ..self }
    }
}
