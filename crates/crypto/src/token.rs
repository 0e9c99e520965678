//! Access tokens: JWT with HS256 as the only algorithm, signed with a key derived from the master key.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use pilothouse_core::{
    Cause, Error, Result,
    ids::{SessionId, UserId},
    session::{Claims, SecretHash, TokenCodec},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{MasterKey, key::hex, purpose, refresh::RefreshTokens};

const ALGORITHM: Algorithm = Algorithm::HS256;
const ISSUER: &str = "pilothouse";

/// Maximum clock skew: how far ahead the clock of the issuing replica may be. The clocks of replicas agree within a
/// few seconds.
const CLOCK_LEEWAY: Duration = Duration::from_secs(5);

/// Maximum length of a token, in bytes. Issued tokens have about 400.
const MAX_TOKEN_BYTES: usize = 4096;

/// Signs and verifies the tokens of this installation.
pub struct JwtCodec {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    /// Id of this installation. A token with another audience is invalid.
    audience: String,
    refresh: RefreshTokens,
}

impl fmt::Debug for JwtCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtCodec(…)")
    }
}

/// The claims in a token. All are required. Times are in whole seconds since 1970.
#[derive(Serialize, Deserialize)]
struct Body {
    iss: String,
    aud: String,
    sub: String,
    sid: SessionId,
    r#gen: i64,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

impl JwtCodec {
    /// Creates a codec with `key`.
    pub fn new(key: &MasterKey) -> Self {
        let secret = key.derive(purpose::ACCESS_TOKENS);
        let audience = hex(&key.derive(purpose::INSTALL)[..16]);
        let mut validation = Validation::new(ALGORITHM);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "nbf", "exp"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[&audience]);
        // the library uses the system clock, but the time is an argument here, so `verify` checks these claims
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            signing: EncodingKey::from_secret(&*secret),
            verifying: DecodingKey::from_secret(&*secret),
            validation,
            audience,
            refresh: RefreshTokens::new(key),
        }
    }

    /// Parses a token that this installation signed. Returns its claims and its `nbf`.
    fn read(&self, token: &str) -> Option<(Claims, Timestamp)> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let body = jsonwebtoken::decode::<Body>(token, &self.verifying, &self.validation).ok()?.claims;
        let time = |seconds| Timestamp::from_second(seconds).ok();
        let claims = Claims {
            user_id: UserId(body.sub.parse().ok()?),
            session_id: body.sid,
            generation: body.r#gen,
            issued_at: time(body.iat)?,
            expires_at: time(body.exp)?,
        };
        Some((claims, time(body.nbf)?))
    }
}

impl TokenCodec for JwtCodec {
    fn sign(&self, claims: &Claims) -> Result<SecretString> {
        let issued_at = claims.issued_at.as_second();
        let body = Body {
            iss: ISSUER.to_owned(),
            aud: self.audience.clone(),
            sub: claims.user_id.to_string(),
            sid: claims.session_id,
            r#gen: claims.generation,
            // one access token per generation, also if several replicas issue it
            jti: format!("{}.{}", claims.session_id, claims.generation),
            iat: issued_at,
            nbf: issued_at,
            exp: claims.expires_at.as_second(),
        };
        jsonwebtoken::encode(&Header::new(ALGORITHM), &body, &self.signing)
            .map(SecretString::from)
            .map_err(|error| Error::internal(format!("signing a token: {error}")))
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Cause> {
        let (claims, not_before) = self.read(token).ok_or(Cause::TokenInvalid)?;
        if now + CLOCK_LEEWAY < not_before {
            Err(Cause::TokenInvalid)
        } else if now >= claims.expires_at {
            Err(Cause::TokenExpired)
        } else {
            Ok(claims)
        }
    }

    fn refresh_token(&self, cookie: SecretHash, generation: i64) -> SecretString {
        self.refresh.token(cookie, generation)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    use super::*;
    use crate::SystemRng;

    const ISSUED: i64 = 1_800_000_000;

    fn codec() -> JwtCodec {
        let directory = tempfile::tempdir().unwrap();
        let key = MasterKey::create(&directory.path().join("master.key"), &SystemRng).unwrap();
        JwtCodec::new(&key)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(ISSUED + seconds).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            user_id: UserId(7),
            session_id: SessionId(9),
            generation: 3,
            issued_at: at(0),
            expires_at: at(600),
        }
    }

    /// The body of a valid token, for changes.
    fn body(codec: &JwtCodec) -> Value {
        let token = codec.sign(&claims()).unwrap();
        let part = token.expose_secret().split('.').nth(1).unwrap().to_owned();
        serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
    }

    fn signed(codec: &JwtCodec, algorithm: Algorithm, body: &Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), body, &codec.signing).unwrap()
    }

    #[test]
    fn token_verifies_until_it_expires() {
        let codec = codec();
        let token = codec.sign(&claims()).unwrap();
        let verify = |seconds| codec.verify(token.expose_secret(), at(seconds));
        assert_eq!(verify(0), Ok(claims()));
        assert_eq!(verify(599), Ok(claims()));
        assert_eq!(verify(600), Err(Cause::TokenExpired));
        assert_eq!(verify(-5), Ok(claims()), "issued by a replica whose clock is ahead");
        assert_eq!(verify(-6), Err(Cause::TokenInvalid), "before nbf");
        let again = codec.sign(&claims()).unwrap();
        assert_eq!(token.expose_secret(), again.expose_secret(), "the same claims at another replica");
        let next = codec.sign(&Claims { generation: 4, ..claims() }).unwrap();
        assert_ne!(token.expose_secret(), next.expose_secret());
    }

    #[test]
    fn token_of_another_installation_is_invalid() {
        let token = codec().sign(&claims()).unwrap();
        assert_eq!(codec().verify(token.expose_secret(), at(1)), Err(Cause::TokenInvalid));
    }

    #[test]
    fn every_claim_is_required_with_its_type_and_value() {
        let codec = codec();
        let good = body(&codec);
        assert!(codec.verify(&signed(&codec, ALGORITHM, &good), at(1)).is_ok());
        for name in ["iss", "aud", "sub", "sid", "gen", "jti", "iat", "nbf", "exp"] {
            let mut changed = good.clone();
            changed.as_object_mut().unwrap().remove(name);
            let token = signed(&codec, ALGORITHM, &changed);
            assert_eq!(codec.verify(&token, at(1)), Err(Cause::TokenInvalid), "without {name}");
        }
        let exp = good["exp"].as_i64().unwrap();
        let changed = [
            ("iss", json!("someone")),
            ("aud", json!("someone")),
            ("aud", json!([good["aud"], "someone"])),
            ("sub", json!(7)),
            ("sub", json!("seven")),
            ("sid", json!("9")),
            ("gen", json!(1.5)),
            ("exp", json!(exp.to_string())),
            ("exp", json!(null)),
            ("exp", json!(i64::MAX)),
            ("exp", json!(1e300)),
            ("nbf", json!(ISSUED + 7)),
            ("nbf", json!("0")),
            ("iat", json!("0")),
        ];
        for (name, value) in changed {
            let mut body = good.clone();
            body[name] = value;
            let token = signed(&codec, ALGORITHM, &body);
            assert_eq!(codec.verify(&token, at(1)), Err(Cause::TokenInvalid), "{name}: {}", body[name]);
        }
    }

    #[test]
    fn only_one_algorithm_is_accepted() {
        let codec = codec();
        let body = body(&codec);
        for other in [Algorithm::HS384, Algorithm::HS512] {
            assert_eq!(
                codec.verify(&signed(&codec, other, &body), at(1)),
                Err(Cause::TokenInvalid),
                "{other:?}"
            );
        }
        let good = signed(&codec, ALGORITHM, &body);
        let [_, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
        for header in
            [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, r#"{"alg":"EdDSA"}"#, r#"{"typ":"JWT"}"#]
        {
            let header = BASE64.encode(header);
            for signature in [signature, ""] {
                let token = format!("{header}.{payload}.{signature}");
                assert_eq!(codec.verify(&token, at(1)), Err(Cause::TokenInvalid), "{token}");
            }
        }
    }

    /// A token with this header and body, signed with the codec's key.
    fn raw(codec: &JwtCodec, header: &str, body: &str) -> String {
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(body));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &codec.signing, ALGORITHM).unwrap();
        format!("{signed}.{signature}")
    }

    /// All tokens are verified with the key of this installation. Headers that name or contain a key are ignored.
    #[test]
    fn jwt_header_cannot_select_key() {
        let (codec, other) = (codec(), codec());
        let body = body(&codec).to_string();
        let attacker = jwk_of(&other);
        for header in [
            json!({"alg": "HS256", "kid": "0"}),
            json!({"alg": "HS256", "kid": "../../../../dev/null"}),
            json!({"alg": "HS256", "kid": "' UNION SELECT 'key"}),
            json!({"alg": "HS256", "jku": "https://attacker.example.com/keys"}),
            json!({"alg": "HS256", "x5u": "https://attacker.example.com/chain"}),
            json!({"alg": "HS256", "jwk": attacker}),
            json!({"alg": "HS256", "x5c": ["MIIB"]}),
        ] {
            let forged = raw(&other, &header.to_string(), &body);
            assert_eq!(codec.verify(&forged, at(1)), Err(Cause::TokenInvalid), "{header}");
        }
        // an empty key, and well-known example secrets
        for secret in [&b""[..], b"secret", b"your-256-bit-secret", b"pilothouse", b"\0"] {
            let token = jsonwebtoken::encode(
                &Header::new(ALGORITHM),
                &serde_json::from_str::<Value>(&body).unwrap(),
                &EncodingKey::from_secret(secret),
            );
            assert_eq!(codec.verify(&token.unwrap(), at(1)), Err(Cause::TokenInvalid), "{secret:?}");
        }
    }

    /// The other codec's key as an attacker would embed it.
    fn jwk_of(other: &JwtCodec) -> Value {
        json!({"kty": "oct", "k": BASE64.encode(&other.audience), "alg": "HS256"})
    }

    /// Algorithm confusion: an attacker signs tokens with values that are public.
    #[test]
    fn checkpoint_public_key_cannot_sign_tokens() {
        use pilothouse_core::audit::CheckpointSigner as _;
        let directory = tempfile::tempdir().unwrap();
        let key = MasterKey::create(&directory.path().join("master.key"), &SystemRng).unwrap();
        let codec = JwtCodec::new(&key);
        let public = crate::Ed25519Signer::new(&key).public_key();
        let body = body(&codec);
        for secret in [public.0.to_vec(), hex(&public.0).into_bytes(), codec.audience.clone().into_bytes()] {
            let token =
                jsonwebtoken::encode(&Header::new(ALGORITHM), &body, &EncodingKey::from_secret(&secret));
            assert_eq!(codec.verify(&token.unwrap(), at(1)), Err(Cause::TokenInvalid));
        }
    }

    /// A correctly signed token is refused if two parsers could read it differently.
    #[test]
    fn ambiguous_token_is_refused() {
        let codec = codec();
        let good = body(&codec).to_string();
        let header = r#"{"typ":"JWT","alg":"HS256"}"#;
        assert!(codec.verify(&raw(&codec, header, &good), at(1)).is_ok());
        let inside = &good[1..good.len() - 1];
        for duplicated in [
            format!("{{{inside},\"sub\":\"1\"}}"),
            format!("{{\"sid\":1,{inside}}}"),
            format!("{{{inside},\"exp\":9999999999}}"),
            format!("{{\"aud\":\"someone\",{inside}}}"),
        ] {
            assert_eq!(
                codec.verify(&raw(&codec, header, &duplicated), at(1)),
                Err(Cause::TokenInvalid),
                "{duplicated}"
            );
        }
        for body in ["", "null", "[]", "\"x\"", "{}", &format!("{good}{good}"), &format!("{good}x")] {
            assert_eq!(codec.verify(&raw(&codec, header, body), at(1)), Err(Cause::TokenInvalid), "{body}");
        }
        for header in [
            "",
            "{}",
            "null",
            r#"{"alg":"HS256""#,
            r#"{"alg":"HS512","alg":"HS256"}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS256 "}"#,
            r#"{"alg":"none"}"#,
            r#"{"alg":""}"#,
            r#"{"alg":null}"#,
        ] {
            assert_eq!(
                codec.verify(&raw(&codec, header, &good), at(1)),
                Err(Cause::TokenInvalid),
                "{header}"
            );
        }
        let padded = raw(&codec, header, &good).replace('.', "=.");
        let parts = raw(&codec, header, &good);
        let swapped: Vec<_> = parts.split('.').collect();
        let swapped = format!("{}.{}.{}", swapped[1], swapped[0], swapped[2]);
        for token in [padded, swapped, format!("{parts}.x.y"), parts.replace('.', "..")] {
            assert_eq!(codec.verify(&token, at(1)), Err(Cause::TokenInvalid), "{token}");
        }
    }

    #[test]
    fn changed_token_is_refused() {
        let codec = codec();
        let token = codec.sign(&claims()).unwrap();
        let token = token.expose_secret();
        for i in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(codec.verify(&changed, at(1)), Err(Cause::TokenInvalid), "byte {i}");
        }
        let long = format!("{token}{}", "A".repeat(MAX_TOKEN_BYTES));
        for other in
            ["", ".", "..", "...", "a.b.c", &token[1..], &format!("{token}."), &format!(" {token}"), &long]
        {
            assert_eq!(codec.verify(other, at(1)), Err(Cause::TokenInvalid), "{other:?}");
        }
    }

    #[test]
    fn token_longer_than_the_limit_is_refused() {
        let codec = codec();
        let mut body = body(&codec);
        body["extra"] = json!("x".repeat(MAX_TOKEN_BYTES));
        assert_eq!(codec.verify(&signed(&codec, ALGORITHM, &body), at(1)), Err(Cause::TokenInvalid));
    }
}
