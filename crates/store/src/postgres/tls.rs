//! Whom we trust to be the database.

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

use super::bad;
use crate::error::OpenError;

/// Who may answer.
#[derive(Debug)]
pub(super) enum Trust {
    /// Anybody.
    Anyone,
    /// Whoever has a certificate from these roots.
    Chain(RootCertStore),
    /// Whoever has a certificate from these roots for the host that is called.
    Host(RootCertStore),
}

/// The certificates in a PEM file.
pub(super) fn roots(file: &str) -> Result<RootCertStore, OpenError> {
    let pem = std::fs::read(file)
        .map_err(|error| bad(format!("has an sslrootcert that cannot be read ({error})")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or_else(|| bad("has an sslrootcert with an invalid certificate"))?;
    }
    if roots.is_empty() {
        return Err(bad("has an sslrootcert without a certificate (PEM)"));
    }
    Ok(roots)
}

/// The roots that the machine trusts.
pub(super) fn system_roots() -> Result<RootCertStore, OpenError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(bad("needs root certificates, but this machine has none: set sslrootcert to a file"));
    }
    Ok(roots)
}

/// TLS as a client without a certificate of its own.
pub(super) fn config(trust: Trust) -> Result<ClientConfig, OpenError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(format!("cannot be reached by TLS here ({error})")))?;
    let builder = match trust {
        Trust::Host(roots) => builder.with_root_certificates(roots),
        Trust::Chain(roots) => verified_by(builder, AnyHost { roots: Some(roots), provider }),
        Trust::Anyone => verified_by(builder, AnyHost { roots: None, provider }),
    };
    Ok(builder.with_no_client_auth())
}

fn verified_by(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    verifier: AnyHost,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
}

/// Asks whose certificate it is, where it matters, and not for which host.
#[derive(Debug)]
struct AnyHost {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHost {
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
