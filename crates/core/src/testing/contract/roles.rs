use std::time::Duration;

use futures_util::future::{join, join_all};

use super::{
    StorePorts,
    grants::{record, role},
    requests,
};
use crate::{
    error::{Cause, Result},
    grant::{Decision, GrantRecord, GrantRequest, MAX_OWN_ROLES, OwnRole, RolePatch, RoleRecord},
    rights::{BuiltInRole, RightResource, RoleRule, RoleRules, Subject, Verbs},
    role::Role,
};

/// Rules with the verbs of all resources on one resource.
pub(super) fn rules(resource: &str) -> RoleRules {
    let resources = vec![RightResource::parse(resource).unwrap()];
    RoleRules::new(vec![RoleRule { verbs: Verbs::COMMON, resources }]).unwrap()
}

impl StorePorts {
    pub(super) async fn role(&self, name: &str) -> Result<OwnRole> {
        let record =
            RoleRecord { name: role(name), description: format!("角色 {name}"), rules: rules("workloads") };
        self.roles.create(&self.people(), record).await
    }
}

pub(super) async fn created_roles_are_listed_by_name(ports: &StorePorts) {
    let restarter = ports.role("restarter").await.unwrap();
    assert_eq!((restarter.name.as_str(), &*restarter.description), ("restarter", "角色 restarter"));
    assert_eq!(restarter.rules, rules("workloads"));
    assert_eq!((restarter.created_at, restarter.updated_at), (ports.now(), ports.now()));
    assert_eq!(restarter.created_by, "system", "as in the audit row");
    let first = ports.role("a-role").await.unwrap();
    assert_eq!(ports.roles.list().await.unwrap(), [first, restarter], "without built-in roles");
}

pub(super) async fn update_sets_only_given_fields(ports: &StorePorts) {
    let before = ports.role("restarter").await.unwrap();
    ports.runtime.clock.advance(Duration::from_secs(1));
    let update = async |patch| ports.roles.update(&ports.people(), &role("restarter"), patch).await.unwrap();
    let described = update(RolePatch { description: Some("新".to_owned()), rules: None }).await;
    let updated_at = ports.now();
    assert_eq!(described, OwnRole { description: "新".to_owned(), updated_at, ..before });
    let changed = update(RolePatch { description: None, rules: Some(rules("secrets")) }).await;
    assert_eq!(changed, OwnRole { rules: rules("secrets"), ..described });
    assert_eq!(ports.roles.list().await.unwrap(), [changed]);
}

pub(super) async fn role_names_are_never_reused(ports: &StorePorts) {
    ports.role("restarter").await.unwrap();
    let taken = [BuiltInRole::ALL[0].as_str(), "restarter"];
    for name in taken {
        assert_eq!(ports.role(name).await.unwrap_err().cause, Cause::NameTaken, "{name}");
    }
    ports.roles.delete(&ports.people(), &role("restarter")).await.unwrap();
    assert!(ports.roles.list().await.unwrap().is_empty());
    assert_eq!(
        ports.role("restarter").await.unwrap_err().cause,
        Cause::NameTaken,
        "ended grants may name it"
    );
    let absent = [role("restarter"), role("no-such-role"), role(BuiltInRole::ALL[0].as_str())];
    for name in absent {
        let update = ports.roles.update(&ports.people(), &name, RolePatch::default()).await.map(drop);
        let delete = ports.roles.delete(&ports.people(), &name).await;
        assert_eq!(
            [update, delete].map(|refused| refused.unwrap_err().cause),
            [Cause::NotFound; 2],
            "{name:?}"
        );
    }
}

pub(super) async fn own_roles_are_limited(ports: &StorePorts) {
    for n in 0..MAX_OWN_ROLES - 1 {
        ports.role(&format!("role-{n}")).await.unwrap();
    }
    let names: Vec<_> = (0..4).map(|n| format!("last-{n}")).collect();
    let made = join_all(names.iter().map(|name| ports.role(name))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    assert!(made.iter().flat_map(|made| made.as_ref().err()).all(|error| error.cause == Cause::TooMany));
    ports.roles.delete(&ports.people(), &role("role-0")).await.unwrap();
    ports.role("another").await.unwrap();
}

pub(super) async fn role_in_use_is_not_deleted(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    ports.role("restarter").await.unwrap();
    let delete = async || {
        let deleted = ports.roles.delete(&ports.people(), &role("restarter")).await;
        deleted.map_err(|error| error.cause)
    };
    let until = Some(ports.now() + Duration::from_secs(60));
    let of_role = GrantRecord { role: role("restarter"), until, ..record(Subject::User(user.id)) };
    ports.grant(of_role.clone()).await.unwrap();
    assert_eq!(delete().await, Err(Cause::RoleInUse), "live grant");
    ports.runtime.clock.advance(Duration::from_secs(60));

    let request = requests::record(user.id, "restarter");
    let waiting = ports.request(request.clone()).await.unwrap();
    assert_eq!(delete().await, Err(Cause::RoleInUse), "pending request");
    ports.decide(waiting.id, Decision::Withdraw).await.unwrap();
    ports.request(request).await.unwrap();
    assert_eq!(delete().await, Err(Cause::RoleInUse), "another pending request");
    ports.runtime.clock.advance(GrantRequest::LIFETIME);
    assert_eq!(delete().await, Ok(()), "the grant has ended and the request has expired");
}

pub(super) async fn no_live_grant_names_a_deleted_role(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    for n in 0..10 {
        let name = format!("role-{n}");
        ports.role(&name).await.unwrap();
        let (permit, name) = (ports.people(), role(&name));
        let of_role = GrantRecord { role: name.clone(), ..record(Subject::User(user.id)) };
        let (granted, deleted) = join(ports.grant(of_role), ports.roles.delete(&permit, &name)).await;
        let causes = (granted.map(drop).map_err(|error| error.cause), deleted.map_err(|error| error.cause));
        let expected = [(Ok(()), Err(Cause::RoleInUse)), (Err(Cause::NotFound), Ok(()))];
        assert!(expected.contains(&causes), "{causes:?}");
    }
}
