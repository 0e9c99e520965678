//! TLS configuration for PostgreSQL: which server certificates are accepted.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::address_error;
use crate::error::OpenError;

/// Which server certificates are accepted.
#[derive(Debug)]
pub(super) enum Trust {
    /// Any certificate.
    Any,
    /// A certificate that one of these roots has issued, for any host.
    Chain(RootCertStore),
    /// A certificate that one of these roots has issued for the host of the address.
    Host(RootCertStore),
}

/// Loads the root certificates from a PEM file.
pub(super) fn roots(file: &str) -> Result<RootCertStore, OpenError> {
    let pem = std::fs::read(file)
        .map_err(|error| address_error(format!("has an sslrootcert that cannot be read ({error})")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or_else(|| address_error("has an sslrootcert with an invalid certificate"))?;
    }
    if roots.is_empty() {
        return Err(address_error("has an sslrootcert without a certificate (PEM)"));
    }
    Ok(roots)
}

/// Loads the root certificates of the system.
pub(super) fn system_roots() -> Result<RootCertStore, OpenError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(address_error(
            "needs root certificates, but this machine has none: set sslrootcert to a file",
        ));
    }
    Ok(roots)
}

/// Client configuration without a client certificate.
pub(super) fn config(trust: Trust) -> Result<ClientConfig, OpenError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| address_error(format!("cannot be reached by TLS here ({error})")))?;
    let builder = match trust {
        Trust::Host(roots) => builder.with_root_certificates(roots),
        Trust::Chain(roots) => with_verifier(builder, AnyHostVerifier { roots: Some(roots), provider }),
        Trust::Any => with_verifier(builder, AnyHostVerifier { roots: None, provider }),
    };
    Ok(builder.with_no_client_auth())
}

fn with_verifier(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    verifier: AnyHostVerifier,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
}

/// Verifies the issuer of the certificate if `roots` are set, and never the host name.
#[derive(Debug)]
struct AnyHostVerifier {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHostVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)
                .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
