//! Query parameters of lists of objects of any kind. The kind is known only after the cluster's discovery was asked, so
//! `namespace` is checked last.

use super::{ResourceName, row::StoredObject};
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::{Cause, Error, FieldError, Reason, Result},
    ids::ClusterId,
    kind::Kind,
    rows::{ListQuery, ListScope, QuerySpec, fields_of},
};

/// Parsed query of a list of objects of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectQuery {
    /// The cluster.
    pub cluster: ClusterId,
    /// The kind.
    pub resource: ResourceName,
    query: ListQuery,
    /// Whether the query names a namespace, or all.
    has_namespace: bool,
}

/// Specification of the query parameters. Whether `namespace` belongs to them depends on the kind.
const SPEC: QuerySpec = QuerySpec {
    scope: ListScope::Namespaced,
    kinds: &[],
    more_kinds: &[],
    default_sort: "",
    owner_field: None,
    fields: fields_of::<StoredObject>,
};

impl ObjectQuery {
    /// Parses the query parameters of a page or a watch.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter; `SecretRefused` for Secrets.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let (named, others): (Vec<_>, Vec<_>) =
            pairs.iter().cloned().partition(|(name, _)| name == "resource");
        let resource = match &named[..] {
            [] => Err(Reason::Required),
            [(_, text)] => text.parse::<ResourceName>(),
            _ => Err(Reason::Duplicate),
        };
        let refused = |reason| FieldError { name: "resource".to_owned(), reason };
        let (resource, query) = match (resource, ListQuery::parse_objects(&SPEC, &others)) {
            (Ok(resource), Ok(query)) => (resource, query),
            (Ok(_), Err(error)) => return Err(error),
            (Err(reason), Ok(_)) => return Err(Error::fields(vec![refused(reason)])),
            (Err(reason), Err(error)) => {
                return Err(Error::fields([vec![refused(reason)], error.context.fields].concat()));
            }
        };
        check(&resource)?;
        let cluster = query.cluster.ok_or_else(|| Error::invalid("cluster_id", Reason::Required))?;
        let has_namespace = others.iter().any(|(name, _)| name == "namespace");
        Ok(Self { cluster, resource, query, has_namespace })
    }

    /// Number of rows of a page.
    pub(crate) fn per_page(&self) -> u64 {
        self.query.per_page
    }

    /// The query of rows of this kind.
    ///
    /// # Errors
    /// `InvalidInput` if the query has no namespace although the kind is namespaced, or has one although it is not.
    pub fn of_kind(&self, kind: Kind) -> Result<ListQuery> {
        match (kind.info().namespaced, self.has_namespace) {
            (true, false) => Err(Error::invalid("namespace", Reason::Required)),
            (false, true) => Err(Error::invalid("namespace", Reason::Unknown)),
            _ => Ok(ListQuery { kinds: vec![kind], ..self.query.clone() }),
        }
    }
}

/// Checks that objects of this name may be read as objects of any kind.
///
/// # Errors
/// `SecretRefused` for Secrets.
pub(super) fn check(resource: &ResourceName) -> Result<()> {
    if resource.is_secrets() { Err(Error::new(Cause::SecretRefused).resource("secret")) } else { Ok(()) }
}

/// The access request for listing the kind of a query, without a cluster.
///
/// # Errors
/// `Internal` if the query has no kind: it does not come from [`ObjectQuery::of_kind`].
pub(crate) fn to_list_objects(query: &ListQuery) -> Result<AccessRequest> {
    let kind = *query.kinds.first().ok_or_else(|| Error::internal("a list of objects without a kind"))?;
    let access = AccessRequest::to(Verb::List, Resource::Kind(kind));
    Ok(if kind.belongs_to_namespace() { access.within(query.namespaces.clone()) } else { access })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{namespaces::NamespaceScope, testing};

    fn parse(text: &str) -> Result<ObjectQuery> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        ObjectQuery::parse(&pairs)
    }

    fn refused(text: &str) -> String {
        let error = parse(text).unwrap_err();
        let fields = error.context.fields.iter().map(|field| format!("{}={}", field.name, field.reason));
        match fields.collect::<Vec<_>>().join(" ") {
            fields if fields.is_empty() => error.cause.as_str().to_owned(),
            fields => fields,
        }
    }

    #[test]
    fn parameters_are_those_of_a_list_and_the_resource() {
        let query = parse("cluster_id=3&resource=boats.day2.example.org&namespace=shop&page=2&per_page=5&sort=-cell.2&search=We").unwrap();
        assert_eq!((query.cluster, &*query.resource.to_string()), (ClusterId(3), "boats.day2.example.org"));
        let rows = query.of_kind(Kind::Pod).unwrap();
        assert_eq!(
            (rows.page, rows.per_page, rows.search.as_deref(), rows.kinds),
            (2, 5, Some("we"), vec![Kind::Pod])
        );
        let sort = rows.sort.unwrap();
        assert_eq!((fields_of::<StoredObject>()[sort.field].name, sort.descending), ("cell.2", true));
        for (text, expected) in [
            ("", "resource=required cluster_id=required"),
            ("cluster_id=1", "resource=required"),
            ("cluster_id=1&resource=Pods", "resource=invalid_name"),
            ("cluster_id=1&resource=pods&resource=pods", "resource=duplicate"),
            ("cluster_id=1&resource=pods&sort=cell.24", "sort=not_one_of"),
            ("cluster_id=1&resource=pods&sort=labels", "sort=not_one_of"),
            ("cluster_id=1&resource=pods&kind=pods", "kind=unknown"),
            ("cluster_id=1&resource=pods&status=Running", "status=unknown"),
            ("cluster_id=1&resource=secrets&namespace=a", "secret_refused"),
        ] {
            assert_eq!(refused(text), expected, "{text}");
        }
    }

    #[test]
    fn namespace_is_required_for_namespaced_kinds_and_unknown_for_others() {
        let reason = |text: &str, kind: Kind| {
            let result = parse(text).unwrap().of_kind(kind);
            result.err().map(|error| (error.context.fields[0].name.clone(), error.context.fields[0].reason))
        };
        let with = "cluster_id=1&resource=x&namespace=*";
        let without = "cluster_id=1&resource=x";
        assert_eq!(reason(with, Kind::Pod), None);
        assert_eq!(reason(without, Kind::Pod), Some(("namespace".to_owned(), Reason::Required)));
        assert_eq!(reason(with, Kind::Node), Some(("namespace".to_owned(), Reason::Unknown)));
        assert_eq!(reason(without, Kind::Namespace), None);
    }

    #[test]
    fn cluster_scoped_kinds_are_requested_in_no_namespace() {
        let scope = |text: &str, kind: Kind| {
            let access = to_list_objects(&parse(text).unwrap().of_kind(kind).unwrap()).unwrap();
            let caller = crate::access::Caller::system();
            testing::permit(&caller, access.in_cluster(ClusterId(1))).namespaces().clone()
        };
        assert_eq!(scope("cluster_id=1&resource=x&namespace=*", Kind::Pod), NamespaceScope::All);
        assert_eq!(scope("cluster_id=1&resource=x", Kind::Node), NamespaceScope::Unscoped);
        assert_eq!(scope("cluster_id=1&resource=x", Kind::Namespace), NamespaceScope::All);
        assert!(to_list_objects(&ListQuery::default()).is_err());
    }
}
