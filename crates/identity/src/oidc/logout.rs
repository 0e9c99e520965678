//! Logout tokens of back-channel logout (OpenID Connect Back-Channel Logout 1.0). The library does not read these
//! tokens: a token that names only a session has no `sub`. The key types of the library verify the signatures.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use openidconnect::{JsonWebKey as _, core::CoreJwsSigningAlgorithm};
use pilothouse_core::provider::{LogoutNotice, Person};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Metadata,
    claims::{Unverified, payload},
    configuration::algorithms,
};

/// Largest token, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// Maximum difference between the clocks.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// Age above which a token is refused.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(120);
/// The event that a logout token contains.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

#[derive(Deserialize)]
struct Header {
    alg: CoreJwsSigningAlgorithm,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Verifies a logout token: signature, algorithm, type, `iss`, `aud`, `iat`, `exp`, `events`, no `nonce`.
pub(super) fn verify(
    metadata: &Metadata,
    client_id: &str,
    token: &str,
    now: Timestamp,
) -> Result<LogoutNotice, Unverified> {
    let rejected = || Unverified::Rejected;
    if token.len() > MAX_BYTES {
        return Err(Unverified::Rejected);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or_else(rejected)?;
    let (header, _) = signed.split_once('.').ok_or_else(rejected)?;
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| rejected())?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| rejected())?;
    let typ = header.typ.unwrap_or_default().to_ascii_lowercase();
    let is_logout_token = matches!(&*typ, "logout+jwt" | "application/logout+jwt");
    if !is_logout_token || header.crit.is_some() || !algorithms(metadata).contains(&header.alg) {
        return Err(Unverified::Rejected);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| rejected())?;
    let keys: Vec<_> = metadata
        .jwks()
        .keys()
        .iter()
        .filter(|key| header.kid.is_none() || key.key_id().map(|id| id.as_str()) == header.kid.as_deref())
        .collect();
    if keys.is_empty() {
        return Err(Unverified::UnknownKey);
    }
    if !keys.iter().any(|key| key.verify_signature(&header.alg, signed.as_bytes(), &signature).is_ok()) {
        return Err(Unverified::Rejected);
    }
    let claims = payload(token).ok_or_else(rejected)?;
    notice(&claims, metadata.issuer().as_str(), client_id, now).ok_or_else(rejected)
}

/// The notice in verified claims; `None` if the claims are not those of a logout token for this client at this time.
fn notice(
    claims: &Map<String, Value>,
    issuer: &str,
    client_id: &str,
    now: Timestamp,
) -> Option<LogoutNotice> {
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let time = |claim: &str| claims.get(claim).map(|at| Timestamp::from_second(at.as_i64()?).ok());
    let is_for_us = match claims.get("aud")? {
        Value::String(audience) => audience == client_id,
        Value::Array(audiences) => audiences.iter().any(|audience| audience == client_id),
        _ => false,
    };
    let issued_at = time("iat")??;
    let is_current = issued_at <= now + LEEWAY && now <= issued_at + MAX_AGE;
    let is_expired = match time("exp") {
        Some(expires_at) => now - LEEWAY >= expires_at?,
        None => false,
    };
    let is_logout = claims.get("events")?.get(EVENT).is_some_and(Value::is_object);
    if text("iss") != Some(issuer)
        || !is_for_us
        || !is_current
        || is_expired
        || !is_logout
        || claims.contains_key("nonce")
    {
        return None;
    }
    let short = |claim: &str| match claims.get(claim) {
        None => Some(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= Person::MAX_SUBJECT_BYTES => {
            Some(Some(text.clone()))
        }
        Some(_) => None,
    };
    let (jti, subject, sid) = (short("jti")??, short("sub")?, short("sid")?);
    if subject.is_none() && sid.is_none() {
        return None;
    }
    let valid_until = issued_at + MAX_AGE + LEEWAY;
    Some(LogoutNotice { jti, valid_until, subject, sid })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://id.example.com";
    const NOW: i64 = 1_800_000_000;

    fn claims(change: impl FnOnce(&mut Map<String, Value>)) -> Map<String, Value> {
        let Value::Object(mut claims) = json!({
            "iss": ISSUER, "aud": "pilothouse", "iat": NOW, "exp": NOW + 120, "jti": "j1",
            "events": {EVENT: {}}, "sub": "1", "sid": "s1",
        }) else {
            panic!("an object")
        };
        change(&mut claims);
        claims
    }

    fn read(claims: &Map<String, Value>) -> Option<LogoutNotice> {
        notice(claims, ISSUER, "pilothouse", Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn token_names_a_person_or_a_session() {
        let both = read(&claims(|_| {})).unwrap();
        assert_eq!((both.subject.as_deref(), both.sid.as_deref(), &*both.jti), (Some("1"), Some("s1"), "j1"));
        assert!(read(&claims(|claims| drop(claims.remove("sub")))).unwrap().subject.is_none());
        assert!(read(&claims(|claims| drop(claims.remove("sid")))).unwrap().sid.is_none());
        let neither = claims(|claims| {
            claims.remove("sub");
            claims.remove("sid");
        });
        assert_eq!(read(&neither), None);
    }

    #[test]
    fn other_tokens_are_refused() {
        let set = |name: &'static str, value: Value| {
            claims(move |claims| drop(claims.insert(name.to_owned(), value)))
        };
        let refused = [
            set("iss", json!("https://id.example.com/")),
            set("aud", json!("another")),
            set("aud", json!(["another"])),
            set("iat", json!(NOW + 61)),
            set("iat", json!(NOW - 121)),
            set("iat", json!("now")),
            set("exp", json!(NOW - 60)),
            set("exp", json!("later")),
            set("nonce", json!("n")),
            set("events", json!({})),
            set("events", json!({EVENT: true})),
            set("events", json!([EVENT])),
            set("jti", json!("")),
            set("jti", json!(1)),
            set("sub", json!("s".repeat(256))),
            set("sid", json!(7)),
        ];
        for claims in refused {
            assert_eq!(read(&claims), None, "{claims:?}");
        }
        for missing in ["iss", "aud", "iat", "jti", "events"] {
            assert_eq!(read(&claims(|claims| drop(claims.remove(missing)))), None, "{missing}");
        }
        for accepted in [
            set("aud", json!(["another", "pilothouse"])),
            set("iat", json!(NOW + 60)),
            set("iat", json!(NOW - 120)),
            set("exp", json!(NOW - 59)),
        ] {
            assert!(read(&accepted).is_some(), "{accepted:?}");
        }
    }
}
