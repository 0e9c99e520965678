//! One task that stores what stands alone in the trail: as many entries in one commit as wait, so that a disk's flush
//! is shared.

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
    error::audit,
};

/// The most entries in one commit.
const GROUP: usize = 256;

/// How many may wait before callers wait to be let in.
const QUEUE: usize = 1024;

struct Waiting {
    write: Write,
    stored: oneshot::Sender<Result<()>>,
}

/// The way to the task. It ends when the last of these is gone and everything is stored.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Waiting>,
    /// Entries that could not be stored.
    failed: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn start(db: Db, by: TrailContext, runtime: &Handle) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        runtime.spawn(run(db, by, queue));
        Self { queue: sender, failed: Arc::default() }
    }

    /// How many entries could not be stored.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Returns when it is durable.
    ///
    /// # Errors
    /// `AuditUnavailable`; then it may be stored all the same.
    pub(crate) async fn write(&self, write: Write) -> Result<()> {
        let gone = || Error::new(Cause::AuditUnavailable);
        let (stored, result) = oneshot::channel();
        self.queue.send(Waiting { write, stored }).await.map_err(|_| gone())?;
        let result = result.await.unwrap_or_else(|_| Err(gone()));
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

async fn run(db: Db, by: TrailContext, mut queue: mpsc::Receiver<Waiting>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut group, GROUP).await > 0 {
        let (writes, callers): (Vec<_>, Vec<_>) = group.drain(..).map(|w| (w.write, w.stored)).unzip();
        let result = store(&db, &by, writes.clone()).await;
        let one_is_bad =
            writes.len() > 1 && result.as_ref().is_err_and(|error| error.cause == Cause::Internal);
        for (write, caller) in writes.into_iter().zip(callers) {
            // a defect in one entry must not take the others with it
            let result = if one_is_bad { store(&db, &by, vec![write]).await } else { result.clone() };
            // the caller may have given up
            let _ = caller.send(result);
        }
    }
}

async fn store(db: &Db, by: &TrailContext, writes: Vec<Write>) -> Result<()> {
    let by = by.clone();
    let stored: Result<u64> = async { transact!(*db, |conn| conn.append(&writes, &by).await) }.await;
    stored.map(drop).map_err(audit)
}
