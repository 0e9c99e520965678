//! Queries of the list of grants, and of the list of those who have a right.

use super::{AccessQuestion, GrantRow, SubjectGrants};
use crate::{
    error::{Error, FieldError, Reason, Result},
    ids::ClusterId,
    namespaces::NamespaceScope,
    rights::{RightResource, RightVerb},
    rows::{ListQuery, QuerySpec, fields_of, filter_values, number},
};

/// Query of the list of grants.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantQuery {
    /// Page, search, sort and filters on row fields.
    pub list: ListQuery,
    /// Only grants that contain one of these clusters; empty: all.
    pub clusters: Vec<ClusterId>,
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
        let clusters = single(&own, "cluster_id").and_then(parse_clusters);
        let list = ListQuery::parse_page(&QuerySpec::local(fields_of::<GrantRow>, Self::DEFAULT_SORT), &rest);
        match (list, clusters) {
            (Ok(list), Ok(clusters)) => Ok(Self { list, clusters }),
            (list, clusters) => {
                let mut refused = list.err().map(|error| error.context.fields).unwrap_or_default();
                let own = clusters.err().map(|reason| FieldError { name: "cluster_id".to_owned(), reason });
                refused.extend(own);
                Err(Error::fields(refused))
            }
        }
    }
}

/// Query of the list of those who have a right.
#[derive(Clone, Debug, PartialEq)]
pub struct WhoQuery {
    /// Page, search, sort and filters on row fields.
    pub list: ListQuery,
    /// The right.
    pub question: AccessQuestion,
}

impl WhoQuery {
    /// Names of the parameters of the question.
    const QUESTION: [&str; 4] = ["verb", "resource", "cluster_id", "namespace"];

    /// Parses query parameters: those of every list, and those of the question.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let (own, rest): (Vec<_>, Vec<_>) =
            pairs.iter().cloned().partition(|(name, _)| Self::QUESTION.contains(&name.as_str()));
        let verb = single(&own, "verb")
            .and_then(|text| RightVerb::parse(text.ok_or(Reason::Required)?).ok_or(Reason::NotOneOf));
        let resource =
            single(&own, "resource").and_then(|text| RightResource::parse(text.ok_or(Reason::Required)?));
        let cluster = single(&own, "cluster_id").and_then(parse_cluster);
        let namespaces = single(&own, "namespace")
            .and_then(|text| text.map_or(Ok(NamespaceScope::Unscoped), NamespaceScope::parse));
        let list = ListQuery::parse_page(&QuerySpec::local(fields_of::<SubjectGrants>, ""), &rest);
        match (list, verb, resource, cluster, namespaces) {
            (Ok(list), Ok(verb), Ok(resource), Ok(cluster), Ok(namespaces)) => {
                let question = AccessQuestion { verb, resource, cluster, namespaces };
                Ok(Self { list, question: question.checked()? })
            }
            (list, verb, resource, cluster, namespaces) => {
                let reasons = [verb.err(), resource.err(), cluster.err(), namespaces.err()];
                let own = Self::QUESTION.into_iter().zip(reasons);
                let own = own.filter_map(|(name, reason)| {
                    reason.map(|reason| FieldError { name: name.to_owned(), reason })
                });
                let of_list = list.err().map(|error| error.context.fields).unwrap_or_default();
                Err(Error::fields(own.chain(of_list).collect()))
            }
        }
    }
}

/// The value of a parameter that may be given once.
fn single<'a>(pairs: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, Reason> {
    let mut values = pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Reason::Duplicate),
    }
}

fn parse_clusters(text: Option<&str>) -> Result<Vec<ClusterId>, Reason> {
    let ids = text.map(filter_values).transpose()?.unwrap_or_default();
    ids.into_iter().map(cluster_id).collect()
}

fn parse_cluster(text: Option<&str>) -> Result<Option<ClusterId>, Reason> {
    text.map(cluster_id).transpose()
}

fn cluster_id(text: &str) -> Result<ClusterId, Reason> {
    number(text, 1, i64::MAX as u64).map(|id| ClusterId(id.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_is_parsed_beside_the_parameters_of_every_list() {
        let parse = |query: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            WhoQuery::parse(&pairs).map_err(|error| {
                let field = |field: &FieldError| format!("{}={}", field.name, field.reason);
                error.context.fields.iter().map(field).collect::<Vec<_>>().join(" ")
            })
        };
        let query = parse("verb=scale&resource=workloads&cluster_id=7&namespace=*&page=2&user_id=3").unwrap();
        assert_eq!(
            query.question,
            AccessQuestion {
                verb: RightVerb::Scale,
                resource: RightResource::Workloads,
                cluster: Some(ClusterId(7)),
                namespaces: NamespaceScope::All,
            }
        );
        assert_eq!((query.list.page, query.list.filters.len()), (2, 1));
        let question = parse("verb=list&resource=custom:example.org").unwrap().question;
        assert_eq!((question.cluster, question.namespaces), (None, NamespaceScope::Unscoped));
        let cases = [
            ("", "verb=required resource=required"),
            ("verb=watch&resource=pods&page=0", "verb=not_one_of resource=not_one_of page=out_of_range"),
            ("verb=list&verb=get&resource=nodes", "verb=duplicate"),
            ("verb=scale&resource=secrets", "verb=not_allowed"),
            (
                "verb=get&resource=nodes&cluster_id=0&namespace=a*&nope=1",
                "cluster_id=out_of_range namespace=invalid_name nope=unknown",
            ),
        ];
        for (query, refused) in cases {
            assert_eq!(parse(query).unwrap_err(), refused, "{query}");
        }
    }

    #[test]
    fn cluster_id_is_parsed_beside_the_parameters_of_every_list() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let query = GrantQuery::parse(&pairs(&[("cluster_id", "7"), ("page", "2")])).unwrap();
        assert_eq!((query.clusters, query.list.page), (vec![ClusterId(7)], 2));
        assert!(GrantQuery::parse(&[]).unwrap().clusters.is_empty());
        let several = GrantQuery::parse(&pairs(&[("cluster_id", "7,8")])).unwrap();
        assert_eq!(several.clusters, [ClusterId(7), ClusterId(8)]);
        let error = GrantQuery::parse(&pairs(&[("cluster_id", "0"), ("state", "open")])).unwrap_err();
        let fields: Vec<_> =
            error.context.fields.iter().map(|field| (field.name.as_str(), field.reason.as_str())).collect();
        assert_eq!(fields, [("state", "not_one_of"), ("cluster_id", "out_of_range")]);
        let error = GrantQuery::parse(&pairs(&[("cluster_id", "1"), ("cluster_id", "1")])).unwrap_err();
        assert_eq!(error.context.fields[0].reason, Reason::Duplicate);
    }
}
