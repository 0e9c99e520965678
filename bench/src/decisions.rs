//! B12: decisions on a caller with many grants, and compiling the rights of a caller with many clusters. No server: the
//! functions of the gate are called.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use pilothouse_core::{
    ids::{ClusterId, GrantId},
    namespaces::NamespaceScope,
    rights::{
        Ask, BuiltInRole, ClusterLabels, ClusterScope, EffectiveGrant, GrantRef, Reach, RightResource,
        RightVerb, Rights, decide,
    },
};
use serde_json::json;

use crate::{
    error::{BenchError, Result},
    measure::percentile,
    plan::Plan,
    process,
    report::{Section, short},
};

/// Grants of the caller of the decisions.
const GRANTS: usize = 200;
/// Registered clusters, and grants of the caller whose rights are compiled.
const CLUSTERS: usize = 500;
const COMPILED_GRANTS: usize = 50;
/// Values of the label `team`.
const TEAMS: usize = 20;
const ENVIRONMENTS: [&str; 3] = ["dev", "staging", "prod"];

/// B12.
pub(crate) fn measure(plan: &Plan) -> Result<Section> {
    process::pin_current_thread(process::MEASURED_CORE)?;
    let (clusters, now) = (clusters(), Timestamp::UNIX_EPOCH);
    let rights = Rights::compile(&grants(GRANTS)?, &clusters, now);
    let mut section = Section::new("B12", "decisions for a caller with many grants");
    let mut table = vec![["", "p50 µs", "p99 µs", "max µs"].map(str::to_owned).to_vec()];
    let mut slowest = 0.0_f64;
    for (name, ask, allowed) in questions()? {
        if decide(&rights, &ask).is_allowed() != allowed {
            return Err(BenchError::because(format!("{name}: the decision is not {allowed}")));
        }
        let durations = repeat(plan.decisions, || decide(black_box(&rights), black_box(&ask)));
        slowest = slowest.max(percentile(&durations, 0.99));
        table.push(cells(name.to_owned(), &durations));
    }
    let few = grants(COMPILED_GRANTS)?;
    let compilations = repeat(plan.decisions / 1_000, || Rights::compile(black_box(&few), &clusters, now));
    table.push(cells(format!("compile {COMPILED_GRANTS} grants for {CLUSTERS} clusters"), &compilations));
    section.paragraph(format!(
        "The functions of the gate, without a server. The caller of the decisions has {GRANTS} grants, all of which contain the \
         cluster of the questions; there are {CLUSTERS} clusters. {} decisions per question; durations include the time of \
         reading the clock.",
        plan.decisions
    ));
    section.table(&table);
    section.verdict("the slowest decision, p99", slowest, 2.0, "µs");
    section.verdict("compiling, p99", percentile(&compilations, 0.99) / 1e3, 1.0, "ms");
    Ok(section)
}

/// Calls a function repeatedly. Returns the sorted durations, in microseconds.
fn repeat<T>(times: usize, call: impl Fn() -> T) -> Vec<f64> {
    let timed = || -> Duration {
        let started = Instant::now();
        let result = black_box(call());
        let duration = started.elapsed();
        drop(result);
        duration
    };
    let mut durations: Vec<_> = (0..times.max(1)).map(|_| timed().as_secs_f64() * 1e6).collect();
    durations.sort_by(f64::total_cmp);
    durations
}

fn cells(name: String, durations: &[f64]) -> Vec<String> {
    vec![
        name,
        short(percentile(durations, 0.50)),
        short(percentile(durations, 0.99)),
        short(percentile(durations, 1.0)),
    ]
}

/// Clusters with ids from 1. The first is labelled `environment=dev` and `team=0`.
fn clusters() -> ClusterLabels {
    let labels = |n: usize| {
        BTreeMap::from([
            ("environment".to_owned(), ENVIRONMENTS[n % ENVIRONMENTS.len()].to_owned()),
            ("team".to_owned(), (n % TEAMS).to_string()),
        ])
    };
    (1..).map(ClusterId).zip((0..CLUSTERS).map(labels)).collect()
}

/// Grants on namespaces, all of which contain cluster 1: by id, by labels, or as one of all clusters.
fn grants(count: usize) -> Result<Vec<EffectiveGrant>> {
    let grant = |n: usize| -> Result<EffectiveGrant> {
        let clusters = match n % 3 {
            0 => json!({"all": true}),
            1 => json!({"ids": (1..=20).collect::<Vec<_>>()}),
            _ => json!({"labels": "environment in (dev,staging),team=0"}),
        };
        let namespaces = json!([format!("team-{n}"), format!("shop-{n}-*")]);
        let role = BuiltInRole::ALL[n % 3];
        Ok(EffectiveGrant {
            grant: GrantRef {
                id: Some(GrantId(i64::try_from(n)?)),
                role: role.as_str().to_owned(),
                via_group: None,
                until: None,
            },
            rules: Arc::new(role.rules()),
            clusters: serde_json::from_value::<ClusterScope>(clusters)?,
            reach: serde_json::from_value::<Reach>(namespaces)?,
            from: Timestamp::MIN,
            revoked: false,
        })
    };
    (0..count).map(grant).collect()
}

/// Questions about cluster 1: name, question, and whether it is allowed.
fn questions() -> Result<Vec<(&'static str, Ask, bool)>> {
    use RightResource::{Nodes, Workloads};
    use RightVerb::{Delete, List, Reveal};
    let one = |name: &str| {
        let scope = NamespaceScope::parse(name);
        scope.map_err(|reason| BenchError::because(format!("{name}: {reason:?}")))
    };
    let ask = |verb, resource, namespaces| Ask { verb, resource, cluster: Some(ClusterId(1)), namespaces };
    Ok(vec![
        ("list in all namespaces", ask(List, Workloads, NamespaceScope::All), true),
        ("list in the namespace of the first grant", ask(List, Workloads, one("team-0")?), true),
        ("list in the namespace of the last grant", ask(List, Workloads, one("team-199")?), true),
        ("list by the prefix of the last grant", ask(List, Workloads, one("shop-199-web-1")?), true),
        ("delete in the namespace of the last editor", ask(Delete, Workloads, one("team-197")?), true),
        ("list in a namespace of no grant", ask(List, Workloads, one("bank-a-b-c-d")?), false),
        ("a verb of no role", ask(Reveal, RightResource::Secrets, one("team-0")?), false),
        ("an object without a namespace", ask(List, Nodes, NamespaceScope::Unscoped), false),
    ])
}
