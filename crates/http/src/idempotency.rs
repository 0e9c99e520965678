//! Changes that a caller may ask for again under an `Idempotency-Key`. A route of [`crate::routes`] made by `change` is
//! one: its handler knows nothing of it.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    dev::Payload,
    http::{
        StatusCode,
        header::{ContentType, HeaderMap, HeaderName},
    },
    web::Data,
};
use pilothouse_core::{
    Error,
    error::Reason,
    idempotency::{Execution, IdempotencyKey, Reply, RequestDigest},
    session::SignedIn,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::Instrument;
use utoipa::ToSchema;

use crate::{
    body::Body,
    error::{Failure, Result, status},
    extract::{Authenticated, Input},
    middleware::RequestContext,
    openapi::{Docs, Documented},
    response::Response,
    routes::RequiredAuth,
    server::Api,
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A body, and the key under which its caller may send it again.
pub(crate) struct IdempotentBody<T> {
    body: Body<T>,
    again: Option<KeyedRequest>,
    info: RequestContext,
}

/// What a request is known again by; the caller's role comes on top.
struct KeyedRequest {
    key: IdempotencyKey,
    route: String,
    /// The body as it came, a JSON object.
    said: Vec<u8>,
}

impl<T: DeserializeOwned + 'static> Input for IdempotentBody<T> {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        let (body, said) = Body::read_with_bytes(request, payload).await?;
        let route = || format!("{} {}", request.method(), request.path());
        let again = key(request.headers())?.map(|key| KeyedRequest { key, route: route(), said });
        Ok(Self { body, again, info: RequestContext::of(request) })
    }
}

/// The key, if there is one.
fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    let mut values = headers.get_all(KEY);
    let Some(value) = values.next() else { return Ok(None) };
    let refused = |reason| Error::invalid(IdempotencyKey::HEADER, reason);
    if values.next().is_some() {
        return Err(refused(Reason::Duplicate).into());
    }
    let text = value.to_str().map_err(|_| refused(Reason::Malformed))?;
    Ok(Some(IdempotencyKey::new(text).map_err(refused)?))
}

impl<T: ToSchema> Documented for IdempotentBody<T> {
    fn describe(docs: &mut Docs) {
        Body::<T>::describe(docs);
        docs.parameters.push(json!({
            "name": IdempotencyKey::HEADER,
            "in": "header",
            "required": false,
            "description": "Chosen by the caller. For 24 hours the same key with the same request returns the same \
                response (with `Idempotency-Replayed: true`) without a second change; with another request it is a \
                conflict. A request that was refused and certainly changed nothing releases the key.",
            "schema": {"type": "string", "minLength": 1, "maxLength": IdempotencyKey::LONGEST, "pattern": "^[!-~]+$"},
        }));
    }
}

/// The handler of a change, as it is; or, under a key, once. Of a caller whose role is below the route's `lowest` nothing is
/// compared with an earlier request, and no key is stored: the handler refuses them.
pub(crate) async fn execute<T, A, H, F>(
    api: Data<Api>,
    Authenticated(who, IdempotentBody { body, again, info }): Authenticated<IdempotentBody<T>>,
    lowest: RequiredAuth,
    handler: H,
) -> Result<KeyedResponse<A>>
where
    A: Serialize + Send + 'static,
    H: FnOnce(Data<Api>, Authenticated<Body<T>>) -> F,
    F: Future<Output = Result<Response<A>>> + Send + 'static,
{
    let Some(KeyedRequest { key, route, said }) = again.filter(|_| lowest.lets_in(who.caller.role)) else {
        return Ok(KeyedResponse::Fresh(handler(api, Authenticated(who, body)).await?));
    };
    let said: Value =
        serde_json::from_slice(&said).map_err(|_| Error::internal("a body was read, but is not JSON"))?;
    let SignedIn { caller, .. } = &who;
    let (caller, request) = (caller.clone(), RequestDigest::of(&route, caller.role, said));
    let work = handler(api.clone(), Authenticated(who, body));
    // actix's own wrapper of a failure is for the 405 of a path, which no handler answers
    let work = async move { work.await.map_err(|failure| failure.error) }.in_current_span();
    let reply = move |result: &Result<Response<A>, Error>| {
        let RequestContext { id, language } = info;
        let (status, body) = match result {
            Ok(answer) => (StatusCode::OK, serde_json::to_vec(&answer.envelope(language))),
            Err(error) => {
                let failure = Failure::from(error.clone());
                (status(error.code()), serde_json::to_vec(&failure.envelope(language, &id)))
            }
        };
        Some(Reply { status: status.as_u16(), body: body.ok()? })
    };
    Ok(match api.app.idempotency.execute(&caller, key, request, work, reply).await? {
        Execution::Executed(answer) => KeyedResponse::Fresh(answer),
        Execution::Replayed(reply) => KeyedResponse::Replayed(reply),
    })
}

/// An answer given now, or one that was given before.
pub(crate) enum KeyedResponse<A> {
    Fresh(Response<A>),
    Replayed(Reply),
}

impl<A: Serialize> Responder for KeyedResponse<A> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::Fresh(answer) => answer.respond_to(request),
            Self::Replayed(Reply { status, body }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                HttpResponse::build(status)
                    .insert_header((REPLAYED, "true"))
                    .content_type(ContentType::json())
                    .body(body)
            }
        }
    }
}

impl<A: ToSchema> Documented for KeyedResponse<A> {
    fn describe(docs: &mut Docs) {
        Response::<A>::describe(docs);
    }
}
