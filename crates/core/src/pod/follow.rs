//! Followed log: a stream of lines until the container terminates, then an end event.

use futures_util::{StreamExt, stream::BoxStream};
use jiff::Timestamp;

use super::line::{LineId, Lines, LogLine};
use crate::{
    error::Result,
    name::ContainerName,
    streams::{EventStream, Reader, StreamEnd, StreamEvent},
};

/// Options of following a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// The container. `None`: the pod's default container.
    pub container: Option<ContainerName>,
    /// First line of the stream.
    pub start: FollowStart,
    /// Whether each line begins with its timestamp.
    pub timestamps: bool,
}

/// First line of a followed log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowStart {
    /// Begin with the newest lines of the log.
    Newest {
        /// Number of lines, 1 to 10000.
        lines: u32,
        /// Maximum age of the lines in seconds, at least 1.
        since_seconds: Option<u32>,
    },
    /// Begin with the first line of the log.
    Beginning,
    /// Begin with the lines from this time on; the node may add lines of the second before.
    Since(Timestamp),
    /// Resume after a line that the client has received.
    After(LineId),
}

/// Chunks of a log's bytes. The stream ends at the end of the log; an incomplete stream ends with an `Err` that holds
/// the reason.
pub type LogChunks = BoxStream<'static, Result<Vec<u8>, StreamEnd>>;

/// Item of a log stream: a batch of lines in log order.
pub type LogEvent = StreamEvent<Vec<LogLine>>;
/// Event stream of a followed log.
pub type LogStream = EventStream<Vec<LogLine>>;

/// Sends lines to the reader until the log ends.
pub(super) async fn forward(
    mut chunks: LogChunks,
    mut lines: Lines,
    mut reader: Reader<Vec<LogLine>>,
) -> StreamEnd {
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => lines.feed(chunk),
            // an incomplete line is dropped; the client receives it in full when it resumes after the last line
            Err(end) => return end,
        }
        while let Some(lines) = lines.next() {
            if !reader.send(lines).await {
                return StreamEnd::TooSlow;
            }
        }
    }
    if let Some(line) = lines.finish()
        && !reader.send(vec![line]).await
    {
        return StreamEnd::TooSlow;
    }
    StreamEnd::Completed
}
