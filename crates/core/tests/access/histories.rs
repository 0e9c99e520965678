//! Random histories at two replicas over one store: grants, revocations, labels, roles, users and time, with questions
//! between. A naive evaluator over the stored rows answers the same questions. A replica answers by the rows of its own
//! last change or newer ones, and by rows that were current less than 800 ms ago.

use pilothouse_core::{
    access::Origin,
    cluster::{Cluster, ClusterChange, ClusterRegistry},
    grant::{GrantRegistry, OwnRole, RolePatch, RoleRegistry},
    name::Namespace,
    namespaces::NamespaceScope,
    rights::{Ask, ClusterScope, Grant, Reach, RightResource, RightVerb, decide},
    session::{Activity, Login, Tokens},
    testing::env_number,
    user::{User, UserPatch, UserRegistry},
};
use proptest::{prelude::*, sample};
use secrecy::ExposeSecret;

use super::*;

/// Maximum age of a session in the cache of a replica, and of the rights that were read with it.
const STALE: Duration = Duration::from_millis(800);

const USERS: [&str; 2] = ["ann", "bob"];
const ROLES: [&str; 2] = ["first", "second"];
/// Rights of the questions, and of the own roles. Nodes have no namespace.
const RIGHTS: [(&str, &str); 3] = [("list", "workloads"), ("update", "config"), ("list", "nodes")];
const NAMESPACES: [&str; 3] = ["shop", "bank-a", "kube-system"];
const ENVIRONMENTS: [&str; 2] = ["dev", "prod"];

/// Clusters of a grant.
#[derive(Clone, Copy, Debug)]
enum Clusters {
    All,
    /// 0 is dev, 1 is prod.
    Id(usize),
    /// A label with one of [`ENVIRONMENTS`].
    Label(usize),
}

/// A step of a history. Users, roles, rights, environments and clusters are indexes.
#[derive(Clone, Debug)]
enum Step {
    Grant {
        user: usize,
        role: usize,
        clusters: Clusters,
        /// Patterns; `None`: the whole cluster.
        namespaces: Option<&'static [&'static str]>,
        /// Seconds until the start, and from the start to the end.
        from: Option<u64>,
        lasts: Option<u64>,
    },
    /// Revokes a live grant, by its position.
    Revoke(sample::Index),
    Label {
        cluster: usize,
        environment: usize,
    },
    Rules {
        role: usize,
        right: usize,
    },
    /// Changes the role of a user, which ends the user's sessions.
    Preset {
        user: usize,
        role: Role,
    },
    /// Milliseconds.
    Advance(u64),
    /// Asks all questions as this user.
    Ask(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let clusters = prop_oneof![
        Just(Clusters::All),
        (0..2_usize).prop_map(Clusters::Id),
        (0..2_usize).prop_map(Clusters::Label),
    ];
    let reaches: &[Option<&'static [&'static str]>] =
        &[None, Some(&["shop"]), Some(&["bank-*", "kube-system"]), Some(&["*"])];
    let times = (prop::option::of(0..3_u64), prop::option::of(1..5_u64));
    let grant = (0..2_usize, 0..2_usize, clusters, sample::select(reaches.to_vec()), times);
    let grant = grant.prop_map(|(user, role, clusters, namespaces, (from, lasts))| Step::Grant {
        user,
        role,
        clusters,
        namespaces,
        from,
        lasts,
    });
    let preset = (0..2_usize, sample::select(vec![Role::None, Role::Viewer]));
    prop_oneof![
        5 => grant,
        2 => any::<sample::Index>().prop_map(Step::Revoke),
        1 => (0..2_usize, 0..2_usize).prop_map(|(cluster, environment)| Step::Label { cluster, environment }),
        1 => (0..2_usize, 0..3_usize).prop_map(|(role, right)| Step::Rules { role, right }),
        1 => preset.prop_map(|(user, role)| Step::Preset { user, role }),
        4 => sample::select(vec![1, 400, 799, 800, 3000]).prop_map(Step::Advance),
        9 => (0..2_usize).prop_map(Step::Ask),
    ]
}

/// A question: a right, the cluster, and the namespace.
#[derive(Clone, Copy, Debug)]
struct Question {
    right: (&'static str, &'static str),
    cluster: ClusterId,
    namespace: Option<&'static str>,
}

impl Question {
    fn all(clusters: [ClusterId; 2]) -> Vec<Self> {
        let mut questions = Vec::new();
        for cluster in clusters {
            for right in RIGHTS {
                if right.1 == "nodes" {
                    questions.push(Self { right, cluster, namespace: None });
                } else {
                    let in_namespace = |name| Self { right, cluster, namespace: Some(name) };
                    questions.extend(NAMESPACES.map(in_namespace));
                }
            }
        }
        questions
    }

    fn ask(self) -> Ask {
        let one = |name| NamespaceScope::One(Namespace::new(name).unwrap());
        Ask {
            verb: RightVerb::parse(self.right.0).unwrap(),
            resource: RightResource::parse(self.right.1).unwrap(),
            cluster: Some(self.cluster),
            namespaces: self.namespace.map_or(NamespaceScope::Unscoped, one),
        }
    }
}

/// The stored rows at a moment.
struct Rows {
    grants: Vec<Grant>,
    roles: Vec<OwnRole>,
    clusters: Vec<Cluster>,
    users: Vec<User>,
}

impl Rows {
    fn read(fixture: &Fixture) -> Self {
        let store = &*fixture.fake.store;
        Self {
            grants: block_on(GrantRegistry::list(store, None, None)).unwrap(),
            roles: block_on(RoleRegistry::list(store)).unwrap(),
            clusters: block_on(ClusterRegistry::list(store)).unwrap(),
            users: block_on(UserRegistry::list(store)).unwrap(),
        }
    }

    fn preset(&self, user: UserId) -> Role {
        self.users.iter().find(|found| found.id == user).unwrap().role
    }

    /// Whether a user with this preset has a right, by the texts of the rows.
    fn allow(&self, preset: Role, user: UserId, question: Question, now: Timestamp) -> bool {
        let Question { right: (verb, resource), cluster, namespace } = question;
        let by_preset = preset == Role::Viewer && verb == "list";
        by_preset
            || self.grants.iter().any(|grant| {
                let is_active = grant.revoked_at.is_none()
                    && grant.from <= now
                    && grant.until.is_none_or(|until| now < until);
                grant.subject == Subject::User(user)
                    && is_active
                    && self.has_right(grant, verb, resource)
                    && self.contains_cluster(grant, cluster)
                    && reaches(&grant.reach, namespace)
            })
    }

    fn has_right(&self, grant: &Grant, verb: &str, resource: &str) -> bool {
        let role = self.roles.iter().find(|role| role.name == grant.role).unwrap();
        role.rules.rules().iter().any(|rule| {
            rule.verbs.iter().any(|own| own.as_str() == verb)
                && rule.resources.iter().any(|own| own.to_string() == resource)
        })
    }

    fn contains_cluster(&self, grant: &Grant, id: ClusterId) -> bool {
        let cluster = self.clusters.iter().find(|cluster| cluster.id == id).unwrap();
        match &grant.clusters {
            ClusterScope::All => true,
            ClusterScope::Ids(ids) => ids.contains(&id),
            ClusterScope::Labels(terms) => {
                terms.to_string() == format!("environment={}", cluster.labels["environment"])
            }
        }
    }
}

fn reaches(reach: &Reach, namespace: Option<&str>) -> bool {
    let matches = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some("") => !name.starts_with("kube-"),
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    match (reach, namespace) {
        (Reach::Cluster, _) => true,
        (Reach::Namespaces(_), None) => false,
        (Reach::Namespaces(set), Some(name)) => {
            set.patterns().iter().any(|pattern| matches(&pattern.to_string(), name))
        }
    }
}

/// Two replicas over one store.
struct Installation {
    fixture: Fixture,
    replicas: [App; 2],
    users: [UserId; 2],
    /// The tokens of each user.
    tokens: [Option<Tokens>; 2],
    questions: Vec<Question>,
    /// The rows after each change, with its time on the monotonic clock, oldest first.
    versions: Vec<(Duration, Rows)>,
    /// For each replica, the version that it made last.
    own: [usize; 2],
}

impl Installation {
    fn new() -> Self {
        let fixture = Fixture::new();
        for name in ROLES {
            fixture.role(name, rules(0)).unwrap();
        }
        let users = USERS.map(|name| fixture.user(name, Role::None));
        let replicas = [fixture.app.clone(), App::new(fixture.fake.ports(), AppSettings::default())];
        let questions = Question::all([fixture.dev, fixture.prod]);
        let versions = vec![(fixture.monotonic(), Rows::read(&fixture))];
        Self { fixture, replicas, users, tokens: [None, None], questions, versions, own: [0, 0] }
    }

    fn run(&mut self, replica: usize, step: &Step) {
        let (app, system) = (self.replicas[replica].clone(), Caller::system());
        let clusters = [self.fixture.dev, self.fixture.prod];
        match step {
            Step::Grant { .. } => drop(block_on(app.grants.create(&system, self.record(step))).unwrap()),
            Step::Revoke(index) => {
                let live = block_on(app.grants.live(&system)).unwrap();
                if live.is_empty() {
                    return;
                }
                block_on(app.grants.revoke(&system, index.get(&live).id, None)).unwrap();
            }
            Step::Label { cluster, environment } => {
                let label = ("environment".to_owned(), ENVIRONMENTS[*environment].to_owned());
                let change =
                    ClusterChange { labels: Some(Labels::from([label])), ..ClusterChange::default() };
                block_on(app.clusters.update(&system, clusters[*cluster], change)).unwrap();
            }
            Step::Rules { role, right } => {
                let rules = Some(RoleRules::new(parse(&rules(*right))).unwrap());
                let patch = RolePatch { description: None, rules };
                let name = RoleName::new(ROLES[*role]).unwrap();
                block_on(app.grants.update_role(&system, name, patch)).unwrap();
            }
            Step::Preset { user, role } => {
                let patch = UserPatch { role: Some(*role), ..UserPatch::default() };
                block_on(app.users.update(&system, self.users[*user], patch)).unwrap();
            }
            Step::Advance(millis) => return self.fixture.advance(Duration::from_millis(*millis)),
            Step::Ask(user) => return self.ask(replica, *user),
        }
        self.versions.push((self.fixture.monotonic(), Rows::read(&self.fixture)));
        self.own[replica] = self.versions.len() - 1;
    }

    /// The grant of a [`Step::Grant`].
    fn record(&self, step: &Step) -> GrantRecord {
        let Step::Grant { user, role, clusters, namespaces, from, lasts } = step else {
            panic!("{step:?} makes no grant")
        };
        let ids = [self.fixture.dev, self.fixture.prod];
        let clusters = match clusters {
            Clusters::All => json!({"all": true}),
            Clusters::Id(n) => json!({"ids": &ids[*n..=*n]}),
            Clusters::Label(n) => json!({"labels": format!("environment={}", ENVIRONMENTS[*n])}),
        };
        let from = from.map(|seconds| self.fixture.now() + Duration::from_secs(seconds));
        let start = from.unwrap_or_else(|| self.fixture.now());
        GrantRecord {
            subject: Subject::User(self.users[*user]),
            role: RoleName::new(ROLES[*role]).unwrap(),
            clusters: parse(&clusters),
            reach: parse(&json!(namespaces)),
            from,
            until: lasts.map(|seconds| start + Duration::from_secs(seconds)),
            reason: None,
        }
    }

    /// The answers to all questions.
    fn answers(&mut self, replica: usize, user: usize) -> Vec<bool> {
        let caller = self.caller(replica, user);
        self.questions.iter().map(|question| decide(&caller.rights, &question.ask()).is_allowed()).collect()
    }

    fn ask(&mut self, replica: usize, user: usize) {
        let answers = self.answers(replica, user);
        let (id, now) = (self.users[user], self.fixture.now());
        let monotonic = self.fixture.monotonic();
        let outdated = self.versions.iter().rposition(|(at, _)| *at + STALE <= monotonic);
        let versions = &self.versions[self.own[replica].max(outdated.unwrap_or(0))..];
        // the preset is that of the session, the grants may be read later
        let is_explained = versions.iter().enumerate().any(|(n, (_, session))| {
            let preset = session.preset(id);
            let answer = |rows: &Rows, question: &Question| rows.allow(preset, id, *question, now);
            versions[n..].iter().any(|(_, rows)| {
                self.questions.iter().zip(&answers).all(|(question, given)| answer(rows, question) == *given)
            })
        });
        assert!(is_explained, "{} at replica {replica}: {answers:?} to {:?}", USERS[user], self.questions);
    }

    /// A user as a caller of a replica. Logs in if the session has ended or the access token has expired.
    fn caller(&mut self, replica: usize, user: usize) -> Caller {
        if let Some(tokens) = &self.tokens[user]
            && let Ok(caller) = self.authenticate(replica, tokens)
        {
            return caller;
        }
        let login = Login {
            username: USERS[user].to_owned(),
            password: "correct horse battery".into(),
            code: None,
            user_agent: None,
            origin: Origin::default(),
        };
        let (tokens, _) = block_on(self.replicas[replica].sessions.login(login)).unwrap();
        let caller = self.authenticate(replica, &tokens).unwrap();
        self.tokens[user] = Some(tokens);
        caller
    }

    fn authenticate(&self, replica: usize, tokens: &Tokens) -> Result<Caller, Error> {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        let sessions = &self.replicas[replica].sessions;
        let signed_in = sessions.authenticate(bearer, cookie, Origin::default(), Activity::User);
        block_on(signed_in).map(|signed_in| signed_in.caller)
    }
}

/// Rules of an own role: one of [`RIGHTS`].
fn rules(right: usize) -> Value {
    let (verb, resource) = RIGHTS[right];
    json!([{"verbs": [verb], "resources": [resource]}])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(env_number("PILOTHOUSE_TEST_HISTORIES", 150)))]

    #[test]
    fn answers_in_random_histories_are_those_of_the_rows(
        steps in prop::collection::vec((0..2_usize, step()), 1..60),
    ) {
        let mut installation = Installation::new();
        for (replica, step) in &steps {
            installation.run(*replica, step);
        }
        for replica in 0..2 {
            installation.ask(replica, 0);
            installation.ask(replica, 1);
        }
    }
}

#[test]
fn revocation_holds_at_once_at_its_replica_and_within_800_ms_at_the_other() {
    let mut installation = Installation::new();
    let (user, role) = (0, 0);
    let grant =
        Step::Grant { user, role, clusters: Clusters::All, namespaces: None, from: None, lasts: None };
    installation.run(0, &grant);
    assert_eq!([0, 1].map(|replica| installation.answers(replica, user).contains(&true)), [true, true]);
    let live = block_on(installation.fixture.app.grants.live(&Caller::system())).unwrap();
    block_on(installation.replicas[0].grants.revoke(&Caller::system(), live[0].id, None)).unwrap();
    let mut are_allowed = |millis| {
        installation.fixture.advance(Duration::from_millis(millis));
        [0, 1].map(|replica| installation.answers(replica, user).contains(&true))
    };
    assert_eq!(are_allowed(0), [false, true]);
    assert_eq!(are_allowed(799), [false, true]);
    assert_eq!(are_allowed(1), [false, false]);
}
