//! Commands `pilothouse token …`: API tokens without signing in, with access to the database and the master key.

use pilothouse_core::{
    Error,
    access::{Caller, Principal},
    app::App,
    error::Reason,
    ids::TokenId,
    rights::{Ceiling, ClusterScope, Reach, RoleName},
    token::{Networks, NewToken, TokenRow},
};
use secrecy::ExposeSecret;

use crate::{
    Fatal, commands, compose,
    grants::{joined, parse_clusters, parse_namespaces},
    operator::operator,
    settings::Settings,
};

/// Subcommands of `pilothouse token`.
#[derive(clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, once
    Create {
        /// A name by which its owner recognises it
        name: String,
        /// The user whose rights it has
        #[arg(long, required_unless_present = "service_account", conflicts_with = "service_account")]
        user: Option<String>,
        /// The service account whose rights it has
        #[arg(long)]
        service_account: Option<String>,
        /// Days until it expires, 1 to 365
        #[arg(long, value_name = "DAYS", default_value_t = NewToken::DEFAULT_DAYS)]
        expires_in_days: u32,
        /// No more rights than this role has: viewer, operator, editor, admin or an own role
        #[arg(long)]
        role: Option<String>,
        /// Only these clusters: ids, such as 1,2; or label terms, such as "environment in (dev,staging)"
        #[arg(long)]
        clusters: Option<String>,
        /// Only these namespaces: names, prefix-* or *, separated by commas
        #[arg(long, value_delimiter = ',')]
        namespaces: Vec<String>,
        /// Only from these networks, such as 10.0.0.0/8, separated by commas
        #[arg(long, value_delimiter = ',')]
        networks: Vec<String>,
    },
    /// List the tokens that are not revoked
    List,
    /// Revoke a token
    Revoke {
        /// The id of the token
        id: i64,
    },
}

/// Runs a token command.
pub(crate) async fn token(settings: Settings, command: TokenCommand) -> Result<(), Fatal> {
    let app = compose::for_commands(&settings).await?.app;
    let caller = Caller::command_line(&operator());
    match command {
        TokenCommand::Create {
            name,
            user,
            service_account,
            expires_in_days,
            role,
            clusters,
            namespaces,
            networks,
        } => {
            let ceiling = parse_ceiling(role, clusters.as_deref(), &namespaces)?;
            let networks = Networks::parse(&networks).map_err(|reason| invalid("networks", reason))?;
            let owner = owner(&app, user, service_account).await?;
            let new = NewToken {
                name,
                expires_in_days: Some(expires_in_days),
                ceiling,
                networks,
                owner: Some(owner),
            };
            let created = app.tokens.create(&caller, new).await?;
            println!("made token {}, which expires at {}", created.token.id, created.token.expires_at);
            println!("token: {}", created.secret.secret().expose_secret());
        }
        TokenCommand::List => {
            println!(
                "{:<6} {:<24} {:<10} {:<24} {:<12} {:<24} {:<24} {:<20} {:<20} last use",
                "id", "name", "prefix", "owner", "role", "clusters", "namespaces", "networks", "expires"
            );
            for token in app.tokens.all(&caller).await? {
                println!("{}", line(&token));
            }
        }
        TokenCommand::Revoke { id } => {
            app.tokens.revoke(&caller, TokenId(id)).await?;
            println!("revoked token {id}");
        }
    }
    Ok(())
}

fn invalid(field: &str, reason: Reason) -> Error {
    Error::invalid(field, reason)
}

/// The ceiling of these flags. A flag that is left out does not narrow the ceiling.
fn parse_ceiling(
    role: Option<String>,
    clusters: Option<&str>,
    namespaces: &[String],
) -> Result<Ceiling, Error> {
    let reach = if namespaces.is_empty() { Reach::Cluster } else { parse_namespaces(namespaces)? };
    Ok(Ceiling {
        role: role.map(RoleName::new).transpose().map_err(|reason| invalid("role", reason))?,
        clusters: clusters.map_or(Ok(ClusterScope::All), parse_clusters)?,
        reach,
    })
}

/// The owner of a new token. The command line has exactly one of the names.
async fn owner(app: &App, user: Option<String>, service_account: Option<String>) -> Result<Principal, Fatal> {
    if let Some(user) = user {
        return Ok(Principal::User(commands::find(app, &user).await?.id));
    }
    let account = app.service_accounts.find(&service_account.unwrap_or_default()).await?;
    Ok(Principal::ServiceAccount(account.id))
}

/// A line of the list.
fn line(token: &TokenRow) -> String {
    let owner = match token.owner.kind {
        "service_account" => format!("sa:{}", token.owner.name),
        _ => token.owner.name.clone(),
    };
    let Ceiling { role, clusters, reach } = &token.ceiling;
    let role = role.as_ref().map_or("-", RoleName::as_str);
    let clusters = match clusters {
        ClusterScope::All => "all".to_owned(),
        ClusterScope::Ids(ids) => joined(ids.iter()),
        ClusterScope::Labels(terms) => terms.to_string(),
    };
    let namespaces = match reach {
        Reach::Cluster => "-".to_owned(),
        Reach::Namespaces(set) => joined(set.patterns().iter()),
    };
    let networks = match token.networks.to_string() {
        all if all.is_empty() => "all".to_owned(),
        some => some,
    };
    let last_use = token.last_used_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
    format!(
        "{:<6} {:<24} {:<10} {owner:<24} {role:<12} {clusters:<24} {namespaces:<24} {networks:<20} {:<20} {last_use}",
        token.id.0,
        token.name,
        token.prefix,
        token.expires_at.to_string()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_are_left_out_do_not_narrow_the_ceiling() {
        assert_eq!(parse_ceiling(None, None, &[]).unwrap(), Ceiling::default());
        let ceiling = parse_ceiling(Some("viewer".to_owned()), Some("2,1"), &["shop-*".to_owned()]).unwrap();
        let json = r#"{"role":"viewer","clusters":{"ids":[1,2]},"namespaces":["shop-*"]}"#;
        assert_eq!(serde_json::to_string(&ceiling).unwrap(), json);
        for (role, clusters, namespaces, field) in [
            (Some("A"), None, "a", "role"),
            (None, Some("x!=y"), "a", "clusters"),
            (None, None, "shop*", "namespaces"),
        ] {
            let refused = parse_ceiling(role.map(str::to_owned), clusters, &[namespaces.to_owned()]);
            assert_eq!(refused.unwrap_err().context.fields[0].name, field);
        }
    }
}
