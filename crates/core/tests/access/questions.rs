//! Questions about rights: the answers are the decisions of the gate.

use pilothouse_core::{
    access::{AccessRequest, Resource, Verb},
    grant::{AccessQuestion, GrantQuery, WhoQuery},
    ids::GrantId,
    kind::Kind,
    name::Namespace,
    namespaces::NamespaceScope,
    rights::{Needs, RightResource, RightVerb, needs},
    rows::{ListQuery, Row},
};

use super::*;

const OPERATIONS: [(Verb, Kind); 12] = [
    (Verb::List, Kind::Pod),
    (Verb::Logs, Kind::Pod),
    (Verb::Get, Kind::Deployment),
    (Verb::Scale, Kind::Deployment),
    (Verb::Restart, Kind::StatefulSet),
    (Verb::Delete, Kind::ConfigMap),
    (Verb::Reveal, Kind::Secret),
    (Verb::List, Kind::Node),
    (Verb::List, Kind::Namespace),
    (Verb::Create, Kind::Namespace),
    (Verb::Update, Kind::Ingress),
    (Verb::List, Kind::Event),
];

#[test]
fn explanation_is_the_decision_of_the_gate() {
    let fixture = Fixture::new();
    let root = fixture.user("root", Role::SuperAdmin);
    let mut users: Vec<_> = [Role::None, Role::Viewer, Role::OpsAdmin, Role::SuperAdmin]
        .into_iter()
        .map(|role| fixture.user(&format!("user.{}", role.as_str()), role))
        .collect();
    for (role, scope) in [
        ("viewer", fixture.shop()),
        ("operator", json!({"clusters": {"labels": "environment=dev"}, "namespaces": ["shop-*", "bank"]})),
        ("admin", json!({"clusters": {"ids": [fixture.dev]}, "namespaces": null})),
        ("admin", json!({"clusters": {"all": true}, "namespaces": ["*"]})),
    ] {
        let user = fixture.user(&format!("user.{}", users.len()), Role::None);
        fixture.give(user, role, &scope, None);
        users.push(user);
    }
    let scopes = ["shop-web", "bank", "other", "kube-system"]
        .map(|name| NamespaceScope::One(Namespace::new(name).unwrap()));
    let scopes: Vec<_> = scopes.into_iter().chain([NamespaceScope::All, NamespaceScope::Unscoped]).collect();
    let (mut allowed, mut refused) = (0, 0);
    for (user, (verb, kind)) in users.iter().flat_map(|user| OPERATIONS.map(|operation| (*user, operation))) {
        let caller = fixture.caller(user);
        let Needs::Right(right, resource) = needs(verb, Resource::Kind(kind)) else { panic!("{kind}") };
        for cluster in [fixture.dev, fixture.prod] {
            for scope in &scopes {
                let access = AccessRequest::to(verb, Resource::Kind(kind)).in_cluster(cluster);
                let decision = block_on(fixture.app.gate.allow(&caller, access.within(scope.clone())));
                let question = AccessQuestion {
                    verb: right,
                    resource: resource.clone(),
                    cluster: Some(cluster),
                    namespaces: scope.clone(),
                };
                let label = format!("user {user}: {right} {resource} in {cluster} {scope:?}");
                let of_root =
                    block_on(fixture.app.grants.explain(&fixture.caller(root), question.clone(), Some(user)));
                let of_root = of_root.unwrap();
                assert_eq!(of_root.allowed, decision.is_ok(), "{label}");
                assert_eq!(of_root.because.is_some(), of_root.allowed, "{label}");
                assert_eq!(of_root.missing.is_none(), of_root.allowed, "{label}");
                let allows = of_root.layers.iter().any(|layer| layer.verdict == "allows");
                assert_eq!(allows, of_root.allowed, "{label}");
                // in a cluster without any right the question is answered as in one that does not exist
                match block_on(fixture.app.grants.explain(&caller, question, None)) {
                    Ok(own) => assert_eq!(own, of_root, "{label}"),
                    Err(error) => {
                        assert_eq!(error.cause.as_str(), "not_found", "{label}");
                        assert!(!caller.rights.sees(cluster), "{label}");
                    }
                }
                *(if decision.is_ok() { &mut allowed } else { &mut refused }) += 1;
            }
        }
    }
    assert!(allowed > 100 && refused > 100, "{allowed} allowed, {refused} refused");
}

/// Another replica registered the cluster after the rights of the caller were compiled.
#[test]
fn cluster_of_a_moment_ago_is_explained_as_the_gate_decides() {
    let fixture = Fixture::new();
    let (vic, ann) = (fixture.user("vic", Role::Viewer), fixture.user("ann", Role::None));
    fixture.give(ann, "viewer", &fixture.shop(), None);
    let callers = [(fixture.caller(vic), true), (fixture.caller(ann), false)];
    let cluster = block_on(fixture.app.clusters.create(&Caller::system(), new_cluster("new")));
    let cluster = cluster.unwrap().value.id;
    for (caller, expected) in callers {
        let question = question(RightVerb::List, RightResource::Workloads, cluster, "shop-web");
        let pods = AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).in_cluster(cluster);
        let decision = block_on(fixture.app.gate.allow(&caller, pods.within(question.namespaces.clone())));
        let explained = block_on(fixture.app.grants.explain(&caller, question, None));
        assert_eq!((decision.is_ok(), explained.is_ok_and(|it| it.allowed)), (expected, expected));
    }
}

fn question(verb: RightVerb, resource: RightResource, cluster: ClusterId, namespace: &str) -> AccessQuestion {
    let namespaces = NamespaceScope::parse(namespace).unwrap();
    AccessQuestion { verb, resource, cluster: Some(cluster), namespaces }
}

fn who_query(question: AccessQuestion) -> WhoQuery {
    WhoQuery { list: ListQuery::default(), question }
}

#[test]
fn explanation_names_the_grant_or_what_is_missing() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    fixture.role("first-aid", json!([{"verbs": ["restart"], "resources": ["workloads"]}])).unwrap();
    let grant = fixture.give(ann, "viewer", &fixture.shop(), None).id;
    let explain = |verb, namespace| {
        let question = question(verb, RightResource::Workloads, fixture.dev, namespace);
        block_on(fixture.app.grants.explain(&fixture.caller(ann), question, None)).unwrap()
    };
    let allowed = explain(RightVerb::Logs, "shop-web");
    let because = allowed.because.unwrap();
    assert_eq!((because.grant_id, because.role.as_str(), because.via_group), (Some(grant), "viewer", None));
    assert!(allowed.roles_that_would_do.is_empty());

    let refused = explain(RightVerb::Restart, "shop-web");
    let missing = refused.missing.unwrap();
    assert_eq!((missing.verb, missing.resource), (RightVerb::Restart, RightResource::Workloads));
    assert_eq!((missing.cluster_id, missing.namespace.as_deref()), (Some(fixture.dev), Some("shop-web")));
    let roles: Vec<_> = refused.roles_that_would_do.iter().map(RoleName::as_str).collect();
    assert_eq!(roles, ["operator", "editor", "admin", "first-aid"]);
    assert_eq!(refused.layers[0].verdict, "other_role");
    assert_eq!(explain(RightVerb::Logs, "bank").layers[0].verdict, "other_namespaces");
}

#[test]
fn questions_about_others_take_list_grants_there() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let ops = fixture.user("ops", Role::OpsAdmin);
    let ask = |caller, cluster, namespace| {
        let caller = fixture.caller(caller);
        let question = || question(RightVerb::List, RightResource::Workloads, cluster, namespace);
        let explained = refusal(block_on(fixture.app.grants.explain(&caller, question(), Some(ann))));
        let who = refusal(block_on(fixture.app.grants.who(&caller, &who_query(question()))));
        assert_eq!(explained, who);
        who
    };
    assert_eq!(ask(lead, fixture.dev, "shop-web"), "ok");
    for namespace in ["bank", "*"] {
        assert_eq!(ask(lead, fixture.dev, namespace), "list grants", "{namespace}");
    }
    assert_eq!(ask(lead, fixture.prod, "shop-web"), "not_found");
    assert_eq!(ask(lead, ClusterId(999), "shop-web"), "not_found");
    assert_eq!(ask(ops, fixture.dev, "shop-web"), "list grants");
}

/// `list grants` in a scope shows no grant outside it.
#[test]
fn explanation_about_others_shows_only_the_grants_that_give_the_right() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let root = fixture.user("root", Role::SuperAdmin);
    let inside = fixture.give(ann, "viewer", &fixture.shop(), None).id;
    for scope in [
        json!({"clusters": {"ids": [fixture.prod]}, "namespaces": ["shop-*"]}),
        json!({"clusters": {"ids": [fixture.dev]}, "namespaces": ["bank"]}),
    ] {
        fixture.give(ann, "operator", &scope, None);
    }
    let layers = |caller, verb| {
        let question = question(verb, RightResource::Workloads, fixture.dev, "shop-web");
        let caller = fixture.caller(caller);
        let explained = block_on(fixture.app.grants.explain(&caller, question, Some(ann)));
        let layers = explained.unwrap().layers;
        layers.into_iter().map(|layer| layer.because.grant_id.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(layers(lead, RightVerb::List), [inside]);
    assert!(layers(lead, RightVerb::Restart).is_empty());
    assert_eq!(layers(root, RightVerb::List).len(), 3);
}

#[test]
fn who_names_users_by_role_and_by_grant() {
    let fixture = Fixture::new();
    let (ann, bob) = (fixture.user("ann", Role::None), fixture.user("bob", Role::Viewer));
    let root = fixture.user("root", Role::SuperAdmin);
    let grant = fixture.give(ann, "operator", &fixture.shop(), None).id;
    fixture.give(bob, "viewer", &fixture.shop(), None);
    let who = |verb, cluster, namespace| {
        let question = question(verb, RightResource::Workloads, cluster, namespace);
        let (rows, _) =
            block_on(fixture.app.grants.who(&fixture.caller(root), &who_query(question))).unwrap();
        let row = |row: &Row| {
            let row: Value = serde_json::from_str(row.json()).unwrap();
            let grants = row["grants"].as_array().unwrap().iter();
            let grants: Vec<_> = grants.map(|grant| grant["grant_id"].as_i64().map(GrantId)).collect();
            (row["username"].as_str().unwrap().to_owned(), grants)
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let by_role = |name: &str| (name.to_owned(), vec![None]);
    assert_eq!(
        who(RightVerb::Restart, fixture.dev, "shop-web"),
        [("ann".to_owned(), vec![Some(grant)]), by_role("root")]
    );
    assert_eq!(who(RightVerb::Restart, fixture.dev, "bank"), [by_role("root")]);
    assert_eq!(who(RightVerb::Restart, fixture.prod, "shop-web"), [by_role("root")]);
    let listing = who(RightVerb::List, fixture.dev, "shop-web");
    let names: Vec<_> = listing.iter().map(|(name, grants)| (name.as_str(), grants.len())).collect();
    assert_eq!(names, [("ann", 1), ("bob", 2), ("root", 1)]);
}

/// Who has a right in a place is a question about the place: the grants that give it are named, also those that reach
/// beyond it and are not in the caller's list of grants.
#[test]
fn who_names_grants_of_a_wider_scope_than_that_of_the_asker() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let wide = json!({"clusters": {"all": true}, "namespaces": null});
    let wide = fixture.give(ann, "viewer", &wide, None).id;
    let of_lead = fixture.caller(lead);
    let question = question(RightVerb::List, RightResource::Workloads, fixture.dev, "shop-web");
    let (rows, pagination) = block_on(fixture.app.grants.who(&of_lead, &who_query(question))).unwrap();
    assert_eq!(pagination.total, 2, "ann and the lead");
    assert!(
        rows.iter().any(|row| row.name() == "ann" && row.json().contains(&format!("\"grant_id\":{wide},")))
    );
    let listed = GrantQuery { list: ListQuery::default(), clusters: Vec::new() };
    let (rows, _) = block_on(fixture.app.grants.list(&of_lead, &listed)).unwrap();
    assert!(rows.iter().all(|row| !row.json().starts_with(&format!("{{\"id\":{wide},"))));
    assert_eq!(rows.len(), 2, "the lead's own");
}

#[test]
fn own_rights_are_those_of_the_role_and_of_the_active_grants() {
    let fixture = Fixture::new();
    let bob = fixture.user("bob", Role::Viewer);
    fixture.give(bob, "operator", &fixture.shop(), Some(fixture.now() + HOUR));
    let mine = || block_on(fixture.app.grants.mine(&fixture.caller(bob))).unwrap();
    let roles = |mine: &pilothouse_core::grant::MyRights| {
        mine.rights.iter().map(|right| right.role.clone()).collect::<Vec<_>>()
    };
    let before = mine();
    assert_eq!(roles(&before), ["viewer", "operator"]);
    assert_eq!(
        ["list workloads", "scale workloads", "create workloads"].map(|right| before.can[right]),
        ["all", "some", "none"]
    );
    assert!(!before.can.contains_key("scale secrets"), "not a right");
    fixture.advance(HOUR);
    assert_eq!((roles(&mine()), mine().can["scale workloads"]), (vec!["viewer".to_owned()], "none"));
}
