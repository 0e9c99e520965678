//! What a key is derived for: the labels (HKDF's `info`) that keep the keys of one master key apart. Stored data depends on
//! them, so that none of them ever changes.

/// Says of a database which key it belongs to, see [`MasterKey::fingerprint`](crate::MasterKey::fingerprint); no secret.
pub const FINGERPRINT: &str = "pilothouse fingerprint";
/// Signs access tokens (HS256).
pub const ACCESS_TOKENS: &str = "pilothouse access tokens";
/// Names the install in the audience of its tokens; no secret.
pub const INSTALL: &str = "pilothouse install";
/// Digests values for the audit trail (HMAC-SHA256).
pub const AUDIT_VALUES: &str = "pilothouse audit values";
/// The seed of the key that signs checkpoints (Ed25519).
pub const AUDIT_SIGNATURES: &str = "pilothouse audit signatures";
/// Seals the keys of rows (AES-256-GCM).
pub const SEALING: &str = "pilothouse sealing";
/// Names the sealing key in what it sealed; no secret.
pub const SEALING_KEY_ID: &str = "pilothouse sealing key id";
/// Digests rows and pages of lists (HMAC-SHA256).
pub const ROW_DIGESTS: &str = "pilothouse row digests";

/// Those whose keys are secrets.
pub const SECRET: [&str; 5] = [ACCESS_TOKENS, AUDIT_VALUES, AUDIT_SIGNATURES, SEALING, ROW_DIGESTS];
