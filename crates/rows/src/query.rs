//! Query parameters of lists, with the same rules for every list.

use std::{borrow::Cow, collections::HashSet};

use pilothouse_types::{
    error::{Error, FieldError, Reason, Result},
    ids::ClusterId,
    kind::Kind,
    name::{ObjectName, is_invisible},
    namespaces::NamespaceScope,
};

use super::{FieldInfo, Filter, LabelSelector};

/// Sort order of rows by one field; ties by namespace, then name, both ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index of the field in [`QuerySpec::fields`].
    pub field: usize,
    /// Whether the order is descending. Unknown values come last in both directions.
    pub descending: bool,
}

/// Parsed query of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListQuery {
    /// The cluster, for lists of a cluster's objects.
    pub cluster: Option<ClusterId>,
    /// The namespaces to list. [`NamespaceScope::All`] also selects rows without a namespace.
    pub namespaces: NamespaceScope,
    /// The owner whose objects are listed, if the list has owners ([`QuerySpec::owner_field`]). `None`: all owners.
    /// `filters` contains it, too.
    pub owner: Option<ObjectName>,
    /// Page number, from 1.
    pub page: u64,
    /// Rows per page, 1 to 500.
    pub per_page: u64,
    /// Substring to search for, in lower case.
    pub search: Option<String>,
    /// Sort order. `None`: by namespace and name.
    pub sort: Option<Sort>,
    /// Field indices, each with its values, of which a row has one.
    pub filters: Vec<(usize, Vec<String>)>,
    /// Selector of the rows' labels.
    pub labels: Option<LabelSelector>,
    /// The kinds to read, as selected by `type`.
    pub kinds: Vec<Kind>,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            cluster: None,
            namespaces: NamespaceScope::All,
            owner: None,
            page: 1,
            per_page: 20,
            search: None,
            sort: None,
            filters: Vec::new(),
            labels: None,
            kinds: Vec::new(),
        }
    }
}

/// Maximum length of a search text or filter value, in characters. No Kubernetes name is longer.
const MAX_TEXT_CHARS: usize = 253;

/// Maximum number of values of a filter.
pub const MAX_FILTER_VALUES: usize = 20;

/// Scope of a list: Pilothouse's own rows, or objects of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListScope {
    /// Pilothouse's own rows; no `cluster_id`.
    Local,
    /// Objects of a cluster, of a cluster-scoped kind.
    Cluster,
    /// Namespaced objects of a cluster. `namespace` is required; `*` selects all namespaces.
    Namespaced,
}

/// Specification of the query parameters that a list accepts.
#[derive(Clone, Copy, Debug)]
pub struct QuerySpec {
    /// Scope of the rows.
    pub scope: ListScope,
    /// The kinds to read if the query has no `type`.
    pub kinds: &'static [Kind],
    /// Further kinds, which are read only if selected by `type`.
    pub more_kinds: &'static [Kind],
    /// Default order, in the syntax of `sort`. Empty: by namespace and name.
    pub default_sort: &'static str,
    /// Field that holds the owner's name, if the list holds the objects of one owner only. `name` is then required.
    pub owner_field: Option<&'static str>,
    /// The fields of the rows.
    pub fields: fn() -> Vec<FieldInfo>,
}

impl QuerySpec {
    /// Specification for Pilothouse's own rows.
    pub const fn local(fields: fn() -> Vec<FieldInfo>, default_sort: &'static str) -> Self {
        Self { scope: ListScope::Local, kinds: &[], more_kinds: &[], default_sort, owner_field: None, fields }
    }
}

impl QuerySpec {
    /// Whether a parameter applies to lists of this scope. Only these depend on the scope.
    fn has(&self, parameter: &str) -> bool {
        match parameter {
            "cluster_id" | "label" => self.scope != ListScope::Local,
            "namespace" => self.scope == ListScope::Namespaced,
            _ => true,
        }
    }
}

impl ListQuery {
    /// Parses the query parameters of a page of one list.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter: unknown, duplicate, missing, out of range.
    pub fn parse_page(spec: &QuerySpec, pairs: &[(String, String)]) -> Result<Self> {
        let accepted = &["cluster_id", "label", "namespace", "page", "per_page", "search", "sort"];
        Parser::new(spec, accepted).parse(pairs, &["cluster_id", "namespace"])
    }

    /// Parses the query parameters of a search in all clusters: `kind` and `q`, no cluster; without a namespace, all
    /// namespaces.
    ///
    /// # Errors
    /// As [`ListQuery::parse_page`].
    pub fn parse_search(spec: &QuerySpec, pairs: &[(String, String)]) -> Result<Self> {
        let accepted = &["kind", "label", "namespace", "page", "per_page", "q", "sort"];
        Parser::new(spec, accepted).parse(pairs, &["q"])
    }

    /// Parses the query parameters of a watch: `kind`, and those of a page.
    ///
    /// # Errors
    /// As [`ListQuery::parse_page`].
    pub fn parse_watch(spec: &QuerySpec, pairs: &[(String, String)]) -> Result<Self> {
        let accepted = &["cluster_id", "kind", "label", "namespace", "page", "per_page", "search", "sort"];
        Parser::new(spec, accepted).parse(pairs, &["cluster_id", "namespace"])
    }

    /// Parses the query parameters of a page or a watch of objects whose kind is not known yet: `namespace` may be there
    /// or not.
    ///
    /// # Errors
    /// As [`ListQuery::parse_page`].
    pub fn parse_objects(spec: &QuerySpec, pairs: &[(String, String)]) -> Result<Self> {
        let accepted = &["cluster_id", "label", "namespace", "page", "per_page", "search", "sort"];
        Parser::new(spec, accepted).parse(pairs, &["cluster_id"])
    }

    /// The query, cut to the namespaces of a permit. If the permit does not contain the namespaces of the query, the
    /// result has those of the permit.
    pub fn within(&self, permitted: &NamespaceScope) -> Cow<'_, Self> {
        let is_within = match (permitted, &self.namespaces) {
            (NamespaceScope::All, _) => true,
            (NamespaceScope::Set(set), NamespaceScope::One(one)) => set.contains(one.as_str()),
            (permitted, asked) => permitted == asked,
        };
        if is_within {
            Cow::Borrowed(self)
        } else {
            Cow::Owned(Self { namespaces: permitted.clone(), ..self.clone() })
        }
    }

    /// Number of rows before the page.
    pub fn offset(&self) -> usize {
        usize::try_from((self.page - 1).saturating_mul(self.per_page)).unwrap_or(usize::MAX)
    }

    /// Maximum number of rows of the page.
    pub fn limit(&self) -> usize {
        usize::try_from(self.per_page).unwrap_or(usize::MAX)
    }
}

/// Parser of query parameters.
struct Parser<'a> {
    spec: &'a QuerySpec,
    /// Parameters that are accepted besides the list's own filters.
    accepted: &'a [&'a str],
    fields: Vec<FieldInfo>,
    query: ListQuery,
}

impl<'a> Parser<'a> {
    fn new(spec: &'a QuerySpec, accepted: &'a [&'a str]) -> Self {
        let query = ListQuery { kinds: spec.kinds.to_vec(), ..ListQuery::default() };
        let mut parser = Self { spec, accepted, fields: (spec.fields)(), query };
        // an empty default is not a field name: the order is then by namespace and name
        parser.query.sort = parser.sort(spec.default_sort).ok();
        parser
    }

    /// Parses all parameters. `required` and the owner's name, if the list has owners, must be present.
    fn parse(mut self, pairs: &[(String, String)], required: &[&str]) -> Result<ListQuery> {
        let mut seen = HashSet::new();
        let mut refused = Vec::new();
        for (name, value) in pairs {
            let read =
                if seen.insert(name.as_str()) { self.read(name, value) } else { Err(Reason::Duplicate) };
            if let Err(reason) = read {
                refused.push(FieldError { name: name.clone(), reason });
            }
        }
        let required = required.iter().copied().filter(|name| self.spec.has(name));
        for name in required.chain(self.spec.owner_field.map(|_| "name")) {
            if !seen.contains(name) {
                refused.push(FieldError { name: name.to_owned(), reason: Reason::Required });
            }
        }
        let mut query = self.query;
        query.search = query.search.filter(|search| !search.is_empty());
        if refused.is_empty() { Ok(query) } else { Err(Error::fields(refused)) }
    }

    /// Parses one parameter into the query.
    fn read(&mut self, name: &str, value: &str) -> Result<(), Reason> {
        let accepted = self.accepted.contains(&name) && self.spec.has(name);
        match name {
            // `kind` selects the list; the caller has parsed it
            "kind" if accepted => {}
            "q" if accepted && value.is_empty() => return Err(Reason::Required),
            "q" | "search" if accepted => self.query.search = Some(text(value)?.to_lowercase()),
            "page" if accepted => self.query.page = number(value, 1, i64::MAX as u64)?,
            "per_page" if accepted => self.query.per_page = number(value, 1, 500)?,
            "sort" if accepted => self.query.sort = Some(self.sort(value)?),
            "cluster_id" if accepted => {
                let id = number(value, 1, i64::MAX as u64)?;
                self.query.cluster = Some(ClusterId(id.cast_signed()));
            }
            "namespace" if accepted => self.query.namespaces = NamespaceScope::parse(value)?,
            "label" if accepted => self.query.labels = Some(LabelSelector::parse(value)?),
            "name" if self.spec.owner_field.is_some() => {
                self.query.owner = Some(ObjectName::new(value)?);
                self.filter(self.spec.owner_field, vec![value]);
            }
            "type" if !self.spec.more_kinds.is_empty() => {
                let types = filter_values(value)?;
                self.query.kinds = self.kinds_of_types(&types)?;
                self.filter(Some(name), types);
            }
            _ => {
                let is_parameter = |field: &&FieldInfo| field.filter.is_parameter() && field.name == name;
                let field = self.fields.iter().find(is_parameter).ok_or(Reason::Unknown)?;
                let values = filter_values(value)?;
                values.iter().try_for_each(|value| check_filter(field.filter, value))?;
                self.filter(Some(name), values);
            }
        }
        Ok(())
    }

    /// The kinds that the values of `type` select: any of the list's kinds, or one of its further kinds.
    fn kinds_of_types(&self, types: &[&str]) -> Result<Vec<Kind>, Reason> {
        let named = |kinds: &[Kind]| -> Vec<Kind> {
            kinds.iter().copied().filter(|kind| types.contains(&kind.info().singular)).collect()
        };
        let (kinds, more_kinds) = (named(self.spec.kinds), named(self.spec.more_kinds));
        let all = kinds.iter().chain(&more_kinds);
        let names: Vec<_> = all.map(|kind| kind.info().singular).collect();
        match (&kinds[..], &more_kinds[..]) {
            _ if !types.iter().all(|name| names.contains(name)) => Err(Reason::NotOneOf),
            (_, []) => Ok(kinds),
            ([], [_]) => Ok(more_kinds),
            _ => Err(Reason::NotOneOf),
        }
    }

    /// Parses the value of `sort`: a field name, after `-` for descending order. Search results cannot be sorted by a
    /// value that is known only when a page is read.
    fn sort(&self, text: &str) -> Result<Sort, Reason> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let is_search = self.accepted.contains(&"q");
        let sorts = |field: &FieldInfo| field.sorts && field.name == name && !(field.late && is_search);
        let field = self.fields.iter().position(sorts).ok_or(Reason::NotOneOf)?;
        Ok(Sort { field, descending })
    }

    /// Adds a filter for the field of this name, if there is such a field.
    fn filter(&mut self, field: Option<&str>, values: Vec<&str>) {
        let index = self.fields.iter().position(|info| Some(info.name) == field);
        let values = values.into_iter().map(str::to_owned).collect();
        self.query.filters.extend(index.map(|index| (index, values)));
    }
}

/// Parses the values of a filter, separated by commas.
///
/// # Errors
/// [`Reason::Required`] if one is empty; [`Reason::TooLong`] for more than [`MAX_FILTER_VALUES`].
pub fn filter_values(text: &str) -> Result<Vec<&str>, Reason> {
    let values: Vec<_> = text.split(',').collect();
    match values.len() {
        _ if values.contains(&"") => Err(Reason::Required),
        1..=MAX_FILTER_VALUES => Ok(values),
        _ => Err(Reason::TooLong),
    }
}

/// Checks a value of a filter, which is not empty.
fn check_filter(filter: Filter, value: &str) -> Result<(), Reason> {
    match filter {
        Filter::OneOf(allowed) if !allowed.contains(&value) => Err(Reason::NotOneOf),
        Filter::Number => number(value, 1, i64::MAX as u64).map(drop),
        Filter::Reference if !is_reference(value) => Err(Reason::Malformed),
        // filter values are identifiers, which are ASCII
        _ if !value.is_ascii() => Err(Reason::Malformed),
        _ => text(value).map(drop),
    }
}

/// Parses a query parameter that is a whole number from `min` to `max`; digits only, no sign, no space.
///
/// # Errors
/// [`Reason::Required`] if empty; [`Reason::InvalidType`] if it is not a number; [`Reason::OutOfRange`].
pub fn number(text: &str, min: u64, max: u64) -> Result<u64, Reason> {
    match text {
        "" => Err(Reason::Required),
        text if !text.bytes().all(|b| b.is_ascii_digit()) => {
            let negative = text
                .strip_prefix('-')
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
            Err(if negative { Reason::OutOfRange } else { Reason::InvalidType })
        }
        text => text.parse().ok().filter(|n| (min..=max).contains(n)).ok_or(Reason::OutOfRange),
    }
}

/// Whether the text has two nonempty parts, separated by one slash.
fn is_reference(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty() && !name.contains('/'))
}

/// Checks a text: at most [`MAX_TEXT_CHARS`], no control characters, no invisible characters.
fn text(value: &str) -> Result<&str, Reason> {
    if value.chars().count() > MAX_TEXT_CHARS {
        Err(Reason::TooLong)
    } else if value.chars().any(|c| c.is_control() || is_invisible(c)) {
        Err(Reason::Malformed)
    } else {
        Ok(value)
    }
}
