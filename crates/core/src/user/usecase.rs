//! What a super admin does with users, the first start, and the command line.

use std::{fmt, sync::Arc};

use unicode_normalization::UnicodeNormalization;

use super::{
    InitialPassword, NewPassword, NewUser, PasswordHasher, SetBy, User, UserId, UserPatch, UserRecord,
    UserRegistry, Username,
};
use crate::{
    access::{Access, Caller, Permit, Resource, Role, Verb},
    clock::{Clock, Entropy},
    error::{Cause, Error, Reason, Result},
    gate::Gate,
    inventory::{ListQuery, Pagination, Row, select},
    name::is_invisible,
};

/// What a super admin does with users.
#[derive(Clone)]
pub struct Users {
    pub(crate) gate: Gate,
    pub(crate) registry: Arc<dyn UserRegistry>,
    pub(crate) hasher: Arc<dyn PasswordHasher>,
    pub(crate) initial: Arc<dyn InitialPassword>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Users {
    /// A page of users.
    ///
    /// # Errors
    /// `RoleTooLow`, `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, Access::to(Verb::List, Resource::User)).await?;
        let rows = self.registry.list().await?.iter().map(Row::of).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// All users, by id, for the command line.
    ///
    /// # Errors
    /// `RoleTooLow`, `StoreUnavailable`.
    pub async fn all(&self, caller: &Caller) -> Result<Vec<User>> {
        self.gate.allow(caller, Access::to(Verb::List, Resource::User)).await?;
        let mut users = self.registry.list().await?;
        users.sort_by_key(|user| user.id);
        Ok(users)
    }

    /// Creates a user.
    ///
    /// # Errors
    /// `RoleTooLow`, `NameTaken`, `Overloaded`, `StoreUnavailable`.
    pub async fn create(&self, caller: &Caller, user: NewUser) -> Result<User> {
        let display_name = checked_display_name(user.display_name.as_deref())?;
        let access = Access::to(Verb::Create, Resource::User)
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
        self.gate.commit(caller, access, work).await
    }

    /// Creates the first super admin, `admin`, unless there is a user: with the password given, else with a random
    /// one, which is handed over. True when it was created.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` when the random password could not be handed over.
    pub async fn bootstrap(&self, given: Option<NewPassword>) -> Result<bool> {
        if !self.registry.list().await?.is_empty() {
            return Ok(false);
        }
        let random = given.is_none();
        let password = given.unwrap_or_else(|| NewPassword::random(&*self.entropy));
        let username = Username::first_admin();
        let access = Access::to(Verb::Create, Resource::User)
            .named(username.as_str())
            .with("role", Role::SuperAdmin.as_str());
        let permit = self.gate.admit(&Caller::system(), access);
        let record = UserRecord {
            display_name: username.to_string(),
            username,
            password: self.hasher.hash(password.secret()).await?,
            role: Role::SuperAdmin,
            at: self.clock.now(),
        };
        let created = self.registry.create_first(&permit, record).await?.is_some();
        if created && random {
            self.initial.hand_over(password.secret())?;
        }
        Ok(created)
    }

    /// Changes a user's role, display name, or whether it may sign in.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `LastSuperAdmin`, `StoreUnavailable`.
    pub async fn update(&self, caller: &Caller, id: UserId, mut patch: UserPatch) -> Result<User> {
        patch.display_name = checked_display_name(patch.display_name.as_deref())?;
        if patch == UserPatch::default() {
            return Err(Error::invalid("role", Reason::Required));
        }
        let mut access = self.about(Verb::Update, id).await?;
        if let Some(role) = patch.role {
            access = access.with("role", role.as_str());
        }
        if let Some(disabled) = patch.disabled {
            access = access.with("disabled", disabled);
        }
        let (registry, at) = (self.registry.clone(), self.clock.now());
        let work = async move |permit: Permit| registry.update(&permit, id, patch, at).await;
        self.gate.commit(caller, access, work).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `LastSuperAdmin`, `StoreUnavailable`.
    pub async fn delete(&self, caller: &Caller, id: UserId) -> Result<()> {
        let access = self.about(Verb::Delete, id).await?;
        let registry = self.registry.clone();
        self.gate.commit(caller, access, async move |permit| registry.delete(&permit, id).await).await
    }

    /// Sets another user's password and ends that user's sessions.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `Overloaded`, `StoreUnavailable`.
    pub async fn reset_password(&self, caller: &Caller, id: UserId, password: NewPassword) -> Result<User> {
        let access = self.about(Verb::ResetPassword, id).await?;
        let (registry, hasher, at) = (self.registry.clone(), self.hasher.clone(), self.clock.now());
        let first = access.name.as_deref() == Some(Username::first_admin().as_str());
        let initial = first.then(|| self.initial.clone());
        let work = async move |permit: Permit| {
            let hash = hasher.hash(password.secret()).await?;
            registry.set_password(&permit, id, hash, SetBy::Administrator, at).await?;
            initial.inspect(|initial| initial.withdraw());
            registry.list().await?.into_iter().find(|user| user.id == id).ok_or_else(|| absent(&id))
        };
        self.gate.commit(caller, access, work).await
    }

    /// A user by name, for the command line.
    ///
    /// # Errors
    /// `NotFound`, `StoreUnavailable`.
    pub async fn find(&self, username: &Username) -> Result<User> {
        self.registry.credentials(username).await?.map(|(user, _)| user).ok_or_else(|| absent(username))
    }

    /// The trail names a user by name, as far as there is one.
    async fn about(&self, verb: Verb, id: UserId) -> Result<Access> {
        let user = self.registry.list().await?.into_iter().find(|user| user.id == id);
        let name = user.map_or_else(|| id.to_string(), |user| user.username.to_string());
        Ok(Access::to(verb, Resource::User).named(name))
    }
}

fn absent(user: &impl fmt::Display) -> Error {
    Error::new(Cause::NotFound).resource("user").name(user.to_string())
}

/// At most 128 characters, no control characters; trimmed.
fn checked_display_name(text: Option<&str>) -> Result<Option<String>> {
    let Some(text) = text else { return Ok(None) };
    let text: String = text.trim().nfc().collect();
    let reason = match text.chars().count() {
        0 => Reason::Required,
        1..=128 if text.chars().any(|c| c.is_control() || is_invisible(c)) => Reason::Malformed,
        1..=128 => return Ok(Some(text)),
        _ => Reason::TooLong,
    };
    Err(Error::invalid("display_name", reason))
}
