//! Serialisation of credentials for sealing: JSON, wiped from memory after use.

use pilothouse_core::{
    Error, Result,
    connection::Credential,
    seal::{Keyring, SealedFor, Sealer},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum CredentialRef<'a> {
    Token { token: &'a str },
    Certificate { chain: &'a str, key: &'a str },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StoredCredential {
    Token { token: SecretString },
    Certificate { chain: String, key: SecretString },
}

/// Seals a credential for its row.
pub(super) fn seal(sealer: &dyn Sealer, owner: &SealedFor, credential: &Credential) -> Result<Vec<u8>> {
    let open = match credential {
        Credential::Token(token) => CredentialRef::Token { token: token.expose_secret() },
        Credential::Certificate { chain, key } => {
            CredentialRef::Certificate { chain, key: key.expose_secret() }
        }
    };
    let text = serde_json::to_vec(&open).map(Zeroizing::new);
    sealer.seal(owner, &text.map_err(|_| Error::internal("a credential cannot be serialised"))?)
}

/// Opens the credential of a row.
pub(super) fn open(keyring: &dyn Keyring, owner: &SealedFor, sealed: &[u8]) -> Result<Credential> {
    let text = Zeroizing::new(keyring.open(owner, sealed)?);
    // the text of a serde error may contain a part of the credential
    match serde_json::from_slice(&text)
        .map_err(|_| Error::internal("a decrypted credential cannot be parsed"))?
    {
        StoredCredential::Token { token } => Ok(Credential::Token(token)),
        StoredCredential::Certificate { chain, key } => Ok(Credential::Certificate { chain, key }),
    }
}
