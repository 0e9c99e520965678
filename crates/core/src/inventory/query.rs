//! Parsers of the query parameters of lists.

use super::{LEVEL, List, ListInfo, WatchQuery, countable_lists, objects::ObjectQuery, searchable_lists};
use crate::{
    error::{Error, FieldError, Reason, Result},
    rows::{ListQuery, QuerySpec},
};

/// Search in all clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchQuery {
    /// The lists, at least one, each with its query. All queries have the same page.
    pub lists: Vec<(List, ListQuery)>,
    page: ListQuery,
}

/// Fields by which rows of several lists can be sorted.
const SHARED_SORTS: [&str; 4] = ["name", "namespace", "created_at", LEVEL];

impl SearchQuery {
    /// Parses query parameters. `kind` has the keys of one or several of [`searchable_lists`]. With several, the only
    /// filters are `level` and `label`, and the only sort orders are those by name, namespace, creation time and level;
    /// lists whose rows have no level match no filter by level.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter: unknown, duplicate, missing, out of range.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let infos = of_kinds(pairs)?;
        let lists = match infos[..] {
            [info] => vec![(info.list, ListQuery::parse_search(&info.query_spec(), pairs)?)],
            _ => parse_several(&infos, pairs)?,
        };
        let (_, page) = lists.first().ok_or_else(|| Error::invalid("kind", Reason::Required))?;
        Ok(Self { page: page.clone(), lists })
    }

    /// A query with the page of the search.
    pub fn page(&self) -> &ListQuery {
        &self.page
    }
}

/// The queries of several lists.
fn parse_several(infos: &[&'static ListInfo], pairs: &[(String, String)]) -> Result<Vec<(List, ListQuery)>> {
    let has_field = |info: &ListInfo, name: &str| (info.fields)().iter().any(|field| field.name == name);
    let any_has = |name: &str| infos.iter().any(|info| has_field(info, name));
    let refusal = |(name, value): &(String, String)| match name.as_str() {
        "kind" | "label" | "namespace" | "page" | "per_page" | "q" => None,
        LEVEL if any_has(LEVEL) => None,
        "sort" if SHARED_SORTS.contains(&sorted_field(value)) && any_has(sorted_field(value)) => None,
        "sort" => Some(Reason::NotOneOf),
        _ => Some(Reason::Unknown),
    };
    let mut refused: Vec<_> = pairs
        .iter()
        .filter_map(|pair| Some(FieldError { name: pair.0.clone(), reason: refusal(pair)? }))
        .collect();
    let mut lists = Vec::with_capacity(infos.len());
    for info in infos {
        let is_of_list = |(name, value): &&(String, String)| match name.as_str() {
            LEVEL => has_field(info, LEVEL),
            "sort" => has_field(info, sorted_field(value)),
            name => refused.iter().all(|refused| refused.name != name),
        };
        let own: Vec<_> = pairs.iter().filter(is_of_list).cloned().collect();
        match ListQuery::parse_search(&info.query_spec(), &own) {
            Err(error) => {
                let new = error.context.fields.into_iter();
                let new: Vec<_> =
                    new.filter(|field| refused.iter().all(|known| known.name != field.name)).collect();
                refused.extend(new);
            }
            Ok(query) => {
                let sorts = own.iter().any(|(name, _)| name == "sort");
                let sort = query.sort.filter(|_| sorts);
                let filters_by_level = pairs.iter().any(|(name, _)| name == LEVEL);
                if has_field(info, LEVEL) || !filters_by_level {
                    lists.push((info.list, ListQuery { sort, ..query }));
                }
            }
        }
    }
    if refused.is_empty() { Ok(lists) } else { Err(Error::fields(refused)) }
}

/// The field that a value of `sort` names.
fn sorted_field(sort: &str) -> &str {
    sort.strip_prefix('-').unwrap_or(sort)
}

/// The searchable lists whose keys are the values of `kind`, separated by commas.
fn of_kinds(pairs: &[(String, String)]) -> Result<Vec<&'static ListInfo>> {
    let given = pairs.iter().find(|(name, _)| name == "kind").map_or("", |(_, kinds)| kinds);
    let mut infos: Vec<&'static ListInfo> = Vec::new();
    for key in given.split(',') {
        let reason = if key.is_empty() { Reason::Required } else { Reason::NotOneOf };
        let info = searchable_lists().find(|info| info.key == key);
        let info = info.ok_or_else(|| Error::invalid("kind", reason))?;
        if infos.iter().any(|known| known.list == info.list) {
            return Err(Error::invalid("kind", Reason::Duplicate));
        }
        infos.push(info);
    }
    Ok(infos)
}

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
