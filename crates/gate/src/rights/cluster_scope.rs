//! Clusters of a grant: all, some by id, or those whose labels match.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use pilothouse_types::{error::Reason, ids::ClusterId};
use serde::{Deserialize, Serialize};

/// Labels of a registered cluster.
pub type Labels = BTreeMap<String, String>;

/// Clusters of a grant. In JSON: `{"all": true}`, `{"ids": [1, 2]}` or `{"labels": "environment in (staging,dev)"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub enum ClusterScope {
    /// All clusters, also those registered later.
    All,
    /// The clusters with these ids. Ids are never reused, so the id of a deleted cluster reaches nothing.
    Ids(BTreeSet<ClusterId>),
    /// The clusters whose labels match at the time of the question.
    Labels(LabelTerms),
}

impl ClusterScope {
    /// Maximum number of ids.
    pub const MAX_IDS: usize = 100;

    /// Whether the scope contains a registered cluster with this id and these labels.
    pub fn contains(&self, id: ClusterId, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(&id),
            Self::Labels(terms) => terms.match_labels(labels),
        }
    }

    /// Whether the scope contains every cluster that has at least these labels, whatever its id.
    pub fn contains_labels(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Ids(_) => false,
            Self::Labels(terms) => terms.match_labels(labels),
        }
    }
}

/// JSON form of a [`ClusterScope`]: exactly one of the fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids: Option<BTreeSet<ClusterId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
}

impl TryFrom<Wire> for ClusterScope {
    type Error = Reason;

    fn try_from(wire: Wire) -> Result<Self, Reason> {
        match (wire.all, wire.ids, wire.labels) {
            (Some(true), None, None) => Ok(Self::All),
            (None, Some(ids), None) if ids.first().is_some_and(|id| id.0 < 1) => Err(Reason::OutOfRange),
            (None, Some(ids), None) if !ids.is_empty() => Ok(Self::Ids(ids)),
            (None, None, Some(labels)) => LabelTerms::parse(&labels).map(Self::Labels),
            (None, _, None) => Err(Reason::Required),
            _ => Err(Reason::Malformed),
        }
    }
}

impl From<ClusterScope> for Wire {
    fn from(scope: ClusterScope) -> Self {
        let empty = Self { all: None, ids: None, labels: None };
        match scope {
            ClusterScope::All => Self { all: Some(true), ..empty },
            ClusterScope::Ids(ids) => Self { ids: Some(ids), ..empty },
            ClusterScope::Labels(terms) => Self { labels: Some(terms.to_string()), ..empty },
        }
    }
}

/// Terms over the labels of a cluster, all of which must hold: `environment in (dev,staging),team=shop`. Only `=` and
/// `in`, so that more labels never take a cluster out of the scope. Sorted; two terms on one key are combined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelTerms(BTreeMap<String, BTreeSet<String>>);

impl LabelTerms {
    /// Maximum length in bytes, of the parsed and of the printed text.
    pub const MAX_BYTES: usize = 1024;
    /// Maximum number of combinations of values, one value of each term.
    pub const MAX_COMBINATIONS: usize = 100;

    /// Parses terms. Every value is 1 character or longer.
    ///
    /// # Errors
    /// [`Reason::Required`] without terms; [`Reason::TooLong`] above [`LabelTerms::MAX_BYTES`] or
    /// [`LabelTerms::MAX_COMBINATIONS`]; otherwise [`Reason::Malformed`], also if two terms on one key have no value in
    /// common.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if text.len() > Self::MAX_BYTES {
            return Err(Reason::TooLong);
        }
        if text.trim().is_empty() {
            return Err(Reason::Required);
        }
        let mut terms = BTreeMap::<String, BTreeSet<String>>::new();
        let mut rest = text;
        loop {
            let (key, after_key) = word(rest)?;
            let (mut values, after_values) = values(after_key)?;
            if let Some(earlier) = terms.get(key) {
                values.retain(|value| earlier.contains(value));
            }
            if values.is_empty() {
                return Err(Reason::Malformed);
            }
            terms.insert(key.to_owned(), values);
            rest = match after_values.strip_prefix(',') {
                Some(next) => next,
                None if after_values.is_empty() => break,
                None => return Err(Reason::Malformed),
            };
        }
        let combinations =
            terms.values().try_fold(1_usize, |product, values| product.checked_mul(values.len()));
        let terms = Self(terms);
        // stored terms are parsed again, and the printed form of `in(` is longer
        let is_too_long = terms.to_string().len() > Self::MAX_BYTES;
        if is_too_long || combinations.is_none_or(|combinations| combinations > Self::MAX_COMBINATIONS) {
            return Err(Reason::TooLong);
        }
        Ok(terms)
    }

    /// Whether all terms hold for these labels.
    pub fn match_labels(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, values)| labels.get(key).is_some_and(|value| values.contains(value)))
    }

    /// The smallest sets of labels that match: one value of each term. A cluster matches the terms exactly if it has at
    /// least the labels of one of them.
    pub fn combinations(&self) -> Vec<Labels> {
        self.0.iter().fold(vec![Labels::new()], |partial, (key, values)| {
            let extended = partial.iter().flat_map(|labels| {
                values.iter().map(move |value| {
                    let mut labels = labels.clone();
                    labels.insert(key.clone(), value.clone());
                    labels
                })
            });
            extended.collect()
        })
    }
}

/// Reads `= value` or `in (value, …)` from the beginning of a text. Returns the values and the rest.
fn values(text: &str) -> Result<(BTreeSet<String>, &str), Reason> {
    if let Some(text) = text.strip_prefix('=') {
        let (value, rest) = word(text)?;
        return Ok(([value.to_owned()].into(), rest));
    }
    let ("in", list) = word(text)? else { return Err(Reason::Malformed) };
    let mut rest = list.strip_prefix('(').ok_or(Reason::Malformed)?;
    let mut values = BTreeSet::new();
    loop {
        let (value, after) = word(rest)?;
        values.insert(value.to_owned());
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                let after = after.strip_prefix(')').ok_or(Reason::Malformed)?;
                return Ok((values, after.trim_start_matches(' ')));
            }
        }
    }
}

/// Reads a key, a value or `in`, and the spaces around it. Returns it and the rest.
fn word(text: &str) -> Result<(&str, &str), Reason> {
    let text = text.trim_start_matches(' ');
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    match text.find(|c: char| !is_part(c)).unwrap_or(text.len()) {
        0 => Err(Reason::Malformed),
        end => Ok((&text[..end], text[end..].trim_start_matches(' '))),
    }
}

impl fmt::Display for LabelTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, values)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            match &*values {
                [value] => write!(f, "{comma}{key}={value}")?,
                values => write!(f, "{comma}{key} in ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn json(text: &str) -> Result<ClusterScope, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn terms_are_parsed_and_printed() {
        let cases = [
            ("environment=dev", "environment=dev"),
            (" environment = dev , team in ( shop ) ", "environment=dev,team=shop"),
            ("team=shop,environment in (staging, dev)", "environment in (dev,staging),team=shop"),
            ("a in (x,y),a in (y,z)", "a=y"),
            ("in in (in)", "in=in"),
            ("example.org/tier=1", "example.org/tier=1"),
        ];
        for (text, printed) in cases {
            let terms = LabelTerms::parse(text).expect(text);
            assert_eq!(terms.to_string(), printed);
            assert_eq!(LabelTerms::parse(printed), Ok(terms));
        }
    }

    #[test]
    fn other_operators_and_terms_without_effect_are_refused() {
        let malformed = [
            "environment",
            "!environment",
            "environment!=dev",
            "environment==dev",
            "environment=",
            "=dev",
            "environment notin (dev)",
            "environment in",
            "environment in ()",
            "environment in (dev",
            "a in (x,)",
            "environment in dev",
            "environment in(dev)x",
            "a=b,",
            ",a=b",
            "a=b c=d",
            "a=b;c=d",
            "a=*",
            "a=x,a=y",
            "environment=dév",
            "environment>1",
        ];
        for text in malformed {
            assert_eq!(LabelTerms::parse(text), Err(Reason::Malformed), "{text:?}");
        }
        assert_eq!(LabelTerms::parse("  "), Err(Reason::Required));
        assert_eq!(LabelTerms::parse(&format!("a={}", "x".repeat(1023))), Err(Reason::TooLong));
        let printed_longer = |n| format!("a in(x,y),b={}", "x".repeat(n));
        assert_eq!(printed_longer(1012).len(), LabelTerms::MAX_BYTES);
        assert_eq!(LabelTerms::parse(&printed_longer(1012)), Err(Reason::TooLong), "printed with a space");
        assert!(LabelTerms::parse(&printed_longer(1011)).is_ok());
        let list = |key: &str, n: usize| {
            let values: Vec<_> = (0..n).map(|n| n.to_string()).collect();
            format!("{key} in ({})", values.join(","))
        };
        assert!(LabelTerms::parse(&format!("{},{}", list("a", 10), list("b", 10))).is_ok());
        assert_eq!(LabelTerms::parse(&format!("{},{}", list("a", 10), list("b", 11))), Err(Reason::TooLong));
    }

    #[test]
    fn all_terms_must_hold() {
        let terms = LabelTerms::parse("environment in (dev,staging),team=shop").unwrap();
        let cases: [(&[(&str, &str)], bool); 6] = [
            (&[("environment", "dev"), ("team", "shop")], true),
            (&[("environment", "staging"), ("team", "shop"), ("zone", "a")], true),
            (&[("environment", "dev")], false),
            (&[("environment", "prod"), ("team", "shop")], false),
            (&[("environment", "Dev"), ("team", "shop")], false),
            (&[], false),
        ];
        for (pairs, matches) in cases {
            assert_eq!(terms.match_labels(&labels(pairs)), matches, "{pairs:?}");
        }
        let combinations = terms.combinations();
        assert_eq!(combinations.len(), 2);
        assert!(combinations.iter().all(|labels| labels.len() == 2 && terms.match_labels(labels)));
    }

    #[test]
    fn scope_has_exactly_one_of_all_ids_labels() {
        assert_eq!(json(r#"{"all": true}"#), Ok(ClusterScope::All));
        assert_eq!(json(r#"{"ids": [2, 1, 2]}"#), Ok(ClusterScope::Ids([ClusterId(1), ClusterId(2)].into())));
        for text in [r#"{"all":true}"#, r#"{"ids":[1,2]}"#, r#"{"labels":"environment=dev"}"#] {
            assert_eq!(serde_json::to_string(&json(text).unwrap()).unwrap(), text);
        }
        for (text, reason) in [
            ("{}", "required"),
            (r#"{"ids": []}"#, "required"),
            (r#"{"ids": [0, 1]}"#, "out_of_range"),
            (r#"{"labels": ""}"#, "required"),
            (r#"{"all": false}"#, "malformed"),
            (r#"{"all": true, "ids": [1]}"#, "malformed"),
            (r#"{"ids": [1], "labels": "a=b"}"#, "malformed"),
            (r#"{"labels": "a!=b"}"#, "malformed"),
            (r#"{"all": true, "except": [1]}"#, "unknown field"),
        ] {
            assert!(json(text).unwrap_err().contains(reason), "{text}");
        }
        assert!(json("null").is_err());
    }

    #[test]
    fn ids_contain_no_cluster_by_its_labels() {
        let dev = labels(&[("environment", "dev")]);
        let ids = ClusterScope::Ids([ClusterId(1)].into());
        assert!(ids.contains(ClusterId(1), &dev));
        assert!(!ids.contains(ClusterId(2), &dev));
        assert!(!ids.contains_labels(&dev));
        let terms = ClusterScope::Labels(LabelTerms::parse("environment=dev").unwrap());
        assert!(terms.contains(ClusterId(7), &dev) && terms.contains_labels(&dev));
        assert!(!terms.contains(ClusterId(7), &labels(&[])) && !terms.contains_labels(&labels(&[])));
        assert!(
            ClusterScope::All.contains(ClusterId(7), &labels(&[])) && ClusterScope::All.contains_labels(&dev)
        );
    }

    proptest! {
        #[test]
        fn accepted_terms_keep_their_meaning_when_printed(
            text in "[ab]( ?= ?|  in ?\\(| )[xy](, ?[xy]\\)?)?(,[ab]=[xy])?|\\PC{0,40}",
        ) {
            if let Ok(terms) = LabelTerms::parse(&text) {
                prop_assert_eq!(LabelTerms::parse(&terms.to_string()), Ok(terms.clone()));
                prop_assert!(!terms.match_labels(&Labels::new()), "terms never match a cluster without labels");
                prop_assert!(terms.combinations().iter().all(|labels| terms.match_labels(labels)));
            }
        }
    }
}
