//! Why an image cannot be pulled.

use crate::diagnosis::Variant;

/// Phrases of container runtimes (containerd, CRI-O, dockerd) and registries by variant, in lower case. The first variant
/// with a phrase in the text applies: a registry that limits pulls may answer 401 or 403, too, and one that
/// refuses access may answer that the image does not exist.
const PHRASES: [(Variant, &[&str]); 4] = [
    (Variant::Rate, &["429 too many requests", "toomanyrequests", "too many requests", "rate limit"]),
    (
        Variant::Auth,
        &[
            "401 unauthorized",
            "403 forbidden",
            "unauthorized:",
            "unauthorized to access",
            "authentication required",
            "authorization failed",
            "failed to authorize",
            "failed to fetch anonymous token",
            "failed to fetch oauth token",
            "insufficient_scope",
            "access denied",
            "resource is denied",
            "no basic auth credentials",
            "denied: ",
            "may not login",
            "invalid username/password",
        ],
    ),
    (
        Variant::NotFound,
        &[
            "404 not found",
            "manifest unknown",
            "name unknown",
            "not found",
            "no match for platform",
            "repository does not exist",
            "image not known",
        ],
    ),
    (
        Variant::Unreachable,
        &[
            "no such host",
            "dial tcp",
            "i/o timeout",
            "connection refused",
            "connection reset",
            "network is unreachable",
            "no route to host",
            "deadline exceeded",
            "request canceled",
            "tls handshake timeout",
            "x509:",
            "http response to https client",
            "proxyconnect",
            "unexpected eof",
            ": eof",
            "500 internal server error",
            "502 bad gateway",
            "503 service unavailable",
            "504 gateway time",
            "server misbehaving",
            "registry is unavailable",
        ],
    ),
];

/// Why an image cannot be pulled, by the reason of the waiting container and a message of the container runtime.
pub fn image_pull(reason: &str, message: &str) -> Option<Variant> {
    if reason == "InvalidImageName" || message.contains("invalid reference format") {
        return Some(Variant::BadName);
    }
    let message = message.to_lowercase();
    // a failed request for a token is no answer of the registry that refuses access
    let is_unreachable =
        ["no such host", "dial tcp", "i/o timeout", "x509:"].iter().any(|phrase| message.contains(phrase));
    if is_unreachable {
        return Some(Variant::Unreachable);
    }
    PHRASES
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| message.contains(phrase)))
        .map(|(variant, _)| *variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_follows_from_the_message_of_the_runtime() {
        use Variant as V;
        let cases = [
            (
                "ErrImagePull",
                "failed to do request: Head \"https://a/v2/\": dial tcp: lookup a: no such host",
                V::Unreachable,
            ),
            (
                "ErrImagePull",
                "failed to authorize: failed to fetch anonymous token: Get \"https://a\": dial tcp 1.2.3.4:443: i/o timeout",
                V::Unreachable,
            ),
            (
                "ErrImagePull",
                "pinging container registry a: Get \"https://a/v2/\": http: server gave HTTP response to HTTPS client",
                V::Unreachable,
            ),
            ("ErrImagePull", "unexpected status code [manifests 1]: 401 Unauthorized", V::Auth),
            (
                "ErrImagePull",
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                V::Auth,
            ),
            ("ErrImagePull", "denied: You may not login yet", V::Auth),
            ("ErrImagePull", "failed to resolve reference \"a/b:1\": a/b:1: not found", V::NotFound),
            ("ErrImagePull", "manifest for a:1 not found: manifest unknown: manifest unknown", V::NotFound),
            ("ErrImagePull", "unexpected status code [manifests 1]: 429 Too Many Requests", V::Rate),
            (
                "ErrImagePull",
                "toomanyrequests: You have reached your unauthenticated pull rate limit.",
                V::Rate,
            ),
            ("InvalidImageName", "", V::BadName),
            ("ErrImagePull", "couldn't parse image name \"::\": invalid reference format", V::BadName),
        ];
        for (reason, message, expected) in cases {
            assert_eq!(image_pull(reason, message), Some(expected), "{message}");
        }
        assert_eq!(image_pull("ImagePullBackOff", "Back-off pulling image \"a:1\""), None);
    }
}
