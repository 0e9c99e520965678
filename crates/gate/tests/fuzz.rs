//! Fuzz tests of the parsers of grants.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use pilothouse_fuzz::fuzz;
use pilothouse_gate::rights::{
    Ask, BuiltInRole, ClusterScope, Decision, EffectiveGrant, GrantRef, LabelTerms, Labels, Reach,
    RightResource, RightVerb, Rights, RoleName, RoleRule, RoleRules, Subject, decide,
};
use pilothouse_types::{
    ids::ClusterId,
    namespaces::{NamespacePattern, NamespaceScope, NamespaceSet},
};
use serde::{Deserialize, Serialize};

/// The label terms of a cluster scope. Printed terms have the same meaning.
#[test]
fn fuzz_label_terms() {
    let dictionary = [
        "=",
        " = ",
        "!=",
        "==",
        " in ",
        "in(",
        " notin ",
        "(",
        ")",
        ",",
        ", ",
        "a=x",
        "a in (x,y)",
        "environment",
        "example.org/tier",
        ";",
    ];
    let accepted = Cell::new(0);
    fuzz("label_terms", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(terms) = LabelTerms::parse(&text) else { return };
        accepted.set(accepted.get() + 1);
        assert!(
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./ =,()".contains(&byte)),
            "{text:?}"
        );
        let printed = terms.to_string();
        assert_eq!(LabelTerms::parse(&printed).as_ref(), Ok(&terms), "{printed}");
        assert!(!terms.match_labels(&Labels::new()), "terms match no cluster without labels");
        let combinations = terms.combinations();
        assert!((1..=LabelTerms::MAX_COMBINATIONS).contains(&combinations.len()), "{printed}");
        for mut labels in combinations {
            assert!(terms.match_labels(&labels), "{printed}: {labels:?}");
            for key in labels.keys() {
                let mut without = labels.clone();
                without.remove(key);
                assert!(!terms.match_labels(&without), "{printed}: {without:?}");
            }
            labels.insert("no key of a term".to_owned(), "x".to_owned());
            assert!(terms.match_labels(&labels), "more labels never take a cluster out of the scope");
        }
    });
    assert!(accepted.get() > 0, "no input of the corpus is accepted");
}

/// Patterns of namespaces, separated by commas. A pattern is accepted unchanged or refused, and a set contains a name
/// exactly if one of its patterns does.
#[test]
fn fuzz_namespace_patterns() {
    let dictionary = ["*", "-*", "**", "-", ",", "kube-*", "kube-", "team-a-*", "a", "A", ".", "?", "!", " "];
    let accepted = Cell::new(0);
    fuzz("namespace_patterns", &dictionary, |input| {
        let text = String::from_utf8_lossy(input);
        let mut patterns = Vec::new();
        for one in text.split(',') {
            let Ok(pattern) = NamespacePattern::parse(one) else { continue };
            assert_eq!(pattern.to_string(), one, "a pattern is accepted unchanged or refused");
            assert!(
                one == "*" || !one.trim_end_matches("-*").contains('*'),
                "{one}: a star only after a hyphen"
            );
            patterns.push(pattern);
        }
        accepted.set(accepted.get() + patterns.len());
        let set = NamespaceSet::new(patterns.clone());
        assert_eq!(set.is_empty(), patterns.is_empty());
        let printed = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<NamespaceSet>(&printed).unwrap(), set, "{printed}");
        let names = patterns.iter().map(|pattern| match pattern {
            NamespacePattern::Name(name) => name.to_string(),
            NamespacePattern::Prefix(prefix) => format!("{}0", prefix.as_str()),
            NamespacePattern::Any => "any".to_owned(),
        });
        for name in names.chain(["kube-system".to_owned(), "team-a".to_owned()]) {
            let in_pattern = patterns.iter().any(|pattern| matches(pattern, &name));
            assert_eq!(set.contains(&name), in_pattern, "{name} in {printed}");
        }
        assert!(!set.is_all() || set.contains("kube-system") && set.contains("any"));
    });
    assert!(accepted.get() > 0, "no pattern of the corpus is accepted");
}

/// The definition of a pattern.
fn matches(pattern: &NamespacePattern, name: &str) -> bool {
    match pattern {
        NamespacePattern::Name(one) => one.as_str() == name,
        NamespacePattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
        NamespacePattern::Any => !name.starts_with("kube-"),
    }
}

/// The rules of an own role in JSON. Accepted rules have only verbs that their resources have, and nothing of super
/// admins; the error of others names a field.
#[test]
fn fuzz_role_rules() {
    let dictionary = [
        "\"verbs\":[\"list\"]",
        "\"resources\":[\"workloads\"]",
        "\"list\"",
        "\"restart\"",
        "\"reveal\"",
        "\"secrets\"",
        "\"users\"",
        "\"keys\"",
        "\"*\"",
        "\"custom\"",
        "\"custom:",
        "example.org",
        "k8s.io",
        "{",
        "}",
        ",",
        "[",
        "]",
    ];
    let accepted = Cell::new(0);
    fuzz("role_rules", &dictionary, |input| {
        let Ok(rules) = serde_json::from_slice::<Vec<RoleRule>>(input) else { return };
        let rules = match RoleRules::new(rules) {
            Ok(rules) => rules,
            Err(error) => {
                assert!(!error.context.fields.is_empty(), "the error names a field");
                return;
            }
        };
        accepted.set(accepted.get() + 1);
        let printed = serde_json::to_string(rules.rules()).unwrap();
        let reparsed = serde_json::from_str(&printed).expect(&printed);
        assert_eq!(RoleRules::new(reparsed).as_ref(), Ok(&rules), "{printed}");
        assert!(!rules.of_super_admin(), "{printed}");
        for resource in RightResource::all() {
            let verbs = rules.verbs(&resource, true);
            assert_eq!(verbs.intersect(resource.verbs()), verbs, "{resource}: {printed}");
            assert_eq!(rules.verbs(&resource, false), verbs, "an own role has no rules for one reach only");
            if RightResource::OF_SUPER_ADMINS.contains(&resource) {
                assert!(verbs.is_empty(), "{resource}: {printed}");
            }
        }
    });
    assert!(accepted.get() > 0, "no input of the corpus is accepted");
}

/// The fields of a grant in a request, without its time and reason.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantBody {
    subject: String,
    role: RoleName,
    clusters: ClusterScope,
    namespaces: Reach,
}

/// The JSON of a grant. The whole cluster and all clusters must be written, never result from an absent field; a
/// grant of namespaces gives nothing on an object without a namespace.
#[test]
fn fuzz_grants() {
    let dictionary = [
        "\"subject\":\"user:1\"",
        "\"group:ldap:ops\"",
        "\"role\":\"admin\"",
        "\"clusters\":",
        "\"namespaces\":",
        "{\"all\":true}",
        "{\"ids\":[1]}",
        "{\"labels\":\"environment=dev\"}",
        "\"all\":false",
        "\"ids\":[]",
        "[\"*\"]",
        "[]",
        "{}",
        ",",
        "\"kube-*\"",
    ];
    let labels = Labels::from([("environment".to_owned(), "dev".to_owned())]);
    let clusters = BTreeMap::from([(ClusterId(1), labels.clone())]);
    let accepted = Cell::new(0);
    fuzz("grants", &dictionary, |input| {
        let Ok(grant) = serde_json::from_slice::<GrantBody>(input) else { return };
        accepted.set(accepted.get() + 1);
        let printed = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<GrantBody>(&printed).expect(&printed), grant);
        if let Ok(subject) = Subject::parse(&grant.subject) {
            assert_eq!(Subject::parse(&subject.to_string()), Ok(subject));
        }
        let body: serde_json::Value = serde_json::from_slice(input).unwrap();
        if let (Reach::Cluster, Some(fields)) = (&grant.namespaces, body.as_object()) {
            assert_eq!(fields.get("namespaces"), Some(&serde_json::Value::Null), "{printed}");
        }
        if let (ClusterScope::All, Some(scope)) = (&grant.clusters, body["clusters"].as_object()) {
            assert_eq!(scope.get("all"), Some(&true.into()), "{printed}");
        }

        let effective = EffectiveGrant {
            grant: GrantRef { id: None, role: grant.role.to_string(), via_group: None, until: None },
            rules: Arc::new(BuiltInRole::Admin.rules()),
            clusters: grant.clusters.clone(),
            reach: grant.namespaces.clone(),
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let rights = Rights::compile(&[effective], &clusters, Timestamp::UNIX_EPOCH);
        let list = |namespaces| {
            let ask = Ask {
                verb: RightVerb::List,
                resource: RightResource::Workloads,
                cluster: Some(ClusterId(1)),
                namespaces,
            };
            decide(&rights, &ask)
        };
        let in_cluster = grant.clusters.contains(ClusterId(1), &labels);
        let reach_is_cluster = grant.namespaces == Reach::Cluster;
        let unscoped = list(NamespaceScope::Unscoped).is_allowed();
        assert_eq!(unscoped, in_cluster && reach_is_cluster, "{printed}");
        match list(NamespaceScope::All) {
            Decision::Deny { .. } => assert!(!in_cluster, "{printed}"),
            Decision::Allow { scope: NamespaceScope::Set(set), .. } => {
                assert_eq!(Reach::Namespaces(set), grant.namespaces, "{printed}");
            }
            Decision::Allow { scope, .. } => {
                let all = grant.namespaces.namespaces(RightVerb::List).is_all();
                assert!(in_cluster && scope == NamespaceScope::All && all, "{printed}");
            }
        }
    });
    assert!(accepted.get() > 0, "no input of the corpus is accepted");
}
