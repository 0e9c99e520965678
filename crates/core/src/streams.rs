//! Answers that go on, such as a log as it is written: what they have in common, whatever they tell.
//!
//! A task of its own fetches, and waits for the reader but not for ever: a reader that stands still can neither fill the
//! memory nor keep a connection to a cluster, and cannot outlive its session. And there is always a last word that
//! says why nothing follows.

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
};

use crate::{clock::Spawner, error::Error};

mod limiter;

pub use limiter::StreamLimits;
pub(crate) use limiter::{StreamSlot, Streams};

/// What a reader is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent<T> {
    /// Something.
    Next(T),
    /// Nothing follows, and why.
    End(StreamEnd),
}

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The container has ended, and this was all of its log.
    Completed,
    /// The server stops; another one, or the same one soon, goes on.
    ServerStopping,
    /// The reader did not read for [`StreamLimits::blocked`].
    TooSlow,
    /// So much happened to a list that some of it was missed; a new stream begins with its rows.
    Lagged,
    /// The cluster was removed, or its connection was replaced: what is read over the old one ends.
    ConnectionChanged,
    /// The right has ended (`SessionEnded`, `RoleTooLow`, `NotFound` of the cluster), nobody could say for too long
    /// whether it has (`StoreUnavailable`), or the cluster failed.
    Failed(Error),
}

impl From<Error> for StreamEnd {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl StreamEnd {
    /// The words that are not an error's cause, for the texts' completeness test.
    pub const WORDS: [&'static str; 5] =
        ["completed", "server_stopping", "too_slow", "lagged", "connection_changed"];

    /// The reason in a word: one of [`StreamEnd::WORDS`], or an error's cause.
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

/// How much waits for its reader.
const BUFFER: usize = 8;

/// A stream as its reader sees it; the last event is [`StreamEvent::End`]. Dropped, it lets go of the cluster.
#[derive(Debug)]
pub struct EventStream<T> {
    events: mpsc::Receiver<StreamEvent<T>>,
    over: bool,
    /// Tells the task that somebody is there.
    _here: oneshot::Receiver<()>,
}

/// What a stream needs besides what it tells.
pub(crate) struct StreamGuard {
    /// Resolves when the right to read does not hold any more.
    pub(crate) lost: BoxFuture<'static, Error>,
    pub(crate) place: StreamSlot,
}

/// Where a stream's task hands over what it fetched.
pub(crate) struct Reader<T> {
    out: mpsc::Sender<StreamEvent<T>>,
    patience: Duration,
    spawner: Arc<dyn Spawner>,
}

impl<T: Send + 'static> EventStream<T> {
    /// Starts the task that fetches: `work` hands over to the reader, and says why it ended.
    pub(crate) fn start<F, Fut>(leave: StreamGuard, spawner: &Arc<dyn Spawner>, work: F) -> Self
    where
        F: FnOnce(Reader<T>) -> Fut,
        Fut: Future<Output = StreamEnd> + Send + 'static,
    {
        let (out, events) = mpsc::channel(BUFFER);
        let (gone, here) = oneshot::channel();
        let last_word = out.clone();
        let work = work(Reader { out, patience: leave.place.limits().blocked, spawner: spawner.clone() });
        spawner.spawn(run(leave, work, last_word, gone).boxed());
        Self { events, over: false, _here: here }
    }
}

impl<T> Stream for EventStream<T> {
    type Item = StreamEvent<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamEvent<T>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let lost = || {
            StreamEvent::End(StreamEnd::Failed(Error::internal(
                "the task of a stream ended without a result",
            )))
        };
        let event = ready!(self.events.poll_next_unpin(cx)).unwrap_or_else(lost);
        self.over = matches!(event, StreamEvent::End(_));
        Poll::Ready(Some(event))
    }
}

async fn run<T>(
    StreamGuard { lost, place }: StreamGuard,
    work: impl Future<Output = StreamEnd>,
    mut last_word: mpsc::Sender<StreamEvent<T>>,
    mut gone: oneshot::Sender<()>,
) {
    let mut stopping = place.stopping();
    let mut lost = lost.fuse();
    let end = {
        let mut work = pin!(work.fuse());
        select_biased! {
            () = gone.cancellation().fuse() => return,
            _ = stopping => StreamEnd::ServerStopping,
            error = lost => StreamEnd::Failed(error),
            end = work => end,
        }
    };
    drop(place);
    // every sender has a place of its own in the channel, however full it is
    let _ = last_word.try_send(StreamEvent::End(end));
}

impl<T> Reader<T> {
    /// Hands something over; false when its reader does not take it for too long.
    pub(crate) async fn send(&mut self, what: T) -> bool {
        let Self { out, patience, spawner } = self;
        let Err(full) = out.try_send(StreamEvent::Next(what)) else { return true };
        let room = poll_fn(|cx| out.poll_ready(cx));
        let waited = matches!(select(room, spawner.sleep(*patience)).await, Either::Left((Ok(()), _)));
        waited && out.try_send(full.into_inner()).is_ok()
    }
}
