//! Route for the comparison of a workload across clusters.

use std::collections::BTreeSet;

use actix_web::web::Data;
use pilothouse_core::{
    compare::Comparison,
    error::Reason,
    ids::ClusterId,
    name::{Namespace, ObjectName},
    rows::number,
    workload::{WorkloadRef, WorkloadType},
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{api::Api, error::Result, extract::Authenticated, query::Params, response::Response};

/// Ids of clusters, separated by commas: at most 20 different ones.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ClusterIds(Vec<ClusterId>);

impl ClusterIds {
    /// Maximum number of ids.
    const MAX: usize = 20;
}

impl TryFrom<String> for ClusterIds {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        let id = |text| number(text, 1, i64::MAX as u64).map(|id| ClusterId(id.cast_signed()));
        let ids: Vec<_> = text.split(',').map(id).collect::<Result<_, _>>()?;
        if ids.len() > Self::MAX {
            Err(Reason::TooLong)
        } else if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
            Err(Reason::Duplicate)
        } else {
            Ok(Self(ids))
        }
    }
}

/// A workload, and the clusters in which it is compared.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompareQuery {
    #[param(inline)]
    namespace: Namespace,
    #[param(inline)]
    r#type: WorkloadType,
    #[param(inline)]
    name: ObjectName,
    /// The ids of the clusters, separated by commas, at most 20; the default are all in which the caller has a right.
    #[param(
        value_type = String,
        required = false,
        max_length = 399,
        pattern = "^[1-9][0-9]*(,[1-9][0-9]*)*$",
        example = "1,2"
    )]
    cluster_id: Option<ClusterIds>,
}

pub(crate) async fn compare(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<CompareQuery>>,
) -> Result<Response<Comparison>> {
    let workload = WorkloadRef { namespace: query.namespace, kind: query.r#type, name: query.name };
    let clusters = query.cluster_id.map_or_else(Vec::new, |ClusterIds(ids)| ids);
    Ok(Response::of(api.app.compare.compare(signed_in.caller(), &workload, &clusters).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_separated_by_commas() {
        let parse = |text: &str| ClusterIds::try_from(text.to_owned());
        assert_eq!(parse("1"), Ok(ClusterIds(vec![ClusterId(1)])));
        assert_eq!(parse("12,3"), Ok(ClusterIds(vec![ClusterId(12), ClusterId(3)])));
        let many = (1..=21).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
        for (text, reason) in [
            ("", Reason::Required),
            ("1,", Reason::Required),
            ("1,,2", Reason::Required),
            ("x", Reason::InvalidType),
            ("1, 2", Reason::InvalidType),
            ("0", Reason::OutOfRange),
            ("1,1", Reason::Duplicate),
            (&*many, Reason::TooLong),
        ] {
            assert_eq!(parse(text), Err(reason), "{text:?}");
        }
    }
}
