//! OpenID provider: the npm package `oidc-provider` in Node.js (`tests/identity/provider.mjs`).

use std::{
    collections::BTreeMap, fs, os::unix::fs::symlink, path::PathBuf, process::Command, time::Duration,
};

use reqwest::{Certificate, Client};
use serde_json::{Value, json};

use super::{CLIENT_ID, CLIENT_SECRET, OidcServer, USERS, or_skip, parts, password_of, process::Process};
use crate::{
    ServingCertificate,
    certificates::Authority,
    error::{Error, Result, io},
    folder::Folder,
    ports::Port,
};

const PROGRAM: &str = include_str!("../../../../tests/identity/provider.mjs");
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// An OpenID provider that starts in seconds. It issues refresh tokens and puts `preferred_username`, `groups`, `sid` and
/// `auth_time` into ID tokens, with the scopes `openid profile`.
pub struct OidcProvider {
    process: Process,
    /// Environment variables of Node.js.
    environment: BTreeMap<String, String>,
    client: Client,
    port: Port,
    folder: Folder,
}

impl OidcProvider {
    /// Starts a provider for the Pilothouse server at `public_url`, in whose settings the provider has this id, with more
    /// environment variables for Node.js.
    ///
    /// # Errors
    /// [`Error::IdentityUnavailable`] names what is missing on this machine.
    pub fn start_new(public_url: &str, id: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let (modules, folder, port) = (parts::oidc_provider()?, Folder::create()?, Port::claim()?);
        let file = |name: &str| folder.path().join(name);
        let authority = Authority::new("pilothouse-testbed")?;
        let pair = authority.serving(ServingCertificate::Valid)?;
        for (name, text) in [
            ("ca.crt", &authority.pem()[..]),
            ("server.crt", &pair.certificate),
            ("server.key", &pair.key),
            ("provider.mjs", PROGRAM),
        ] {
            fs::write(file(name), text).map_err(io(format!("writing {name}")))?;
        }
        symlink(modules.join("node_modules"), file("node_modules"))
            .map_err(io("linking the modules of Node.js"))?;
        let users = USERS.map(|(user, groups)| {
            (user.to_owned(), json!({"password": password_of(user), "groups": groups}))
        });
        let settings = json!({
            "port": port.number(), "key": file("server.key"), "certificate": file("server.crt"),
            "public_url": public_url, "id": id, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "users": Value::from_iter(users),
        });
        let mut environment: BTreeMap<_, _> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment.insert("PROVIDER".into(), settings.to_string());
        let provider = Self {
            process: Process::new("provider", &folder),
            environment,
            client: client(&authority.pem())?,
            port,
            folder,
        };
        provider.start()?;
        Ok(provider)
    }

    /// As [`start_new`](Self::start_new), but if this machine cannot run the provider, prints a message and returns
    /// `None`, so that the test can be skipped. With `PILOTHOUSE_TEST_REQUIRE_IDENTITY` set, that is an error.
    pub fn start_or_skip(public_url: &str, id: &str, environment: &[(&str, &str)]) -> Result<Option<Self>> {
        or_skip(Self::start_new(public_url, id, environment))
    }

    /// All tokens that Pilothouse received since the last start: access, ID and refresh tokens.
    pub async fn issued_tokens(&self) -> Result<Vec<String>> {
        let tokens = self.control(json!({"action": "issued"})).await?;
        let tokens = tokens.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(tokens.map(str::to_owned).collect())
    }

    async fn control(&self, body: Value) -> Result<Value> {
        let url = format!("{}/control", self.issuer());
        let (method, path) = ("POST".to_owned(), "/control".to_owned());
        let result = async {
            let response = self.client.post(&url).json(&body).send().await?;
            Ok((response.status().as_u16(), response.text().await?))
        };
        match result.await {
            Ok((200, text)) => Ok(serde_json::from_str(&text).unwrap_or_default()),
            Ok((code, message)) => Err(Error::Status { method, path, code, message }),
            Err(source) => Err(Error::NoAnswer { method, path, source }),
        }
    }
}

impl OidcServer for OidcProvider {
    fn issuer(&self) -> String {
        format!("https://127.0.0.1:{}", self.port.number())
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    async fn end_sessions(&self, user: &str) -> Result<()> {
        self.control(json!({"action": "end", "user": user})).await.map(drop)
    }

    async fn leave_group(&self, user: &str, group: &str) -> Result<()> {
        self.control(json!({"action": "leave", "user": user, "group": group})).await.map(drop)
    }

    async fn remove_user(&self, user: &str) -> Result<()> {
        self.control(json!({"action": "remove", "user": user})).await.map(drop)
    }

    fn stop(&self) {
        self.process.stop();
    }

    fn start(&self) -> Result<()> {
        let mut command = Command::new("node");
        command.arg("provider.mjs").envs(&self.environment).current_dir(self.folder.path());
        self.process.start(&mut command, "provider listens", START_TIMEOUT)
    }
}

/// An HTTP client that trusts only this authority.
pub(super) fn client(ca_pem: &str) -> Result<Client> {
    let failed = |error| Error::Program(format!("creating the HTTP client: {error}"));
    let authority = Certificate::from_pem(ca_pem.as_bytes()).map_err(failed)?;
    Client::builder().no_proxy().tls_certs_only([authority]).build().map_err(failed)
}
