//! Kubeconfigs: written for components and tests, read from `PILOTHOUSE_TEST_KUBECONFIG`.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;

use crate::{
    certificates::Pair,
    error::{Error, Result, io},
};

/// Credential for an API server.
#[derive(Clone)]
pub(crate) enum Credential {
    Token(String),
    Certificate(Pair),
}

/// Formats a kubeconfig with one context and embedded data.
pub(crate) fn write(server: &str, ca_pem: &str, credential: &Credential) -> String {
    let user = match credential {
        Credential::Token(token) => format!("token: {token}"),
        Credential::Certificate(pair) => format!(
            "client-certificate-data: {}\n    client-key-data: {}",
            BASE64.encode(&pair.certificate),
            BASE64.encode(&pair.key)
        ),
    };
    format!(
        "apiVersion: v1
kind: Config
current-context: testbed
clusters:
- name: testbed
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: testbed
  user:
    {user}
contexts:
- name: testbed
  context:
    cluster: testbed
    user: testbed
",
        ca = BASE64.encode(ca_pem),
    )
}

/// Server, certificate authority and credential of the current context of a kubeconfig.
pub(crate) struct Access {
    pub(crate) server: String,
    pub(crate) ca_pem: String,
    pub(crate) credential: Credential,
}

/// Reads a kubeconfig file in the form that a server accepts, without references to other files. If the kubeconfig
/// names files, returns a kubeconfig of the current context with the contents of these files; otherwise the text as it
/// is.
pub fn read_kubeconfig(file: &Path) -> Result<String> {
    const FILES: [&str; 3] = ["certificate-authority:", "client-certificate:", "client-key:"];
    let text = fs::read_to_string(file).map_err(io(format!("reading {}", file.display())))?;
    let names_file =
        |line: &str| FILES.iter().any(|key| line.trim_start_matches(['-', ' ']).starts_with(key));
    if !text.lines().any(names_file) {
        return Ok(text);
    }
    let access = read(file)?;
    Ok(write(&access.server, &access.ca_pem, &access.credential))
}

/// Reads the kubeconfig file of an existing cluster.
pub(crate) fn read(file: &Path) -> Result<Access> {
    let text = fs::read_to_string(file).map_err(io(format!("reading {}", file.display())))?;
    let config: Config = serde_saphyr::from_str(&text).map_err(|e| Error::Kubeconfig(e.to_string()))?;
    let missing = |what: &str| Error::Kubeconfig(format!("{} has no {what}", file.display()));
    // paths in a kubeconfig are relative to the directory of the kubeconfig
    let bytes = |data: Option<String>, path: Option<String>| match (data, path) {
        (Some(data), _) => BASE64
            .decode(data.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| Error::Kubeconfig("embedded data is not base64 of PEM".into()))
            .map(Some),
        (None, Some(path)) => {
            let path = file.parent().unwrap_or(Path::new("")).join(path);
            fs::read_to_string(&path).map_err(io(format!("reading {}", path.display()))).map(Some)
        }
        (None, None) => Ok(None),
    };

    let current = config.current_context.ok_or_else(|| missing("current-context"))?;
    let context = config.contexts.into_iter().find(|context| context.name == current);
    let context = context.ok_or_else(|| missing("context of the name in current-context"))?.context;
    let cluster = config.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.ok_or_else(|| missing("cluster for its context"))?.cluster;
    let user = config.users.into_iter().find(|user| user.name == context.user);
    let user = user.ok_or_else(|| missing("user for its context"))?.user;

    let ca_pem = bytes(cluster.certificate_authority_data, cluster.certificate_authority)?;
    let certificate = bytes(user.client_certificate_data, user.client_certificate)?;
    let key = bytes(user.client_key_data, user.client_key)?;
    let credential = match (user.token, certificate, key) {
        (Some(token), _, _) => Credential::Token(token),
        (None, Some(certificate), Some(key)) => Credential::Certificate(Pair { certificate, key }),
        _ => return Err(missing("token or client certificate (commands and passwords are not used)")),
    };
    Ok(Access {
        server: cluster.server.trim_end_matches('/').into(),
        ca_pem: ca_pem.ok_or_else(|| missing("certificate authority"))?,
        credential,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    current_context: Option<String>,
    contexts: Vec<NamedContext>,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
}
