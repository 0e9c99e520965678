//! Middleware around every request. It assigns the request id and the language, writes the log line and the envelope of
//! an error or a panic, adds the common response headers, and drains the body of a refused request.

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

use crate::{
    api::Api, connection::ConnectionRequests, error::ApiError, language::Language, observe::InFlight,
};

/// Header of every response: the request id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum number of bytes read from a refused body. It is drained so that a client that sends before it reads gets the
/// response.
const MAX_DRAIN_BYTES: usize = 4 << 20;

/// Request id and language, available to every extractor and handler.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestContext {
    /// The request id, as in `X-Request-Id`, the log and the audit trail.
    pub(crate) id: String,
    /// The language of the response.
    pub(crate) language: Language,
}

impl RequestContext {
    /// The context that [`request_middleware`] set; the default without it.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// The language of the response; avoids cloning the id.
    pub(crate) fn language(request: &HttpRequest) -> Language {
        request.extensions().get::<Self>().map_or_else(Language::default, |context| context.language)
    }
}

/// The middleware around all routes.
pub(crate) async fn request_middleware(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let active = request.conn_data::<Rc<ConnectionRequests>>().map(ConnectionRequests::begin);
    let mut in_flight = InFlight::begin(Api::observer(request.app_data()), request.method());
    let context = RequestContext {
        id: request_id(request.headers()),
        language: Language::preferred(request.headers()),
    };
    request.extensions_mut().insert(context.clone());
    let tunnel = is_tunnel(&request);
    let body = SharedBody::share(&mut request);
    let body_time = Api::body_time(request.app_data());
    // level error: a filter for warnings must keep the span, which identifies their request
    let span = tracing::error_span!(
        "request", request_id = context.id, method = %request.method(), path = request.path(), user_id = Empty
    );

    let outcome = AssertUnwindSafe(next.call(request).instrument(span.clone())).catch_unwind().await;
    let (mut response, code) = match outcome {
        Ok(Ok(response)) => span.in_scope(|| render_error(response.map_into_boxed_body(), &context)),
        failed => {
            let error = match failed {
                Ok(Err(error)) => Error::internal(error.to_string()),
                _ => Error::internal("a handler panicked"),
            };
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            in_flight.set_response(status, Some(error.code()), None);
            return Err(span.in_scope(|| {
                log_response(status, &in_flight);
                internal_error(error, &context)
            }));
        }
    };
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if refused && (tunnel || !body.drain(body_time.saturating_sub(in_flight.elapsed())).await) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    add_headers(response.headers_mut(), &context);
    in_flight.set_response(response.status(), code, response.request().match_pattern());
    span.in_scope(|| log_response(response.status(), &in_flight));
    Ok(in_flight.track_stream(response, active))
}

/// Whether the request switches protocols (CONNECT or WebSocket). The bytes after its head are no body and end only
/// with the connection, so they are not drained when the request is refused.
fn is_tunnel(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    let websocket =
        headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    *request.method() == Method::CONNECT || (websocket && !body)
}

/// Writes the log line of a request.
fn log_response(status: StatusCode, request: &InFlight) {
    let duration_ms = u64::try_from(request.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(status = status.as_u16(), duration_ms, "request completed");
}

/// The caller's request id if it is valid, else a generated UUID.
#[allow(
    clippy::disallowed_methods,
    reason = "a request id is no secret and decides nothing, so it needs no port"
)]
fn request_id(headers: &HeaderMap) -> String {
    let is_valid = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_valid);
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Writes the envelope of an error response, and returns its code; other responses are returned as they are.
fn render_error(
    response: ServiceResponse<BoxBody>,
    context: &RequestContext,
) -> (ServiceResponse<BoxBody>, Option<Code>) {
    let Some(error) = response.response().error() else { return (response, None) };
    let mut api_error = match error.as_error::<ApiError>() {
        Some(api_error) => api_error.clone(),
        None => ApiError::from(Error::internal(error.to_string())),
    };
    // a GET changes nothing, so no text may state that a change may have been applied
    if response.request().method().is_safe() {
        api_error.error = api_error.error.read_only();
    }
    log_defect(&api_error.error);
    let (code, rendered) = (api_error.error.code(), api_error.render(context.language, &context.id));
    (response.into_response(rendered), Some(code))
}

/// The response to a request that was lost by a panic or a failed service.
fn internal_error(error: Error, context: &RequestContext) -> actix_web::Error {
    log_defect(&error);
    let api_error = ApiError::from(error);
    let mut response: HttpResponse = api_error.render(context.language, &context.id);
    add_headers(response.headers_mut(), context);
    InternalError::from_response(api_error, response).into()
}

/// Logs an internal error. Its cause is written only here; responses omit it.
pub(crate) fn log_defect(error: &Error) {
    if error.cause == Cause::Internal {
        tracing::error!(%error, "internal error");
    }
}

fn add_headers(headers: &mut HeaderMap, context: &RequestContext) {
    if let Ok(id) = HeaderValue::from_str(&context.id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // a list response sets its own cache policy
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// The body of a request, shared so that it can be drained after its extractor is dropped.
#[derive(Clone)]
struct SharedBody(Rc<RefCell<Payload>>);

impl SharedBody {
    /// Replaces the payload of a request by a shared one.
    fn share(request: &mut ServiceRequest) -> Self {
        let shared = Self(Rc::new(RefCell::new(request.take_payload())));
        request.set_payload(Payload::Stream { payload: Box::pin(shared.clone()) });
        shared
    }

    /// Reads and discards the rest; false when it exceeds [`MAX_DRAIN_BYTES`] or takes longer than `time`.
    async fn drain(mut self, time: Duration) -> bool {
        let rest = async {
            let mut left = MAX_DRAIN_BYTES;
            while let Some(Ok(bytes)) = self.next().await {
                left = left.checked_sub(bytes.len())?;
            }
            Some(())
        };
        timeout(time, rest).await.is_ok_and(|done| done.is_some())
    }
}

impl Stream for SharedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next_unpin(cx)
    }
}
