//! The rows from which the rights of a caller are compiled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    grant::{RightsRows, RightsSource, RightsStamp},
    ids::ClusterId,
    rights::{BuiltInRole, ClusterLabels, EffectiveGrant, Grant, Labels, RoleRules, Subject},
};

use super::{
    columns::{GrantColumns, rules_of},
    is_live,
};
use crate::{
    Store,
    db::read,
    error::corrupt,
    schema::{clusters, grants, rights_stamp, roles},
};

impl Store {
    async fn rights_rows(&self, subjects: &[Subject], now: Timestamp) -> Result<RightsRows> {
        let subjects: Vec<String> = subjects.iter().map(ToString::to_string).collect();
        read!(self.db, |conn| {
            loop {
                let before: i64 = rights_stamp::table.find(1).select(rights_stamp::stamp).first(conn).await?;
                let live: Vec<GrantColumns> = grants::table
                    .filter(grants::subject.eq_any(subjects.clone()))
                    .filter(is_live!(now))
                    .select(GrantColumns::as_select())
                    .order_by(grants::id)
                    .load(conn)
                    .await?;
                let own: Vec<(String, String)> = roles::table
                    .filter(roles::deleted_at.is_null())
                    .select((roles::name, roles::rules))
                    .load(conn)
                    .await?;
                let labels: Vec<(i64, String)> =
                    clusters::table.select((clusters::id, clusters::labels)).load(conn).await?;
                let after: i64 = rights_stamp::table.find(1).select(rights_stamp::stamp).first(conn).await?;
                // the rows of two moments together could give rights that nobody had at any moment
                if before == after {
                    let (grants, labels) =
                        (effective(live, &own.into_iter().collect())?, parse_labels(labels)?);
                    return Ok(RightsRows { stamp: RightsStamp(after), grants, labels });
                }
            }
        })
    }
}

#[async_trait]
impl RightsSource for Store {
    async fn rights(&self, subjects: &[Subject], now: Timestamp) -> Result<RightsRows> {
        self.rights_rows(subjects, now).await
    }
}

/// The grants with the rules of their roles. `own` has the rules of own roles by name.
fn effective(live: Vec<GrantColumns>, own: &HashMap<String, String>) -> Result<Vec<EffectiveGrant>> {
    let mut parsed = BTreeMap::<_, Arc<RoleRules>>::new();
    let mut effective = Vec::with_capacity(live.len());
    for row in live {
        let grant = Grant::try_from(row)?;
        let rules = match parsed.get(&grant.role) {
            Some(rules) => Arc::clone(rules),
            None => {
                let name = grant.role.as_str();
                let rules = match BuiltInRole::parse(name) {
                    Some(role) => role.rules(),
                    None => rules_of(own.get(name).ok_or_else(|| corrupt("grants.role"))?)?,
                };
                let rules = Arc::new(rules);
                parsed.insert(grant.role.clone(), Arc::clone(&rules));
                rules
            }
        };
        effective.push(EffectiveGrant::of(&grant, rules));
    }
    Ok(effective)
}

fn parse_labels(rows: Vec<(i64, String)>) -> Result<ClusterLabels> {
    let parse = |(id, labels): (i64, String)| {
        let labels: Labels = serde_json::from_str(&labels).map_err(|_| corrupt("clusters.labels"))?;
        Ok((ClusterId(id), labels))
    };
    rows.into_iter().map(parse).collect()
}
