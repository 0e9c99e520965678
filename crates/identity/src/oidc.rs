//! OpenID providers: code flow with PKCE, refresh, logout.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use openidconnect::{
    AccessToken, AuthType, AuthenticationFlow, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, IssuerUrl, LogoutRequest, Nonce, OAuth2TokenResponse as _,
    PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl, RedirectUrl, RefreshToken, RequestTokenError,
    Scope, StandardErrorResponse, SubjectIdentifier, TokenResponse as _,
    core::{
        CoreClient, CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreResponseType,
        CoreTokenResponse,
    },
};
use pilothouse_core::{
    Cause, Error, Result,
    clock::Clock,
    provider::{
        AuthorizationAnswer, AuthorizationRequest, LogoutNotice, OidcRenewal, OidcSignIn, OpenIdProvider,
        Person,
    },
};
use pilothouse_dial::dial::EgressGuard;
use secrecy::{ExposeSecret, SecretString};

use self::{
    claims::{AllClaims, Claims, Unverified},
    configuration::{Discovery, Metadata},
};
use crate::{
    http_client::{HttpClient, HttpError},
    unavailable,
};

mod claims;
mod configuration;
mod logout;

/// Parameter `max_age`: the age of a sign-in at the provider above which the provider asks for the password again. A
/// year has no effect for users, but a provider that receives the parameter must send the time of the sign-in
/// (`auth_time`).
const MAX_AGE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Errors of the token endpoint by which a provider refuses the person, besides `invalid_grant`. Other errors are about
/// the provider or the client, and end no session.
const REFUSALS: [&str; 5] = [
    "access_denied",
    "account_selection_required",
    "consent_required",
    "interaction_required",
    "login_required",
];
/// Maximum difference between the clocks of a provider and of this machine.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

type TokenError = RequestTokenError<HttpError, StandardErrorResponse<CoreErrorResponseType>>;

/// Settings of an OpenID provider. The `Debug` output contains no secret.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// The issuer, to the letter as in the provider's configuration.
    pub issuer: String,
    /// The client id that the provider has for this installation.
    pub client_id: String,
    /// The secret of the client.
    pub client_secret: SecretString,
    /// Scopes to ask for, besides `openid`.
    pub scopes: Vec<String>,
    /// Claim with the name of the person.
    pub username_claim: String,
    /// Claim with the groups of the person. Empty: users have no groups.
    pub groups_claim: String,
    /// Whether to read the claims from the userinfo endpoint, besides the ID token.
    pub userinfo: bool,
    /// Address to which the provider sends browsers after a sign-in.
    pub redirect_uri: String,
    /// Address to which the provider sends browsers after a sign-out.
    pub post_logout_redirect_uri: String,
    /// Certificates of the authorities to trust, as PEM; those of the platform if `None`.
    pub ca: Option<String>,
}

/// An OpenID provider.
pub struct OidcProvider {
    settings: OidcSettings,
    redirect_uri: RedirectUrl,
    post_logout_redirect_uri: PostLogoutRedirectUrl,
    http: HttpClient,
    discovery: Discovery,
    clock: Arc<dyn Clock>,
}

impl OidcProvider {
    /// Creates the adapter, without connecting.
    ///
    /// # Errors
    /// `InvalidInput` naming the setting that is no URL; `TlsUntrusted` when `ca` has no certificate.
    pub fn new(settings: OidcSettings, guard: EgressGuard, clock: Arc<dyn Clock>) -> Result<Self> {
        let malformed = |field: &str| Error::invalid(field, pilothouse_core::error::Reason::Malformed);
        let http = HttpClient::new(guard, settings.ca.as_deref())?;
        let issuer = IssuerUrl::new(settings.issuer.clone()).map_err(|_| malformed("issuer"))?;
        let redirect_uri =
            RedirectUrl::new(settings.redirect_uri.clone()).map_err(|_| malformed("public_url"))?;
        let post_logout_redirect_uri = PostLogoutRedirectUrl::new(settings.post_logout_redirect_uri.clone())
            .map_err(|_| malformed("public_url"))?;
        let discovery = Discovery::new(issuer, http.clone());
        Ok(Self { settings, redirect_uri, post_logout_redirect_uri, http, discovery, clock })
    }

    fn client(&self, metadata: &Metadata) -> Client {
        let methods = metadata.token_endpoint_auth_methods_supported();
        let only_in_body = methods.is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        CoreClient::from_provider_metadata(
            metadata.clone(),
            ClientId::new(self.settings.client_id.clone()),
            Some(ClientSecret::new(self.settings.client_secret.expose_secret().to_owned())),
        )
        .set_redirect_uri(self.redirect_uri.clone())
        .set_auth_type(if only_in_body { AuthType::RequestBody } else { AuthType::BasicAuth })
    }

    fn now(&self) -> Result<DateTime<Utc>> {
        let now = DateTime::from_timestamp(self.clock.now().as_second(), 0);
        now.ok_or_else(|| Error::internal("the time is out of range"))
    }

    /// The verified claims of an ID token. `nonce` is that of the sign-in; `None` for a refresh.
    ///
    /// # Errors
    /// `SignInRejected`, `ProviderUnavailable`.
    async fn verified(
        &self,
        metadata: &Arc<Metadata>,
        token: &CoreTokenResponse,
        nonce: Option<&Nonce>,
    ) -> Result<Claims> {
        let now = self.now()?;
        match claims::verify(metadata, &self.client(metadata), token, nonce, now) {
            Ok(claims) => Ok(claims),
            Err(Unverified::Rejected) => Err(rejected()),
            Err(Unverified::UnknownKey) => {
                let newer = self.discovery.with_newer_keys(metadata).await?.ok_or_else(rejected)?;
                claims::verify(&newer, &self.client(&newer), token, nonce, now).map_err(|_| rejected())
            }
        }
    }

    /// The claims with those of the userinfo endpoint.
    ///
    /// # Errors
    /// `ProviderUnavailable`; `SignInRejected` if the answer is about another person.
    async fn with_userinfo(
        &self,
        client: &Client,
        access_token: &AccessToken,
        mut claims: Claims,
    ) -> Result<Claims> {
        let subject = SubjectIdentifier::new(claims.subject()?.to_owned());
        let request = client
            .user_info(access_token.clone(), Some(subject))
            .map_err(|_| unavailable("the configuration has no userinfo_endpoint"))?;
        let answer = request.request_async::<AllClaims, _, CoreGenderClaim>(&self.http).await;
        let answer = answer.map_err(|error| match error {
            openidconnect::UserInfoError::ClaimsVerification(_) => rejected(),
            _ => unavailable("the userinfo endpoint does not answer"),
        })?;
        claims.add(&answer)?;
        Ok(claims)
    }

    fn person(&self, claims: &Claims) -> Result<Person> {
        claims.person(&self.settings.username_claim, &self.settings.groups_claim)
    }
}

#[async_trait]
impl OpenIdProvider for OidcProvider {
    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<String> {
        let metadata = self.discovery.metadata().await?;
        let client = self.client(&metadata);
        let (state, nonce) = (request.state.clone(), request.nonce.clone());
        let verifier = PkceCodeVerifier::new(request.verifier.expose_secret().to_owned());
        let scopes = self.settings.scopes.iter().filter(|scope| *scope != "openid").cloned();
        let (url, ..) = client
            .authorize_url(
                AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .add_scopes(scopes.map(Scope::new))
            .set_max_age(MAX_AGE)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(url.to_string())
    }

    async fn redeem(&self, answer: &AuthorizationAnswer) -> Result<OidcSignIn> {
        let metadata = self.discovery.metadata().await?;
        let names_issuer = metadata.additional_metadata().authorization_response_iss_parameter_supported;
        match &answer.issuer {
            Some(issuer) if issuer == metadata.issuer().as_str() => {}
            None if !names_issuer => {}
            _ => return Err(rejected()),
        }
        let client = self.client(&metadata);
        let token = client
            .exchange_code(AuthorizationCode::new(answer.code.expose_secret().to_owned()))
            .map_err(|_| unavailable("the configuration has no token_endpoint"))?
            .set_pkce_verifier(PkceCodeVerifier::new(answer.verifier.expose_secret().to_owned()))
            .request_async(&self.http)
            .await
            .map_err(|error| match error {
                TokenError::Parse(..) => rejected(),
                error => refusal(&error),
            })?;
        let nonce = Nonce::new(answer.nonce.clone());
        let mut claims = self.verified(&metadata, &token, Some(&nonce)).await?;
        if self.settings.userinfo {
            claims = self.with_userinfo(&client, token.access_token(), claims).await?;
        }
        Ok(OidcSignIn {
            person: self.person(&claims)?,
            authenticated_at: claims.authenticated_at(),
            sid: claims.sid(),
            refresh_token: token.refresh_token().map(|token| token.secret().clone().into()),
        })
    }

    async fn renew(&self, subject: &str, refresh_token: &SecretString) -> Result<Option<OidcRenewal>> {
        let metadata = self.discovery.metadata().await?;
        let client = self.client(&metadata);
        let presented = RefreshToken::new(refresh_token.expose_secret().to_owned());
        let request = client
            .exchange_refresh_token(&presented)
            .map_err(|_| unavailable("the configuration has no token_endpoint"))?;
        let token = match request.request_async(&self.http).await {
            Ok(token) => token,
            Err(error) => {
                let refusal = refusal(&error);
                return if refusal.cause == Cause::SignInRejected { Ok(None) } else { Err(refusal) };
            }
        };
        let claims = if token.id_token().is_some() {
            let claims = self.verified(&metadata, &token, None).await?;
            if claims.subject()? != subject {
                return Ok(None);
            }
            claims
        } else {
            Claims::of_subject(subject)
        };
        let claims = if self.settings.userinfo || token.id_token().is_none() {
            self.with_userinfo(&client, token.access_token(), claims).await?
        } else {
            claims
        };
        Ok(Some(OidcRenewal {
            person: self.person(&claims)?,
            refresh_token: token.refresh_token().map(|token| token.secret().clone().into()),
        }))
    }

    async fn verify_logout(&self, logout_token: &str) -> Result<LogoutNotice> {
        let metadata = self.discovery.metadata().await?;
        let (client_id, now) = (&self.settings.client_id, self.clock.now());
        match logout::verify(&metadata, client_id, logout_token, now) {
            Ok(notice) => Ok(notice),
            Err(Unverified::Rejected) => Err(rejected()),
            Err(Unverified::UnknownKey) => {
                let newer = self.discovery.with_newer_keys(&metadata).await?.ok_or_else(rejected)?;
                logout::verify(&newer, client_id, logout_token, now).map_err(|_| rejected())
            }
        }
    }

    async fn end_session_url(&self) -> Result<Option<String>> {
        let metadata = self.discovery.metadata().await?;
        let page = metadata.additional_metadata().end_session_endpoint.clone();
        Ok(page.map(|page| {
            LogoutRequest::from(page)
                .set_client_id(ClientId::new(self.settings.client_id.clone()))
                .set_post_logout_redirect_uri(self.post_logout_redirect_uri.clone())
                .http_get_url()
                .to_string()
        }))
    }

    async fn check(&self) -> Result<()> {
        self.discovery.read().await.map(drop)
    }
}

fn rejected() -> Error {
    Error::new(Cause::SignInRejected)
}

/// The error of a request to the token endpoint: `SignInRejected` only if the provider refused the person, the code or
/// the refresh token.
fn refusal(error: &TokenError) -> Error {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            CoreErrorResponseType::InvalidGrant => rejected(),
            CoreErrorResponseType::Extension(code) if REFUSALS.contains(&code.as_str()) => rejected(),
            CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient => {
                unavailable("the provider refuses client_id or client_secret")
            }
            _ => unavailable("the token endpoint refuses the request"),
        },
        RequestTokenError::Parse(..) => unavailable("the answer of the token endpoint is malformed"),
        RequestTokenError::Request(_) | RequestTokenError::Other(_) => {
            unavailable("the token endpoint does not answer")
        }
    }
}
