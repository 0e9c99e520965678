//! The API server's audit log: who did what, with which `Audit-ID`. Writes, and reads of one Secret, at level Metadata.

use serde::Deserialize;

/// In blocking mode (see the API server's flags) an answer is sent only after its event is in the file.
pub(crate) const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
  verbs: [get]
  resources: [{group: '', resources: [secrets]}]
- level: None
";

/// One event of the audit log.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// The request's id: the `Audit-ID` header if the client sent one.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `ResponseComplete`, mostly.
    pub stage: String,
    /// `create`, `update`, `patch`, `delete`, `deletecollection`; of a Secret also `get`.
    pub verb: String,
    /// When the request came in, in RFC 3339.
    #[serde(rename = "requestReceivedTimestamp")]
    pub received: String,
    /// The path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who.
    pub user: AuditUser,
    /// With which program.
    pub user_agent: Option<String>,
    /// What.
    pub object_ref: Option<AuditObject>,
    /// The answer.
    pub response_status: Option<AuditStatus>,
}

/// The user of an event.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditUser {
    /// The user's name.
    pub username: Option<String>,
    /// The groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The object of an event.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditObject {
    /// The API group; none for the core group.
    pub api_group: Option<String>,
    /// The plural, for instance `pods`.
    pub resource: Option<String>,
    /// For instance `scale`.
    pub subresource: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: Option<String>,
}

/// The answer of an event.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditStatus {
    /// The HTTP status code.
    pub code: Option<u16>,
    /// Why it was refused.
    pub message: Option<String>,
}

/// The events of a log that may be growing: a last line without its end is left for the next time.
pub(crate) fn parse(log: &str) -> serde_json::Result<Vec<AuditEvent>> {
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_still_being_written_is_left_for_later() {
        let line = r#"{"auditID":"x","stage":"ResponseComplete","verb":"create","requestURI":"/","user":{},"requestReceivedTimestamp":"2026-01-01T00:00:00.000000Z"}"#;
        assert_eq!(parse(line).expect("nothing to parse").len(), 0);
        assert_eq!(parse(&format!("{line}\n{}", &line[..20])).expect("one line").len(), 1);
        assert!(parse("not an event\n").is_err());
    }
}
