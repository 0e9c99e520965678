//! Idempotency store: claims of idempotency keys. The unique index on user and key admits one of several concurrent
//! claims, also of different replicas. Request digest and reply are sealed, because a body may hold a Secret, whose
//! value could be guessed from an unsealed digest.

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable,
    Selectable, SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Result,
    idempotency::{Claim, Earlier, End, IdempotencyStore, NewClaim, Progress, Reply, RequestDigest},
    seal::{Keyring, SealedFor},
};
use uuid::Uuid;

use crate::{
    Store,
    db::transact,
    error::corrupt,
    lease::LeaseClock as _,
    rekey::ActiveKey as _,
    schema::{At, idempotency_keys, leases},
};

/// Maximum number of expired claims that a new claim removes. More than one, so that the table shrinks.
const MAX_SWEPT_PER_CLAIM: i64 = 16;

#[derive(Queryable, Selectable)]
#[diesel(table_name = idempotency_keys)]
struct Row {
    id: String,
    instance: Option<String>,
    request: Vec<u8>,
    request_id: Option<String>,
    reply: Option<Vec<u8>>,
}

fn request_owner(row: Uuid) -> SealedFor {
    SealedFor { row, field: "idempotency_keys.request" }
}

fn reply_owner(row: Uuid) -> SealedFor {
    SealedFor { row, field: "idempotency_keys.reply" }
}

impl Row {
    /// Opens the sealed parts. `alive`: whether the process that claimed the key is running.
    fn open(self, alive: bool, keyring: &dyn Keyring) -> Result<Earlier> {
        let id = self.id.parse().map_err(|_| corrupt("idempotency_keys.id"))?;
        let request = keyring.open(&request_owner(id), &self.request)?;
        let request = request.try_into().map_err(|_| corrupt("idempotency_keys.request"))?;
        let progress = match self.reply {
            Some(sealed) => Progress::Answered(decode_reply(&keyring.open(&reply_owner(id), &sealed)?)?),
            None if alive => Progress::Running,
            None => Progress::Unknown,
        };
        Ok(Earlier { request: RequestDigest(request), request_id: self.request_id, progress })
    }
}

/// Encodes a reply: status as two bytes (big endian), then the body.
fn encode_reply(reply: &Reply) -> Vec<u8> {
    [&reply.status.to_be_bytes(), reply.body.as_slice()].concat()
}

fn decode_reply(bytes: &[u8]) -> Result<Reply> {
    let (status, body) = bytes.split_first_chunk().ok_or_else(|| corrupt("idempotency_keys.reply"))?;
    Ok(Reply { status: u16::from_be_bytes(*status), body: body.to_vec() })
}

impl Store {
    async fn claim_key(&self, claim: &NewClaim) -> Result<Claim> {
        let (user, key, at) = (claim.user.0, claim.key.as_str().to_owned(), claim.at);
        let instance = self.lease.instance().to_owned();
        let (owner, request) = (request_owner(claim.id), claim.request);
        let (id, request_id) = (claim.id.to_string(), claim.request_id.clone());
        let expires_at = At(claim.expires_at);
        let keyring = self.deps.keyring.clone();
        transact!(self.db, |conn| {
            let sealed = keyring.keys(&conn.active_key().await?)?.sealer.seal(&owner, &request.0)?;
            let expired = || idempotency_keys::table.filter(idempotency_keys::expires_at.le(At(at)));
            let of_key = || idempotency_keys::user_id.eq(user).and(idempotency_keys::key.eq(key.clone()));
            let oldest = expired().select(idempotency_keys::id).order_by(idempotency_keys::expires_at);
            let swept: Vec<String> = oldest.limit(MAX_SWEPT_PER_CLAIM).load(conn).await?;
            if !swept.is_empty() {
                let swept = idempotency_keys::id.eq_any(swept);
                diesel::delete(idempotency_keys::table.filter(swept)).execute(conn).await?;
                diesel::delete(expired().filter(of_key())).execute(conn).await?;
            }
            loop {
                let values = (
                    idempotency_keys::id.eq(&id),
                    idempotency_keys::user_id.eq(user),
                    idempotency_keys::key.eq(&key),
                    idempotency_keys::instance.eq(&instance),
                    idempotency_keys::request.eq(&sealed),
                    idempotency_keys::request_id.eq(&request_id),
                    idempotency_keys::expires_at.eq(expires_at),
                );
                let made = diesel::insert_into(idempotency_keys::table)
                    .values(values)
                    .on_conflict((idempotency_keys::user_id, idempotency_keys::key))
                    .do_nothing()
                    .execute(conn)
                    .await?;
                if made == 1 {
                    let of_user = idempotency_keys::table.filter(idempotency_keys::user_id.eq(user));
                    let live = of_user.filter(idempotency_keys::expires_at.gt(At(at)));
                    let live: i64 = live.count().get_result(conn).await?;
                    return Ok(Claim::Made { live: live.unsigned_abs() });
                }
                let taken = idempotency_keys::table.filter(of_key()).select(Row::as_select());
                let row: Option<Row> = taken.first(conn).await.optional()?;
                // released between the two statements: claim it again
                let Some(row) = row else { continue };
                let alive = match &row.instance {
                    // another process that runs has a lease
                    Some(other) if *other != instance => {
                        let now = conn.lease_time(at).await?;
                        let lease = leases::table.find(other).filter(leases::expires_at.gt(now));
                        diesel::select(diesel::dsl::exists(lease)).get_result(conn).await?
                    }
                    worker => worker.is_some(),
                };
                return Ok(Claim::Taken(row.open(alive, &*keyring)?));
            }
        })
    }

    async fn end_claim(&self, id: Uuid, end: &End) -> Result<()> {
        let reply = match end {
            End::Answered(reply) => Some(encode_reply(reply)),
            End::NotDone | End::Unknown => None,
        };
        let free = *end == End::NotDone;
        let keyring = self.deps.keyring.clone();
        transact!(self.db, |conn| {
            let row = idempotency_keys::table.find(id.to_string());
            if free {
                diesel::delete(row).execute(conn).await?;
            } else {
                let sealer = keyring.keys(&conn.active_key().await?)?.sealer;
                let reply = reply.map(|reply| sealer.seal(&reply_owner(id), &reply)).transpose()?;
                let ended =
                    (idempotency_keys::instance.eq(None::<String>), idempotency_keys::reply.eq(reply));
                diesel::update(row).set(ended).execute(conn).await?;
            }
            Ok(())
        })
    }
}

#[async_trait]
impl IdempotencyStore for Store {
    async fn claim(&self, claim: &NewClaim) -> Result<Claim> {
        self.claim_key(claim).await
    }

    async fn end(&self, id: Uuid, end: &End) -> Result<()> {
        self.end_claim(id, end).await
    }
}
