//! Break-glass: permitted users, the grant of a use, and the review.

use std::time::Duration;

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::{Caller, Factor, Origin, StepUp},
    app::AppSettings,
    break_glass::{BreakGlassRow, BreakGlassSettings},
    ids::{BreakGlassId, ClusterId, UserId},
    inventory::List,
    namespaces::NamespaceScope,
    rights::{RightResource, RightVerb},
    role::Role,
    rows::Row,
    second_factor::SecondFactorSettings,
    user::Username,
};
use serde_json::Value;

use crate::{Fixture, HOUR, refusal};

const REASON: &str = "etcd of prod is down";

fn settings() -> AppSettings {
    AppSettings {
        break_glass: BreakGlassSettings {
            users: [Username::new("ann").unwrap()].into(),
            networks: vec!["10.1.0.0/16".parse().unwrap()],
        },
        ..AppSettings::default()
    }
}

impl Fixture {
    /// A user at an allowed address who has given a second factor now.
    fn on_call(&self, user: UserId) -> Caller {
        let origin = Origin { source_ip: Some([10, 1, 2, 3].into()), request_id: None };
        let factor = Factor { enrolled: true, required: false, at: Some(self.now()) };
        Caller { factor, origin, ..self.caller(user) }
    }

    fn break_glass(&self, caller: &Caller, cluster: ClusterId) -> Result<BreakGlassRow, Error> {
        block_on(self.app.break_glass.open(caller, cluster, REASON.to_owned()))
    }

    fn review(&self, caller: &Caller, id: BreakGlassId) -> Result<BreakGlassRow, Error> {
        block_on(self.app.break_glass.review(caller, id, "seen and justified".to_owned()))
    }

    /// Users of the listed uses of break-glass.
    fn listed(&self, caller: &Caller, query: &[(&str, &str)]) -> Vec<String> {
        let query: Vec<_> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let query = List::BreakGlass.parse_page(&query).unwrap();
        let (rows, _) = block_on(self.app.break_glass.list(caller, &query)).unwrap();
        let user = |row: &Row| {
            let row: Value = serde_json::from_str(row.json()).unwrap();
            row["username"].as_str().unwrap().to_owned()
        };
        rows.iter().map(user).collect()
    }

    fn reveals(&self, user: UserId, cluster: ClusterId) -> bool {
        let caller = self.caller(user);
        let all = NamespaceScope::All;
        caller.grant_of(RightVerb::Reveal, RightResource::Secrets, Some(cluster), &all).is_some()
    }
}

#[test]
fn use_gives_admin_in_one_cluster_for_an_hour() {
    let fixture = Fixture::with(settings());
    let ann = fixture.user("ann", Role::None);
    assert!(!fixture.reveals(ann, fixture.prod));
    let row = fixture.break_glass(&fixture.on_call(ann), fixture.prod).unwrap();
    assert_eq!((row.user_id, row.cluster_id, &*row.reason), (ann, fixture.prod, REASON));
    assert!(fixture.reveals(ann, fixture.prod) && !fixture.reveals(ann, fixture.dev));
    let operation = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!((&*operation.operation_type, operation.cluster_id), ("break_glass", Some(fixture.prod)));
    fixture.advance(HOUR);
    assert!(!fixture.reveals(ann, fixture.prod));
}

#[test]
fn settings_decide_who_may_use_it_and_from_where() {
    let fixture = Fixture::with(settings());
    let (ann, bob) = (fixture.user("ann", Role::None), fixture.user("bob", Role::OpsAdmin));
    let from = |source_ip| {
        let origin = Origin { source_ip, request_id: None };
        let caller = Caller { origin, ..fixture.on_call(ann) };
        refusal(fixture.break_glass(&caller, fixture.prod))
    };
    assert_eq!(from(Some([10, 2, 0, 1].into())), "not_allowed_by_settings");
    assert_eq!(from(None), "not_allowed_by_settings");
    let refused = |caller: &Caller| refusal(fixture.break_glass(caller, fixture.prod));
    assert_eq!(refused(&fixture.on_call(bob)), "not_allowed_by_settings");
    assert_eq!(refused(&Caller::command_line("root")), "not_signed_in");
    let by_default = Fixture::new();
    let ann = by_default.user("ann", Role::SuperAdmin);
    let refused = by_default.break_glass(&by_default.on_call(ann), by_default.prod);
    assert_eq!(refusal(refused), "not_allowed_by_settings");
}

#[test]
fn second_factor_must_be_fresh_whatever_the_step_up_is() {
    let second_factor = SecondFactorSettings { step_up: StepUp::new([]), ..SecondFactorSettings::default() };
    for settings in [settings(), AppSettings { second_factor, ..settings() }] {
        let fixture = Fixture::with(settings);
        let on_call = fixture.on_call(fixture.user("ann", Role::None));
        let with = |factor| {
            let caller = Caller { factor, ..on_call.clone() };
            refusal(fixture.break_glass(&caller, fixture.prod))
        };
        assert_eq!(with(Factor::default()), "second_factor_not_enrolled");
        assert_eq!(with(Factor { at: None, ..on_call.factor }), "second_factor_stale");
        fixture.advance(Duration::from_secs(601));
        assert_eq!(with(on_call.factor), "second_factor_stale");
        // also a factor of a trusted identity provider
        let of_provider = Factor { enrolled: false, required: false, at: Some(fixture.now()) };
        assert_eq!(with(of_provider), "ok");
    }
}

#[test]
fn third_use_of_a_day_and_an_unknown_cluster_are_refused() {
    let fixture = Fixture::with(settings());
    let ann = fixture.user("ann", Role::None);
    let refused = |cluster| refusal(fixture.break_glass(&fixture.on_call(ann), cluster));
    assert_eq!(refused(ClusterId(1_000_000)), "not_found");
    assert_eq!([fixture.prod, fixture.dev, fixture.prod].map(refused), ["ok", "ok", "too_many"]);
    fixture.advance(24 * HOUR);
    assert_eq!(refused(fixture.prod), "ok");
    let short = block_on(fixture.app.break_glass.open(&fixture.on_call(ann), fixture.prod, "now".to_owned()));
    assert_eq!(refusal(short), "invalid_input");
}

#[test]
fn another_super_admin_reviews_a_use_once() {
    let fixture = Fixture::with(settings());
    let (ann, eve) = (fixture.user("ann", Role::SuperAdmin), fixture.user("eve", Role::SuperAdmin));
    let ops = fixture.user("ops", Role::OpsAdmin);
    let row = fixture.break_glass(&fixture.on_call(ann), fixture.prod).unwrap();
    let review = |user| refusal(fixture.review(&fixture.caller(user), row.id));
    assert_eq!(review(ops), "update users");
    assert_eq!(review(ann), "own_request");
    assert_eq!(review(eve), "ok");
    assert_eq!(review(eve), "request_decided");
    assert_eq!(refusal(fixture.review(&fixture.caller(eve), BreakGlassId(1_000_000))), "not_found");
    let short = block_on(fixture.app.break_glass.review(&fixture.caller(eve), row.id, String::new()));
    assert_eq!(short.unwrap_err().cause, Cause::InvalidInput);
}

#[test]
fn uses_are_listed_to_their_user_and_to_super_admins() {
    let mut settings = settings();
    settings.break_glass.users.insert(Username::new("bob").unwrap());
    let fixture = Fixture::with(settings);
    let (ann, bob) = (fixture.user("ann", Role::None), fixture.user("bob", Role::OpsAdmin));
    let eve = fixture.caller(fixture.user("eve", Role::SuperAdmin));
    let of_ann = fixture.break_glass(&fixture.on_call(ann), fixture.prod).unwrap();
    fixture.advance(HOUR);
    fixture.break_glass(&fixture.on_call(bob), fixture.prod).unwrap();
    assert_eq!(fixture.listed(&eve, &[]), ["bob", "ann"], "newest first");
    assert_eq!(fixture.listed(&fixture.caller(ann), &[]), ["ann"]);
    assert_eq!(fixture.listed(&fixture.caller(bob), &[]), ["bob"]);
    fixture.review(&eve, of_ann.id).unwrap();
    assert_eq!(fixture.listed(&eve, &[("reviewed", "true")]), ["ann"]);
    assert_eq!(fixture.listed(&eve, &[("reviewed", "false")]), ["bob"]);
}
