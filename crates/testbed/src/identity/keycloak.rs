//! Keycloak, in Java, with the realm of `tests/identity/realm.json`.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use reqwest::{Client, Method};
use serde_json::Value;

use super::{
    CLIENT_ID, OidcServer,
    oidc_provider::client,
    or_skip, parts, password_of,
    process::{Process, run},
};
use crate::{
    ServingCertificate,
    certificates::Authority,
    error::{Error, Result, io},
    folder::Folder,
    ports::Port,
};

const REALM: &str = include_str!("../../../../tests/identity/realm.json");
const REALM_NAME: &str = "ops";
const ADMIN: &str = "keycloak-admin";
const ADMIN_PASSWORD: &str = "password-of-keycloaks-admin";
/// Keycloak compiles itself at its first start, which takes a minute of two processors.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// A Keycloak server in development mode, with its database in memory. Needs Java 17 and 560 MB of memory.
pub struct Keycloak {
    process: Process,
    client: Client,
    port: Port,
    folder: Folder,
}

impl Keycloak {
    /// Starts Keycloak for the Pilothouse server at `public_url`, in whose settings Keycloak has this id.
    ///
    /// # Errors
    /// [`Error::IdentityUnavailable`] names what is missing on this machine.
    pub fn start_new(public_url: &str, id: &str) -> Result<Self> {
        let (archive, folder, port) = (parts::keycloak()?, Folder::create()?, Port::claim()?);
        let authority = Authority::new("pilothouse-testbed")?;
        let keycloak = Self {
            process: Process::new("keycloak", &folder),
            client: client(&authority.pem())?,
            port,
            folder,
        };
        // each server has its own copy, because it changes the files
        run(Command::new("unzip").arg("-q").arg(&archive).arg("-d").arg(keycloak.folder.path()))?;
        let name = archive.file_stem().unwrap_or_default().to_string_lossy();
        let unpacked = name.replace("keycloak-quarkus-dist-", "keycloak-");
        fs::rename(keycloak.file(&unpacked), keycloak.home())
            .map_err(io(format!("renaming the folder {unpacked} of {}", archive.display())))?;
        let mut realm = REALM.to_owned();
        for (placeholder, value) in [
            ("PUBLIC_URL", public_url),
            ("PROVIDER", id),
            ("CLIENT_ID", CLIENT_ID),
            ("CLIENT_SECRET", keycloak.client_secret()),
            ("PASSWORD_OF_MEI", &password_of("mei")),
            ("PASSWORD_OF_TOM", &password_of("tom")),
        ] {
            realm = realm.replace(placeholder, value);
        }
        let pair = authority.serving(ServingCertificate::Valid)?;
        let import = keycloak.home().join("data/import");
        fs::create_dir_all(&import).map_err(io("creating Keycloak's import folder"))?;
        for (path, text) in [
            (import.join("realm.json"), &realm),
            (keycloak.file("ca.crt"), &authority.pem()),
            (keycloak.file("server.crt"), &pair.certificate),
            (keycloak.file("server.key"), &pair.key),
        ] {
            fs::write(&path, text).map_err(io(format!("writing {}", path.display())))?;
        }
        keycloak.start()?;
        Ok(keycloak)
    }

    /// As [`start_new`](Self::start_new), but if this machine cannot run Keycloak, prints a message and returns `None`,
    /// so that the test can be skipped. With `PILOTHOUSE_TEST_REQUIRE_IDENTITY` set, that is an error.
    pub fn start_or_skip(public_url: &str, id: &str) -> Result<Option<Self>> {
        or_skip(Self::start_new(public_url, id))
    }

    fn home(&self) -> PathBuf {
        self.file("keycloak")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends a request to the admin API, below the realm; returns the body of the response.
    async fn admin(&self, method: Method, path: &str) -> Result<Value> {
        let base = format!("https://127.0.0.1:{}", self.port.number());
        let form =
            format!("grant_type=password&client_id=admin-cli&username={ADMIN}&password={ADMIN_PASSWORD}");
        let token_path = "/realms/master/protocol/openid-connect/token";
        let request = self
            .client
            .post(format!("{base}{token_path}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let token = send(request, "POST", token_path).await?;
        let token = token["access_token"].as_str().unwrap_or_default();
        let path = format!("/admin/realms/{REALM_NAME}{path}");
        let request = self.client.request(method.clone(), format!("{base}{path}")).bearer_auth(token);
        send(request, method.as_str(), &path).await
    }

    /// The id of a user.
    async fn user_id(&self, user: &str) -> Result<String> {
        let users = self.admin(Method::GET, &format!("/users?username={user}&exact=true")).await?;
        id_in(&users, |_| true).ok_or_else(|| Error::Program(format!("Keycloak has no user {user}: {users}")))
    }
}

impl OidcServer for Keycloak {
    fn issuer(&self) -> String {
        format!("https://127.0.0.1:{}/realms/{REALM_NAME}", self.port.number())
    }

    fn ca_file(&self) -> PathBuf {
        self.file("ca.crt")
    }

    async fn end_sessions(&self, user: &str) -> Result<()> {
        let id = self.user_id(user).await?;
        self.admin(Method::POST, &format!("/users/{id}/logout")).await.map(drop)
    }

    async fn leave_group(&self, user: &str, group: &str) -> Result<()> {
        let id = self.user_id(user).await?;
        let groups = self.admin(Method::GET, &format!("/users/{id}/groups")).await?;
        let group = id_in(&groups, |row| row["name"] == group).ok_or_else(|| {
            Error::Program(format!("the user {user} is not in the group {group}: {groups}"))
        })?;
        self.admin(Method::DELETE, &format!("/users/{id}/groups/{group}")).await.map(drop)
    }

    async fn remove_user(&self, user: &str) -> Result<()> {
        let id = self.user_id(user).await?;
        self.admin(Method::DELETE, &format!("/users/{id}")).await.map(drop)
    }

    fn stop(&self) {
        self.process.stop();
    }

    fn start(&self) -> Result<()> {
        let (https, http) = (self.port.number(), self.port.next());
        let mut command = Command::new(self.home().join("bin/kc.sh"));
        command
            .args(["start-dev", "--import-realm", "--cache=local", "--db=dev-mem"])
            .args(["--features-disabled=impersonation", "--http-host=127.0.0.1"])
            .arg(format!("--hostname=https://127.0.0.1:{https}"))
            .arg(format!("--https-port={https}"))
            .arg(format!("--http-port={http}"))
            .arg(format!("--https-certificate-file={}", self.file("server.crt").display()))
            .arg(format!("--https-certificate-key-file={}", self.file("server.key").display()))
            .env("JAVA_OPTS_KC_HEAP", "-Xms64m -Xmx400m")
            .env("KC_BOOTSTRAP_ADMIN_USERNAME", ADMIN)
            .env("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN_PASSWORD)
            .current_dir(self.folder.path());
        self.process.start(&mut command, "Listening on:", START_TIMEOUT)
    }
}

/// The id of the first row that matches.
fn id_in(rows: &Value, matches: impl Fn(&Value) -> bool) -> Option<String> {
    rows.as_array()?.iter().find(|row| matches(row))?["id"].as_str().map(str::to_owned)
}

/// Sends a request that must succeed; returns the JSON body, or null for an empty one.
async fn send(request: reqwest::RequestBuilder, method: &str, path: &str) -> Result<Value> {
    let (method, path) = (method.to_owned(), path.to_owned());
    let result = async {
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    };
    match result.await {
        Ok((status, text)) if status.is_success() => Ok(serde_json::from_str(&text).unwrap_or_default()),
        Ok((status, message)) => Err(Error::Status { method, path, code: status.as_u16(), message }),
        Err(source) => Err(Error::NoAnswer { method, path, source }),
    }
}
