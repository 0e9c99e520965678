//! API tokens and service accounts on the in-memory ports: creation, rights and end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use futures_executor::block_on;
use pilothouse_core::{
    Error,
    access::{Caller, Origin, Principal},
    app::{App, AppSettings},
    audit::OperationRow,
    gate::Changed,
    grant::{GrantRecord, GrantRow},
    ids::{ClusterId, TokenId, UserId},
    object::Labels,
    rights::{Ceiling, RoleName, Subject},
    role::Role,
    rows::ListQuery,
    service_account::{ServiceAccount, ServiceAccountName, ServiceAccountRecord},
    testing::{fake::Fake, new_cluster},
    token::{CreatedToken, Networks, NewToken, TokenSignedIn},
    user::{NewPassword, NewUser, User, Username},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

mod authentication;
mod ownership;
mod rights;
mod service_accounts;

/// An installation with the clusters `dev` and `prod`, labelled by their names.
struct Fixture {
    fake: Fake,
    app: App,
    dev: ClusterId,
    prod: ClusterId,
}

impl Fixture {
    fn new() -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        let register = |name: &str| {
            let mut cluster = new_cluster(name);
            cluster.labels = Labels::from([("environment".to_owned(), name.to_owned())]);
            block_on(app.clusters.create(&Caller::system(), cluster)).unwrap().value.id
        };
        let (dev, prod) = (register("dev"), register("prod"));
        Self { fake, app, dev, prod }
    }

    /// Another process on the same database.
    fn replica(&self) -> Self {
        let app = App::new(self.fake.ports(), AppSettings::default());
        Self { fake: self.fake.clone(), app, ..*self }
    }

    fn user(&self, name: &str, role: Role) -> User {
        let password = NewPassword::new(&"correct horse battery".into()).unwrap();
        let new = NewUser { username: Username::new(name).unwrap(), password, role, display_name: None };
        block_on(self.app.users.create(&Caller::system(), new)).unwrap()
    }

    fn account(&self, name: &str, owner: UserId) -> ServiceAccount {
        let record = ServiceAccountRecord {
            name: ServiceAccountName::new(name).unwrap(),
            description: String::new(),
            owner_user_id: owner,
        };
        block_on(self.app.service_accounts.create(&Caller::system(), record)).unwrap()
    }

    fn create(&self, caller: &Caller, new: NewToken) -> Result<CreatedToken, Error> {
        block_on(self.app.tokens.create(caller, new))
    }

    /// Makes a token as its owner. `ceiling` has the fields `role`, `clusters` and `namespaces`.
    fn token(&self, user: &User, ceiling: Value) -> Made {
        Made::of(self.create(&session_of(user), new_token(ceiling)).unwrap())
    }

    /// Makes a token of a service account as the server.
    fn token_of(&self, account: &ServiceAccount) -> Made {
        let owner = Some(Principal::ServiceAccount(account.id));
        Made::of(self.create(&Caller::system(), NewToken { owner, ..new_token(everything()) }).unwrap())
    }

    fn authenticate(&self, secret: &str) -> Result<TokenSignedIn, Error> {
        self.authenticate_from(secret, "192.0.2.1")
    }

    fn authenticate_from(&self, secret: &str, ip: &str) -> Result<TokenSignedIn, Error> {
        let origin = Origin { source_ip: Some(ip.parse::<IpAddr>().unwrap()), request_id: None };
        block_on(self.app.tokens.authenticate(secret, origin))
    }

    /// The caller of a token.
    fn caller(&self, token: &Made) -> Caller {
        self.authenticate(&token.secret).unwrap().caller
    }

    fn grant(&self, subject: Subject, role: &str, namespaces: Value) -> Changed<GrantRow> {
        let record = GrantRecord {
            subject,
            role: RoleName::new(role).unwrap(),
            clusters: serde_json::from_value(json!({"ids": [self.dev]})).unwrap(),
            reach: serde_json::from_value(namespaces).unwrap(),
            from: None,
            until: None,
            reason: None,
        };
        block_on(self.app.grants.create(&Caller::system(), record)).unwrap()
    }

    /// The names of the tokens that a caller lists.
    fn listed(&self, caller: &Caller) -> Vec<String> {
        let (rows, _) = block_on(self.app.tokens.list(caller, &ListQuery::default())).unwrap();
        rows.iter()
            .map(|row| {
                serde_json::from_str::<Value>(row.json()).unwrap()["name"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn last_operation(&self) -> OperationRow {
        self.fake.store.all_operations().pop().unwrap()
    }

    fn advance(&self, by: std::time::Duration) {
        self.fake.runtime.clock.advance(by);
    }
}

/// A token that was made.
struct Made {
    id: TokenId,
    secret: String,
}

impl Made {
    fn of(created: CreatedToken) -> Self {
        Self { id: created.token.id, secret: created.secret.secret().expose_secret().to_owned() }
    }
}

/// A ceiling that narrows nothing.
fn everything() -> Value {
    serde_json::to_value(Ceiling::default()).unwrap()
}

fn new_token(ceiling: Value) -> NewToken {
    NewToken {
        name: "CI".to_owned(),
        expires_in_days: None,
        ceiling: serde_json::from_value(ceiling).unwrap(),
        networks: Networks::default(),
        owner: None,
    }
}

/// A user in a session, with the rights of the role.
fn session_of(user: &User) -> Caller {
    let username = user.username.to_string();
    Caller { user_id: Some(user.id), username, ..Caller::system().with_role(user.role) }
}

fn cause<T>(result: Result<T, Error>) -> &'static str {
    result.map(drop).map_or_else(|error| error.cause.as_str(), |()| "ok")
}
