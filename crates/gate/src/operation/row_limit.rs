//! Size limit of one row of the trail: [`MAX_ROW_BYTES`] bytes, regardless of the input from requests, clusters and
//! libraries. A longer text or list is truncated, and its original length and a digest of the whole are appended.
//!
//! Sizes are those of the JSON text that the chain stores: a quote in a text counts as two bytes, a control character
//! as six.

use std::collections::BTreeMap;

use pilothouse_types::hex::Hex;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Operation, Outcome};

/// Maximum size of a row in bytes: the text of an entry of the chain, or all columns of a row of the operations list
/// together.
pub const MAX_ROW_BYTES: usize = 8 << 10;

/// Maximum size of one field in bytes: a name, a user, a request id. Every Kubernetes name fits.
const MAX_FIELD_BYTES: usize = 264;
/// Maximum size of the reason of a change in bytes. The longest reason of characters of up to three bytes, as Chinese
/// ones, fits.
const MAX_REASON_BYTES: usize = 1500;
/// Maximum size of all parameters together, in bytes.
const MAX_PARAMS_BYTES: usize = 1000;
/// Maximum size of the parameters in the details, in bytes. Each quote is escaped there and takes two bytes.
const MAX_SUMMARY_BYTES: usize = 2 * MAX_PARAMS_BYTES;
/// Maximum size of the result in the details, in bytes.
const MAX_RESULT_BYTES: usize = 900;
/// Maximum number of items kept of a truncated list.
const MAX_ITEMS: usize = 20;
/// Size in bytes of the JSON around a truncated list.
const TRUNCATION_OVERHEAD_BYTES: usize = 128;

type Params = BTreeMap<String, Value>;

impl Operation {
    /// The operation with all fields truncated to their limits.
    #[must_use]
    pub(crate) fn bounded(self) -> Self {
        let field = |text: String| shorten(text, MAX_FIELD_BYTES);
        Self {
            operation_type: field(self.operation_type),
            resource_type: field(self.resource_type),
            cluster_name: self.cluster_name.map(field),
            namespace: self.namespace.map(field),
            resource_name: self.resource_name.map(field),
            username: field(self.username),
            request_id: self.request_id.map(field),
            reason: self.reason.map(|text| shorten(text, MAX_REASON_BYTES)),
            params: bounded(self.params),
            ..self
        }
    }

    /// Adds parameters that are known only after the operation began, within the limit.
    #[must_use]
    pub(crate) fn and(self, params: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut all = self.params;
        all.extend(params.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Self { params: bounded(all), ..self }
    }
}

impl Outcome {
    /// Prefixes the details with the parameters of the operation; both parts are truncated to their limits.
    #[must_use]
    pub fn with_summary(mut self, operation: &Operation) -> Self {
        let summary = operation.summary().map(|text| shorten(text, MAX_SUMMARY_BYTES));
        let result = self.details.map(|text| shorten(text, MAX_RESULT_BYTES));
        let parts: Vec<_> = summary.into_iter().chain(result).collect();
        self.details = (!parts.is_empty()).then(|| parts.join("; "));
        self.error_code = self.error_code.map(|code| shorten(code, MAX_FIELD_BYTES));
        self
    }
}

/// Parameters truncated to [`MAX_PARAMS_BYTES`] together.
fn bounded(params: Params) -> Params {
    if size(&params) <= MAX_PARAMS_BYTES {
        return params;
    }
    let share = MAX_PARAMS_BYTES / params.len().max(1);
    let truncate = |(name, value): (String, Value)| {
        let max_bytes = share.saturating_sub(name.len() + 4);
        (name, truncate(value, max_bytes))
    };
    let params: Params = params.into_iter().map(truncate).collect();
    if size(&params) <= MAX_PARAMS_BYTES {
        return params;
    }
    // the parameter names alone exceed the limit
    let all = Value::Object(params.into_iter().collect());
    [("params".to_owned(), self::truncate(all, MAX_PARAMS_BYTES - TRUNCATION_OVERHEAD_BYTES))].into()
}

fn size(params: &Params) -> usize {
    json!(params).to_string().len()
}

/// Truncates a value to `max_bytes`, or to [`TRUNCATION_OVERHEAD_BYTES`] where that is more.
fn truncate(value: Value, max_bytes: usize) -> Value {
    let text = value.to_string();
    if text.len() <= max_bytes {
        return value;
    }
    let budget = max_bytes.saturating_sub(TRUNCATION_OVERHEAD_BYTES);
    let (first, length) = match value {
        Value::Object(all) => {
            let length = all.len();
            let size = |(name, value): &(String, Value)| escaped_len(name) + value.to_string().len() + 4;
            (Value::Object(prefix(all, budget, size).into_iter().collect::<Map<_, _>>()), length)
        }
        Value::Array(all) => {
            let length = all.len();
            (Value::Array(prefix(all, budget, |item: &Value| item.to_string().len() + 1)), length)
        }
        Value::String(text) => {
            return Value::String(shorten(text, max_bytes.max(TRUNCATION_OVERHEAD_BYTES) - 2));
        }
        // a number or a boolean is short
        other => return other,
    };
    json!({"first": first, "length": length, "sha256": digest(&text)})
}

/// The leading items that fit into `budget` bytes.
fn prefix<T>(all: impl IntoIterator<Item = T>, budget: usize, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut remaining = budget;
    let take_if_fits = |item: &T| match remaining.checked_sub(size(item)) {
        Some(rest) => {
            remaining = rest;
            true
        }
        None => false,
    };
    all.into_iter().take(MAX_ITEMS).take_while(take_if_fits).collect()
}

/// Truncates a text that takes more than `max_bytes` bytes; keeps its beginning.
fn shorten(text: String, max_bytes: usize) -> String {
    if text.len() * 6 <= max_bytes || escaped_len(&text) <= max_bytes {
        return text;
    }
    let end = format!("… ({} bytes, sha256 {})", text.len(), digest(&text));
    let mut remaining = max_bytes.saturating_sub(end.len());
    let take_if_fits = |c: &char| match remaining.checked_sub(escaped_char_len(*c)) {
        Some(rest) => {
            remaining = rest;
            true
        }
        None => false,
    };
    text.chars().take_while(take_if_fits).chain(end.chars()).collect()
}

/// Length of a text inside a JSON string, in bytes.
fn escaped_len(text: &str) -> usize {
    text.chars().map(escaped_char_len).sum()
}

fn escaped_char_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

fn digest(text: &str) -> Hex<32> {
    Hex(Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use pilothouse_types::{
        ids::{ClusterId, GrantId, OperationId, TokenId, UserId},
        role::Role,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::operation::{Entry, Status};

    /// An operation in which every text from an external source is this one.
    fn operation(text: &str, params: Params) -> Operation {
        let field = || text.to_owned();
        Operation {
            id: OperationId(Uuid::nil()),
            operation_type: field(),
            resource_type: field(),
            cluster_id: Some(ClusterId(i64::MAX)),
            cluster_name: Some(field()),
            namespace: Some(field()),
            resource_name: Some(field()),
            user_id: Some(UserId(i64::MAX)),
            username: field(),
            role: Some(Role::SuperAdmin),
            grant_id: Some(GrantId(i64::MAX)),
            token_id: Some(TokenId(i64::MAX)),
            reason: Some(field()),
            source_ip: Some("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            request_id: Some(field()),
            params,
            created_at: jiff::Timestamp::MAX,
        }
    }

    fn outcome(details: &str) -> Outcome {
        Outcome {
            status: Status::Unknown,
            error_code: Some(details.to_owned()),
            details: Some(details.to_owned()),
            duration_ms: i64::MAX,
            finished_at: jiff::Timestamp::MAX,
        }
    }

    /// Sizes of the entries that the trail stores for an operation.
    fn sizes(operation: Operation, outcome: Outcome) -> [usize; 3] {
        let operation = operation.bounded();
        let outcome = outcome.with_summary(&operation);
        let texts = [
            Entry::Intent { operation: operation.clone() }.canonical().unwrap(),
            Entry::Outcome { operation_id: operation.id, outcome: outcome.clone() }.canonical().unwrap(),
            Entry::Complete { operation, outcome }.canonical().unwrap(),
        ];
        texts.map(|text| text.len())
    }

    fn keys(n: usize, length: usize) -> Params {
        let keys: Map<String, Value> =
            (0..n).map(|n| (format!("{n:0length$}"), json!({"bytes": n, "hash": "0".repeat(32)}))).collect();
        [("keys".to_owned(), Value::Object(keys))].into()
    }

    #[test]
    fn every_row_is_within_the_size_limit() {
        let long = 64 << 10;
        let texts = [
            String::new(),
            "name".to_owned(),
            "a".repeat(long),
            "\"".repeat(long),
            "\u{1}".repeat(long),
            "写".repeat(long),
            "\u{10ffff}\\".repeat(300),
        ];
        let deep = (0..100).fold(json!(1), |inner, _| json!({ "a": inner }));
        let many: Params = (0..200).map(|n| (format!("param-{n}"), json!("x".repeat(100)))).collect();
        let params = [
            Params::new(),
            keys(1, 253),
            keys(20, 253),
            keys(1000, 253),
            keys(20_000, 5),
            [("list".to_owned(), json!(vec!["x".repeat(4000); 3]))].into(),
            [("text".to_owned(), json!("\u{1}".repeat(long)))].into(),
            [("deep".to_owned(), json!({"a": deep, "b": "x".repeat(5000)}))].into(),
            (0..12).map(|n| (format!("list-{n}"), json!(vec![n; 1000]))).collect(),
            many,
        ];
        for text in &texts {
            for params in &params {
                let sizes_found = sizes(operation(text, params.clone()), outcome(text));
                let shown: String = text.chars().take(3).collect();
                assert!(
                    sizes_found.iter().all(|size| *size <= MAX_ROW_BYTES),
                    "{shown:?} x {}, {:?}: {sizes_found:?}",
                    text.len(),
                    params.keys().next()
                );
            }
        }
    }

    #[test]
    fn short_operation_is_unchanged() {
        let name = "n".repeat(253);
        let short = operation(&name, keys(15, 5));
        assert_eq!(short.clone().bounded(), short);
        let ended = outcome("refused").with_summary(&short);
        assert_eq!(ended.details, Some(format!("{}; refused", short.summary().unwrap())));
    }

    #[test]
    fn truncated_value_has_length_and_digest() {
        let bounded = |n: usize| operation("a", keys(n, 30)).bounded().params.remove("keys").unwrap();
        let truncated = bounded(1000);
        assert_eq!(truncated["length"], 1000);
        let first = truncated["first"].as_object().unwrap();
        assert!((1..=MAX_ITEMS).contains(&first.len()), "{truncated}");
        assert!(first.contains_key(&format!("{:030}", 0)), "{truncated}");
        assert_eq!(truncated["sha256"].as_str().unwrap().len(), 64);
        assert_ne!(truncated["sha256"], bounded(1001)["sha256"], "one more key changes the digest");
        assert_eq!(truncated, bounded(1000));

        let text = operation(&"é".repeat(400), Params::new()).bounded().username;
        assert!(text.starts_with("éé") && text.contains("… (800 bytes, sha256 "), "{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_operation_is_within_the_size_limit(
            text in "\\PC{0,400}|[\\x00-\\x7f]{0,2000}",
            params in proptest::collection::btree_map("[a-z]{1,20}", "\\PC{0,600}", 0..10),
        ) {
            let params = params.into_iter().map(|(name, value)| (name, json!(value))).collect();
            let sizes_found = sizes(operation(&text, params), outcome(&text));
            prop_assert!(sizes_found.iter().all(|size| *size <= MAX_ROW_BYTES), "{:?}", sizes_found);
        }

        #[test]
        fn escaped_length_matches_serde_json(text in "\\PC{0,100}|[\\x00-\\x7f]{0,100}") {
            prop_assert_eq!(escaped_len(&text) + 2, serde_json::to_string(&text).unwrap().len());
        }
    }
}
