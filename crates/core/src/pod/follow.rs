//! A log as it is written: lines until the container ends, the right to read it does, its reader is too slow, or the
//! server stops; and always a last word that says which.
//!
//! The lines are fetched by a task of their own, which waits for the reader but not for ever: a reader that stands still
//! can neither fill the memory nor keep a connection to a cluster, and cannot outlive its session.

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

use super::{
    line::{LineId, Lines, LogLine},
    streams::Slot,
};
use crate::{
    clock::Tasks,
    error::{Error, Result},
    name::ContainerName,
};

/// Which log is followed, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Which container; the pod's default one when none.
    pub container: Option<ContainerName>,
    /// Where it begins.
    pub start: FollowStart,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// Where a followed log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowStart {
    /// With its newest lines.
    Newest {
        /// How many, 1 to 10000.
        lines: u32,
        /// Not older than this many seconds, at least 1.
        since_seconds: Option<u32>,
    },
    /// After a line that the reader has.
    After(LineId),
}

/// The bytes of a log as they come. The end of the stream is the end of the log; what is not whole ends with an error.
pub type LogChunks = BoxStream<'static, Result<Vec<u8>>>;

/// What a reader is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// A line.
    Line(LogLine),
    /// Nothing follows, and why.
    End(StreamEnd),
}

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The container has ended, and this was all of its log.
    Completed,
    /// The server stops; another one, or the same one soon, goes on from the last line's id.
    ServerStopping,
    /// The reader did not read for [`super::StreamLimits::blocked`].
    TooSlow,
    /// The right has ended (`SessionEnded`, `RoleTooLow`, `NotFound` of the cluster), nobody could say for too long
    /// whether it has (`StoreUnavailable`), or the cluster failed.
    Failed(Error),
}

impl StreamEnd {
    /// The words that are not an error's cause, for the texts' completeness test.
    pub const WORDS: [&'static str; 3] = ["completed", "server_stopping", "too_slow"];

    /// The reason in a word: one of [`StreamEnd::WORDS`], or an error's cause.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ServerStopping => "server_stopping",
            Self::TooSlow => "too_slow",
            Self::Failed(error) => error.cause.as_str(),
        }
    }
}

/// Lines that wait for their reader.
const WAITING: usize = 8;

/// The events of a followed log; the last one is [`LogEvent::End`]. Dropped, it lets go of the cluster.
#[derive(Debug)]
pub struct LogStream {
    events: mpsc::Receiver<LogEvent>,
    over: bool,
    /// Tells the task that somebody is there.
    _here: oneshot::Receiver<()>,
}

/// What a stream is made of.
pub(super) struct Source {
    pub(super) chunks: LogChunks,
    pub(super) lines: Lines,
    /// Resolves when the right to read does not hold any more.
    pub(super) lost: BoxFuture<'static, Error>,
    pub(super) slot: Slot,
    /// How long the reader may stand still.
    pub(super) patience: Duration,
}

impl LogStream {
    /// Starts the task that fetches.
    pub(super) fn start(source: Source, tasks: &Arc<dyn Tasks>) -> Self {
        let (out, events) = mpsc::channel(WAITING);
        let (gone, here) = oneshot::channel();
        tasks.spawn(fetch(source, tasks.clone(), out, gone).boxed());
        Self { events, over: false, _here: here }
    }
}

impl Stream for LogStream {
    type Item = LogEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LogEvent>> {
        if self.over {
            return Poll::Ready(None);
        }
        let lost = || LogEvent::End(StreamEnd::Failed(Error::internal("the task of a log stream was lost")));
        let event = ready!(self.events.poll_next_unpin(cx)).unwrap_or_else(lost);
        self.over = matches!(event, LogEvent::End(_));
        Poll::Ready(Some(event))
    }
}

async fn fetch(
    source: Source,
    tasks: Arc<dyn Tasks>,
    out: mpsc::Sender<LogEvent>,
    mut gone: oneshot::Sender<()>,
) {
    let Source { chunks, lines, lost, slot, patience } = source;
    let mut last_word = out.clone();
    let mut stopping = slot.stopping();
    let mut lost = lost.fuse();
    let forwarding = forward(chunks, lines, out, patience, tasks);
    let end = {
        let mut forwarding = pin!(forwarding.fuse());
        select_biased! {
            () = gone.cancellation().fuse() => return,
            _ = stopping => StreamEnd::ServerStopping,
            error = lost => StreamEnd::Failed(error),
            end = forwarding => end,
        }
    };
    drop(slot);
    // every sender has a place of its own in the channel, however full it is
    let _ = last_word.try_send(LogEvent::End(end));
}

async fn forward(
    mut chunks: LogChunks,
    mut lines: Lines,
    mut out: mpsc::Sender<LogEvent>,
    patience: Duration,
    tasks: Arc<dyn Tasks>,
) -> StreamEnd {
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => lines.feed(chunk),
            // the line that broke off comes whole when the reader goes on from the last one
            Err(error) => return StreamEnd::Failed(error),
        }
        while let Some(line) = lines.next() {
            if !deliver(line, &mut out, patience, &*tasks).await {
                return StreamEnd::TooSlow;
            }
        }
    }
    if let Some(line) = lines.finish()
        && !deliver(line, &mut out, patience, &*tasks).await
    {
        return StreamEnd::TooSlow;
    }
    StreamEnd::Completed
}

/// Hands a line over; false when its reader does not take it for too long.
async fn deliver(
    line: LogLine,
    out: &mut mpsc::Sender<LogEvent>,
    patience: Duration,
    tasks: &dyn Tasks,
) -> bool {
    let Err(full) = out.try_send(LogEvent::Line(line)) else { return true };
    let room = poll_fn(|cx| out.poll_ready(cx));
    let waited = matches!(select(room, tasks.sleep(patience)).await, Either::Left((Ok(()), _)));
    waited && out.try_send(full.into_inner()).is_ok()
}
