//! Short forms of grants, clusters and questions, and random worlds of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use pilothouse_gate::rights::{
    Ask, BuiltInRole, ClusterLabels, ClusterScope, Decision, EffectiveGrant, GrantRef, Reach, RightResource,
    RightVerb, Rights, RoleRule, RoleRules, Verbs, decide, preset,
};
use pilothouse_types::{
    ids::{ClusterId, GrantId},
    namespaces::NamespaceScope,
    role::Role,
    testing::env_number,
};
use proptest::{prelude::*, sample};
use serde_json::{Value, json};

/// The moment of the tests, in seconds.
pub(crate) const NOW: i64 = 1000;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a second within range")
}

/// Rules of a built-in role, of a preset, or of an own role: `list get: config secrets; update: nodes`.
pub(crate) fn rules(text: &str) -> RoleRules {
    if let Some(role) = BuiltInRole::parse(text) {
        return role.rules();
    }
    if let Some(role) = text.strip_prefix("preset ") {
        return preset(Role::parse(role).expect("a preset"));
    }
    let rules = text.split("; ").map(|rule| {
        let (verbs, resources) = rule.split_once(": ").expect("verbs: resources");
        let verbs: Vec<_> = verbs.split(' ').map(|verb| RightVerb::parse(verb).expect("a verb")).collect();
        let resources =
            resources.split(' ').map(|text| RightResource::parse(text).expect("a resource")).collect();
        RoleRule { verbs: Verbs::of(&verbs), resources }
    });
    RoleRules::new(rules.collect()).expect("valid rules")
}

pub(crate) fn clusters_of(json: Value) -> ClusterScope {
    serde_json::from_value(json).expect("a cluster scope")
}

pub(crate) fn reach_of(json: Value) -> Reach {
    serde_json::from_value(json).expect("a reach")
}

/// A grant without end.
pub(crate) fn grant(id: i64, role: &str, clusters: Value, namespaces: Value) -> EffectiveGrant {
    EffectiveGrant {
        grant: GrantRef { id: Some(GrantId(id)), role: role.to_owned(), via_group: None, until: None },
        rules: Arc::new(rules(role)),
        clusters: clusters_of(clusters),
        reach: reach_of(namespaces),
        from: at(0),
        revoked: false,
    }
}

pub(crate) fn all() -> Value {
    json!({"all": true})
}

/// Clusters 1 (dev, team shop), 2 (staging), 3 (prod, team shop) and 4 (no labels).
pub(crate) fn clusters() -> ClusterLabels {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    BTreeMap::from([
        (ClusterId(1), labels(&[("environment", "dev"), ("team", "shop")])),
        (ClusterId(2), labels(&[("environment", "staging")])),
        (ClusterId(3), labels(&[("environment", "prod"), ("team", "shop")])),
        (ClusterId(4), labels(&[])),
    ])
}

pub(crate) fn compile(grants: &[EffectiveGrant]) -> Rights {
    Rights::compile(grants, &clusters(), at(NOW))
}

/// Namespaces: `-` is unscoped, `*` all, patterns with commas a set, any other text one namespace.
pub(crate) fn scope(text: &str) -> NamespaceScope {
    match text {
        "-" => NamespaceScope::Unscoped,
        text if text != "*" && text.contains(['*', ',']) => {
            let patterns: Vec<_> = text.split(',').collect();
            let Reach::Namespaces(set) = reach_of(json!(patterns)) else { panic!("{text} is a set") };
            NamespaceScope::Set(set)
        }
        text => NamespaceScope::parse(text).expect("a namespace"),
    }
}

/// A question: `list workloads`, in a cluster (0: none), in namespaces as of [`scope`].
pub(crate) fn ask(right: &str, cluster: i64, namespaces: &str) -> Ask {
    let (verb, resource) = right.split_once(' ').expect("verb resource");
    Ask {
        verb: RightVerb::parse(verb).expect("a verb"),
        resource: RightResource::parse(resource).expect("a resource"),
        cluster: (cluster != 0).then_some(ClusterId(cluster)),
        namespaces: scope(namespaces),
    }
}

/// The scope that a decision allows, in the form of [`scope`]; `no` if it is refused.
pub(crate) fn answer(rights: &Rights, ask: &Ask) -> String {
    match decide(rights, ask) {
        Decision::Deny { .. } => "no".to_owned(),
        Decision::Allow { scope: NamespaceScope::Unscoped, .. } => "-".to_owned(),
        Decision::Allow { scope: NamespaceScope::All, .. } => "*".to_owned(),
        Decision::Allow { scope: NamespaceScope::One(one), .. } => one.to_string(),
        Decision::Allow { scope: NamespaceScope::Set(set), .. } => {
            let patterns: Vec<_> = set.patterns().iter().map(ToString::to_string).collect();
            format!("set {}", patterns.join(","))
        }
    }
}

/// A random grant in its raw form, for the naive evaluator.
#[derive(Clone, Debug)]
pub(crate) struct RawGrant {
    pub(crate) rules: RoleRules,
    pub(crate) clusters: RawClusters,
    /// `None` is the reach `cluster`.
    pub(crate) patterns: Option<Vec<String>>,
    pub(crate) from: i64,
    pub(crate) until: Option<i64>,
    pub(crate) revoked: bool,
}

/// Clusters of a [`RawGrant`].
#[derive(Clone, Debug)]
pub(crate) enum RawClusters {
    All,
    Ids(Vec<i64>),
    /// Terms, each a key with values.
    Labels(Vec<(String, Vec<String>)>),
}

impl RawGrant {
    pub(crate) fn effective(&self, id: i64) -> EffectiveGrant {
        let clusters = match &self.clusters {
            RawClusters::All => all(),
            RawClusters::Ids(ids) => json!({"ids": ids}),
            RawClusters::Labels(terms) => {
                let terms: Vec<_> =
                    terms.iter().map(|(key, values)| format!("{key} in ({})", values.join(","))).collect();
                json!({"labels": terms.join(",")})
            }
        };
        EffectiveGrant {
            grant: GrantRef {
                id: Some(GrantId(id)),
                role: "random".to_owned(),
                via_group: None,
                until: self.until.map(at),
            },
            rules: Arc::new(self.rules.clone()),
            clusters: clusters_of(clusters),
            reach: reach_of(json!(self.patterns)),
            from: at(self.from),
            revoked: self.revoked,
        }
    }
}

pub(crate) fn effective(grants: &[RawGrant]) -> Vec<EffectiveGrant> {
    (1..).zip(grants).map(|(id, grant)| grant.effective(id)).collect()
}

/// Resources of random rules and questions.
const RESOURCES: [&str; 10] = [
    "workloads",
    "secrets",
    "namespaces",
    "nodes",
    "platform",
    "custom",
    "custom:a.example.org",
    "custom:b.example.org",
    "clusters",
    "audit",
];
/// Verbs of random questions.
const VERBS: [&str; 7] = ["list", "get", "create", "update", "logs", "exec", "reveal"];
/// Namespaces of questions. `other` and `kube-other` match no random name or prefix.
pub(crate) const NAMES: [&str; 8] = ["a", "a-a", "a-b", "b", "kube-system", "kube-a", "other", "kube-other"];
/// Scopes of questions beside the names.
const SCOPES: [&str; 5] = ["-", "*", "a-*,b", "kube-*,a", "*,kube-system"];

/// Every question over the constants, in two registered clusters, one that is not registered, and none.
pub(crate) static QUESTIONS: LazyLock<Vec<Ask>> = LazyLock::new(|| {
    let mut questions = Vec::new();
    for resource in RESOURCES {
        for verb in VERBS {
            for cluster in [0, 1, 3, 9] {
                for namespaces in NAMES.iter().take(5).chain(&SCOPES) {
                    questions.push(ask(&format!("{verb} {resource}"), cluster, namespaces));
                }
            }
        }
    }
    questions
});

/// Number of random sets of grants that are asked all [`QUESTIONS`], so that these are as many decisions as
/// `PILOTHOUSE_TEST_DECISIONS` (`just rights`), by default 700,000.
pub(crate) fn cases() -> u32 {
    let questions = u32::try_from(QUESTIONS.len()).expect("a few thousand questions");
    env_number("PILOTHOUSE_TEST_DECISIONS", 700_000).div_ceil(questions)
}

fn own_rules() -> impl Strategy<Value = RoleRules> {
    let rule = (sample::select(&RESOURCES[..]), any::<u16>()).prop_map(|(resource, bits)| {
        let resource = RightResource::parse(resource).expect("a resource");
        let chosen: Vec<_> = resource.verbs().iter().filter(|verb| bits & (1 << *verb as u16) != 0).collect();
        let verbs = if chosen.is_empty() { Verbs::of(&[RightVerb::List]) } else { Verbs::of(&chosen) };
        RoleRule { verbs, resources: vec![resource] }
    });
    prop::collection::vec(rule, 1..4).prop_map(|rules| RoleRules::new(rules).expect("valid rules"))
}

fn raw_clusters() -> impl Strategy<Value = RawClusters> {
    let values = |values: &'static [&'static str]| {
        sample::subsequence(values, 1..=values.len())
            .prop_map(|values| values.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let environment =
        values(&["dev", "staging", "prod"]).prop_map(|values| ("environment".to_owned(), values));
    let team = values(&["shop", "bank"]).prop_map(|values| ("team".to_owned(), values));
    prop_oneof![
        2 => Just(RawClusters::All),
        3 => sample::subsequence(vec![1_i64, 2, 3, 9], 1..4).prop_map(RawClusters::Ids),
        2 => environment.clone().prop_map(|term| RawClusters::Labels(vec![term])),
        1 => (environment, team).prop_map(|(one, other)| RawClusters::Labels(vec![one, other])),
    ]
}

/// A random grant with an own or a built-in role, or the preset of a role.
pub(crate) fn raw_grant() -> impl Strategy<Value = RawGrant> {
    const PATTERNS: [&str; 8] = ["a", "a-*", "a-b", "b", "*", "kube-*", "kube-system", "kube-a-*"];
    let patterns = sample::subsequence(&PATTERNS[..], 1..4)
        .prop_map(|patterns| Some(patterns.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    let patterns = prop_oneof![1 => Just(None::<Vec<String>>), 3 => patterns];
    let rules = prop_oneof![
        4 => own_rules(),
        2 => sample::select(&BuiltInRole::ALL[..]).prop_map(BuiltInRole::rules),
    ];
    let from = prop_oneof![5 => Just(NOW - 1), 1 => Just(NOW), 1 => Just(NOW + 1)];
    let until = sample::select(vec![None, None, Some(NOW), Some(NOW + 1), Some(NOW + 10)]);
    let revoked = prop::bool::weighted(0.1);
    let stored = (rules, raw_clusters(), patterns, from, until, revoked).prop_map(
        |(rules, clusters, patterns, from, until, revoked)| RawGrant {
            rules,
            clusters,
            patterns,
            from,
            until,
            revoked,
        },
    );
    let presets = sample::select(&Role::ALL[..]).prop_map(|role| RawGrant {
        rules: preset(role),
        clusters: RawClusters::All,
        patterns: None,
        from: 0,
        until: None,
        revoked: false,
    });
    prop_oneof![9 => stored, 1 => presets]
}

pub(crate) fn raw_grants() -> impl Strategy<Value = Vec<RawGrant>> {
    prop::collection::vec(raw_grant(), 0..6)
}
