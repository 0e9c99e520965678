//! Small types that several requests are made of.

use pilothouse_core::{
    cluster::ClusterId,
    error::Reason,
    name::{Namespace, ObjectName},
};
use serde::Deserialize;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

/// The id of a row of ours, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Id(pub(crate) i64);

impl TryFrom<i64> for Id {
    type Error = Reason;

    fn try_from(id: i64) -> Result<Self, Reason> {
        if id >= 1 { Ok(Self(id)) } else { Err(Reason::OutOfRange) }
    }
}

impl PartialSchema for Id {
    fn schema() -> RefOr<Schema> {
        let id = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let int64 = SchemaFormat::KnownFormat(KnownFormat::Int64);
        id.format(Some(int64)).description(Some("The id of a row in Pilothouse's database.")).build().into()
    }
}

impl ToSchema for Id {}

impl From<Id> for ClusterId {
    fn from(id: Id) -> Self {
        Self(id.0)
    }
}

/// A body that names one row by its id.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ById {
    /// Which.
    pub(crate) id: Id,
}

/// Which object of a kind: as query parameters, or as a body.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByName {
    /// Which cluster.
    #[param(inline)]
    pub(crate) cluster_id: Id,
    #[param(inline)]
    pub(crate) namespace: Namespace,
    #[param(inline, example = "settings")]
    pub(crate) name: ObjectName,
}

/// A body without fields.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Bounded<const LEAST: u32, const MOST: u32>(pub(crate) u32);

impl<const LEAST: u32, const MOST: u32> TryFrom<i64> for Bounded<LEAST, MOST> {
    type Error = Reason;

    fn try_from(number: i64) -> Result<Self, Reason> {
        let number = u32::try_from(number).ok().filter(|number| (LEAST..=MOST).contains(number));
        number.map(Self).ok_or(Reason::OutOfRange)
    }
}
