//! Conversion of entries into `audit.k8s.io/v1` events, for tools that read an API server's audit log.
//! (kubernetes.io, Reference: kube-apiserver Audit Configuration, v1.)

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::Serialize;

use super::{StoredEntry, TrailReader};
use crate::{
    error::{Error, Result},
    ids::OperationId,
    kind::KINDS,
    operation::{Entry, Operation, Outcome, Status},
};

/// Converter of entries into lines. It stores the intents whose outcomes have not been converted yet.
#[derive(Default)]
pub(super) struct Events {
    pending: HashMap<OperationId, Operation>,
}

impl Events {
    pub(super) async fn lines(
        &mut self,
        reader: &dyn TrailReader,
        entries: &[StoredEntry],
    ) -> Result<String> {
        let mut lines = String::new();
        for stored in entries {
            let (operation, outcome) = match parse(stored)? {
                Entry::Intent { operation } => {
                    self.pending.insert(operation.id, operation.clone());
                    (operation, None)
                }
                Entry::Complete { operation, outcome } => (operation, Some(outcome)),
                Entry::Outcome { operation_id, outcome } => {
                    let operation = match self.pending.remove(&operation_id) {
                        Some(operation) => operation,
                        // the operation began before the first exported entry
                        None => match read_intent(reader, operation_id).await? {
                            Some(operation) => operation,
                            // the intent was removed; the export of the removed part contains its event
                            None => continue,
                        },
                    };
                    (operation, Some(outcome))
                }
            };
            let event = event(stored.sequence, &operation, outcome.as_ref());
            let line = serde_json::to_string(&event)
                .map_err(|error| Error::internal(format!("audit event: {error}")))?;
            // writing to a String cannot fail
            let _ = writeln!(lines, "{line}");
        }
        Ok(lines)
    }
}

fn parse(stored: &StoredEntry) -> Result<Entry> {
    let unreadable =
        |_| Error::internal(format!("entry {} of the audit trail cannot be read", stored.sequence));
    serde_json::from_str(&stored.text).map_err(unreadable)
}

async fn read_intent(reader: &dyn TrailReader, id: OperationId) -> Result<Option<Operation>> {
    let stored = reader.intent(id).await?;
    match stored.as_ref().map(parse).transpose()? {
        Some(Entry::Intent { operation } | Entry::Complete { operation, .. }) => Ok(Some(operation)),
        Some(Entry::Outcome { .. }) if reader.trail_start().await?.is_some() => Ok(None),
        _ => Err(Error::internal(format!("the audit trail has no intent of the operation {id}"))),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: OperationId,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'static str,
    verb: &'a str,
    user: User<'a>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    object_ref: ObjectRef<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<ResponseStatus<'a>>,
    request_received_timestamp: String,
    stage_timestamp: String,
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct User<'a> {
    username: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    groups: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'static str,
}

#[derive(Serialize)]
struct ResponseStatus<'a> {
    metadata: BTreeMap<(), ()>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Event for one stage of an operation: request received, or response complete.
fn event<'a>(sequence: i64, operation: &'a Operation, outcome: Option<&'a Outcome>) -> Event<'a> {
    let kind = KINDS.iter().map(|kind| kind.info()).find(|info| info.singular == operation.resource_type);
    let (resource, api_group, api_version) = match (kind, operation.resource_type.split_once('.')) {
        (Some(kind), _) => (kind.plural.to_owned(), kind.group, kind.version),
        // a kind that is not in the table has its resource name, such as `boats.example.org`; of the core group it is a
        // plural, which no resource of Pilothouse is
        (None, Some((plural, group))) => (plural.to_owned(), group, ""),
        (None, None) if operation.resource_type.ends_with('s') => (operation.resource_type.clone(), "", "v1"),
        // Pilothouse's own resources have their own API group, so that they are not mistaken for cluster resources
        (None, None) => (format!("{}s", operation.resource_type), "pilothouse", ""),
    };
    let object_ref = ObjectRef {
        resource,
        api_group,
        api_version,
        namespace: operation.namespace.as_deref(),
        name: operation.resource_name.as_deref(),
    };
    let response_status = outcome.map(|outcome| ResponseStatus {
        metadata: BTreeMap::new(),
        status: if outcome.status == Status::Success { "Success" } else { "Failure" },
        reason: outcome.error_code.as_deref(),
        message: outcome.details.as_deref(),
    });
    let annotations = [
        ("pilothouse/sequence", Some(sequence.to_string())),
        ("pilothouse/cluster", operation.cluster_name.clone()),
        ("pilothouse/cluster-id", operation.cluster_id.map(|id| id.0.to_string())),
        ("pilothouse/request-id", operation.request_id.clone()),
        ("pilothouse/grant-id", operation.grant_id.map(|id| id.0.to_string())),
        ("pilothouse/token-id", operation.token_id.map(|id| id.0.to_string())),
        ("pilothouse/reason", operation.reason.clone()),
        ("pilothouse/request", operation.summary()),
        ("pilothouse/status", outcome.map(|outcome| outcome.status.as_str().to_owned())),
        ("pilothouse/duration-ms", outcome.map(|outcome| outcome.duration_ms.to_string())),
    ];
    Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: "Metadata",
        audit_id: operation.id,
        stage: if outcome.is_some() { "ResponseComplete" } else { "RequestReceived" },
        // required by the type; the trail stores parameters instead of a URI
        request_uri: "",
        verb: &operation.operation_type,
        user: User {
            username: &operation.username,
            uid: operation.user_id.map(|id| id.0.to_string()),
            groups: operation.role.map(pilothouse_types::role::Role::as_str).into_iter().collect(),
        },
        source_ips: operation.source_ip.iter().map(ToString::to_string).collect(),
        object_ref,
        response_status,
        request_received_timestamp: micro_time(operation.created_at),
        stage_timestamp: micro_time(outcome.map_or(operation.created_at, |outcome| outcome.finished_at)),
        annotations: annotations.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    }
}

/// A time in the format of Kubernetes' `MicroTime`: always six fractional digits.
fn micro_time(time: Timestamp) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    PRINTER.timestamp_to_string(&time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{AccessRequest, Caller, Resource, Verb},
        ids::{GrantId, TokenId},
        testing::permit,
    };

    #[test]
    fn event_names_the_grant_the_token_and_the_reason() {
        let permit = permit(&Caller::system(), AccessRequest::to(Verb::Export, Resource::Operation));
        let mut operation = permit.operation().unwrap().clone();
        let annotated = |operation: &Operation| {
            let event = serde_json::to_value(event(1, operation, None)).unwrap();
            ["pilothouse/grant-id", "pilothouse/token-id", "pilothouse/reason"]
                .map(|name| event["annotations"][name].clone())
        };
        assert_eq!(annotated(&operation), [const { serde_json::Value::Null }; 3]);
        operation.grant_id = Some(GrantId(4));
        operation.token_id = Some(TokenId(5));
        operation.reason = Some("back to 4.1".to_owned());
        assert_eq!(annotated(&operation), ["4", "5", "back to 4.1"]);
    }
}
