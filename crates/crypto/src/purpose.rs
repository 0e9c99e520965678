//! Key derivation labels (HKDF `info`), which separate the keys that are derived from one master key. Stored data
//! depends on the labels, so they never change.

/// Identifies the master key of a database, see [`MasterKey::fingerprint`](crate::MasterKey::fingerprint). Not a
/// secret.
pub const FINGERPRINT: &str = "pilothouse fingerprint";
/// Signs access tokens (HS256).
pub const ACCESS_TOKENS: &str = "pilothouse access tokens";
/// Keyed digests that are the refresh tokens of browsers (HMAC-SHA256).
pub const REFRESH_TOKENS: &str = "pilothouse refresh tokens";
/// Identifies the installation in the audience of its tokens. Not a secret.
pub const INSTALL: &str = "pilothouse install";
/// Keyed digests of values in the audit trail (HMAC-SHA256).
pub const AUDIT_VALUES: &str = "pilothouse audit values";
/// Seed of the key that signs checkpoints (Ed25519).
pub const AUDIT_SIGNATURES: &str = "pilothouse audit signatures";
/// Seals the data keys of rows (AES-256-GCM).
pub const SEALING: &str = "pilothouse sealing";
/// Identifies the sealing key in a sealed value. Not a secret.
pub const SEALING_KEY_ID: &str = "pilothouse sealing key id";
/// Keyed digests of rows and pages of lists (HMAC-SHA256).
pub const ROW_DIGESTS: &str = "pilothouse row digests";

/// The labels whose derived keys are secrets.
pub const SECRET: [&str; 6] =
    [ACCESS_TOKENS, REFRESH_TOKENS, AUDIT_VALUES, AUDIT_SIGNATURES, SEALING, ROW_DIGESTS];
