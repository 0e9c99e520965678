//! User use cases: user management by super admins, creation of the first admin, and user look-up for the command
//! line.

use std::{fmt, sync::Arc};

use unicode_normalization::UnicodeNormalization;

use super::{
    InitialPassword, NewPassword, NewUser, PasswordHasher, SetBy, User, UserPatch, UserRecord, UserRegistry,
    Username,
};
use crate::{
    access::{AccessRequest, Caller, Granted, Permit, Resource, Verb},
    clock::Clock,
    error::{Cause, Error, Reason, Result},
    gate::Gate,
    ids::UserId,
    name::{MAX_NORMALISED_BYTES, is_invisible},
    rng::Rng,
    role::Role,
    rows::{ListQuery, Pagination, Row, select},
};

/// Use cases of users, for super admins.
#[derive(Clone)]
pub struct Users {
    pub(crate) gate: Gate,
    pub(crate) registry: Arc<dyn UserRegistry>,
    pub(crate) hasher: Arc<dyn PasswordHasher>,
    pub(crate) initial: Arc<dyn InitialPassword>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
}

impl Users {
    /// A page of users.
    ///
    /// # Errors
    /// `RoleTooLow`, `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::User)).await?;
        let rows = self.registry.list().await?.iter().map(Row::of).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// All users, ordered by id, for the command line.
    ///
    /// # Errors
    /// `RoleTooLow`, `StoreUnavailable`.
    pub async fn all(&self, caller: &Caller) -> Result<Vec<User>> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::User)).await?;
        let mut users = self.registry.list().await?;
        users.sort_by_key(|user| user.id);
        Ok(users)
    }

    /// Creates a user.
    ///
    /// # Errors
    /// `RoleTooLow`, `NameTaken`, `Overloaded`, `StoreUnavailable`.
    pub async fn create(&self, caller: &Caller, user: NewUser) -> Result<User> {
        let display_name = check_display_name(user.display_name.as_deref())?;
        let access = AccessRequest::to(Verb::Create, Resource::User)
            .named(user.username.as_str())
            .with("role", user.role.as_str());
        let (registry, hasher, at) = (self.registry.clone(), self.hasher.clone(), self.clock.now());
        let work = async move |permit: Permit| {
            let record = UserRecord {
                display_name: display_name.unwrap_or_else(|| user.username.to_string()),
                password: hasher.hash(user.password.secret()).await?,
                username: user.username,
                role: user.role,
                at,
            };
            registry.create(&permit, record).await
        };
        self.gate.change_local(caller, access, work).await
    }

    /// Creates the first super admin, `admin`, unless a user exists: with the given password, else with a random one,
    /// which is published. Returns whether the user was created.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` if the random password could not be published.
    pub async fn bootstrap(&self, given: Option<NewPassword>) -> Result<bool> {
        if !self.registry.list().await?.is_empty() {
            return Ok(false);
        }
        let random = given.is_none();
        let password = given.unwrap_or_else(|| NewPassword::random(&*self.rng));
        let username = Username::first_admin();
        let permit = self.gate.permit_first_user(username.as_str(), Role::SuperAdmin);
        let record = UserRecord {
            display_name: username.to_string(),
            username,
            password: self.hasher.hash(password.secret()).await?,
            role: Role::SuperAdmin,
            at: self.clock.now(),
        };
        // before the user exists: a crash after its creation would leave an admin with an unknown password
        if random {
            self.initial.publish(password.secret())?;
        }
        // after an error the user may exist nevertheless, so the password stays published
        let created = self.registry.create_first(&permit, record).await?.is_some();
        if !created && random {
            self.initial.remove();
        }
        Ok(created)
    }

    /// Changes a user's role, display name, or disabled state.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `LastSuperAdmin`, `StoreUnavailable`.
    pub async fn update(&self, caller: &Caller, id: UserId, mut patch: UserPatch) -> Result<User> {
        patch.display_name = check_display_name(patch.display_name.as_deref())?;
        if patch == UserPatch::default() {
            return Err(Error::invalid("role", Reason::Required));
        }
        let mut granted = self.grant_for_user(caller, Verb::Update, id).await?;
        if let Some(role) = patch.role {
            granted = granted.with("role", role.as_str());
        }
        if let Some(disabled) = patch.disabled {
            granted = granted.with("disabled", disabled);
        }
        let (registry, at) = (self.registry.clone(), self.clock.now());
        let work = async move |permit: Permit| registry.update(&permit, id, patch, at).await;
        self.gate.change_local_granted(granted, work).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `LastSuperAdmin`, `StoreUnavailable`.
    pub async fn delete(&self, caller: &Caller, id: UserId) -> Result<()> {
        let granted = self.grant_for_user(caller, Verb::Delete, id).await?;
        let registry = self.registry.clone();
        self.gate.change_local_granted(granted, async move |permit| registry.delete(&permit, id).await).await
    }

    /// Sets another user's password and ends that user's sessions.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `FederatedUser`, `Overloaded`, `StoreUnavailable`.
    pub async fn reset_password(&self, caller: &Caller, id: UserId, password: NewPassword) -> Result<User> {
        let granted = self.grant_for_user(caller, Verb::ResetPassword, id).await?;
        // an id has no colon: a name with a colon is that of a user of an identity provider
        if granted.name().is_some_and(|name| name.contains(':')) {
            let refusal = Error::new(Cause::FederatedUser).resource("user").name(id.to_string());
            return self.gate.refuse_granted(&granted, refusal).await;
        }
        let (registry, hasher, at) = (self.registry.clone(), self.hasher.clone(), self.clock.now());
        let is_first_admin = granted.name() == Some(Username::first_admin().as_str());
        let initial = is_first_admin.then(|| self.initial.clone());
        let work = async move |permit: Permit| {
            let hash = hasher.hash(password.secret()).await?;
            registry.set_password(&permit, id, hash, SetBy::Administrator, at).await?;
            initial.inspect(|initial| initial.remove());
            registry.list().await?.into_iter().find(|user| user.id == id).ok_or_else(|| not_found(&id))
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// A user by name, local or of an identity provider, for the command line.
    ///
    /// # Errors
    /// `NotFound`, `StoreUnavailable`.
    pub async fn find(&self, username: &Username) -> Result<User> {
        let users = self.registry.list().await?;
        users.into_iter().find(|user| user.username == *username).ok_or_else(|| not_found(username))
    }

    /// Grants a change of a user. The audit row contains the username if the user exists. The row of a refusal
    /// contains only the id, because callers without the right to list users can read the rows of their refused
    /// requests.
    async fn grant_for_user(&self, caller: &Caller, verb: Verb, id: UserId) -> Result<Granted> {
        let access = AccessRequest::to(verb, Resource::User).named(id.to_string());
        let granted = self.gate.grant(caller, access).await?;
        let user = self.registry.list().await?.into_iter().find(|user| user.id == id);
        Ok(user.map_or(granted.clone(), |user| granted.named(user.username.as_str())))
    }
}

fn not_found(user: &impl fmt::Display) -> Error {
    Error::new(Cause::NotFound).resource("user").name(user.to_string())
}

/// Normalises and checks a display name: trimmed, NFC, 1 to 128 characters, no control characters.
fn check_display_name(text: Option<&str>) -> Result<Option<String>> {
    let Some(text) = text.map(str::trim) else { return Ok(None) };
    if text.len() > MAX_NORMALISED_BYTES {
        return Err(Error::invalid("display_name", Reason::TooLong));
    }
    let text: String = text.nfc().collect();
    let reason = match text.chars().count() {
        0 => Reason::Required,
        1..=128 if text.chars().any(|c| c.is_control() || is_invisible(c)) => Reason::Malformed,
        1..=128 => return Ok(Some(text)),
        _ => Reason::TooLong,
    };
    Err(Error::invalid("display_name", reason))
}
