//! Idempotency: a change with an `Idempotency-Key` is executed once, and a retry gets the stored response. Applies to
//! the routes of [`crate::routes`] that `change` declares; their handlers do not depend on it.

mod right;

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
    access::StepUpAction,
    error::Reason,
    idempotency::{Execution, IdempotencyKey, Reply, RequestDigest},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::Instrument;
use utoipa::ToSchema;

use self::right::right;
use crate::{
    api::Api,
    body::Body,
    docs::{Docs, Documented},
    error::{ApiError, Result, status},
    extract::{Authenticated, Input, RequiredAuth},
    middleware::RequestContext,
    response::Response,
};

const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A request body, and the data that identifies a retry if the request has an idempotency key.
pub(crate) struct IdempotentBody<T> {
    body: Body<T>,
    keyed: Option<KeyedRequest>,
    context: RequestContext,
}

/// The key and the request that it belongs to. The caller's right is part of the comparison too (see [`execute`]).
struct KeyedRequest {
    key: IdempotencyKey,
    route: String,
    /// The received body, a JSON object.
    json: Vec<u8>,
}

impl<T: DeserializeOwned + 'static> Input for IdempotentBody<T> {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        let (body, json) = Body::read_with_bytes(request, payload).await?;
        let route = || format!("{} {}", request.method(), request.path());
        let keyed = key(request.headers())?.map(|key| KeyedRequest { key, route: route(), json });
        Ok(Self { body, keyed, context: RequestContext::of(request) })
    }
}

/// The idempotency key of a request, if present.
fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    let mut values = headers.get_all(KEY_HEADER);
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
            "schema": {"type": "string", "minLength": 1, "maxLength": IdempotencyKey::MAX_LENGTH, "pattern": "^[!-~]+$"},
        }));
    }
}

/// Runs the handler of a change; with a key, through core's idempotency. For a caller without the right to the change,
/// or without the second factor that its action requires, no key is stored or compared with an earlier request, because
/// the handler refuses the request.
pub(crate) async fn execute<T, A, H, F>(
    api: Data<Api>,
    Authenticated(signed_in, IdempotentBody { body, keyed, context }): Authenticated<IdempotentBody<T>>,
    auth: RequiredAuth,
    action: Option<StepUpAction>,
    handler: H,
) -> Result<KeyedResponse<A>>
where
    A: Serialize + Send + 'static,
    H: FnOnce(Data<Api>, Authenticated<Body<T>>) -> F,
    F: Future<Output = Result<Response<A>>> + Send + 'static,
{
    let keyed = match keyed {
        Some(KeyedRequest { key, route, json }) => {
            // the content is parsed and hashed only for a caller with the right
            let right = right(signed_in.caller(), &auth, &json);
            match right.filter(|_| api.app.gate.has_factor_for(signed_in.caller(), action)) {
                Some(right) => {
                    let body_json: Value = serde_json::from_slice(&json)
                        .map_err(|_| Error::internal("a body was accepted, but is not JSON"))?;
                    Some((key, RequestDigest::of(&route, &right, signed_in.caller().token, body_json)))
                }
                None => None,
            }
        }
        None => None,
    };
    let Some((key, request)) = keyed else {
        return Ok(KeyedResponse::Fresh(handler(api, Authenticated(signed_in, body)).await?));
    };
    let caller = signed_in.caller().clone();
    let work = handler(api.clone(), Authenticated(signed_in, body));
    // the field `allow` of `ApiError` is dropped: it is only set for a 405, which no handler returns
    let work = async move { work.await.map_err(|api_error| api_error.error) }.in_current_span();
    let reply = move |result: &Result<Response<A>, Error>| {
        let RequestContext { id, language } = context;
        let (status, body) = match result {
            Ok(response) => (StatusCode::OK, serde_json::to_vec(&response.envelope(language))),
            Err(error) => {
                let api_error = ApiError::from(error.clone());
                (status(error.code()), serde_json::to_vec(&api_error.envelope(language, &id)))
            }
        };
        Some(Reply { status: status.as_u16(), body: body.ok()? })
    };
    Ok(match api.app.idempotency.execute(&caller, key, request, work, reply).await? {
        Execution::Executed(response) => KeyedResponse::Fresh(response),
        Execution::Replayed(reply) => KeyedResponse::Replayed(reply),
    })
}

/// The response of this execution, or the stored one of an earlier execution.
pub(crate) enum KeyedResponse<A> {
    Fresh(Response<A>),
    Replayed(Reply),
}

impl<A: Serialize> Responder for KeyedResponse<A> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::Fresh(response) => response.respond_to(request),
            Self::Replayed(Reply { status, body }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                HttpResponse::build(status)
                    .insert_header((REPLAYED_HEADER, "true"))
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
