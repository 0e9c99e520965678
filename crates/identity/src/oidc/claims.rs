//! Claims of ID tokens and of the userinfo endpoint.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jiff::Timestamp;
use openidconnect::{
    AccessTokenHash, AdditionalClaims, ClaimsVerificationError, Nonce, OAuth2TokenResponse as _,
    SignatureVerificationError, TokenResponse as _, UserInfoClaims,
    core::{CoreGenderClaim, CoreTokenResponse},
};
use pilothouse_core::{Cause, Error, Result, provider::Person};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Client, LEEWAY, Metadata, configuration::algorithms, rejected};

/// Claims that the library does not define.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct AllClaims {
    #[serde(flatten)]
    claims: Map<String, Value>,
}

impl AdditionalClaims for AllClaims {}

/// Reason for which a token does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// The token is signed with an unknown key, which may be among the newest keys of the provider.
    UnknownKey,
    /// The token must not be accepted.
    Rejected,
}

/// Verified claims about one person.
#[derive(Clone, Debug)]
pub(super) struct Claims(Map<String, Value>);

/// Verifies the ID token of an answer: signature, algorithm, type, `iss`, `aud`, `azp`, `exp`, `iat`, `nbf`, `nonce`,
/// `at_hash`.
pub(super) fn verify(
    metadata: &Metadata,
    client: &Client,
    token: &CoreTokenResponse,
    nonce: Option<&Nonce>,
    now: DateTime<Utc>,
) -> Result<Claims, Unverified> {
    let id_token = token.id_token().ok_or(Unverified::Rejected)?;
    let verifier = client
        .id_token_verifier()
        .set_allowed_algs(algorithms(metadata))
        // another audience is accepted if the token is issued to this client: see `azp` below
        .set_other_audience_verifier_fn(|_| true)
        .set_time_fn(move || now - LEEWAY)
        .set_issue_time_verifier_fn(move |issued_at| {
            if issued_at <= now + LEEWAY { Ok(()) } else { Err("issued in future".to_owned()) }
        });
    let verified = match nonce {
        Some(nonce) => id_token.claims(&verifier, nonce),
        None => id_token.claims(&verifier, |_: Option<&Nonce>| Ok::<(), String>(())),
    };
    let verified = verified.map_err(|error| match error {
        ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey) => {
            Unverified::UnknownKey
        }
        _ => Unverified::Rejected,
    })?;
    let is_ours = |party: &str| party == client.client_id().as_str();
    match verified.authorized_party() {
        Some(party) if is_ours(party.as_str()) => {}
        None if verified.audiences().len() == 1 => {}
        _ => return Err(Unverified::Rejected),
    }
    if let Some(expected) = verified.access_token_hash() {
        let algorithm = id_token.signing_alg().map_err(|_| Unverified::Rejected)?;
        let key = id_token.signing_key(&verifier).map_err(|_| Unverified::Rejected)?;
        let actual = AccessTokenHash::from_token(token.access_token(), algorithm, key);
        if actual.map_err(|_| Unverified::Rejected)?.as_str() != expected.as_str() {
            return Err(Unverified::Rejected);
        }
    }
    let claims = payload(&id_token.to_string()).ok_or(Unverified::Rejected)?;
    let not_before = claims.get("nbf").map_or(Some(i64::MIN), Value::as_i64).ok_or(Unverified::Rejected)?;
    if not_before > (now + LEEWAY).timestamp() {
        return Err(Unverified::Rejected);
    }
    Ok(Claims(claims))
}

/// The payload of a signed token, without a check.
pub(super) fn payload(token: &str) -> Option<Map<String, Value>> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

impl Claims {
    /// Claims that contain only the subject of a person.
    pub(super) fn of_subject(subject: &str) -> Self {
        Self(Map::from_iter([("sub".to_owned(), Value::from(subject))]))
    }

    /// Adds the claims of the userinfo endpoint, which replace those of the ID token.
    ///
    /// # Errors
    /// `SignInRejected`.
    pub(super) fn add(&mut self, answer: &UserInfoClaims<AllClaims, CoreGenderClaim>) -> Result<()> {
        let Ok(Value::Object(claims)) = serde_json::to_value(answer) else { return Err(rejected()) };
        // the session is that of the ID token
        let of_session = ["sub", "sid", "auth_time"];
        self.0.extend(claims.into_iter().filter(|(name, _)| !of_session.contains(&name.as_str())));
        Ok(())
    }

    /// The provider's id of the person.
    ///
    /// # Errors
    /// `SignInRejected`.
    pub(super) fn subject(&self) -> Result<&str> {
        self.text("sub").ok_or_else(rejected)
    }

    /// The provider's id of its session.
    pub(super) fn sid(&self) -> Option<String> {
        self.text("sid").filter(|sid| sid.len() <= Person::MAX_SUBJECT_BYTES).map(str::to_owned)
    }

    /// Time of the authentication at the provider.
    pub(super) fn authenticated_at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.0.get("auth_time")?.as_i64()?).ok()
    }

    /// The person, with name and groups from these claims. If the claim of the name is missing, the subject is the
    /// name. If `groups_claim` is empty, the person has no groups.
    ///
    /// # Errors
    /// `SignInRejected`; `GroupsMissing` if the claim of the groups is missing or is no list of texts. Entra ID leaves
    /// it out, and points to another service in `_claim_names`, when a user has more than 200 groups.
    pub(super) fn person(&self, username_claim: &str, groups_claim: &str) -> Result<Person> {
        let subject = self.subject()?;
        let groups = if groups_claim.is_empty() { Vec::new() } else { self.groups(groups_claim)? };
        let name = self.text(username_claim).filter(|name| !name.is_empty()).unwrap_or(subject);
        Person::new(subject, name, self.text("name").map(str::to_owned), groups)
    }

    fn groups(&self, claim: &str) -> Result<Vec<String>> {
        let missing = || Error::new(Cause::GroupsMissing);
        let elsewhere = self.0.get("_claim_names").and_then(|names| names.get(claim));
        match self.0.get(claim) {
            _ if elsewhere.is_some() => Err(missing()),
            Some(Value::String(group)) => Ok(vec![group.clone()]),
            Some(Value::Array(groups)) => {
                let groups = groups.iter().map(|group| group.as_str().map(str::to_owned));
                groups.collect::<Option<_>>().ok_or_else(missing)
            }
            _ => Err(missing()),
        }
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn person(claims: Value) -> Result<Person, Cause> {
        let Value::Object(claims) = claims else { panic!("no object") };
        Claims(claims).person("preferred_username", "groups").map_err(|error| error.cause)
    }

    #[test]
    fn groups_are_a_list_of_texts_or_one_text() {
        let groups = |groups: Value| {
            let person = person(json!({"sub": "1", "groups": groups}))?;
            Ok::<Vec<_>, Cause>(person.groups().iter().cloned().collect())
        };
        assert_eq!(groups(json!(["b", "a", "a"])), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(groups(json!("ops")), Ok(vec!["ops".to_owned()]));
        assert_eq!(groups(json!([])), Ok(vec![]));
        for malformed in [json!(null), json!(1), json!(["a", 1]), json!({"a": true}), json!(""), json!([""])]
        {
            assert_eq!(groups(malformed.clone()), Err(Cause::GroupsMissing), "{malformed}");
        }
        assert_eq!(person(json!({"sub": "1"})), Err(Cause::GroupsMissing));
        let elsewhere = json!({"sub": "1", "groups": [], "_claim_names": {"groups": "src1"}});
        assert_eq!(person(elsewhere), Err(Cause::GroupsMissing));
    }

    #[test]
    fn time_of_the_authentication_is_a_whole_number_of_seconds() {
        let at = |auth_time: Value| {
            let claims = Map::from_iter([("auth_time".to_owned(), auth_time)]);
            Claims(claims).authenticated_at().map(Timestamp::as_second)
        };
        assert_eq!(at(json!(1_767_225_600)), Some(1_767_225_600));
        for other in [json!(null), json!("1767225600"), json!(1.5), json!(i64::MAX), json!(true)] {
            assert_eq!(at(other.clone()), None, "{other}");
        }
        assert_eq!(Claims::of_subject("1").authenticated_at(), None);
    }

    #[test]
    fn person_is_the_subject_and_never_the_name() {
        let claims = json!({"sub": "1", "preferred_username": "admin", "email": "a@b.c", "groups": []});
        let named = person(claims).unwrap();
        assert_eq!((named.subject(), named.name()), ("1", "admin"));
        let unnamed = person(json!({"sub": "1", "groups": []})).unwrap();
        assert_eq!(unnamed.name(), "1");
        for subject in [json!(1), json!(""), json!(null), json!("s".repeat(256))] {
            assert_eq!(
                person(json!({"sub": subject, "groups": []})),
                Err(Cause::SignInRejected),
                "{subject}"
            );
        }
    }
}
