use async_trait::async_trait;
use uuid::Uuid;

use super::MemoryStore;
use crate::{
    error::Result,
    idempotency::{Claim, Earlier, End, IdempotencyStore, NewClaim, Progress},
};

impl MemoryStore {
    /// Number of stored claims.
    pub fn claims(&self) -> usize {
        self.lock().claims.len()
    }

    /// Simulates a crash of every process before its replies were stored.
    pub fn lose_replies(&self) {
        for (_, progress) in &mut self.lock().claims {
            *progress = Progress::Unknown;
        }
    }
}

#[async_trait]
impl IdempotencyStore for MemoryStore {
    async fn claim(&self, claim: &NewClaim) -> Result<Claim> {
        let claims = &mut self.lock().claims;
        claims.retain(|(claimed, _)| claimed.expires_at > claim.at);
        let same = |earlier: &NewClaim| (earlier.owner, &earlier.key) == (claim.owner, &claim.key);
        if let Some((earlier, progress)) = claims.iter().find(|(earlier, _)| same(earlier)) {
            let NewClaim { request, request_id, .. } = earlier.clone();
            return Ok(Claim::Taken(Earlier { request, request_id, progress: progress.clone() }));
        }
        claims.push((claim.clone(), Progress::Running));
        let live = claims.iter().filter(|(claimed, _)| claimed.owner == claim.owner).count();
        Ok(Claim::Made { live: u64::try_from(live).unwrap_or(u64::MAX) })
    }

    async fn end(&self, id: Uuid, end: &End) -> Result<()> {
        let claims = &mut self.lock().claims;
        match end {
            End::NotDone => claims.retain(|(claim, _)| claim.id != id),
            End::Unknown | End::Answered(_) => {
                let over = match end {
                    End::Answered(reply) => Progress::Answered(reply.clone()),
                    _ => Progress::Unknown,
                };
                let of_id = claims.iter_mut().filter(|(claim, _)| claim.id == id);
                of_id.for_each(|(_, progress)| *progress = over.clone());
            }
        }
        Ok(())
    }
}
