//! Use cases of grants, roles and requests on the in-memory ports: who may give what, and who decides.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    access::Caller,
    app::{App, AppSettings},
    clock::Clock as _,
    gate::Changed,
    grant::{GrantRecord, GrantRow, RightsSource, RoleRecord, RoleRow},
    ids::{ClusterId, UserId},
    object::Labels,
    rights::{EffectiveGrant, Rights, RoleName, RoleRules, Subject},
    role::Role,
    testing::{fake::Fake, new_cluster},
    user::{NewPassword, NewUser, Username},
};
use serde_json::{Value, json};

mod break_glass;
mod confinement;
mod giving;
mod histories;
mod labels;
mod limits;
mod overtaken;
mod questions;
mod requests;

const HOUR: Duration = Duration::from_secs(3600);

/// An installation with the clusters `dev` and `prod`, labelled by their names.
struct Fixture {
    fake: Fake,
    app: App,
    dev: ClusterId,
    prod: ClusterId,
}

impl Fixture {
    fn new() -> Self {
        Self::with(AppSettings::default())
    }

    fn with(settings: AppSettings) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), settings);
        let register = |name: &str| {
            let mut cluster = new_cluster(name);
            cluster.labels = Labels::from([("environment".to_owned(), name.to_owned())]);
            block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id
        };
        let (dev, prod) = (register("dev"), register("prod"));
        Self { fake, app, dev, prod }
    }

    fn now(&self) -> Timestamp {
        self.fake.runtime.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.fake.runtime.clock.monotonic()
    }

    fn advance(&self, by: Duration) {
        self.fake.runtime.clock.advance(by);
    }

    /// Creates a user.
    fn user(&self, name: &str, role: Role) -> UserId {
        let password = NewPassword::new(&"correct horse battery".into()).unwrap();
        let new = NewUser { username: Username::new(name).unwrap(), password, role, display_name: None };
        block_on(self.app.users.create(&Caller::system(), new)).unwrap().id
    }

    /// A user as a caller, with the rights that they have now.
    fn caller(&self, id: UserId) -> Caller {
        let users = block_on(self.app.users.all(&Caller::system())).unwrap();
        let user = users.into_iter().find(|user| user.id == id).unwrap();
        let rows =
            block_on(RightsSource::rights(&*self.fake.store, &[Subject::User(id)], self.now())).unwrap();
        let grants: Vec<_> = [EffectiveGrant::preset(user.role)].into_iter().chain(rows.grants).collect();
        let rights = Arc::new(Rights::compile(&grants, &rows.labels, self.now()));
        let system = Caller::system().with_rights(user.role, rights);
        Caller { user_id: Some(id), username: user.username.to_string(), ..system }
    }

    /// Makes a grant as the server.
    fn give(&self, user: UserId, role: &str, scope: &Value, until: Option<Timestamp>) -> GrantRow {
        self.grant(&Caller::system(), user, role, scope, until).unwrap().value
    }

    /// Makes a grant. `scope` has the fields `clusters` and `namespaces`.
    fn grant(
        &self,
        caller: &Caller,
        user: UserId,
        role: &str,
        scope: &Value,
        until: Option<Timestamp>,
    ) -> Result<Changed<GrantRow>, Error> {
        let record = GrantRecord {
            subject: Subject::User(user),
            role: RoleName::new(role).unwrap(),
            clusters: parse(&scope["clusters"]),
            reach: parse(&scope["namespaces"]),
            from: None,
            until,
            reason: None,
        };
        block_on(self.app.grants.create(caller, record))
    }

    /// Creates an own role.
    fn role(&self, name: &str, rules: Value) -> Result<RoleRow, Error> {
        let rules = RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap();
        let record = RoleRecord { name: RoleName::new(name).unwrap(), description: String::new(), rules };
        block_on(self.app.grants.create_role(&Caller::system(), record))
    }

    /// The scope `shop-*` in `dev`.
    fn shop(&self) -> Value {
        json!({"clusters": {"ids": [self.dev]}, "namespaces": ["shop-*"]})
    }

    /// A user who may make, list and revoke grants in [`Fixture::shop`] without end, and is `editor` there for ten hours.
    fn lead(&self) -> UserId {
        let verbs = json!(["list", "create", "delete"]);
        self.role("granter", json!([{"verbs": verbs, "resources": ["grants"]}])).unwrap();
        let lead = self.user("lead", Role::None);
        self.give(lead, "granter", &self.shop(), None);
        self.give(lead, "editor", &self.shop(), Some(self.now() + 10 * HOUR));
        lead
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// The cause of an error; for a missing right the right: `create grants`.
fn refusal<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.context.missing {
            Some(missing) => format!("{} {}", missing.verb, missing.resource),
            None => error.cause.as_str().to_owned(),
        },
    }
}
