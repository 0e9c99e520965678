//! Parts of TLS client configurations: trusted roots and the cryptography provider.

use std::sync::{Arc, OnceLock};

use pilothouse_core::{Cause, Error, Result};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
};

/// The certificates in a PEM text; none when the text has no certificate or a malformed one.
pub fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

/// The roots in a PEM text. An empty CA never falls back to the platform's roots: that would silently trust any public
/// CA.
///
/// # Errors
/// `TlsUntrusted` when the text has no certificate.
pub fn roots(pem: &str) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(pem).unwrap_or_default());
    if added == 0 { Err(Error::new(Cause::TlsUntrusted)) } else { Ok(Arc::new(roots)) }
}

/// The cryptography provider, shared by all configurations: each copy has its own lists of algorithms.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// The platform's roots, loaded once.
pub fn platform_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}
