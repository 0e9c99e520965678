//! Event streams: long-lived responses, such as a followed log or a watched list.
//!
//! A separate task produces the events and waits for the reader for a limited time. A stalled reader can therefore
//! neither fill the memory nor hold a connection to a cluster, and no stream outlives its session. Every stream ends
//! with an `End` event that carries the reason.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_channel::{mpsc, oneshot};
use futures_util::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, Either, select},
    select_biased,
    stream::BoxStream,
};

use crate::{error::Error, spawn::Spawner};

mod limiter;

pub(crate) use limiter::{HeldRows, LogConnection, StreamSlot};
pub use limiter::{StreamLimits, Streams};

/// Item of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent<T> {
    /// An event.
    Next(T),
    /// The end of the stream and its reason. Last item.
    End(StreamEnd),
}

/// Reason for the end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The container has terminated, and its whole log was sent.
    Completed,
    /// The server is shutting down. The client can continue at another replica, or at this one after its restart.
    ServerStopping,
    /// The reader stalled for [`StreamLimits::stall_timeout`].
    TooSlow,
    /// The reader fell behind and missed changes of the list. A new stream begins with the current rows.
    Lagged,
    /// The cluster was removed or its connection was replaced. Streams over the old connection end.
    ConnectionChanged,
    /// The permission was revoked (`SessionEnded`, `RoleTooLow`, `NotFound` for the cluster), it could not be
    /// re-checked for too long (`StoreUnavailable`), or the cluster failed.
    Failed(Error),
}

impl From<Error> for StreamEnd {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl StreamEnd {
    /// The reasons that are not an error's cause, for the completeness test of the message catalogs.
    pub const REASONS: [&'static str; 5] =
        ["completed", "server_stopping", "too_slow", "lagged", "connection_changed"];

    /// The reason on the wire: one of [`StreamEnd::REASONS`], or an error's cause.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ServerStopping => "server_stopping",
            Self::TooSlow => "too_slow",
            Self::Lagged => "lagged",
            Self::ConnectionChanged => "connection_changed",
            Self::Failed(error) => error.cause.as_str(),
        }
    }
}

/// Event stream, reader side. Its last item is [`StreamEvent::End`]. Dropping it cancels the producer task, which
/// releases the connection to the cluster.
#[derive(Debug)]
pub struct EventStream<T> {
    events: mpsc::Receiver<StreamEvent<T>>,
    ended: bool,
    /// Cancels the producer task when dropped.
    _reader_alive: oneshot::Receiver<()>,
}

/// Permission and limiter slot of a stream.
pub(crate) struct StreamGuard {
    /// Resolves when the permission is revoked.
    pub(crate) revoked: BoxFuture<'static, Error>,
    pub(crate) slot: StreamSlot,
}

/// Event stream, producer side.
pub(crate) struct Reader<T> {
    sender: mpsc::Sender<StreamEvent<T>>,
    stall_timeout: Duration,
    spawner: Arc<dyn Spawner>,
}

impl<T: Send + 'static> EventStream<T> {
    /// Starts the producer task. `work` sends events to the reader and returns the reason for the end.
    pub(crate) fn start<F, Fut>(guard: StreamGuard, spawner: &Arc<dyn Spawner>, work: F) -> Self
    where
        F: FnOnce(Reader<T>) -> Fut,
        Fut: Future<Output = StreamEnd> + Send + 'static,
    {
        let (sender, events) = mpsc::channel(guard.slot.buffered_events());
        let (reader_gone, reader_alive) = oneshot::channel();
        let end_sender = sender.clone();
        let stall_timeout = guard.slot.limits().stall_timeout;
        let work = work(Reader { sender, stall_timeout, spawner: spawner.clone() });
        spawner.spawn(run(guard, work, end_sender, reader_gone).boxed());
        Self { events, ended: false, _reader_alive: reader_alive }
    }
}

impl<T> Stream for EventStream<T> {
    type Item = StreamEvent<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamEvent<T>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let no_result = || {
            StreamEvent::End(StreamEnd::Failed(Error::internal(
                "the task of a stream ended without a result",
            )))
        };
        let event = ready!(self.events.poll_next_unpin(cx)).unwrap_or_else(no_result);
        self.ended = matches!(event, StreamEvent::End(_));
        Poll::Ready(Some(event))
    }
}

/// Runs the producer until it ends, the reader is gone, the permission is revoked or the server stops; then sends the
/// end.
async fn run<T>(
    StreamGuard { revoked, slot }: StreamGuard,
    work: impl Future<Output = StreamEnd>,
    mut end_sender: mpsc::Sender<StreamEvent<T>>,
    mut reader_gone: oneshot::Sender<()>,
) {
    let mut stopping = slot.stopping();
    let mut revoked = revoked.fuse();
    let end = {
        let mut work = pin!(work.fuse());
        select_biased! {
            () = reader_gone.cancellation().fuse() => return,
            _ = stopping => StreamEnd::ServerStopping,
            error = revoked => StreamEnd::Failed(error),
            end = work => end,
        }
    };
    drop(slot);
    // each sender has a guaranteed slot in the channel, even if the buffer is full
    let _ = end_sender.try_send(StreamEvent::End(end));
}

impl<T> Reader<T> {
    /// Sends events to the reader up to the end among them, and returns that end; `TooSlow` if the reader stalls.
    pub(crate) async fn send_all(mut self, mut events: BoxStream<'static, StreamEvent<T>>) -> StreamEnd {
        while let Some(event) = events.next().await {
            match event {
                StreamEvent::Next(event) => {
                    if !self.send(event).await {
                        return StreamEnd::TooSlow;
                    }
                }
                StreamEvent::End(end) => return end,
            }
        }
        StreamEnd::ConnectionChanged
    }

    /// Sends an event. Returns false if the reader is gone or stalls for [`StreamLimits::stall_timeout`].
    pub(crate) async fn send(&mut self, event: T) -> bool {
        let Self { sender, stall_timeout, spawner } = self;
        let Err(full) = sender.try_send(StreamEvent::Next(event)) else { return true };
        let capacity = poll_fn(|cx| sender.poll_ready(cx));
        let in_time =
            matches!(select(capacity, spawner.sleep(*stall_timeout)).await, Either::Left((Ok(()), _)));
        in_time && sender.try_send(full.into_inner()).is_ok()
    }
}
