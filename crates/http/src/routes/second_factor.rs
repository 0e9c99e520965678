//! Routes for the caller's second factor, and its reset for another user.

use actix_web::web::Data;
use pilothouse_core::{
    access::{Resource, Verb},
    ids::UserId,
    second_factor::Enrolment,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{ById, NoFields};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

/// A pending enrolment, shown once.
#[derive(Serialize, ToSchema)]
pub(crate) struct EnrolmentResponse {
    /// The seed of the one-time codes in base32, for an authenticator app without a camera.
    #[schema(example = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")]
    secret: String,
    /// The seed as an `otpauth` URI, for a QR code.
    #[schema(
        example = "otpauth://totp/Pilothouse:ops?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Pilothouse"
    )]
    otpauth_uri: String,
}

pub(crate) async fn enroll(
    api: Data<Api>,
    Authenticated(credential, Body(NoFields {})): Authenticated<Body<NoFields>>,
) -> Result<Response<EnrolmentResponse>> {
    let signed_in = credential.into_session(&api, Verb::Enroll, Resource::OwnSecondFactor).await?;
    let Enrolment { secret, otpauth_url } = api.app.second_factors.enroll(&signed_in).await?;
    let [secret, otpauth_uri] = [secret, otpauth_url].map(|text| text.expose_secret().to_owned());
    Ok(Response::of(EnrolmentResponse { secret, otpauth_uri }))
}

/// A code of the second factor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CodeBody {
    /// The one-time code of the authenticator app: six digits. To verify or disable also a recovery code.
    #[schema(value_type = String, format = Password, example = "123456")]
    code: SecretString,
}

/// The recovery codes, shown once.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecoveryCodesResponse {
    /// Ten codes, each of which replaces a one-time code once.
    #[schema(example = json!(["ABCD-EFGH-IJKL-MNOP"]))]
    recovery_codes: Vec<String>,
}

pub(crate) async fn confirm(
    api: Data<Api>,
    Authenticated(credential, Body(body)): Authenticated<Body<CodeBody>>,
) -> Result<Response<RecoveryCodesResponse>> {
    let signed_in = credential.into_session(&api, Verb::Enroll, Resource::OwnSecondFactor).await?;
    let codes = api.app.second_factors.confirm(&signed_in, &body.code).await?;
    let recovery_codes = codes.codes().iter().map(|code| code.expose_secret().to_owned()).collect();
    Ok(Response::of(RecoveryCodesResponse { recovery_codes }).with_message(Message::SecondFactorEnabled))
}

pub(crate) async fn verify(
    api: Data<Api>,
    Authenticated(credential, Body(body)): Authenticated<Body<CodeBody>>,
) -> Result<Response<Empty>> {
    let signed_in = credential.into_session(&api, Verb::Verify, Resource::OwnSecondFactor).await?;
    api.app.second_factors.verify(&signed_in, &body.code).await?;
    Ok(Response::of(Empty {}).with_message(Message::SecondFactorVerified))
}

pub(crate) async fn disable(
    api: Data<Api>,
    Authenticated(credential, Body(body)): Authenticated<Body<CodeBody>>,
) -> Result<Response<Empty>> {
    let signed_in = credential.into_session(&api, Verb::Disable, Resource::OwnSecondFactor).await?;
    api.app.second_factors.disable(&signed_in, &body.code).await?;
    Ok(Response::of(Empty {}).with_message(Message::SecondFactorDisabled))
}

pub(crate) async fn reset(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.second_factors.reset(signed_in.caller(), UserId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::SecondFactorReset))
}
