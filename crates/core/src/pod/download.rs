//! Download of a log: all of it, streamed.

use std::future::ready;

use futures_util::stream::{StreamExt, iter, once};

use super::{LogChunks, Pods, access};
use crate::{
    access::Caller,
    error::Result,
    ids::ClusterId,
    name::{ContainerName, Namespace, ObjectName},
    streams::{EventStream, StreamEnd, StreamEvent, StreamGuard},
};

/// Maximum size of a part that is buffered for a reader, in bytes.
const MAX_PART_BYTES: usize = 64 << 10;

/// Options of reading a log from its beginning, or its last lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The container. `None`: the pod's default container.
    pub container: Option<ContainerName>,
    /// Whether to read the log of the container's previous run.
    pub previous: bool,
    /// Number of lines from the end of the log. `None`: all.
    pub tail_lines: Option<u32>,
    /// Maximum age of the lines in seconds, at least 1.
    pub since_seconds: Option<u32>,
    /// Whether each line begins with its timestamp.
    pub timestamps: bool,
}

/// The log of a container.
pub struct LogFile {
    /// The container.
    pub container: String,
    /// The bytes of its log, as the container wrote them.
    pub chunks: LogChunks,
}

/// Download of a log.
#[derive(Debug)]
pub struct LogDownload {
    /// The container whose log it is.
    pub container: String,
    /// The bytes. The log is complete if the stream ends with [`StreamEnd::Completed`].
    pub bytes: EventStream<Vec<u8>>,
}

impl Pods {
    /// Streams a container's log as it is now.
    ///
    /// # Errors
    /// As [`super::PodApi::read`]; `Overloaded` if the caller, or all callers together, have too many open streams or
    /// connections for logs.
    pub async fn download(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        pod: &ObjectName,
        options: &ReadOptions,
    ) -> Result<LogDownload> {
        let (permit, revoked) = self.gate.follow(caller, access(cluster, namespace, pod)).await?;
        let slot = self.streams.enter_download(caller.principal())?;
        let LogFile { container, chunks } = self.api.read(&permit, pod, options).await?;
        let events = chunks.flat_map(|chunk| match chunk {
            Ok(chunk) => iter(parts(chunk)).left_stream(),
            Err(end) => once(ready(StreamEvent::End(end))).right_stream(),
        });
        let events = events.chain(once(ready(StreamEvent::End(StreamEnd::Completed)))).boxed();
        let guard = StreamGuard { revoked, slot };
        let bytes = EventStream::start(guard, &self.spawner, |reader| reader.send_all(events));
        Ok(LogDownload { container, bytes })
    }
}

/// The parts of a chunk, one after another.
fn parts(chunk: Vec<u8>) -> impl Iterator<Item = StreamEvent<Vec<u8>>> {
    let starts = (0..chunk.len()).step_by(MAX_PART_BYTES);
    starts.map(move |start| {
        let end = chunk.len().min(start + MAX_PART_BYTES);
        StreamEvent::Next(chunk[start..end].to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_is_sent_in_parts_of_limited_size() {
        let chunk: Vec<u8> = (0..2 * MAX_PART_BYTES + 1).map(|n| (n % 251) as u8).collect();
        let all: Vec<_> = parts(chunk.clone())
            .map(|part| match part {
                StreamEvent::Next(part) => part,
                StreamEvent::End(end) => panic!("{}", end.reason()),
            })
            .collect();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_PART_BYTES, MAX_PART_BYTES, 1]);
        assert_eq!(all.concat(), chunk);
        assert_eq!(parts(Vec::new()).count(), 0);
    }
}
