//! Commands `pilothouse grant …`: grants without signing in, with access to the database and the master key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pilothouse_core::{
    Error,
    access::Caller,
    app::App,
    clock::parse_timestamp,
    error::Reason,
    gate::Warning,
    grant::{GrantRecord, GrantRow, SubjectRow},
    ids::{ClusterId, GrantId},
    namespaces::NamespacePattern,
    rights::{ClusterScope, DerivedPower, LabelTerms, Reach, RoleName, Subject},
    user::Username,
};

use crate::{Fatal, compose, operator::operator, settings::Settings};

/// Subcommands of `pilothouse grant`.
#[derive(clap::Subcommand)]
pub(crate) enum GrantCommand {
    /// Make a grant
    Add {
        /// A username, group:PROVIDER:NAME, or sa:SERVICE-ACCOUNT
        subject: String,
        /// viewer, operator, editor, admin or an own role
        #[arg(long)]
        role: String,
        /// all; ids, such as 1,2; or label terms, such as "environment in (dev,staging)"
        #[arg(long)]
        clusters: String,
        /// Names, prefix-* or *, separated by commas
        #[arg(long, value_delimiter = ',', required_unless_present = "whole_cluster")]
        namespaces: Vec<String>,
        /// All namespaces and what has no namespace, instead of --namespaces
        #[arg(long, conflicts_with = "namespaces")]
        whole_cluster: bool,
        /// Start of the grant, as 2026-12-24T18:00:00Z; without it, now
        #[arg(long)]
        from: Option<String>,
        /// End of the grant, as 2026-12-31T18:00:00Z; without it, until the grant is revoked
        #[arg(long)]
        until: Option<String>,
        /// Why the rights are given, 5 to 500 characters
        #[arg(long)]
        reason: Option<String>,
    },
    /// List the grants that have not ended
    List,
    /// Revoke a grant
    Revoke {
        /// The id of the grant
        id: i64,
        /// Why, 5 to 500 characters
        #[arg(long)]
        reason: Option<String>,
    },
}

/// Runs a grant command.
pub(crate) async fn grant(settings: Settings, command: GrantCommand) -> Result<(), Fatal> {
    let app = compose::for_commands(&settings).await?.app;
    let caller = Caller::command_line(&operator());
    match command {
        GrantCommand::Add { subject, role, clusters, namespaces, whole_cluster, from, until, reason } => {
            let record = GrantRecord {
                subject: parse_subject(&app, &subject).await?,
                role: RoleName::new(role).map_err(|reason| invalid("role", reason))?,
                clusters: parse_clusters(&clusters)?,
                reach: if whole_cluster { Reach::Cluster } else { parse_namespaces(&namespaces)? },
                from: parse_time("from", from)?,
                until: parse_time("until", until)?,
                reason,
            };
            let made = app.grants.create(&caller, record).await?;
            println!("made grant {}", made.value.id);
            for warning in made.warnings {
                println!("warning: {}", warning_text(&warning));
            }
        }
        GrantCommand::List => {
            let users = app.users.all(&caller).await?.into_iter();
            let names: BTreeMap<_, _> = users.map(|user| (user.id.0, user.username.to_string())).collect();
            println!(
                "{:<6} {:<24} {:<12} {:<24} {:<24} until",
                "id", "subject", "role", "clusters", "namespaces"
            );
            for grant in app.grants.live(&caller).await? {
                println!("{}", line(&grant, &names));
            }
        }
        GrantCommand::Revoke { id, reason } => {
            let grant = app.grants.revoke(&caller, GrantId(id), reason).await?;
            println!("revoked grant {}", grant.id);
        }
    }
    Ok(())
}

fn invalid(field: &str, reason: Reason) -> Error {
    Error::invalid(field, reason)
}

fn parse_time(field: &str, text: Option<String>) -> Result<Option<Timestamp>, Error> {
    text.map(|text| parse_timestamp(&text).map_err(|reason| invalid(field, reason))).transpose()
}

async fn parse_subject(app: &App, text: &str) -> Result<Subject, Error> {
    if text.starts_with("group:") {
        return Subject::parse(text).map_err(|reason| invalid("subject", reason));
    }
    if let Some(account) = text.strip_prefix("sa:") {
        return Ok(Subject::ServiceAccount(app.service_accounts.find(account).await?.id));
    }
    let name = Username::stored(text).map_err(|reason| invalid("subject", reason))?;
    Ok(Subject::User(app.users.find(&name).await?.id))
}

/// Parses the flag `--clusters`.
pub(crate) fn parse_clusters(text: &str) -> Result<ClusterScope, Error> {
    let refused = |reason| invalid("clusters", reason);
    if text == "all" {
        Ok(ClusterScope::All)
    } else if text.contains(['=', '(']) {
        LabelTerms::parse(text).map(ClusterScope::Labels).map_err(refused)
    } else {
        let id = |text: &str| {
            let id = text.trim().parse::<i64>().ok().filter(|id| *id >= 1);
            id.map(ClusterId).ok_or_else(|| refused(Reason::Malformed))
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(ClusterScope::Ids)
    }
}

/// Parses the flag `--namespaces`.
pub(crate) fn parse_namespaces(texts: &[String]) -> Result<Reach, Error> {
    let refused = |reason| invalid("namespaces", reason);
    let patterns = texts.iter().map(|text| NamespacePattern::parse(text.trim()));
    let patterns = patterns.collect::<Result<Vec<_>, _>>().map_err(refused)?;
    Reach::try_from(patterns).map_err(refused)
}

/// The text of a warning; grants have only those of derived power.
fn warning_text(warning: &Warning) -> &'static str {
    match warning {
        Warning::DerivedPower(DerivedPower::SecretsThroughPods) => {
            "it also reaches the Secrets and service accounts of its namespaces, through pods"
        }
        Warning::DerivedPower(DerivedPower::ClusterAdmin) => "it is as good as full control of its clusters",
        other => other.as_str(),
    }
}

/// A line of the list. `names` has the names of users by id.
fn line(grant: &GrantRow, names: &BTreeMap<i64, String>) -> String {
    let SubjectRow { kind, id, provider, name } = &grant.subject;
    let subject = match (id, provider, name) {
        (Some(id), ..) if *kind == "user" => names.get(id).cloned().unwrap_or_else(|| format!("user:{id}")),
        (Some(id), ..) => format!("{kind}:{id}"),
        (None, Some(provider), Some(name)) => format!("{kind}:{provider}:{name}"),
        (None, ..) => (*kind).to_owned(),
    };
    let clusters = match &grant.clusters {
        ClusterScope::All => "all".to_owned(),
        ClusterScope::Ids(ids) => joined(ids.iter()),
        ClusterScope::Labels(terms) => terms.to_string(),
    };
    let namespaces = match &grant.namespaces {
        Reach::Cluster => "(whole cluster)".to_owned(),
        Reach::Namespaces(set) => joined(set.patterns().iter()),
    };
    let until = grant.until.map_or_else(|| "-".to_owned(), |until| until.to_string());
    format!(
        "{:<6} {subject:<24} {:<12} {clusters:<24} {namespaces:<24} {until}",
        grant.id.0,
        grant.role.as_str()
    )
}

/// The items, separated by commas.
pub(crate) fn joined(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_all_or_ids_or_label_terms() {
        let printed = |text| parse_clusters(text).map(|scope| serde_json::to_string(&scope).unwrap());
        let cases = [
            ("all", r#"{"all":true}"#),
            ("2, 1", r#"{"ids":[1,2]}"#),
            (
                "environment in (dev,staging),team=shop",
                r#"{"labels":"environment in (dev,staging),team=shop"}"#,
            ),
        ];
        for (text, json) in cases {
            assert_eq!(printed(text).unwrap(), json);
        }
        for text in ["", "dev", "1,,2", "1;2", "0", "environment!=dev"] {
            assert_eq!(printed(text).unwrap_err().context.fields[0].name, "clusters", "{text:?}");
        }
    }

    #[test]
    fn namespaces_are_patterns() {
        let patterns = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            parse_namespaces(&texts).map(|reach| serde_json::to_string(&reach).unwrap())
        };
        assert_eq!(patterns(&["shop-*", "bank"]).unwrap(), r#"["bank","shop-*"]"#);
        assert!(patterns(&["shop*"]).is_err() && patterns(&[""]).is_err() && patterns(&[]).is_err());
    }
}
