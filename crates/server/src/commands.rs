//! Commands `pilothouse user …`: user management without signing in, with access to the database and the master key.

use std::io::{self, BufRead};

use pilothouse_core::{
    Error,
    access::Caller,
    app::App,
    role::Role,
    user::{NewPassword, NewUser, User, UserPatch, Username},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{Fatal, compose, operator::operator, settings::Settings};

/// Subcommands of `pilothouse user`.
#[derive(clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user; generates and prints a password unless --password-stdin is given
    Add {
        /// The name to sign in with
        username: String,
        /// none, viewer, ops_admin or super_admin
        #[arg(long)]
        role: String,
        /// The name to show
        #[arg(long)]
        display_name: Option<String>,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// List all users
    List,
    /// Set a user's password and end the user's sessions; generates and prints it unless --password-stdin is given
    ResetPassword {
        /// The name of the user
        username: String,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user's second factor, after a loss of it, and end the user's sessions
    ResetSecondFactor {
        /// The name of the user
        username: String,
    },
    /// Disable a user: no sign-in, and the user's sessions end
    Disable {
        /// The name of the user
        username: String,
    },
}

/// Runs a user command.
pub(crate) async fn user(settings: Settings, command: UserCommand) -> Result<(), Fatal> {
    let app = compose::for_commands(&settings).await?.app;
    let caller = Caller::command_line(&operator());
    match command {
        UserCommand::Add { username, role, display_name, password_stdin } => {
            let role = Role::parse(&role).ok_or_else(|| {
                Fatal::Setting(format!("`{role}` is not a role; use none, viewer, ops_admin or super_admin"))
            })?;
            let password = Password::read_or_generate(password_stdin)?;
            let user =
                NewUser { username: name(&username)?, password: password.value.clone(), role, display_name };
            let user = app.users.create(&caller, user).await?;
            println!("added {} ({})", user.username, user.role.as_str());
            password.print_if_generated();
        }
        UserCommand::List => {
            println!("{:<6} {:<24} {:<12} {:<9} last login", "id", "username", "role", "disabled");
            for user in app.users.all(&caller).await? {
                println!("{}", line(&user));
            }
        }
        UserCommand::ResetPassword { username, password_stdin } => {
            let user = find(&app, &username).await?;
            let password = Password::read_or_generate(password_stdin)?;
            app.users.reset_password(&caller, user.id, password.value.clone()).await?;
            println!("set the password of {}", user.username);
            password.print_if_generated();
        }
        UserCommand::ResetSecondFactor { username } => {
            let user = find(&app, &username).await?;
            app.second_factors.reset(&caller, user.id).await?;
            println!("removed the second factor of {}", user.username);
        }
        UserCommand::Disable { username } => {
            let user = find(&app, &username).await?;
            let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
            app.users.update(&caller, user.id, patch).await?;
            println!("disabled {}", user.username);
        }
    }
    Ok(())
}

fn name(text: &str) -> Result<Username, Error> {
    Username::new(text).map_err(|reason| Error::invalid("username", reason))
}

/// The user with this name: local, or `<provider>:<name>`.
pub(crate) async fn find(app: &App, username: &str) -> Result<User, Error> {
    let name = Username::stored(username).map_err(|reason| Error::invalid("username", reason))?;
    app.users.find(&name).await
}

fn line(user: &User) -> String {
    let last = user.last_login_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
    let disabled = if user.disabled { "yes" } else { "no" };
    format!(
        "{:<6} {:<24} {:<12} {:<9} {last}",
        user.id.0,
        user.username.as_str(),
        user.role.as_str(),
        disabled
    )
}

/// A password read from standard input, or a generated one that is printed.
struct Password {
    value: NewPassword,
    random: bool,
}

impl Password {
    fn read_or_generate(from_stdin: bool) -> Result<Self, Fatal> {
        if !from_stdin {
            return Ok(Self { value: NewPassword::random(&pilothouse_crypto::SystemRng), random: true });
        }
        let mut text = String::new();
        io::stdin().lock().read_line(&mut text).map_err(|error| {
            Fatal::Setting(format!("cannot read the password from standard input: {error}"))
        })?;
        let password = SecretString::from(text.trim_end_matches(['\r', '\n']));
        let value = NewPassword::new(&password).map_err(|reason| Error::invalid("password", reason))?;
        Ok(Self { value, random: false })
    }

    fn print_if_generated(&self) {
        if self.random {
            println!("password: {}", self.value.secret().expose_secret());
        }
    }
}
