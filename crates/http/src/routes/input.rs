//! Small types that several requests are made of.

use pilothouse_core::{
    cluster::ClusterId,
    error::Reason,
    name::{Namespace, ObjectName},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

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
    #[schema(value_type = i64, minimum = 1)]
    pub(crate) id: Id,
}

/// Which object of a kind: as query parameters, or as a body.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByName {
    #[param(value_type = i64, minimum = 1)]
    #[schema(value_type = i64, minimum = 1)]
    pub(crate) cluster_id: Id,
    #[param(value_type = String, max_length = 63)]
    #[schema(value_type = String, max_length = 63)]
    pub(crate) namespace: Namespace,
    #[param(value_type = String, max_length = 253)]
    #[schema(value_type = String, max_length = 253)]
    pub(crate) name: ObjectName,
}

/// A body without fields.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFields {}

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Within<const LEAST: u32, const MOST: u32>(pub(crate) u32);

impl<const LEAST: u32, const MOST: u32> TryFrom<i64> for Within<LEAST, MOST> {
    type Error = Reason;

    fn try_from(number: i64) -> Result<Self, Reason> {
        let number = u32::try_from(number).ok().filter(|number| (LEAST..=MOST).contains(number));
        number.map(Self).ok_or(Reason::OutOfRange)
    }
}
