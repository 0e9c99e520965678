//! Routes to register, change, delete and test clusters.

use actix_web::web::Data;
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    cluster::{Cluster, ClusterChange, ClusterName, ClusterStatus, ClusterTest, CredentialInput, NewCluster},
    connection::{ApiServer, AuthType},
    error::Reason,
    object::Labels,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::{ById, Id};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    query::Params,
    response::{Empty, Response},
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneCluster {
    /// The cluster after the change.
    cluster: Cluster,
}

/// Declares a body with the fields of a connection in addition to its own. serde's `flatten` would accept unknown
/// fields.
macro_rules! with_connection {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[$attribute])* $field: $type,)*
            /// The credential that is sent: `token` or `kubeconfig`.
            auth_type: Option<AuthType>,
            /// URL of the API server: `https://host[:port][/path]`. With a kubeconfig it replaces the server of the
            /// context.
            api_server: Option<ApiServer>,
            /// A bearer token.
            #[schema(value_type = Option<String>, format = Password)]
            token: Option<SecretString>,
            /// CA certificates in PEM, for a token. The default is the root certificates of the system.
            ca_certificate: Option<String>,
            /// A kubeconfig in YAML. Only the server, the CA and one credential of one context are used.
            #[schema(value_type = Option<String>, format = Password)]
            kubeconfig: Option<SecretString>,
            /// The context of the kubeconfig; the default is its current context.
            context: Option<String>,
            /// Accept any server certificate. Requires super_admin, and a configuration that allows it.
            insecure_skip_tls_verify: Option<bool>,
        }

        impl $name {
            /// Splits the body into the connection and its other fields.
            fn split(self) -> (CredentialInput, ($($type,)*)) {
                let connection = CredentialInput {
                    auth_type: self.auth_type,
                    api_server: self.api_server,
                    token: self.token,
                    ca_certificate: self.ca_certificate,
                    kubeconfig: self.kubeconfig,
                    context: self.context,
                    insecure_skip_tls_verify: self.insecure_skip_tls_verify.unwrap_or_default(),
                };
                (connection, ($(self.$field,)*))
            }
        }
    };
}

with_connection! {
    /// A cluster to register, with a token and its API server, or with a kubeconfig.
    struct NewClusterBody {
        name: ClusterName,
        /// Free text.
        description: Option<String>,
        /// Labels in Pilothouse; they are not written to the cluster.
        labels: Option<Labels>,
        /// Register the cluster without a connection test.
        skip_test: Option<bool>,
    }
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewClusterBody>>,
) -> Result<Response<OneCluster>> {
    let (credential, (name, description, labels, skip_test)) = body.split();
    let cluster = NewCluster {
        name,
        description: description.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        credential,
        skip_test: skip_test.unwrap_or_default(),
    };
    let changed = api.app.clusters.create(signed_in.caller(), cluster).await?;
    Ok(Response::changed(changed, |cluster| OneCluster { cluster }).with_message(Message::ClusterCreated))
}

with_connection! {
    /// A change of a cluster. An omitted field keeps its value. A new API server requires the credential to be sent
    /// again.
    struct ClusterChangeBody {
        /// The id of the cluster.
        id: Id,
        /// The new name; unique, ignoring case.
        name: Option<ClusterName>,
        /// Free text.
        description: Option<String>,
        /// The new labels; they replace all existing ones.
        labels: Option<Labels>,
        /// Store a new connection without a connection test.
        skip_test: Option<bool>,
        /// The `updated_at` that was read; a conflict if the cluster was changed since.
        #[schema(value_type = Option<String>, format = DateTime)]
        updated_at: Option<Timestamp>,
    }
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ClusterChangeBody>>,
) -> Result<Response<OneCluster>> {
    let (credential, (id, name, description, labels, skip_test, updated_at)) = body.split();
    let skip_test = skip_test.unwrap_or_default();
    let change = ClusterChange { name, description, labels, credential, skip_test, updated_at };
    let changed = api.app.clusters.update(signed_in.caller(), id.into(), change).await?;
    Ok(Response::changed(changed, |cluster| OneCluster { cluster }).with_message(Message::ClusterUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.clusters.delete(signed_in.caller(), body.id.into()).await?;
    Ok(Response::of(Empty {}).with_message(Message::ClusterDeleted))
}

with_connection! {
    /// A cluster to test: the id of a registered cluster, or a new connection.
    struct ClusterTestBody {
        /// The id of a registered cluster.
        id: Option<Id>,
    }
}

pub(crate) async fn test(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ClusterTestBody>>,
) -> Result<Response<ClusterTest>> {
    let (credential, (id,)) = body.split();
    let clusters = &api.app.clusters;
    let test = match id {
        Some(_) if has_connection(&credential) => return Err(Error::invalid("id", Reason::NotAllowed).into()),
        Some(id) => clusters.test(signed_in.caller(), id.into()).await?,
        None => clusters.test_new(signed_in.caller(), credential).await?,
    };
    Ok(Response::of(test).with_message(Message::ClusterTested))
}

/// Whether any field of the connection was sent.
fn has_connection(connection: &CredentialInput) -> bool {
    let CredentialInput {
        auth_type,
        api_server,
        token,
        ca_certificate,
        kubeconfig,
        context,
        insecure_skip_tls_verify,
    } = connection;
    let secret = token.is_some() || kubeconfig.is_some();
    let plain = auth_type.is_some() || api_server.is_some() || ca_certificate.is_some() || context.is_some();
    secret || plain || *insecure_skip_tls_verify
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusQuery {
    /// The id of the cluster.
    #[param(inline)]
    id: Id,
}

pub(crate) async fn status(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<StatusQuery>>,
) -> Result<Response<ClusterStatus>> {
    Ok(Response::of(api.app.clusters.status(signed_in.caller(), query.id.into()).await?))
}
