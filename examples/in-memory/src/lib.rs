//! Minimal implementation of the ports that an embedder of `pilothouse-core` provides: an audit trail and a cluster
//! registry in memory ([`Memory`]), and the process ports ([`Process`], from `examples/gate`). All state is lost when
//! the process ends.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
pub use example_gate::Process;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    audit::{AuditQuery, OperationPage, OperationQuery, OperationRow},
    cluster::{Cluster, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, Connections, ProbeResult},
    connection::StoredConnection,
    ids::{ClusterId, OperationId},
    operation::{AuditWriter, Operation, Outcome, Status},
    rows::{Row, select},
};

/// Clusters, their connections, and their operations.
#[derive(Default)]
pub struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    clusters: Vec<(Cluster, StoredConnection)>,
    operations: Vec<OperationRow>,
    registered: i64,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, operation: &Operation) {
        let id = self.operations.len() as i64 + 1;
        self.operations.push(OperationRow::begun(id, operation));
    }

    fn finish(&mut self, id: OperationId, outcome: &Outcome) {
        let pending = |row: &&mut OperationRow| row.operation_id == id && row.status == Status::Pending;
        if let Some(row) = self.operations.iter_mut().find(pending) {
            *row = row.clone().ended(outcome);
        }
    }

    /// Records the success of a local change, in the same step as the change, as in one transaction of a database.
    fn done(&mut self, permit: &Permit, cluster: ClusterId) {
        if let Some(operation) = permit.operation() {
            self.begin(&Operation { cluster_id: Some(cluster), ..operation.clone() });
            self.finish(operation.id, &Outcome::success(operation.created_at));
        }
    }

    fn find(&mut self, id: ClusterId) -> Result<&mut (Cluster, StoredConnection)> {
        let absent = || Error::new(Cause::NotFound).resource("cluster").name(id.to_string());
        self.clusters.iter_mut().find(|(cluster, _)| cluster.id == id).ok_or_else(absent)
    }
}

#[async_trait]
impl AuditWriter for Memory {
    async fn begin(&self, operation: &Operation) -> Result<()> {
        self.state().begin(operation);
        Ok(())
    }

    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()> {
        self.state().finish(operation, outcome);
        Ok(())
    }

    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()> {
        let mut state = self.state();
        state.begin(operation);
        state.finish(operation.id, outcome);
        Ok(())
    }
}

#[async_trait]
impl AuditQuery for Memory {
    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        let wanted = |row: &&OperationRow| {
            query.user_id.is_none_or(|user| {
                let namespace = row.namespace.as_deref();
                row.user_id == Some(user)
                    || query.audited.iter().any(|part| part.contains(row.cluster_id, namespace))
            }) && query.from.is_none_or(|from| row.created_at >= from)
                && query.to.is_none_or(|to| row.created_at < to)
                && query.before.is_none_or(|before| row.id < before)
                && query.after.is_none_or(|after| row.id > after)
        };
        let rows = self.state().operations.iter().filter(wanted).map(Row::of).collect::<Result<_>>()?;
        let (page, pagination) = select(rows, &query.list);
        Ok(OperationPage { logs: page.iter().map(Row::parse).collect::<Result<_>>()?, pagination })
    }

    async fn operations_of(&self, ids: &[OperationId]) -> Result<Vec<OperationRow>> {
        let wanted = |row: &&OperationRow| ids.contains(&row.operation_id);
        Ok(self.state().operations.iter().filter(wanted).cloned().collect())
    }
}

#[async_trait]
impl ClusterRegistry for Memory {
    async fn list(&self) -> Result<Vec<Cluster>> {
        Ok(self.state().clusters.iter().map(|(cluster, _)| cluster.clone()).collect())
    }

    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>> {
        Ok(self.state().find(id).ok().map(|(cluster, _)| cluster.clone()))
    }

    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        Ok(self.state().find(id).ok().map(|(cluster, _)| cluster.name.clone()))
    }

    async fn create(&self, permit: &Permit, record: ClusterRecord) -> Result<Cluster> {
        let mut state = self.state();
        if state.clusters.iter().any(|(cluster, _)| cluster.name.key() == record.name.key()) {
            return Err(Error::new(Cause::NameTaken).resource("cluster").name(record.name.as_str()));
        }
        state.registered += 1;
        let cluster = Cluster::registered(ClusterId(state.registered), &record);
        state.done(permit, cluster.id);
        let stored = StoredConnection { connection: record.connection, version: 1 };
        state.clusters.push((cluster.clone(), stored));
        Ok(cluster)
    }

    async fn update(&self, _: &Permit, _: ClusterPatch, _: Timestamp) -> Result<Cluster> {
        Err(Error::internal("this example does not support changes of a cluster"))
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let (mut state, id) = (self.state(), permit.cluster()?);
        state.find(id)?;
        state.clusters.retain(|(cluster, _)| cluster.id != id);
        state.done(permit, id);
        Ok(())
    }

    async fn record_probe(&self, id: ClusterId, _: i64, probe_result: ProbeResult) -> Result<()> {
        if let Ok((cluster, _)) = self.state().find(id) {
            cluster.observe(&probe_result);
        }
        Ok(())
    }
}

#[async_trait]
impl Connections for Memory {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        Ok(self.state().find(id).ok().map(|(_, stored)| stored.clone()))
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        Ok(self.state().clusters.iter().map(|(cluster, stored)| (cluster.id, stored.version)).collect())
    }
}
