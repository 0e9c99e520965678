//! Registered clusters.

use actix_web::web::Data;
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    cluster::{
        ApiServer, AuthType, Cluster, ClusterChange, ClusterName, ClusterStatus, ClusterTest,
        CredentialInput, NewCluster,
    },
    error::Reason,
    object::Labels,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::{ById, Id};
use crate::{
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    query::Params,
    response::{Empty, Response},
    server::Api,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneCluster {
    /// It as it is after the change.
    cluster: Cluster,
}

/// Declares a body that holds a connection besides its own fields. serde's `flatten` would let unknown fields pass.
macro_rules! with_connection {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $($(#[$attribute])* $field: $type,)*
            /// Which of `token` and `kubeconfig` is sent.
            auth_type: Option<AuthType>,
            /// `https://host[:port][/path]`; of a kubeconfig it replaces the context's server.
            api_server: Option<ApiServer>,
            /// A bearer token.
            #[schema(value_type = Option<String>, format = Password)]
            token: Option<SecretString>,
            /// Whom to trust, PEM; with a token. Without it the system's roots.
            ca_certificate: Option<String>,
            /// A kubeconfig, YAML. Only server, CA and one credential of one context are taken.
            #[schema(value_type = Option<String>, format = Password)]
            kubeconfig: Option<SecretString>,
            /// Which context of the kubeconfig; the current one when none.
            context: Option<String>,
            /// Accept any certificate: where the configuration allows it, for super admins.
            insecure_skip_tls_verify: Option<bool>,
        }

        impl $name {
            /// The connection, and its own fields.
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
    /// A cluster to register: a token with its server, or a kubeconfig.
    struct NewClusterBody {
        name: ClusterName,
        /// Free text.
        description: Option<String>,
        /// Labels of ours, not of the cluster's.
        labels: Option<Labels>,
        /// Store it without trying the connection.
        skip_test: Option<bool>,
    }
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<NewClusterBody>>,
) -> Result<Response<OneCluster>> {
    let (credential, (name, description, labels, skip_test)) = body.split();
    let cluster = NewCluster {
        name,
        description: description.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        credential,
        skip_test: skip_test.unwrap_or_default(),
    };
    let changed = api.app.clusters.create(&who.caller, cluster).await?;
    Ok(Response::changed(changed, |cluster| OneCluster { cluster }).with_message(Message::ClusterCreated))
}

with_connection! {
    /// What is not sent stays. A new server needs its credential sent again.
    struct ClusterChangeBody {
        /// Which cluster.
        id: Id,
        /// A new name, unique ignoring case.
        name: Option<ClusterName>,
        /// Free text.
        description: Option<String>,
        /// Replaced as a whole.
        labels: Option<Labels>,
        /// Store a new connection without trying it.
        skip_test: Option<bool>,
        /// The `updated_at` that was read: a conflict when the cluster was changed since.
        #[schema(value_type = Option<String>, format = DateTime)]
        updated_at: Option<Timestamp>,
    }
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ClusterChangeBody>>,
) -> Result<Response<OneCluster>> {
    let (credential, (id, name, description, labels, skip_test, updated_at)) = body.split();
    let skip_test = skip_test.unwrap_or_default();
    let change = ClusterChange { name, description, labels, credential, skip_test, updated_at };
    let changed = api.app.clusters.update(&who.caller, id.into(), change).await?;
    Ok(Response::changed(changed, |cluster| OneCluster { cluster }).with_message(Message::ClusterUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.clusters.delete(&who.caller, body.id.into()).await?;
    Ok(Response::of(Empty {}).with_message(Message::ClusterDeleted))
}

with_connection! {
    /// Either the id of a registered cluster, or a new configuration.
    struct ClusterTestBody {
        /// A registered cluster.
        id: Option<Id>,
    }
}

pub(crate) async fn test(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ClusterTestBody>>,
) -> Result<Response<ClusterTest>> {
    let (credential, (id,)) = body.split();
    let clusters = &api.app.clusters;
    let test = match id {
        Some(_) if is_given(&credential) => return Err(Error::invalid("id", Reason::NotAllowed).into()),
        Some(id) => clusters.test(&who.caller, id.into()).await?,
        None => clusters.test_new(&who.caller, credential).await?,
    };
    Ok(Response::of(test).with_message(Message::ClusterTested))
}

/// Whether anything of a connection was sent.
fn is_given(connection: &CredentialInput) -> bool {
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
    /// Which cluster.
    #[param(inline)]
    id: Id,
}

pub(crate) async fn status(
    api: Data<Api>,
    Authenticated(who, Params(query)): Authenticated<Params<StatusQuery>>,
) -> Result<Response<ClusterStatus>> {
    Ok(Response::of(api.app.clusters.status(&who.caller, query.id.into()).await?))
}
