//! Labels of clusters as rights: who may change what a grant by labels reaches.

use pilothouse_core::{
    access::Factor,
    cluster::{Cluster, ClusterChange, NewCluster},
    ids::{ServiceAccountId, TokenId},
};

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Fixture {
    fn relabel(&self, caller: &Caller, cluster: ClusterId, pairs: &[(&str, &str)]) -> String {
        let change = ClusterChange { labels: Some(labels(pairs)), ..ClusterChange::default() };
        refusal(block_on(self.app.clusters.update(caller, cluster, change)))
    }

    fn register(&self, caller: &Caller, pairs: &[(&str, &str)]) -> Result<Changed<Cluster>, Error> {
        let cluster = NewCluster { labels: labels(pairs), ..new_cluster("again") };
        block_on(self.app.clusters.create(caller, cluster))
    }

    fn sees(&self, user: UserId, cluster: ClusterId) -> bool {
        self.caller(user).rights.sees(cluster)
    }

    /// A user who may change all clusters, and make grants and list workloads in one cluster, in these namespaces,
    /// until a time.
    fn labeller(
        &self,
        name: &str,
        cluster: ClusterId,
        namespaces: Value,
        until: Option<Timestamp>,
    ) -> Caller {
        let user = self.user(name, Role::None);
        self.give(user, "labeller", &json!({"clusters": {"all": true}, "namespaces": null}), None);
        let scope = json!({"clusters": {"ids": [cluster]}, "namespaces": namespaces});
        self.give(user, "granter", &scope, until);
        self.caller(user)
    }
}

#[test]
fn right_to_give_by_ids_is_enough_for_the_labels_of_these_clusters() {
    let fixture = Fixture::new();
    let (dev, prod) = (fixture.dev, fixture.prod);
    fixture.role("labeller", json!([{"verbs": ["update"], "resources": ["clusters"]}])).unwrap();
    let rules = json!([
        {"verbs": ["create"], "resources": ["grants"]},
        {"verbs": ["list"], "resources": ["workloads"]},
    ]);
    fixture.role("granter", rules).unwrap();
    fixture.role("reader", json!([{"verbs": ["list"], "resources": ["workloads"]}])).unwrap();
    let bob = fixture.user("bob", Role::None);
    let until = fixture.now() + 5 * HOUR;
    let scope = json!({"clusters": {"labels": "tier in (gold,silver)"}, "namespaces": ["shop-*"]});
    fixture.give(bob, "reader", &scope, Some(until));

    let in_time = fixture.labeller("ann", dev, json!(["shop-*", "bank"]), Some(until));
    let shorter = fixture.labeller("carl", dev, json!(["shop-*"]), Some(fixture.now() + 4 * HOUR));
    let narrower = fixture.labeller("dora", dev, json!(["shop-web"]), None);
    let elsewhere = fixture.labeller("emil", prod, json!(["shop-*"]), None);
    let gold = [("environment", "dev"), ("tier", "gold")];
    assert_eq!(fixture.relabel(&shorter, dev, &gold), "list workloads", "the grant ends later");
    for (name, caller) in [("narrower", &narrower), ("elsewhere", &elsewhere)] {
        assert_eq!(fixture.relabel(caller, dev, &gold), "create grants", "{name}");
    }
    assert_eq!(fixture.relabel(&in_time, prod, &gold), "create grants", "prod is not among the ids");
    assert!(!fixture.sees(bob, dev) && !fixture.sees(bob, prod));

    assert_eq!(fixture.relabel(&in_time, dev, &gold), "ok");
    assert!(fixture.sees(bob, dev));
    let silver = [("tier", "silver")];
    assert_eq!(
        fixture.relabel(&narrower, dev, &silver),
        "ok",
        "the grant reaches the cluster before and after"
    );
    assert_eq!(fixture.relabel(&narrower, dev, &[]), "create grants", "the grant would end here");
    assert_eq!(fixture.relabel(&in_time, dev, &[]), "ok");
    assert!(!fixture.sees(bob, dev));
}

#[test]
fn cluster_that_is_deleted_and_registered_again_gets_no_grant_from_who_may_not_give_it() {
    let fixture = Fixture::new();
    let (ann, bob) = (fixture.user("ann", Role::None), fixture.user("bob", Role::None));
    let ops = fixture.caller(fixture.user("ops", Role::OpsAdmin));
    fixture.give(ann, "viewer", &json!({"clusters": {"ids": [fixture.dev]}, "namespaces": null}), None);
    let by_labels = json!({"clusters": {"labels": "environment=dev"}, "namespaces": null});
    fixture.give(bob, "viewer", &by_labels, None);
    assert!(fixture.sees(ann, fixture.dev) && fixture.sees(bob, fixture.dev));

    block_on(fixture.app.clusters.delete(&ops, fixture.dev)).unwrap();
    let dev = [("environment", "dev")];
    assert_eq!(refusal(fixture.register(&ops, &dev)), "create grants");
    let again = fixture.register(&ops, &[]).unwrap().value.id;
    assert_eq!(fixture.relabel(&ops, again, &dev), "create grants");
    assert!(!fixture.sees(bob, again));

    let root = fixture.caller(fixture.user("root", Role::SuperAdmin));
    assert_eq!(fixture.relabel(&root, again, &dev), "ok");
    assert!(fixture.sees(bob, again));
    assert!(!fixture.sees(ann, again), "a grant by ids does not reach a cluster with another id");
}

#[test]
fn labels_that_change_what_a_grant_reaches_want_the_second_factor_of_a_grant() {
    let fixture = Fixture::new();
    let (dev, prod) = (fixture.dev, fixture.prod);
    let bob = fixture.user("bob", Role::None);
    fixture.give(bob, "viewer", &json!({"clusters": {"labels": "tier=gold"}, "namespaces": null}), None);
    let root = fixture.caller(fixture.user("root", Role::SuperAdmin));
    let given = |minutes: u64| {
        let at = Some(fixture.now() - Duration::from_secs(60 * minutes));
        Caller { factor: Factor { enrolled: true, required: false, at }, ..root.clone() }
    };
    let (fresh, stale) = (given(10), given(11));
    let token = Caller { token: Some(TokenId(1)), ..root.clone() };
    let gold = [("tier", "gold")];
    for (caller, cause) in [(&token, "token_not_allowed"), (&stale, "second_factor_stale")] {
        let before = fixture.fake.store.all_operations().len();
        assert_eq!(fixture.relabel(caller, dev, &gold), cause);
        assert_eq!(refusal(fixture.register(caller, &gold)), cause);
        assert_eq!(fixture.fake.store.all_operations().len(), before + 2, "a refusal has a row");
        // a label that no grant names
        assert_eq!(fixture.relabel(caller, dev, &[("asked", cause)]), "ok");
    }
    assert!(!fixture.sees(bob, dev));
    assert_eq!(fixture.relabel(&fresh, dev, &gold), "ok");
    assert!(fixture.sees(bob, dev));
    assert_eq!(fixture.relabel(&token, dev, &[]), "token_not_allowed", "the grant would end here");
    let account = Caller { user_id: None, service_account: Some(ServiceAccountId(1)), ..token.clone() };
    assert_eq!(fixture.relabel(&account, prod, &gold), "ok");
    assert!(fixture.sees(bob, prod));
}
