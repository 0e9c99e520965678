//! Response to one call: its body, or the reason for a missing body.

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pilothouse_core::{Cause, Error, Result, name::ObjectName};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    budget::Reservation,
    error::Failure,
    request::Call,
    transport::{ExchangeError, Transport},
};

/// Largest error body that is read, in bytes.
const MAX_ERROR_BODY_BYTES: usize = 64 << 10;

/// The body of a 2xx response.
pub(crate) struct ApiResponse {
    /// The body, or its last bytes.
    pub(crate) body: Vec<u8>,
    /// Whether earlier bytes were dropped.
    pub(crate) truncated: bool,
    /// Memory reserved for the body.
    pub(super) reservation: Reservation,
}

/// Reason why one exchange has no usable response.
pub(super) enum CallError {
    Exchange(ExchangeError),
    Response(Failure),
    /// Pilothouse stopped reading the response, because of a read budget.
    Local(Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Exchange(exchange_error) => exchange_error.into(),
            CallError::Response(failure) => failure,
            CallError::Local(error) => error.into(),
        }
    }
}

impl From<ExchangeError> for CallError {
    fn from(exchange_error: ExchangeError) -> Self {
        Self::Exchange(exchange_error)
    }
}

/// Returns the body of a 2xx response. Any other response is an error, with the `Status` in the body of a 4xx or 5xx
/// response.
pub(super) async fn expect_success(
    transport: &Transport,
    call: &Call,
    response: Response<Incoming>,
) -> Result<Incoming, CallError> {
    let (head, body) = response.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    if head.status.is_client_error() || head.status.is_server_error() {
        // an error response counts even if its body breaks off or never ends
        let body = read_prefix(body, MAX_ERROR_BODY_BYTES).await;
        let is_secret = |text: &str| transport.echoes_token(text);
        return Err(CallError::Response(Failure::refused(
            call,
            head.status,
            &head.headers,
            &body,
            is_secret,
        )));
    }
    Err(ExchangeError::Lost(Cause::UnexpectedAnswer).into())
}

/// Reads a body up to its end or a failure; returns nothing if it exceeds `max_bytes`.
async fn read_prefix(mut body: Incoming, max_bytes: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        read.extend(frame.into_data().unwrap_or_default());
        if read.len() > max_bytes {
            return Vec::new();
        }
    }
    read
}

impl ApiResponse {
    /// Drops all but the last `max_bytes`.
    pub(super) fn truncate_front(&mut self, max_bytes: usize) {
        self.body.drain(..self.body.len() - max_bytes);
        self.truncated = true;
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when the body cannot be parsed as `T`.
    pub(crate) fn json<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|_| Error::new(Cause::UnexpectedAnswer))
    }

    /// Parses the object that `call` names.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when the body is another object, or no object.
    pub(crate) fn object(&self, call: &Call) -> Result<Box<RawValue>> {
        self.raw(call.name.as_ref()).map(ToOwned::to_owned)
    }

    pub(super) fn raw(&self, name: Option<&ObjectName>) -> Result<&RawValue> {
        let NamedObject { metadata } = self.json()?;
        if name.is_some_and(|name| name.as_str() != metadata.name) {
            return Err(Error::new(Cause::UnexpectedAnswer));
        }
        self.json()
    }
}

#[derive(Deserialize)]
struct NamedObject {
    metadata: ObjectMetadata,
}

#[derive(Deserialize)]
struct ObjectMetadata {
    name: String,
}
