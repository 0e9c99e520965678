//! Operator: the operating-system user that runs a command.

/// Name of the operating-system user that runs the command, for the audit trail. Looked up by the process's uid, not in
/// environment variables.
pub(crate) fn operator() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.get(2) == Some(&uid.as_str()));
    user.and_then(|fields| fields.first().copied()).map_or(format!("uid-{uid}"), str::to_owned)
}
