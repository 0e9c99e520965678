//! Objects that the placeholders of `access.txt` name.

use pilothouse_core::{
    access::{Caller, Origin},
    grant::{GrantRecord, NewRequest, RoleRecord},
    ids::UserId,
    rights::{Ceiling, ClusterScope, Reach, RoleName, RoleRules, Subject},
    rows::ListQuery,
    service_account::{ServiceAccountName, ServiceAccountRecord},
    session::Activity,
    token::{Networks, NewToken},
};
use serde_json::json;

use crate::test_app::{Credentials, TestApp};

impl TestApp {
    /// Creates the own role `first-aid`, unless it exists. Returns its name.
    pub(crate) async fn own_role(&self) -> &'static str {
        const NAME: &str = "first-aid";
        let rules = serde_json::from_value(json!([{"verbs": ["list"], "resources": ["workloads"]}])).unwrap();
        let record = RoleRecord {
            name: RoleName::new(NAME).unwrap(),
            description: String::new(),
            rules: RoleRules::new(rules).unwrap(),
        };
        let created = self.app.grants.create_role(&Caller::system(), record).await;
        assert!(created.is_ok_and(|role| role.name.as_str() == NAME) || self.has_role(NAME).await);
        NAME
    }

    async fn has_role(&self, name: &str) -> bool {
        let rows = self.app.grants.roles(&Caller::system(), &ListQuery::default()).await.unwrap().0;
        rows.iter().any(|row| row.name() == name)
    }

    /// Makes a grant of the role viewer to a user. Returns its id.
    pub(crate) async fn grant(&self, user: &str) -> i64 {
        let grant = GrantRecord {
            subject: Subject::User(UserId(self.user(user).await)),
            role: RoleName::new("viewer").unwrap(),
            clusters: ClusterScope::All,
            reach: Reach::Cluster,
            from: None,
            until: None,
            reason: None,
        };
        self.app.grants.create(&Caller::system(), grant).await.unwrap().value.id.0
    }

    /// Asks for the role viewer for a user. Returns the id of the request.
    pub(crate) async fn access_request(&self, user: &str) -> i64 {
        let user_id = Some(UserId(self.user(user).await));
        let caller = Caller { user_id, username: user.to_owned(), ..Caller::system() };
        let request = NewRequest {
            role: RoleName::new("viewer").unwrap(),
            clusters: ClusterScope::All,
            reach: Reach::Cluster,
            duration_seconds: 3600,
            reason: "maintenance".to_owned(),
        };
        self.app.grants.request(&caller, request).await.unwrap().id.0
    }

    /// Makes an API token of a user. Returns its id.
    pub(crate) async fn token(&self, user: &str) -> i64 {
        let user_id = Some(UserId(self.user(user).await));
        let caller = Caller { user_id, username: user.to_owned(), ..Caller::system() };
        let new = NewToken {
            name: "ci".to_owned(),
            expires_in_days: None,
            ceiling: Ceiling::default(),
            networks: Networks::default(),
            owner: None,
        };
        self.app.tokens.create(&caller, new).await.unwrap().token.id.0
    }

    /// Creates the service account `operator` of a user, unless it exists. Returns its id.
    pub(crate) async fn service_account(&self, owner: &str) -> i64 {
        const NAME: &str = "operator";
        if let Ok(account) = self.app.service_accounts.find(NAME).await {
            return account.id.0;
        }
        let record = ServiceAccountRecord {
            name: ServiceAccountName::new(NAME).unwrap(),
            description: String::new(),
            owner_user_id: UserId(self.user(owner).await),
        };
        self.app.service_accounts.create(&Caller::system(), record).await.unwrap().id.0
    }

    /// Begins the enrolment of a user's second factor. Returns the user's id.
    pub(crate) async fn enrolled(&self, user: &str) -> i64 {
        let Credentials { bearer, cookie } = self.login(user).await.credentials;
        let (bearer, cookie) = (bearer.unwrap(), cookie.unwrap());
        let sessions = &self.app.sessions;
        let signed_in =
            sessions.authenticate(&bearer, &cookie, Origin::default(), Activity::User).await.unwrap();
        self.app.second_factors.enroll(&signed_in).await.unwrap();
        signed_in.user.id.0
    }
}
