//! Patterns of namespace names, sets of namespaces that a right reaches, and the namespaces of a request or a query.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{error::Reason, name::Namespace};

/// Prefix of the namespaces of Kubernetes itself. The pattern `*` leaves them out: whoever creates a pod in
/// `kube-system` controls the cluster.
const KUBE: &str = "kube-";

/// A beginning of namespace names that ends with a hyphen: `team-a-`. At most 62 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacePrefix(String);

impl NamespacePrefix {
    /// Validates a prefix, without the star of its pattern.
    ///
    /// # Errors
    /// [`Reason::Malformed`] if the text does not end with a hyphen. As [`Namespace::new`] if no name begins so.
    pub fn new(text: impl Into<String>) -> Result<Self, Reason> {
        let text = text.into();
        if !text.ends_with('-') {
            return Err(Reason::Malformed);
        }
        Namespace::new(format!("{text}0"))?;
        Ok(Self(text))
    }

    /// The prefix as text, with its hyphen.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One pattern of namespace names. The order of patterns is that of the variants, then of the texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NamespacePattern {
    /// One name.
    Name(Namespace),
    /// All names that begin with the prefix: `team-a-*`.
    Prefix(NamespacePrefix),
    /// `*`: all names but those that begin with `kube-`.
    Any,
}

impl NamespacePattern {
    /// Parses a name, `prefix-*` or `*`.
    ///
    /// # Errors
    /// [`Reason::Malformed`] if a star does not follow a hyphen. As [`Namespace::new`] for any other text.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Any),
            Some(prefix) => NamespacePrefix::new(prefix).map(Self::Prefix),
            None => Namespace::new(text).map(Self::Name),
        }
    }

    /// Sort key: the place of the variant, then the text without its star.
    fn key(&self) -> (u8, &str) {
        match self {
            Self::Name(name) => (0, name.as_str()),
            Self::Prefix(prefix) => (1, prefix.as_str()),
            Self::Any => ANY,
        }
    }
}

/// Sort key of [`NamespacePattern::Any`].
const ANY: (u8, &str) = (2, "");

impl fmt::Display for NamespacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Prefix(prefix) => write!(f, "{}*", prefix.as_str()),
            Self::Any => f.write_str("*"),
        }
    }
}

impl TryFrom<String> for NamespacePattern {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<NamespacePattern> for String {
    fn from(pattern: NamespacePattern) -> Self {
        pattern.to_string()
    }
}

/// Set of namespaces that a right reaches: the union of patterns, sorted, without a pattern that another one includes.
/// Two sets of the same namespaces are equal. Cheap to clone.
///
/// The set of all namespaces is `*` and `kube-*` together. It contains no cluster-scoped object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<NamespacePattern>", into = "Vec<NamespacePattern>")]
pub struct NamespaceSet(Arc<[NamespacePattern]>);

impl NamespaceSet {
    /// The union of patterns. Without patterns it is empty.
    pub fn new(patterns: impl IntoIterator<Item = NamespacePattern>) -> Self {
        let mut sorted: Vec<_> = patterns.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let largest = sorted.iter().filter(|pattern| !includes_smaller(&sorted, pattern.key()));
        Self(largest.cloned().collect())
    }

    /// All namespaces, `kube-*` included.
    pub fn all() -> Self {
        Self([NamespacePattern::Prefix(NamespacePrefix(KUBE.to_owned())), NamespacePattern::Any].into())
    }

    /// Whether the set contains every namespace.
    pub fn is_all(&self) -> bool {
        matches!(&*self.0, [NamespacePattern::Prefix(prefix), NamespacePattern::Any] if prefix.as_str() == KUBE)
    }

    /// Whether the set contains no namespace.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set contains a namespace.
    pub fn contains(&self, namespace: &str) -> bool {
        includes(&self.0, (0, namespace))
    }

    /// Whether the set contains every namespace of `other`.
    pub fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|pattern| includes(&self.0, pattern.key()))
    }

    /// The namespaces of either set.
    pub fn union(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&*other.0).cloned())
    }

    /// The namespaces of both sets. Of two patterns with a namespace in common, one includes the other.
    pub fn intersect(&self, other: &Self) -> Self {
        let within = |smaller: &Self, larger: &Self| {
            let patterns = smaller.0.iter().filter(|pattern| includes(&larger.0, pattern.key()));
            patterns.cloned().collect::<Vec<_>>()
        };
        Self::new(within(self, other).into_iter().chain(within(other, self)))
    }

    /// The patterns, sorted. Those of all namespaces are `kube-*` and `*`.
    pub fn patterns(&self) -> &[NamespacePattern] {
        &self.0
    }
}

impl From<Vec<NamespacePattern>> for NamespaceSet {
    fn from(patterns: Vec<NamespacePattern>) -> Self {
        Self::new(patterns)
    }
}

impl From<NamespaceSet> for Vec<NamespacePattern> {
    fn from(set: NamespaceSet) -> Self {
        set.0.to_vec()
    }
}

/// Whether one of the sorted patterns has this key.
fn has(sorted: &[NamespacePattern], key: (u8, &str)) -> bool {
    sorted.binary_search_by(|pattern| pattern.key().cmp(&key)).is_ok()
}

/// Whether one of the sorted patterns includes the pattern with this key.
fn includes(sorted: &[NamespacePattern], key: (u8, &str)) -> bool {
    has(sorted, key) || includes_smaller(sorted, key)
}

/// Whether one of the sorted patterns includes the pattern with this key and is not that pattern: `*`, or a prefix of
/// its text. Costs one binary search per hyphen of the text, instead of one comparison per pattern.
fn includes_smaller(sorted: &[NamespacePattern], key: (u8, &str)) -> bool {
    if key == ANY {
        return false;
    }
    let (_, text) = key;
    let mut hyphens = text.strip_suffix('-').unwrap_or(text).match_indices('-');
    (!text.starts_with(KUBE) && has(sorted, ANY)) || hyphens.any(|(at, _)| has(sorted, (1, &text[..=at])))
}

/// Namespaces of an access request, of a permit or of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceScope {
    /// No namespace: cluster-scoped objects and Pilothouse's own rows. An access request starts with it.
    Unscoped,
    /// All namespaces: `*` in a request; in a permit only if the caller's rights reach every namespace. A query for all
    /// namespaces also selects rows without a namespace.
    All,
    /// One namespace.
    One(Namespace),
    /// The namespaces of a set: in a permit, the part of `*` that the caller's rights reach.
    Set(NamespaceSet),
}

impl NamespaceScope {
    /// Parses `*` as all namespaces, any other text as one namespace.
    ///
    /// # Errors
    /// As [`Namespace::new`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if text == "*" { Ok(Self::All) } else { Namespace::new(text).map(Self::One) }
    }

    /// The namespace of a scope of one namespace.
    pub fn one(&self) -> Option<&Namespace> {
        match self {
            Self::One(one) => Some(one),
            Self::Unscoped | Self::All | Self::Set(_) => None,
        }
    }

    /// Whether the scope contains an object or row in `namespace`; `None` for one without a namespace.
    pub fn contains(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::Unscoped => namespace.is_none(),
            Self::All => true,
            Self::One(one) => namespace == Some(one.as_str()),
            Self::Set(set) => namespace.is_some_and(|namespace| set.contains(namespace)),
        }
    }

    /// The part of the scope that lies in `set`. `None` if nothing is left, as of [`NamespaceScope::Unscoped`]: a set
    /// contains no cluster-scoped object.
    pub fn intersect(&self, set: &NamespaceSet) -> Option<Self> {
        match self {
            Self::Unscoped => None,
            Self::All if set.is_all() => Some(Self::All),
            Self::All => Self::of_set(set.clone()),
            Self::One(one) => set.contains(one.as_str()).then(|| self.clone()),
            Self::Set(own) => Self::of_set(own.intersect(set)),
        }
    }

    fn of_set(set: NamespaceSet) -> Option<Self> {
        if set.is_empty() { None } else { Some(Self::Set(set)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(patterns: &[&str]) -> NamespaceSet {
        NamespaceSet::new(patterns.iter().map(|text| NamespacePattern::parse(text).expect(text)))
    }

    fn texts(set: &NamespaceSet) -> Vec<String> {
        set.patterns().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pattern_is_a_name_a_prefix_with_a_hyphen_or_a_star() {
        let longest = format!("{}-*", "a".repeat(61));
        for text in ["shop", "kube-system", "team-a-*", "a--*", "kube-*", "*", &longest] {
            assert_eq!(NamespacePattern::parse(text).map(|pattern| pattern.to_string()).as_deref(), Ok(text));
        }
        let refused = [
            ("", Reason::Required),
            ("team*", Reason::Malformed),
            ("**", Reason::Malformed),
            ("team-**", Reason::Malformed),
            ("-*", Reason::InvalidName),
            ("*-a", Reason::InvalidName),
            ("te*am", Reason::InvalidName),
            ("Team-*", Reason::InvalidName),
            ("team-?", Reason::InvalidName),
            ("team.a-*", Reason::InvalidName),
            ("team-", Reason::InvalidName),
            (" *", Reason::Malformed),
            ("!team", Reason::InvalidName),
        ];
        for (text, reason) in refused {
            assert_eq!(NamespacePattern::parse(text), Err(reason), "{text:?}");
        }
        assert_eq!(NamespacePattern::parse(&format!("{}-*", "a".repeat(62))), Err(Reason::TooLong));
    }

    #[test]
    fn patterns_match_whole_names() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("dev", &["dev"], &["dev-a", "adev", "de", "Dev"]),
            ("dev-*", &["dev-a", "dev-a-b", "dev--a"], &["dev", "deva", "a-dev-a"]),
            ("*", &["dev", "kube", "kubea", "a-kube-a"], &["kube-system", "kube-a"]),
            ("kube-*", &["kube-system", "kube-a"], &["kube", "default"]),
            ("kube-system", &["kube-system"], &["kube-public"]),
        ];
        for (pattern, inside, outside) in cases {
            let set = set(&[*pattern]);
            assert!(inside.iter().all(|name| set.contains(name)), "{pattern}: {inside:?}");
            assert!(!outside.iter().any(|name| set.contains(name)), "{pattern}: {outside:?}");
        }
        assert!(!NamespaceSet::default().contains("dev"));
    }

    #[test]
    fn sets_of_the_same_namespaces_are_equal() {
        assert_eq!(texts(&set(&["b", "a-*", "a-b", "a-b-*", "b", "a"])), ["a", "b", "a-*"]);
        assert_eq!(
            texts(&set(&["*", "shop", "a-*", "kube-system", "kube-x-*"])),
            ["kube-system", "kube-x-*", "*"]
        );
        let all = set(&["*", "kube-*", "shop", "kube-system"]);
        assert_eq!(all, NamespaceSet::all());
        assert!(all.is_all());
        assert_eq!(texts(&all), ["kube-*", "*"]);
        assert!(!set(&["*"]).is_all());
        assert!(!set(&["kube-*"]).is_all());
        assert!(set(&[]).is_empty());
        assert!(!set(&["a"]).is_empty());
    }

    #[test]
    fn one_set_includes_another_only_as_a_whole() {
        assert!(set(&["team-*"]).includes(&set(&["team-a", "team-b-*"])));
        assert!(!set(&["team-*"]).includes(&set(&["team"])));
        assert!(!set(&["team-a-*"]).includes(&set(&["team-*"])));
        assert!(set(&["*"]).includes(&set(&["team-*", "kube"])));
        assert!(!set(&["*"]).includes(&set(&["kube-system"])));
        assert!(!set(&["*"]).includes(&NamespaceSet::all()));
        assert!(NamespaceSet::all().includes(&set(&["*", "kube-a-*"])));
        assert!(set(&[]).includes(&set(&[])));
        assert!(!set(&[]).includes(&set(&["a"])));
    }

    #[test]
    fn intersection_is_what_both_sets_contain() {
        assert_eq!(set(&["*"]).intersect(&set(&["kube-*", "a-*"])), set(&["a-*"]));
        assert_eq!(set(&["a-*", "b"]).intersect(&set(&["a-b-*", "b-*", "a-c"])), set(&["a-b-*", "a-c"]));
        assert_eq!(NamespaceSet::all().intersect(&set(&["*"])), set(&["*"]));
        assert_eq!(set(&["kube-*"]).intersect(&set(&["*"])), NamespaceSet::default());
    }

    #[test]
    fn a_set_is_restored_from_its_patterns() {
        for text in ["", "a", "a,a-*", "kube-*,*"] {
            let set = set(&text.split(',').filter(|text| !text.is_empty()).collect::<Vec<_>>());
            assert_eq!(texts(&set).join(","), text);
            let patterns: Vec<NamespacePattern> = set.clone().into();
            assert_eq!(NamespaceSet::from(patterns), set);
        }
    }

    #[test]
    fn scope_contains_only_what_it_names() {
        let one = NamespaceScope::parse("shop").unwrap();
        let team = NamespaceScope::Set(set(&["team-*"]));
        let cases = [
            (&NamespaceScope::Unscoped, [true, false, false]),
            (&NamespaceScope::All, [true, true, true]),
            (&one, [false, true, false]),
            (&team, [false, false, true]),
        ];
        for (scope, expected) in cases {
            let contained = [None, Some("shop"), Some("team-a")].map(|namespace| scope.contains(namespace));
            assert_eq!(contained, expected, "{scope:?}");
        }
        assert_eq!(NamespaceScope::parse("*"), Ok(NamespaceScope::All));
        assert_eq!(NamespaceScope::parse("team-*"), Err(Reason::InvalidName));
        assert_eq!(one.one().map(Namespace::as_str), Some("shop"));
        assert_eq!(team.one(), None);
    }

    #[test]
    fn scope_is_cut_by_a_set() {
        let one = NamespaceScope::parse("shop").unwrap();
        let scope = |patterns: &[&str]| Some(NamespaceScope::Set(set(patterns)));
        let team = NamespaceScope::Set(set(&["team-*"]));
        assert_eq!(NamespaceScope::All.intersect(&NamespaceSet::all()), Some(NamespaceScope::All));
        assert_eq!(NamespaceScope::All.intersect(&set(&["*"])), scope(&["*"]));
        assert_eq!(NamespaceScope::All.intersect(&set(&[])), None);
        assert_eq!(one.intersect(&set(&["*"])), Some(one.clone()));
        assert_eq!(one.intersect(&set(&["team-*"])), None);
        assert_eq!(team.intersect(&set(&["team-a", "shop"])), scope(&["team-a"]));
        assert_eq!(team.intersect(&set(&["shop"])), None);
        assert_eq!(NamespaceScope::Unscoped.intersect(&NamespaceSet::all()), None);
    }

    /// Names that share beginnings with each other and with `kube-`.
    fn name() -> impl Strategy<Value = String> {
        "(a|b|kube|kubea)(-(a|b|kube)){0,2}"
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop_oneof![6 => name(), 5 => name().prop_map(|name| name + "-*"), 1 => Just("*".to_owned())]
    }

    /// The definition of a pattern, without an index.
    fn matches(pattern: &str, name: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some("") => !name.starts_with("kube-"),
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        }
    }

    proptest! {
        #[test]
        fn accepted_patterns_have_a_star_only_after_a_hyphen(text in "[a*-]{0,5}|\\PC{0,8}") {
            if let Ok(pattern) = NamespacePattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text.as_str());
                prop_assert!(!text.trim_end_matches("-*").contains('*') || text == "*");
            }
        }

        #[test]
        fn sets_agree_with_the_definition_of_their_patterns(
            left in prop::collection::vec(pattern(), 0..6),
            right in prop::collection::vec(pattern(), 0..6),
            names in prop::collection::vec(name(), 20),
        ) {
            let parse = |texts: &[String]| set(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let (a, b) = (parse(&left), parse(&right));
            for name in &names {
                let in_left = left.iter().any(|pattern| matches(pattern, name));
                let in_right = right.iter().any(|pattern| matches(pattern, name));
                prop_assert_eq!(a.contains(name), in_left);
                prop_assert_eq!(a.union(&b).contains(name), in_left || in_right);
                prop_assert_eq!(a.intersect(&b).contains(name), in_left && in_right);
                prop_assert!(!a.includes(&b) || !in_right || in_left);
            }
            prop_assert_eq!(a.includes(&b), a.union(&b) == a);
            prop_assert_eq!(a.includes(&b), a.intersect(&b) == b);
            prop_assert_eq!(a.is_all(), a.includes(&NamespaceSet::all()));
        }
    }
}
