//! Use cases of grants and roles. Nobody gives more than they have: [`Grants::may_give`] judges each gift by the rights
//! that the caller has when it is stored. What was given stays, so rights that are a second old do not count.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{GrantQuery, GrantRecord, GrantRow, RightsPorts, RightsStamp, RolePatch, RoleRecord, RoleRow};
use crate::{
    access::{AccessRequest, Caller, Granted, Permit, Resource, Verb},
    change_reason::ChangeReason,
    clock::Clock,
    error::{Cause, Error, Reason, Result},
    gate::{Changed, Gate, Warning},
    ids::{ClusterId, GrantId},
    name::check_free_text,
    rights::{
        BuiltInRole, ClusterScope, EffectiveGrant, Extent, Given, Grant, Labels, Missing, Reach,
        RightResource, RightVerb, Rights, RoleName, RoleRules, Subject, covers, derived_power, includes,
        weakest_preset,
    },
    role::Role,
    rows::{ListQuery, Pagination, Row, select},
    user::UserRegistry,
};

mod explain;
mod request;

pub use explain::{
    AccessQuestion, Explained, GrantRefRow, LayerRow, MissingRow, MyRight, MyRights, SubjectGrants,
};
pub use request::NewRequest;

/// Length of a role's description in characters.
const DESCRIPTION: RangeInclusive<usize> = 0..=1024;
/// How far in the past a grant may be asked to begin: the latency of a request and the difference of two clocks. The
/// grant then begins now.
const MAX_PAST: Duration = Duration::from_secs(5 * 60);
/// Length of a reason in characters.
pub(crate) const REASON: RangeInclusive<usize> = 5..=500;
/// Number of times that a gift is judged, if rights change each time before it is stored.
const ATTEMPTS: u32 = 20;

/// Use cases of grants, roles and requests for grants.
#[derive(Clone)]
pub struct Grants {
    pub(crate) gate: Gate,
    pub(crate) ports: RightsPorts,
    pub(crate) users: Arc<dyn UserRegistry>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Grants {
    /// A page of roles: the built-in and the own ones.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn roles(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Role)).await?;
        let built_in = BuiltInRole::ALL.into_iter().map(RoleRow::from);
        let own = self.ports.roles.list().await?.into_iter().map(RoleRow::from);
        let rows = built_in.chain(own).map(|role| Row::of(&role)).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// Creates an own role, for super admins.
    ///
    /// # Errors
    /// `RoleTooLow`, `InvalidInput`, `NameTaken`, `TooMany`, `StoreUnavailable`.
    pub async fn create_role(&self, caller: &Caller, role: RoleRecord) -> Result<RoleRow> {
        check_text("description", Some(&role.description), DESCRIPTION)?;
        let access = AccessRequest::to(Verb::Create, Resource::Role).named(role.name.as_str());
        let granted = self.gate.grant(caller, access).await?.with("rules", param(role.rules.rules()));
        let registry = self.ports.roles.clone();
        let work = async move |permit: Permit| registry.create(&permit, role).await.map(RoleRow::from);
        self.gate.change_local_granted(granted, work).await
    }

    /// Changes an own role, and with it the rights of all its grants. For super admins, who may give every right, so
    /// that the grants of the role need no further check.
    ///
    /// # Errors
    /// `RoleTooLow`, `InvalidInput`, `NotFound`, `StoreUnavailable`.
    pub async fn update_role(&self, caller: &Caller, name: RoleName, patch: RolePatch) -> Result<RoleRow> {
        check_text("description", patch.description.as_deref(), DESCRIPTION)?;
        if patch == RolePatch::default() {
            return Err(Error::invalid("rules", Reason::Required));
        }
        let access = AccessRequest::to(Verb::Update, Resource::Role).named(name.as_str());
        let mut granted = self.gate.grant(caller, access).await?;
        if let Some(rules) = &patch.rules {
            granted = granted.with("rules", param(rules.rules()));
        }
        let registry = self.ports.roles.clone();
        let work =
            async move |permit: Permit| registry.update(&permit, &name, patch).await.map(RoleRow::from);
        self.gate.change_local_granted(granted, work).await
    }

    /// Deletes an own role, for super admins.
    ///
    /// # Errors
    /// `RoleTooLow`, `NotFound`, `RoleInUse`, `StoreUnavailable`.
    pub async fn delete_role(&self, caller: &Caller, name: RoleName) -> Result<()> {
        let access = AccessRequest::to(Verb::Delete, Resource::Role).named(name.as_str());
        let registry = self.ports.roles.clone();
        self.gate
            .change_local(caller, access, async move |permit| registry.delete(&permit, &name).await)
            .await
    }

    /// A page of grants: the caller's own, and those whose whole scope lies where the caller may list grants.
    ///
    /// # Errors
    /// `NotFound` for a cluster in which the caller has no right; `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &GrantQuery) -> Result<(Vec<Row>, Pagination)> {
        let access = AccessRequest::to(Verb::List, Resource::Grant);
        if query.clusters.is_empty() {
            self.gate.allow(caller, access.clone()).await?;
        }
        let now = self.clock.now();
        let mut clusters = Vec::with_capacity(query.clusters.len());
        for id in query.clusters.iter().copied() {
            self.gate.allow(caller, access.clone().in_cluster(id)).await?;
            clusters.push((id, self.labels_of(id, now).await?));
        }
        let sees_others = has_somewhere(caller, RightVerb::List);
        let listed = if sees_others { None } else { own_subject(caller) };
        let mut rows = Vec::new();
        if sees_others || listed.is_some() {
            for grant in self.ports.grants.list(listed, None).await? {
                let contains = |(id, labels): &(ClusterId, Labels)| grant.clusters.contains(*id, labels);
                let in_cluster = clusters.is_empty() || clusters.iter().any(contains);
                if in_cluster && is_visible(caller, &grant, now) {
                    rows.push(Row::of(&GrantRow::of(&grant, now))?);
                }
            }
        }
        Ok(select(rows, &query.list))
    }

    /// All grants that have not ended, ordered by id, for the command line.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn live(&self, caller: &Caller) -> Result<Vec<GrantRow>> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Grant)).await?;
        let now = self.clock.now();
        let mut grants = self.ports.grants.list(None, Some(now)).await?;
        grants.retain(|grant| is_visible(caller, grant, now));
        grants.sort_by_key(|grant| grant.id);
        Ok(grants.iter().map(|grant| GrantRow::of(grant, now)).collect())
    }

    /// Makes a grant. The caller needs `create grants` and every right of the role, in the whole scope and until its
    /// end. Warns of the power that the grant gives beyond its rights.
    ///
    /// # Errors
    /// `InvalidInput`; `RoleTooLow`, naming the first right that is missing; `NotFound` if the subject or the role does not
    /// exist; `TooMany`; `Overloaded` if rights change all the time; `StoreUnavailable`.
    pub async fn create(&self, caller: &Caller, mut grant: GrantRecord) -> Result<Changed<GrantRow>> {
        let reason = check_reason(grant.reason.as_deref())?;
        let now = self.clock.now();
        if grant.from.is_some_and(|from| from < now - MAX_PAST) {
            return Err(Error::invalid("from", Reason::OutOfRange));
        }
        grant.from = grant.from.map(|from| from.max(now));
        if grant.until.is_some_and(|until| until <= grant.from.unwrap_or(now)) {
            return Err(Error::invalid("until", Reason::OutOfRange));
        }
        let access = AccessRequest::to(Verb::Grant, Resource::Grant).named(grant.subject.to_string());
        let granted = self.grant_with(caller, RightVerb::Create, access.because(reason)).await?;
        let granted = granted
            .with("role", grant.role.as_str())
            .with("clusters", param(&grant.clusters))
            .with("namespaces", param(&grant.reach));
        let granted = with_some(granted, "from", grant.from.as_ref());
        let granted = with_some(granted, "until", grant.until.as_ref());
        let (this, caller) = (self.clone(), caller.clone());
        let work = async move |permit: Permit| {
            let gift = Gift {
                role: &grant.role,
                clusters: &grant.clusters,
                reach: &grant.reach,
                until: grant.until,
            };
            for _ in 0..ATTEMPTS {
                let (stamp, giver) = this.current(&caller).await?;
                let rules = this.may_give(&giver, &gift, this.clock.now()).await?;
                let created = match this.ports.grants.create(&permit, grant.clone(), Some(stamp)).await {
                    Err(error) if error.cause == Cause::Modified => continue,
                    created => created?,
                };
                let powers = derived_power(&rules, &grant.reach).into_iter().map(Warning::DerivedPower);
                let is_of_account = matches!(grant.subject, Subject::ServiceAccount(_));
                return Ok(Changed {
                    value: GrantRow::of(&created, created.created_at),
                    warnings: powers.chain(is_of_account.then_some(Warning::UsedByOwner)).collect(),
                });
            }
            Err(Error::new(Cause::Overloaded))
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Revokes a grant. The caller needs `delete grants` in its whole scope.
    ///
    /// # Errors
    /// `InvalidInput`; `RoleTooLow`; `NotFound` if there is no such grant that the caller sees; `StoreUnavailable`.
    pub async fn revoke(&self, caller: &Caller, id: GrantId, reason: Option<String>) -> Result<GrantRow> {
        let access = AccessRequest::to(Verb::Revoke, Resource::Grant).named(id.to_string());
        let access = access.because(check_reason(reason.as_deref())?);
        let mut granted = self.grant_with(caller, RightVerb::Delete, access).await?;
        let now = self.clock.now();
        let judged = self.may_revoke(caller, id, now).await;
        if let Ok(grant) = &judged {
            granted = granted.with("subject", grant.subject.to_string()).with("role", grant.role.as_str());
        }
        let registry = self.ports.grants.clone();
        let work = async move |permit: Permit| {
            judged?;
            let revoked = registry.revoke(&permit, id).await?;
            Ok(GrantRow::of(&revoked, now))
        };
        self.gate.change_local_granted(granted, work).await
    }

    async fn may_revoke(&self, caller: &Caller, id: GrantId, now: Timestamp) -> Result<Grant> {
        let found = self.ports.grants.find(id).await?.filter(|grant| is_visible(caller, grant, now));
        let not_found = || Error::new(Cause::NotFound).resource("grant").name(id.to_string());
        let grant = found.ok_or_else(not_found)?;
        let right = (RightVerb::Delete, &RightResource::Grants);
        covers(&caller.rights, right, &grant.clusters, &grant.reach, now).map_err(refusal)?;
        Ok(grant)
    }

    /// Whether the caller may give this now: with `create grants` and every right of the role, in the whole scope and
    /// until its end. Returns the rules of the role.
    ///
    /// # Errors
    /// `RoleTooLow`, `TooMany`, `NotFound` of the role, `StoreUnavailable`.
    async fn may_give(&self, caller: &Caller, gift: &Gift<'_>, now: Timestamp) -> Result<RoleRules> {
        check_size(gift.clusters, gift.reach)?;
        let right = (RightVerb::Create, &RightResource::Grants);
        covers(&caller.rights, right, gift.clusters, gift.reach, now).map_err(refusal)?;
        let rules = self.rules(gift.role).await?;
        let given = Given { rules: &rules, clusters: gift.clusters, reach: gift.reach, until: gift.until };
        includes(&caller.rights, &given).map_err(refusal)?;
        Ok(rules)
    }

    /// The rights stamp, and the caller with the rights that they have under it. The caller's own may be a second old,
    /// and a user may be disabled or deleted since.
    async fn current(&self, caller: &Caller) -> Result<(RightsStamp, Caller)> {
        let now = self.clock.now();
        let subjects: Vec<_> = own_subject(caller).into_iter().collect();
        // read before the user: a later change of the role changes the stamp
        let rows = self.ports.source.rights(&subjects, now).await?;
        let Some(id) = caller.user_id else { return Ok((rows.stamp, caller.clone())) };
        let user = self.users.list().await?.into_iter().find(|user| user.id == id && !user.disabled);
        let (role, stored) = user.map_or((Role::None, Vec::new()), |user| (user.role, rows.grants));
        let grants: Vec<_> = [EffectiveGrant::preset(role)].into_iter().chain(stored).collect();
        let rights = Arc::new(Rights::compile(&grants, &rows.labels, now));
        Ok((rows.stamp, caller.clone().with_rights(role, rights)))
    }

    /// Grants an operation to a caller who may do this to grants anywhere. Others are refused before anything of the
    /// request is looked up.
    async fn grant_with(&self, caller: &Caller, verb: RightVerb, access: AccessRequest) -> Result<Granted> {
        let granted = self.gate.grant(caller, access).await?;
        if has_somewhere(caller, verb) {
            return Ok(granted);
        }
        let missing = Missing { verb, resource: RightResource::Grants, cluster: None, namespace: None };
        self.gate.refuse_granted(&granted, refusal(missing)).await
    }

    /// The rules of a role.
    async fn rules(&self, name: &RoleName) -> Result<RoleRules> {
        if let Some(role) = BuiltInRole::parse(name.as_str()) {
            return Ok(role.rules());
        }
        let found = self.ports.roles.list().await?.into_iter().find(|role| role.name == *name);
        let not_found = || Error::new(Cause::NotFound).resource("role").name(name.as_str());
        found.map(|role| role.rules).ok_or_else(not_found)
    }

    /// The labels of a registered cluster.
    async fn labels_of(&self, id: ClusterId, now: Timestamp) -> Result<Labels> {
        let mut labels = self.ports.source.rights(&[], now).await?.labels;
        let not_found = || Error::new(Cause::NotFound).resource("cluster").name(id.to_string());
        labels.remove(&id).ok_or_else(not_found)
    }
}

/// What a grant or a request would give.
struct Gift<'a> {
    role: &'a RoleName,
    clusters: &'a ClusterScope,
    reach: &'a Reach,
    until: Option<Timestamp>,
}

/// The subject of a caller, without the groups of a user.
fn own_subject(caller: &Caller) -> Option<Subject> {
    caller.principal().map(Subject::from)
}

/// Whether a caller sees a grant: their own, and those whose whole scope lies where they may list grants.
fn is_visible(caller: &Caller, grant: &Grant, now: Timestamp) -> bool {
    let right = (RightVerb::List, &RightResource::Grants);
    own_subject(caller).as_ref() == Some(&grant.subject)
        || covers(&caller.rights, right, &grant.clusters, &grant.reach, now).is_ok()
}

/// Whether the caller may do this to grants anywhere.
fn has_somewhere(caller: &Caller, verb: RightVerb) -> bool {
    caller.rights.extent(verb, &RightResource::Grants) != Extent::None
}

/// The error for a right that the caller lacks.
fn refusal(missing: Missing) -> Error {
    Error::role_too_low(weakest_preset(missing.verb, &missing.resource)).missing(missing.into())
}

/// Checks the number of ids and of patterns of a grant.
fn check_size(clusters: &ClusterScope, reach: &Reach) -> Result<()> {
    let ids = if let ClusterScope::Ids(ids) = clusters { ids.len() } else { 0 };
    let patterns = if let Reach::Namespaces(set) = reach { set.patterns().len() } else { 0 };
    if ids > ClusterScope::MAX_IDS || patterns > Reach::MAX_PATTERNS {
        Err(Error::new(Cause::TooMany).resource("grant"))
    } else {
        Ok(())
    }
}

/// Checks the reason of a change.
pub(crate) fn check_reason(text: Option<&str>) -> Result<Option<ChangeReason>> {
    text.map(ChangeReason::new).transpose().map_err(|reason| Error::invalid("reason", reason))
}

/// Checks a free text of several lines.
pub(crate) fn check_text(field: &str, text: Option<&str>, length: RangeInclusive<usize>) -> Result<()> {
    let Some(text) = text else { return Ok(()) };
    check_free_text(text, &length).map_err(|reason| Error::invalid(field, reason))
}

/// A parameter for the audit trail.
fn param(value: &(impl Serialize + ?Sized)) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Adds a parameter for the audit trail if it has a value.
fn with_some(granted: Granted, name: &'static str, value: Option<&impl Serialize>) -> Granted {
    match value {
        Some(value) => granted.with(name, param(value)),
        None => granted,
    }
}
