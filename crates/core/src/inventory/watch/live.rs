//! Live stream: several watches in one stream, which counts as one.

use std::future::{pending, ready};

use futures_util::{
    FutureExt,
    stream::{self, BoxStream, StreamExt},
};

use super::{ListStreamEvent, WatchEvents, WatchQuery, Watches, until_end};
use crate::{
    access::Caller,
    error::{Error, Reason, Result},
    streams::{EventStream, StreamEnd, StreamEvent, StreamGuard},
};

/// Maximum number of watches of a live stream.
pub const MAX_LIVE_WATCHES: usize = 16;

/// Event of a live stream.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveEvent {
    /// Place of the watch among those of the stream, from 0.
    pub sub: usize,
    /// Its event, or its end.
    pub event: ListStreamEvent,
}

/// Event stream of several watches.
pub type LiveStream = EventStream<LiveEvent>;

impl Watches {
    /// Streams several watches. A watch that is refused or over sends its end, and the others go on; the stream ends
    /// with the reason of the last one.
    ///
    /// # Errors
    /// `InvalidInput` for no watch, or more than [`MAX_LIVE_WATCHES`]; `Overloaded` if the caller, or all callers
    /// together, have too many open streams.
    pub fn live(&self, caller: &Caller, watches: Vec<WatchQuery>) -> Result<LiveStream> {
        match watches.len() {
            0 => return Err(Error::invalid("sub", Reason::Required)),
            1..=MAX_LIVE_WATCHES => {}
            _ => return Err(Error::invalid("sub", Reason::TooLong)),
        }
        let slot = self.slot(caller, watches.iter().filter_map(WatchQuery::rows_of_page).max())?;
        let parts = watches.into_iter().enumerate().map(|(sub, watch)| {
            let (watches, caller) = (self.clone(), caller.clone());
            let opened = async move { watches.part(&caller, watch).await };
            opened.flatten_stream().map(move |event| LiveEvent { sub, event }).boxed()
        });
        let parts: Vec<BoxStream<'static, LiveEvent>> = parts.collect();
        let events = with_last_end(stream::select_all(parts).boxed());
        // each watch checks the caller's rights, and ends with the session
        let guard = StreamGuard { revoked: pending().boxed(), slot };
        Ok(EventStream::start(guard, &self.spawner, |reader| reader.send_all(events)))
    }

    /// The events of one watch, up to its end: also that of the caller's right.
    async fn part(&self, caller: &Caller, watch: WatchQuery) -> WatchEvents {
        let opened = async {
            let watch = self.resolve(caller, watch).await?;
            let (permit, revoked) = self.authorise(caller, &watch).await?;
            Ok::<_, Error>((self.events(caller, permit, watch).await?, revoked))
        };
        let failed = |error| StreamEvent::End(StreamEnd::Failed(error));
        match opened.await {
            Ok((events, revoked)) => until_end(stream::select(events, revoked.map(failed).into_stream())),
            Err(error) => stream::once(ready(failed(error))).boxed(),
        }
    }
}

/// The events of all watches, then the end of the one that ended last.
fn with_last_end(events: BoxStream<'static, LiveEvent>) -> BoxStream<'static, StreamEvent<LiveEvent>> {
    let state = Some((events, StreamEnd::ConnectionChanged));
    let next = |state: Option<(BoxStream<'static, LiveEvent>, StreamEnd)>| async move {
        let (mut events, last) = state?;
        let Some(event) = events.next().await else { return Some((StreamEvent::End(last), None)) };
        let last = match &event.event {
            StreamEvent::End(end) => end.clone(),
            StreamEvent::Next(_) => last,
        };
        Some((StreamEvent::Next(event), Some((events, last))))
    };
    stream::unfold(state, next).boxed()
}
