//! Connection limits: the timeout for request heads, and the maximum number of idle connections.
//!
//! actix closes a connection whose first request head does not arrive in time, and one that was idle for the keep-alive
//! time. It limits neither the time for the head of a later request nor the number of idle connections; this module
//! limits both. It closes a connection by reporting end of file to the reader, and only while the connection has no
//! active request, so no response is truncated.

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

/// The idle connections of a server, with their limits.
pub(crate) struct IdleConnections {
    head_time: Duration,
    max_idle: usize,
    idle: Mutex<IdleQueue>,
}

/// The connections without an active request, ordered by the time at which they became idle.
#[derive(Default)]
struct IdleQueue {
    last_seq: u64,
    by_seq: BTreeMap<u64, Arc<CloseSignal>>,
}

/// Signals a connection to close, from any thread.
#[derive(Default)]
struct CloseSignal {
    requested: AtomicBool,
    waker: AtomicWaker,
}

impl IdleConnections {
    /// `head_time`: timeout for the head of a request, from its first byte. `max_idle`: maximum number of idle
    /// connections; above it the connection that has been idle longest is closed.
    pub(crate) fn new(head_time: Duration, max_idle: usize) -> Arc<Self> {
        Arc::new(Self { head_time, max_idle, idle: Mutex::default() })
    }

    fn add_idle(&self, close: &Arc<CloseSignal>) -> u64 {
        let (seq, longest) = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.last_seq += 1;
            let seq = idle.last_seq;
            idle.by_seq.insert(seq, close.clone());
            let too_many = idle.by_seq.len() > self.max_idle;
            (seq, too_many.then(|| idle.by_seq.pop_first()).flatten())
        };
        if let Some((_, longest)) = longest {
            longest.requested.store(true, Ordering::Release);
            longest.waker.wake();
        }
        seq
    }

    fn remove_idle(&self, seq: u64) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).by_seq.remove(&seq);
    }
}

/// The active requests of one connection.
pub(crate) struct ConnectionRequests {
    connections: Arc<IdleConnections>,
    close: Arc<CloseSignal>,
    active: Cell<usize>,
    /// Sequence number among the idle connections; none while a request is active.
    idle_seq: Cell<Option<u64>>,
    /// When the first byte of an incomplete request head arrived.
    head_since: Cell<Option<Instant>>,
}

impl ConnectionRequests {
    fn new(connections: Arc<IdleConnections>) -> Rc<Self> {
        let close = Arc::<CloseSignal>::default();
        let idle_seq = Cell::new(Some(connections.add_idle(&close)));
        Rc::new(Self { connections, close, active: Cell::new(0), idle_seq, head_since: Cell::new(None) })
    }

    /// Marks a request as active; its head is complete.
    pub(crate) fn begin(self: &Rc<Self>) -> ActiveRequest {
        self.head_since.set(None);
        self.active.set(self.active.get() + 1);
        self.leave_idle();
        ActiveRequest(self.clone())
    }

    fn leave_idle(&self) {
        if let Some(seq) = self.idle_seq.take() {
            self.connections.remove_idle(seq);
        }
    }

    fn bytes_received(&self) {
        if self.active.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// The deadline for the rest of an incomplete request head.
    fn head_deadline(&self) -> Option<Instant> {
        self.head_since.get().map(|since| since + self.connections.head_time)
    }
}

impl Drop for ConnectionRequests {
    fn drop(&mut self) {
        self.leave_idle();
    }
}

/// Guard of an active request; dropping it ends the request.
pub(crate) struct ActiveRequest(Rc<ConnectionRequests>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let ConnectionRequests { connections, close, active, idle_seq, .. } = &*self.0;
        active.set(active.get() - 1);
        if active.get() == 0 {
            idle_seq.set(Some(connections.add_idle(close)));
        }
    }
}

/// A client's connection, with the limits of this module.
pub(crate) struct Connection<S> {
    stream: S,
    requests: Rc<ConnectionRequests>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    pub(crate) fn new(stream: S, connections: Arc<IdleConnections>) -> Self {
        Self { stream, requests: ConnectionRequests::new(connections), timer: None }
    }

    pub(crate) fn requests(&self) -> Rc<ConnectionRequests> {
        self.requests.clone()
    }

    /// Whether to close the connection now. If not, the task is woken when the result may have changed.
    fn should_close(&mut self, cx: &mut Context<'_>) -> bool {
        let requests = &self.requests;
        if requests.active.get() > 0 {
            return false;
        }
        requests.close.waker.register(cx.waker());
        if requests.close.requested.load(Ordering::Acquire) {
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
            Poll::Pending if this.should_close(cx) => Poll::Ready(Ok(())),
            read => {
                if buffer.filled().len() > before {
                    this.requests.bytes_received();
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
