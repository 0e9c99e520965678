//! The corpus `tests/corpus/diagnosis`: one file per broken workload and version of Kubernetes, with the objects of the
//! workload and the findings that are expected. A file is marked `seen` if its texts were read from a real cluster, and
//! `source` if they were made from the formats in the sources that it names.

use std::{collections::BTreeSet, fs, path::Path};

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    access::{AccessRequest, Caller, Resource, Verb},
    diagnosis::{DiagnosedKind, Finding, MAX_QUOTE_CHARS, Rule, Variant, collect, examine},
    ids::ClusterId,
    kind::{KINDS, Kind},
    name::{Namespace, ObjectName},
    rows::Level,
    testing::{fake::FakeClusters, permit},
};
use serde::Deserialize;
use serde_json::Value;

const CLUSTER: ClusterId = ClusterId(1);
/// The versions of Kubernetes 1 in the corpus.
const VERSIONS: [&str; 3] = ["1.30", "1.34", "1.37"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    marked: Mark,
    source: String,
    diagnosed: Diagnosed,
    now: Timestamp,
    findings: Vec<Expected>,
    objects: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Seen,
    Source,
}

#[derive(Deserialize)]
struct Diagnosed {
    kind: DiagnosedKind,
    name: String,
}

#[derive(Deserialize)]
struct Expected {
    rule: String,
    variant: Option<String>,
}

/// All cases, each with the name of its file.
fn cases() -> Vec<(String, Case)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/diagnosis");
    let mut cases = Vec::new();
    for version in VERSIONS {
        for entry in fs::read_dir(root.join(version)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{version}/{}", path.file_name().unwrap().to_string_lossy());
            let text = fs::read_to_string(&path).unwrap();
            let case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            cases.push((name, case));
        }
    }
    cases.sort_by(|(a, _), (b, _)| a.cmp(b));
    cases
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|(of, _)| of == name).unwrap().1
}

fn kind_of(object: &Value) -> Kind {
    *KINDS.iter().find(|kind| object["kind"] == kind.info().kind).unwrap()
}

/// The findings about the diagnosed object of a case.
fn findings(case: &Case) -> Vec<Finding> {
    let clusters = FakeClusters::default();
    for object in &case.objects {
        clusters.put(CLUSTER, kind_of(object), object.clone());
    }
    let name = ObjectName::new(&case.diagnosed.name).unwrap();
    let kind = case.diagnosed.kind.kind();
    let access = AccessRequest::to(Verb::Get, Resource::Kind(kind)).in_cluster(CLUSTER).named(name.as_str());
    let access =
        if kind == Kind::Node { access } else { access.in_namespace(&Namespace::new("shop").unwrap()) };
    let evidence = block_on(collect(&clusters, &permit(&Caller::system(), access), &name));
    let evidence = evidence.unwrap().expect("the diagnosed object");
    assert!(evidence.unreadable.is_empty(), "{:?}", evidence.unreadable);
    examine(&evidence, case.now)
}

#[test]
fn each_case_has_exactly_its_findings() {
    for (name, case) in cases() {
        let found: Vec<_> = findings(&case)
            .iter()
            .map(|finding| (finding.rule.as_str(), finding.variant.map(Variant::as_str)))
            .collect();
        let expected: Vec<_> =
            case.findings.iter().map(|finding| (finding.rule.as_str(), finding.variant.as_deref())).collect();
        assert_eq!(found, expected, "{name}");
        assert!(case.marked == Mark::Seen || !case.source.is_empty(), "{name} names no source");
    }
}

#[test]
fn every_finding_has_evidence_steps_and_short_quotes() {
    for (name, case) in cases() {
        for finding in findings(&case) {
            assert!(!finding.steps.is_empty() && !finding.evidence.is_empty(), "{name}: {finding:?}");
            assert!(finding.evidence.len() <= Finding::MAX_EVIDENCE, "{name}");
            for quote in &finding.evidence {
                let length = quote.text.chars().count();
                assert!((1..=MAX_QUOTE_CHARS).contains(&length), "{name}: {quote:?}");
            }
            assert!(
                finding.variant.is_none_or(|variant| finding.rule.variants().contains(&variant)),
                "{name}"
            );
            assert!(finding.severity > Level::Ok && finding.count == 1, "{name}: {finding:?}");
        }
    }
}

#[test]
fn every_rule_and_every_variant_has_a_case() {
    let found: BTreeSet<_> = cases()
        .iter()
        .flat_map(|(_, case)| findings(case))
        .map(|finding| (finding.rule, finding.variant))
        .collect();
    for &rule in Rule::ALL.iter().filter(|rule| **rule != Rule::Cluster) {
        assert!(found.iter().any(|(of, _)| *of == rule), "{rule}");
        for &variant in rule.variants() {
            assert!(found.contains(&(rule, Some(variant))), "{rule} {variant}");
        }
    }
}

/// The texts that differ between versions: of the kubelet, of the scheduler and of the API server.
#[test]
fn every_version_has_a_case_of_each_source_of_texts() {
    let cases = cases();
    for version in VERSIONS {
        for rule in [
            "image_pull",
            "missing_secret",
            "missing_key",
            "oom",
            "liveness",
            "quota",
            "job",
            "unschedulable",
        ] {
            let has = |(name, case): &(String, Case)| {
                name.starts_with(version) && case.findings.iter().any(|finding| finding.rule == rule)
            };
            assert!(cases.iter().any(has), "{rule} in {version}");
        }
    }
}

#[test]
fn finding_that_is_over_has_its_end_and_is_a_warning() {
    let cases = cases();
    let (_, case) = cases.iter().find(|(name, _)| name == "1.37/oom_over.json").unwrap();
    let [finding] = &findings(case)[..] else { panic!("one finding") };
    assert_eq!(finding.until, Some("2026-11-30T11:50:00Z".parse().unwrap()));
    assert_eq!(finding.severity, Level::Warn);
}

#[test]
fn equal_findings_of_several_pods_are_one() {
    let mut case = case("1.37/oom.json");
    let pod = case.objects.iter().find(|object| object["kind"] == "Pod").unwrap().clone();
    for n in 0..20 {
        let mut pod = pod.clone();
        pod["metadata"]["name"] = format!("web-6d4cf56db6-{n:05}").into();
        pod["metadata"]["uid"] = format!("u-pod-{n}").into();
        case.objects.push(pod);
    }
    let found = findings(&case);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.rule, finding.count), (Rule::Oom, 21));
}
