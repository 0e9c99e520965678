//! Kubeconfig parser. Takes only the server, the CA and one token or client certificate of one context. Fields that
//! run a command, read a file or connect elsewhere are refused with an error that names them, never ignored.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_saphyr::{Options, options::MergeKeyPolicy};

use crate::{
    connection::{ApiServer, Connection, Credential, check_pem, check_token},
    error::{Error, FieldError, Reason, Result},
};

/// Maximum size of a kubeconfig, in bytes.
const MAX_KUBECONFIG_BYTES: usize = 256 << 10;
/// Maximum number of scalars, lists and maps. A cluster with its user and context has about fifteen.
const MAX_NODES: usize = 20_000;
/// Maximum nesting depth. `exec` in a user has a depth of six.
const MAX_DEPTH: usize = 32;

/// YAML parser options. No kubeconfig needs anchors, aliases or merge keys, and a few of them make a small text
/// expensive to parse.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_inclusion_depth: 0,
        },
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
    }
}

/// The fields read from a kubeconfig (`k8s.io/client-go/tools/clientcmd/api/v1.Config`).
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Kubeconfig {
    current_context: Option<String>,
    clusters: Option<Vec<NamedCluster>>,
    users: Option<Vec<NamedUser>>,
    contexts: Option<Vec<NamedContext>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Option<ClusterEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: Option<UserEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Option<ContextEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContextEntry {
    cluster: String,
    user: String,
}

/// A field of which only the presence matters.
type Presence = Option<serde::de::IgnoredAny>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ClusterEntry {
    server: Option<String>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    certificate_authority: Presence,
    proxy_url: Presence,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UserEntry {
    token: Option<SecretString>,
    client_certificate_data: Option<String>,
    client_key_data: Option<SecretString>,
    #[serde(rename = "tokenFile")]
    token_file: Presence,
    client_certificate: Presence,
    client_key: Presence,
    exec: Presence,
    auth_provider: Presence,
    username: Presence,
    password: Presence,
    #[serde(rename = "as")]
    impersonate: Presence,
    as_uid: Presence,
    as_groups: Presence,
    as_user_extra: Presence,
}

impl Kubeconfig {
    /// Parses the connection of one context: the named one, else the current one. `server` replaces the context's
    /// server.
    ///
    /// # Errors
    /// `InvalidInput`, naming each refused field by its path in the file, such as `kubeconfig.users[0].user.exec`.
    pub fn connection(text: &str, context: Option<&str>, server: Option<ApiServer>) -> Result<Connection> {
        Self::check_shape(text, context)?;
        // the parser's message quotes the text, which contains secrets
        let config: Self = serde_saphyr::from_str_with_options(text, options())
            .map_err(|_| Error::invalid("kubeconfig", Reason::Malformed))?;
        config.select_context(context, server)
    }

    /// Checks a kubeconfig without parsing it: it must be neither empty nor too long.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(crate) fn check_shape(text: &str, context: Option<&str>) -> Result<()> {
        if text.len() > MAX_KUBECONFIG_BYTES {
            return Err(Error::invalid("kubeconfig", Reason::TooLong));
        }
        if text.trim().is_empty() {
            return Err(Error::invalid("kubeconfig", Reason::Required));
        }
        if context.is_some_and(str::is_empty) {
            return Err(Error::invalid("context", Reason::Required));
        }
        Ok(())
    }

    fn select_context(self, requested: Option<&str>, server: Option<ApiServer>) -> Result<Connection> {
        let refuse = |field: &str, reason| Err(Error::invalid(field, reason));
        let named = requested.map(str::to_owned).or(self.current_context);
        let Some(name) = named.filter(|name| !name.is_empty()) else {
            return refuse("kubeconfig.current-context", Reason::Required);
        };
        let contexts = self.contexts.unwrap_or_default();
        let Some(at) = contexts.iter().position(|entry| entry.name == name) else {
            return refuse(
                if requested.is_some() { "context" } else { "kubeconfig.current-context" },
                Reason::NotOneOf,
            );
        };
        let context = contexts.into_iter().nth(at).and_then(|entry| entry.context).unwrap_or_default();
        let context_path = format!("kubeconfig.contexts[{at}].context");
        for (field, value) in [("cluster", &context.cluster), ("user", &context.user)] {
            if value.is_empty() {
                return refuse(&format!("{context_path}.{field}"), Reason::Required);
            }
        }
        let clusters = self.clusters.unwrap_or_default();
        let Some(at) = clusters.iter().position(|entry| entry.name == context.cluster) else {
            return refuse(&format!("{context_path}.cluster"), Reason::NotOneOf);
        };
        let cluster = clusters.into_iter().nth(at).and_then(|entry| entry.cluster).unwrap_or_default();
        let cluster_path = format!("kubeconfig.clusters[{at}].cluster");
        let users = self.users.unwrap_or_default();
        let Some(at) = users.iter().position(|entry| entry.name == context.user) else {
            return refuse(&format!("{context_path}.user"), Reason::NotOneOf);
        };
        let user = users.into_iter().nth(at).and_then(|entry| entry.user).unwrap_or_default();
        let user_path = format!("kubeconfig.users[{at}].user");

        let unsupported: Vec<_> =
            cluster.unsupported(&cluster_path).chain(user.unsupported(&user_path)).collect();
        if !unsupported.is_empty() {
            return Err(Error::fields(unsupported));
        }
        let server = match server.map(Ok).or_else(|| cluster.server.as_deref().map(ApiServer::new)) {
            Some(Ok(server)) => server,
            Some(Err(reason)) => return refuse(&format!("{cluster_path}.server"), reason),
            None => return refuse(&format!("{cluster_path}.server"), Reason::Required),
        };
        let ca = cluster.certificate_authority_data.filter(|data| !data.is_empty());
        let ca_path = format!("{cluster_path}.certificate-authority-data");
        Ok(Connection {
            server,
            ca: ca.map(|data| check_pem(&ca_path, decode(&ca_path, &data)?)).transpose()?,
            tls_server_name: cluster.tls_server_name.filter(|name| !name.is_empty()),
            insecure_skip_tls_verify: cluster.insecure_skip_tls_verify.unwrap_or(false),
            credential: user.credential(&user_path)?,
        })
    }
}

/// The fields of `pairs` that are present, as `NotSupported` errors.
fn unsupported_fields<'a>(
    path: &'a str,
    pairs: Vec<(&'static str, &'a Presence)>,
) -> impl Iterator<Item = FieldError> + 'a {
    let refuse = move |(name, _)| FieldError { name: format!("{path}.{name}"), reason: Reason::NotSupported };
    pairs.into_iter().filter(|(_, value)| value.is_some()).map(refuse)
}

impl ClusterEntry {
    fn unsupported<'a>(&'a self, path: &'a str) -> impl Iterator<Item = FieldError> + 'a {
        unsupported_fields(
            path,
            vec![("certificate-authority", &self.certificate_authority), ("proxy-url", &self.proxy_url)],
        )
    }
}

impl UserEntry {
    fn unsupported<'a>(&'a self, path: &'a str) -> impl Iterator<Item = FieldError> + 'a {
        let pairs = vec![
            ("exec", &self.exec),
            ("auth-provider", &self.auth_provider),
            ("tokenFile", &self.token_file),
            ("client-certificate", &self.client_certificate),
            ("client-key", &self.client_key),
            ("username", &self.username),
            ("password", &self.password),
            ("as", &self.impersonate),
            ("as-uid", &self.as_uid),
            ("as-groups", &self.as_groups),
            ("as-user-extra", &self.as_user_extra),
        ];
        unsupported_fields(path, pairs)
    }

    /// Returns the token, or the client certificate if there is no token. The precedence is that of client-go.
    fn credential(self, path: &str) -> Result<Credential> {
        let token_path = format!("{path}.token");
        if let Some(token) = self.token.filter(|token| !token.expose_secret().is_empty()) {
            return Ok(Credential::Token(check_token(&token_path, &token)?));
        }
        let [chain_path, key_path] =
            ["client-certificate-data", "client-key-data"].map(|name| format!("{path}.{name}"));
        match (self.client_certificate_data, self.client_key_data) {
            (Some(chain), Some(key)) => Ok(Credential::Certificate {
                chain: check_pem(&chain_path, decode(&chain_path, &chain)?)?,
                key: decode(&key_path, key.expose_secret())?.into(),
            }),
            (Some(_), None) => Err(Error::invalid(key_path, Reason::Required)),
            (None, Some(_)) => Err(Error::invalid(chain_path, Reason::Required)),
            (None, None) => Err(Error::invalid(token_path, Reason::Required)),
        }
    }
}

/// Decodes the base64 text of a `*-data` field, which contains PEM.
fn decode(path: &str, data: &str) -> Result<String> {
    let bytes = BASE64.decode(data.trim()).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::invalid(path, Reason::Malformed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CA: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u, namespace: x}}}}, {{name: nobody, context: {{cluster: k}}}}]\n\
             clusters: [{{name: other, cluster: {{server: 'https://o', proxy-url: x}}}}, {{name: k, cluster: {{{cluster}}}}}]\n\
             users: [{{name: other, user: {{exec: {{command: x}}}}}}, {{name: u, user: {{{user}}}}}]\n"
        )
    }

    fn refusal(text: &str, context: Option<&str>) -> Vec<(String, &'static str)> {
        let error = Kubeconfig::connection(text, context, None).expect_err("an error");
        error.context.fields.into_iter().map(|field| (field.name, field.reason.as_str())).collect()
    }

    #[test]
    fn reads_server_ca_and_credential_of_selected_context_only() {
        let ca = BASE64.encode(CA);
        let connection = Kubeconfig::connection(
            &config(
                &format!("server: 'https://k:6443/', certificate-authority-data: {ca}, tls-server-name: n"),
                "token: t",
            ),
            None,
            None,
        )
        .unwrap();
        assert_eq!(connection.server.as_str(), "https://k:6443");
        assert_eq!((connection.ca.as_deref(), connection.tls_server_name.as_deref()), (Some(CA), Some("n")));
        assert!(matches!(connection.credential, Credential::Token(token) if token.expose_secret() == "t"));

        let pair = format!("client-certificate-data: {ca}, client-key-data: {}", BASE64.encode("key"));
        let connection =
            Kubeconfig::connection(&config("server: 'https://k'", &pair), Some("c"), None).unwrap();
        assert!(
            matches!(connection.credential, Credential::Certificate { chain, key } if chain == CA && key.expose_secret() == "key")
        );
    }

    #[test]
    fn server_argument_replaces_any_server_of_the_context() {
        let other = || Some(ApiServer::new("https://other:6443").unwrap());
        for server in ["server: 'https://k'", "server: 'http://k'", "tls-server-name: n"] {
            let connection = Kubeconfig::connection(&config(server, "token: t"), None, other()).unwrap();
            assert_eq!(connection.server.as_str(), "https://other:6443", "{server}");
        }
    }

    #[test]
    fn fields_that_run_commands_read_files_or_connect_elsewhere_are_refused() {
        for field in [
            "exec: {command: sh}",
            "auth-provider: {name: gcp}",
            "tokenFile: /etc/passwd",
            "client-certificate: /a",
            "client-key: /a",
            "username: u",
            "password: p",
            "as: root",
            "as-uid: '0'",
            "as-groups: [g]",
            "as-user-extra: {a: [b]}",
        ] {
            let name = field.split(':').next().unwrap();
            let expected = [(format!("kubeconfig.users[1].user.{name}"), "not_supported")];
            assert_eq!(
                refusal(&config("server: 'https://k'", &format!("token: t, {field}")), None),
                expected
            );
        }
        for field in ["certificate-authority: /a", "proxy-url: 'http://p'"] {
            let name = field.split(':').next().unwrap();
            let expected = [(format!("kubeconfig.clusters[1].cluster.{name}"), "not_supported")];
            assert_eq!(
                refusal(&config(&format!("server: 'https://k', {field}"), "token: t"), None),
                expected
            );
        }
    }

    #[test]
    fn incomplete_kubeconfigs_are_refused_by_field() {
        let cases = [
            ("{}".to_owned(), None, "kubeconfig.current-context", "required"),
            (" \n".to_owned(), None, "kubeconfig", "required"),
            ("{}".to_owned(), Some(""), "context", "required"),
            ("[".to_owned(), None, "kubeconfig", "malformed"),
            ("x: y: z".to_owned(), None, "kubeconfig", "malformed"),
            ("a".repeat(MAX_KUBECONFIG_BYTES + 1), None, "kubeconfig", "too_long"),
            (config("server: 'https://k'", "token: t"), Some("no"), "context", "not_one_of"),
            (
                config("server: 'https://k'", "token: t"),
                Some("nobody"),
                "kubeconfig.contexts[1].context.user",
                "required",
            ),
            (
                config("server: 'http://k'", "token: t"),
                None,
                "kubeconfig.clusters[1].cluster.server",
                "malformed",
            ),
            (config("", "token: t"), None, "kubeconfig.clusters[1].cluster.server", "required"),
            (config("server: 'https://k'", ""), None, "kubeconfig.users[1].user.token", "required"),
            (
                config("server: 'https://k'", "client-key-data: a"),
                None,
                "kubeconfig.users[1].user.client-certificate-data",
                "required",
            ),
            (
                config("server: 'https://k', certificate-authority-data: '!'", "token: t"),
                None,
                "kubeconfig.clusters[1].cluster.certificate-authority-data",
                "malformed",
            ),
        ];
        for (text, context, field, reason) in cases {
            assert_eq!(refusal(&text, context), [(field.to_owned(), reason)]);
        }
    }

    #[test]
    fn nested_aliases_are_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..10 {
            let aliases = vec![format!("*a{}", i - 1); 9].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        assert_eq!(refusal(&bomb, None), [("kubeconfig".to_owned(), "malformed")]);
    }

    /// The parser refuses an anchor, alias or merge key when it reads it, so the work is bounded by the length of the
    /// text, not by its expansion.
    #[test]
    fn anchors_aliases_and_merge_keys_are_refused() {
        let valid = config("server: 'https://k'", "token: t");
        let connection = |text: &str| Kubeconfig::connection(text, None, None).map(drop);
        assert_eq!(connection(&valid), Ok(()));
        let mut merged = "m0: &m0 {k: v}\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*m{}", level - 1); 100].join(", ");
            merged.push_str(&format!("m{level}: &m{level}\n  <<: [{aliases}]\n"));
        }
        let cases = [
            format!("extra: &a 1\n{valid}"),
            format!("extra: &a [1]\nother: *a\n{valid}"),
            format!("extra: {{<<: {{a: 1}}}}\n{valid}"),
            format!("extra: {{!!merge <<: {{a: 1}}}}\n{valid}"),
            format!("<<: {{current-context: c}}\n{valid}"),
            format!("{merged}{valid}"),
            format!("{valid}---\n{valid}"),
        ];
        for text in cases {
            let expected = Err(Error::invalid("kubeconfig", Reason::Malformed));
            assert_eq!(connection(&text), expected, "{}", &text[..60]);
        }
    }

    #[test]
    fn kubeconfig_nodes_and_depth_are_limited() {
        let valid = config("server: 'https://k'", "token: t");
        let malformed = Err(Error::invalid("kubeconfig", Reason::Malformed));
        let with = |extra: String| Kubeconfig::connection(&format!("extra: {extra}\n{valid}"), None, None);
        let list = |n: usize| format!("[{}]", vec!["x"; n].join(","));
        assert!(with(list(MAX_NODES - 100)).is_ok());
        assert_eq!(with(list(MAX_NODES)).map(drop), malformed);
        let deep = |n: usize| format!("{}x{}", "[".repeat(n), "]".repeat(n));
        assert!(with(deep(MAX_DEPTH - 2)).is_ok());
        assert_eq!(with(deep(MAX_DEPTH + 1)).map(drop), malformed);
        let block = |n: usize| (1..n).map(|n| format!("\n{}a:", " ".repeat(n))).collect::<String>();
        assert!(with(block(MAX_DEPTH - 2)).is_ok());
        assert_eq!(with(block(MAX_DEPTH + 2)).map(drop), malformed);
    }

    proptest! {
        #[test]
        fn arbitrary_text_neither_panics_nor_is_quoted(text in "\\PC{0,200}") {
            if let Err(error) = Kubeconfig::connection(&format!("users: canary-{text}"), None, None) {
                prop_assert!(!error.to_string().contains("canary"));
            }
        }
    }
}
