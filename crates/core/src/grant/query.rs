//! Query of the list of grants.

use super::GrantRow;
use crate::{
    error::{Error, FieldError, Reason, Result},
    ids::ClusterId,
    rows::{ListQuery, QuerySpec, fields_of, number},
};

/// Query of the list of grants.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantQuery {
    /// Page, search, sort and filters on row fields.
    pub list: ListQuery,
    /// Only grants that contain this cluster.
    pub cluster: Option<ClusterId>,
}

impl GrantQuery {
    /// Default order: newest first.
    pub const DEFAULT_SORT: &str = "-created_at";

    /// Parses query parameters: those of every list, and `cluster_id`.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let (own, rest): (Vec<_>, Vec<_>) = pairs.iter().cloned().partition(|(name, _)| name == "cluster_id");
        let cluster = match &*own {
            [] => Ok(None),
            [(_, value)] => number(value, 1, i64::MAX as u64).map(|id| Some(ClusterId(id.cast_signed()))),
            _ => Err(Reason::Duplicate),
        };
        let list = ListQuery::parse_page(&QuerySpec::local(fields_of::<GrantRow>, Self::DEFAULT_SORT), &rest);
        match (list, cluster) {
            (Ok(list), Ok(cluster)) => Ok(Self { list, cluster }),
            (list, cluster) => {
                let mut refused = list.err().map(|error| error.context.fields).unwrap_or_default();
                let own = cluster.err().map(|reason| FieldError { name: "cluster_id".to_owned(), reason });
                refused.extend(own);
                Err(Error::fields(refused))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_is_parsed_beside_the_parameters_of_every_list() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let query = GrantQuery::parse(&pairs(&[("cluster_id", "7"), ("page", "2")])).unwrap();
        assert_eq!((query.cluster, query.list.page), (Some(ClusterId(7)), 2));
        assert_eq!(GrantQuery::parse(&[]).unwrap().cluster, None);
        let error = GrantQuery::parse(&pairs(&[("cluster_id", "0"), ("state", "open")])).unwrap_err();
        let fields: Vec<_> =
            error.context.fields.iter().map(|field| (field.name.as_str(), field.reason.as_str())).collect();
        assert_eq!(fields, [("state", "not_one_of"), ("cluster_id", "out_of_range")]);
        let error = GrantQuery::parse(&pairs(&[("cluster_id", "1"), ("cluster_id", "1")])).unwrap_err();
        assert_eq!(error.context.fields[0].reason, Reason::Duplicate);
    }
}
