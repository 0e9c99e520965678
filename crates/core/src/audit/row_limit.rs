//! The bound on one row of the trail: [`LARGEST_ROW`] bytes, whatever a request, a cluster or a library puts into it. A longer
//! text or list is cut; what is left says how long it was and has a digest of the whole.
//!
//! Sizes are those of JSON, as the chain keeps an entry: a quote in a text counts as two bytes, a control character as six.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Operation, Outcome};
use crate::hex::Hex;

/// The largest row, in bytes: the text of an entry of the chain, and all columns of a row in the lists together.
pub const LARGEST_ROW: usize = 8 << 10;

/// Of one word: a name, a user, a request's id. Every name of Kubernetes fits.
const WORD: usize = 320;
/// Of all parameters.
const PARAMS: usize = 1200;
/// Of what was asked for, in the details: the parameters once more, in which each quote takes two bytes now.
const ASKED: usize = 2 * PARAMS;
/// Of what became of it, in the details.
const BECAME: usize = 1200;
/// How many items of a list are kept when it is cut.
const ITEMS: usize = 20;
/// What the words around a cut list take.
const FRAME: usize = 128;

type Params = BTreeMap<String, Value>;

impl Operation {
    /// The same within the bound.
    #[must_use]
    pub(crate) fn bounded(self) -> Self {
        let word = |text: String| shorten(text, WORD);
        Self {
            operation_type: word(self.operation_type),
            resource_type: word(self.resource_type),
            cluster_name: self.cluster_name.map(word),
            namespace: self.namespace.map(word),
            resource_name: self.resource_name.map(word),
            username: word(self.username),
            request_id: self.request_id.map(word),
            params: bounded(self.params),
            ..self
        }
    }

    /// With parameters that are known only now, within the bound.
    #[must_use]
    pub(crate) fn and(self, params: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut all = self.params;
        all.extend(params.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Self { params: bounded(all), ..self }
    }
}

impl Outcome {
    /// Says first what was asked for, then what became of it; each within the bound.
    #[must_use]
    pub fn with_summary(mut self, operation: &Operation) -> Self {
        let asked = operation.summary().map(|text| shorten(text, ASKED));
        let became = self.details.map(|text| shorten(text, BECAME));
        let parts: Vec<_> = asked.into_iter().chain(became).collect();
        self.details = (!parts.is_empty()).then(|| parts.join("; "));
        self.error_code = self.error_code.map(|code| shorten(code, WORD));
        self
    }
}

/// Parameters that take no more than [`PARAMS`] together.
fn bounded(params: Params) -> Params {
    if size(&params) <= PARAMS {
        return params;
    }
    let share = PARAMS / params.len().max(1);
    let cut = |(name, value): (String, Value)| {
        let most = share.saturating_sub(name.len() + 4);
        (name, cut(value, most))
    };
    let params: Params = params.into_iter().map(cut).collect();
    if size(&params) <= PARAMS {
        return params;
    }
    // so many parameters that their names alone are too long
    let all = Value::Object(params.into_iter().collect());
    [("params".to_owned(), self::cut(all, PARAMS - FRAME))].into()
}

fn size(params: &Params) -> usize {
    json!(params).to_string().len()
}

/// A value that takes at most `most` bytes, or [`FRAME`] where that is more.
fn cut(value: Value, most: usize) -> Value {
    let text = value.to_string();
    if text.len() <= most {
        return value;
    }
    let room = most.saturating_sub(FRAME);
    let (first, length) = match value {
        Value::Object(all) => {
            let length = all.len();
            let size = |(name, value): &(String, Value)| escaped(name) + value.to_string().len() + 4;
            (Value::Object(prefix(all, room, size).into_iter().collect::<Map<_, _>>()), length)
        }
        Value::Array(all) => {
            let length = all.len();
            (Value::Array(prefix(all, room, |item: &Value| item.to_string().len() + 1)), length)
        }
        Value::String(text) => return Value::String(shorten(text, most.max(FRAME) - 2)),
        // a number or a switch is short
        other => return other,
    };
    json!({"first": first, "length": length, "sha256": digest(&text)})
}

/// The first items that fit.
fn prefix<T>(all: impl IntoIterator<Item = T>, room: usize, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut left = room;
    let fits = |item: &T| match left.checked_sub(size(item)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    all.into_iter().take(ITEMS).take_while(fits).collect()
}

/// A text of which the first part is kept, where it takes more than `most` bytes.
fn shorten(text: String, most: usize) -> String {
    if text.len() * 6 <= most || escaped(&text) <= most {
        return text;
    }
    let end = format!("… ({} bytes, sha256 {})", text.len(), digest(&text));
    let mut left = most.saturating_sub(end.len());
    let fits = |c: &char| match left.checked_sub(escaped_char(*c)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    text.chars().take_while(fits).chain(end.chars()).collect()
}

/// How long a text is inside JSON.
fn escaped(text: &str) -> usize {
    text.chars().map(escaped_char).sum()
}

fn escaped_char(c: char) -> usize {
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
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        access::Role,
        audit::{Entry, OperationId, OperationRow, Status},
        cluster::ClusterId,
        user::UserId,
    };

    /// An operation in which every text that may come from outside is this one.
    fn operation(text: &str, params: Params) -> Operation {
        let word = || text.to_owned();
        Operation {
            id: OperationId(Uuid::nil()),
            operation_type: word(),
            resource_type: word(),
            cluster_id: Some(ClusterId(i64::MAX)),
            cluster_name: Some(word()),
            namespace: Some(word()),
            resource_name: Some(word()),
            user_id: Some(UserId(i64::MAX)),
            username: word(),
            role: Some(Role::SuperAdmin),
            source_ip: Some("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            request_id: Some(word()),
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

    /// The sizes of all that the trail keeps of an operation.
    fn sizes(operation: Operation, outcome: Outcome) -> [usize; 4] {
        let operation = operation.bounded();
        let outcome = outcome.with_summary(&operation);
        let row = OperationRow::begun(i64::MAX, &operation);
        let texts = [
            Entry::Intent { operation: operation.clone() }.canonical().unwrap(),
            Entry::Outcome { operation_id: operation.id, outcome: outcome.clone() }.canonical().unwrap(),
            serde_json::to_string(&row.ended(&outcome)).unwrap(),
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
    fn every_row_is_within_the_bound() {
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
                let made = sizes(operation(text, params.clone()), outcome(text));
                let shown: String = text.chars().take(3).collect();
                assert!(
                    made.iter().all(|size| *size <= LARGEST_ROW),
                    "{shown:?} x {}, {:?}: {made:?}",
                    text.len(),
                    params.keys().next()
                );
            }
        }
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let name = "n".repeat(253);
        let short = operation(&name, keys(15, 5));
        assert_eq!(short.clone().bounded(), short);
        let told = outcome("refused").with_summary(&short);
        assert_eq!(told.details, Some(format!("{}; refused", short.summary().unwrap())));
    }

    #[test]
    fn what_is_cut_says_how_long_it_was_and_has_a_digest_of_all() {
        let bounded = |n: usize| operation("a", keys(n, 30)).bounded().params.remove("keys").unwrap();
        let cut = bounded(1000);
        assert_eq!(cut["length"], 1000);
        let first = cut["first"].as_object().unwrap();
        assert!((1..=ITEMS).contains(&first.len()), "{cut}");
        assert!(first.contains_key(&format!("{:030}", 0)), "{cut}");
        assert_eq!(cut["sha256"].as_str().unwrap().len(), 64);
        assert_ne!(cut["sha256"], bounded(1001)["sha256"], "one more key changes the digest");
        assert_eq!(cut, bounded(1000));

        let text = operation(&"é".repeat(400), Params::new()).bounded().username;
        assert!(text.starts_with("éé") && text.contains("… (800 bytes, sha256 "), "{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_operation_is_within_the_bound(
            text in "\\PC{0,400}|[\\x00-\\x7f]{0,2000}",
            params in proptest::collection::btree_map("[a-z]{1,20}", "\\PC{0,600}", 0..10),
        ) {
            let params = params.into_iter().map(|(name, value)| (name, json!(value))).collect();
            let made = sizes(operation(&text, params), outcome(&text));
            prop_assert!(made.iter().all(|size| *size <= LARGEST_ROW), "{:?}", made);
        }

        #[test]
        fn the_length_in_json_is_foreseen(text in "\\PC{0,100}|[\\x00-\\x7f]{0,100}") {
            prop_assert_eq!(escaped(&text) + 2, serde_json::to_string(&text).unwrap().len());
        }
    }
}
