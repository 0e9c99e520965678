//! Which Secret, ConfigMap or key a container lacks.

use super::between;

/// What a container needs and does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The Secret of this name.
    Secret(String),
    /// The ConfigMap of this name.
    ConfigMap(String),
    /// A key.
    Key {
        /// The key.
        key: String,
        /// `secret` or `configmap`.
        kind: &'static str,
        /// The name of the object; empty if the message does not name it.
        name: String,
    },
}

/// What is missing, by the message of a container that waits with `CreateContainerConfigError`
/// (`kubernetes/pkg/kubelet/kubelet_pods.go`) or of an event `FailedMount` (`pkg/volume`).
pub fn missing(message: &str) -> Option<Missing> {
    if let Some((_, rest)) = message.split_once("couldn't find key ") {
        let (key, rest) = rest.split_once(" in ")?;
        let (kind, object) = rest.split_once(' ')?;
        let kind = match kind {
            "Secret" => "secret",
            "ConfigMap" => "configmap",
            _ => return None,
        };
        let path = object.split_whitespace().next()?;
        let name = path.rsplit('/').next().unwrap_or(path);
        return Some(Missing::Key { key: key.to_owned(), kind, name: name.to_owned() });
    }
    for (mark, kind) in [
        ("references non-existent secret key: ", "secret"),
        ("references non-existent config key: ", "configmap"),
    ] {
        if let Some((_, key)) = message.split_once(mark) {
            let key = key.split_whitespace().next()?;
            return Some(Missing::Key { key: key.to_owned(), kind, name: String::new() });
        }
    }
    let named = |marks: [&str; 2]| marks.iter().find_map(|mark| between(message, mark, "\" not found"));
    let secret = named(["secret \"", "secrets \""]).map(|name| Missing::Secret(name.to_owned()));
    let config = || named(["configmap \"", "configmaps \""]).map(|name| Missing::ConfigMap(name.to_owned()));
    secret.or_else(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_object_or_key_follows_from_the_message() {
        let key = |key: &str, kind, name: &str| {
            Some(Missing::Key { key: key.to_owned(), kind, name: name.to_owned() })
        };
        let secret = |name: &str| Some(Missing::Secret(name.to_owned()));
        let config = |name: &str| Some(Missing::ConfigMap(name.to_owned()));
        for (message, expected) in [
            ("secret \"db\" not found", secret("db")),
            ("secrets \"db\" not found", secret("db")),
            ("configmap \"settings\" not found", config("settings")),
            (
                "MountVolume.SetUp failed for volume \"cfg\" : configmap \"settings\" not found",
                config("settings"),
            ),
            ("MountVolume.SetUp failed for volume \"keys\" : secret \"db\" not found", secret("db")),
            ("couldn't find key password in Secret shop/db", key("password", "secret", "db")),
            ("couldn't find key mode in ConfigMap shop/settings", key("mode", "configmap", "settings")),
            (
                "MountVolume.SetUp failed for volume \"keys\" : references non-existent secret key: tls.crt",
                key("tls.crt", "secret", ""),
            ),
            (
                "MountVolume.SetUp failed for volume \"cfg\" : references non-existent config key: a.ini",
                key("a.ini", "configmap", ""),
            ),
            ("container has runAsNonRoot and image will run as root", None),
            ("couldn't find key a in", None),
            ("secret \"\" not found", None),
        ] {
            assert_eq!(missing(message), expected, "{message}");
        }
    }
}
