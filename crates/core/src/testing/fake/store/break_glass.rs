use async_trait::async_trait;

use super::{MemoryStore, grants::author};
use crate::{
    access::Permit,
    break_glass::{BreakGlassRecord, BreakGlassRegistry, BreakGlassRow},
    error::{Cause, Error, Result},
    grant::GrantRecord,
    ids::{BreakGlassId, UserId},
    rights::{ClusterScope, GrantSource, Reach, RoleName, Subject},
};

#[async_trait]
impl BreakGlassRegistry for MemoryStore {
    async fn list(&self, user: Option<UserId>) -> Result<Vec<BreakGlassRow>> {
        let state = self.lock();
        let found = state.break_glass.iter().filter(|row| user.is_none_or(|user| row.user_id == user));
        Ok(found.cloned().collect())
    }

    async fn find(&self, id: BreakGlassId) -> Result<Option<BreakGlassRow>> {
        Ok(self.lock().break_glass.iter().find(|row| row.id == id).cloned())
    }

    async fn open(&self, permit: &Permit, record: BreakGlassRecord) -> Result<BreakGlassRow> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        let BreakGlassRecord { user_id, cluster, reason } = record;
        let user = state.user(user_id)?.clone();
        if user.disabled {
            return Err(Error::new(Cause::NotFound).resource("user").name(user_id.to_string()));
        }
        if !state.clusters.iter().any(|(found, _)| found.id == cluster) {
            return Err(Error::new(Cause::NotFound).resource("cluster").name(cluster.to_string()));
        }
        let recent = state
            .break_glass
            .iter()
            .filter(|row| row.user_id == user_id && row.created_at + BreakGlassRow::WINDOW > at);
        if recent.count() >= BreakGlassRow::MAX_USES {
            return Err(Error::new(Cause::TooMany).resource("break_glass"));
        }
        let until = at + BreakGlassRow::DURATION;
        let grant = GrantRecord {
            subject: Subject::User(user_id),
            role: RoleName::new(BreakGlassRow::ROLE)
                .map_err(|_| Error::internal("the role of break-glass"))?,
            clusters: ClusterScope::Ids([cluster].into()),
            reach: Reach::Cluster,
            from: Some(at),
            until: Some(until),
            reason: Some(reason.clone()),
        };
        let grant_id = state.insert_grant(permit, grant, GrantSource::BreakGlass)?.id;
        let row = BreakGlassRow {
            id: BreakGlassId(state.next_id()),
            user_id,
            username: user.username.to_string(),
            cluster_id: cluster,
            reason,
            grant_id,
            created_at: at,
            until,
            reviewed: false,
            reviewed_at: None,
            reviewed_by: None,
            note: None,
        };
        state.break_glass.push(row.clone());
        state.rights_stamp.0 += 1;
        state.record_success(permit, Some(cluster))?;
        Ok(row)
    }

    async fn review(&self, permit: &Permit, id: BreakGlassId, note: String) -> Result<BreakGlassRow> {
        let mut state = self.write()?;
        let (by, at) = author(permit)?;
        let refused = |cause| Error::new(cause).resource("break_glass").name(id.to_string());
        let found = state.break_glass.iter_mut().find(|row| row.id == id);
        let row = found.ok_or_else(|| refused(Cause::NotFound))?;
        if row.reviewed {
            return Err(refused(Cause::RequestDecided));
        }
        (row.reviewed, row.reviewed_at, row.reviewed_by, row.note) = (true, Some(at), Some(by), Some(note));
        let reviewed = row.clone();
        state.record_success(permit, None)?;
        Ok(reviewed)
    }
}
