//! Merge of several logs by time. Each source is read only while none of its lines waits, so that the memory is bounded
//! by the number of sources, whatever the reader does.
//!
//! The oldest waiting line is passed on once every other source has a line, too. A source that is silent is waited for
//! only [`HOLD`], and at first for up to [`FIRST_HOLDS`] times as long: its newest lines may be older than those of the
//! others. A line that arrives later still is passed on out of order.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{BoxStream, StreamExt},
};

use super::{SourceState, source::SourceItem};
use crate::{pod::LogLine, spawn::Spawner};

/// Time for which a line waits for a source that is silent.
const HOLD: Duration = Duration::from_millis(200);
/// Number of times that lines wait for a source that has sent nothing yet.
const FIRST_HOLDS: u32 = 10;
/// Size of the text in a batch, in bytes, from which no further line is added.
const BATCH_BYTES: usize = 16 << 10;
/// Maximum number of lines in a batch.
const MAX_BATCH_LINES: usize = 256;

/// Item of a merge.
#[derive(Debug)]
pub(super) enum Merged<K> {
    /// Lines, with their sources.
    Lines(Vec<(K, LogLine)>),
    /// The state of a source changed, with the reason.
    State(K, SourceState, Option<String>),
    /// A source is over and was removed.
    Over(K),
}

/// The sources of a merge.
pub(super) struct Merger<K> {
    sources: Vec<Member<K>>,
    spawner: Arc<dyn Spawner>,
    /// The wait for silent sources, if there is one.
    hold: Option<BoxFuture<'static, ()>>,
    /// Whether further sources are about to be added, and how often lines wait for them.
    expects_more: bool,
    holds_for_more: u32,
    /// Items that follow lines which were passed on.
    pending: VecDeque<Merged<K>>,
}

struct Member<K> {
    key: K,
    items: BoxStream<'static, SourceItem>,
    /// Lines that wait.
    lines: VecDeque<LogLine>,
    /// Whether lines may come without a change of its state.
    is_open: bool,
    /// How often lines of others wait for it.
    holds: u32,
    /// Whether the current wait is for it, too.
    is_held: bool,
}

impl<K> Member<K> {
    /// Whether lines of others wait for this source.
    fn is_awaited(&self) -> bool {
        self.lines.is_empty() && self.is_open && self.holds > 0
    }
}

impl<K: Clone> Merger<K> {
    pub(super) fn new(spawner: Arc<dyn Spawner>) -> Self {
        Self {
            sources: Vec::new(),
            spawner,
            hold: None,
            expects_more: false,
            holds_for_more: FIRST_HOLDS,
            pending: VecDeque::new(),
        }
    }

    /// Adds a source.
    pub(super) fn add(&mut self, key: K, items: BoxStream<'static, SourceItem>) {
        let member =
            Member { key, items, lines: VecDeque::new(), is_open: true, holds: FIRST_HOLDS, is_held: false };
        self.sources.push(member);
    }

    /// Number of sources.
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    /// Sets whether further sources are about to be added. At first, lines wait for them, too.
    pub(super) fn expect_more(&mut self, expects_more: bool) {
        self.expects_more = expects_more;
    }

    /// The next item.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Merged<K>> {
        if let Some(item) = self.pending.pop_front() {
            return Poll::Ready(item);
        }
        for at in 0..self.sources.len() {
            if let Some(item) = self.poll_source(at, cx) {
                return Poll::Ready(item);
            }
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < MAX_BATCH_LINES && bytes < BATCH_BYTES {
            let Some((at, line)) = self.next_line(cx) else { break };
            bytes += line.text.len();
            batch.push((self.sources[at].key.clone(), line));
            if let Some(item) = self.poll_source(at, cx) {
                self.pending.push_back(item);
                break;
            }
        }
        if batch.is_empty() { Poll::Pending } else { Poll::Ready(Merged::Lines(batch)) }
    }

    /// Reads a source until a line of it waits. Returns a change of its state.
    fn poll_source(&mut self, at: usize, cx: &mut Context<'_>) -> Option<Merged<K>> {
        let source = &mut self.sources[at];
        while source.lines.is_empty() {
            match source.items.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(SourceItem::Lines(lines))) => {
                    source.lines.extend(lines);
                    (source.holds, source.is_held) = (1, false);
                }
                Poll::Ready(Some(SourceItem::State(state, reason))) => {
                    source.is_open = state == SourceState::Following;
                    return Some(Merged::State(source.key.clone(), state, reason));
                }
                Poll::Ready(None) => return Some(Merged::Over(self.sources.remove(at).key)),
            }
        }
        None
    }

    /// Takes the oldest waiting line, unless it has to wait for other sources.
    fn next_line(&mut self, cx: &mut Context<'_>) -> Option<(usize, LogLine)> {
        loop {
            let heads = self.sources.iter().enumerate();
            let heads = heads.filter_map(|(at, source)| Some((source.lines.front()?.time(), at)));
            let Some((_, at)) = heads.min() else {
                self.hold = None;
                return None;
            };
            let awaits_more = self.expects_more && self.holds_for_more > 0;
            if !awaits_more && !self.sources.iter().any(Member::is_awaited) {
                self.hold = None;
                return self.sources[at].lines.pop_front().map(|line| (at, line));
            }
            if self.hold.is_none() {
                for source in &mut self.sources {
                    source.is_held = source.is_awaited();
                }
            }
            let spawner = &self.spawner;
            let hold = self.hold.get_or_insert_with(|| {
                let spawner = spawner.clone();
                async move { spawner.sleep(HOLD).await }.boxed()
            });
            if hold.poll_unpin(cx).is_pending() {
                return None;
            }
            self.hold = None;
            self.holds_for_more = self.holds_for_more.saturating_sub(u32::from(awaits_more));
            for source in self.sources.iter_mut().filter(|source| source.is_held) {
                source.holds = source.holds.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_channel::mpsc::{UnboundedSender, unbounded};
    use futures_executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::{pod::Lines, testing::fake::FakeRuntime};

    type Sender = UnboundedSender<SourceItem>;

    fn merger() -> Merger<usize> {
        Merger::new(FakeRuntime::default().spawner)
    }

    fn add(merger: &mut Merger<usize>, key: usize) -> Sender {
        let (sender, items) = unbounded();
        merger.add(key, items.boxed());
        sender
    }

    /// Lines with these times in seconds.
    fn lines(seconds: &[u32]) -> SourceItem {
        let mut lines = Lines::new(&crate::pod::FollowStart::Beginning, false);
        let line = |second: &u32| format!("2026-01-01T00:{:02}:{:02}Z {second}\n", second / 60, second % 60);
        lines.feed(seconds.iter().map(line).collect::<String>().into_bytes());
        SourceItem::Lines(std::iter::from_fn(|| lines.next()).flatten().collect())
    }

    fn next(merger: &mut Merger<usize>) -> Merged<usize> {
        block_on(poll_fn(|cx| merger.poll_next(cx)))
    }

    /// The texts of the next lines, with their sources.
    fn texts(merger: &mut Merger<usize>, count: usize) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        while found.len() < count {
            match next(merger) {
                Merged::Lines(lines) => found.extend(lines.into_iter().map(|(key, line)| (key, line.text))),
                other => panic!("{other:?}"),
            }
        }
        found
    }

    fn owned(lines: &[(usize, &str)]) -> Vec<(usize, String)> {
        lines.iter().map(|(key, text)| (*key, (*text).to_owned())).collect()
    }

    #[test]
    fn lines_of_several_sources_are_in_order() {
        let mut merger = merger();
        let [a, b] = [0, 1].map(|key| add(&mut merger, key));
        a.unbounded_send(lines(&[1, 4, 5])).unwrap();
        b.unbounded_send(lines(&[2, 3, 6])).unwrap();
        a.unbounded_send(lines(&[7])).unwrap();
        let expected = [(0, "1"), (1, "2"), (1, "3"), (0, "4"), (0, "5"), (1, "6"), (0, "7")];
        assert_eq!(texts(&mut merger, 7), owned(&expected));
    }

    #[test]
    fn silent_source_is_waited_for_only_for_a_time() {
        let mut merger = merger();
        let [a, silent] = [0, 1].map(|key| add(&mut merger, key));
        a.unbounded_send(lines(&[1, 2])).unwrap();
        let poll = |merger: &mut Merger<usize>| poll_fn(|cx| merger.poll_next(cx)).now_or_never().is_none();
        assert!(poll(&mut merger), "lines wait for a source that is being opened");
        assert_eq!(texts(&mut merger, 2), owned(&[(0, "1"), (0, "2")]));
        silent.unbounded_send(lines(&[0])).unwrap();
        assert_eq!(texts(&mut merger, 1), owned(&[(1, "0")]), "a late line is not lost");
    }

    #[test]
    fn source_that_is_not_open_is_not_waited_for() {
        for state in [SourceState::Waiting, SourceState::Ended, SourceState::Failed] {
            let mut merger = merger();
            let [a, other] = [0, 1].map(|key| add(&mut merger, key));
            other.unbounded_send(SourceItem::State(state, None)).unwrap();
            a.unbounded_send(lines(&[1])).unwrap();
            assert!(matches!(next(&mut merger), Merged::State(1, reported, None) if reported == state));
            let lines = poll_fn(|cx| merger.poll_next(cx)).now_or_never();
            assert!(matches!(lines, Some(Merged::Lines(_))), "{state:?}: {lines:?}");
        }
    }

    #[test]
    fn state_follows_the_lines_before_it_and_the_source_is_removed_at_its_end() {
        let mut merger = merger();
        let a = add(&mut merger, 7);
        a.unbounded_send(lines(&[1, 2])).unwrap();
        a.unbounded_send(SourceItem::State(SourceState::Ended, Some("x".to_owned()))).unwrap();
        drop(a);
        assert_eq!(texts(&mut merger, 2), owned(&[(7, "1"), (7, "2")]));
        assert!(matches!(next(&mut merger), Merged::State(7, SourceState::Ended, Some(_))));
        assert!(matches!(next(&mut merger), Merged::Over(7)));
        assert_eq!(merger.len(), 0);
    }

    #[test]
    fn lines_wait_at_first_for_sources_that_are_expected() {
        let mut merger = merger();
        merger.expect_more(true);
        let a = add(&mut merger, 0);
        a.unbounded_send(lines(&[2])).unwrap();
        assert!(poll_fn(|cx| merger.poll_next(cx)).now_or_never().is_none());
        let b = add(&mut merger, 1);
        b.unbounded_send(lines(&[1])).unwrap();
        merger.expect_more(false);
        assert_eq!(texts(&mut merger, 2), owned(&[(1, "1"), (0, "2")]));
        // they are waited for only for a time
        merger.expect_more(true);
        a.unbounded_send(lines(&[3])).unwrap();
        assert_eq!(texts(&mut merger, 1), owned(&[(0, "3")]));
    }

    #[test]
    fn source_is_not_read_while_its_lines_wait() {
        let mut merger = merger();
        let (a, _silent) = (add(&mut merger, 0), add(&mut merger, 1));
        for n in 0..100 {
            a.unbounded_send(lines(&[n])).unwrap();
        }
        assert!(poll_fn(|cx| merger.poll_next(cx)).now_or_never().is_none());
        assert_eq!(merger.sources[0].lines.len(), 1, "one batch is held");
    }

    proptest! {
        /// Sources that have sent all their lines are merged completely and in order.
        #[test]
        fn merge_keeps_all_lines_in_order(sources in prop::collection::vec(prop::collection::vec(0_u32..600, 0..20), 1..6)) {
            let mut merger = merger();
            let (mut expected, mut senders) = (Vec::new(), Vec::new());
            for (key, mut seconds) in sources.into_iter().enumerate() {
                seconds.sort_unstable();
                let sender = add(&mut merger, key);
                for part in seconds.chunks(3) {
                    sender.unbounded_send(lines(part)).unwrap();
                }
                sender.unbounded_send(SourceItem::State(SourceState::Ended, None)).unwrap();
                expected.extend(seconds.into_iter().map(|second| (second, key)));
                senders.push(sender);
            }
            expected.sort_unstable();
            let mut found: Vec<(u32, usize)> = Vec::new();
            while found.len() < expected.len() {
                if let Merged::Lines(lines) = next(&mut merger) {
                    found.extend(lines.into_iter().map(|(key, line)| (line.text.parse().unwrap(), key)));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
