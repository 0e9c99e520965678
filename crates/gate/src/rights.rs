//! Rights: what a caller may do, in which clusters and namespaces, and until when.
//!
//! Rights are additive [`Grant`]s: a subject has a role in clusters, in namespaces, for a time. There is no rule that
//! denies. [`Rights::compile`] makes a table of the live grants of one caller, and [`decide()`] answers a question from
//! it. All functions are pure: time is a parameter, and the rows come from the store. `docs/access.md` describes the
//! model, `docs/decisions/0034-grants.md` the decisions.

mod ceiling;
mod cluster_scope;
mod compiled;
mod decide;
mod derived;
mod grant;
mod include;
mod mapping;
mod reach;
mod right;
mod role;

pub use ceiling::Ceiling;
pub use cluster_scope::{ClusterScope, LabelTerms, Labels};
pub use compiled::{ClusterLabels, Rights};
pub use decide::{Ask, Decision, Explanation, Extent, Missing, Verdict, decide, explain};
pub use derived::{DerivedPower, derived_power};
pub use grant::{EffectiveGrant, Grant, GrantRef, GrantSource, GrantState, Subject};
pub use include::{Given, covers, includes};
pub use mapping::{Needs, needs, resource_of, resource_of_kind};
pub use reach::Reach;
pub use right::{ApiGroup, RightResource, RightVerb, Verbs};
pub use role::{BuiltInRole, RoleName, RoleRule, RoleRules, preset, weakest_preset};
