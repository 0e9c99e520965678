//! Group commit: one task appends the entries that are not part of another transaction. It commits all waiting
//! entries together, so that they share one disk flush.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use diesel_async::AsyncConnection as _;
use pilothouse_core::{Cause, Error, Result};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{Trail as _, TrailContext, Write};
use crate::{
    db::{Db, transact},
    error::audit_error,
};

/// Maximum number of entries in one commit.
const MAX_GROUP_ENTRIES: usize = 256;

/// Capacity of the queue, in entries. When it is full, callers wait.
const QUEUE_CAPACITY: usize = 1024;

struct QueuedWrite {
    write: Write,
    stored: oneshot::Sender<Result<()>>,
}

/// Handle to the task. The task ends when the last handle is dropped and all entries are stored.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<QueuedWrite>,
    /// Number of entries that could not be stored.
    failed: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn start(db: Db, context: TrailContext, runtime: &Handle) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_CAPACITY);
        runtime.spawn(run(db, context, queue));
        Self { queue: sender, failed: Arc::default() }
    }

    /// Number of entries that could not be stored.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Appends an entry and returns when it is durable.
    ///
    /// # Errors
    /// `AuditUnavailable`. The entry may be stored nevertheless.
    pub(crate) async fn write(&self, write: Write) -> Result<()> {
        let unavailable = || Error::new(Cause::AuditUnavailable);
        let (stored, result) = oneshot::channel();
        self.queue.send(QueuedWrite { write, stored }).await.map_err(|_| unavailable())?;
        let result = result.await.unwrap_or_else(|_| Err(unavailable()));
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

async fn run(db: Db, context: TrailContext, mut queue: mpsc::Receiver<QueuedWrite>) {
    let mut group = Vec::with_capacity(MAX_GROUP_ENTRIES);
    while queue.recv_many(&mut group, MAX_GROUP_ENTRIES).await > 0 {
        let (writes, callers): (Vec<_>, Vec<_>) = group.drain(..).map(|w| (w.write, w.stored)).unzip();
        let result = store(&db, &context, writes.clone()).await;
        let store_each =
            writes.len() > 1 && result.as_ref().is_err_and(|error| error.cause == Cause::Internal);
        for (write, caller) in writes.into_iter().zip(callers) {
            // a defect in one entry must not fail the others: store each on its own
            let result = if store_each { store(&db, &context, vec![write]).await } else { result.clone() };
            // fails if the caller was cancelled
            let _ = caller.send(result);
        }
    }
}

async fn store(db: &Db, context: &TrailContext, writes: Vec<Write>) -> Result<()> {
    let context = context.clone();
    let stored: Result<u64> = async { transact!(*db, |conn| conn.append(&writes, &context).await) }.await;
    stored.map(drop).map_err(audit_error)
}
