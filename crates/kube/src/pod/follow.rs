//! Log streams: the body of one long response.
//!
//! A kubelet sends the response head only with the first log line, and the end of a response may mean that the
//! container, the kubelet or the API server has ended. So the wait for the head is limited to [`HEAD_TIMEOUT`], and
//! after the end of the response the pod's status is checked.

use std::{future::ready, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt, stream};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    object::parse,
    pod::{LogChunks, PodObject},
    streams::StreamEnd,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    client::ClusterClient,
    error::Failure,
    observe::Observer,
    request::Call,
    transport::{ExchangeError, Transport},
};

/// Wait for the response head, after which the log is assumed to be empty so far. Errors arrive sooner.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// Number and interval of checks whether the container has ended: a kubelet closes log streams before it updates the
/// status.
const MAX_END_CHECKS: u32 = 10;
const END_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The run of a container whose log is followed.
pub(super) struct ContainerRun {
    pub(super) transport: Arc<Transport>,
    pub(super) permit: Permit,
    pub(super) observer: Arc<dyn Observer>,
    /// GET of the pod.
    pub(super) get: Call,
    pub(super) container: String,
    /// UID of the pod when the stream was opened.
    pub(super) uid: String,
    /// Restart count of the container when the stream was opened.
    pub(super) restart_count: i64,
    /// Timeout of a check of the pod's status.
    pub(super) deadline: Duration,
}

/// The bytes of a response and, if they end too early, the reason: `ConnectionChanged` when the cluster's connection
/// was replaced or removed.
///
/// # Errors
/// The error response, if it arrives within [`HEAD_TIMEOUT`]; otherwise the stream ends with it.
pub(super) async fn chunks(
    opening: impl Future<Output = Result<Incoming, Failure>> + Send + 'static,
    run: ContainerRun,
) -> Result<LogChunks, Failure> {
    let mut opening = opening.boxed();
    let opening = match timeout(HEAD_TIMEOUT, &mut opening).await {
        Ok(opened) => ready(Ok(opened?)).boxed(),
        Err(_) => opening,
    };
    let bytes = opening.map_ok(data).map_err(Error::from).try_flatten_stream();
    let closed = run.transport.closed().clone();
    let end = stream::once(run.check_ended()).filter_map(|end| ready(end.err().map(Err)));
    Ok(until_closed(bytes.chain(end).map_err(StreamEnd::from), closed))
}

/// The bytes of a response that is read to its end.
pub(super) fn whole(body: Incoming, transport: &Transport) -> LogChunks {
    until_closed(data(body).map_err(StreamEnd::from), transport.closed().clone())
}

/// The chunks until the connection is closed, then the reason.
fn until_closed(
    chunks: impl Stream<Item = Result<Vec<u8>, StreamEnd>> + Send + 'static,
    closed: CancellationToken,
) -> LogChunks {
    let chunks = chunks.take_until(closed.clone().cancelled_owned());
    let connection_changed =
        stream::once(async move { closed.is_cancelled().then_some(Err(StreamEnd::ConnectionChanged)) });
    chunks.chain(connection_changed.filter_map(ready)).boxed()
}

fn data(body: Incoming) -> impl Stream<Item = Result<Vec<u8>>> {
    let frames = BodyStream::new(body).map_err(|error| Error::new(ExchangeError::of(&error).cause()));
    frames.try_filter_map(|frame| ready(Ok(frame.into_data().ok().map(Vec::from))))
}

impl ContainerRun {
    /// Checks, after the end of the log, that the container has ended.
    ///
    /// # Errors
    /// `ConnectionLost` when the container is still running; otherwise as every call to a cluster.
    async fn check_ended(self) -> Result<()> {
        for _ in 0..MAX_END_CHECKS {
            let client =
                ClusterClient::new(self.transport.clone(), &self.permit, self.deadline, &self.observer)?;
            let Some(pod) = client.find_object(&self.get, parse::<PodObject>).await? else { return Ok(()) };
            if !self.is_running(&pod) {
                return Ok(());
            }
            sleep(END_CHECK_INTERVAL).await;
        }
        Err(Error::new(Cause::ConnectionLost).read_only())
    }

    fn is_running(&self, pod: &PodObject) -> bool {
        pod.metadata.uid == self.uid
            && super::status(pod, &self.container).is_some_and(|status| {
                status.state.running.is_some() && status.restart_count == self.restart_count
            })
    }
}
