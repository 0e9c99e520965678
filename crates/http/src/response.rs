//! Success responses: the envelope around data, warnings and message.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::header::{HeaderValue, SET_COOKIE},
};
use pilothouse_core::gate::{Changed, Warning};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    docs::{Docs, Documented},
    language::Language,
    messages::Message,
    middleware::RequestContext,
};

/// A success response. Message and warnings are written in the caller's language.
pub(crate) struct Response<T> {
    data: T,
    warnings: Vec<Warning>,
    message: Message,
}

/// A success response that sets cookies.
pub(crate) struct ResponseWithCookies<T> {
    response: Response<T>,
    cookies: Vec<HeaderValue>,
}

/// An object without fields.
#[derive(Serialize, ToSchema)]
pub(crate) struct Empty {}

impl<T> Response<T> {
    /// A response with this data and the default message.
    pub(crate) fn of(data: T) -> Self {
        Self { data, warnings: Vec::new(), message: Message::Done }
    }

    /// The response to a change: the changed object, with the warnings of the change.
    pub(crate) fn changed<V>(changed: Changed<V>, data: impl FnOnce(V) -> T) -> Self {
        Self::of(data(changed.value)).warning(changed.warnings)
    }

    /// Sets the message.
    pub(crate) fn with_message(self, message: Message) -> Self {
        Self { message, ..self }
    }

    /// Sets the warnings.
    pub(crate) fn warning(self, warnings: Vec<Warning>) -> Self {
        Self { warnings, ..self }
    }

    /// Sets these cookies.
    pub(crate) fn cookies(self, cookies: Vec<HeaderValue>) -> ResponseWithCookies<T> {
        ResponseWithCookies { response: self, cookies }
    }
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    success: bool,
    data: Data<'a, T>,
    message: &'a str,
}

#[derive(Serialize)]
struct Data<'a, T> {
    #[serde(flatten)]
    data: &'a T,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl<T: Serialize> Response<T> {
    /// The body of the response.
    pub(crate) fn envelope(&self, language: Language) -> impl Serialize {
        let catalog = language.catalog();
        let warnings = self.warnings.iter().map(|warning| catalog.warning(warning)).collect();
        let data = Data { data: &self.data, warnings };
        Envelope { success: true, data, message: catalog.message(self.message) }
    }
}

impl<T: Serialize> Responder for Response<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self.envelope(RequestContext::of(request).language))
    }
}

impl<T: ToSchema> Documented for Response<T> {
    fn describe(docs: &mut Docs) {
        docs.response::<T>();
    }
}

impl<T: Serialize> Responder for ResponseWithCookies<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let mut response = self.response.respond_to(request);
        for cookie in self.cookies {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        response
    }
}

impl<T: ToSchema> Documented for ResponseWithCookies<T> {
    fn describe(docs: &mut Docs) {
        docs.response::<T>();
        docs.sets_cookies = true;
    }
}
