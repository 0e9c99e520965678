//! Confinement: a search of a small installation. Two users make up to four calls to grants, roles, requests and labels,
//! in every order: what they may do together never grows unless somebody else gives it. The search is exhaustive with
//! `just rights`; otherwise it ends after a number of states.

use std::collections::{BTreeMap, BTreeSet};

use pilothouse_core::{
    cluster::ClusterChange,
    grant::{Decision, NewRequest, RolePatch},
    name::Namespace,
    namespaces::NamespaceScope,
    rights::{Ask, ClusterLabels, ClusterScope, RightResource, RightVerb, decide},
    testing::env_number,
};
use proptest::{prelude::*, sample, strategy::ValueTree as _, test_runner::TestRunner};

use super::*;

/// Own roles: the name, the verbs and the resource.
const ROLES: [(&str, &[&str], &str); 4] = [
    ("reader", &["list"], "workloads"),
    ("writer", &["update"], "workloads"),
    ("granter", &["list", "create", "delete"], "grants"),
    ("labeller", &["update"], "clusters"),
];

/// Scope of a grant: the clusters (`labels` are those with `environment=dev`), and the namespace or the whole cluster.
type Scope = (&'static str, Option<&'static str>);

/// Scopes of the calls.
const SCOPES: [Scope; 9] = [
    ("dev", Some("a")),
    ("dev", Some("b")),
    ("dev", None),
    ("prod", Some("a")),
    ("prod", None),
    ("both", Some("a")),
    ("labels", Some("a")),
    ("all", Some("a")),
    ("all", None),
];

/// Number of calls in a row.
const DEPTH: usize = 4;

/// Number of states at which the search of a random installation ends.
const MAX_STATES: usize = 200;

/// Rights at the start. Users are 0 (ann) and 1 (bob).
#[derive(Clone, Debug)]
struct Start {
    roles: [Role; 2],
    grants: Vec<Held>,
}

/// A grant at the start: user, role, scope, and whether it ends after ten hours.
type Held = (usize, &'static str, Scope, bool);

/// A call of the user `by`. Roles and scopes are indexes into [`ROLES`] and [`SCOPES`].
#[derive(Clone, Copy, Debug)]
enum Call {
    Grant {
        by: usize,
        to: usize,
        role: usize,
        scope: usize,
        ends: bool,
    },
    /// A request for one hour, and its approval.
    Request {
        by: usize,
        approver: usize,
        role: usize,
        scope: usize,
    },
    Label {
        by: usize,
        cluster: usize,
        environment: &'static str,
    },
    /// Gives a role the rights of all.
    Rules {
        by: usize,
        role: usize,
    },
    /// Revokes a live grant, by its position.
    Revoke {
        by: usize,
        position: usize,
    },
}

/// The installation after some calls.
struct World {
    fixture: Fixture,
    users: [UserId; 2],
    roles: [Role; 2],
    callers: [Caller; 2],
}

/// What a user may do: the labels that the clusters have ([`ENVIRONMENTS`]), now or later, and the question.
type Table = BTreeSet<(usize, usize, usize)>;

/// Values of the label `environment` of dev and prod. In grants, every other value is the same as `other`.
const ENVIRONMENTS: [[&str; 2]; 4] = [["dev", "dev"], ["dev", "other"], ["other", "dev"], ["other", "other"]];

/// What is told apart: the rights of each user, under all labels; the grants by
/// labels, of which a change of labels takes the right to give them; the labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    tables: [Table; 2],
    by_labels: BTreeSet<String>,
    labels: usize,
}

/// The tables of each user, by the user's live grants: they are the same in many states.
type Tables = BTreeMap<(usize, BTreeSet<String>), Table>;

impl World {
    fn new(start: &Start, path: &[Call]) -> Self {
        let fixture = Fixture::new();
        for (name, verbs, resource) in ROLES {
            fixture.role(name, json!([{"verbs": verbs, "resources": [resource]}])).unwrap();
        }
        let users = [fixture.user("ann", start.roles[0]), fixture.user("bob", start.roles[1])];
        for (user, role, scope, ends) in &start.grants {
            let until = ends.then(|| fixture.now() + 10 * HOUR);
            fixture.give(users[*user], role, &scope_in(&fixture, *scope), until);
        }
        let callers = users.map(|user| fixture.caller(user));
        let mut world = Self { fixture, users, roles: start.roles, callers };
        for call in path {
            assert!(world.run(*call), "{call:?} was accepted before");
            world.callers = world.users.map(|user| world.fixture.caller(user));
        }
        world
    }

    /// Every call that is possible.
    fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        let live = self.live().len();
        for by in 0..2 {
            for role in 0..ROLES.len() {
                for scope in 0..SCOPES.len() {
                    for other in 0..2 {
                        for ends in [false, true] {
                            calls.push(Call::Grant { by, to: other, role, scope, ends });
                        }
                        calls.push(Call::Request { by, approver: other, role, scope });
                    }
                }
                calls.push(Call::Rules { by, role });
            }
            for cluster in 0..2 {
                for environment in ["dev", "other"] {
                    calls.push(Call::Label { by, cluster, environment });
                }
            }
            calls.extend((0..live).map(|position| Call::Revoke { by, position }));
        }
        calls
    }

    /// Runs a call. Returns whether it was accepted.
    fn run(&self, call: Call) -> bool {
        let (fixture, grants) = (&self.fixture, &self.fixture.app.grants);
        match call {
            Call::Grant { by, to, role, scope, ends } => {
                let until = ends.then(|| fixture.now() + 9 * HOUR);
                let scope = scope_in(fixture, SCOPES[scope]);
                fixture.grant(&self.callers[by], self.users[to], ROLES[role].0, &scope, until).is_ok()
            }
            Call::Request { by, approver, role, scope } => {
                let scope = scope_in(fixture, SCOPES[scope]);
                let new = NewRequest {
                    role: RoleName::new(ROLES[role].0).unwrap(),
                    clusters: parse(&scope["clusters"]),
                    reach: parse(&scope["namespaces"]),
                    duration_seconds: 3600,
                    reason: "release 4.2".to_owned(),
                };
                let request = block_on(grants.request(&self.callers[by], new)).unwrap();
                let decide = |by: &Caller, decision| block_on(grants.decide(by, request.id, decision, None));
                let is_approved = decide(&self.callers[approver], Decision::Approve).is_ok();
                if !is_approved {
                    // the number of pending requests of a user is limited
                    decide(&self.callers[by], Decision::Withdraw).unwrap();
                }
                is_approved
            }
            Call::Label { by, cluster, environment } => {
                let labels = Labels::from([("environment".to_owned(), environment.to_owned())]);
                let change = ClusterChange { labels: Some(labels), ..ClusterChange::default() };
                let cluster = [fixture.dev, fixture.prod][cluster];
                block_on(fixture.app.clusters.update(&self.callers[by], cluster, change)).is_ok()
            }
            Call::Rules { by, role } => {
                let rules =
                    ROLES.map(|(_, verbs, resource)| json!({"verbs": verbs, "resources": [resource]}));
                let rules = Some(RoleRules::new(parse(&json!(rules))).unwrap());
                let name = RoleName::new(ROLES[role].0).unwrap();
                let patch = RolePatch { description: None, rules };
                block_on(grants.update_role(&self.callers[by], name, patch)).is_ok()
            }
            Call::Revoke { by, position } => {
                let id = self.live()[position].id;
                block_on(grants.revoke(&self.callers[by], id, None)).is_ok()
            }
        }
    }

    /// Takes back a grant that was just made.
    fn revoke_newest(&self) {
        let newest = self.live().pop().unwrap().id;
        block_on(self.fixture.app.grants.revoke(&Caller::system(), newest, None)).unwrap();
    }

    fn live(&self) -> Vec<GrantRow> {
        block_on(self.fixture.app.grants.live(&Caller::system())).unwrap()
    }

    fn state(&self, tables: &mut Tables) -> State {
        let live = self.live();
        let described = |grant: &GrantRow| {
            let GrantRow { subject, role, clusters, namespaces, until, .. } = grant;
            format!("{subject:?} {role} {clusters:?} {namespaces:?} {until:?}")
        };
        let table = |user: usize| {
            let own = live.iter().filter(|grant| grant.subject.id == Some(self.users[user].0));
            let key = (user, own.map(described).collect());
            tables.entry(key).or_insert_with(|| self.table(user)).clone()
        };
        let by_labels = live.iter().filter(|grant| matches!(grant.clusters, ClusterScope::Labels(_)));
        let rows =
            block_on(RightsSource::rights(&*self.fixture.fake.store, &[], self.fixture.now())).unwrap();
        let is_dev = |id: ClusterId| rows.labels[&id]["environment"] == "dev";
        let labels = 2 * usize::from(!is_dev(self.fixture.dev)) + usize::from(!is_dev(self.fixture.prod));
        let by_labels = by_labels.map(|grant| {
            let GrantRow { subject, role, namespaces, until, .. } = grant;
            format!("{subject:?} {role} {namespaces:?} {}", until.is_some())
        });
        State { by_labels: by_labels.collect(), labels, tables: [0, 1].map(table) }
    }

    fn table(&self, user: usize) -> Table {
        let (fixture, now) = (&self.fixture, self.fixture.now());
        let subjects = [Subject::User(self.users[user])];
        let stored = block_on(RightsSource::rights(&*fixture.fake.store, &subjects, now)).unwrap().grants;
        let preset = EffectiveGrant::preset(self.roles[user]);
        let grants: Vec<_> = [preset].into_iter().chain(stored).collect();
        let mut allowed = Table::new();
        for (labels, environments) in ENVIRONMENTS.into_iter().enumerate() {
            let labelled =
                [fixture.dev, fixture.prod].into_iter().zip(environments).map(|(id, environment)| {
                    (id, Labels::from([("environment".to_owned(), environment.to_owned())]))
                });
            let labelled: ClusterLabels = labelled.collect();
            for (moment, time) in [now, now + 11 * HOUR].into_iter().enumerate() {
                let rights = Rights::compile(&grants, &labelled, time);
                for (question, ask) in questions(fixture).iter().enumerate() {
                    if decide(&rights, ask).is_allowed() {
                        allowed.insert((labels, moment, question));
                    }
                }
            }
        }
        allowed
    }
}

/// What both users may do together, with the labels of the clusters as they are: now or later, and the question.
fn union(state: &State) -> BTreeSet<(usize, usize)> {
    let held = state.tables.iter().flatten().filter(|(labels, ..)| *labels == state.labels);
    held.map(|(_, moment, question)| (*moment, *question)).collect()
}

fn scope_in(fixture: &Fixture, (clusters, namespace): Scope) -> Value {
    let (dev, prod) = (fixture.dev, fixture.prod);
    let clusters = match clusters {
        "dev" => json!({"ids": [dev]}),
        "prod" => json!({"ids": [prod]}),
        "both" => json!({"ids": [dev, prod]}),
        "labels" => json!({"labels": "environment=dev"}),
        _ => json!({"all": true}),
    };
    json!({"clusters": clusters, "namespaces": namespace.map(|namespace| [namespace])})
}

/// The questions by which rights are compared: each right in each cluster, and in all, in each namespace, in one that
/// no grant names, and without a namespace.
fn questions(fixture: &Fixture) -> Vec<Ask> {
    let rights = [
        (RightVerb::List, RightResource::Workloads),
        (RightVerb::Update, RightResource::Workloads),
        (RightVerb::Create, RightResource::Grants),
        (RightVerb::Delete, RightResource::Grants),
        (RightVerb::Update, RightResource::Clusters),
    ];
    let mut questions = Vec::new();
    for (verb, resource) in rights {
        for cluster in [None, Some(fixture.dev), Some(fixture.prod)] {
            let one = |name: &str| NamespaceScope::One(Namespace::new(name).unwrap());
            for namespaces in [NamespaceScope::Unscoped, one("a"), one("b"), one("c")] {
                questions.push(Ask { verb, resource: resource.clone(), cluster, namespaces });
            }
        }
    }
    questions
}

/// Tries every call in every state that at most [`DEPTH`] - 1 accepted calls lead to, in at most `max` states. Returns
/// the number of states, and of calls.
fn search(start: &Start, max: usize) -> (usize, usize) {
    let mut tables = Tables::new();
    let first = World::new(start, &[]).state(&mut tables);
    let limit = union(&first);
    let (mut seen, mut paths, mut tried) = (BTreeSet::from([first]), vec![Vec::new()], 0);
    for _ in 0..DEPTH {
        let mut longer = Vec::new();
        for path in paths {
            let mut world = World::new(start, &path);
            let before = world.state(&mut tables);
            for call in world.calls() {
                tried += 1;
                if !world.run(call) {
                    continue;
                }
                assert!(!matches!(call, Call::Rules { .. }), "{call:?} after {path:?}: a role was changed");
                let after = world.state(&mut tables);
                let gained: Vec<_> = union(&after).difference(&limit).copied().collect();
                assert!(gained.is_empty(), "{start:?}: {path:?}, then {call:?}: {gained:?}");
                if seen.len() < max && seen.insert(after) {
                    longer.push([&path[..], &[call]].concat());
                }
                match call {
                    Call::Grant { .. } | Call::Request { .. } => world.revoke_newest(),
                    _ => world = World::new(start, &path),
                }
            }
            assert_eq!(world.state(&mut tables), before, "a refused call changed something after {path:?}");
        }
        paths = longer;
    }
    (seen.len(), tried)
}

/// Searches at most `PILOTHOUSE_TEST_STATES` states (`just rights`).
fn assert_confined(start: &Start) {
    let (states, tried) = search(start, env_number("PILOTHOUSE_TEST_STATES", 6) as usize);
    assert!(states > 4 && tried > 4 * 400, "only {states} states and {tried} calls");
}

#[test]
fn giver_of_rights_that_end_stays_within_them() {
    assert_confined(&Start {
        roles: [Role::None; 2],
        grants: vec![(0, "granter", ("dev", Some("a")), false), (0, "reader", ("dev", Some("a")), true)],
    });
}

#[test]
fn givers_of_different_places_gain_nothing_together() {
    assert_confined(&Start {
        roles: [Role::None; 2],
        grants: vec![
            (0, "granter", ("dev", Some("a")), false),
            (1, "granter", ("prod", Some("a")), false),
            (1, "writer", ("dev", Some("a")), false),
            (1, "reader", ("dev", Some("b")), false),
        ],
    });
}

#[test]
fn labels_of_a_cluster_bring_no_grant_to_it() {
    assert_confined(&Start {
        roles: [Role::None; 2],
        grants: vec![
            (0, "granter", ("labels", Some("a")), false),
            (0, "reader", ("labels", Some("a")), false),
            (1, "labeller", ("prod", None), false),
        ],
    });
}

#[test]
fn whoever_has_a_cluster_gains_no_other() {
    assert_confined(&Start {
        roles: [Role::None; 2],
        grants: vec![
            (0, "granter", ("dev", None), false),
            (0, "labeller", ("dev", None), false),
            (1, "reader", ("labels", Some("a")), false),
        ],
    });
}

#[test]
fn ops_admin_makes_no_giver_of_rights() {
    assert_confined(&Start {
        roles: [Role::OpsAdmin, Role::None],
        grants: vec![(1, "granter", ("labels", Some("a")), false)],
    });
}

/// A random start in which a user makes grants.
fn start() -> impl Strategy<Value = Start> {
    let held = |roles: &'static [&'static str]| {
        (0..2_usize, sample::select(roles), sample::select(&SCOPES[..]), any::<bool>())
    };
    let grants = prop::collection::vec(held(&["reader", "writer", "granter", "labeller"]), 1..5);
    let role = || prop_oneof![4 => Just(Role::None), 1 => Just(Role::Viewer), 1 => Just(Role::OpsAdmin)];
    (role(), role(), held(&["granter"]), grants).prop_map(|(ann, bob, granter, mut grants)| {
        grants.push(granter);
        Start { roles: [ann, bob], grants }
    })
}

/// Searches random installations until `PILOTHOUSE_TEST_STATES` states were found in all (`just rights`).
#[test]
fn random_holders_of_rights_gain_nothing_together() {
    let wanted = env_number("PILOTHOUSE_TEST_STATES", 6) as usize;
    let (mut runner, mut states, mut tried) = (TestRunner::default(), 0, 0);
    while states < wanted {
        let start = start().new_tree(&mut runner).unwrap().current();
        let (found, calls) = search(&start, MAX_STATES.min(wanted - states));
        (states, tried) = (states + found, tried + calls);
    }
    eprintln!("{tried} calls in {states} states");
}

/// The search finds a gain if there is one: here a super admin gives it.
#[test]
fn gift_of_somebody_else_is_a_gain() {
    let start = Start { roles: [Role::None; 2], grants: vec![(0, "granter", ("dev", Some("a")), false)] };
    let world = World::new(&start, &[]);
    let limit = union(&world.state(&mut Tables::new()));
    let root = world.fixture.caller(world.fixture.user("root", Role::SuperAdmin));
    let scope = scope_in(&world.fixture, ("prod", Some("a")));
    world.fixture.grant(&root, world.users[1], "reader", &scope, None).unwrap();
    assert!(!union(&world.state(&mut Tables::new())).is_subset(&limit));
}
