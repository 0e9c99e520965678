//! A log as it is written: the bytes of one long answer.
//!
//! A kubelet does not even send the head of its answer before the log has a first line, and the end of the answer may
//! mean that the container has ended as well as that a kubelet or an API server has. So the head is waited for only a
//! moment, and the end is explained by the pod.

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

use crate::{
    client::ClusterClient,
    error::Failure,
    observe::Observer,
    request::Call,
    transport::{ExchangeError, Transport},
};

/// How long the head of an answer is waited for, before the log is taken for a silent one. What is refused is refused
/// sooner.
const SILENT: Duration = Duration::from_secs(1);
/// How often, and after which pauses, the pod is asked whether its container has ended: a kubelet lets go of the log's
/// readers before it says so.
const ASKED: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// The run of a container whose log is read.
pub(super) struct Run {
    pub(super) transport: Arc<Transport>,
    pub(super) permit: Permit,
    pub(super) observer: Arc<dyn Observer>,
    /// Asks for the pod.
    pub(super) get: Call,
    pub(super) container: String,
    /// The pod's, when the reading began.
    pub(super) uid: String,
    /// The container's, when the reading began.
    pub(super) restarts: i64,
    /// How long a question may take.
    pub(super) deadline: Duration,
}

/// The bytes of an answer that is on its way, then, should they end too early, why: `Gone` when the cluster's connection was
/// replaced or removed.
///
/// # Errors
/// Why it is refused, if that is said soon; else the stream says it.
pub(super) async fn chunks(
    opening: impl Future<Output = Result<Incoming, Failure>> + Send + 'static,
    run: Run,
) -> Result<LogChunks, Failure> {
    let mut opening = opening.boxed();
    let opening = match timeout(SILENT, &mut opening).await {
        Ok(opened) => ready(Ok(opened?)).boxed(),
        Err(_) => opening,
    };
    let bytes = opening.map_ok(data).map_err(Error::from).try_flatten_stream();
    let closed = run.transport.closed().clone();
    let end = stream::once(run.end()).filter_map(|end| ready(end.err().map(Err)));
    let chunks = bytes.chain(end).map_err(StreamEnd::from).take_until(closed.clone().cancelled_owned());
    let gone =
        stream::once(async move { closed.is_cancelled().then_some(Err(StreamEnd::ConnectionChanged)) });
    Ok(chunks.chain(gone.filter_map(ready)).boxed())
}

fn data(body: Incoming) -> impl Stream<Item = Result<Vec<u8>>> {
    let frames = BodyStream::new(body).map_err(|error| Error::new(ExchangeError::of(&error).cause()));
    frames.try_filter_map(|frame| ready(Ok(frame.into_data().ok().map(Vec::from))))
}

impl Run {
    /// Whether the container has ended, now that its log has.
    ///
    /// # Errors
    /// `ConnectionLost` when it runs on; else as every call to a cluster.
    async fn end(self) -> Result<()> {
        for _ in 0..ASKED {
            let client =
                ClusterClient::new(self.transport.clone(), &self.permit, self.deadline, &self.observer)?;
            let Some(pod) = client.find(&self.get, parse::<PodObject>).await? else { return Ok(()) };
            if !self.goes_on(&pod) {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        Err(Error::new(Cause::ConnectionLost).read_only())
    }

    fn goes_on(&self, pod: &PodObject) -> bool {
        pod.metadata.uid == self.uid
            && super::status(pod, &self.container)
                .is_some_and(|status| status.state.running.is_some() && status.restart_count == self.restarts)
    }
}
