//! Route for the diagnosis of an object.

use actix_web::{HttpRequest, HttpResponse, Responder, body::BoxBody, web::Data};
use pilothouse_core::{
    Error,
    diagnosis::{DiagnosedKind, DiagnosedObject, Diagnosis},
    error::Reason,
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Id;
use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::Authenticated,
    findings::FindingBody,
    messages::Catalog,
    middleware::RequestContext,
    query::Params,
    response::Response,
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiagnoseQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    /// The namespace; required for all types except `node`, which has none.
    #[param(value_type = Namespace, inline, required = false)]
    namespace: Option<Namespace>,
    #[param(inline)]
    r#type: DiagnosedKind,
    #[param(inline)]
    name: ObjectName,
}

/// What was found about an object.
#[derive(Serialize, ToSchema)]
pub(crate) struct DiagnosisBody {
    /// The findings: those that hold before those that are over, the worst first. Empty for an object without a fault.
    findings: Vec<FindingBody>,
    /// What was read: plural resource names, and `logs`.
    checked: Vec<&'static str>,
    /// What the caller or the stored credential may not read, or the cluster did not answer. A fault that only shows there
    /// is not found.
    unreadable: Vec<&'static str>,
}

/// The response of a diagnosis. Its texts are in the caller's language.
pub(crate) struct DiagnosisResponse {
    cluster: ClusterId,
    diagnosis: Diagnosis,
}

pub(crate) async fn diagnose(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<DiagnoseQuery>>,
) -> Result<DiagnosisResponse> {
    let DiagnoseQuery { cluster_id, namespace, r#type: kind, name } = query;
    let cluster = cluster_id.into();
    let is_namespaced = kind.kind() != Kind::Node;
    match (&namespace, is_namespaced) {
        (None, true) => return Err(Error::invalid("namespace", Reason::Required).into()),
        (Some(_), false) => return Err(Error::invalid("namespace", Reason::Unknown).into()),
        _ => {}
    }
    let object = DiagnosedObject { kind, namespace, name };
    let diagnosis = api.app.diagnoses.diagnose(signed_in.caller(), cluster, &object).await?;
    Ok(DiagnosisResponse { cluster, diagnosis })
}

impl DiagnosisResponse {
    fn body(self, catalog: &Catalog) -> DiagnosisBody {
        let Diagnosis { findings, checked, unreadable } = self.diagnosis;
        let findings = findings.into_iter().map(|finding| FindingBody::of(finding, self.cluster, catalog));
        DiagnosisBody { findings: findings.collect(), checked, unreadable }
    }
}

impl Responder for DiagnosisResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        Response::of(self.body(RequestContext::language(request).catalog())).respond_to(request)
    }
}

impl Documented for DiagnosisResponse {
    fn describe(docs: &mut Docs) {
        docs.response::<DiagnosisBody>();
    }
}
