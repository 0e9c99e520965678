//! Request types shared by several routes.

use std::borrow::Cow;

use jiff::Timestamp;
use pilothouse_core::{
    clock::parse_timestamp,
    error::Reason,
    ids::ClusterId,
    name::{Namespace, ObjectName},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

/// The id of a row in Pilothouse's database, at least 1.
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

/// A request body with the id of one row.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ById {
    /// The id of the row.
    pub(crate) id: Id,
}

/// The name of an object in a namespace of a cluster, as query parameters or as a request body.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByName {
    /// The id of the cluster.
    #[param(inline)]
    pub(crate) cluster_id: Id,
    #[param(inline)]
    pub(crate) namespace: Namespace,
    #[param(inline, example = "settings")]
    pub(crate) name: ObjectName,
}

/// A request body without fields.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

/// An integer from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Bounded<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = Reason;

    fn try_from(number: i64) -> Result<Self, Reason> {
        let number = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or(Reason::OutOfRange)
    }
}

/// Parses an optional timestamp; none for null.
pub(super) fn optional_timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<Cow<'_, str>>::deserialize(from)?;
    text.map(|text| parse_timestamp(&text).map_err(D::Error::custom)).transpose()
}
