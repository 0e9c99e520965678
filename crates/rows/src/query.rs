//! Query parameters of lists, with the same rules for every list.

use std::collections::HashSet;

use pilothouse_types::{
    error::{Error, FieldError, Reason, Result},
    ids::ClusterId,
    kind::Kind,
    name::{NamespaceScope, ObjectName, is_invisible},
};

use super::{FieldInfo, Filter};

/// Sort order of rows by one field; ties by namespace, then name, both ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// The index of the field in the list's table.
    pub field: usize,
    /// Whether the order is descending. Unknown values come last in both directions.
    pub descending: bool,
}

/// Parsed query of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListQuery {
    /// The cluster, for lists of a cluster's objects.
    pub cluster: Option<ClusterId>,
    /// The namespaces to list.
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
    /// Field indices, each with the required value.
    pub filters: Vec<(usize, String)>,
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
            kinds: Vec::new(),
        }
    }
}

/// Maximum length of a search text or filter value, in characters. No Kubernetes name is longer.
const MAX_TEXT_CHARS: usize = 253;

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

/// Mode of a query. It decides which parameters are accepted besides the list's own filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryMode {
    /// A page of one list.
    Page,
    /// A page of all clusters: `kind` and `q`, no cluster; without a namespace, all namespaces.
    Fleet,
    /// A watch: `kind`, no paging and no sort order.
    Watch,
}

impl ListQuery {
    /// Parses the query parameters of a list.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter: unknown, duplicate, missing, out of range.
    pub fn parse(spec: &QuerySpec, pairs: &[(String, String)], mode: QueryMode) -> Result<Self> {
        let fields = (spec.fields)();
        let mut query = Self { kinds: spec.kinds.to_vec(), ..Self::default() };
        let mut refused = Vec::new();
        let field_index = |name: &str| fields.iter().position(|field| field.name == name);
        let sort = |text: &str| -> Result<Sort, Reason> {
            let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
            let field =
                fields.iter().position(|field| field.sorts && field.name == name).ok_or(Reason::NotOneOf)?;
            Ok(Sort { field, descending })
        };
        if !spec.default_sort.is_empty() {
            query.sort = sort(spec.default_sort).ok();
        }
        let mut seen = HashSet::new();
        for (name, value) in pairs {
            let duplicate = !seen.insert(name);
            let read =
                if duplicate { Err(Reason::Duplicate) } else { Ok(()) }.and_then(|()| match name.as_str() {
                    "kind" if mode != QueryMode::Page => Ok(()),
                    "q" if mode == QueryMode::Fleet => match value.as_str() {
                        "" => Err(Reason::Required),
                        q => text(q).map(|search| query.search = Some(search.to_lowercase())),
                    },
                    "page" if mode != QueryMode::Watch => {
                        number(value, 1, i64::MAX as u64).map(|page| query.page = page)
                    }
                    "per_page" if mode != QueryMode::Watch => {
                        number(value, 1, 500).map(|per_page| query.per_page = per_page)
                    }
                    "search" if mode != QueryMode::Fleet => {
                        text(value).map(|search| query.search = Some(search.to_lowercase()))
                    }
                    "sort" if mode != QueryMode::Watch => sort(value).map(|sort| query.sort = Some(sort)),
                    "cluster_id" if spec.scope != ListScope::Local && mode != QueryMode::Fleet => {
                        number(value, 1, i64::MAX as u64)
                            .map(|id| query.cluster = Some(ClusterId(id.cast_signed())))
                    }
                    "namespace" if spec.scope == ListScope::Namespaced => {
                        NamespaceScope::parse(value).map(|namespaces| query.namespaces = namespaces)
                    }
                    "name" if spec.owner_field.is_some() => ObjectName::new(value).map(|owner| {
                        query.filters.extend(spec.owner_field.and_then(field_index).zip(Some(value.clone())));
                        query.owner = Some(owner);
                    }),
                    "type" if !spec.more_kinds.is_empty() => spec
                        .kinds
                        .iter()
                        .chain(spec.more_kinds)
                        .find(|kind| kind.info().singular == value)
                        .ok_or(Reason::NotOneOf)
                        .map(|kind| {
                            query.filters.extend(field_index("type").zip(Some(value.clone())));
                            query.kinds = vec![*kind];
                        }),
                    name => {
                        let is_parameter =
                            |field: &&FieldInfo| field.filter.is_parameter() && field.name == name;
                        match fields.iter().find(is_parameter) {
                            None => Err(Reason::Unknown),
                            Some(field) => match field.filter {
                                Filter::OneOf(allowed) if !allowed.contains(&value.as_str()) => {
                                    Err(Reason::NotOneOf)
                                }
                                Filter::Number => number(value, 1, i64::MAX as u64).map(drop),
                                _ if value.is_empty() => Err(Reason::Required),
                                Filter::Reference if !is_reference(value) => Err(Reason::Malformed),
                                // filter values are identifiers, which are ASCII
                                _ if !value.is_ascii() => Err(Reason::Malformed),
                                _ => text(value).map(drop),
                            },
                        }
                        .map(|()| {
                            query.filters.extend(field_index(name).zip(Some(value.clone())));
                        })
                    }
                });
            if let Err(reason) = read {
                refused.push(FieldError { name: name.clone(), reason });
            }
        }
        let mut require = |name: &str| {
            if !seen.iter().any(|given| *given == name) {
                refused.push(FieldError { name: name.to_owned(), reason: Reason::Required });
            }
        };
        if mode == QueryMode::Fleet {
            require("q");
        }
        if spec.scope != ListScope::Local && mode != QueryMode::Fleet {
            require("cluster_id");
        }
        if spec.scope == ListScope::Namespaced && mode != QueryMode::Fleet {
            require("namespace");
        }
        if spec.owner_field.is_some() {
            require("name");
        }
        query.search = query.search.filter(|search| !search.is_empty());
        if refused.is_empty() { Ok(query) } else { Err(Error::fields(refused)) }
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
