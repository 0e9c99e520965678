use std::collections::BTreeSet;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{MemoryStore, State};
use crate::{
    access::Permit,
    error::{Cause, Error, Result},
    ids::{SessionId, UserId},
    name::ProviderId,
    provider::{
        Admission, Binding, ConfirmationClaim, DueConfirmation, EndedSessions, FederationStore, Liveness,
        MAX_PENDING_LOGINS, MAX_PENDING_LOGINS_OF_ADDRESS, PendingLogin, Person, ProviderKind,
        ProviderSession,
    },
    rights::Subject,
    role::Role,
    session::{SecretHash, Session, SessionRecord},
    user::{PasswordHash, User},
};

/// A person of a provider.
pub(super) struct StoredPerson {
    user: UserId,
    provider: ProviderId,
    subject: String,
    groups: BTreeSet<String>,
    confirmed_at: Option<Timestamp>,
    claimed_at: Timestamp,
}

/// Data of the provider of a session.
pub(super) struct StoredOrigin {
    session: SessionId,
    origin: ProviderSession,
    /// Time of the last confirmation or claim.
    claimed_at: Timestamp,
}

#[async_trait]
impl FederationStore for MemoryStore {
    async fn bind(&self, binding: &Binding) -> Result<bool> {
        let mut state = self.lock();
        if let Some(bound) = state.bindings.iter().find(|bound| bound.provider == binding.provider) {
            return Ok(bound == binding);
        }
        state.bindings.push(binding.clone());
        Ok(true)
    }

    async fn begin(&self, login: PendingLogin) -> Result<()> {
        let mut state = self.lock();
        state.pending_logins.retain(|pending| login.at < pending.expires_at);
        let same_address =
            |pending: &PendingLogin| login.address.is_some() && pending.address == login.address;
        // the oldest is the first
        if state.pending_logins.iter().filter(|pending| same_address(pending)).count()
            >= MAX_PENDING_LOGINS_OF_ADDRESS
            && let Some(oldest) = state.pending_logins.iter().position(same_address)
        {
            state.pending_logins.remove(oldest);
        }
        if state.pending_logins.len() >= MAX_PENDING_LOGINS {
            state.pending_logins.remove(0);
        }
        state.pending_logins.push(login);
        Ok(())
    }

    async fn take(
        &self,
        provider: &ProviderId,
        state: SecretHash,
        browser: SecretHash,
        at: Timestamp,
    ) -> Result<Option<String>> {
        let mut stored = self.lock();
        let wanted = |pending: &PendingLogin| {
            pending.provider == *provider && pending.state == state && pending.browser == browser
        };
        let Some(found) = stored.pending_logins.iter().position(wanted) else { return Ok(None) };
        let pending = stored.pending_logins.remove(found);
        Ok((at < pending.expires_at).then_some(pending.to))
    }

    async fn admit(&self, permit: &Permit, admission: Admission) -> Result<User> {
        let Admission { provider, person, username, other_username, at } = admission;
        let mut state = self.write()?;
        let known = state
            .people
            .iter()
            .find(|stored| stored.provider == provider && stored.subject == person.subject())
            .map(|stored| stored.user);
        let user = if let Some(id) = known {
            let user = state.user(id)?;
            person.display_name().clone_into(&mut user.display_name);
            user.clone()
        } else {
            let taken = state.users.iter().any(|(user, _)| user.username == username);
            let user = User {
                id: UserId(state.next_id()),
                username: if taken { other_username } else { username },
                display_name: person.display_name().to_owned(),
                role: Role::None,
                disabled: false,
                created_at: at,
                last_login_at: None,
            };
            state.users.push((user.clone(), PasswordHash::new(String::new())));
            state.people.push(StoredPerson {
                user: user.id,
                provider,
                subject: person.subject().to_owned(),
                groups: BTreeSet::new(),
                confirmed_at: None,
                claimed_at: at,
            });
            state.record_success(permit, None)?;
            user
        };
        state.confirm_person(user.id, &person, at);
        Ok(user)
    }

    async fn user_of(&self, provider: &ProviderId, subject: &str) -> Result<Option<User>> {
        let state = self.lock();
        let person =
            state.people.iter().find(|person| person.provider == *provider && person.subject == subject);
        let of_person = |user: &&User| person.is_some_and(|person| person.user == user.id);
        Ok(state.users.iter().map(|(user, _)| user).find(of_person).cloned())
    }

    async fn open(&self, permit: &Permit, record: SessionRecord, origin: ProviderSession) -> Result<Session> {
        let mut state = self.write()?;
        let is_enabled = state.users.iter().any(|(user, _)| user.id == record.user_id && !user.disabled);
        let is_of_provider = state
            .people
            .iter()
            .any(|person| person.user == record.user_id && person.provider == origin.provider);
        if !(is_enabled && is_of_provider) {
            return Err(Error::new(Cause::BadCredentials));
        }
        let claimed_at = record.at;
        let session = state.open_session(permit, record)?;
        state.origins.push(StoredOrigin { session: session.id, origin, claimed_at });
        Ok(session)
    }

    async fn provider_of(&self, session: SessionId) -> Result<Option<ProviderId>> {
        let state = self.lock();
        let is_stored = state.sessions.iter().any(|(stored, _)| stored.id == session);
        let origin = state.origins.iter().find(|stored| is_stored && stored.session == session);
        Ok(origin.map(|stored| stored.origin.provider.clone()))
    }

    async fn claim_due(&self, claim: ConfirmationClaim) -> Result<Vec<DueConfirmation>> {
        let mut state = self.lock();
        let mut due = state.due(&claim);
        due.sort_by_key(|(claimed_at, _)| *claimed_at);
        due.truncate(claim.limit);
        let due: Vec<_> = due.into_iter().map(|(_, due)| due).collect();
        state.set_claimed(&due, claim.live.at);
        Ok(due)
    }

    async fn release(&self, due: &[DueConfirmation], visited_at: Timestamp) -> Result<()> {
        self.lock().set_claimed(due, visited_at);
        Ok(())
    }

    async fn confirm(
        &self,
        due: &DueConfirmation,
        person: &Person,
        refresh_token: Option<SecretString>,
        at: Timestamp,
    ) -> Result<()> {
        let mut state = self.write()?;
        let confirmed_at = state.confirmed_at(due.user_id);
        let is_outdated =
            confirmed_at != due.confirmed_at && (confirmed_at.is_none() || due.session.is_none());
        let is_stored = |session: SessionId| state.sessions.iter().any(|(stored, _)| stored.id == session);
        if is_outdated || due.session.is_some_and(|session| !is_stored(session)) {
            return Ok(());
        }
        let Ok(user) = state.user(due.user_id) else { return Ok(()) };
        person.display_name().clone_into(&mut user.display_name);
        state.confirm_person(due.user_id, person, at);
        let origins = state.origins.iter_mut().filter(|stored| Some(stored.session) == due.session);
        origins.for_each(|stored| {
            stored.claimed_at = at;
            stored.origin.refresh_token =
                refresh_token.clone().or_else(|| stored.origin.refresh_token.clone());
        });
        Ok(())
    }

    async fn withdraw(&self, permit: &Permit, ended: EndedSessions, live: Liveness) -> Result<Option<usize>> {
        let mut state = self.write()?;
        if let EndedSessions::Named { provider, token, .. } = &ended {
            if state.logout_tokens.iter().any(|(by, used, _)| by == provider && *used == token.jti) {
                return Ok(None);
            }
            state.logout_tokens.push((provider.clone(), token.jti, token.valid_until));
        }
        let ending = state.sessions_of(&ended);
        let mut users: BTreeSet<UserId> = ending.iter().map(|session| session.user_id).collect();
        match &ended {
            EndedSessions::OfUser(user) => users.extend([*user]),
            EndedSessions::Named { provider, subject: Some(subject), sid: None, .. } => users.extend(
                state
                    .people
                    .iter()
                    .filter(|stored| stored.provider == *provider && stored.subject == *subject)
                    .map(|stored| stored.user),
            ),
            EndedSessions::One(_) | EndedSessions::Named { .. } => {}
        }
        state.sessions.retain(|(session, _)| !ending.iter().any(|ended| ended.id == session.id));
        let without_session: Vec<_> = users
            .into_iter()
            .filter(|user| {
                !state.sessions.iter().any(|(session, _)| session.user_id == *user && is_live(session, live))
            })
            .collect();
        let mut changed = !ending.is_empty();
        for user in without_session {
            for person in state.people.iter_mut().filter(|person| person.user == user) {
                changed |= person.confirmed_at.take().is_some();
                person.groups.clear();
            }
            state.rights_stamp.0 += 1;
        }
        if changed {
            state.record_success(permit, None)?;
        }
        Ok(Some(ending.len()))
    }

    async fn confirmed_at(&self, user: UserId) -> Result<Option<Timestamp>> {
        Ok(self.lock().confirmed_at(user))
    }
}

fn is_live(session: &Session, live: Liveness) -> bool {
    live.at < session.expires_at && live.used_after < session.last_seen_at
}

impl State {
    /// Time of the last confirmation of a user of a provider.
    pub(super) fn confirmed_at(&self, user: UserId) -> Option<Timestamp> {
        self.people.iter().find(|person| person.user == user)?.confirmed_at
    }

    /// The groups of the users among these subjects.
    pub(super) fn groups_of(&self, subjects: &[Subject]) -> Vec<Subject> {
        let is_asked = |person: &&StoredPerson| subjects.contains(&Subject::User(person.user));
        let groups = self.people.iter().filter(is_asked).flat_map(|person| {
            person
                .groups
                .iter()
                .map(move |name| Subject::Group { provider: person.provider.to_string(), name: name.clone() })
        });
        groups.collect()
    }

    /// Removes the data of the provider of a user.
    pub(super) fn forget_person(&mut self, user: UserId) {
        self.people.retain(|person| person.user != user);
    }

    fn confirm_person(&mut self, user: UserId, person: &Person, at: Timestamp) {
        let Some(stored) = self.people.iter_mut().find(|stored| stored.user == user) else { return };
        (stored.confirmed_at, stored.claimed_at) = (Some(at), at);
        if stored.groups != *person.groups() {
            stored.groups.clone_from(person.groups());
            self.rights_stamp.0 += 1;
        }
    }

    /// Sets the time of the last claim.
    fn set_claimed(&mut self, due: &[DueConfirmation], at: Timestamp) {
        for due in due {
            match due.session {
                Some(session) => self
                    .origins
                    .iter_mut()
                    .filter(|stored| stored.session == session)
                    .for_each(|stored| stored.claimed_at = at),
                None => self
                    .people
                    .iter_mut()
                    .filter(|stored| stored.user == due.user_id)
                    .for_each(|stored| stored.claimed_at = at),
            }
        }
    }

    /// Confirmations that are due, with the time of the last one.
    fn due(&self, claim: &ConfirmationClaim) -> Vec<(Timestamp, DueConfirmation)> {
        let is_due = |claimed_at: Timestamp| claimed_at < claim.before || claimed_at > claim.live.at;
        let mut due = Vec::new();
        for person in self.people.iter().filter(|person| person.provider == claim.provider) {
            let Some((user, _)) = self.users.iter().find(|(user, _)| user.id == person.user) else {
                continue;
            };
            let sessions: Vec<_> = self
                .sessions
                .iter()
                .filter(|(session, _)| session.user_id == person.user && is_live(session, claim.live))
                .map(|(session, _)| session.id)
                .collect();
            let confirmation = |session, refresh_token| DueConfirmation {
                user_id: person.user,
                username: user.username.clone(),
                provider: person.provider.clone(),
                subject: person.subject.clone(),
                session,
                refresh_token,
                confirmed_at: person.confirmed_at,
            };
            match claim.kind {
                ProviderKind::Ldap => {
                    if !sessions.is_empty() && is_due(person.claimed_at) {
                        due.push((person.claimed_at, confirmation(None, None)));
                    }
                }
                ProviderKind::Oidc => {
                    let origins = self.origins.iter().filter(|stored| {
                        sessions.contains(&stored.session)
                            && stored.origin.refresh_token.is_some()
                            && is_due(stored.claimed_at)
                    });
                    due.extend(origins.map(|stored| {
                        let refresh_token = stored.origin.refresh_token.clone();
                        (stored.claimed_at, confirmation(Some(stored.session), refresh_token))
                    }));
                }
            }
        }
        due
    }

    /// The stored sessions that a provider has ended.
    fn sessions_of(&self, ended: &EndedSessions) -> Vec<Session> {
        let is_ended = |session: &Session| match ended {
            EndedSessions::One(id) => session.id == *id,
            EndedSessions::OfUser(user) => session.user_id == *user,
            EndedSessions::Named { provider, subject, sid, .. } => {
                let person = self.people.iter().find(|person| person.user == session.user_id);
                let origin = self.origins.iter().find(|stored| stored.session == session.id);
                (subject.is_some() || sid.is_some())
                    && person.is_some_and(|person| {
                        person.provider == *provider
                            && subject.as_ref().is_none_or(|subject| person.subject == *subject)
                    })
                    && origin.is_some_and(|stored| sid.is_none() || stored.origin.sid == *sid)
            }
        };
        self.sessions
            .iter()
            .map(|(session, _)| session)
            .filter(|session| is_ended(session))
            .cloned()
            .collect()
    }
}
