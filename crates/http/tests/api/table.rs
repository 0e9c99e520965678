//! Parser and writer of `access.txt`, the table of the status of every route for every caller.

use std::{collections::BTreeSet, time::Duration};

use pilothouse_core::{access::Caller, ids::SessionId};

use crate::test_app::{Credentials, TestApp};

/// The callers, in the order of the columns.
pub(crate) const CALLERS: [&str; 9] =
    ["anonymous", "bearer", "cookie", "expired", "revoked", "mixed", "viewer", "ops", "super"];

/// A line of the file: the status of each caller for one input, and the name of its audit rows.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) statuses: Vec<u16>,
    /// `operation_type/resource_type` of its audit rows; `-` for none.
    pub(crate) recorded: String,
    /// The query of a GET or the JSON body of a POST, with placeholders such as `{cluster}`.
    pub(crate) input: String,
}

impl Line {
    /// Parses a line; a new line may omit the statuses.
    fn parse(text: &str) -> Self {
        let mut fields = text.split_whitespace().peekable();
        let mut field = || fields.next().unwrap().to_owned();
        let (method, path) = (field(), field());
        let mut statuses = Vec::new();
        while let Some(status) = fields.peek().and_then(|field| field.parse().ok()) {
            statuses.push(status);
            fields.next();
        }
        let is_record = |field: &str| field == "-" || (field.contains('/') && !field.contains(['=', '"']));
        let recorded = fields.next_if(|field| is_record(field)).unwrap_or_default().to_owned();
        Self { method, path, statuses, recorded, input: fields.collect::<Vec<_>>().join(" ") }
    }

    /// Formats the line as in the file.
    pub(crate) fn write(&self) -> String {
        let Self { method, path, statuses, recorded, input } = self;
        let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
        format!("{method:<4} {path:<36} {} {recorded:<22} {input}", statuses.join(" ")).trim_end().to_owned()
    }

    /// The status of a caller.
    pub(crate) fn status(&self, caller: &str) -> u16 {
        self.statuses[CALLERS.iter().position(|name| *name == caller).unwrap()]
    }

    /// The input with its placeholders replaced.
    pub(crate) async fn input(&self, api: &TestApp, own: &str, refresh: &str) -> String {
        let mut input = self.input.replace("{cluster}", &api.cluster.to_string());
        for (placeholder, user) in [("{user}", "target"), ("{own user}", own)] {
            input = input.replace(placeholder, &api.user(user).await.to_string());
        }
        for (placeholder, user) in [("{session}", "target"), ("{own}", own)] {
            if input.contains(placeholder) {
                // an ended session has no known id; its owner is refused before the id is used
                let session = api.session(user).await.unwrap_or(i64::MAX);
                input = input.replace(placeholder, &session.to_string());
            }
        }
        if input.contains("{role}") {
            input = input.replace("{role}", api.own_role().await);
        }
        if input.contains("{grant}") {
            input = input.replace("{grant}", &api.grant("target").await.to_string());
        }
        for (placeholder, user) in [("{request}", "target"), ("{own request}", own)] {
            if input.contains(placeholder) {
                input = input.replace(placeholder, &api.access_request(user).await.to_string());
            }
        }
        if input.contains("{token}") {
            input = input.replace("{token}", &api.token("target").await.to_string());
        }
        if input.contains("{account}") {
            input = input.replace("{account}", &api.service_account("target").await.to_string());
        }
        if input.contains("{enrolled}") {
            input = input.replace("{enrolled}", &api.enrolled("target").await.to_string());
        }
        input.replace("{refresh}", refresh).replace("{absent}", "999999")
    }
}

const FILE: &str = include_str!("access.txt");

fn is_line(text: &&str) -> bool {
    !text.starts_with('#') && !text.is_empty()
}

/// All lines.
pub(crate) fn lines() -> Vec<Line> {
    FILE.lines().filter(is_line).map(Line::parse).collect()
}

/// Routes that succeed only with a second factor, which no caller of the table has. `second_factors.rs` tests them.
pub(crate) const WITH_FACTOR: [&str; 5] = [
    "/api/access/break-glass",
    "/api/access/break-glass/review",
    "/api/auth/totp/confirm",
    "/api/auth/totp/disable",
    "/api/auth/totp/verify",
];

/// The lines of a route that succeed for a super admin, as valid inputs. For routes of [`WITH_FACTOR`] all lines.
pub(crate) fn good_inputs(method: &str, path: &str) -> Vec<Line> {
    let of_route = lines().into_iter().filter(|line| line.method == method && line.path == path);
    let (good, others): (Vec<_>, Vec<_>) = of_route.partition(|line| line.status("super") == 200);
    if !good.is_empty() {
        return good;
    }
    assert!(WITH_FACTOR.contains(&path), "{method} {path} has no line that succeeds for a super admin");
    others
}

/// Compares the file with the actual statuses. `UPDATE=1` rewrites the file instead; review the difference.
#[allow(clippy::disallowed_methods, reason = "UPDATE is set by hand for a test run")]
pub(crate) fn compare(real: &[Line]) {
    let mut rest = real.iter();
    let current: Vec<_> = FILE
        .lines()
        .map(|text| if is_line(&text) { rest.next().unwrap().write() } else { text.to_owned() })
        .collect();
    if std::env::var_os("UPDATE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/access.txt");
        std::fs::write(file, current.join("\n") + "\n").unwrap();
        return;
    }
    let written: BTreeSet<_> = FILE.lines().map(str::trim_end).collect();
    let differing: Vec<_> = current.iter().filter(|line| !written.contains(line.as_str())).collect();
    assert!(differing.is_empty(), "access.txt differs; UPDATE=1 rewrites it:\n{differing:#?}");
}

/// The credentials of a caller, and the refresh token of the session of its cookie, even if the cookie is not sent.
pub(crate) async fn credentials(api: &TestApp, caller: &str) -> (Credentials, String) {
    let user = if ["viewer", "ops"].contains(&caller) { caller } else { "super" };
    let signed_in = api.login(user).await;
    let Credentials { bearer, cookie } = signed_in.credentials;
    let credentials = match caller {
        "anonymous" => Credentials::default(),
        "bearer" => Credentials { bearer, cookie: None },
        "cookie" => Credentials { bearer: None, cookie },
        "expired" => {
            api.advance(Duration::from_secs(11 * 60));
            Credentials { bearer, cookie }
        }
        "revoked" => {
            let session = SessionId(api.session(user).await.unwrap());
            api.app.sessions.revoke(&Caller::system(), session).await.unwrap();
            Credentials { bearer, cookie }
        }
        "mixed" => Credentials { bearer: api.login(user).await.credentials.bearer, cookie },
        _ => Credentials { bearer, cookie },
    };
    (credentials, signed_in.refresh)
}

/// The username of a caller.
pub(crate) fn username_of(caller: &str) -> &str {
    if ["viewer", "ops"].contains(&caller) { caller } else { "super" }
}
