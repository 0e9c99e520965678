//! Responses of `metrics.k8s.io`: `NodeMetricsList` and `PodMetricsList`.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    kind::Kind,
    quantity,
    usage::{Subject, Usage, UsageTable, UsageTableBuilder},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::client::ApiResponse;

/// Maximum number of items of a response.
const MAX_ITEMS: usize = 250_000;

#[derive(Deserialize)]
struct MetricsList<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    items: Option<Items<'a>>,
}

/// The items of a list as unparsed JSON, at most [`MAX_ITEMS`].
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_ITEMS} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == MAX_ITEMS {
                        return Err(de::Error::invalid_length(MAX_ITEMS + 1, &self));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Bounded).map(Self)
    }
}

/// Usage of a node, or of a pod by container.
#[derive(Deserialize)]
struct Metrics<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    timestamp: Timestamp,
    /// Of a node.
    #[serde(borrow)]
    usage: Option<Amounts<'a>>,
    /// Of a pod.
    #[serde(default)]
    containers: Total,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow)]
    usage: Amounts<'a>,
}

/// Quantities as texts.
#[derive(Deserialize)]
struct Amounts<'a> {
    #[serde(borrow)]
    cpu: Cow<'a, str>,
    #[serde(borrow)]
    memory: Cow<'a, str>,
}

/// Sum over containers, init and sidecar containers included, as `kubectl top` prints it. Of a quantity that cannot be
/// parsed, nothing is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    cpu_nanos: u64,
    memory_bytes: u64,
}

impl Total {
    fn add(&mut self, Amounts { cpu, memory }: &Amounts<'_>) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a negative amount becomes 0"
        )]
        let whole = |text: &str, unit: f64| (quantity::parse(text).unwrap_or_default() * unit).round() as u64;
        self.cpu_nanos = self.cpu_nanos.saturating_add(whole(cpu, 1e9));
        self.memory_bytes = self.memory_bytes.saturating_add(whole(memory, 1.0));
    }
}

impl<'de> Deserialize<'de> for Total {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sum;
        impl<'de> Visitor<'de> for Sum {
            type Value = Total;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the usage of containers")
            }

            fn visit_unit<E>(self) -> Result<Total, E> {
                Ok(Total::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Total, A::Error> {
                let mut total = Total::default();
                while let Some(Container { usage }) = sequence.next_element()? {
                    total.add(&usage);
                }
                Ok(total)
            }
        }
        // Go writes an empty list as null
        deserializer.deserialize_any(Sum)
    }
}

/// The usage in a response: of nodes or pods.
///
/// # Errors
/// `UnexpectedAnswer` when the response is no list. An item that cannot be parsed is left out.
pub(super) fn table(kind: Kind, response: &ApiResponse) -> Result<UsageTable> {
    table_of(kind, &response.json()?)
}

fn table_of(kind: Kind, list: &MetricsList<'_>) -> Result<UsageTable> {
    if !list.kind.ends_with("List") {
        return Err(Error::new(Cause::UnexpectedAnswer));
    }
    let mut table = UsageTableBuilder::default();
    for item in list.items.iter().flat_map(|items| &items.0) {
        let Ok(Metrics { metadata, timestamp, usage, containers }) = serde_json::from_str(item.get()) else {
            continue;
        };
        let mut total = containers;
        let subject = match (kind, &metadata.namespace) {
            (Kind::Node, _) => Subject::Node { name: &metadata.name },
            (_, Some(namespace)) => Subject::Pod { namespace, name: &metadata.name },
            (_, None) => continue,
        };
        if let Some(usage) = &usage {
            total.add(usage);
        }
        table.add(subject, Usage::of(total.cpu_nanos, total.memory_bytes, timestamp));
    }
    Ok(table.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(kind: Kind, json: &str) -> Result<UsageTable> {
        let list = serde_json::from_str(json).map_err(|_| Error::new(Cause::UnexpectedAnswer))?;
        table_of(kind, &list)
    }

    /// As metrics-server 0.9 answers.
    const PODS: &str = r#"{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[
        {"metadata":{"name":"web-1","namespace":"shop","creationTimestamp":"2026-11-30T10:00:05Z",
            "labels":{"app":"web"}},"timestamp":"2026-11-30T09:59:56Z","window":"15.084s","containers":[
            {"name":"app","usage":{"cpu":"1203456n","memory":"12000Ki"}},
            {"name":"proxy","usage":{"cpu":"2m","memory":"1Mi"}}]},
        {"metadata":{"name":"idle","namespace":"shop"},"timestamp":"2026-11-30T09:59:50Z","window":"15s","containers":null},
        {"metadata":{"name":"broken","namespace":"shop"},"timestamp":"yesterday","containers":[]},
        {"metadata":{"name":"odd","namespace":"shop"},"timestamp":"2026-11-30T09:59:50Z",
            "containers":[{"name":"app","usage":{"cpu":"-1","memory":"much"}}]}]}"#;

    #[test]
    fn usage_of_a_pod_is_the_sum_of_its_containers() {
        let table = parsed(Kind::Pod, PODS).unwrap();
        let pod = |name| table.get(Subject::Pod { namespace: "shop", name });
        let usage =
            |cpu_nanos, memory_bytes, at: &str| Some(Usage::of(cpu_nanos, memory_bytes, at.parse().unwrap()));
        assert_eq!(pod("web-1"), usage(3_203_456, 13_336_576, "2026-11-30T09:59:56Z"));
        assert_eq!(pod("web-1").unwrap().cpu_millis, 4);
        assert_eq!(pod("idle"), usage(0, 0, "2026-11-30T09:59:50Z"));
        assert_eq!(pod("broken"), None);
        assert_eq!(pod("odd"), usage(0, 0, "2026-11-30T09:59:50Z"));
    }

    #[test]
    fn usage_of_a_node_is_its_own() {
        let nodes = r#"{"kind":"NodeMetricsList","items":[{"metadata":{"name":"n1"},"timestamp":"2026-11-30T09:59:56Z",
            "window":"10s","usage":{"cpu":"250m","memory":"2Gi"}}]}"#;
        let table = parsed(Kind::Node, nodes).unwrap();
        let node = table.get(Subject::Node { name: "n1" }).unwrap();
        assert_eq!((node.cpu_millis, node.memory_bytes), (250, 2 << 30));
    }

    #[test]
    fn response_that_is_no_list_is_an_error_and_an_empty_list_is_none() {
        for json in
            [r#"{"kind":"Status"}"#, "[]", r#"{"items":[]}"#, r#"{"kind":"PodMetricsList","items":{}}"#]
        {
            assert_eq!(parsed(Kind::Pod, json).unwrap_err().cause, Cause::UnexpectedAnswer, "{json}");
        }
        for json in
            [r#"{"kind":"PodMetricsList","items":null}"#, r#"{"kind":"PodMetricsList","items":[1,{}]}"#]
        {
            assert!(parsed(Kind::Pod, json).unwrap().is_empty(), "{json}");
        }
    }
}
