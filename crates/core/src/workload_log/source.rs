//! One source of the logs of a workload: a container whose log is followed over its restarts, or whose previous log is
//! read once.

use std::{
    future::{pending, poll_fn},
    sync::Arc,
    task::Poll,
};

use futures_channel::mpsc;
use futures_util::{
    FutureExt,
    future::{Either, select},
    stream::{BoxStream, StreamExt, unfold},
};

use super::{LineFilter, SourceState, pods::RETRY_INTERVAL};
use crate::{
    access::{Permit, Principal},
    error::{Cause, Error},
    name::{ContainerName, ObjectName},
    pod::{Follow, FollowStart, LineId, Lines, LogChunks, LogLine, PodApi, ReadOptions},
    spawn::Spawner,
    streams::{LogConnection, StreamEnd, Streams},
};

/// Size of the text, in bytes, after which the filter lets other tasks run.
const FILTER_BYTES: usize = 4 << 10;

/// Item of a source.
#[derive(Debug)]
pub(super) enum SourceItem {
    /// Lines that pass the filter, in log order; none if no line of a part of the log passed.
    Lines(Vec<LogLine>),
    /// The state of the source changed, with the reason.
    State(SourceState, Option<String>),
}

/// What is read of a log.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    /// The log is followed, first from this start.
    Follow(FollowStart),
    /// The log of the previous run is read once.
    Previous {
        /// Number of lines from the end of the log.
        lines: u32,
        /// Maximum age of the lines in seconds.
        since_seconds: Option<u32>,
    },
}

/// What all sources of a stream need.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) api: Arc<dyn PodApi>,
    pub(super) spawner: Arc<dyn Spawner>,
    pub(super) streams: Streams,
    /// Whose connections are counted.
    pub(super) user: Option<Principal>,
    pub(super) filter: Option<Arc<LineFilter>>,
}

/// A source.
pub(super) struct Source {
    access: Access,
    permit: Permit,
    pod: ObjectName,
    container: ContainerName,
    mode: Mode,
    /// Signals that the container may have begun again. Closed when the pod was removed.
    changed: mpsc::Receiver<()>,
    stage: Stage,
    /// The last line that was read.
    last: Option<LineId>,
    /// The state that was reported last.
    reported: Option<Reported>,
    /// The state to report after the lines that were read.
    next: Option<Reported>,
}

/// A state, and its reason.
type Reported = (SourceState, Option<String>);

enum Stage {
    /// The log is opened next.
    Connect,
    /// The log is read.
    Read {
        chunks: LogChunks,
        lines: Lines,
        _connection: LogConnection,
    },
    /// Nothing is read until the pod changes or, with `retry`, for [`RETRY_INTERVAL`].
    Wait {
        retry: bool,
    },
    Over,
}

impl Source {
    pub(super) fn new(
        access: Access,
        permit: Permit,
        (pod, container): (ObjectName, ContainerName),
        mode: Mode,
        changed: mpsc::Receiver<()>,
    ) -> Self {
        Self {
            access,
            permit,
            pod,
            container,
            mode,
            changed,
            stage: Stage::Connect,
            last: None,
            reported: None,
            next: None,
        }
    }

    /// The items, until the pod was removed and its log read to the end.
    pub(super) fn items(self) -> BoxStream<'static, SourceItem> {
        let next = |mut source: Self| async move {
            let item = source.next().await?;
            Some((item, source))
        };
        unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Option<SourceItem> {
        loop {
            if let Some(state) = self.next.take()
                && self.reported.as_ref() != Some(&state)
            {
                self.reported = Some(state.clone());
                return Some(SourceItem::State(state.0, state.1));
            }
            let state = match &mut self.stage {
                Stage::Connect => self.connect().await,
                Stage::Read { chunks, lines, .. } => match read(chunks, lines).await {
                    Ok(Read::Lines(lines)) => return Some(self.accept(lines).await),
                    Ok(Read::End(line)) => {
                        self.next = Some(self.ended(SourceState::Ended, None));
                        let Some(line) = line else { continue };
                        return Some(self.accept(vec![line]).await);
                    }
                    Err(end) => self.ended(SourceState::Failed, Some(end.reason().to_owned())),
                },
                Stage::Wait { retry } => {
                    let retry = *retry;
                    self.wait(retry).await;
                    continue;
                }
                Stage::Over => return None,
            };
            self.next = Some(state);
        }
    }

    /// Opens the log. Returns the new state.
    async fn connect(&mut self) -> Reported {
        let Some(connection) = self.access.streams.connect(self.access.user) else {
            return self.ended(SourceState::Failed, Some(Cause::Overloaded.as_str().to_owned()));
        };
        let (start, opened) = self.open().await;
        match opened {
            Ok(chunks) => {
                let lines = Lines::new(&start, false);
                self.stage = Stage::Read { chunks, lines, _connection: connection };
                (SourceState::Following, None)
            }
            Err(error) if error.cause == Cause::ContainerNotStarted => {
                if let Mode::Follow(start) = &mut self.mode {
                    // all that it will write is new
                    *start = FollowStart::Beginning;
                }
                let reason = error.context.message.clone();
                self.ended(SourceState::Waiting, reason)
            }
            // the pod was removed; the list of pods reports it, too
            Err(error) if error.cause == Cause::NotFoundInCluster && !self.is_previous() => {
                self.stage = Stage::Wait { retry: false };
                (SourceState::Ended, None)
            }
            Err(error) => self.ended(SourceState::Failed, Some(error.cause.as_str().to_owned())),
        }
    }

    async fn open(&mut self) -> (FollowStart, Result<LogChunks, Error>) {
        let container = Some(self.container.clone());
        match &self.mode {
            Mode::Follow(start) => {
                // a log that was read in part goes on after its last line
                let start = self.last.map_or_else(|| start.clone(), FollowStart::After);
                let follow = Follow { container, start: start.clone(), timestamps: false };
                (start, self.access.api.follow(&self.permit, &self.pod, &follow).await)
            }
            Mode::Previous { lines, since_seconds } => {
                let (tail_lines, since_seconds) = (Some(*lines), *since_seconds);
                let options =
                    ReadOptions { container, previous: true, tail_lines, since_seconds, timestamps: true };
                let file = self.access.api.read(&self.permit, &self.pod, &options).await;
                (FollowStart::Beginning, file.map(|file| file.chunks))
            }
        }
    }

    /// The state of a log that is not read any more.
    fn ended(&mut self, state: SourceState, reason: Option<String>) -> Reported {
        self.stage =
            if self.is_previous() { Stage::Over } else { Stage::Wait { retry: state != SourceState::Ended } };
        (state, reason)
    }

    /// Accepts the lines that were read: remembers the last one, and applies the filter.
    async fn accept(&mut self, lines: Vec<LogLine>) -> SourceItem {
        self.last = lines.iter().rev().find_map(|line| line.id).or(self.last);
        let Some(filter) = self.access.filter.clone() else { return SourceItem::Lines(lines) };
        let lines = passing(&filter, lines).await;
        if lines.is_empty() {
            // the filter may drop many lines that are there already; others must run meanwhile
            yield_now().await;
        }
        SourceItem::Lines(lines)
    }

    /// Waits until the log may be opened again, or the pod was removed.
    async fn wait(&mut self, retry: bool) {
        let pause = if retry { self.access.spawner.sleep(RETRY_INTERVAL) } else { pending::<()>().boxed() };
        self.stage = match select(self.changed.next(), pause).await {
            Either::Left((None, _)) => {
                self.next = Some((SourceState::Ended, None));
                Stage::Over
            }
            Either::Left((Some(()), _)) | Either::Right(_) => Stage::Connect,
        };
    }

    const fn is_previous(&self) -> bool {
        matches!(self.mode, Mode::Previous { .. })
    }
}

/// Part of a log.
enum Read {
    Lines(Vec<LogLine>),
    /// The end of the log, and its last line if that has no line terminator.
    End(Option<LogLine>),
}

/// Reads the next lines.
async fn read(chunks: &mut LogChunks, lines: &mut Lines) -> Result<Read, StreamEnd> {
    loop {
        if let Some(lines) = lines.next() {
            return Ok(Read::Lines(lines));
        }
        match chunks.next().await {
            Some(Ok(chunk)) => lines.feed(chunk),
            // an incomplete line is dropped; it is read in full when the log is opened again
            Some(Err(end)) => return Err(end),
            None => return Ok(Read::End(lines.finish())),
        }
    }
}

/// The lines that pass a filter. Other tasks run meanwhile, because an expression may take milliseconds for each KiB.
async fn passing(filter: &LineFilter, lines: Vec<LogLine>) -> Vec<LogLine> {
    let (mut passing, mut bytes) = (Vec::new(), 0);
    for line in lines {
        bytes += line.text.len();
        if filter.matches(&line.text) {
            passing.push(line);
        }
        if bytes >= FILTER_BYTES {
            bytes = 0;
            yield_now().await;
        }
    }
    passing
}

/// Lets other tasks run.
async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(move |cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_of_much_text_lets_other_tasks_run() {
        let filter = LineFilter::regex("x$").unwrap();
        let lines = |count| vec![LogLine { id: None, text: "x".repeat(1 << 10) }; count];
        assert_eq!(passing(&filter, lines(3)).now_or_never().map(|lines| lines.len()), Some(3));
        let mut long = Box::pin(passing(&filter, lines(9)));
        assert!((&mut long).now_or_never().is_none() && (&mut long).now_or_never().is_none());
        assert_eq!(long.now_or_never().map(|lines| lines.len()), Some(9));
    }
}
