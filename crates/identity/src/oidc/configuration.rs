//! Configuration and keys that an OpenID provider publishes.

use std::{sync::Arc, time::Duration};

use http::Uri;
use openidconnect::{
    AdditionalProviderMetadata, DiscoveryError, EndSessionUrl, IssuerUrl, JsonWebKeySet, ProviderMetadata,
    core::{
        CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm,
        CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType,
    },
};
use pilothouse_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    http_client::{HttpClient, HttpError},
    unavailable,
};

/// Time after which configuration and keys are read again.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Minimum interval between two reads of the keys that an unknown key causes.
const KEYS_INTERVAL: Duration = Duration::from_secs(60);
/// Time after a failed read in which the provider is not asked again, because any client can begin a sign-in.
const PAUSE: Duration = Duration::from_secs(5);

/// Algorithms of signatures that are accepted: neither `none`, nor those with a shared secret.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// Fields of a configuration that OpenID Connect Discovery does not define.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct More {
    /// Page that ends the session at the provider.
    pub(super) end_session_endpoint: Option<EndSessionUrl>,
    /// Whether every answer names the issuer (RFC 9207).
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for More {}

pub(super) type Metadata = ProviderMetadata<
    More,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// The accepted algorithms that the provider announces.
pub(super) fn algorithms(metadata: &Metadata) -> Vec<CoreJwsSigningAlgorithm> {
    let announced = metadata.id_token_signing_alg_values_supported();
    ALGORITHMS.into_iter().filter(|algorithm| announced.contains(algorithm)).collect()
}

/// Reads and caches the configuration of one provider.
pub(super) struct Discovery {
    issuer: IssuerUrl,
    http: HttpClient,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// The configuration with the keys, and the time of its read.
    read: Option<(Arc<Metadata>, Instant)>,
    /// Time of the last read of the keys that an unknown key caused.
    keys_at: Option<Instant>,
    failed_at: Option<Instant>,
}

impl Discovery {
    pub(super) fn new(issuer: IssuerUrl, http: HttpClient) -> Self {
        Self { issuer, http, cache: Mutex::default() }
    }

    /// The configuration, at most an hour old.
    ///
    /// # Errors
    /// `ProviderUnavailable`.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>> {
        // concurrent callers wait for the running read
        let mut cache = self.cache.lock().await;
        if let Some((metadata, read_at)) = &cache.read
            && read_at.elapsed() < LIFETIME
        {
            return Ok(metadata.clone());
        }
        if cache.failed_at.is_some_and(|failed_at| failed_at.elapsed() < PAUSE) {
            return Err(unavailable("the last attempt failed"));
        }
        match self.read().await {
            Ok(metadata) => {
                let (metadata, now) = (Arc::new(metadata), Instant::now());
                *cache = Cache { read: Some((metadata.clone(), now)), keys_at: None, failed_at: None };
                Ok(metadata)
            }
            Err(error) => {
                cache.failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// The configuration with keys other than `seen` has, for a token that is signed with an unknown key. `None` if the
    /// keys were read for this reason less than a minute ago.
    ///
    /// # Errors
    /// `ProviderUnavailable`.
    pub(super) async fn with_newer_keys(&self, seen: &Arc<Metadata>) -> Result<Option<Arc<Metadata>>> {
        let mut cache = self.cache.lock().await;
        if let Some((metadata, _)) = &cache.read
            && !Arc::ptr_eq(metadata, seen)
        {
            return Ok(Some(metadata.clone()));
        }
        if cache.keys_at.is_some_and(|read_at| read_at.elapsed() < KEYS_INTERVAL) {
            return Ok(None);
        }
        cache.keys_at = Some(Instant::now());
        let keys = JsonWebKeySet::<CoreJsonWebKey>::fetch_async(seen.jwks_uri(), &self.http).await;
        let metadata = Arc::new((**seen).clone().set_jwks(keys.map_err(|error| reason(&error))?));
        if let Some((stored, _)) = &mut cache.read {
            *stored = metadata.clone();
        }
        Ok(Some(metadata))
    }

    /// Reads the configuration and the keys.
    ///
    /// # Errors
    /// `ProviderUnavailable`.
    pub(super) async fn read(&self) -> Result<Metadata> {
        let read = Metadata::discover_async(self.issuer.clone(), &self.http).await;
        let metadata = read.map_err(|error| reason(&error))?;
        let allowed = |address: &str| Uri::try_from(address).is_ok_and(|uri| self.http.is_allowed(&uri));
        let token_endpoint = metadata
            .token_endpoint()
            .ok_or_else(|| unavailable("the configuration has no token_endpoint"))?;
        // where browsers are sent
        let more = metadata.additional_metadata();
        let end_session = more.end_session_endpoint.as_ref().map(|url| url.as_str());
        let pages = [Some(metadata.authorization_endpoint().as_str()), end_session];
        if !pages.into_iter().flatten().chain([token_endpoint.as_str()]).all(allowed) {
            return Err(unavailable("the configuration has an address that is not https"));
        }
        if algorithms(&metadata).is_empty() {
            return Err(unavailable("the configuration has no algorithm of signatures that is accepted"));
        }
        Ok(metadata)
    }
}

/// Error for unusable configuration or keys of a provider.
fn reason(error: &DiscoveryError<HttpError>) -> Error {
    unavailable(match error {
        DiscoveryError::Request(HttpError::NotHttps) => {
            "the issuer or an address of its configuration is not https"
        }
        DiscoveryError::Request(HttpError::NotConnected) => {
            "cannot connect to the issuer, or the egress rules refuse its address"
        }
        DiscoveryError::Request(HttpError::Tls) => "the certificate of the issuer is not trusted",
        DiscoveryError::Request(HttpError::Redirect) => "the issuer answers with a redirect",
        DiscoveryError::Request(HttpError::TooLarge) => "the configuration or the keys are too large",
        DiscoveryError::Request(HttpError::TimedOut) => "the issuer did not answer in time",
        DiscoveryError::Request(_) => "the issuer fails",
        DiscoveryError::Parse(_) => "the configuration or the keys are malformed",
        DiscoveryError::Response(..) => "the issuer has no configuration or keys",
        DiscoveryError::Validation(_) => "the configuration names another issuer",
        _ => "the configuration cannot be read",
    })
}
