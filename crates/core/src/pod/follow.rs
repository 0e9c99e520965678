//! A log as it is written: lines until the container ends, and then a last word.

use futures_util::{StreamExt, stream::BoxStream};

use super::line::{LineId, Lines, LogLine};
use crate::{
    error::Result,
    name::ContainerName,
    streams::{EventStream, Reader, StreamEnd, StreamEvent},
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

/// The bytes of a log as they come. The end of the stream is the end of the log; what is not whole ends with why.
pub type LogChunks = BoxStream<'static, Result<Vec<u8>, StreamEnd>>;

/// What a reader of a log is told: the lines that came together, in their order.
pub type LogEvent = StreamEvent<Vec<LogLine>>;
/// The events of a followed log.
pub type LogStream = EventStream<Vec<LogLine>>;

/// Hands lines over until there are no more.
pub(super) async fn forward(
    mut chunks: LogChunks,
    mut lines: Lines,
    mut reader: Reader<Vec<LogLine>>,
) -> StreamEnd {
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => lines.feed(chunk),
            // the line that broke off comes whole when the reader goes on from the last one
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
