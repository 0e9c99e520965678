//! HTTP client of the process: TLS by the system's roots or by a file of certificate authorities. No redirects are
//! followed, and no proxy or environment variable applies.

use std::{error::Error as StdError, fs, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::Fatal;

/// Client of one server, over HTTP/1.1.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Creates a client without connecting. It also accepts plain HTTP: the caller allows it on loopback addresses only.
/// `setting` names the setting or flag of `ca_file` in errors.
///
/// # Errors
/// `Fatal::Setting` when the file of CA certificates is not usable.
pub(crate) fn http_client(ca_file: Option<&Path>, setting: &str) -> Result<HttpClient, Fatal> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Fatal::Setting(format!("TLS cannot be set up ({error}): report this as a defect of Pilothouse"))
        })?
        .with_root_certificates(roots(ca_file, setting)?)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector))
}

/// Root certificates: those of the file, or the system's without one. `setting` names the file in errors.
///
/// # Errors
/// `Fatal::Setting` when the file is not usable.
pub(crate) fn roots(file: Option<&Path>, setting: &str) -> Result<RootCertStore, Fatal> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let unusable = |why: &str| {
        Fatal::Setting(format!(
            "the file {} of {setting} {why}: use a PEM file of CA certificates",
            path.display()
        ))
    };
    let pem = fs::read(path).map_err(|error| unusable(&format!("cannot be read ({error})")))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable("is not valid PEM"))?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(unusable("contains no certificate")),
        _ => Ok(roots),
    }
}

/// The message of an error and of its sources, in one line.
pub(crate) fn sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
