use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::{
    audit::{AuditTrail, Entry, Operation, OperationId, OperationPage, OperationQuery, Outcome, Status},
    error::{Error, Result},
    inventory::{Row, select},
};

#[async_trait]
impl AuditTrail for MemoryStore {
    async fn begin(&self, operation: &Operation) -> Result<()> {
        let mut state = self.write()?;
        let row = state.row(operation);
        state.operations.push(row);
        state.append(&Entry::Intent { operation: operation.clone() })
    }

    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()> {
        let mut state = self.write()?;
        let pending = |row: &&mut crate::audit::OperationRow| {
            row.operation_id == operation && row.status == Status::Pending
        };
        let Some(row) = state.operations.iter_mut().find(pending) else { return Ok(()) };
        *row = row.clone().ended(outcome);
        state.append(&Entry::Outcome { operation_id: operation, outcome: outcome.clone() })
    }

    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()> {
        self.write()?.complete(operation.clone(), outcome.clone())
    }

    async fn close_orphans(&self, at: Timestamp) -> Result<u64> {
        let pending: Vec<_> = {
            let state = self.write()?;
            state
                .operations
                .iter()
                .filter(|row| row.status == Status::Pending)
                .map(|row| row.operation_id)
                .collect()
        };
        for &id in &pending {
            self.finish(id, &Outcome::orphaned(at)).await?;
        }
        Ok(pending.len() as u64)
    }

    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        let state = self.lock();
        let within = state.operations.iter().filter(|row| {
            query.user_id.is_none_or(|user| row.user_id == Some(user))
                && query.from.is_none_or(|from| row.created_at >= from)
                && query.to.is_none_or(|to| row.created_at < to)
                && query.before.is_none_or(|before| row.id < before)
        });
        let rows = within.map(Row::of).collect::<Result<_>>()?;
        let (page, pagination) = select(rows, &query.list);
        // a row's id is found again in its JSON: the reference implementation keeps rows serialised
        let id = |row: &Row| -> Result<i64> {
            let json: serde_json::Value =
                serde_json::from_str(row.json().get()).map_err(|error| Error::internal(error.to_string()))?;
            json["id"].as_i64().ok_or_else(|| Error::internal("a row without an id"))
        };
        let ids = page.iter().map(id).collect::<Result<Vec<_>>>()?;
        let logs =
            ids.iter().filter_map(|id| state.operations.iter().find(|row| row.id == *id).cloned()).collect();
        Ok(OperationPage { logs, pagination })
    }
}
