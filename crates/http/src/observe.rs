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

use crate::connection::UnderWay;

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

    /// Watches over an answer that is a stream, until its end: so long the request is under way. What has a length is
    /// handed over whole.
    pub(crate) fn watch(
        &self,
        response: ServiceResponse<BoxBody>,
        under_way: Option<UnderWay>,
    ) -> ServiceResponse<BoxBody> {
        if !matches!(response.response().body().size(), BodySize::Stream) {
            return response;
        }
        self.observer.stream_opened();
        let observer = self.observer.clone();
        response.map_body(|_, body| BoxBody::new(CountedBody { body, observer, _under_way: under_way }))
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
struct CountedBody {
    body: BoxBody,
    observer: Arc<dyn Observer>,
    _under_way: Option<UnderWay>,
}

impl MessageBody for CountedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        self.observer.stream_closed();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use actix_web::{HttpResponse, test::TestRequest};
    use futures_util::stream;

    use super::*;

    #[derive(Default)]
    struct Counts {
        in_flight: AtomicI64,
        streams: AtomicI64,
        unanswered: AtomicI64,
    }

    impl Observer for Counts {
        fn began(&self) {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }

        fn ended(&self, request: &Ended<'_>) {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.unanswered.fetch_add(i64::from(request.answer.is_none()), Ordering::Relaxed);
        }

        fn stream_opened(&self) {
            self.streams.fetch_add(1, Ordering::Relaxed);
        }

        fn stream_closed(&self) {
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer(response: HttpResponse) -> ServiceResponse<BoxBody> {
        TestRequest::get().to_srv_response(response)
    }

    #[test]
    fn a_request_that_nobody_waits_for_any_more_is_over_without_an_answer() {
        let counts = Arc::new(Counts::default());
        let request = InFlight::begin(counts.clone(), &Method::GET);
        assert_eq!(counts.in_flight.load(Ordering::Relaxed), 1);
        drop(request);
        assert_eq!(counts.in_flight.load(Ordering::Relaxed), 0);
        assert_eq!(counts.unanswered.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_stream_is_open_until_its_body_is_gone_and_what_has_a_length_is_none() {
        let counts = Arc::new(Counts::default());
        let open = || counts.streams.load(Ordering::Relaxed);
        let request = InFlight::begin(counts.clone(), &Method::GET);
        let whole = request.watch(answer(HttpResponse::Ok().body("whole")), None);
        assert_eq!(open(), 0);
        let lines = stream::pending::<Result<Bytes, actix_web::Error>>();
        let stream = request.watch(answer(HttpResponse::Ok().streaming(lines)), None);
        assert_eq!(open(), 1);
        drop(request);
        assert_eq!((open(), counts.in_flight.load(Ordering::Relaxed)), (1, 0));
        drop((whole, stream));
        assert_eq!(open(), 0);
    }
}
