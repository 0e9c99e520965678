//! A copy of a SQLite database in one consistent piece, and what is done to it before it is used again. PostgreSQL has
//! programs of its own for both.

use std::path::Path;

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _, sql_query, sql_types};
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{Error, Result};
use tokio::runtime::Handle;

use crate::{
    Store,
    db::{Database, Db, blocking, create_file, text_of},
    error::{OpenError, StoreError},
    schema::sessions,
};

impl Store {
    /// Writes all of a SQLite database as it is at this moment to a new file, readable by its owner only, while others go
    /// on changing it.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` on PostgreSQL.
    pub async fn copy_to(&self, file: &Path) -> Result<()> {
        let Db::Sqlite { runtime, readers, .. } = &self.db else {
            return Err(Error::internal("a PostgreSQL database cannot be copied to a file"));
        };
        let path = text_of(file).map_err(|error| Error::internal(error.to_string()))?.to_owned();
        // an empty file is filled, and keeps its mode
        create_file(file).map_err(|error| Error::internal(error.to_string()))?;
        let mut connection = crate::db::acquire(readers.get()).await?;
        let copy = async move {
            sql_query("VACUUM INTO ?").bind::<sql_types::Text, _>(path).execute(&mut *connection).await?;
            Ok::<_, StoreError>(())
        };
        blocking(runtime, copy).await
    }

    /// Ends every session in the file of a copy that nobody has opened yet: those that ended since it was made must not
    /// hold again. The copy stays one file.
    ///
    /// # Errors
    /// [`OpenError::Unusable`].
    pub async fn end_sessions_of_copy(file: &Path, runtime: &Handle) -> Result<(), OpenError> {
        let of = Database::Sqlite(file.to_owned());
        let path = text_of(file)?.to_owned();
        let task = move || {
            let mut conn = SqliteConnection::establish(&path).map_err(|error| of.unusable(&error))?;
            let settings =
                "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
            conn.batch_execute(settings).map_err(|error| of.unusable(&error))?;
            diesel::RunQueryDsl::execute(diesel::delete(sessions::table), &mut conn)
                .map(drop)
                .map_err(|error| of.unusable(&error))
        };
        let of = Database::Sqlite(file.to_owned());
        runtime.spawn_blocking(task).await.map_err(|error| of.unusable(&error))?
    }
}
