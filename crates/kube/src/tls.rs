//! TLS client configuration for a cluster: trusted roots, client certificate, and the expiry of the server's
//! certificate.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    connection::{Connection, Credential},
};
use pilothouse_dial::tls::{certificates, platform_roots, provider, roots};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use secrecy::ExposeSecret;
use x509_cert::{Certificate, der::Decode};

/// Expiry of the server's certificate, set when a certificate is accepted.
pub(crate) type ServerCertExpiry = Arc<OnceLock<Option<Timestamp>>>;

/// Number of TLS sessions kept for resumption. A configuration connects to one server, for which rustls keeps up to 8
/// sessions. The rustls default of 256 sessions allocates memory for 32 servers, about 20 KB per cluster.
const RESUMABLE_SESSIONS: usize = 8;

/// The TLS configuration of a connection; its first full handshake sets `server_cert_expiry`.
///
/// # Errors
/// `TlsUntrusted` when there is no trusted root (the CA is not a certificate, the platform has no roots);
/// `CredentialRejected` when the client certificate or its key is malformed, or they do not match.
pub(crate) fn config(connection: &Connection, server_cert_expiry: ServerCertExpiry) -> Result<ClientConfig> {
    let provider = provider();
    let trust = if connection.insecure_skip_tls_verify {
        Trust::Any
    } else {
        let roots = connection.ca.as_deref().map_or_else(|| Ok(platform_roots()), roots)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        Trust::Roots(verifier.map_err(|_| Error::new(Cause::TlsUntrusted))?)
    };
    let verifier = Arc::new(Verifier { trust, provider: provider.clone(), server_cert_expiry });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::internal("the TLS provider lacks the default versions"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &connection.credential {
        Credential::Token(_) => builder.with_no_client_auth(),
        Credential::Certificate { chain, key } => {
            let unusable = || Error::new(Cause::CredentialRejected);
            let key =
                PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).map_err(|_| unusable())?;
            builder
                .with_client_auth_cert(certificates(chain).ok_or_else(unusable)?, key)
                .map_err(|_| unusable())?
        }
    };
    config.resumption = Resumption::in_memory_sessions(RESUMABLE_SESSIONS);
    Ok(config)
}

/// The name that the server's certificate must contain; none for the host name of the server.
///
/// # Errors
/// `TlsUntrusted` when the name is invalid.
pub(crate) fn server_name(connection: &Connection) -> Result<Option<ServerName<'static>>> {
    let name = connection.tls_server_name.clone().map(ServerName::try_from).transpose();
    name.map_err(|_| Error::new(Cause::TlsUntrusted))
}

/// Expiry of the first certificate in a PEM text, which is the client's own certificate in a chain.
pub(crate) fn expiry_of_first(pem: &str) -> Option<Timestamp> {
    expiry(certificates(pem)?.first()?)
}

/// Earliest expiry of the certificates in a PEM text.
pub(crate) fn earliest_expiry(pem: &str) -> Option<Timestamp> {
    certificates(pem)?.iter().filter_map(expiry).min()
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    Timestamp::from_second(end.as_secs().try_into().ok()?).ok()
}

/// Which server certificates are accepted.
#[derive(Debug)]
enum Trust {
    /// Certificates that chain to a trusted root.
    Roots(Arc<WebPkiServerVerifier>),
    /// Any certificate: `insecure_skip_tls_verify`, which only a super admin may set.
    Any,
}

/// Verifies the server's certificate as [`Trust`] requires, and records its expiry.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    server_cert_expiry: ServerCertExpiry,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Trust::Roots(roots) = &self.trust {
            roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        self.server_cert_expiry.get_or_init(|| expiry(end_entity));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Classifies a TLS failure: `CredentialRejected` when the server rejects the client certificate, otherwise
/// `TlsUntrusted`, also for a server without TLS.
pub(crate) fn cause(error: &rustls::Error) -> Cause {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired,
        ) => Cause::CredentialRejected,
        _ => Cause::TlsUntrusted,
    }
}
