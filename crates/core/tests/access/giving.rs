//! Nobody gives more than they have.

use pilothouse_core::{
    gate::Warning, grant::GrantQuery, ids::GrantId, operation::Status, rights::DerivedPower, rows::Row,
};

use super::*;

#[test]
fn grant_is_refused_unless_its_giver_has_all_of_it() {
    let fixture = Fixture::new();
    let (dev, prod) = (fixture.dev, fixture.prod);
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let root = fixture.user("root", Role::SuperAdmin);
    let in_dev = |namespaces: Value| json!({"clusters": {"ids": [dev]}, "namespaces": namespaces});
    let of_clusters = |clusters: Value| json!({"clusters": clusters, "namespaces": ["shop-*"]});
    let end = |hours: u32| Some(fixture.now() + hours * HOUR);
    let cases = [
        ("editor", in_dev(json!(["shop-web"])), end(9), "ok"),
        ("viewer", in_dev(json!(["shop-*"])), end(10), "ok"),
        ("granter", in_dev(json!(["shop-web"])), None, "ok"),
        // beyond the end of the giver's own rights
        ("editor", in_dev(json!(["shop-*"])), end(11), "list workloads"),
        ("viewer", in_dev(json!(["shop-*"])), None, "list workloads"),
        // beyond the namespaces
        ("viewer", in_dev(json!(["shop-web", "bank"])), end(9), "create grants"),
        ("viewer", in_dev(json!(["*"])), end(9), "create grants"),
        ("viewer", in_dev(Value::Null), end(9), "create grants"),
        // beyond the clusters
        ("viewer", of_clusters(json!({"all": true})), end(9), "create grants"),
        ("viewer", of_clusters(json!({"ids": [dev, prod]})), end(9), "create grants"),
        ("viewer", of_clusters(json!({"labels": "environment=dev"})), end(9), "create grants"),
        // beyond the verbs
        ("admin", in_dev(json!(["shop-web"])), end(9), "create custom"),
        ("absent", in_dev(json!(["shop-web"])), end(9), "not_found"),
    ];
    for (role, scope, until, expected) in cases {
        let by = |giver| refusal(fixture.grant(&fixture.caller(giver), ann, role, &scope, until));
        assert_eq!(by(lead), expected, "{role} {scope} {until:?}");
        assert_eq!(by(root), if role == "absent" { "not_found" } else { "ok" }, "{role} {scope}");
    }
}

#[test]
fn roles_without_grants_are_refused_before_the_request_is_read() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    for (name, role) in [("none", Role::None), ("viewer", Role::Viewer), ("ops", Role::OpsAdmin)] {
        let caller = fixture.caller(fixture.user(name, role));
        let scope = json!({"clusters": {"all": true}, "namespaces": null});
        assert_eq!(refusal(fixture.grant(&caller, ann, "absent", &scope, None)), "create grants", "{name}");
        let revoked = block_on(fixture.app.grants.revoke(&caller, GrantId(999), None));
        assert_eq!(refusal(revoked), "delete grants", "{name}");
        let rules = RoleRules::new(parse(&json!([{"verbs": ["list"], "resources": ["events"]}]))).unwrap();
        let name = RoleName::new("own-role").unwrap();
        let record = RoleRecord { name, description: String::new(), rules };
        assert_eq!(refusal(block_on(fixture.app.grants.create_role(&caller, record))), "update users");
    }
    let rows = fixture.fake.store.all_operations();
    let refused: Vec<_> = rows.iter().filter(|row| row.status == Status::Failed).collect();
    assert_eq!(refused.len(), 9, "each refusal has a row");
}

#[test]
fn what_was_given_stays_when_its_giver_loses_it() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let until = Some(fixture.now() + 9 * HOUR);
    let given = fixture.grant(&fixture.caller(lead), ann, "viewer", &fixture.shop(), until).unwrap().value;
    assert_eq!((given.state, given.created_by.as_str(), given.source.as_str()), ("active", "lead", "manual"));
    for id in rows(&fixture, &fixture.caller(lead)).into_iter().filter(|id| *id != given.id.0) {
        block_on(fixture.app.grants.revoke(&Caller::system(), GrantId(id), None)).unwrap();
    }
    assert!(fixture.caller(ann).rights.sees(fixture.dev));
    assert_eq!(
        refusal(fixture.grant(&fixture.caller(lead), ann, "viewer", &fixture.shop(), until)),
        "create grants"
    );
}

/// Ids of the grants that a caller sees, oldest first.
fn rows(fixture: &Fixture, caller: &Caller) -> Vec<i64> {
    let query = GrantQuery::parse(&[("sort".to_owned(), "id".to_owned())]).unwrap();
    let (rows, _) = block_on(fixture.app.grants.list(caller, &query)).unwrap();
    let id = |row: &Row| serde_json::from_str::<Value>(row.json()).unwrap()["id"].as_i64().unwrap();
    rows.iter().map(id).collect()
}

#[test]
fn grants_are_listed_and_revoked_within_the_scope_of_these_rights() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let give = |namespaces: Value| {
        let scope = json!({"clusters": {"ids": [fixture.dev]}, "namespaces": namespaces});
        fixture.give(ann, "viewer", &scope, None).id
    };
    let (inside, outside) = (give(json!(["shop-web"])), give(json!(["shop-web", "bank"])));
    let (of_lead, of_ann) = (fixture.caller(lead), fixture.caller(ann));
    assert_eq!(rows(&fixture, &of_ann), [inside.0, outside.0], "all see their own");
    let seen = rows(&fixture, &of_lead);
    assert_eq!(seen.len(), 3, "two own grants, and one of ann");
    assert!(seen.contains(&inside.0) && !seen.contains(&outside.0));

    let revoke = |caller: &Caller, id| refusal(block_on(fixture.app.grants.revoke(caller, id, None)));
    assert_eq!(revoke(&of_ann, inside), "delete grants", "not even one's own");
    // a grant outside is not told apart from one that does not exist
    assert_eq!(revoke(&of_lead, outside), "not_found");
    assert_eq!(revoke(&of_lead, GrantId(999_999)), "not_found");
    assert_eq!(revoke(&of_lead, inside), "ok");
    assert_eq!(revoke(&of_lead, inside), "ok", "it stays revoked");
    assert!(fixture.caller(ann).rights.sees(fixture.dev), "by the other grant");
    assert_eq!(revoke(&Caller::system(), outside), "ok");
    assert!(!fixture.caller(ann).rights.sees(fixture.dev));
}

#[test]
fn list_of_grants_is_filtered_by_cluster() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    let of = |clusters: Value| {
        fixture.give(ann, "viewer", &json!({"clusters": clusters, "namespaces": ["a"]}), None).id.0
    };
    let ids = [
        of(json!({"all": true})),
        of(json!({"ids": [fixture.prod]})),
        of(json!({"labels": "environment=dev"})),
    ];
    let listed = |clusters: &[ClusterId]| {
        let clusters: Vec<_> = clusters.iter().map(ToString::to_string).collect();
        let pairs = [("cluster_id", clusters.join(",")), ("sort", "id".to_owned())];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
        let (rows, _) =
            block_on(fixture.app.grants.list(&fixture.caller(ann), &GrantQuery::parse(&pairs).unwrap()))?;
        let id = |row: &Row| serde_json::from_str::<Value>(row.json()).unwrap()["id"].as_i64().unwrap();
        Ok::<_, Error>(rows.iter().map(id).collect::<Vec<_>>())
    };
    assert_eq!(listed(&[fixture.dev]).unwrap(), [ids[0], ids[2]]);
    assert_eq!(listed(&[fixture.prod]).unwrap(), [ids[0], ids[1]]);
    assert_eq!(listed(&[fixture.dev, fixture.prod]).unwrap(), ids);
    assert_eq!(refusal(listed(&[fixture.dev, ClusterId(999)])), "not_found");
}

#[test]
fn grant_warns_of_derived_power() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    let secrets = Warning::DerivedPower(DerivedPower::SecretsThroughPods);
    let cluster = Warning::DerivedPower(DerivedPower::ClusterAdmin);
    let cases = [
        ("viewer", json!(null), vec![]),
        ("operator", json!(["shop-*"]), vec![secrets.clone()]),
        ("editor", json!(["kube-system"]), vec![secrets.clone(), cluster.clone()]),
        ("admin", json!(null), vec![secrets, cluster]),
    ];
    for (role, namespaces, expected) in cases {
        let scope = json!({"clusters": {"all": true}, "namespaces": namespaces});
        let changed = fixture.grant(&Caller::system(), ann, role, &scope, None).unwrap();
        assert_eq!(changed.warnings, expected, "{role} {namespaces}");
    }
}

#[test]
fn times_in_the_past_and_empty_times_are_refused() {
    let fixture = Fixture::new();
    fixture.advance(10 * HOUR);
    let ann = fixture.user("ann", Role::None);
    let now = fixture.now();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let (hour_ago, later, much_later) = (now - HOUR, now + HOUR, now + 2 * HOUR);
    let second = Duration::from_secs(1);
    // from, until, the refused field or the stored start
    let cases = [
        (None, Some(now), Err("until")),
        (Some(later), Some(later), Err("until")),
        (Some(hour_ago), None, Err("from")),
        (Some(now - minutes(5) - second), None, Err("from")),
        // a client that sends its own present is not refused for its latency or its clock
        (Some(now - minutes(5)), None, Ok(now)),
        (Some(now - second), Some(now), Err("until")),
        (Some(now), Some(later), Ok(now)),
        (Some(later), Some(much_later), Ok(later)),
    ];
    for (from, until, expected) in cases {
        let record = GrantRecord {
            subject: Subject::User(ann),
            role: RoleName::new("viewer").unwrap(),
            clusters: parse(&json!({"all": true})),
            reach: parse(&Value::Null),
            from,
            until,
            reason: None,
        };
        let made = block_on(fixture.app.grants.create(&Caller::system(), record));
        let found = made.map(|made| made.value.from).map_err(|error| error.context.fields[0].name.clone());
        assert_eq!(found, expected.map_err(str::to_owned), "{from:?} {until:?}");
    }
}
