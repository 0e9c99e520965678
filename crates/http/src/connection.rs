//! Connections of clients that have no request under way, and when they end.
//!
//! actix ends a connection whose first request head does not arrive in time, and one that was idle for the keep-alive
//! time. It does not limit the time for the head of a later request, nor the number of connections that wait for one;
//! both are limited here. A connection is ended by the end of what it reads, and only while no request of it is under
//! way, so no answer is cut.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix_web::rt::time::{Instant, Sleep, sleep_until};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The connections of a server.
pub(crate) struct Connections {
    head_time: Duration,
    most_waiting: usize,
    waiting: Mutex<Waiting>,
}

/// The connections without a request under way, by the order in which they began to wait.
#[derive(Default)]
struct Waiting {
    last: u64,
    by_order: BTreeMap<u64, Arc<End>>,
}

/// Tells a connection, from any thread, that it is to end.
#[derive(Default)]
struct End {
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl Connections {
    /// `head_time`: how long the head of a request may take from its first byte on. `most_waiting`: how many
    /// connections may wait for a request; above that the one that has waited longest is ended.
    pub(crate) fn new(head_time: Duration, most_waiting: usize) -> Arc<Self> {
        Arc::new(Self { head_time, most_waiting, waiting: Mutex::default() })
    }

    fn wait(&self, end: &Arc<End>) -> u64 {
        let (order, longest) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.last += 1;
            let order = waiting.last;
            waiting.by_order.insert(order, end.clone());
            let too_many = waiting.by_order.len() > self.most_waiting;
            (order, too_many.then(|| waiting.by_order.pop_first()).flatten())
        };
        if let Some((_, longest)) = longest {
            longest.asked.store(true, Ordering::Release);
            longest.waker.wake();
        }
        order
    }

    fn leave(&self, order: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).by_order.remove(&order);
    }
}

/// The requests of one connection.
pub(crate) struct Requests {
    connections: Arc<Connections>,
    end: Arc<End>,
    under_way: Cell<usize>,
    /// Its place among those that wait.
    order: Cell<Option<u64>>,
    /// When the first byte of a head came that is not whole yet.
    head_since: Cell<Option<Instant>>,
}

impl Requests {
    fn of(connections: Arc<Connections>) -> Rc<Self> {
        let end = Arc::<End>::default();
        let order = Cell::new(Some(connections.wait(&end)));
        Rc::new(Self { connections, end, under_way: Cell::new(0), order, head_since: Cell::new(None) })
    }

    /// The head of a request is there.
    pub(crate) fn begin(self: &Rc<Self>) -> UnderWay {
        self.head_since.set(None);
        self.under_way.set(self.under_way.get() + 1);
        self.leave();
        UnderWay(self.clone())
    }

    fn leave(&self) {
        if let Some(order) = self.order.take() {
            self.connections.leave(order);
        }
    }

    fn received(&self) {
        if self.under_way.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// Until when the rest of a head must come that has begun.
    fn head_deadline(&self) -> Option<Instant> {
        self.head_since.get().map(|since| since + self.connections.head_time)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request that is under way until this is dropped.
pub(crate) struct UnderWay(Rc<Requests>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Requests { connections, end, under_way, order, .. } = &*self.0;
        under_way.set(under_way.get() - 1);
        if under_way.get() == 0 {
            order.set(Some(connections.wait(end)));
        }
    }
}

/// A client's connection.
pub(crate) struct Connection<S> {
    stream: S,
    requests: Rc<Requests>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    pub(crate) fn new(stream: S, connections: Arc<Connections>) -> Self {
        Self { stream, requests: Requests::of(connections), timer: None }
    }

    pub(crate) fn requests(&self) -> Rc<Requests> {
        self.requests.clone()
    }

    /// Whether to end it now; else it is looked at again when that may have changed.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let requests = &self.requests;
        if requests.under_way.get() > 0 {
            return false;
        }
        requests.end.waker.register(cx.waker());
        if requests.end.asked.load(Ordering::Acquire) {
            return true;
        }
        let Some(deadline) = requests.head_deadline() else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Pending if this.is_over(cx) => Poll::Ready(Ok(())),
            read => {
                if buffer.filled().len() > before {
                    this.requests.received();
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
