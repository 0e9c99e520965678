//! What is told of requests to whoever counts them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::{Method, StatusCode},
    web::Bytes,
};
use pilothouse_core::Code;

/// Told of requests, to count them. Every method returns at once.
pub trait Observer: Send + Sync {
    /// A request has come in.
    fn began(&self) {}
    /// It is over.
    fn ended(&self, _request: &Ended<'_>) {}
    /// An answer without an end in sight has begun, such as a log that is followed.
    fn stream_opened(&self) {}
    /// Such an answer is over, whoever ended it.
    fn stream_closed(&self) {}
}

/// A request that is over. Nothing in it is the caller's choice, so that it can name a time series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended<'a> {
    /// The method in upper case; `other` when it is none of HTTP's.
    pub method: &'static str,
    /// The path of the route table; none when no route is of that path.
    pub route: Option<&'a str>,
    /// Status and, of an error, its code; none when the client left before there was an answer.
    pub answer: Option<(u16, Option<Code>)>,
    /// From the end of its head to its answer's.
    pub took: Duration,
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// A request that is not over. Dropped, it is.
pub(crate) struct InFlight {
    observer: Arc<dyn Observer>,
    method: &'static str,
    started: Instant,
    route: Option<String>,
    answer: Option<(u16, Option<Code>)>,
}

impl InFlight {
    pub(crate) fn begin(observer: Arc<dyn Observer>, method: &Method) -> Self {
        observer.began();
        Self { observer, method: known(method), started: Instant::now(), route: None, answer: None }
    }

    /// How long it has been.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// It has this answer.
    pub(crate) fn answered(&mut self, status: StatusCode, code: Option<Code>, route: Option<String>) {
        (self.answer, self.route) = (Some((status.as_u16(), code)), route);
    }

    /// Watches over an answer that is a stream, until its end.
    pub(crate) fn watch(&self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        if !matches!(response.response().body().size(), BodySize::Stream) {
            return response;
        }
        self.observer.stream_opened();
        let observer = self.observer.clone();
        response.map_body(|_, body| BoxBody::new(Watched { body, observer }))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self { method, answer, .. } = *self;
        self.observer.ended(&Ended { method, route: self.route.as_deref(), answer, took: self.elapsed() });
    }
}

/// The method, if it is one of HTTP's: anybody may make up others.
fn known(method: &Method) -> &'static str {
    const METHODS: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::CONNECT,
        Method::TRACE,
    ];
    const NAMES: [&str; 9] = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE"];
    METHODS.iter().position(|known| known == method).map_or("other", |at| NAMES[at])
}

/// The body of a stream.
struct Watched {
    body: BoxBody,
    observer: Arc<dyn Observer>,
}

impl MessageBody for Watched {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.observer.stream_closed();
    }
}
