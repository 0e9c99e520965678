//! Query parameters of problems.

use std::collections::HashSet;

use crate::{
    diagnosis::Rule,
    error::{Error, FieldError, Reason, Result},
    ids::ClusterId,
    inventory::List,
    namespaces::NamespaceScope,
    rows::{Level, filter_values, number},
};

/// Query for problems.
#[derive(Clone, Debug, PartialEq)]
pub struct ProblemQuery {
    /// Only these clusters; empty: all.
    pub clusters: Vec<ClusterId>,
    /// Only objects in these namespaces. [`NamespaceScope::All`] also selects nodes and clusters.
    pub namespaces: NamespaceScope,
    /// Only problems of these levels.
    pub levels: Vec<Level>,
    /// Only problems with these rules; empty: all.
    pub rules: Vec<Rule>,
    /// Page number, from 1.
    pub page: u64,
    /// Problems per page, 1 to 500.
    pub per_page: u64,
}

impl Default for ProblemQuery {
    fn default() -> Self {
        Self {
            clusters: Vec::new(),
            namespaces: NamespaceScope::All,
            levels: Self::LEVELS.to_vec(),
            rules: Vec::new(),
            page: 1,
            per_page: 20,
        }
    }
}

impl ProblemQuery {
    /// The levels of problems.
    pub const LEVELS: [Level; 2] = [Level::Bad, Level::Warn];

    /// The rules of problems.
    pub fn rules() -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(|rule| rule.is_of_problems())
    }

    /// Parses query parameters: `cluster_id`, `namespace`, `level`, `rule`, `page` and `per_page`.
    ///
    /// # Errors
    /// `InvalidInput`, naming every refused parameter: unknown, duplicate, out of range.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let (mut query, mut seen, mut refused) = (Self::default(), HashSet::new(), Vec::new());
        for (name, value) in pairs {
            let read = if seen.insert(name) { query.read(name, value) } else { Err(Reason::Duplicate) };
            if let Err(reason) = read {
                refused.push(FieldError { name: name.clone(), reason });
            }
        }
        if refused.is_empty() { Ok(query) } else { Err(Error::fields(refused)) }
    }

    fn read(&mut self, name: &str, value: &str) -> Result<(), Reason> {
        match name {
            "cluster_id" => {
                let id = |text: &str| number(text, 1, i64::MAX as u64).map(|id| ClusterId(id.cast_signed()));
                self.clusters = filter_values(value)?.into_iter().map(id).collect::<Result<_, _>>()?;
            }
            "namespace" => self.namespaces = NamespaceScope::parse(value)?,
            "level" => {
                let level = |text: &str| Level::parse(text).filter(|level| Self::LEVELS.contains(level));
                let levels = filter_values(value)?.into_iter().map(level).collect::<Option<_>>();
                self.levels = levels.ok_or(Reason::NotOneOf)?;
            }
            "rule" => {
                let rule = |text: &str| Self::rules().find(|rule| rule.as_str() == text);
                let rules = filter_values(value)?.into_iter().map(rule).collect::<Option<_>>();
                self.rules = rules.ok_or(Reason::NotOneOf)?;
            }
            "page" => self.page = number(value, 1, i64::MAX as u64)?,
            "per_page" => self.per_page = number(value, 1, 500)?,
            _ => return Err(Reason::Unknown),
        }
        Ok(())
    }

    /// Whether the query is for problems of this cluster.
    pub(super) fn has_cluster(&self, cluster: ClusterId) -> bool {
        self.clusters.is_empty() || self.clusters.contains(&cluster)
    }

    /// Whether the query is for objects of a list: nodes are in no namespace.
    pub(super) fn includes(&self, list: List) -> bool {
        list != List::Nodes || self.namespaces == NamespaceScope::All
    }

    /// Whether the query is for problems with this level and rule.
    pub(super) fn matches(&self, level: Level, rule: Rule) -> bool {
        self.levels.contains(&level) && (self.rules.is_empty() || self.rules.contains(&rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<ProblemQuery, String> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        ProblemQuery::parse(&pairs).map_err(|error| {
            let field = |field: &FieldError| format!("{}={}", field.name, field.reason);
            error.context.fields.iter().map(field).collect::<Vec<_>>().join(" ")
        })
    }

    #[test]
    fn parameters_are_parsed() {
        assert_eq!(parse(""), Ok(ProblemQuery::default()));
        assert_eq!(parse("level=bad,warn"), Ok(ProblemQuery::default()));
        let query = parse("cluster_id=1,2&level=bad&rule=oom,cluster&page=2&per_page=500").unwrap();
        assert_eq!(query.clusters, [ClusterId(1), ClusterId(2)]);
        assert_eq!((query.levels, query.rules), (vec![Level::Bad], vec![Rule::Oom, Rule::Cluster]));
        assert_eq!((query.page, query.per_page), (2, 500));
        assert_eq!(parse("namespace=*").unwrap().namespaces, NamespaceScope::All);
        assert!(!parse("namespace=shop").unwrap().includes(List::Nodes));
    }

    #[test]
    fn refused_parameters_are_named() {
        let cases = [
            ("cluster_id=", "cluster_id=required"),
            ("cluster_id=1,x", "cluster_id=invalid_type"),
            ("level=ok", "level=not_one_of"),
            ("level=bad,", "level=required"),
            ("rule=liveness", "rule=not_one_of"),
            ("rule=oom&rule=crash", "rule=duplicate"),
            ("namespace=a/b&per_page=501", "namespace=invalid_name per_page=out_of_range"),
            ("q=web&sort=name&label=a", "q=unknown sort=unknown label=unknown"),
        ];
        for (query, refused) in cases {
            assert_eq!(parse(query), Err(refused.to_owned()), "{query}");
        }
    }
}
