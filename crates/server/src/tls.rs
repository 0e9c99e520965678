//! HTTPS: certificate and key from files, read anew when these change, so that whoever renews them need not restart us.

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

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// More than the PEM of any private key has; read at most, so that no copy of a key is left by a buffer that grows.
const LARGEST_KEY: usize = 64 << 10;

/// Why there is no HTTPS. Each text says what to do, and none shows a byte of a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read.
    #[error("the TLS file {path} cannot be read ({source}): allow this user to read it")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others may read or write the key ([`open_private_file`]).
    #[error(
        "the TLS key {path} has mode {mode:04o}, so other users can access it: run chmod 600 on it, or mount it as root's \
         with mode 0440 and a group of this process"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no certificate in the file.
    #[error(
        "the TLS certificate {0} contains no certificate in PEM: use the file of the chain, the server's certificate first"
    )]
    NoCertificate(PathBuf),
    /// There is no key in the file.
    #[error(
        "the TLS key {0} contains no unencrypted private key in PEM: use the key of the certificate, unencrypted"
    )]
    NoKey(PathBuf),
    /// They are not of each other.
    #[error(
        "the TLS certificate {certificate} and the key {key} do not belong together: use the key that the certificate was issued for"
    )]
    NoPair {
        /// One of them.
        certificate: PathBuf,
        /// The other.
        key: PathBuf,
    },
    /// The crypto provider lacks what we ask of it.
    #[error("TLS cannot be set up: {0}")]
    Provider(#[from] rustls::Error),
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What a file was when it was looked at; another when it was written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<Metadata> for Seen {
    fn from(file: Metadata) -> Self {
        let modified = (file.mtime(), file.mtime_nsec());
        Self { device: file.dev(), inode: file.ino(), size: file.size(), modified }
    }
}

impl Files {
    pub(crate) fn new((certificate, key): (&Path, &Path)) -> Self {
        Self { certificate: certificate.to_owned(), key: key.to_owned() }
    }

    /// Reads the pair.
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
        let mut pem = zeroize::Zeroizing::new(Vec::with_capacity(LARGEST_KEY));
        file.take(LARGEST_KEY as u64).read_to_end(&mut pem).map_err(failed(&self.key))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey(self.key.clone()))?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|_| TlsError::NoPair { certificate: self.certificate.clone(), key: self.key.clone() })
    }

    /// Certificate and key as they are now; none for what is not there.
    fn seen(&self) -> [Option<Seen>; 2] {
        [&self.certificate, &self.key].map(|path| fs::metadata(path).ok().map(Seen::from))
    }
}

/// The one crypto provider.
fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The pair that new connections are served with.
#[derive(Debug)]
pub(crate) struct Pair {
    files: Files,
    /// What the files were at first.
    seen: [Option<Seen>; 2],
    current: RwLock<Arc<CertifiedKey>>,
}

impl Pair {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(files: Files) -> Result<Arc<Self>, TlsError> {
        // before they are read: what is written meanwhile is seen at the next look
        let seen = files.seen();
        let current = RwLock::new(Arc::new(files.load()?));
        Ok(Arc::new(Self { files, seen, current }))
    }

    /// TLS 1.2 and 1.3 with this pair; which protocols are spoken in it the HTTP server says.
    ///
    /// # Errors
    /// `TlsError::Provider`, when it has none of these versions.
    pub(crate) fn config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?;
        Ok(builder.with_no_client_auth().with_cert_resolver(self.clone()))
    }

    /// Reads the files anew whenever they change, until `stop`. A pair that cannot be used changes nothing: the old one
    /// is served until the files change again.
    pub(crate) async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.seen;
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let now = self.files.seen();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    fn reload(&self) {
        match self.files.load() {
            Ok(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                tracing::info!(certificate = %self.files.certificate.display(), "serving the new TLS certificate");
            }
            Err(error) => tracing::warn!(%error, "still serving the old TLS certificate"),
        }
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
