//! End of sessions that an identity provider has ended.

use std::collections::BTreeSet;

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Result,
    access::Permit,
    provider::{EndedSessions, Liveness},
};

use crate::{
    Store,
    audit::Trail as _,
    db::transact_retried,
    rights_stamp::StampedRights as _,
    schema::{At, logout_tokens, provider_sessions, sessions, users},
};

impl Store {
    pub(super) async fn withdraw_sessions(
        &self,
        permit: &Permit,
        ended: EndedSessions,
        live: Liveness,
    ) -> Result<Option<usize>> {
        let (entry, stamp) = (self.pending_entry(permit)?, self.new_rights_stamp());
        let count: Option<usize> = transact_retried!(self.db, |conn| {
            // no sign-in or confirmation changes groups meanwhile
            conn.lock_rights_stamp().await?;
            // in this transaction, so that a logout token is not used up if the sessions do not end
            if let EndedSessions::Named { provider, token, .. } = &ended {
                let expired = logout_tokens::table.filter(logout_tokens::expires_at.le(At(live.at)));
                diesel::delete(expired).execute(conn).await?;
                let values = (
                    logout_tokens::provider.eq(provider.as_str()),
                    logout_tokens::jti.eq(token.jti.0.to_vec()),
                    logout_tokens::expires_at.eq(At(token.valid_until)),
                );
                let inserted = diesel::insert_into(logout_tokens::table)
                    .values(values)
                    .on_conflict((logout_tokens::provider, logout_tokens::jti))
                    .do_nothing()
                    .execute(conn)
                    .await?;
                if inserted == 0 {
                    return Ok(None);
                }
            }
            // a person whom the token names may have no session
            let mut people = BTreeSet::<i64>::new();
            match &ended {
                EndedSessions::OfUser(id) => people.extend([id.0]),
                EndedSessions::Named { provider, subject: Some(subject), sid: None, .. } => {
                    let named: Vec<i64> = users::table
                        .filter(users::provider.eq(provider.as_str()))
                        .filter(users::subject.eq(subject))
                        .select(users::id)
                        .load(conn)
                        .await?;
                    people.extend(named);
                }
                EndedSessions::Named { subject: None, sid: None, .. } => return Ok(Some(0)),
                // a session that is not stored was ended by its user, who stays confirmed
                EndedSessions::One(_) | EndedSessions::Named { .. } => {}
            }
            let mut ending = sessions::table
                .inner_join(users::table)
                .inner_join(provider_sessions::table)
                .select((sessions::id, sessions::user_id))
                .into_boxed();
            match &ended {
                EndedSessions::One(id) => ending = ending.filter(sessions::id.eq(id.0)),
                EndedSessions::OfUser(id) => ending = ending.filter(sessions::user_id.eq(id.0)),
                EndedSessions::Named { provider, subject, sid, .. } => {
                    ending = ending.filter(provider_sessions::provider.eq(provider.as_str()));
                    if let Some(subject) = subject {
                        ending = ending.filter(users::subject.eq(subject));
                    }
                    if let Some(sid) = sid {
                        ending = ending.filter(provider_sessions::sid.eq(sid));
                    }
                }
            }
            let ending: Vec<(i64, i64)> = ending.load(conn).await?;
            let (ids, users_of_ending): (Vec<i64>, Vec<i64>) = ending.into_iter().unzip();
            people.extend(users_of_ending);
            // locks the users before their sessions, as a sign-in does; setting a column to itself locks the row
            diesel::update(users::table.filter(users::id.eq_any(people.clone())))
                .set(users::disabled.eq(users::disabled))
                .execute(conn)
                .await?;
            let count =
                diesel::delete(sessions::table.filter(sessions::id.eq_any(ids))).execute(conn).await?;

            let signed_in: Vec<i64> = sessions::table
                .filter(sessions::user_id.eq_any(people.clone()))
                .filter(sessions::expires_at.gt(At(live.at)))
                .filter(sessions::last_seen_at.gt(At(live.used_after)))
                .select(sessions::user_id)
                .load(conn)
                .await?;
            people.retain(|user| !signed_in.contains(user));
            let confirmed =
                users::table.filter(users::id.eq_any(people)).filter(users::confirmed_at.is_not_null());
            let lost = diesel::update(confirmed)
                .set((users::confirmed_at.eq(None::<At>), users::group_names.eq(None::<String>)))
                .execute(conn)
                .await?;
            if lost > 0 {
                conn.replace_rights_stamp(stamp).await?;
            }
            if count + lost > 0 {
                conn.record_success(entry.clone()).await?;
            }
            Ok(Some(count))
        })?;
        if count.is_some_and(|count| count > 0) {
            self.scrub_later();
        }
        Ok(count)
    }
}
