//! Backup support for SQLite: a consistent copy of the database, and the preparation of a copy before it is restored.
//! For PostgreSQL, use its tools (`pg_dump`, `pg_restore`).

use std::path::Path;

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _, sql_query, sql_types};
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{Error, Result};
use tokio::runtime::Handle;

use crate::{
    Store,
    db::{Database, Db, create_file, path_str, run_blocking},
    error::{OpenError, StoreError},
    schema::sessions,
};

impl Store {
    /// Copies the SQLite database, as of now, to a new file that only its owner can read. Other transactions continue
    /// to write meanwhile.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` on PostgreSQL, and when the file cannot be created.
    pub async fn copy_to(&self, file: &Path) -> Result<()> {
        let Db::Sqlite { runtime, readers, .. } = &self.db else {
            return Err(Error::internal("a PostgreSQL database cannot be copied to a file"));
        };
        let path = path_str(file).map_err(|error| Error::internal(error.to_string()))?.to_owned();
        // VACUUM INTO accepts an empty file and keeps its mode
        create_file(file).map_err(|error| Error::internal(error.to_string()))?;
        let mut connection = crate::db::acquire(readers.get()).await?;
        let copy = Box::pin(async move {
            sql_query("VACUUM INTO ?").bind::<sql_types::Text, _>(path).execute(&mut *connection).await?;
            Ok::<_, StoreError>(())
        });
        run_blocking(runtime, copy).await
    }

    /// Deletes every session in a copy that is not open yet: a session that ended after the copy was made must not
    /// become valid again. The copy stays one file, without a write-ahead log.
    ///
    /// # Errors
    /// [`OpenError::Unusable`].
    pub async fn end_sessions_of_copy(file: &Path, runtime: &Handle) -> Result<(), OpenError> {
        let target = Database::Sqlite(file.to_owned());
        let path = path_str(file)?.to_owned();
        let task = move || {
            let mut conn = SqliteConnection::establish(&path).map_err(|error| target.unusable(&error))?;
            let settings =
                "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
            conn.batch_execute(settings).map_err(|error| target.unusable(&error))?;
            diesel::RunQueryDsl::execute(diesel::delete(sessions::table), &mut conn)
                .map(drop)
                .map_err(|error| target.unusable(&error))
        };
        let target = Database::Sqlite(file.to_owned());
        runtime.spawn_blocking(task).await.map_err(|error| target.unusable(&error))?
    }
}
