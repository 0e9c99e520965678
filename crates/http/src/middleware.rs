//! What happens around every request, whatever its path: its id and language, its line in the log, the envelope of a
//! refusal or a panic, the headers every reply has, and what is left of a refused body.

use std::{
    cell::RefCell,
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::{InternalError, PayloadError},
    http::{
        ConnectionType, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    rt::time::timeout,
    web::Bytes,
};
use futures_util::{FutureExt, Stream, StreamExt};
use pilothouse_core::{Cause, Code, Error};
use tracing::{Instrument, field::Empty};
use uuid::Uuid;

use crate::{connection::Requests, error::Failure, messages::Language, observe::InFlight, server::Api};

/// Every reply carries it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How much of a refused body is read, so that a client that sends first and reads later sees the answer.
const DRAINED: usize = 4 << 20;

/// What is known of a request before anybody looks at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestContext {
    /// As in `X-Request-Id`, the log and the audit trail.
    pub(crate) id: String,
    /// In which its answer is written.
    pub(crate) language: Language,
}

impl RequestContext {
    /// Of a request that came through [`frame`].
    pub(crate) fn of(request: &HttpRequest) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// The language alone.
    pub(crate) fn language(request: &HttpRequest) -> Language {
        request.extensions().get::<Self>().map_or_else(Language::default, |info| info.language)
    }
}

/// The middleware around all routes.
pub(crate) async fn frame(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let under_way = request.conn_data::<Rc<Requests>>().map(Requests::begin);
    let mut in_flight = InFlight::begin(Api::observer(request.app_data()), request.method());
    let info = RequestContext {
        id: request_id(request.headers()),
        language: Language::preferred(request.headers()),
    };
    request.extensions_mut().insert(info.clone());
    let tunnel = asks_for_a_tunnel(&request);
    let body = SharedBody::put_into(&mut request);
    let body_time = Api::body_time(request.app_data());
    // an error's: a filter that keeps only warnings keeps what says which request they are about
    let span = tracing::error_span!(
        "request", request_id = info.id, method = %request.method(), path = request.path(), user_id = Empty
    );

    let answer = AssertUnwindSafe(next.call(request).instrument(span.clone())).catch_unwind().await;
    let (mut response, code) = match answer {
        Ok(Ok(response)) => span.in_scope(|| explain(response.map_into_boxed_body(), &info)),
        lost => {
            let error = match lost {
                Ok(Err(error)) => Error::internal(error.to_string()),
                _ => Error::internal("a handler panicked"),
            };
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            in_flight.answered(status, Some(error.code()), None);
            return Err(span.in_scope(|| {
                log_answer(status, &in_flight);
                lose(error, &info)
            }));
        }
    };
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if refused && (tunnel || !body.drain(body_time.saturating_sub(in_flight.elapsed())).await) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    add_headers(response.headers_mut(), &info);
    in_flight.answered(response.status(), code, response.request().match_pattern());
    span.in_scope(|| log_answer(response.status(), &in_flight));
    Ok(in_flight.watch(response, under_way))
}

/// Whether what follows the head is no body but another protocol, which ends only with the connection: nothing of it is read
/// when the request is refused.
fn asks_for_a_tunnel(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    let websocket =
        headers.get(UPGRADE).is_some_and(|other| other.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    *request.method() == Method::CONNECT || (websocket && !body)
}

/// The one line that every request has.
fn log_answer(status: StatusCode, request: &InFlight) {
    let duration_ms = u64::try_from(request.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(status = status.as_u16(), duration_ms, "answered");
}

/// The caller's id when it is a harmless one, else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(harmless);
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Writes the envelope of a refusal, and says its code.
fn explain(
    response: ServiceResponse<BoxBody>,
    info: &RequestContext,
) -> (ServiceResponse<BoxBody>, Option<Code>) {
    let Some(error) = response.response().error() else { return (response, None) };
    let mut failure = match error.as_error::<Failure>() {
        Some(failure) => failure.clone(),
        None => Failure::from(Error::internal(error.to_string())),
    };
    // a GET changes nothing, so no text may say that a change may have been applied
    if response.request().method().is_safe() {
        failure.error = failure.error.read_only();
    }
    log_defect(&failure.error);
    let (code, rendered) = (failure.error.code(), failure.render(info.language, &info.id));
    (response.into_response(rendered), Some(code))
}

/// The answer when the request itself is lost: a panic, a service that failed.
fn lose(error: Error, info: &RequestContext) -> actix_web::Error {
    log_defect(&error);
    let failure = Failure::from(error);
    let mut response: HttpResponse = failure.render(info.language, &info.id);
    add_headers(response.headers_mut(), info);
    InternalError::from_response(failure, response).into()
}

/// The only place where a defect's cause is told.
pub(crate) fn log_defect(error: &Error) {
    if error.cause == Cause::Internal {
        tracing::error!(%error, "internal error");
    }
}

fn add_headers(headers: &mut HeaderMap, info: &RequestContext) {
    if let Ok(id) = HeaderValue::from_str(&info.id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // a page of a list says how it may be kept
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// The body of a request, which outlives whoever was to read it.
#[derive(Clone)]
struct SharedBody(Rc<RefCell<Payload>>);

impl SharedBody {
    /// Keeps hold of a request's body; whoever reads the request reads through it.
    fn put_into(request: &mut ServiceRequest) -> Self {
        let shared = Self(Rc::new(RefCell::new(request.take_payload())));
        request.set_payload(Payload::Stream { payload: Box::pin(shared.clone()) });
        shared
    }

    /// Reads and forgets what is left; false when that is too much or takes too long.
    async fn drain(mut self, time: Duration) -> bool {
        let all = async {
            let mut left = DRAINED;
            while let Some(Ok(bytes)) = self.next().await {
                left = left.checked_sub(bytes.len())?;
            }
            Some(())
        };
        timeout(time, all).await.is_ok_and(|done| done.is_some())
    }
}

impl Stream for SharedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next_unpin(cx)
    }
}
