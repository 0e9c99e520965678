//! Audit log of the API server, with the `Audit-ID` of each request: writes, and `get` of Secrets, at level Metadata.

use serde::Deserialize;

/// Audit policy. In blocking mode (see the API server's flags) a response is sent only after its event is in the file.
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
    /// Stage of the request, in most events `ResponseComplete`.
    pub stage: String,
    /// `create`, `update`, `patch`, `delete` or `deletecollection`; for Secrets also `get`.
    pub verb: String,
    /// Time at which the request was received, in RFC 3339.
    #[serde(rename = "requestReceivedTimestamp")]
    pub received: String,
    /// The path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// The authenticated user.
    pub user: AuditUser,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The object of the request.
    pub object_ref: Option<AuditObject>,
    /// Status of the response.
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
    /// The API group; `None` for the core group.
    pub api_group: Option<String>,
    /// The plural resource name, for instance `pods`.
    pub resource: Option<String>,
    /// The subresource, for instance `scale`.
    pub subresource: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: Option<String>,
}

/// The response status of an event.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditStatus {
    /// The HTTP status code.
    pub code: Option<u16>,
    /// Reason of a refusal.
    pub message: Option<String>,
}

/// Parses the events of a log that is still being written. A last line without line feed is ignored.
pub(crate) fn parse(log: &str) -> serde_json::Result<Vec<AuditEvent>> {
    let complete = log.rfind('\n').map_or("", |end| &log[..end]);
    complete.lines().map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_last_line_is_ignored() {
        let line = r#"{"auditID":"x","stage":"ResponseComplete","verb":"create","requestURI":"/","user":{},"requestReceivedTimestamp":"2026-01-01T00:00:00.000000Z"}"#;
        assert_eq!(parse(line).expect("a partial line is ignored").len(), 0);
        assert_eq!(parse(&format!("{line}\n{}", &line[..20])).expect("one line").len(), 1);
        assert!(parse("not an event\n").is_err());
    }
}
