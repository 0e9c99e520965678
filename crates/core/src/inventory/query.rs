//! Parsers of the query parameters of lists.

use super::{List, ListInfo, WatchQuery, countable_lists, objects::ObjectQuery, searchable_lists};
use crate::{
    error::{Error, FieldError, Reason, Result},
    rows::{ListQuery, QuerySpec},
};

/// Returns the list whose key is the value of `kind`.
fn of_kind(pairs: &[(String, String)], mut of: impl Iterator<Item = &'static ListInfo>) -> Result<List> {
    let given = pairs.iter().find(|(name, _)| name == "kind").map_or("", |(_, kind)| kind);
    let reason = if given.is_empty() { Reason::Required } else { Reason::NotOneOf };
    of.find(|info| info.key == given).map(|info| info.list).ok_or_else(|| Error::invalid("kind", reason))
}

impl ListInfo {
    /// Specification of the list's query parameters.
    fn query_spec(&self) -> QuerySpec {
        let Self { scope, kinds, more_kinds, default_sort, fields, .. } = *self;
        let owner_field = self.owner.map(|owner| owner.field);
        QuerySpec { scope, kinds, more_kinds, default_sort, owner_field, fields }
    }
}

impl List {
    /// Parses the query parameters of a page.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter: unknown, duplicate, missing, out of range.
    pub fn parse_page(self, pairs: &[(String, String)]) -> Result<ListQuery> {
        ListQuery::parse_page(&self.info().query_spec(), pairs)
    }

    /// Parses the query parameters of a search in all clusters. Also returns the list, one of [`searchable_lists`].
    ///
    /// # Errors
    /// As [`List::parse_page`].
    pub fn parse_search(pairs: &[(String, String)]) -> Result<(Self, ListQuery)> {
        let list = of_kind(pairs, searchable_lists())?;
        Ok((list, ListQuery::parse_search(&list.info().query_spec(), pairs)?))
    }

    /// Parses the parameters of an overview: `kind`, the key of a countable list, or none.
    ///
    /// # Errors
    /// `InvalidInput`, naming the refused parameter.
    pub fn parse_countable(pairs: &[(String, String)]) -> Result<Vec<Self>> {
        let refused = pairs.iter().enumerate().filter_map(|(i, (name, _))| {
            let reason = match name.as_str() {
                "kind" if i == 0 => return None,
                "kind" => Reason::Duplicate,
                _ => Reason::Unknown,
            };
            Some(FieldError { name: name.clone(), reason })
        });
        let refused: Vec<_> = refused.collect();
        match pairs {
            _ if !refused.is_empty() => Err(Error::fields(refused)),
            [] => Ok(Vec::new()),
            _ => of_kind(pairs, countable_lists()).map(|list| vec![list]),
        }
    }
}

/// The parameters that select a page of a watched list.
const WINDOW_PARAMETERS: [&str; 3] = ["page", "per_page", "sort"];

impl WatchQuery {
    /// Parses the query parameters of a watch: of one of [`searchable_lists`], or of objects of the kind that `resource`
    /// names, in one cluster. With a parameter of a page it is a watch of that page.
    ///
    /// # Errors
    /// As [`List::parse_page`] and [`ObjectQuery::parse`].
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let window = pairs.iter().any(|(name, _)| WINDOW_PARAMETERS.contains(&name.as_str()));
        if pairs.iter().any(|(name, _)| name == "resource") {
            let objects = ObjectQuery::parse(pairs)?;
            let (list, cluster, query) = (List::Objects, objects.cluster, ListQuery::default());
            return Ok(Self { list, cluster, query, window, objects: Some(objects) });
        }
        let list = of_kind(pairs, searchable_lists())?;
        let query = ListQuery::parse_watch(&list.info().query_spec(), pairs)?;
        let cluster = query.cluster.ok_or_else(|| Error::invalid("cluster_id", Reason::Required))?;
        Ok(Self { list, cluster, query, window, objects: None })
    }
}
