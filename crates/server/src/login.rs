//! Command `pilothouse login`: signs in to a server and keeps the session, or an API token, in a private file.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Fatal,
    api_client::{ApiClient, ApiError},
    durable::{private_directory, write_private},
};

/// Path of the file below the home directory.
const FILE: &str = ".config/pilothouse/login.json";

/// Server without `--server`, if no login is stored.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Arguments of `pilothouse login`.
#[derive(clap::Args)]
pub(crate) struct LoginArguments {
    /// URL of the server [default: that of the last login, or http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Certificate authorities of the server, a PEM file [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Sign in with the password of this LDAP directory, by its id
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Read an API token from standard input, instead of signing in with a password
    #[arg(long, conflicts_with = "provider")]
    token: bool,
}

/// The part of the file that the next login uses.
#[derive(Deserialize)]
struct LastLogin {
    server: String,
    ca_file: Option<PathBuf>,
}

/// The session in the response of a login.
#[derive(Deserialize)]
struct SignedIn {
    access_token: SecretString,
    refresh_token: SecretString,
    session_id: SecretString,
    user: SignedInUser,
}

#[derive(Deserialize)]
struct SignedInUser {
    username: String,
}

/// Signs in, or checks a token, and writes the file.
pub(crate) async fn login(arguments: LoginArguments) -> Result<(), Fatal> {
    let LoginArguments { server, ca_file, provider, token } = arguments;
    let file = file()?;
    let (server, ca_file) = match (server, last_login(&file)) {
        (Some(server), _) => (server, ca_file),
        (None, Some(last)) => (last.server, ca_file.or(last.ca_file)),
        (None, None) => (DEFAULT_SERVER.to_owned(), ca_file),
    };
    // the file is read from another directory later
    let ca_file = ca_file.map(std::path::absolute).transpose().map_err(|error| {
        Fatal::Setting(format!("cannot use the path of --ca-file ({error}): write an absolute path"))
    })?;
    let api = ApiClient::new(&server, ca_file.as_deref())?;
    let mut stored =
        json!({ "server": api.server(), "ca_file": ca_file.as_deref().map(Path::to_string_lossy) });
    let message = if token {
        let token = ask_secret("token: ")?;
        let _: Value = api.get("/api/auth/me", &token).await?;
        stored["token"] = token.expose_secret().into();
        format!("{} accepts the token", api.server())
    } else {
        let signed_in = sign_in(&api, provider).await?;
        stored["session"] = json!({
            "access_token": signed_in.access_token.expose_secret(),
            "refresh_token": signed_in.refresh_token.expose_secret(),
            "session_id": signed_in.session_id.expose_secret(),
        });
        format!("signed in to {} as {}", api.server(), signed_in.user.username)
    };
    store(&file, &stored).map_err(|error| Fatal::unusable(&file, &error))?;
    println!("{message}; the credentials are in {}", file.display());
    Ok(())
}

/// Asks for name and password, and for a code if the server requires one.
async fn sign_in(api: &ApiClient, provider: Option<String>) -> Result<SignedIn, Fatal> {
    let username = ask("username: ")?;
    let password = ask_secret("password: ")?;
    let mut body = json!({ "username": username, "password": password.expose_secret() });
    if let Some(provider) = provider {
        body["provider"] = provider.into();
    }
    match api.post("/api/auth/login", &body).await {
        Err(ApiError::Refused { cause, .. }) if cause == "second_factor_required" => {
            body["code"] =
                ask_secret("code of the second factor, or a recovery code: ")?.expose_secret().into();
            Ok(api.post("/api/auth/login", &body).await?)
        }
        answer => Ok(answer?),
    }
}

fn file() -> Result<PathBuf, Fatal> {
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let home = home
        .ok_or_else(|| Fatal::Setting("there is no home directory: set HOME to an absolute path".into()))?;
    Ok(home.join(FILE))
}

/// The last login; `None` without a file that has one.
fn last_login(file: &Path) -> Option<LastLogin> {
    let text = Zeroizing::new(fs::read(file).ok()?);
    serde_json::from_slice(&text).ok()
}

fn store(file: &Path, value: &Value) -> io::Result<()> {
    private_directory(file.parent().unwrap_or(Path::new(".")))?;
    let text = Zeroizing::new(format!("{value:#}\n"));
    write_private(file, text.as_bytes())
}

/// Reads a line from standard input. The prompt is on standard error.
fn ask(prompt: &str) -> Result<String, Fatal> {
    let mut line = String::new();
    let prompted = write!(io::stderr(), "{prompt}").and_then(|()| io::stdin().lock().read_line(&mut line));
    let length = prompted.map_err(|error| {
        Fatal::Setting(format!(
            "cannot read from standard input ({error}): answer the questions there, one line each"
        ))
    })?;
    if length == 0 {
        return Err(Fatal::Setting(format!(
            "standard input ended before an answer to `{}`: answer the questions there, one line each",
            prompt.trim_end_matches([':', ' '])
        )));
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

/// As [`ask`], but a terminal does not show what is typed.
fn ask_secret(prompt: &str) -> Result<SecretString, Fatal> {
    let hidden = HiddenInput::start();
    let line = ask(prompt)?;
    if hidden.is_some() {
        eprintln!();
    }
    Ok(line.into())
}

/// A terminal on standard input that shows nothing that is typed. Dropping it restores the terminal.
struct HiddenInput(Termios);

impl HiddenInput {
    /// `None` if standard input is no terminal.
    fn start() -> Option<Self> {
        let shown = tcgetattr(io::stdin()).ok()?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).ok()?;
        Some(Self(shown))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
