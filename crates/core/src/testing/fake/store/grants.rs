use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{MemoryStore, State};
use crate::{
    access::Permit,
    error::{Cause, Error, Result},
    grant::{
        Decision, GrantRecord, GrantRegistry, GrantRequest, MAX_OWN_ROLES, OwnRole, RequestRecord,
        RequestRegistry, RequestState, RightsRows, RightsSource, RightsStamp, RolePatch, RoleRecord,
        RoleRegistry,
    },
    ids::{GrantId, GrantRequestId, UserId},
    rights::{BuiltInRole, EffectiveGrant, Grant, GrantSource, RoleName, RoleRules, Subject},
};

#[async_trait]
impl RoleRegistry for MemoryStore {
    async fn list(&self) -> Result<Vec<OwnRole>> {
        let mut roles: Vec<_> = self.lock().roles.values().cloned().collect();
        roles.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(roles)
    }

    async fn create(&self, permit: &Permit, record: RoleRecord) -> Result<OwnRole> {
        let mut state = self.write()?;
        let (by, at) = author(permit)?;
        let is_taken = BuiltInRole::parse(record.name.as_str()).is_some()
            || state.roles.contains_key(&record.name)
            || state.deleted_roles.contains(&record.name);
        if is_taken {
            return Err(role_error(Cause::NameTaken, &record.name));
        }
        if state.roles.len() >= MAX_OWN_ROLES {
            return Err(Error::new(Cause::TooMany).resource("role"));
        }
        let role = OwnRole {
            name: record.name,
            description: record.description,
            rules: record.rules,
            created_at: at,
            created_by: by,
            updated_at: at,
        };
        state.roles.insert(role.name.clone(), role.clone());
        state.change_rights(permit)?;
        Ok(role)
    }

    async fn update(&self, permit: &Permit, name: &RoleName, patch: RolePatch) -> Result<OwnRole> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        let role = state.roles.get_mut(name).ok_or_else(|| role_error(Cause::NotFound, name))?;
        role.description = patch.description.unwrap_or_else(|| role.description.clone());
        role.rules = patch.rules.unwrap_or_else(|| role.rules.clone());
        role.updated_at = at;
        let changed = role.clone();
        state.change_rights(permit)?;
        Ok(changed)
    }

    async fn delete(&self, permit: &Permit, name: &RoleName) -> Result<()> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        if !state.roles.contains_key(name) {
            return Err(role_error(Cause::NotFound, name));
        }
        let in_use = state.grants.iter().any(|grant| grant.role == *name && grant.is_live(at))
            || state
                .requests_at(at)
                .any(|request| request.role == *name && request.state == RequestState::Pending);
        if in_use {
            return Err(role_error(Cause::RoleInUse, name));
        }
        state.roles.remove(name);
        state.deleted_roles.push(name.clone());
        state.change_rights(permit)
    }
}

#[async_trait]
impl GrantRegistry for MemoryStore {
    async fn list(&self, subject: Option<Subject>, live_at: Option<Timestamp>) -> Result<Vec<Grant>> {
        let state = self.lock();
        let found = state.grants.iter().filter(|grant| {
            subject.as_ref().is_none_or(|subject| grant.subject == *subject)
                && live_at.is_none_or(|at| grant.is_live(at))
        });
        Ok(found.cloned().collect())
    }

    async fn find(&self, id: GrantId) -> Result<Option<Grant>> {
        Ok(self.lock().grants.iter().find(|grant| grant.id == id).cloned())
    }

    async fn create(
        &self,
        permit: &Permit,
        record: GrantRecord,
        judged: Option<RightsStamp>,
    ) -> Result<Grant> {
        let mut state = self.write()?;
        if judged.is_some_and(|judged| judged != state.rights_stamp) {
            return Err(Error::new(Cause::Modified).resource("grant"));
        }
        let grant = state.insert_grant(permit, record, GrantSource::Manual)?;
        state.change_rights(permit)?;
        Ok(grant)
    }

    async fn revoke(&self, permit: &Permit, id: GrantId) -> Result<Grant> {
        let mut state = self.write()?;
        let (by, at) = author(permit)?;
        let grant = state
            .grants
            .iter_mut()
            .find(|grant| grant.id == id)
            .ok_or_else(|| Error::new(Cause::NotFound).resource("grant").name(id.to_string()))?;
        if grant.is_live(at) {
            (grant.revoked_at, grant.revoked_by) = (Some(at), Some(by));
        }
        let revoked = grant.clone();
        state.change_rights(permit)?;
        Ok(revoked)
    }
}

#[async_trait]
impl RequestRegistry for MemoryStore {
    async fn list(&self, user: Option<UserId>, now: Timestamp) -> Result<Vec<GrantRequest>> {
        let state = self.lock();
        let found = state.requests_at(now).filter(|request| user.is_none_or(|user| request.user_id == user));
        Ok(found.collect())
    }

    async fn find(&self, id: GrantRequestId, now: Timestamp) -> Result<Option<GrantRequest>> {
        Ok(self.lock().requests_at(now).find(|request| request.id == id))
    }

    async fn create(&self, permit: &Permit, record: RequestRecord) -> Result<GrantRequest> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        state.role_rules(&record.role)?;
        let username = state.user(record.user_id)?.username.to_string();
        let is_pending = |request: &GrantRequest| {
            request.user_id == record.user_id && request.state == RequestState::Pending
        };
        if state.requests_at(at).filter(is_pending).count() >= GrantRequest::MAX_PENDING {
            return Err(Error::new(Cause::TooMany).resource("grant_request"));
        }
        let request = GrantRequest {
            id: GrantRequestId(state.next_id()),
            state: RequestState::Pending,
            user_id: record.user_id,
            username,
            role: record.role,
            clusters: record.clusters,
            reach: record.reach,
            duration_seconds: record.duration_seconds,
            reason: record.reason,
            created_at: at,
            decided_at: None,
            decided_by: None,
            decision_reason: None,
            grant_id: None,
        };
        state.grant_requests.push(request.clone());
        state.record_success(permit, None)?;
        Ok(request)
    }

    async fn decide(
        &self,
        permit: &Permit,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
        judged: Option<RightsStamp>,
    ) -> Result<GrantRequest> {
        let mut state = self.write()?;
        let (by, at) = author(permit)?;
        let refused = |cause| Error::new(cause).resource("grant_request").name(id.to_string());
        if judged.is_some_and(|judged| judged != state.rights_stamp) {
            return Err(refused(Cause::Modified));
        }
        let found = state.requests_at(at).find(|request| request.id == id);
        let request = found.ok_or_else(|| refused(Cause::NotFound))?;
        if request.state != RequestState::Pending {
            return Err(refused(Cause::RequestDecided));
        }
        let grant_id = match decision {
            Decision::Approve => {
                if state.user(request.user_id)?.disabled {
                    return Err(Error::new(Cause::NotFound)
                        .resource("user")
                        .name(request.user_id.to_string()));
                }
                let record = GrantRecord::of_request(&request, at);
                Some(state.insert_grant(permit, record, GrantSource::Request(id))?.id)
            }
            Decision::Deny | Decision::Withdraw => None,
        };
        let decided = GrantRequest {
            state: decision.state(),
            decided_at: Some(at),
            decided_by: Some(by),
            decision_reason: reason,
            grant_id,
            ..request
        };
        state.grant_requests.iter_mut().filter(|request| request.id == id).for_each(|request| {
            *request = decided.clone();
        });
        if grant_id.is_some() {
            state.change_rights(permit)?;
        } else {
            state.record_success(permit, None)?;
        }
        Ok(decided)
    }
}

#[async_trait]
impl RightsSource for MemoryStore {
    async fn rights(&self, subjects: &[Subject], now: Timestamp) -> Result<RightsRows> {
        let state = self.lock();
        let subjects = [subjects, state.groups_of(subjects).as_slice()].concat();
        let live =
            state.grants.iter().filter(|grant| subjects.contains(&grant.subject) && grant.is_live(now));
        let effective =
            |grant: &Grant| Ok(EffectiveGrant::of(grant, Arc::new(state.role_rules(&grant.role)?)));
        Ok(RightsRows {
            stamp: state.rights_stamp,
            grants: live.map(effective).collect::<Result<_>>()?,
            labels: state.clusters.iter().map(|(cluster, _)| (cluster.id, cluster.labels.clone())).collect(),
        })
    }
}

impl State {
    /// Changes the rights stamp and records the success of the permit's operation.
    pub(super) fn change_rights(&mut self, permit: &Permit) -> Result<()> {
        self.rights_stamp.0 += 1;
        self.record_success(permit, None)
    }

    pub(super) fn role_rules(&self, name: &RoleName) -> Result<RoleRules> {
        let own = || self.roles.get(name).map(|role| role.rules.clone());
        let rules = BuiltInRole::parse(name.as_str()).map(BuiltInRole::rules).or_else(own);
        rules.ok_or_else(|| role_error(Cause::NotFound, name))
    }

    fn requests_at(&self, now: Timestamp) -> impl Iterator<Item = GrantRequest> {
        self.grant_requests.iter().map(move |request| request.clone().at(now))
    }

    pub(super) fn insert_grant(
        &mut self,
        permit: &Permit,
        record: GrantRecord,
        source: GrantSource,
    ) -> Result<Grant> {
        let (by, at) = author(permit)?;
        self.role_rules(&record.role)?;
        match record.subject {
            Subject::User(id) => {
                self.user(id)?;
            }
            Subject::ServiceAccount(id) => {
                self.account(id)?;
            }
            Subject::Group { .. } => {}
        }
        let live = self.grants.iter().filter(|grant| grant.subject == record.subject && grant.is_live(at));
        if live.count() >= Grant::MAX_LIVE {
            return Err(Error::new(Cause::TooMany).resource("grant"));
        }
        let grant = Grant {
            id: GrantId(self.next_id()),
            subject: record.subject,
            role: record.role,
            clusters: record.clusters,
            reach: record.reach,
            from: record.from.unwrap_or(at),
            until: record.until,
            reason: record.reason,
            source,
            created_at: at,
            created_by: by,
            revoked_at: None,
            revoked_by: None,
        };
        self.grants.push(grant.clone());
        Ok(grant)
    }

    /// Revokes the live grants of a subject.
    pub(super) fn revoke_grants(&mut self, permit: &Permit, subject: &Subject) -> Result<()> {
        let (by, at) = author(permit)?;
        for grant in self.grants.iter_mut().filter(|grant| grant.subject == *subject && grant.is_live(at)) {
            (grant.revoked_at, grant.revoked_by) = (Some(at), Some(by.clone()));
        }
        Ok(())
    }

    /// Revokes the live grants of a user and withdraws the user's pending requests.
    pub(super) fn end_rights_of_user(&mut self, permit: &Permit, id: UserId) -> Result<()> {
        let (by, at) = author(permit)?;
        self.revoke_grants(permit, &Subject::User(id))?;
        for request in self.grant_requests.iter_mut().filter(|request| request.user_id == id) {
            if request.clone().at(at).state == RequestState::Pending {
                request.state = RequestState::Withdrawn;
                (request.decided_at, request.decided_by) = (Some(at), Some(by.clone()));
            }
        }
        Ok(())
    }
}

/// Author and time of a change: those of the permit's operation.
pub(super) fn author(permit: &Permit) -> Result<(String, Timestamp)> {
    let operation = permit.operation().ok_or_else(|| Error::internal("a change without an operation"))?;
    Ok((operation.username.clone(), operation.created_at))
}

fn role_error(cause: Cause, name: &RoleName) -> Error {
    Error::new(cause).resource("role").name(name.as_str())
}
