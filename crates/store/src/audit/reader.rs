//! Unvalidated read access to the trail for verification and export: texts and times exactly as the database holds
//! them, also if they were tampered with.

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
    backend::Backend,
    deserialize::{self, FromSql, FromSqlRow},
    dsl::{max, min},
    pg::Pg,
    sql_types::{BigInt, Text},
    sqlite::Sqlite,
};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    audit::{ChainHash, Head, StoredCheckpoint, StoredEntry, StoredRow, TrailReader},
    ids::OperationId,
    rows::Cell,
};

use crate::{
    Store,
    db::read,
    error::corrupt,
    schema::{
        At, Instant, POSTGRES_EPOCH, audit_beginning, audit_checkpoints, audit_handovers, audit_head,
        audit_log, operations,
    },
};

/// A TEXT value that may be invalid UTF-8: SQLite accepts any bytes, and diesel would silently replace invalid ones.
#[derive(Debug, FromSqlRow)]
struct Raw(String);

impl Raw {
    /// U+0000 marks invalid UTF-8. No text that Pilothouse writes contains it.
    fn of(bytes: &[u8]) -> Self {
        Self(str::from_utf8(bytes).map_or_else(|_| format!("\0{}", bytes.escape_ascii()), str::to_owned))
    }
}

impl FromSql<Text, Sqlite> for Raw {
    fn from_sql(mut value: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(Self::of(value.read_blob()))
    }
}

impl FromSql<Text, Pg> for Raw {
    fn from_sql(value: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(Self::of(value.as_bytes()))
    }
}

/// Microseconds since 1970, not limited to the range of [`Timestamp`].
#[derive(Debug, FromSqlRow)]
struct Micros(i64);

impl FromSql<Instant, Sqlite> for Micros {
    fn from_sql(value: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(<i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?))
    }
}

impl FromSql<Instant, Pg> for Micros {
    fn from_sql(value: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(<i64 as FromSql<BigInt, Pg>>::from_sql(value)?.saturating_add(POSTGRES_EPOCH)))
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_log)]
struct Entry {
    seq: i64,
    operation_id: Raw,
    entry: Raw,
    at: Micros,
    body: Raw,
    hash: Vec<u8>,
}

impl From<Entry> for StoredEntry {
    fn from(row: Entry) -> Self {
        Self {
            sequence: row.seq,
            operation_id: row.operation_id.0,
            kind: row.entry.0,
            at: row.at.0,
            text: row.body.0,
            hash: row.hash,
        }
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = operations)]
struct Row {
    id: i64,
    operation_id: Raw,
    cluster_id: Option<i64>,
    cluster_name: Option<Raw>,
    operation_type: Raw,
    resource_type: Raw,
    resource_name: Option<Raw>,
    namespace: Option<Raw>,
    status: Raw,
    user_id: Option<i64>,
    username: Raw,
    role: Option<Raw>,
    grant_id: Option<i64>,
    token_id: Option<i64>,
    reason: Option<Raw>,
    source_ip: Option<Raw>,
    request_id: Option<Raw>,
    duration_ms: Option<i64>,
    error_code: Option<Raw>,
    details: Option<Raw>,
    created_at: Micros,
    finished_at: Option<Micros>,
    searched: Raw,
}

impl From<Row> for StoredRow {
    fn from(row: Row) -> Self {
        let text = |raw: Raw| Cell::text(raw.0);
        let maybe = |raw: Option<Raw>| raw.map_or(Cell::Null, text);
        // in the order of the fields of operations in the core crate
        let cells = vec![
            ("id", Cell::from(row.id)),
            ("operation_id", text(row.operation_id)),
            ("cluster_id", Cell::from(row.cluster_id)),
            ("cluster_name", maybe(row.cluster_name)),
            ("operation_type", text(row.operation_type)),
            ("resource_type", text(row.resource_type)),
            ("resource_name", maybe(row.resource_name)),
            ("namespace", maybe(row.namespace)),
            ("status", text(row.status)),
            ("user_id", Cell::from(row.user_id)),
            ("username", text(row.username)),
            ("role", maybe(row.role)),
            ("grant_id", Cell::from(row.grant_id)),
            ("token_id", Cell::from(row.token_id)),
            ("reason", maybe(row.reason)),
            ("source_ip", maybe(row.source_ip)),
            ("request_id", maybe(row.request_id)),
            ("duration_ms", Cell::from(row.duration_ms)),
            ("error_code", maybe(row.error_code)),
            ("details", maybe(row.details)),
            ("created_at", Cell::from(row.created_at.0)),
            ("finished_at", Cell::from(row.finished_at.map(|at| at.0))),
        ];
        Self { id: row.id, searched: row.searched.0, cells }
    }
}

impl Store {
    async fn trail_head(&self) -> Result<(String, Head)> {
        let (Raw(trail), sequence, hash): (Raw, i64, Vec<u8>) = read!(self.db, |conn| Ok(audit_head::table
            .find(1)
            .select((audit_head::trail, audit_head::seq, audit_head::hash))
            .get_result(conn)
            .await?))?;
        let hash = hash.try_into().map_err(|_| corrupt("audit_head.hash"))?;
        // the caller verifies signatures with the active key
        self.refresh_active_key().await?;
        Ok((trail, Head { sequence, hash: ChainHash(hash) }))
    }

    async fn trail_start_line(&self) -> Result<Option<String>> {
        let line: Option<Raw> = read!(self.db, |conn| {
            Ok(audit_beginning::table.find(1).select(audit_beginning::line).first(conn).await.optional()?)
        })?;
        Ok(line.map(|Raw(line)| line))
    }

    async fn trail_entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        let rows: Vec<Entry> = read!(self.db, |conn| Ok(audit_log::table
            .filter(audit_log::seq.gt(after))
            .order_by(audit_log::seq)
            .limit(limit.into())
            .select(Entry::as_select())
            .load(conn)
            .await?))?;
        Ok(rows.into_iter().map(StoredEntry::from).collect())
    }

    async fn intent_of(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        let row: Option<Entry> = read!(self.db, |conn| Ok(audit_log::table
            .filter(audit_log::operation_id.eq(operation.to_string()))
            .order_by(audit_log::seq)
            .select(Entry::as_select())
            .first(conn)
            .await
            .optional()?))?;
        Ok(row.map(StoredEntry::from))
    }

    async fn operation_rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        let rows: Vec<Row> = read!(self.db, |conn| Ok(operations::table
            .filter(operations::id.gt(after))
            .order_by(operations::id)
            .limit(limit.into())
            .select(Row::as_select())
            .load(conn)
            .await?))?;
        Ok(rows.into_iter().map(StoredRow::from).collect())
    }

    async fn trail_checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        let rows: Vec<(i64, Raw)> = read!(self.db, |conn| Ok(audit_checkpoints::table
            .filter(audit_checkpoints::seq.gt(after))
            .order_by(audit_checkpoints::seq)
            .limit(limit.into())
            .select((audit_checkpoints::seq, audit_checkpoints::line))
            .load(conn)
            .await?))?;
        Ok(rows.into_iter().map(|(sequence, Raw(line))| StoredCheckpoint { sequence, line }).collect())
    }

    async fn entries_between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        // the result for a missing bound is ignored by the caller
        let from = At(from.unwrap_or(Timestamp::UNIX_EPOCH));
        let to = At(to.unwrap_or(Timestamp::UNIX_EPOCH));
        read!(self.db, |conn| {
            let first = audit_log::table.filter(audit_log::at.ge(from)).select(min(audit_log::seq));
            let last = audit_log::table.filter(audit_log::at.lt(to)).select(max(audit_log::seq));
            Ok((first.get_result(conn).await?, last.get_result(conn).await?))
        })
    }

    async fn key_rotation_lines(&self) -> Result<Vec<String>> {
        let lines: Vec<Raw> = read!(self.db, |conn| Ok(audit_handovers::table
            .order_by(audit_handovers::seq)
            .select(audit_handovers::line)
            .load(conn)
            .await?))?;
        Ok(lines.into_iter().map(|Raw(line)| line).collect())
    }
}

#[async_trait]
impl TrailReader for Store {
    async fn head(&self) -> Result<(String, Head)> {
        self.trail_head().await
    }

    async fn trail_start(&self) -> Result<Option<String>> {
        self.trail_start_line().await
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        self.trail_entries(after, limit).await
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        self.intent_of(operation).await
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        self.operation_rows(after, limit).await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        self.trail_checkpoints(after, limit).await
    }

    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        self.entries_between(from, to).await
    }

    async fn key_rotations(&self) -> Result<Vec<String>> {
        self.key_rotation_lines().await
    }

    fn verified_heads(&self) -> Vec<Head> {
        let Some(verified) = self.trail_context.verified_state.current() else { return Vec::new() };
        verified.signed().into_iter().chain([verified.head()]).collect()
    }
}
