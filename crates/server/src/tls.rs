//! TLS certificate and key, loaded from files and reloaded when the files change, so that a renewal needs no restart.

use std::{
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use pilothouse_crypto::{PrivateFileError, open_private_file};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio_util::sync::CancellationToken;

/// Interval of checking the files for changes.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Size limit of a key file, larger than the PEM of any private key. The buffer has this capacity from the start:
/// growing it would leave copies of the key in memory.
const MAX_KEY_BYTES: usize = 64 << 10;

/// Error of loading certificate and key. Each message gives the next step; none contains key material.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read.
    #[error("the TLS file {path} cannot be read ({source}): allow this user to read it")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Other users may read or write the key file ([`open_private_file`]).
    #[error(
        "the TLS key {path} has mode {mode:04o}, so other users can access it: run chmod 600 on it, or mount it as root's \
         with mode 0440 and a group of this process"
    )]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Permission bits of the file.
        mode: u32,
    },
    /// The file contains no certificate in PEM.
    #[error(
        "the TLS certificate {0} contains no certificate in PEM: use the file of the chain, the server's certificate first"
    )]
    NoCertificate(PathBuf),
    /// The file contains no unencrypted private key in PEM.
    #[error(
        "the TLS key {0} contains no unencrypted private key in PEM: use the key of the certificate, unencrypted"
    )]
    NoKey(PathBuf),
    /// The certificate was not issued for the key.
    #[error(
        "the TLS certificate {certificate} and the key {key} do not belong together: use the key that the certificate was issued for"
    )]
    Mismatch {
        /// Path of the certificate.
        certificate: PathBuf,
        /// Path of the key.
        key: PathBuf,
    },
    /// The crypto provider does not support the TLS versions.
    #[error("TLS cannot be set up ({0}): report this as a defect of Pilothouse")]
    Provider(#[from] rustls::Error),
}

/// Paths of a certificate and its private key.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// Identity of a file's contents. The stamp differs after the file was written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<Metadata> for FileStamp {
    fn from(file: Metadata) -> Self {
        let modified = (file.mtime(), file.mtime_nsec());
        Self { device: file.dev(), inode: file.ino(), size: file.size(), modified }
    }
}

impl TlsFiles {
    pub(crate) fn new((certificate, key): (&Path, &Path)) -> Self {
        Self { certificate: certificate.to_owned(), key: key.to_owned() }
    }

    /// Loads certificate chain and key, and checks that they match.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn load(&self) -> Result<CertifiedKey, TlsError> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| TlsError::Io { path, source }
        };
        let pem = fs::read(&self.certificate).map_err(failed(&self.certificate))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, pem::Error>>()
            .ok()
            .filter(|chain: &Vec<_>| !chain.is_empty())
            .ok_or_else(|| TlsError::NoCertificate(self.certificate.clone()))?;

        let file = open_private_file(&self.key).map_err(|error| match error {
            PrivateFileError::Io(source) => failed(&self.key)(source),
            PrivateFileError::Exposed { mode } => TlsError::Exposed { path: self.key.clone(), mode },
        })?;
        let mut pem = zeroize::Zeroizing::new(Vec::with_capacity(MAX_KEY_BYTES));
        file.take(MAX_KEY_BYTES as u64).read_to_end(&mut pem).map_err(failed(&self.key))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey(self.key.clone()))?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|_| TlsError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() })
    }

    /// Current stamps of certificate and key; `None` for a missing file.
    fn stamps(&self) -> [Option<FileStamp>; 2] {
        [&self.certificate, &self.key].map(|path| fs::metadata(path).ok().map(FileStamp::from))
    }
}

/// The crypto provider: aws-lc-rs.
fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// [`ResolvesServerCert`] that serves new connections with the last valid certificate and key.
#[derive(Debug)]
pub(crate) struct CertificateResolver {
    files: TlsFiles,
    /// Stamps of the files before the first load.
    stamps: [Option<FileStamp>; 2],
    current: RwLock<Arc<CertifiedKey>>,
}

impl CertificateResolver {
    /// Loads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        // taken before the load, so that the next check detects a change during the load
        let stamps = files.stamps();
        let current = RwLock::new(Arc::new(files.load()?));
        Ok(Arc::new(Self { files, stamps, current }))
    }

    /// Server configuration for TLS 1.2 and 1.3 with this resolver. The HTTP server sets the ALPN protocols.
    ///
    /// # Errors
    /// `TlsError::Provider` when the provider supports none of these versions.
    pub(crate) fn config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?;
        Ok(builder.with_no_client_auth().with_cert_resolver(self.clone()))
    }

    /// Reloads the files whenever they change, until `stop`. If the new files are not usable, the previous certificate
    /// is served until the files change again.
    pub(crate) async fn reload_on_change(self: Arc<Self>, stop: CancellationToken) {
        let mut stamps = self.stamps;
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let current = self.files.stamps();
            if current != stamps {
                stamps = current;
                self.reload();
            }
        }
    }

    fn reload(&self) {
        match self.files.load() {
            Ok(certificate) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificate);
                tracing::info!(certificate = %self.files.certificate.display(), "serving the new TLS certificate");
            }
            Err(error) => tracing::warn!(%error, "still serving the old TLS certificate"),
        }
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
