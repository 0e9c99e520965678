//! Bare database drivers as a baseline: fill the tables, insert in batches, count rows.

use std::{path::PathBuf, pin::Pin, time::Instant};

use jiff::Timestamp;
use tokio_postgres::{NoTls, types::ToSql};

use super::{DAYS, USERS};
use crate::error::{BenchError, Result};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// A database through its driver, without the store.
pub(crate) trait Driver {
    /// Inserts `rows` operations of the last 30 days and as many audit entries, with zeroed hashes.
    fn fill(&self, rows: usize, now: Timestamp) -> BoxFuture<'_, ()>;
    /// Inserts entries, `batch` per transaction, with the same two rows per entry as the store. Returns entries per
    /// second.
    fn insert(&self, count: usize, batch: usize) -> BoxFuture<'_, f64>;
    /// Counts the rows that a query finds.
    fn count<'a>(&'a self, pairs: &'a [(String, String)]) -> BoxFuture<'a, u64>;
}

const COLUMNS: &str = "operation_id, instance, operation_type, resource_type, cluster_id, cluster_name, namespace, \
    resource_name, searched, user_id, username, role, request_id, status, details, duration_ms, created_at, finished_at";

/// Body of an entry, of the form and about the size that the store writes.
const BODY: &str = r#"{"entry":"complete","operation":{"id":"00000000-0000-7000-8000-000000000000","operation_type":"scale","resource_type":"deployment","cluster_id":1,"cluster_name":"cluster-01","namespace":"team-001","resource_name":"deployment-1","user_id":1,"username":"user-01","role":"ops_admin","request_id":"request-1","params":{"replicas":3},"created_at":"2026-01-01T00:00:00.000000Z"},"outcome":{"status":"success","duration_ms":0,"finished_at":"2026-01-01T00:00:00.000000Z"}}"#;

/// SQL expressions of the values of row `i`; `times` is the expression of its start and end.
fn values(id: &str, user: &str, cluster: &str, namespace: &str, name: &str, times: &str) -> String {
    format!(
        "{id}, 'bench', CASE i % 5 WHEN 0 THEN 'update' ELSE 'scale' END, 'deployment', 1 + i % 50, {cluster}, \
         {namespace}, {name}, {name}, 1 + i % {USERS}, {user}, 'ops_admin', 'request', \
         CASE WHEN i % 50 = 3 THEN 'failed' ELSE 'success' END, 'replicas=3', 12, {times}, {times}"
    )
}

/// SQL condition for the filters of a query.
fn condition(pairs: &[(String, String)], time: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut all = vec!["1 = 1".to_owned()];
    for (name, value) in pairs {
        match name.as_str() {
            "username" | "status" => all.push(format!("{name} = '{value}'")),
            "from" => all.push(format!("created_at >= {}", time(value)?)),
            "to" => all.push(format!("created_at < {}", time(value)?)),
            "before" => all.push(format!("id < {value}")),
            _ => {}
        }
    }
    Ok(all.join(" AND "))
}

/// SQLite, by the path of the file.
pub(crate) struct Sqlite(pub(crate) PathBuf);

impl Sqlite {
    fn open(&self) -> Result<rusqlite::Connection> {
        let connection = rusqlite::Connection::open(&self.0)?;
        connection.execute_batch(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
        )?;
        Ok(connection)
    }
}

impl Driver for Sqlite {
    fn fill(&self, rows: usize, now: Timestamp) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (step, now) = (DAYS * 86_400_000_000 / rows as i64, now.as_microsecond());
            let values = values(
                "printf('%08x-0000-7000-8000-%012x', i, i)",
                &format!("printf('user-%02d', i % {USERS})"),
                "printf('cluster-%02d', i % 50)",
                "printf('team-%03d', i % 100)",
                "printf('deployment-%d', i % 1000)",
                &format!("{now} - ({rows} - i) * {step}"),
            );
            let numbers =
                format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
            self.open()?.execute_batch(&format!(
                "BEGIN;
                 INSERT INTO operations ({COLUMNS}) {numbers} SELECT {values} FROM n;
                 INSERT INTO audit_log (seq, operation_id, entry, at, body, hash)
                 {numbers} SELECT i, printf('%08x-0000-7000-8000-%012x', i, i), 'complete', {now}, '{BODY}', zeroblob(32) FROM n;
                 UPDATE audit_head SET seq = {rows};
                 COMMIT; PRAGMA wal_checkpoint(TRUNCATE);"
            ))?;
            Ok(())
        })
    }

    fn insert(&self, count: usize, batch: usize) -> BoxFuture<'_, f64> {
        Box::pin(async move {
            let mut connection = self.open()?;
            let first: i64 = connection.query_row("SELECT seq FROM audit_head", [], |row| row.get(0))?;
            let started = Instant::now();
            for start in (0..count).step_by(batch) {
                let transaction =
                    connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                {
                    let sql = format!(
                        "INSERT INTO operations ({COLUMNS}) VALUES (?1, 'bench', 'scale', 'deployment', 1, 'cluster-01', \
                         'team-001', ?2, ?2, 1, ?3, 'ops_admin', ?2, 'success', 'replicas=3', 0, ?4, ?4)"
                    );
                    let mut row = transaction.prepare_cached(&sql)?;
                    let mut entry = transaction.prepare_cached(
                        "INSERT INTO audit_log (seq, operation_id, entry, at, body, hash) VALUES (?1, ?2, 'complete', ?3, ?4, zeroblob(32))",
                    )?;
                    for i in start..(start + batch).min(count) {
                        let seq = first + 1 + i as i64;
                        let id = format!("ffffffff-0000-7000-8000-{seq:012x}");
                        let at = Timestamp::now().as_microsecond();
                        row.execute((&id, format!("deployment-{i}"), format!("user-{:02}", i % USERS), at))?;
                        entry.execute((seq, &id, at, BODY))?;
                    }
                    let last = first + (start + batch).min(count) as i64;
                    transaction.execute("UPDATE audit_head SET seq = ?1", [last])?;
                }
                transaction.commit()?;
            }
            Ok(count as f64 / started.elapsed().as_secs_f64())
        })
    }

    fn count<'a>(&'a self, pairs: &'a [(String, String)]) -> BoxFuture<'a, u64> {
        Box::pin(async move {
            let time = |text: &str| Ok(text.parse::<Timestamp>()?.as_microsecond().to_string());
            let sql = format!("SELECT count(*) FROM operations WHERE {}", condition(pairs, time)?);
            Ok(self.open()?.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
        })
    }
}

/// PostgreSQL, by its URL and server.
pub(crate) struct Postgres<'a>(pub(crate) String, pub(crate) &'a pilothouse_testbed::Postgres);

impl Driver for Postgres<'_> {
    fn fill(&self, rows: usize, now: Timestamp) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let step = DAYS * 86_400 * 1_000_000 / rows as i64;
            let values = values(
                "lpad(to_hex(i), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(i), 12, '0')",
                &format!("'user-' || lpad((i % {USERS})::text, 2, '0')"),
                "'cluster-' || lpad((i % 50)::text, 2, '0')",
                "'team-' || lpad((i % 100)::text, 3, '0')",
                "'deployment-' || i % 1000",
                &format!("'{now}'::timestamptz - ({rows} - i) * interval '{step} microseconds'"),
            );
            let numbers = format!("generate_series(1, {rows}) AS i");
            self.1.sql_in(
                &self.0,
                &format!(
                    "INSERT INTO operations ({COLUMNS}) SELECT {values} FROM {numbers};
                     INSERT INTO audit_log (seq, operation_id, entry, at, body, hash)
                     SELECT i, lpad(to_hex(i), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(i), 12, '0'), 'complete',
                         '{now}', '{BODY}', decode(repeat('00', 32), 'hex') FROM {numbers};
                     UPDATE audit_head SET seq = {rows}"
                ),
            )?;
            // autovacuum would do this later
            self.1.sql_in(&self.0, "VACUUM ANALYZE operations")?;
            self.1.sql_in(&self.0, "VACUUM ANALYZE audit_log")?;
            Ok(())
        })
    }

    fn insert(&self, count: usize, batch: usize) -> BoxFuture<'_, f64> {
        Box::pin(async move {
            let (mut client, connection) = tokio_postgres::connect(&self.0, NoTls).await?;
            let connection_task = tokio::spawn(connection);
            let first: i64 = client.query_one("SELECT seq FROM audit_head", &[]).await?.get(0);
            let started = Instant::now();
            // many rows per statement, like the store
            let placeholder_rows = |columns: usize, rows: usize| {
                let row = |n: usize| {
                    let placeholders: Vec<_> =
                        (1..=columns).map(|c| format!("${}", n * columns + c)).collect();
                    placeholders
                };
                (0..rows).map(row).collect::<Vec<_>>()
            };
            for start in (0..count).step_by(batch) {
                let rows: Vec<_> =
                    (start..(start + batch).min(count)).map(|i| first + 1 + i as i64).collect();
                let texts: Vec<_> = rows
                    .iter()
                    .map(|seq| {
                        (
                            format!("ffffffff-0000-7000-8000-{seq:012x}"),
                            format!("deployment-{seq}"),
                            format!("user-{:02}", seq % USERS as i64),
                        )
                    })
                    .collect();
                let transaction = client.transaction().await?;
                let sql: Vec<_> = placeholder_rows(3, rows.len())
                    .into_iter()
                    .map(|p| format!("({}, 'bench', 'scale', 'deployment', 1, 'cluster-01', 'team-001', {n}, {n}, 1, {}, 'ops_admin', {n}, 'success', 'replicas=3', 0, now(), now())", p[0], p[2], n = p[1]))
                    .collect();
                let insert = transaction
                    .prepare(&format!("INSERT INTO operations ({COLUMNS}) VALUES {}", sql.join(", ")))
                    .await?;
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    texts.iter().flat_map(|(a, b, c)| [a as &(dyn ToSql + Sync), b, c]).collect();
                transaction.execute(&insert, &parameters).await?;
                let sql: Vec<_> = placeholder_rows(2, rows.len())
                    .into_iter()
                    .map(|p| {
                        format!(
                            "({}, {}, 'complete', now(), '{BODY}', decode(repeat('00', 32), 'hex'))",
                            p[0], p[1]
                        )
                    })
                    .collect();
                let insert = transaction
                    .prepare(&format!(
                        "INSERT INTO audit_log (seq, operation_id, entry, at, body, hash) VALUES {}",
                        sql.join(", ")
                    ))
                    .await?;
                let parameters: Vec<&(dyn ToSql + Sync)> = rows
                    .iter()
                    .zip(&texts)
                    .flat_map(|(seq, (id, ..))| [seq as &(dyn ToSql + Sync), id])
                    .collect();
                transaction.execute(&insert, &parameters).await?;
                let last = rows.last().copied().unwrap_or(first);
                transaction.execute("UPDATE audit_head SET seq = $1", &[&last]).await?;
                transaction.commit().await?;
            }
            let rate = count as f64 / started.elapsed().as_secs_f64();
            drop(client);
            connection_task.await.map_err(|_| BenchError::because("the driver panicked"))??;
            Ok(rate)
        })
    }

    fn count<'a>(&'a self, pairs: &'a [(String, String)]) -> BoxFuture<'a, u64> {
        Box::pin(async move {
            let time = |text: &str| Ok(format!("'{text}'::timestamptz"));
            let sql = format!("SELECT count(*) FROM operations WHERE {}", condition(pairs, time)?);
            Ok(self.1.sql_in(&self.0, &sql)?.trim().parse()?)
        })
    }
}
