use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{MemoryStore, State, grants::author};
use crate::{
    access::{Permit, Principal},
    error::{Cause, Error, Result},
    ids::{SessionId, UserId},
    role::Role,
    session::{
        Activity, ClientAddress, FoundSession, LoginThrottle, RefreshExchange, RefreshHolder, Rotation,
        SecretHash, Session, SessionRecord, SessionStore, ThrottleKey,
    },
    user::{PasswordHash, SetBy, User, UserPatch, UserRecord, UserRegistry, Username},
};

#[async_trait]
impl UserRegistry for MemoryStore {
    async fn list(&self) -> Result<Vec<User>> {
        Ok(self.lock().users.iter().map(|(user, _)| user.clone()).collect())
    }

    async fn credentials(&self, username: &Username) -> Result<Option<(User, PasswordHash)>> {
        let is_wanted = |user: &User| user.username == *username && !user.username.is_federated();
        Ok(self.lock().users.iter().find(|(user, _)| is_wanted(user)).cloned())
    }

    async fn create(&self, permit: &Permit, record: UserRecord) -> Result<User> {
        let mut state = self.write()?;
        if state.users.iter().any(|(user, _)| user.username == record.username) {
            return Err(Error::new(Cause::NameTaken).resource("user").name(record.username.as_str()));
        }
        state.insert_user(permit, record)
    }

    async fn create_first(&self, permit: &Permit, record: UserRecord) -> Result<Option<User>> {
        let mut state = self.write()?;
        if state.users.is_empty() { state.insert_user(permit, record).map(Some) } else { Ok(None) }
    }

    async fn update(&self, permit: &Permit, id: UserId, patch: UserPatch, _at: Timestamp) -> Result<User> {
        let mut state = self.write()?;
        let user = state.user(id)?.clone();
        let role = patch.role.unwrap_or(user.role);
        let disabled = patch.disabled.unwrap_or(user.disabled);
        if role != Role::SuperAdmin || disabled {
            state.check_last_super_admin(id)?;
        }
        if role != user.role || disabled {
            state.end_sessions(id, None);
        }
        let user = state.user(id)?;
        (user.role, user.disabled) = (role, disabled);
        user.display_name = patch.display_name.unwrap_or_else(|| user.display_name.clone());
        let changed = user.clone();
        state.change_rights(permit)?;
        Ok(changed)
    }

    async fn delete(&self, permit: &Permit, id: UserId) -> Result<()> {
        let mut state = self.write()?;
        state.user(id)?;
        state.check_last_super_admin(id)?;
        state.end_sessions(id, None);
        state.end_rights_of_user(permit, id)?;
        state.revoke_tokens(Principal::User(id), author(permit)?.1);
        state.leave_accounts(id);
        state.users.retain(|(user, _)| user.id != id);
        state.forget_person(id);
        state.addresses.retain(|(user, ..)| *user != id);
        state.second_factors.retain(|(factor, _)| factor.user_id != id);
        state.change_rights(permit)
    }

    async fn set_password(
        &self,
        permit: &Permit,
        id: UserId,
        password: PasswordHash,
        by: SetBy,
        _at: Timestamp,
    ) -> Result<()> {
        let mut state = self.write()?;
        let keep = match by {
            SetBy::Administrator => {
                state.user(id)?;
                state.revoke_tokens(Principal::User(id), author(permit)?.1);
                None
            }
            SetBy::Owner { session, verified } => {
                let has_verified_password =
                    state.users.iter().any(|(user, hash)| user.id == id && hash.phc() == verified.phc());
                let is_live =
                    state.sessions.iter().any(|(found, _)| found.id == session && found.user_id == id);
                if !(has_verified_password && is_live) {
                    return Err(Error::new(Cause::SessionEnded));
                }
                Some(session)
            }
        };
        state
            .users
            .iter_mut()
            .filter(|(user, _)| user.id == id)
            .for_each(|(_, hash)| *hash = password.clone());
        state.end_sessions(id, keep);
        state.record_success(permit, None)
    }
}

impl State {
    fn session(&mut self, wanted: impl Fn(&Session, &SecretHash) -> bool) -> Option<FoundSession> {
        let session = self.sessions.iter().find(|(session, hash)| wanted(session, hash))?.0.clone();
        let user = self.user(session.user_id).ok()?.clone();
        let enrolled = self.confirmed_factor(user.id).is_some();
        Some(FoundSession { session, user, enrolled, rights: self.rights_stamp })
    }

    /// Stores a session and records its login.
    pub(super) fn open_session(&mut self, permit: &Permit, record: SessionRecord) -> Result<Session> {
        let session = Session {
            id: SessionId(self.next_id()),
            user_id: record.user_id,
            generation: 1,
            source_ip: record.source_ip.map(|ip| ip.to_string()),
            user_agent: record.user_agent,
            created_at: record.at,
            last_seen_at: record.at,
            expires_at: record.expires_at,
            authenticated_at: record.authenticated_at,
            factor_at: record.factor_at,
        };
        let user = self.user(record.user_id)?;
        user.last_login_at = Some(record.at);
        if let Some(key) = record.throttle_key {
            self.throttles.remove(&key.key);
        }
        if let Some(ip) = record.source_ip {
            let address = ClientAddress::of(ip);
            self.addresses.retain(|(user, known, _)| *user != record.user_id || *known != address);
            self.addresses.push((record.user_id, address, record.at));
            let mut newest: Vec<_> = self
                .addresses
                .iter()
                .filter(|(user, ..)| *user == record.user_id)
                .map(|(.., at)| *at)
                .collect();
            newest.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(oldest) = newest.get(ThrottleKey::ADDRESSES as usize - 1) {
                self.addresses.retain(|(user, _, at)| *user != record.user_id || at >= oldest);
            }
        }
        self.refresh.insert(record.refresh, (session.id.0, None));
        self.sessions.push((session.clone(), record.cookie));
        self.record_success(permit, None)?;
        Ok(session)
    }

    pub(super) fn user(&mut self, id: UserId) -> Result<&mut User> {
        let found = self.users.iter_mut().map(|(user, _)| user).find(|user| user.id == id);
        found.ok_or_else(|| Error::new(Cause::NotFound).resource("user").name(id.to_string()))
    }

    fn insert_user(&mut self, permit: &Permit, record: UserRecord) -> Result<User> {
        let user = User {
            id: UserId(self.next_id()),
            username: record.username,
            display_name: record.display_name,
            role: record.role,
            disabled: false,
            created_at: record.at,
            last_login_at: None,
        };
        self.users.push((user.clone(), record.password));
        self.record_success(permit, None)?;
        Ok(user)
    }

    /// Fails if `id` is the last enabled super admin.
    fn check_last_super_admin(&self, id: UserId) -> Result<()> {
        let is_enabled_super_admin = |user: &User| user.role == Role::SuperAdmin && !user.disabled;
        let is_super_admin = self.users.iter().any(|(user, _)| user.id == id && is_enabled_super_admin(user));
        let another_exists = self.users.iter().any(|(user, _)| user.id != id && is_enabled_super_admin(user));
        if is_super_admin && !another_exists {
            return Err(Error::new(Cause::LastSuperAdmin).resource("user").name(id.to_string()));
        }
        Ok(())
    }

    pub(super) fn end_sessions(&mut self, user: UserId, keep: Option<SessionId>) {
        self.sessions.retain(|(session, _)| session.user_id != user || Some(session.id) == keep);
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn open(&self, permit: &Permit, record: SessionRecord, verified: &PasswordHash) -> Result<Session> {
        let mut state = self.write()?;
        let has_verified_password = |(user, hash): &(User, PasswordHash)| {
            user.id == record.user_id && !user.disabled && hash.phc() == verified.phc()
        };
        if !state.users.iter().any(has_verified_password) {
            return Err(Error::new(Cause::BadCredentials));
        }
        state.open_session(permit, record)
    }

    async fn find(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        Ok(self.lock().session(|_, hash| *hash == cookie))
    }

    async fn get(&self, id: SessionId) -> Result<Option<FoundSession>> {
        Ok(self.lock().session(|session, _| session.id == id))
    }

    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()> {
        let mut state = self.lock();
        let sessions = state.sessions.iter_mut().filter(|(session, _)| session.id == id);
        sessions.for_each(|(session, _)| session.last_seen_at = session.last_seen_at.max(at));
        Ok(())
    }

    async fn renew_factor(&self, permit: &Permit, id: SessionId, at: Timestamp) -> Result<()> {
        let mut state = self.write()?;
        let found = state.sessions.iter_mut().map(|(session, _)| session).find(|session| session.id == id);
        found.ok_or_else(|| Error::new(Cause::SessionEnded))?.factor_at = Some(at);
        state.record_success(permit, None)
    }

    async fn rotate(&self, permit: &Permit, id: SessionId, exchange: RefreshExchange) -> Result<Rotation> {
        let RefreshExchange { holder, presented, fresh, at, grace, activity } = exchange;
        let within_grace = |time: &Timestamp| at.duration_since(*time).unsigned_abs() <= grace;
        let mut state = self.write()?;
        let generation = state
            .sessions
            .iter()
            .find(|(session, _)| session.id == id)
            .map(|(session, _)| session.generation);
        let used =
            state.refresh.get(&presented).filter(|(session, _)| *session == id.0).map(|(_, used)| *used);
        let (Some(generation), Some(used)) = (generation, used) else { return Ok(Rotation::Unknown) };
        if used.is_some_and(|used| !within_grace(&used)) {
            state.sessions.retain(|(session, _)| session.id != id);
            state.record_outcome(permit, None, &Err(Error::new(Cause::SessionEnded)))?;
            return Ok(Rotation::Replayed);
        }
        if let RefreshHolder::Browser { generation: required } = holder {
            let of_session = || {
                state
                    .refresh
                    .iter()
                    .filter(|(_, (session, _))| *session == id.0)
                    .map(|(hash, (_, used))| (*hash, *used))
            };
            let rotated_at = of_session().filter_map(|(_, used)| used).max();
            let newest = of_session().find(|(_, used)| used.is_none()).map(|(hash, _)| hash);
            if let (Some(issued_at), Some(newest)) = (rotated_at.filter(within_grace), newest) {
                return Ok(Rotation::Repeated { generation, issued_at, newest });
            }
            if required != generation {
                return Ok(Rotation::JustUsed);
            }
        }
        if used.is_some() {
            return Ok(Rotation::JustUsed);
        }
        state.refresh.insert(presented, (id.0, Some(at)));
        state.refresh.insert(fresh, (id.0, None));
        for (session, _) in state.sessions.iter_mut().filter(|(session, _)| session.id == id) {
            session.generation += 1;
            if activity == Activity::User {
                session.last_seen_at = at;
            }
        }
        state.record_success(permit, None)?;
        Ok(Rotation::Rotated(generation + 1))
    }

    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool> {
        let mut state = self.write()?;
        let before = state.sessions.len();
        state.sessions.retain(|(session, _)| session.id != id);
        let ended = state.sessions.len() < before;
        if ended {
            state.record_success(permit, None)?;
        }
        Ok(ended)
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>> {
        let state = self.lock();
        let name = |id: UserId| {
            state.users.iter().find(|(user, _)| user.id == id).map(|(user, _)| user.username.clone())
        };
        let sessions =
            state.sessions.iter().filter(|(session, _)| user.is_none_or(|user| session.user_id == user));
        Ok(sessions.filter_map(|(session, _)| Some((session.clone(), name(session.user_id)?))).collect())
    }
}

#[async_trait]
impl LoginThrottle for MemoryStore {
    async fn blocked_for(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<Option<Duration>> {
        let state = self.lock();
        let until = keys.iter().filter_map(|key| state.throttles.get(&key.key)?.until);
        Ok(until.filter(|until| *until > at).max().map(|until| until.duration_since(at).unsigned_abs()))
    }

    async fn is_known_address(
        &self,
        username: &Username,
        address: &ClientAddress,
        since: Timestamp,
    ) -> Result<bool> {
        let state = self.lock();
        let user = state.users.iter().map(|(user, _)| user).find(|user| user.username == *username);
        Ok(user.is_some_and(|user| {
            let mut known = state.addresses.iter();
            known.any(|(of, known, at)| *of == user.id && known == address && *at > since)
        }))
    }

    async fn failed(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<()> {
        let mut state = self.write()?;
        for key in keys {
            let throttle = state.throttles.entry(key.key.clone()).or_default();
            throttle.reset_if_expired(at);
            throttle.since.get_or_insert(at);
            throttle.failures += 1;
            throttle.until = key.pause(throttle.failures).map(|pause| at + pause);
        }
        Ok(())
    }

    async fn refused(&self, key: &ThrottleKey, at: Timestamp) -> Result<Option<u64>> {
        let mut state = self.write()?;
        let throttle = state.throttles.entry(key.key.clone()).or_default();
        let minute = at.as_second() / 60;
        if throttle.minute == minute {
            throttle.refused += 1;
            return Ok(None);
        }
        throttle.minute = minute;
        Ok(Some(std::mem::replace(&mut throttle.refused, 1)))
    }
}
