//! Gifts that another replica overtakes: rights change after a gift was judged and before it is stored.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Permit, Resource, Verb},
    grant::{
        Decision, GrantRecord, GrantRegistry, GrantRequest, NewRequest, RequestRecord, RequestRegistry,
        RightsStamp,
    },
    ids::{GrantId, GrantRequestId},
    rights::Grant,
    testing::{fake::MemoryStore, permit},
    user::{UserPatch, UserRegistry},
};

use super::*;

/// What happens at the other replica.
#[derive(Clone, Copy, Debug)]
enum Event {
    Revoked(GrantId),
    Demoted(UserId),
    Disabled(UserId),
}

/// Registries before whose next write an event happens.
struct Overtaken {
    store: Arc<MemoryStore>,
    next: Mutex<Option<Event>>,
    writes: Mutex<u32>,
}

impl Overtaken {
    async fn overtake(&self) -> Result<()> {
        *self.writes.lock().unwrap() += 1;
        let event = self.next.lock().unwrap().take();
        let by_admin = permit(&Caller::system(), AccessRequest::to(Verb::Update, Resource::User));
        let (id, patch) = match event {
            None => return Ok(()),
            Some(Event::Revoked(id)) => {
                return GrantRegistry::revoke(&*self.store, &by_admin, id).await.map(drop);
            }
            Some(Event::Demoted(id)) => {
                (id, UserPatch { role: Some(Role::Viewer), ..UserPatch::default() })
            }
            Some(Event::Disabled(id)) => (id, UserPatch { disabled: Some(true), ..UserPatch::default() }),
        };
        let at = Timestamp::UNIX_EPOCH;
        UserRegistry::update(&*self.store, &by_admin, id, patch, at).await.map(drop)
    }
}

#[async_trait]
impl GrantRegistry for Overtaken {
    async fn list(&self, subject: Option<Subject>, live_at: Option<Timestamp>) -> Result<Vec<Grant>> {
        GrantRegistry::list(&*self.store, subject, live_at).await
    }

    async fn find(&self, id: GrantId) -> Result<Option<Grant>> {
        GrantRegistry::find(&*self.store, id).await
    }

    async fn create(
        &self,
        permit: &Permit,
        grant: GrantRecord,
        judged: Option<RightsStamp>,
    ) -> Result<Grant> {
        self.overtake().await?;
        GrantRegistry::create(&*self.store, permit, grant, judged).await
    }

    async fn revoke(&self, permit: &Permit, id: GrantId) -> Result<Grant> {
        GrantRegistry::revoke(&*self.store, permit, id).await
    }
}

#[async_trait]
impl RequestRegistry for Overtaken {
    async fn list(&self, user: Option<UserId>, now: Timestamp) -> Result<Vec<GrantRequest>> {
        RequestRegistry::list(&*self.store, user, now).await
    }

    async fn find(&self, id: GrantRequestId, now: Timestamp) -> Result<Option<GrantRequest>> {
        RequestRegistry::find(&*self.store, id, now).await
    }

    async fn create(&self, permit: &Permit, request: RequestRecord) -> Result<GrantRequest> {
        RequestRegistry::create(&*self.store, permit, request).await
    }

    async fn decide(
        &self,
        permit: &Permit,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
        judged: Option<RightsStamp>,
    ) -> Result<GrantRequest> {
        self.overtake().await?;
        RequestRegistry::decide(&*self.store, permit, id, decision, reason, judged).await
    }
}

/// Gives `viewer` in [`Fixture::shop`], directly and by the approval of a request, while an event happens. Returns the
/// outcome, and the number of writes that were tried.
fn gives(user: &str, event: impl Fn(&Fixture, UserId) -> Event, by_request: bool) -> (String, u32) {
    let mut fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    fixture.user("root", Role::SuperAdmin);
    let admin = fixture.user("admin", Role::SuperAdmin);
    let giver = if user == "lead" { lead } else { admin };
    let overtaken = Arc::new(Overtaken {
        store: fixture.fake.store.clone(),
        next: Mutex::new(Some(event(&fixture, giver))),
        writes: Mutex::new(0),
    });
    let mut ports = fixture.fake.ports();
    ports.rights.grants = overtaken.clone();
    ports.rights.requests = overtaken.clone();
    fixture.app = App::new(ports, AppSettings::default());
    let shop = fixture.shop();
    let outcome = if by_request {
        let request = NewRequest {
            role: RoleName::new("viewer").unwrap(),
            clusters: parse(&shop["clusters"]),
            reach: parse(&shop["namespaces"]),
            duration_seconds: 3600,
            reason: "release 4.2".to_owned(),
        };
        let id = block_on(fixture.app.grants.request(&fixture.caller(ann), request)).unwrap().id;
        let approver = fixture.caller(giver);
        refusal(block_on(fixture.app.grants.decide(&approver, id, Decision::Approve, None)))
    } else {
        let until = Some(fixture.now() + HOUR);
        refusal(fixture.grant(&fixture.caller(giver), ann, "viewer", &shop, until))
    };
    let given = block_on(GrantRegistry::list(&*fixture.fake.store, Some(Subject::User(ann)), None)).unwrap();
    assert_eq!(given.len(), usize::from(outcome == "ok"), "{outcome}");
    let writes = *overtaken.writes.lock().unwrap();
    (outcome, writes)
}

/// The grant of this role that a user has.
fn own(fixture: &Fixture, user: UserId, role: &str) -> GrantId {
    let grants = block_on(fixture.app.grants.live(&fixture.caller(user))).unwrap();
    grants.iter().find(|grant| grant.role.as_str() == role).unwrap().id
}

#[test]
fn gift_is_judged_by_the_rights_at_the_time_it_is_stored() {
    for by_request in [false, true] {
        let refused = |missing: &str| (missing.to_owned(), 1);
        // without the right to make or list grants there, a request is not even visible
        let no_giver = refused(if by_request { "not_found" } else { "create grants" });
        let of_lead = |role: &'static str| {
            gives("lead", |fixture, lead| Event::Revoked(own(fixture, lead, role)), by_request)
        };
        assert_eq!(of_lead("granter"), no_giver);
        assert_eq!(of_lead("editor"), refused("list workloads"));
        assert_eq!(gives("lead", |_, lead| Event::Disabled(lead), by_request), no_giver);
        assert_eq!(gives("admin", |_, admin| Event::Demoted(admin), by_request), no_giver);
        // what has nothing to do with the giver: stored at the second attempt
        let of_another = |fixture: &Fixture, _: UserId| {
            let bob = fixture.user("bob", Role::None);
            Event::Revoked(fixture.give(bob, "viewer", &fixture.shop(), None).id)
        };
        assert_eq!(gives("lead", of_another, by_request), ("ok".to_owned(), 2));
    }
}
