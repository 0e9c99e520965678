use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::{Cell, Field, ListRow, Row};

type Labels = BTreeMap<String, String>;

/// Row type whose JSON has other texts before and after the labels.
#[derive(Serialize)]
struct SampleRow {
    name: String,
    message: &'static str,
    labels: Labels,
    app: &'static str,
}

impl ListRow for SampleRow {
    const FIELDS: &'static [Field<Self>] = &[Field::new("name", |row| Cell::text(&*row.name))];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

fn row(labels: Labels) -> Row {
    Row::of(&SampleRow { name: "a".into(), message: "\"labels\":{\"app\":\"x\"}", labels, app: "web" })
        .unwrap()
}

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The cases of `TestSelectorParse` and `TestSetMatches` in `k8s.io/apimachinery/pkg/labels/selector_test.go`, and more.
#[test]
fn selectors_match_as_in_kubernetes() {
    let shop = labels(&[("app", "web"), ("tier", "a"), ("n", "12"), ("empty", ""), ("example.org/in", "x")]);
    let row = row(shop);
    let cases = [
        ("app=web", true),
        ("app==web", true),
        ("app=api", false),
        ("app!=api", true),
        ("app!=web", false),
        ("absent!=web", true),
        ("app", true),
        ("absent", false),
        ("!absent", true),
        ("! absent", true),
        ("!app", false),
        ("tier in (a,b)", true),
        ("tier in(b)", false),
        ("tier notin (b)", true),
        ("tier notin ( a , b )", false),
        ("absent notin (a)", true),
        ("absent in (,)", false),
        ("tier in ()", false),
        ("empty in ()", true),
        ("empty in (,)", true),
        ("empty in (a,)", true),
        ("empty in (,a)", true),
        ("tier in (,a)", true),
        ("empty=", true),
        ("empty=,app=web", true),
        ("app=", false),
        ("n>11", true),
        ("n > 12", false),
        ("n<13", true),
        ("app>1", false),
        ("absent<1", false),
        ("example.org/in", true),
        ("example.org/in in (x)", true),
        ("app=web,tier in (a,b),!legacy", true),
        ("app=web,\ttier=b", false),
        (" app = web ", true),
        ("in in (in)", false),
        ("message", false),
        ("created_at", false),
    ];
    for (selector, expected) in cases {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&row.labels()), expected, "{selector}");
    }
}

#[test]
fn malformed_selectors_are_refused() {
    let malformed = [
        ",",
        "app,",
        ",app",
        "app=web,",
        "app,,tier",
        "=web",
        "!",
        "!!app",
        "!app=web",
        "app web",
        "app=web tier",
        "app=a=b",
        "app=(a)",
        "app in",
        "app in a",
        "app in (a",
        "app in a)",
        "app in (a b)",
        "app in ((a))",
        "app in (a=b)",
        "app notin",
        "app exists",
        "app>",
        "app>x",
        "app>1.5",
        "app<=1",
        "app=>1",
        "a/b/c",
        "/a",
        "a/",
        "-a",
        "a-",
        "app=-x",
        "n<-1",
        "app=ä",
        "ä",
        "app=a/b",
        "app in (a,-)",
        "x=99999999999999999999,<",
    ];
    for selector in malformed {
        assert_eq!(LabelSelector::parse(selector), Err(Reason::Malformed), "{selector}");
    }
    let long = |length: usize| format!("app in ({})", vec!["a"; length].join(","));
    assert_eq!(LabelSelector::parse("app>99999999999999999999"), Err(Reason::Malformed));
    assert_eq!(LabelSelector::parse(&"a".repeat(64)), Err(Reason::Malformed));
    assert_eq!(LabelSelector::parse(&long(600)), Err(Reason::TooLong));
    assert!(LabelSelector::parse(&long(500)).is_ok());
    for empty in ["", "  ", "\n"] {
        assert_eq!(LabelSelector::parse(empty), Err(Reason::Required), "{empty:?}");
    }
}

#[test]
fn labels_with_escaped_characters_are_read_to_their_end() {
    let hostile = labels(&[("a\"", "x\\"), ("b", "\"}"), ("c", "web")]);
    let row = row(hostile);
    assert_eq!(row.labels().count(), 3);
    assert!(LabelSelector::parse("c=web").unwrap().matches(&row.labels()));
    assert!(LabelSelector::parse("!a,!app").unwrap().matches(&row.labels()));
}

#[test]
fn row_without_labels_has_no_label() {
    let row = row(Labels::new());
    assert_eq!(row.labels().count(), 0);
    assert!(LabelSelector::parse("!app,app!=x").unwrap().matches(&row.labels()));
    assert_eq!(json_labels(b"{\"name\":\"a\"}").count(), 0);
    assert_eq!(json_labels(b"{\"labels\":{\"a\":\"b").count(), 0);
}

/// Whether a condition with these values holds for an object whose label has this value.
type Meaning = fn(Option<&str>, &[String]) -> bool;

/// A condition as text, what it means, its label and its values.
type Case = (String, Meaning, String, Vec<String>);

fn condition() -> impl Strategy<Value = Case> {
    let key = prop::sample::select(&["app", "tier", "example.org/x"][..]).prop_map(str::to_owned);
    let values = prop::collection::vec("[ab]{0,1}", 1..4);
    (key, values, 0..6u8).prop_map(|(key, values, operator)| {
        let first = values[0].clone();
        let list = values.join(",");
        let has = |own: Option<&str>, values: &[String]| {
            own.is_some_and(|own| values.iter().any(|value| value == own))
        };
        let (text, meaning): (_, Meaning) = match operator {
            0 => (format!("{key}={first}"), |own, values| own == Some(values[0].as_str())),
            1 => (format!("{key} != {first}"), |own, values| own != Some(values[0].as_str())),
            2 => (format!("{key} in ({list})"), has),
            3 => (format!("{key} notin ( {list} )"), |own, values| {
                !own.is_some_and(|own| values.iter().any(|value| value == own))
            }),
            4 => (key.clone(), |own, _| own.is_some()),
            _ => (format!("!{key}"), |own, _| own.is_none()),
        };
        (text, meaning, key, values)
    })
}

proptest! {
    /// A selector of any conditions matches exactly the labels for which all conditions hold.
    #[test]
    fn selector_is_the_conjunction_of_its_conditions(
        conditions in prop::collection::vec(condition(), 1..4),
        own in prop::collection::btree_map("app|tier|other|example\\.org/x", "[ab]{0,1}", 0..4),
    ) {
        let text = conditions.iter().map(|(text, ..)| text.as_str()).collect::<Vec<_>>().join(",");
        let expected = conditions
            .iter()
            .all(|(_, meaning, key, values)| meaning(own.get(key).map(String::as_str), values));
        prop_assert_eq!(LabelSelector::parse(&text).unwrap().matches(&row(own).labels()), expected, "{}", text);
    }

    /// No text panics the parser.
    #[test]
    fn any_text_is_parsed_or_refused(text in "[a-b=!<>,() \\tinot/.äé-]{0,24}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert!(!selector.0.is_empty());
        }
    }
}
