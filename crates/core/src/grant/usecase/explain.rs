//! Use cases that tell who has which rights: the caller's own, an explanation of one decision, and all who have a
//! right.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use serde::Serialize;

use super::{Grants, own_subject, refusal};
use crate::{
    access::{AccessRequest, Caller, Resource, Verb},
    error::{Cause, Error, Reason, Result},
    grant::{SubjectRow, WhoQuery},
    ids::{ClusterId, GrantId, UserId},
    namespaces::NamespaceScope,
    rights::{
        Ask, BuiltInRole, ClusterScope, Decision, EffectiveGrant, Explanation, GrantRef, GrantState, Missing,
        Reach, RightResource, RightVerb, Rights, RoleName, RoleRule, RoleRules, Subject, Verdict, covers,
        decide, explain,
    },
    role::Role,
    rows::{Cell, Field, Filter, ListRow, Pagination, Row, select},
    user::User,
};

/// Question about a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessQuestion {
    /// The verb.
    pub verb: RightVerb,
    /// The resource.
    pub resource: RightResource,
    /// The cluster; `None` for what concerns all clusters.
    pub cluster: Option<ClusterId>,
    /// The namespaces; [`NamespaceScope::Unscoped`] for an object without a namespace.
    pub namespaces: NamespaceScope,
}

impl AccessQuestion {
    /// Checks that the verb exists for the resource.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn checked(self) -> Result<Self> {
        if self.resource.verbs().contains(self.verb) {
            Ok(self)
        } else {
            Err(Error::invalid("verb", Reason::NotAllowed))
        }
    }
}

impl From<AccessQuestion> for Ask {
    fn from(question: AccessQuestion) -> Self {
        let AccessQuestion { verb, resource, cluster, namespaces } = question;
        Self { verb, resource, cluster, namespaces }
    }
}

/// The grant that gives a right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantRefRow {
    /// Id of the grant; null for the rights of the user's role.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub grant_id: Option<GrantId>,
    /// Name of the role.
    pub role: String,
    /// The group that has the grant, as `group:<provider>:<name>`; null if the user has it.
    pub via_group: Option<String>,
    /// End of the grant; null without end.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub until: Option<Timestamp>,
}

impl From<&GrantRef> for GrantRefRow {
    fn from(grant: &GrantRef) -> Self {
        let GrantRef { id, role, via_group, until } = grant.clone();
        Self { grant_id: id, role, via_group, until }
    }
}

/// The right that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MissingRow {
    /// The verb.
    pub verb: RightVerb,
    /// The resource.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub resource: RightResource,
    /// The cluster; null for all clusters.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub cluster_id: Option<ClusterId>,
    /// The namespace; null for an object without a namespace, and for several namespaces.
    pub namespace: Option<String>,
}

impl From<&Missing> for MissingRow {
    fn from(missing: &Missing) -> Self {
        Self {
            verb: missing.verb,
            resource: missing.resource.clone(),
            cluster_id: missing.cluster,
            namespace: missing.namespace.as_ref().map(ToString::to_string),
        }
    }
}

/// A step of a decision: one grant of the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LayerRow {
    /// The layer: `grant`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub layer: &'static str,
    /// `allows`, or why the grant does not: `other_cluster`, `other_role`, `other_namespaces`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub verdict: &'static str,
    /// The grant.
    pub because: GrantRefRow,
}

/// A decision on a question, with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explained {
    /// Whether the user may do it, or a part of it if the question is about all namespaces.
    pub allowed: bool,
    /// The first grant that gives the right; null if it is missing.
    pub because: Option<GrantRefRow>,
    /// The user's active grants, in the order in which they are examined.
    pub layers: Vec<LayerRow>,
    /// The missing right; null if the user has it.
    pub missing: Option<MissingRow>,
    /// The roles that would give the right in the place of the question, the built-in ones first, the weakest first.
    /// Empty if the user has it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub roles_that_would_do: Vec<RoleName>,
}

/// Rights of the caller by one grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MyRight {
    /// Clusters: `{"all": true}`, `{"ids": [1]}` or `{"labels": "environment=staging"}`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub clusters: ClusterScope,
    /// Patterns of namespaces; null for the whole cluster.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub namespaces: Reach,
    /// Name of the role.
    pub role: String,
    /// The rules that hold in the grant.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub rules: Vec<RoleRule>,
    /// End of the grant; null without end.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub until: Option<Timestamp>,
}

/// Rights of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MyRights {
    /// Role of the user; the rights that it gives are the first of `rights`.
    pub role: Role,
    /// The active grants of the user.
    pub rights: Vec<MyRight>,
    /// For each right, by verb and resource (`get workloads`): `all` clusters with the reach `cluster`, `some`, `none`.
    pub can: BTreeMap<String, &'static str>,
}

/// A subject that has a right, with the grants that give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubjectGrants {
    /// Who has the right.
    pub subject: SubjectRow,
    /// Name of the user; null for another subject.
    pub username: Option<String>,
    /// The grants that give the right.
    pub grants: Vec<GrantRefRow>,
}

impl ListRow for SubjectGrants {
    const FIELDS: &'static [Field<Self>] = &[
        Field::filtered("subject_type", Filter::OneOf(&["user", "group", "service_account"]), |row| {
            Cell::text(row.subject.kind)
        }),
        Field::filtered("user_id", Filter::Number, |row| {
            Cell::from(row.subject.id.filter(|_| row.subject.kind == "user"))
        }),
        Field::new("username", |row| Cell::from(&row.username)),
    ];

    fn name(&self) -> &str {
        self.username.as_deref().or(self.subject.name.as_deref()).unwrap_or_default()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        self.subject.provider.as_deref().into_iter().collect()
    }
}

impl Grants {
    /// The caller's own rights now.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn mine(&self, caller: &Caller) -> Result<MyRights> {
        self.gate.allow(caller, AccessRequest::to(Verb::Get, Resource::Grant)).await?;
        let now = self.clock.now();
        let role = caller.role.unwrap_or(Role::None);
        let subjects: Vec<_> = own_subject(caller).into_iter().collect();
        let stored = self.ports.source.rights(&subjects, now).await?.grants;
        let preset = (role != Role::None).then(|| EffectiveGrant::preset(role));
        let active = preset.into_iter().chain(stored).filter(|grant| grant.state(now) == GrantState::Active);
        let rights = active.map(|grant| MyRight {
            rules: grant.rules.effective(grant.reach == Reach::Cluster).cloned().collect(),
            clusters: grant.clusters,
            namespaces: grant.reach,
            role: grant.grant.role,
            until: grant.grant.until,
        });
        let can = RightResource::all().flat_map(|resource| {
            let verbs = resource.verbs();
            verbs.iter().map(move |verb| {
                (format!("{verb} {resource}"), caller.rights.extent(verb, &resource).as_str())
            })
        });
        Ok(MyRights { role, rights: rights.collect(), can: can.collect() })
    }

    /// Explains a decision on the caller or, with `list grants` in the place of the question, on another user. The
    /// decision is the one that the gate makes. A caller who may not list all grants gets no grants of another user but
    /// those that give the right.
    ///
    /// # Errors
    /// `RoleTooLow`; `NotFound` of the user, and of a cluster in which the caller has no right; `StoreUnavailable`.
    pub async fn explain(
        &self,
        caller: &Caller,
        question: AccessQuestion,
        user: Option<UserId>,
    ) -> Result<Explained> {
        let ask = Ask::from(question);
        let explanation = match user.filter(|user| caller.user_id != Some(*user)) {
            None => {
                self.gate.allow(caller, to_question(&ask)).await?;
                explain(&caller.rights, &ask)
            }
            Some(user) => {
                self.require_list(caller, &ask).await?;
                let mut explanation = explain(&self.rights_of(user).await?, &ask);
                let sees_all = self.lists_all(caller);
                explanation.grants.retain(|(_, verdict)| sees_all || *verdict == Verdict::Allows);
                explanation
            }
        };
        let Explanation { decision, grants } = explanation;
        let layer = |(grant, verdict): (Arc<GrantRef>, Verdict)| LayerRow {
            layer: "grant",
            verdict: verdict.as_str(),
            because: GrantRefRow::from(&*grant),
        };
        let layers = grants.into_iter().map(layer).collect();
        Ok(match decision {
            Decision::Allow { grant, .. } => Explained {
                allowed: true,
                because: Some(GrantRefRow::from(&*grant)),
                layers,
                missing: None,
                roles_that_would_do: Vec::new(),
            },
            Decision::Deny { missing } => Explained {
                allowed: false,
                because: None,
                layers,
                missing: Some(MissingRow::from(&missing)),
                roles_that_would_do: self.roles_with(&ask).await?,
            },
        })
    }

    /// A page of those who have a right, or a part of it, by their role or by a grant, without disabled users. The
    /// caller needs `list grants` in the place of the question, and gets the grants that give the right there, also
    /// those whose scope is wider.
    ///
    /// # Errors
    /// `RoleTooLow`; `NotFound` of a cluster in which the caller has no right; `StoreUnavailable`.
    pub async fn who(&self, caller: &Caller, query: &WhoQuery) -> Result<(Vec<Row>, Pagination)> {
        let ask = Ask::from(query.question.clone());
        self.require_list(caller, &ask).await?;
        let now = self.clock.now();
        let mut labels = self.ports.source.rights(&[], now).await?.labels;
        labels.retain(|id, _| Some(*id) == ask.cluster);
        let gives =
            |grant: EffectiveGrant| decide(&Rights::compile(&[grant], &labels, now), &ask).is_allowed();

        let enabled: HashMap<UserId, User> = self
            .users
            .list()
            .await?
            .into_iter()
            .filter(|user| !user.disabled)
            .map(|user| (user.id, user))
            .collect();
        let mut found = BTreeMap::<Subject, Vec<GrantRefRow>>::new();
        let presets: Vec<_> =
            Role::ALL.into_iter().filter(|role| gives(EffectiveGrant::preset(*role))).collect();
        for user in enabled.values().filter(|user| presets.contains(&user.role)) {
            let preset = GrantRefRow::from(&EffectiveGrant::preset(user.role).grant);
            found.entry(Subject::User(user.id)).or_default().push(preset);
        }
        let own: HashMap<_, _> = self
            .ports
            .roles
            .list()
            .await?
            .into_iter()
            .map(|role| (role.name, Arc::new(role.rules)))
            .collect();
        for grant in self.ports.grants.list(None, Some(now)).await? {
            let built_in = || BuiltInRole::parse(grant.role.as_str()).map(|role| Arc::new(role.rules()));
            let rules = built_in().or_else(|| own.get(&grant.role).cloned());
            let is_disabled = matches!(grant.subject, Subject::User(id) if !enabled.contains_key(&id));
            // a role in use cannot be deleted, so every live grant has its rules
            let Some(rules) = rules.filter(|_| !is_disabled) else { continue };
            let effective = EffectiveGrant::of(&grant, rules);
            let row = GrantRefRow::from(&effective.grant);
            if gives(effective) {
                found.entry(grant.subject).or_default().push(row);
            }
        }
        let row = |(subject, grants): (Subject, Vec<GrantRefRow>)| SubjectGrants {
            username: match &subject {
                Subject::User(id) => enabled.get(id).map(|user| user.username.to_string()),
                Subject::Group { .. } | Subject::ServiceAccount(_) => None,
            },
            subject: SubjectRow::from(&subject),
            grants,
        };
        let rows = found.into_iter().map(|one| Row::of(&row(one))).collect::<Result<_>>()?;
        Ok(select(rows, &query.list))
    }

    /// Refuses a question about others without `list grants` in its whole place.
    async fn require_list(&self, caller: &Caller, ask: &Ask) -> Result<()> {
        // before the cluster is looked up
        self.grant_with(caller, RightVerb::List, AccessRequest::to(Verb::Get, Resource::Grant)).await?;
        let granted = self.gate.grant(caller, to_question(ask)).await?;
        let listing = Ask { verb: RightVerb::List, resource: RightResource::Grants, ..ask.clone() };
        let missing = match decide(&caller.rights, &listing) {
            Decision::Allow { scope, .. } if scope == listing.namespaces => return Ok(()),
            Decision::Allow { .. } => {
                let Ask { verb, resource, cluster, .. } = listing;
                Missing { verb, resource, cluster, namespace: None }
            }
            Decision::Deny { missing } => missing,
        };
        self.gate.refuse_granted(&granted, refusal(missing)).await
    }

    /// Whether the caller may list all grants.
    fn lists_all(&self, caller: &Caller) -> bool {
        let right = (RightVerb::List, &RightResource::Grants);
        covers(&caller.rights, right, &ClusterScope::All, &Reach::Cluster, self.clock.now()).is_ok()
    }

    /// The rights of a user now.
    async fn rights_of(&self, id: UserId) -> Result<Rights> {
        let found = self.users.list().await?.into_iter().find(|user| user.id == id);
        let not_found = || Error::new(Cause::NotFound).resource("user").name(id.to_string());
        let preset = EffectiveGrant::preset(found.ok_or_else(not_found)?.role);
        let now = self.clock.now();
        let rows = self.ports.source.rights(&[Subject::User(id)], now).await?;
        let grants: Vec<_> = [preset].into_iter().chain(rows.grants).collect();
        Ok(Rights::compile(&grants, &rows.labels, now))
    }

    /// The roles that give a right in the place of a question.
    async fn roles_with(&self, ask: &Ask) -> Result<Vec<RoleName>> {
        let reach_is_cluster = ask.namespaces == NamespaceScope::Unscoped || ask.resource.is_cluster_scoped();
        // any right shows the row of its cluster, and the names of its namespaces
        let any_right_does = match ask.resource {
            RightResource::Clusters => matches!(ask.verb, RightVerb::List | RightVerb::Get),
            RightResource::Namespaces => ask.verb == RightVerb::List,
            _ => false,
        };
        let gives = |rules: &RoleRules| {
            any_right_does || rules.verbs(&ask.resource, reach_is_cluster).contains(ask.verb)
        };
        let built_in = BuiltInRole::ALL.into_iter().filter(|role| gives(&role.rules())).map(RoleName::from);
        let own = self.ports.roles.list().await?.into_iter().filter(|role| gives(&role.rules));
        Ok(built_in.chain(own.map(|role| role.name)).collect())
    }
}

/// The access request of a question. A cluster in which the caller has no right is not found.
fn to_question(ask: &Ask) -> AccessRequest {
    let access = AccessRequest::to(Verb::Get, Resource::Grant);
    match ask.cluster {
        Some(cluster) => access.in_cluster(cluster),
        None => access,
    }
}
