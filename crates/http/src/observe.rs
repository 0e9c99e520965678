//! Request observer: reports the start and the end of requests and streams, for metrics.

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

use crate::connection::ActiveRequest;

/// Receives request events, for metrics. No method may block.
pub trait Observer: Send + Sync {
    /// A request has started.
    fn started(&self) {}
    /// A request has finished.
    fn finished(&self, _request: &RequestOutcome<'_>) {}
    /// A streaming response has begun, such as a followed log.
    fn stream_opened(&self) {}
    /// A streaming response has ended, by the server or the client.
    fn stream_closed(&self) {}
}

/// A finished request. No field has a value chosen by the caller, so each can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOutcome<'a> {
    /// The method in upper case; `other` for a method that HTTP does not define.
    pub method: &'static str,
    /// The path in the route table; none when no route matched.
    pub route: Option<&'a str>,
    /// Status, and the code of an error; none when the client disconnected before the response.
    pub response: Option<(u16, Option<Code>)>,
    /// Time from the end of the request head to the end of the response head.
    pub took: Duration,
}

/// An observer that ignores every event.
#[derive(Clone, Copy, Debug)]
pub struct NoopObserver;

impl Observer for NoopObserver {}

/// A request in progress. Dropping it reports its end.
pub(crate) struct InFlight {
    observer: Arc<dyn Observer>,
    method: &'static str,
    started: Instant,
    route: Option<String>,
    response: Option<(u16, Option<Code>)>,
}

impl InFlight {
    pub(crate) fn begin(observer: Arc<dyn Observer>, method: &Method) -> Self {
        observer.started();
        Self { observer, method: method_label(method), started: Instant::now(), route: None, response: None }
    }

    /// Time since the request began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Records the response.
    pub(crate) fn set_response(&mut self, status: StatusCode, code: Option<Code>, route: Option<String>) {
        (self.response, self.route) = (Some((status.as_u16(), code)), route);
    }

    /// Counts a streaming response until its end, and keeps the request active for that time. A response with a known
    /// length is returned as it is.
    pub(crate) fn track_stream(
        &self,
        response: ServiceResponse<BoxBody>,
        active: Option<ActiveRequest>,
    ) -> ServiceResponse<BoxBody> {
        if !matches!(response.response().body().size(), BodySize::Stream) {
            return response;
        }
        self.observer.stream_opened();
        let observer = self.observer.clone();
        response.map_body(|_, body| BoxBody::new(CountedBody { body, observer, _active: active }))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self { method, response, .. } = *self;
        self.observer.finished(&RequestOutcome {
            method,
            route: self.route.as_deref(),
            response,
            took: self.elapsed(),
        });
    }
}

/// The method as a metric label. Callers can send any method name, so an unknown method is `other`.
fn method_label(method: &Method) -> &'static str {
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
    METHODS.iter().position(|known| known == method).map_or("other", |index| NAMES[index])
}

/// The body of a streaming response; dropping it reports the end of the stream.
struct CountedBody {
    body: BoxBody,
    observer: Arc<dyn Observer>,
    _active: Option<ActiveRequest>,
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
    struct CountingObserver {
        in_flight: AtomicI64,
        streams: AtomicI64,
        without_response: AtomicI64,
    }

    impl Observer for CountingObserver {
        fn started(&self) {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }

        fn finished(&self, request: &RequestOutcome<'_>) {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            self.without_response.fetch_add(i64::from(request.response.is_none()), Ordering::Relaxed);
        }

        fn stream_opened(&self) {
            self.streams.fetch_add(1, Ordering::Relaxed);
        }

        fn stream_closed(&self) {
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn service_response(response: HttpResponse) -> ServiceResponse<BoxBody> {
        TestRequest::get().to_srv_response(response)
    }

    #[test]
    fn dropped_request_ends_without_response() {
        let counts = Arc::new(CountingObserver::default());
        let request = InFlight::begin(counts.clone(), &Method::GET);
        assert_eq!(counts.in_flight.load(Ordering::Relaxed), 1);
        drop(request);
        assert_eq!(counts.in_flight.load(Ordering::Relaxed), 0);
        assert_eq!(counts.without_response.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn stream_counts_as_open_until_its_body_is_dropped() {
        let counts = Arc::new(CountingObserver::default());
        let open = || counts.streams.load(Ordering::Relaxed);
        let request = InFlight::begin(counts.clone(), &Method::GET);
        let whole = request.track_stream(service_response(HttpResponse::Ok().body("whole")), None);
        assert_eq!(open(), 0);
        let lines = stream::pending::<Result<Bytes, actix_web::Error>>();
        let stream = request.track_stream(service_response(HttpResponse::Ok().streaming(lines)), None);
        assert_eq!(open(), 1);
        drop(request);
        assert_eq!((open(), counts.in_flight.load(Ordering::Relaxed)), (1, 0));
        drop((whole, stream));
        assert_eq!(open(), 0);
    }
}
