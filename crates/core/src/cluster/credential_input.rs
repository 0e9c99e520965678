//! Credential and connection fields of a request, and the checks of their presence and format.

use secrecy::{ExposeSecret, SecretString};

use super::Cluster;
use crate::{
    connection::{ApiServer, AuthType, check_pem_text, check_token},
    error::{Error, Reason, Result},
    kubeconfig::Kubeconfig,
};

/// Credential and connection fields of a request.
#[derive(Clone, Debug, Default)]
pub struct CredentialInput {
    /// `token` or `kubeconfig`.
    pub auth_type: Option<AuthType>,
    /// The API server; with a kubeconfig it replaces the context's server.
    pub api_server: Option<ApiServer>,
    /// A bearer token.
    pub token: Option<SecretString>,
    /// Trusted CA certificates, PEM; only with a token.
    pub ca_certificate: Option<String>,
    /// A kubeconfig, YAML.
    pub kubeconfig: Option<SecretString>,
    /// The kubeconfig context; the current context if `None`.
    pub context: Option<String>,
    /// Whether any certificate is accepted. Allowed only by the configuration, and only for a super admin.
    pub insecure_skip_tls_verify: bool,
}

impl CredentialInput {
    /// Whether any field is set.
    pub(super) fn is_given(&self) -> bool {
        let Self {
            auth_type,
            api_server,
            token,
            ca_certificate,
            kubeconfig,
            context,
            insecure_skip_tls_verify,
        } = self;
        auth_type.is_some()
            || api_server.is_some()
            || token.is_some()
            || ca_certificate.is_some()
            || kubeconfig.is_some()
            || context.is_some()
            || *insecure_skip_tls_verify
    }

    /// Whether all fields that are set are displayed in every response.
    pub(super) fn has_only_displayed_fields(&self) -> bool {
        let Self {
            auth_type: _,
            api_server: _,
            token,
            ca_certificate,
            kubeconfig,
            context,
            insecure_skip_tls_verify,
        } = self;
        token.is_none()
            && ca_certificate.is_none()
            && kubeconfig.is_none()
            && context.is_none()
            && !insecure_skip_tls_verify
    }

    /// Whether all fields that are set equal the displayed values of this cluster.
    pub(super) fn equals_displayed(&self, cluster: &Cluster) -> bool {
        self.has_only_displayed_fields()
            && self.auth_type.is_none_or(|sent| sent == cluster.auth_type)
            && self.api_server.as_ref().is_none_or(|sent| sent.as_str() == cluster.api_server)
    }

    /// Checks which fields are set and their format, without parsing their contents. For a token, the server may be
    /// missing: a stored server may exist.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn check_fields(&self, allow_insecure_tls: bool) -> Result<AuthType> {
        let required = |field: &str| Error::invalid(field, Reason::Required);
        let reject = |field: &str, given: bool| {
            if given { Err(Error::invalid(field, Reason::NotAllowed)) } else { Ok(()) }
        };
        let auth_type = self.auth_type.ok_or_else(|| required("auth_type"))?;
        match auth_type {
            AuthType::Token => {
                reject("kubeconfig", self.kubeconfig.is_some())?;
                reject("context", self.context.is_some())?;
                check_token("token", self.token.as_ref().ok_or_else(|| required("token"))?)?;
                self.ca_certificate.as_ref().map_or(Ok(()), |pem| check_pem_text("ca_certificate", pem))?;
            }
            AuthType::Kubeconfig => {
                reject("token", self.token.is_some())?;
                reject("ca_certificate", self.ca_certificate.is_some())?;
                let text = self.kubeconfig.as_ref().ok_or_else(|| required("kubeconfig"))?;
                Kubeconfig::check_shape(text.expose_secret(), self.context.as_deref())?;
            }
        }
        if self.insecure_skip_tls_verify && !allow_insecure_tls {
            return Err(Error::invalid("insecure_skip_tls_verify", Reason::NotAllowed));
        }
        Ok(auth_type)
    }

    /// As [`CredentialInput::check_fields`], for a cluster without a stored server.
    pub(super) fn check_all_fields(&self, allow_insecure_tls: bool) -> Result<()> {
        match self.check_fields(allow_insecure_tls)? {
            AuthType::Token if self.api_server.is_none() => {
                Err(Error::invalid("api_server", Reason::Required))
            }
            AuthType::Token | AuthType::Kubeconfig => Ok(()),
        }
    }
}
